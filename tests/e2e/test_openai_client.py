"""OpenAI's own Python client, unchanged, with a real model."""
import json
import socket
import time

import openai
import pydantic
import pytest

from conftest import MODEL, few

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"model": MODEL, "temperature": 0, "seed": 1, "max_tokens": few(24)}


@pytest.fixture
def client(bridge):
    with openai.OpenAI(base_url=bridge.url + "/v1", api_key="none", max_retries=0, timeout=600) as c:
        yield c


def test_a_chat_streams_what_it_also_returns_whole(client):
    # Twice first: what is cached of a prompt changes the sizes of the steps, and with them how sums round.
    for _ in range(2):
        whole = client.chat.completions.create(messages=CAPITAL, **GREEDY)
    *pieces, last = client.chat.completions.create(messages=CAPITAL, stream=True, stream_options={"include_usage": True},
                                                   **GREEDY)
    text = "".join(p.choices[0].delta.content or "" for p in pieces)
    assert text and text == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage and 0 < whole.usage.completion_tokens <= few(24)


def test_a_chat_is_ollamas_chat(client, bridge):
    ask = {"model": MODEL, "messages": CAPITAL, "_debug_render_only": True}
    prompts = [bridge.json("POST", path, {**ask, "stream": False})[1]["_debug_info"]["rendered_template"]
               for path in ("/api/chat", "/v1/chat/completions")]
    assert prompts[0] == prompts[1]
    assert client.chat.completions.create(messages=CAPITAL, **GREEDY).choices[0].message.content


def test_a_schema_is_kept_by_a_model_that_was_not_made_for_it(client):
    class City(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=20)
        large: bool

    for seed in range(3):
        parsed = client.chat.completions.parse(model=MODEL, messages=CAPITAL, response_format=City, seed=seed,
                                               max_tokens=few(300)).choices[0]
        assert isinstance(parsed.message.parsed, City)


def test_several_answers_in_one_request(client):
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, n=3, seed=3, max_tokens=few(12))
    assert [c.index for c in answer.choices] == [0, 1, 2] and all(c.message.content for c in answer.choices)
    assert len({c.message.content for c in answer.choices}) > 1


def test_logprobs_are_of_the_text(client):
    answer = client.chat.completions.create(messages=CAPITAL, logprobs=True, top_logprobs=2, **GREEDY).choices[0]
    content = answer.logprobs.content
    assert b"".join(bytes(p.bytes) for p in content).decode() == answer.message.content
    assert all(p.logprob <= 0 and p.top_logprobs[0].token == p.token for p in content)  # greedy: the best one


def test_completions_and_models(client):
    answer = client.completions.create(prompt="Count to five.", echo=True, **GREEDY)
    assert answer.choices[0].text.startswith("Count to five.") and answer.usage.completion_tokens > 0
    assert [m.id for m in client.models.list()] == [MODEL] and client.models.retrieve(MODEL).id == MODEL


def test_tools_are_refused_by_a_model_without_them(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        client.chat.completions.create(messages=CAPITAL, tools=[tool], **GREEDY)
    assert client.chat.completions.create(messages=CAPITAL, tools=[tool], tool_choice="none", **GREEDY).choices


def test_errors(client):
    with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found"):
        client.chat.completions.create(model="nosuch", messages=CAPITAL)
    with pytest.raises(openai.BadRequestError, match="temperature must be between 0 and 2"):
        client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=9)


def wait_idle(bridge):
    for _ in range(3000):
        health = bridge.json("GET", "/health")[1]
        if health["running"] == 0 and health["waiting"] == 0:
            return health
        time.sleep(0.1)
    raise AssertionError(f"never idle: {health}")


def test_who_leaves_a_stream_frees_all_its_places(client, bridge):
    before = wait_idle(bridge)["cancelled"]
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a very long story."}], "temperature": 1.5}
    with client.chat.completions.create(n=2, stream=True, **ask) as stream:
        next(iter(stream))
    assert wait_idle(bridge)["cancelled"] > before
    data = json.dumps({**ask, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=600) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert wait_idle(bridge)["cancelled"] > before + 1
