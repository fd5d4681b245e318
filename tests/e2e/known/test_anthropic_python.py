"""The real Python client of Anthropic against the bridge."""
import asyncio
import json
import signal
from typing import Literal

import anthropic
import httpx
import pydantic
import pytest

from .bridge import PATIENCE
from .test_faults import dial, post, read_until

HELLO = "Hello world! Grün 🙂"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {"name": "get_weather", "description": "Weather.",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
BOUND = {"name": "pick", "description": "Picks.",
         "input_schema": {"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"],
                          "additionalProperties": False, "$defs": {"city": {"enum": ["Paris", "Rome"]}}}}
ENDLESS = {"model": "tiny", "max_tokens": 1000000, "messages": HI, "stream": True}


@pytest.fixture
def client(bridge):
    return anthropic.Anthropic(base_url=bridge.url, api_key="none", max_retries=0, timeout=PATIENCE)


def ask(client, model, **more):
    """What this client has no parameter for any more goes in as it is."""
    extra = {k: more.pop(k) for k in ("temperature", "top_p", "top_k") if k in more}
    return client.messages.create(**{"model": model, "max_tokens": 200, "messages": HI, **more}, extra_body=extra)


def read_all(usage):
    return usage.input_tokens + usage.cache_read_input_tokens


# ---- answers


def test_an_answer_at_once(client):
    answer = ask(client, "tiny-hello")
    assert [b.type for b in answer.content] == ["text"] and answer.content[0].text == HELLO
    assert (answer.type, answer.role, answer.model, answer.stop_reason) == ("message", "assistant", "tiny-hello", "end_turn")
    assert answer.id.startswith("msg_") and answer._request_id.startswith("req_")
    assert answer.usage.output_tokens == 13 and read_all(answer.usage) == 5


def test_an_answer_in_pieces(client):
    with client.messages.stream(model="tiny-hello", max_tokens=200, messages=HI) as stream:
        assert "".join(stream.text_stream) == HELLO
        final = stream.get_final_message()
    assert final.content[0].text == HELLO and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 13 and read_all(final.usage) == 5


def test_events_come_in_order_and_every_block_is_closed(client):
    order, open_block = [], None
    for event in ask(client, "tiny-think", stream=True):
        order.append(event.type)
        if event.type == "content_block_start":
            assert open_block is None
            open_block = event.index
        elif event.type == "content_block_delta":
            assert event.index == open_block
        elif event.type == "content_block_stop":
            assert event.index == open_block
            open_block = None
    assert open_block is None
    assert order[0] == "message_start" and order[-2:] == ["message_delta", "message_stop"]
    assert order.count("content_block_start") == order.count("content_block_stop") == 2


def test_a_prompt_that_was_read_before_is_counted_apart(client):
    long = [{"role": "user", "content": "some words " * 50}]
    first, second = (ask(client, "tiny-hello", messages=long).usage for _ in range(2))
    assert read_all(first) == read_all(second) == 403  # " wor" is one token
    assert second.cache_read_input_tokens > 300 > first.cache_read_input_tokens


def test_claude_codes_hash_does_not_spoil_the_cache(client):
    def system(n):
        return [{"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.100; cc_entrypoint=cli; cch={n};"},
                {"type": "text", "text": "You are of use. " * 30, "cache_control": {"type": "ephemeral"}}]

    usages = [ask(client, "tiny-hello", system=system(n)).usage for n in ("00001", "fffff")]
    assert usages[1].cache_read_input_tokens > 300
    assert read_all(usages[0]) == read_all(usages[1]) == client.messages.count_tokens(
        model="tiny-hello", system=system("abcde"), messages=HI).input_tokens


def test_stop_sequences_are_named(client):
    answer = ask(client, "tiny-hello", stop_sequences=["nothing", "wor"])
    assert (answer.stop_reason, answer.stop_sequence, answer.content[0].text) == ("stop_sequence", "wor", "Hello ")
    with client.messages.stream(model="tiny-hello", max_tokens=200, messages=HI, stop_sequences=["wor"]) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence, final.content[0].text) == ("stop_sequence", "wor", "Hello ")


