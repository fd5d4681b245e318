"""OpenAI's Responses API: the real Python client, and the bytes of a stream."""
import json

import httpx
import openai
import pydantic
import pytest
import zstandard

from .test_openai_python import HELLO, HI, WEATHER, client, connect  # noqa: F401 (a fixture)

GET_WEATHER = {"type": "function", "strict": False, **WEATHER["function"]}
FLAG = {"type": "function", "name": "set_flag", "strict": True, "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}}
CALL = {"city": "Paris", "days": 2}


def post(bridge, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(bridge.url + "/v1/responses", content=content, headers=headers, timeout=300)


# ---- at once


def test_an_answer_at_once(client):
    r = client.responses.create(model="tiny-hello", input="hi", instructions="Be kind.", metadata={"a": "b"})
    assert r.id.startswith("resp_") and r.object == "response" and r.status == "completed" and r.error is None
    assert (r.model, r.output_text, r.instructions, r.metadata) == ("tiny-hello", HELLO, "Be kind.", {"a": "b"})
    (item,) = r.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed") and item.id.startswith("msg_")
    assert (r.temperature, r.top_p, r.tool_choice, r.tools, r.store) == (1, 1, "auto", [], False)
    assert r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens and r.usage.output_tokens > 5


def test_what_was_in_the_cache_is_counted(client):
    client.responses.create(model="tiny-hello", input="the very same words")
    again = client.responses.create(model="tiny-hello", input="the very same words")
    assert 0 < again.usage.input_tokens_details.cached_tokens < again.usage.input_tokens


def test_a_limit_makes_it_incomplete(client):
    r = client.responses.create(model="tiny", input="hi", max_output_tokens=7)
    assert r.status == "incomplete" and r.incomplete_details.reason == "max_output_tokens"
    assert r.usage.output_tokens == 7 and r.output[0].status == "incomplete"


def test_thinking_is_an_item_and_comes_back(client, bridge):
    r = client.responses.create(model="tiny-think", input="hi")
    thought, said = r.output
    assert thought.type == "reasoning" and thought.summary[0].text == "hm, well" == thought.encrypted_content
    assert said.content[0].text == "Yes."
    again = client.responses.create(model="tiny-think", input=[*HI, *r.output, {"role": "user", "content": "and?"}])
    assert again.output_text == "Yes."
    off = client.responses.create(model="tiny-think", input="hi", reasoning={"effort": "none"})
    assert [i.type for i in off.output] == ["message"]
    with pytest.raises(openai.BadRequestError, match='"tiny" does not support thinking'):
        client.responses.create(model="tiny", input="hi", reasoning={"effort": "high"})


def test_a_call_and_its_result(client):
    first = client.responses.create(model="tiny-tool", input=HI, tools=[GET_WEATHER])
    (call,) = first.output
    assert call.type == "function_call" and call.name == "get_weather" and json.loads(call.arguments) == CALL
    assert call.call_id.startswith("call_") and call.id.startswith("fc_") and call.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(model="tiny-tool", input=[*HI, call, result], tools=[GET_WEATHER])
    assert second.output[0].type == "function_call"


def test_space_around_a_call_is_no_item(client):
    r = client.responses.create(model="tiny-spaced", input="hi", tools=[GET_WEATHER])
    assert [i.type for i in r.output] == ["message", "function_call"]


def test_a_tool_of_a_namespace_keeps_it(client, bridge):
    body = {"model": "tiny-tool", "input": "hi", "tool_choice": "required", "temperature": 0, "tools": [
        {"type": "namespace", "name": "flags", "description": "d", "tools": [FLAG]}]}
    call = post(bridge, body).json()["output"][0]
    assert (call["name"], call["namespace"]) == ("set_flag", "flags") and isinstance(json.loads(call["arguments"])["on"], bool)


def test_a_custom_tool_takes_text(bridge):
    tool = {"type": "custom", "name": "run", "description": "runs it", "format": {"type": "text"}}
    body = {"model": "tiny-tool", "input": "hi", "tools": [tool], "tool_choice": {"type": "custom", "name": "run"}, "max_output_tokens": 400,
            "temperature": 0.2, "top_p": 0.5}
    answer = post(bridge, body).json()
    if answer["status"] == "completed":  # random letters may not come to an end
        (call,) = answer["output"]
        assert call["type"] == "custom_tool_call" and isinstance(call["input"], str) and "arguments" not in call
    history = [{"role": "user", "content": "go"}, {"type": "custom_tool_call", "call_id": "c1", "name": "run", "input": "ls\n"},
               {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a.txt"}]}]
    assert post(bridge, {"model": "tiny-tool", "input": history, "tools": [tool], "max_output_tokens": 20}).status_code == 200


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "set_flag"},
                                    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "set_flag"}]}])
