"""The real Python client of OpenAI against the bridge."""
import asyncio
import json
import signal
from typing import Literal

import openai
import pydantic
import pytest

from .bridge import Bridge

HELLO = "Hello world! Grün 🙂"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}}


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}}}


FLAG = tool("set_flag", on={"type": "boolean"})
COLOUR = tool("paint", colour={"enum": ["red", "green"]})


def connect(bridge, kind=openai.OpenAI):
    return kind(base_url=bridge.url + "/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture
def client(bridge):
    with connect(bridge) as c:
        yield c


# ---- chat


def test_chat_at_once(client):
    answer = client.chat.completions.create(model="tiny-hello", messages=HI)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == "tiny-hello"
    assert answer.created > 1_600_000_000 and answer.system_fingerprint == "fp_ollama"
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", HELLO)
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None and choice.logprobs is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 5


def test_chat_in_pieces(client):
    pieces = list(client.chat.completions.create(model="tiny-hello", messages=HI, stream=True))
    assert len({p.id for p in pieces}) == 1 and len({p.created for p in pieces}) == 1
    assert all(p.object == "chat.completion.chunk" and p.usage is None for p in pieces)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == HELLO
    assert [p.choices[0].delta.role for p in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
    assert [p.choices[0].finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert pieces[-1].choices[0].delta.content is None


def test_the_last_piece_counts_when_asked(client):
    whole = client.chat.completions.create(model="tiny-hello", messages=HI)
    *pieces, last = client.chat.completions.create(model="tiny-hello", messages=HI, stream=True,
                                                   stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == whole.usage
    assert all(p.usage is None for p in pieces)


def test_the_stream_helper_gathers_the_same(client):
    with client.chat.completions.stream(model="tiny-hello", messages=HI) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == HELLO and final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_limits_are_kept(client, limit):
    answer = client.chat.completions.create(model="tiny", messages=HI, **{limit: 7})
    assert answer.usage.completion_tokens == 7 and answer.choices[0].finish_reason == "length"
    *_, last = client.chat.completions.create(model="tiny", messages=HI, stream=True, **{limit: 3})
    assert last.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stop", [" wor", ["zzz", "ld!"]])
def test_stop_ends_the_answer(client, stop):
    answer = client.chat.completions.create(model="tiny-hello", messages=HI, stop=stop)
    assert answer.choices[0].message.content == ("Hello" if stop == " wor" else "Hello wor")
    assert answer.choices[0].finish_reason == "stop"


def test_seed_and_temperature(client):
    def say(**more):
        return client.chat.completions.create(model="tiny", messages=HI, max_tokens=40, **more).choices[0].message.content

    assert say(seed=11) == say(seed=11) != say(seed=12)
    assert say(seed=11, temperature=0) == say(seed=12, temperature=0)
    assert say(temperature=0, frequency_penalty=2, presence_penalty=2) != say(temperature=0)


def test_several_answers(client):
    answer = client.chat.completions.create(model="tiny", messages=HI, n=3, seed=5, max_tokens=30)
    texts = [c.message.content for c in answer.choices]
    assert [c.index for c in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert answer.usage.completion_tokens == 90
    alone = [client.chat.completions.create(model="tiny", messages=HI, seed=5 + i, max_tokens=30) for i in range(3)]
    assert texts == [a.choices[0].message.content for a in alone]
    assert answer.usage.prompt_tokens == alone[0].usage.prompt_tokens
    pieces = {0: "", 1: "", 2: ""}
    ends = []
    for p in client.chat.completions.create(model="tiny", messages=HI, n=3, seed=5, max_tokens=30, stream=True):
        for c in p.choices:
            pieces[c.index] += c.delta.content or ""
            ends += [c.index] if c.finish_reason else []
    assert list(pieces.values()) == texts and sorted(ends) == [0, 1, 2]


def test_logprobs(client):
    answer = client.chat.completions.create(model="tiny-hello", messages=HI, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert [p.token for p in content][:4] == ["Hello", " wor", "ld", "! "]
    assert all(p.logprob <= 0 and len(p.top_logprobs) == 3 for p in content)
    assert b"".join(bytes(p.bytes) for p in content).decode() == HELLO
    pieces = client.chat.completions.create(model="tiny-hello", messages=HI, logprobs=True, stream=True)
    streamed = [p for piece in pieces if piece.choices[0].logprobs for p in piece.choices[0].logprobs.content]
    assert [(p.token, p.top_logprobs) for p in streamed] == [(p.token, []) for p in content]


def test_thinking_is_apart(client):
    answer = client.chat.completions.create(model="tiny-think", messages=HI)
    message = answer.choices[0].message
    assert (message.reasoning, message.content) == ("hm, well", "Yes.")
    pieces = [p.choices[0].delta for p in client.chat.completions.create(model="tiny-think", messages=HI, stream=True)]
    assert "".join(getattr(d, "reasoning", None) or "" for d in pieces) == "hm, well"
    assert "".join(d.content or "" for d in pieces) == "Yes."
    off = client.chat.completions.create(model="tiny-think", messages=HI, reasoning_effort="none").choices[0].message
    assert "think" not in off.content and not hasattr(off, "reasoning")
    with pytest.raises(openai.BadRequestError, match='"tiny" does not support thinking'):
        client.chat.completions.create(model="tiny", messages=HI, reasoning_effort="high")


# ---- tools


def test_tools_come_back_as_calls_and_results_go_in(client):
    answer = client.chat.completions.create(model="tiny-tool", messages=HI, tools=[WEATHER], tool_choice="auto")
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    assert (call.type, call.function.name) == ("function", "get_weather") and call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 2}
    again = client.chat.completions.create(model="tiny-tool", tools=[WEATHER], messages=[
        *HI, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sun"}])
    assert again.choices[0].finish_reason == "tool_calls"


def test_tools_in_a_stream(client):
    pieces = list(client.chat.completions.create(model="tiny-tool", messages=HI, tools=[WEATHER], stream=True))
    (call,) = [c for p in pieces for c in p.choices[0].delta.tool_calls or []]
    assert (call.index, call.type, call.function.name) == (0, "function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 2}
    assert not any(p.choices[0].delta.content for p in pieces)
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(model="tiny-tool", messages=HI, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_tool_choice_none_hides_them(client, bridge):
    ask = {"model": "tiny-tool", "messages": HI, "tools": [WEATHER], "_debug_render_only": True}
    shown = bridge.json("POST", "/v1/chat/completions", ask)["_debug_info"]["rendered_template"]
    hidden = bridge.json("POST", "/v1/chat/completions", {**ask, "tool_choice": "none"})["_debug_info"]["rendered_template"]
    assert "get_weather" in shown and "get_weather" not in hidden
    answer = client.chat.completions.create(model="tiny-tool", messages=HI, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_tool_choice_makes_a_call(client, stream, seed):
    """The model would rather call get_weather; the grammar decides."""
    for choice, names in (("required", {"set_flag", "paint"}),
                          ({"type": "function", "function": {"name": "paint"}}, {"paint"})):
        ask = dict(model="tiny-tool", messages=HI, tools=[FLAG, COLOUR], tool_choice=choice, seed=seed, max_tokens=1000)
        if stream:
            with client.chat.completions.stream(**ask) as events:
                answer = events.get_final_completion()
        else:
            answer = client.chat.completions.create(**ask)
        (call,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls" and not answer.choices[0].message.content
        arguments = json.loads(call.function.arguments)
        assert call.function.name in names
        if call.function.name == "paint":
            assert arguments in ({"colour": "red"}, {"colour": "green"})
        else:
            assert arguments in ({"on": True}, {"on": False})


def test_a_call_that_is_cut_off_is_no_call(client):
    ask = dict(model="tiny-tool", messages=HI, tools=[FLAG], tool_choice="required", max_tokens=5,
               response_format={"type": "json_object"})
    choice = client.chat.completions.create(**ask).choices[0]
    assert choice.finish_reason == "length" and choice.message.tool_calls is None
    *_, last = client.chat.completions.create(stream=True, **ask)
    assert last.choices[0].finish_reason == "length"


def test_tool_choice_finds_definitions(client):
    class Leaf(pydantic.BaseModel):
        kind: Literal["oak", "elm"]

    class Tree(pydantic.BaseModel):
        leaf: Leaf

    answer = client.chat.completions.create(model="tiny-tool", messages=HI, tools=[openai.pydantic_function_tool(Tree)],
                                            tool_choice="required", seed=1, max_tokens=1000)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "Tree" and Tree.model_validate_json(call.function.arguments)


# ---- formats


def test_json_schema_is_kept(client):
    class Answer(pydantic.BaseModel):
        yes: bool
        colour: Literal["red", "green"]

    ask = dict(model="tiny", messages=HI, response_format=Answer, seed=3, max_tokens=1000)
    assert isinstance(client.chat.completions.parse(**ask).choices[0].message.parsed, Answer)
    with client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Answer)


def test_text_is_text(client):
    answer = client.chat.completions.create(model="tiny-hello", messages=HI, response_format={"type": "text"})
    assert answer.choices[0].message.content == HELLO


# ---- completions


def test_completions(client):
    answer = client.completions.create(model="tiny-hello", prompt="hi")
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (HELLO, "stop")
    pieces = list(client.completions.create(model="tiny-hello", prompt="hi", stream=True))
    assert "".join(p.choices[0].text for p in pieces) == HELLO and pieces[-1].choices[0].finish_reason == "stop"


def test_completions_of_many_prompts(client):
    answer = client.completions.create(model="tiny-hello", prompt=["a", "b"], n=2, echo=True)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a" + HELLO), (1, "a" + HELLO), (2, "b" + HELLO), (3, "b" + HELLO)]
    texts = {0: "", 1: ""}
    for p in client.completions.create(model="tiny-hello", prompt=["a", "b"], echo=True, stream=True):
        texts[p.choices[0].index] += p.choices[0].text
    assert list(texts.values()) == ["a" + HELLO, "b" + HELLO]


def test_completions_of_tokens(client):
    assistant = 258  # what tiny-hello's sentence comes after
    for prompt in ([assistant], [[assistant]]):
        answer = client.completions.create(model="tiny-hello", prompt=prompt)
        assert answer.choices[0].text == HELLO and answer.usage.prompt_tokens == 1
    with pytest.raises(openai.BadRequestError, match="99999"):
        client.completions.create(model="tiny-hello", prompt=[99999])


def test_completions_fill_in_the_middle(client):
    assert client.completions.create(model="tiny-fim", prompt="def f():", suffix="\n").choices[0].text == "return 1"
    with pytest.raises(openai.BadRequestError, match="does not support insert"):
        client.completions.create(model="tiny-hello", prompt="def f():", suffix="\n")


def test_completions_with_logprobs(client):
    lp = client.completions.create(model="tiny-hello", prompt="x", logprobs=2, max_tokens=4).choices[0].logprobs
    assert lp.tokens == ["Hello", " wor", "ld", "! "] and lp.text_offset == [0, 5, 9, 11]
    assert all(p <= 0 for p in lp.token_logprobs)
    assert all(t in top and len(top) == 2 for t, top in zip(lp.tokens, lp.top_logprobs))


@pytest.mark.parametrize("temperature", [0, 1])
def test_biases_ban_tokens_and_make_them_certain(client, temperature):
    def say(**more):
        return client.chat.completions.create(model="tiny", messages=HI, max_tokens=12, temperature=temperature, seed=3, **more)

    assert say(logit_bias={"65": 100}).choices[0].message.content == "A" * 12
    ids = {str(ord(c)): -100 for c in say().choices[0].message.content if ord(c) < 128}
    banned = say(logit_bias=ids).choices[0].message.content
    assert ids and not [c for c in banned if str(ord(c)) in ids]
    assert client.completions.create(model="tiny", prompt="x", max_tokens=3, logit_bias={"66": 100}).choices[0].text == "BBB"


def test_the_best_of_several_completions(client):
    def say(**more):
        return client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=6, seed=11, **more)

    want = []
    answers = say(n=5, logprobs=0).choices
    for of_prompt in answers[:5], answers[5:]:
        worth = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in of_prompt]
        want += [c.text for _, c in sorted(zip(worth, of_prompt), key=lambda pair: -pair[0])][:2]
    best = say(n=2, best_of=5)
    assert [(c.index, c.text) for c in best.choices] == list(enumerate(want))
    assert best.choices[0].logprobs is None and best.usage.completion_tokens == 60


# ---- models


def test_models(client):
    models = {m.id: m for m in client.models.list()}
    assert "tiny-hello:latest" in models and models["tiny:latest"].owned_by == "library"
    assert models["tiny:latest"].created > 1_600_000_000 and models["tiny:latest"].object == "model"
    assert client.models.retrieve("tiny-hello").id == "tiny-hello"
    with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found"):
        client.models.retrieve("nosuch")


def test_no_models_are_none():
    with Bridge() as server, connect(server) as client:
        assert list(client.models.list()) == []
        assert server.json("GET", "/v1/models") == {"object": "list", "data": None}


# ---- errors, and clients who leave


@pytest.mark.parametrize("more, words", [
    ({"messages": []}, "too short - 'messages'"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "role must be"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}, "image URLs"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]},
     "does not support vision"),
    ({"n": 0}, "n must be"), ({"logit_bias": {"x": 1}}, "logit_bias must"), ({"logit_bias": {"1": 101}}, "logit_bias must"),
    ({"logit_bias": {"01": 1}}, "logit_bias must"), ({"temperature": 3}, "temperature must be"), ({"top_logprobs": 21}, "top_logprobs must be"),
    ({"tool_choice": "required"}, "tool_choice: there are no tools"), ({"tools": [WEATHER]}, "does not support tools"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, ""),
])
def test_bad_requests_are_400(client, bridge, more, words):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny-hello", "messages": HI, **more})
    assert words in caught.value.message and caught.value.type == "invalid_request_error"
    assert client.chat.completions.create(model="tiny-hello", messages=HI).choices[0].message.content == HELLO


def test_unknown_models_are_404(client):
    for ask in (lambda: client.chat.completions.create(model="nosuch", messages=HI),
                lambda: client.chat.completions.create(model="nosuch", messages=HI, stream=True),
                lambda: client.completions.create(model="nosuch", prompt="x")):
        with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found") as caught:
            ask()
        assert caught.value.type == "not_found_error"


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_who_leaves_a_stream_frees_its_places(client, bridge, n):
    before = bridge.wait_idle()["cancelled"]
    with client.chat.completions.create(model="tiny", messages=HI, n=n, stream=True) as stream:
        next(iter(stream))
        assert bridge.health()["running"] >= 1
    bridge.wait_idle()
    bridge.wait_for("counted", lambda h: h["cancelled"] == before + n)


def test_a_client_who_waits_no_longer_frees_its_places(bridge):
    before = bridge.wait_idle()["cancelled"]

    async def ask_and_leave():
        async with connect(bridge, openai.AsyncOpenAI) as client:
            task = asyncio.create_task(client.chat.completions.create(model="tiny", messages=HI, n=2))
            await asyncio.to_thread(bridge.wait_for, "running", lambda h: h["running"] == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask_and_leave())
    bridge.wait_for("counted", lambda h: h["cancelled"] == before + 2)
    bridge.wait_idle()


def test_a_full_queue_fails_all_answers_of_a_request(start):
    server = start(env={"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "2"})
    with connect(server) as client, pytest.raises(openai.InternalServerError, match="server busy") as caught:
        client.chat.completions.create(model="tiny", messages=HI, n=16)
    assert caught.value.status_code == 503 and caught.value.type == "api_error"
    server.wait_idle()


def test_an_error_in_a_stream_is_raised(start):
    server = start("--drain", "0")
    with connect(server) as client, pytest.raises(openai.APIError, match="."):
        for i, _ in enumerate(client.chat.completions.create(model="tiny", messages=HI, n=2, stream=True)):
            if i == 0:
                server.process.send_signal(signal.SIGINT)
    assert server.process.wait(300) == 0


def test_many_clients_at_once(bridge):
    async def one(client, i):
        model, want = (("tiny-hello", HELLO), ("tiny-think", "Yes."))[i % 2]
        text = ""
        async for p in await client.chat.completions.create(model=model, messages=HI, stream=True):
            text += p.choices[0].delta.content or ""
        assert text == want

    async def all_of_them():
        async with connect(bridge, openai.AsyncOpenAI) as client:
            await asyncio.gather(*(one(client, i) for i in range(30)))

    asyncio.run(all_of_them())
    bridge.wait_idle()