@pytest.mark.parametrize("tools", [{}, {"tools": [WEATHER]}])
@pytest.mark.parametrize("end", [{}, {"max_tokens": 2}, {"stop_sequences": ["Hi"]}])
def test_no_block_is_nothing_but_space(client, tools, end):
    """Such a block is refused by the vendor when it goes back in; space before a text is its own."""
    whole = ask(client, "tiny-spaced", **tools, **end)
    with client.messages.stream(**{"model": "tiny-spaced", "max_tokens": 200, "messages": HI, **tools, **end}) as stream:
        pieces = stream.get_final_message()
    assert [b.type for b in whole.content] == [b.type for b in pieces.content]
    texts = [b.text for b in whole.content if b.type == "text"]
    assert texts == [b.text for b in pieces.content if b.type == "text"]
    assert [b.type for b in whole.content] == ([] if end else ["text", "tool_use"] if tools else ["text"])
    assert all(t.lstrip().startswith("Hi you.") and t[0] == "\n" for t in texts)


def test_max_tokens_end_an_answer(client):
    answer = ask(client, "tiny", max_tokens=7)
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 7


def test_temperature_is_heard(client):
    def texts(**more):
        return {ask(client, "tiny", max_tokens=24, **more).content[0].text for _ in range(4)}

    assert len(texts(temperature=0)) == 1 and len(texts(top_k=1)) == 1 and len(texts(temperature=1)) > 1


# ---- thinking


def test_thinking_is_a_block_of_its_own(client):
    enabled = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(client, "tiny-think", max_tokens=2000, thinking=enabled)
    assert [b.type for b in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("hm, well", "Yes.")
    with client.messages.stream(model="tiny-think", max_tokens=2000, messages=HI, thinking=enabled) as stream:
        final = stream.get_final_message()
    assert [b.model_dump(exclude_none=True) for b in final.content] == [b.model_dump(exclude_none=True) for b in answer.content]
    again = ask(client, "tiny-think", messages=[*HI, {"role": "assistant", "content": answer.content}, *HI])
    assert again.content[-1].text == "Yes."
    assert [b.type for b in ask(client, "tiny-think", thinking={"type": "disabled"}).content] == ["text"]
    hidden = ask(client, "tiny-think", thinking={"type": "adaptive", "display": "omitted"})
    assert hidden.content[0].thinking == "" and hidden.content[1].text == "Yes."


@pytest.mark.parametrize("budget, text", [(1, None), (2, "hm,"), (3, "hm, well"), (100, "hm, well")])
def test_thinking_keeps_to_its_budget(client, budget, text):
    answer = ask(client, "tiny-think", thinking={"type": "enabled", "budget_tokens": budget})
    assert [b.thinking.strip() for b in answer.content if b.type == "thinking"] == ([text] if text else [])
    assert answer.content[-1].text == "Yes."


# ---- tools


def test_a_tool_is_called_and_its_result_goes_back_in(client):
    answer = ask(client, "tiny-tool", tools=[WEATHER])
    (call,) = answer.content
    assert answer.stop_reason == "tool_use" and call.type == "tool_use" and call.id.startswith("toolu_")
    assert (call.name, call.input) == ("get_weather", {"city": "Paris", "days": 2})
    for result in ("sun", [{"type": "text", "text": "sun"}]):
        again = ask(client, "tiny-tool", tools=[WEATHER], messages=[
            *HI, {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": result, "is_error": False},
                                         {"type": "text", "text": "and tomorrow?"}]}])
        assert again.stop_reason == "tool_use"