def test_calls_are_forced(client, choice):
    tools = [FLAG] if choice == "required" else [GET_WEATHER, FLAG]
    r = client.responses.create(model="tiny-tool", input="hi", tools=tools, tool_choice=choice, temperature=0)
    (call,) = r.output
    assert call.name == "set_flag" and isinstance(json.loads(call.arguments)["on"], bool)


def test_none_hides_the_tools(client):
    with_tools = client.responses.create(model="tiny-tool", input="hi", tools=[GET_WEATHER])
    hidden = client.responses.create(model="tiny-tool", input="hi", tools=[GET_WEATHER], tool_choice="none")
    assert hidden.usage.input_tokens < with_tools.usage.input_tokens


def test_tools_of_the_vendor_are_left_out(client):
    r = client.responses.create(model="tiny-hello", input="hi", tools=[{"type": "web_search"}])
    assert r.output_text == HELLO and r.tools[0].type == "web_search"


def test_a_schema_is_kept(client):
    class Answer(pydantic.BaseModel):
        yes: bool

    parsed = client.responses.parse(model="tiny", input="hi", text_format=Answer)
    assert isinstance(parsed.output_parsed.yes, bool)
    thing = client.responses.create(model="tiny", input="hi", max_output_tokens=300, temperature=0.1,
                                    text={"format": {"type": "json_schema", "name": "n", "schema": {"enum": ["a", "b"]}}})
    assert json.loads(thing.output_text) in ("a", "b")


def test_log_probabilities(client):
    r = client.responses.create(model="tiny-hello", input="hi", include=["message.output_text.logprobs"], top_logprobs=2)
    got = r.output[0].content[0].logprobs
    assert [p.token for p in got][:3] == ["Hello", " wor", "ld"] and all(len(p.top_logprobs) == 2 for p in got)


# ---- in pieces


def events_of(bridge, body):
    """(name, data) of each event; the framing is checked on the way."""
    with httpx.stream("POST", bridge.url + "/v1/responses", json={**body, "stream": True}, timeout=300) as r:
        assert r.status_code == 200 and r.headers["content-type"].startswith("text/event-stream")
        text = r.read().decode()
    assert text.endswith("\n\n")
    out = []
    for frame in text[:-2].split("\n\n"):
        name, data = frame.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        out.append((name[7:], json.loads(data[6:])))
    assert [d["sequence_number"] for _, d in out] == list(range(len(out)))
    assert all(name == d["type"] for name, d in out)
    return out


def squeeze(events):
    """Names in order, runs of the same one once."""
    names = [n.removeprefix("response.") for n, _ in events]
    return [n for i, n in enumerate(names) if not i or n != names[i - 1]]


MESSAGE = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"]
REASONING = ["output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
             "reasoning_summary_part.done", "output_item.done"]
FUNCTION = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


@pytest.mark.parametrize("model, items", [("tiny-hello", MESSAGE), ("tiny-think", REASONING + MESSAGE), ("tiny-tool", FUNCTION),
                                          ("tiny-spaced", MESSAGE + FUNCTION)])
def test_events_come_in_order(bridge, model, items):
    tools = [GET_WEATHER] if FUNCTION[1] in items else []
    events = events_of(bridge, {"model": model, "input": "hi", "tools": tools})
    assert squeeze(events) == ["created", "in_progress", *items, "completed"]
    last = events[-1][1]["response"]
    assert last["output"] == [d["item"] for n, d in events if n == "response.output_item.done"]
    whole = post(bridge, {"model": model, "input": "hi", "tools": tools}).json()

    def bare(response):
        return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]

    assert bare(last) == bare(whole) and last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    for name, d in events:  # everything about an item names it
        if "item_id" in d:
            assert d["item_id"] == last["output"][d["output_index"]]["id"]


def test_deltas_make_the_text(bridge):
    events = events_of(bridge, {"model": "tiny-hello", "input": "hi", "include": ["message.output_text.logprobs"]})
    deltas = [d for n, d in events if n == "response.output_text.delta"]
    assert "".join(d["delta"] for d in deltas) == HELLO
    assert b"".join(bytes(p["bytes"]) for d in deltas for p in d["logprobs"]).decode() == HELLO
    done = next(d for n, d in events if n == "response.output_text.done")
    assert done["text"] == HELLO and done["logprobs"] == [p for d in deltas for p in d["logprobs"]]


