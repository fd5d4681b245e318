"""Models that begin a tool call and then talk at random: what comes of it is a call of one of the tools, with arguments of
its schema, over every API, streamed and not."""
import json

import jsonschema
import pytest

MODELS = ["tiny-caller", "tiny-caller-xml", "tiny-caller-list", "tiny-caller-bare"]
ORDER = {
    "type": "object",
    "properties": {
        "dish": {"enum": ["soup", "rice", "fish"]}, "spoons": {"type": "integer", "minimum": 1, "maximum": 9},
        "note": {"type": "string"}, "hot": {"type": "boolean"},
        "extras": {"type": "array", "items": {"$ref": "#/$defs/extra"}, "maxItems": 2},
        "table": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "number"}}, "required": ["x"],
                  "additionalProperties": False},
    },
    "required": ["dish", "spoons", "table"], "additionalProperties": False,
    "$defs": {"extra": {"enum": ["salt", "pepper"]}},
}
PAY = {"type": "object", "properties": {"cents": {"type": "integer", "exclusiveMinimum": 0}}, "required": ["cents"]}
SCHEMAS = {"order": ORDER, "pay": PAY, "leave": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": {"name": name, "description": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
HI = [{"role": "user", "content": "hi"}]


def expect(name, arguments):
    assert name in SCHEMAS, name
    jsonschema.validate(arguments, SCHEMAS[name])


def lines(server, path, body):
    status, _, raw = server.request("POST", path, body)
    assert status == 200, raw
    return [line for line in raw.decode().splitlines() if line]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_ollama(bridge, model, stream):
    for seed in range(6):
        body = {"model": model, "messages": HI, "tools": TOOLS, "stream": stream,
                "options": {"temperature": 1.5, "seed": seed, "num_predict": 150, "top_k": 0}}
        answers = [json.loads(line) for line in lines(bridge, "/api/chat", body)]
        calls = [c for a in answers for c in a["message"].get("tool_calls", [])]
        content = "".join(a["message"]["content"] for a in answers)
        assert calls, answers
        assert "tool_call" not in content and "TOOL_CALLS" not in content and '"name' not in content
        if model != "tiny-caller-bare":
            assert content.startswith("Well.")
        for call in calls:
            expect(call["function"]["name"], call["function"]["arguments"])


@pytest.mark.parametrize("model", MODELS)
def test_openai(bridge, model):
    for seed in range(3):
        body = {"model": model, "messages": HI, "tools": TOOLS, "seed": seed, "max_tokens": 150, "temperature": 1.5}
        answer = bridge.json("POST", "/v1/chat/completions", body)
        calls = answer["choices"][0]["message"]["tool_calls"]
        streamed = [json.loads(line[6:]) for line in lines(bridge, "/v1/chat/completions", {**body, "stream": True}) if line[6:7] == "{"]
        again = [c for s in streamed for choice in s["choices"] for c in choice["delta"].get("tool_calls", [])]
        assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [(c["function"]["name"], c["function"]["arguments"]) for c in again]
        for call in calls:
            expect(call["function"]["name"], json.loads(call["function"]["arguments"]))


@pytest.mark.parametrize("model", MODELS)
def test_anthropic(bridge, model):
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    for _ in range(3):
        body = {"model": model, "messages": HI, "tools": tools, "max_tokens": 150, "temperature": 1.0}
        answer = bridge.json("POST", "/v1/messages", body)
        calls = [(c["name"], c["input"]) for c in answer["content"] if c["type"] == "tool_use"]
        streamed = [json.loads(line[6:]) for line in lines(bridge, "/v1/messages", {**body, "stream": True}) if line.startswith("data: ")]
        starts = [e["content_block"]["name"] for e in streamed if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"]
        inputs = [json.loads(e["delta"]["partial_json"] or "{}") for e in streamed
                  if e["type"] == "content_block_delta" and e["delta"]["type"] == "input_json_delta"]
        assert calls and len(starts) == len(inputs) > 0
        for name, arguments in [*calls, *zip(starts, inputs)]:
            expect(name, arguments)


def test_a_schema_that_cannot_be_kept_breaks_nothing(start):
    server = start()
    odd = {"type": "object", "properties": {"x": {"type": "string", "not": {"const": "a"}}}, "required": ["x"]}
    tools = [*TOOLS, {"type": "function", "function": {"name": "odd", "parameters": odd}}]
    for seed in range(4):
        answer = server.json("POST", "/api/chat", {"model": "tiny-caller", "messages": HI, "tools": tools, "stream": False,
                                                   "options": {"seed": seed, "num_predict": 150, "temperature": 1.5, "top_k": 0}})
        for call in answer["message"]["tool_calls"]:
            if call["function"]["name"] != "odd":
                expect(call["function"]["name"], call["function"]["arguments"])
    assert "schemas that cannot be enforced" in server.log() and "tools=odd" in server.log()