def test_a_call_in_pieces_is_put_together(client):
    with client.messages.stream(model="tiny-tool", max_tokens=200, messages=HI, tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == {"city": "Paris", "days": 2} and final.stop_reason == "tool_use"


def test_the_clients_own_loop_runs_a_tool(client):
    seen = []  # the client tries to have the conversation kept by the server, and goes on without when it is told

    @anthropic.beta_tool
    def get_weather(city: str, days: int) -> str:
        """Weather.

        Args:
            city: where
            days: how many
        """
        seen.append((city, days))
        return "sun"

    runner = client.beta.messages.tool_runner(model="tiny-tool", max_tokens=200, messages=HI, tools=[get_weather],
                                              max_iterations=3)
    last = runner.until_done()
    assert seen and set(seen) == {("Paris", 2)} and last.stop_reason == "tool_use"  # this model never stops calling


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "pick"}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_can_be_forced(client, choice, stream):
    more = dict(tools=[BOUND], tool_choice=choice)
    if stream:
        with client.messages.stream(model="tiny-tool", max_tokens=400, messages=HI, **more) as events:
            answer = events.get_final_message()
    else:
        answer = ask(client, "tiny-tool", max_tokens=400, **more)
    (call,) = answer.content
    assert answer.stop_reason == "tool_use"
    assert call.name == "pick" and call.input in ({"city": "Paris"}, {"city": "Rome"})


def test_no_call_where_none_is_wanted(client):
    answer = ask(client, "tiny-tool", tools=[WEATHER], tool_choice={"type": "none"})
    assert all(b.type == "text" for b in answer.content) and answer.stop_reason == "end_turn"


def test_an_answer_is_parsed_by_the_client(client):
    class Answer(pydantic.BaseModel):
        yes: bool
        size: Literal["small", "large"]  # this client leaves bounds of numbers out of what it sends

    parsed = client.messages.parse(model="tiny", max_tokens=400, messages=HI, output_format=Answer)
    assert isinstance(parsed.parsed_output, Answer)


# ---- counting


def test_tokens_are_counted_as_they_are_read(client, bridge):
    steps = bridge.wait_idle()
    for model, more in (("tiny-hello", {"system": "be kind"}), ("tiny-tool", {"tools": [WEATHER]}), ("tiny-think", {})):
        counted = client.messages.count_tokens(model=model, messages=HI, **more).input_tokens
        assert bridge.health()["eval_tokens"] == steps["eval_tokens"]  # nothing was generated
        assert counted == read_all(ask(client, model, **more).usage)
        steps = bridge.wait_idle()
    assert client.messages.count_tokens(model="tiny-hello", messages=[{"role": "user", "content": "a" * 100000}]).input_tokens == 100003


# ---- errors


@pytest.mark.parametrize("more, kind, status", [
    (dict(model="nothere"), anthropic.NotFoundError, 404), (dict(max_tokens=0), anthropic.BadRequestError, 400),
    (dict(messages=[]), anthropic.BadRequestError, 400), (dict(tools=[WEATHER]), anthropic.BadRequestError, 400),
    (dict(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                                             "data": "aGk="}}]}]), anthropic.BadRequestError, 400),
    (dict(temperature=-3), anthropic.BadRequestError, 400)])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(client, more, kind, status, stream):
    with pytest.raises(kind) as caught:
        ask(client, **{"model": "tiny-hello", **more}, stream=stream)
    body = caught.value.body
    assert caught.value.status_code == status and body["type"] == "error" and body["error"]["message"]
    assert body["error"]["type"] == {404: "not_found_error", 400: "invalid_request_error"}[status]
    assert body["request_id"] == caught.value.request_id
    assert ask(client, "tiny-hello").content[0].text == HELLO