def test_a_limit_ends_the_stream_incomplete(bridge):
    events = events_of(bridge, {"model": "tiny", "input": "hi", "max_output_tokens": 5})
    assert events[-1][0] == "response.incomplete" and events[-1][1]["response"]["status"] == "incomplete"


def test_the_stream_helper_gathers_the_same(client):
    with client.responses.stream(model="tiny-tool", input="hi", tools=[GET_WEATHER]) as stream:
        final = [*stream] and stream.get_final_response()
    assert json.loads(final.output[0].arguments) == CALL
    with client.responses.stream(model="tiny-think", input="hi") as stream:
        assert stream.get_final_response().output_text == "Yes."


def test_a_client_who_leaves_is_noticed(client, bridge):
    stream = client.responses.create(model="tiny", input="hi", stream=True, max_output_tokens=20000)
    for _, _event in zip(range(5), stream):
        pass
    stream.close()
    assert client.responses.create(model="tiny-hello", input="hi").output_text == HELLO


# ---- bodies and errors


@pytest.mark.parametrize("level", [1, 19])
def test_packed_bodies(bridge, level):
    body = json.dumps({"model": "tiny-hello", "input": "hi " * 2000}).encode()
    packed = zstandard.ZstdCompressor(level=level).compress(body)
    assert post(bridge, packed, **{"Content-Encoding": "zstd"}).json()["output"][0]["content"][0]["text"] == HELLO
    pieces = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    chunks = pieces.compress(body[:500]) + pieces.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) + pieces.compress(body[500:]) + pieces.flush()
    assert post(bridge, chunks, **{"Content-Encoding": "zstd"}).status_code == 200


def test_bad_packed_bodies(bridge):
    body = json.dumps({"model": "tiny-hello", "input": "hi"}).encode()
    packed = zstandard.ZstdCompressor().compress(body)
    bomb = zstandard.ZstdCompressor(level=3).compress(b" " * (64 << 20))
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters.from_level(1, window_log=27)).compressobj()
    wide = wide.compress(b" " * (32 << 20)) + wide.flush()
    for sent, encoding, status, text in [(packed[:-5], "zstd", 400, "ends too early"), (b"nonsense", "zstd", 400, "not valid zstd"),
                                         (b"", "zstd", 400, ""), (bomb, "zstd", 413, "too large"), (wide, "zstd", 400, "not valid zstd"),
                                         (packed, "br", 400, "Content-Encoding br")]:
        r = post(bridge, sent, **{"Content-Encoding": encoding})
        assert r.status_code == status and text in r.json()["error"]["message"], (encoding, r.text)
    assert post(bridge, body).status_code == 200


@pytest.mark.parametrize("more, text", [
    ({"previous_response_id": "resp_1"}, "previous_response_id is not supported"),
    ({"conversation": "c"}, "conversation is not supported"),
    ({"background": True}, "background is not supported"),
    ({"input": None}, "input is required"),
    ({"input": []}, "input is required"),
    ({"input": 3}, "input must be a string or array"),
    ({"input": ["x"]}, "cannot unmarshal string"),
    ({"input": [{}]}, "missing required 'type'"),
    ({"input": [{"type": "zap"}]}, "unknown input item type: zap"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "send the item itself"),
    ({"input": [{"role": "tool", "content": "x"}]}, "role must be"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "file inputs are not currently supported"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/x.png"}]}]}, "image URLs are not"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]}, "vision"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1"}]}, "invalid tool call arguments"),
    ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "requires input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": {}}]}, "output must be a string or array"),
    ({"tools": [{"type": "function"}]}, "name is required"),
    ({"tools": [{"name": "f"}]}, "type is required"),
    ({"tools": [FLAG], "tool_choice": "often"}, "tool_choice must be"),
    ({"tools": [FLAG], "tool_choice": {"type": "function", "name": "g"}}, 'no tool with the name \\"g\\"'),
    ({"tools": [FLAG]}, "does not support tools"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema must be a JSON Schema object"),
    ({"truncation": "often"}, "truncation must be"),
    ({"temperature": 3}, "temperature must be between 0 and 2"),
    ({"max_output_tokens": 0}, "max_output_tokens must be at least 1"),
    ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
    ({"input": "x" * 40000, "truncation": "disabled"}, "exceeds the context length"),
])
def test_refusals(bridge, more, text):
    r = post(bridge, {"model": "tiny", "input": "hi", **more})
    assert r.status_code == 400 and r.json()["error"]["type"] == "invalid_request_error"
    assert text.replace('\\"', '"') in r.json()["error"]["message"]


def test_a_model_that_is_not_there(client):
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.create(model="nowhere", input="hi")