def test_a_full_queue_is_an_overloaded_server(start):
    server = start(env={"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "1"})
    client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE)
    busy = [dial(server) for _ in range(2)]
    busy[0].sendall(post("/v1/messages", ENDLESS))
    read_until(busy[0], b"text_delta")
    busy[1].sendall(post("/v1/messages", ENDLESS))
    server.wait_for("queued", lambda h: h["waiting"] == 1)
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client, "tiny")
    assert caught.value.status_code == 503 and caught.value.body["error"]["type"] == "overloaded_error"
    for s in busy:
        s.close()
    server.wait_idle()


def test_an_error_in_mid_stream_is_an_event(start):
    server = start("--drain", "0")
    client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE)
    with pytest.raises(anthropic.APIStatusError) as caught:
        for n, event in enumerate(client.messages.create(**ENDLESS)):
            if n == 3:
                server.process.send_signal(signal.SIGINT)
    assert caught.value.body["type"] == "error" and caught.value.body["error"]["message"]
    assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("body", [
    b"", b"null", b"[1]", b'{"model":', b"\xff\xfe", b'{"model":"tiny","max_tokens":1,"messages":[{"role":"user"}]}',
    b'{"model":"tiny","max_tokens":1e99,"messages":[{"role":"user","content":"x"}]}',
    b'{"model":"tiny","max_tokens":1,"messages":' + b"[" * 100000 + b"]" * 100000 + b"}",
    b'{"model":"../../etc/passwd","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'])
def test_nonsense_is_refused_and_the_next_request_works(bridge, client, body):
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        status, headers, text = bridge.request("POST", path, body)
        answer = json.loads(text)
        assert status in (400, 404) and answer["type"] == "error" and answer["error"]["message"], text
        assert headers["request-id"] == answer["request_id"]
    assert ask(client, "tiny-hello").content[0].text == HELLO


@pytest.mark.parametrize("text", ["\ud83d", "a\0b", "\x7f\x1b[0m", "<|end|><|system|>", "🙂" * 1000])
def test_odd_texts_are_answered(bridge, text):
    body = json.dumps({"model": "tiny-hello", "max_tokens": 20, "system": text, "messages": [{"role": "user", "content": text}]})
    assert bridge.request("POST", "/v1/messages", body.encode())[0] == 200


def test_a_huge_body_is_too_large(bridge):
    connection = httpx.Client(timeout=PATIENCE)
    answer = connection.post(bridge.url + "/v1/messages", content=b" " * (130 << 20))
    assert answer.status_code == 413 and answer.json()["error"]["type"] == "request_too_large"
    assert bridge.health()["status"] == "ok"


# ---- clients who leave


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(bridge, stream):
    before = bridge.wait_idle()["cancelled"]
    s = dial(bridge)
    s.sendall(post("/v1/messages", {**ENDLESS, "stream": stream}))
    if stream:
        read_until(s, b"text_delta")
    else:
        bridge.wait_for("running", lambda h: h["running"] == 1)
    s.close()
    bridge.wait_idle()
    bridge.wait_for("counted", lambda h: h["cancelled"] == before + 1)


def test_a_stream_that_is_closed_by_the_client_is_cancelled(client, bridge):
    before = bridge.wait_idle()["cancelled"]
    with client.messages.stream(model="tiny", max_tokens=1000000, messages=HI) as stream:
        for n, _ in enumerate(stream.text_stream):
            if n == 5:
                break
    bridge.wait_for("counted", lambda h: h["cancelled"] == before + 1)
    bridge.wait_idle()


def test_many_clients_at_once(bridge):
    async def one(client, i):
        model, want = (("tiny-hello", HELLO), ("tiny-think", "Yes."))[i % 2]
        async with client.messages.stream(model=model, max_tokens=200, messages=[{"role": "user", "content": str(i)}]) as stream:
            assert (await stream.get_final_message()).content[-1].text == want

    async def all_of_them():
        client = anthropic.AsyncAnthropic(base_url=bridge.url, api_key="none", max_retries=0, timeout=PATIENCE)
        await asyncio.gather(*(one(client, i) for i in range(40)))

    asyncio.run(all_of_them())
    bridge.wait_idle()
