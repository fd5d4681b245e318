"""What nobody should send, to every family of endpoints: each gets its status and text, and the next request works."""
import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from .bridge import PATIENCE

HELLO = "Hello world! Grün 🙂"
HI = [{"role": "user", "content": "hi"}]
# name -> method, path, a body that works
ENDPOINTS = {
    "generate": ("POST", "/api/generate", {"model": "tiny-hello", "prompt": "hi", "stream": False}),
    "chat": ("POST", "/api/chat", {"model": "tiny-hello", "messages": HI, "stream": False}),
    "embed": ("POST", "/api/embed", {"model": "tiny", "input": "x"}),
    "embeddings": ("POST", "/api/embeddings", {"model": "tiny", "prompt": "x"}),
    "show": ("POST", "/api/show", {"model": "tiny-hello"}),
    "delete": ("DELETE", "/api/delete", {"model": "nothere"}),
    "copy": ("POST", "/api/copy", {"source": "nothere", "destination": "there"}),
    "create": ("POST", "/api/create", {"model": "there", "stream": False}),
    "v1/chat": ("POST", "/v1/chat/completions", {"model": "tiny-hello", "messages": HI}),
    "v1/completions": ("POST", "/v1/completions", {"model": "tiny-hello", "prompt": "x"}),
    "v1/embeddings": ("POST", "/v1/embeddings", {"model": "tiny", "input": "x"}),
    "v1/responses": ("POST", "/v1/responses", {"model": "tiny-hello", "input": "x"}),
    "v1/messages": ("POST", "/v1/messages", {"model": "tiny-hello", "max_tokens": 50, "messages": HI}),
    "v1/count": ("POST", "/v1/messages/count_tokens", {"model": "tiny-hello", "messages": HI}),
}
MANAGING = ("delete", "copy", "create")
NAMED = [n for n in ENDPOINTS if n not in MANAGING]  # those that only look at a model
TEXTS = {"generate": "prompt", "embed": "input", "embeddings": "prompt", "v1/completions": "prompt", "v1/embeddings": "input",
         "v1/responses": "input"}  # where there is a text
CHATS = ("chat", "v1/chat", "v1/messages")


@pytest.fixture(autouse=True)
def the_next_request_works(bridge):
    yield
    assert bridge.json("POST", "/api/generate", ENDPOINTS["generate"][2])["response"] == HELLO
    bridge.wait_idle()


def send(server, name, changes=None, raw=None):
    """(status, body): raw bytes, or the body that works with some members changed."""
    method, path, body = ENDPOINTS[name]
    data = raw if raw is not None else {**body, **(changes or {})}
    status, _, text = server.request(method, path, data)
    return status, text


def message(name, status, text):
    """The text of a refusal, whose form has to be that of the API it comes from."""
    answer = json.loads(text)
    if name in ("v1/messages", "v1/count"):
        assert set(answer) == {"type", "error", "request_id"} and answer["type"] == "error"
        assert answer["error"]["type"] == {400: "invalid_request_error", 404: "not_found_error", 413: "request_too_large"}[status]
        return answer["error"]["message"]
    if name.startswith("v1/"):
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
        assert answer["error"] == {"message": answer["error"]["message"], "type": kind, "param": None, "code": None}
        return answer["error"]["message"]
    assert list(answer) == ["error"]
    return answer["error"]


def refused(server, name, want, text, changes=None, raw=None):
    """text: the whole of it; or a pattern, compiled."""
    status, answer = send(server, name, changes, raw)
    assert status == want, (status, answer[:300])
    got = message(name, status, answer)
    assert text.search(got) if isinstance(text, re.Pattern) else got == text, got


def taken(server, name, changes=None, raw=None):
    status, answer = send(server, name, changes, raw)
    assert status == 200, (status, answer[:300])
    return json.loads(answer)


# ---- bodies


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("raw, text", [
    (b"", "missing request body"), (b" \r\n", "missing request body"), (b"{", None), (b'{"model":"tiny', None), (b'{"model" "tiny"}', None),
    (b"\x00\x01", None), (b"{'model':1}", None), (b'{"model":"tiny"} x', None), (b'{"a":' * 5000 + b"1" + b"}" * 5000, None),
    (b'{"model":"tiny","options":{"seed":NaN}}', None), (b'{"model":"tiny","options":{"seed":1e400}}', None), (b"\xff\xfe{\x00}\x00", None),
    (b"[]", r"^json: cannot unmarshal array into Go value of type api\.\w+Request$"),
    (b'"model"', r"^json: cannot unmarshal string into Go value of type api\.\w+Request$"),
    (b"7", r"^json: cannot unmarshal number into Go value of type api\.\w+Request$"),
    (b"true", r"^json: cannot unmarshal bool into Go value of type api\.\w+Request$"),
], ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else "")
def test_bodies_that_are_none(bridge, name, raw, text):
    whole = text if text == "missing request body" else re.compile(text or "^invalid JSON in the request body: ")
    refused(bridge, name, 400, whole, raw=raw)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_body_over_the_limit(bridge, name):
    method, path, _ = ENDPOINTS[name]
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    connection.putrequest(method, path)
    connection.putheader("Content-Length", str(200 << 20))
    connection.putheader("Expect", "100-continue")  # a client that asks first need not send it
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "134217728" in message(name, 413, answer.read())
    connection.close()


@pytest.mark.parametrize("name, field, value, kind, go_type", [
    *((n, "model", 7, "number", "string") for n in NAMED), *((n, "model", ["x"], "array", "string") for n in NAMED),
    *((n, "stream", "yes", "string", "bool") for n in ("generate", "chat", "v1/chat", "v1/completions", "v1/responses", "v1/messages")),
    *((n, "options", [1], "array", "map[string]interface {}") for n in ("generate", "chat", "embed", "embeddings")),
    ("generate", "prompt", 7, "number", "string"), ("generate", "suffix", {}, "object", "string"), ("generate", "raw", 1, "number", "bool"),
    ("generate", "context", "x", "string", "[]int"), ("generate", "images", "x", "string", "[]api.ImageData"),
    ("generate", "images", [7], "number", "api.ImageData"), ("generate", "system", False, "bool", "string"),
    ("chat", "messages", {}, "object", "[]api.Message"), ("chat", "messages", ["x"], "string", "api.Message"),
    ("chat", "messages", [None], "null", "api.Message"), ("chat", "tools", "x", "string", "api.Tools"), ("chat", "tools", [1], "number", "api.Tool"),
    ("v1/chat", "messages", {}, "object", "[]openai.Message"), ("v1/chat", "seed", "x", "string", "int"), ("v1/chat", "n", 1.5, "number", "int"),
    ("copy", "source", 7, "number", "string"), ("delete", "model", 7, "number", "string"), ("create", "files", 5, "number", "map[string]string"),
])
def test_wrong_types(bridge, name, field, value, kind, go_type):
    refused(bridge, name, 400, re.compile(rf"^json: cannot unmarshal {kind} into Go struct field \w+\.(\w+\.)?{field} of type {re.escape(go_type)}$"),
            {field: value})


# ---- names


@pytest.mark.parametrize("name", NAMED)
def test_names_of_models(bridge, name):
    old = "embed" in name  # these look for the model before they look at its name
    unknown = {"show": "model 'nothere:latest' not found"}.get(name, 'model "nothere" not found, try pulling it first' if old else
                                                              "model 'nothere' not found")
    refused(bridge, name, 404, unknown, {"model": "nothere"})
    late = name in ("generate", "embed", "v1/completions", "v1/embeddings")
    for missing in ("", None):
        refused(bridge, name, *((404, "model '' not found") if late else (400, "model is required")), {"model": missing})
    for bad in ("a b", "x:", ":x", "../../etc/passwd", "a/b/c/d", "A" * 81, "ü", "-x", "x" * 100000):
        if name in ("embed", "v1/embeddings"):
            refused(bridge, name, 404, re.compile("^model '"), {"model": bad})
        else:
            refused(bridge, name, 400, "model is required" if old else "invalid model name", {"model": bad})
    refused(bridge, name, 400, "model must not hold a NUL character", {"model": "tiny\0hello"})


@pytest.mark.parametrize("name, changes, status, text", [
    ("delete", {"model": ""}, 400, 'name "" is invalid'), ("delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
    ("delete", {}, 404, "model 'nothere' not found"), ("copy", {"source": ""}, 400, 'source "" is invalid'),
    ("copy", {"source": "a b"}, 400, 'source "a b" is invalid'), ("copy", {"source": "tiny", "destination": "../x"}, 400, 'destination "../x" is invalid'),
    ("copy", {}, 404, 'model "nothere" not found'), ("create", {"model": ""}, 400, "invalid model name"),
    ("create", {}, 400, "neither 'from' or 'files' was specified"), ("create", {"files": {"a": "zz"}}, 400, "invalid digest format"),
])
def test_names_for_managing(bridge, name, changes, status, text):
    refused(bridge, name, status, text, changes)


@pytest.mark.parametrize("changes, text", [
    ({"from": "tiny", "parameters": {"num_ctx": "x"}}, 'option "num_ctx" must be of type integer'), ({"from": "../../etc/passwd"}, "invalid model name"),
    ({"from": "tiny", "template": "{{ .X"}, "template error: template: :1: unclosed action"), ({"files": {}}, "unknown type"),
    ({"from": "tiny", "template": "{{" + "(" * 100000}, "template error: template: :1: max expression depth exceeded"),
    ({"files": {"../x": "sha256:" + "0" * 64}}, "file path must be relative"), ({"files": {"/x.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
], ids=lambda value: str(value)[:40])
def test_models_that_cannot_be_made(bridge, changes, text):
    refused(bridge, "create", 400, text, changes)
    assert "there:latest" not in [m["name"] for m in bridge.json("GET", "/api/tags")["models"]]


# ---- numbers

OPTIONS = ("num_predict num_ctx num_keep seed top_k repeat_last_n num_batch num_gpu main_gpu num_thread "
           "temperature top_p min_p typical_p repeat_penalty presence_penalty frequency_penalty").split()


@pytest.mark.parametrize("name", ["generate", "chat"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_out_of_range_are_bent_and_wrong_ones_refused(bridge, name, option):
    for value in (-5, 0, 2.5, 1e308, -1e308, 2**31, 2**70, -(2**70), None):
        options = {"num_predict": 5, option: value}
        answer = taken(bridge, name, {"options": options})
        assert answer["done"] and (option == "num_predict" or answer["eval_count"] <= 5)
    kind = "integer" if OPTIONS.index(option) < 10 else "float32"
    for value in ("7", True, [], {}):
        refused(bridge, name, 500, f'option "{option}" must be of type {kind}', {"options": {option: value}})


@pytest.mark.parametrize("options, status, text", [
    ({"stop": "x"}, 500, 'option "stop" must be of type array'), ({"stop": [1]}, 500, 'option "stop" must be of an array of strings'),
    ({"stop": ["a\0"]}, 400, 'option "stop" must not hold a NUL character'), ({"use_mmap": 1}, 500, 'option "use_mmap" must be of type boolean'),
    ({"stop": ["x"] * 1025}, 400, 'option "stop" holds 1025 strings, at most 1024 are allowed'),
])
def test_other_options(bridge, options, status, text):
    refused(bridge, "chat", status, text, {"options": options})


@pytest.mark.parametrize("name, field, values, text", [
    ("v1/chat", "temperature", (-5, 1e308, 2**70), "temperature must be between 0 and 2"),
    ("v1/chat", "top_p", (-5, 1e308, 2**70), "top_p must be between 0 and 1"),
    ("v1/chat", "frequency_penalty", (-5, 1e308), "frequency_penalty must be between -2 and 2"),
    ("v1/chat", "max_tokens", (-5, 0), "max_tokens must be at least 1"), ("v1/completions", "max_tokens", (-5, 0), "max_tokens must be at least 1"),
    ("v1/responses", "max_output_tokens", (-5, 0), "max_output_tokens must be at least 1"),
    ("v1/responses", "temperature", (-5, 1e308), "temperature must be between 0 and 2"),
    ("v1/messages", "max_tokens", (-5, 0, None), "max_tokens is required and must be positive"),
    ("v1/messages", "temperature", (-5, 1e308), "temperature: must be between 0 and 2"),
    ("v1/messages", "top_p", (-5, 1e308), "top_p: must be between 0 and 1"),
    ("v1/messages", "top_k", (-5, 1e308, 2**70), "top_k: must be between 0 and 1e+09"),
    *((n, "top_logprobs", (21, -1), "top_logprobs must be between 0 and 20") for n in ("generate", "chat", "v1/chat", "v1/responses")),
    ("v1/completions", "logprobs", (21, -1), "logprobs must be between 0 and 20"),
])
def test_numbers_out_of_range(bridge, name, field, values, text):
    for value in values:
        refused(bridge, name, 400, text, {field: value, **({"logprobs": True} if field == "top_logprobs" else {})})
    if field in ("max_tokens", "max_output_tokens", "top_logprobs", "logprobs"):
        for value in (1e308, 2**70, 1.5, "7"):
            refused(bridge, name, 400, re.compile(r"^json: cannot unmarshal (number|string) into Go struct field"), {field: value})


@pytest.mark.parametrize("name", ["generate", "chat", "embed", "embeddings"])
def test_keep_alive(bridge, name):
    for value in ("300", "-1", "0.5"):
        refused(bridge, name, 400, f'time: missing unit in duration "{value}"', {"keep_alive": value})
    for value in ("", "x", "5 m", "m", "5x", "1h-5m", "9" * 400 + "h\0"):
        refused(bridge, name, 400, re.compile("^time: "), {"keep_alive": value})
    for value in ({}, [], True):
        refused(bridge, name, 400, re.compile("keep_alive"), {"keep_alive": value})
    for value in (1e300, -1e300, 2**70, 300, 0.5, "1h30m", "-1m", "2562047h"):
        taken(bridge, name, {"keep_alive": value})


# ---- schemas

CYCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
NO_END = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"],
                                               "additionalProperties": False}}}
CHAIN = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "additionalProperties": False}}}


def nested(levels):
    schema = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def with_schema(name, schema):
    """A request whose answer has to keep the schema, of at most 60 tokens."""
    return {"model": "tiny", **{
        "generate": {"format": schema, "options": {"num_predict": 60, "seed": 1}},
        "v1/chat": {"max_tokens": 60, "seed": 1, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        "v1/responses": {"max_output_tokens": 60, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}},
        "v1/messages": {"max_tokens": 60, "output_config": {"format": {"type": "json_schema", "schema": schema}}},
    }[name]}


@pytest.mark.parametrize("name", ["generate", "v1/chat", "v1/responses", "v1/messages"])
@pytest.mark.parametrize("schema", [
    {"type": "nonsense"}, {"type": 7}, {"required": 5}, {"properties": []}, {"type": "object", "properties": {"a": 5}}, {"enum": []}, {"enum": {}},
    {"type": "integer", "minimum": 5, "maximum": 1}, {"$ref": "#/$defs/none"}, {"$ref": "http://localhost:1/x.json"}, {"$ref": "file:///etc/passwd"},
    {"$ref": 7}, {"$ref": "#"}, CYCLE, {"type": "string", "pattern": "("}, {"anyOf": []}, {"minItems": -1}, nested(200), [1], 7, False, "xml",
], ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_that_cannot_be_kept(bridge, name, schema):
    refused(bridge, name, 400, re.compile("."), with_schema(name, schema))


@pytest.mark.parametrize("name", ["generate", "v1/chat", "v1/responses", "v1/messages"])
@pytest.mark.parametrize("schema", [
    NO_END, CHAIN, nested(20), {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}, {"type": "string", "minLength": 10**9},
    {"type": "string", "pattern": "((a|b)*c){500}(a|b){500}x"}, {"enum": [f"x{i}" for i in range(2000)]},
    {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(500)}, "required": [f"p{i}" for i in range(500)]},
], ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_without_an_end_do_not_hang(bridge, name, schema):
    status, answer = send(bridge, name, with_schema(name, schema))
    assert status in (200, 400)
    if status == 400:
        assert message(name, status, answer)


# ---- characters


@pytest.mark.parametrize("name", [*TEXTS, *CHATS])
@pytest.mark.parametrize("raw", [b"a\\ud800b", b"\\udc00\\ud800", b"a\xff\xfeb", b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80", b"a\\u0000b", b"\xf0\x9f\x99"],
                         ids=["half a pair", "a pair turned round", "no UTF-8", "UTF-8 too long", "NUL", "half a character"])
def test_texts_that_are_none(bridge, name, raw):
    method, path, body = ENDPOINTS[name]
    field = TEXTS.get(name, "messages")
    rest = json.dumps({k: v for k, v in body.items() if k != field})[:-1].encode()
    value = b'"%s"' % raw if name in TEXTS else b'[{"role":"user","content":"%s"}]' % raw
    taken(bridge, name, raw=rest + b',"%s":%s}' % (field.encode(), value))


def test_what_is_no_character_becomes_one_sign(bridge):
    for raw, seen in ((b"a\\ud800b", "a\ufffdb"), (b"a\xffb", "a\ufffdb"), (b"a\\u0000b", "a\0b")):
        body = b'{"model":"tiny-hello","_debug_render_only":true,"messages":[{"role":"user","content":"%s"}]}' % raw
        answer = taken(bridge, "chat", raw=body)
        assert answer["_debug_info"]["rendered_template"] == f"<|user|>{seen}<|end|><|assistant|>"


# ---- messages


def test_no_messages(bridge):
    for nothing in ([], None):
        answer = taken(bridge, "chat", {"messages": nothing})
        assert answer["done_reason"] == "load" and answer["message"] == {"role": "assistant", "content": ""}
        refused(bridge, "v1/chat", 400, "[] is too short - 'messages'", {"messages": nothing})
        refused(bridge, "v1/messages", 400, "messages is required", {"messages": nothing})
        refused(bridge, "v1/responses", 400, "input is required", {"input": nothing})


def test_unknown_roles(bridge):
    rendered = taken(bridge, "chat", {"messages": [{"role": "Robot", "content": "x"}], "_debug_render_only": True})
    assert rendered["_debug_info"]["rendered_template"] == "<|robot|>x<|end|><|assistant|>"
    for role in ("robot", "", "a\ufffdb"):
        where = [{"role": role, "content": "x"}]
        refused(bridge, "v1/chat", 400, f'messages[0]: role must be system, developer, user, assistant or tool, not "{role}"', {"messages": where})
        refused(bridge, "v1/messages", 400, "messages.0.role: must be user or assistant", {"messages": where})


@pytest.mark.parametrize("name, changes", [
    ("chat", {"messages": [{"role": "tool", "content": "sun", "tool_name": "nobody"}]}), ("chat", {"messages": [{"role": "tool", "content": "sun"}]}),
    ("v1/chat", {"messages": [{"role": "tool", "content": "sun", "tool_call_id": "nothing"}]}),
    ("v1/chat", {"messages": [{"role": "tool", "content": "sun"}]}),
    ("v1/responses", {"input": [{"type": "function_call_output", "call_id": "nothing", "output": "sun"}]}),
    ("v1/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "nothing", "content": "sun"}]}]}),
])
def test_a_tools_result_without_its_call_is_read(bridge, name, changes):
    taken(bridge, name, {"model": "tiny-tool", **changes})


@pytest.mark.parametrize("data, at", [("@@@", 0), ("data:image/png;base64,aGk=", 4), ("aGk", 0), ("aGkh aGk=", 4)])
def test_images_that_are_no_base64(bridge, data, at):
    text = f"illegal base64 data at input byte {at}"
    refused(bridge, "generate", 400, text, {"images": [data]})
    refused(bridge, "chat", 400, text, {"messages": [{"role": "user", "content": "x", "images": ["aGk=", data]}]})
    source = {"type": "base64", "media_type": "image/png", "data": data}
    refused(bridge, "v1/messages", 400, f"messages.0.content.0: invalid base64 image data: {text}",
            {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]})
    url = "data:image/png;base64," + data
    refused(bridge, "v1/chat", 400, "invalid image input",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]})
    refused(bridge, "v1/responses", 400, "invalid image input",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]})


# ---- sizes


def test_a_prompt_of_a_million_tokens_takes_bounded_time_and_memory(start):
    server = start()
    limit, long = 2048, "words " * 166667  # tiny knows letters only
    cut = {"num_ctx": limit, "num_predict": 5}
    memory = Path(f"/proc/{server.process.pid}/status")

    def peak():
        return int(re.search(r"VmHWM:\s*(\d+)", memory.read_text())[1]) << 10 if memory.exists() else 0

    before = peak()
    for name, text in (("generate", {"prompt": long}), ("chat", {"messages": [{"role": "user", "content": "words " * 2000}] * 84})):
        answer = taken(server, name, {"model": "tiny", "options": cut, **text})
        assert 0 < answer["prompt_eval_count"] <= limit
        refused(server, name, 400, "the input length exceeds the context length", {"model": "tiny", "options": cut, "truncate": False, **text})
    refused(server, "embed", 400, "the input length exceeds the context length", {"input": long, "options": cut, "truncate": False})
    asked = {"model": "tiny", "messages": [{"role": "user", "content": long}]}
    assert taken(server, "v1/count", asked)["input_tokens"] > 1000000
    refused(server, "v1/responses", 400, "the input length exceeds the context length", {"model": "tiny", "input": long, "truncation": "disabled"})
    assert peak() - before < 2 << 30


# ---- clients who leave


def request_bytes(name, changes):
    method, path, body = ENDPOINTS[name]
    data = json.dumps({**body, **changes}).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


ENDLESS = {
    "generate": {"model": "tiny", "stream": True, "options": {"num_predict": 1000000}},
    "chat": {"model": "tiny", "stream": False, "options": {"num_predict": 1000000}},
    "v1/chat": {"model": "tiny", "stream": True, "max_tokens": 1000000},
    "v1/responses": {"model": "tiny", "stream": True, "max_output_tokens": 1000000},
    "v1/messages": {"model": "tiny", "stream": True, "max_tokens": 1000000},
    "embed": {"input": ["text " * 100] * 200},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_client_gone_at_any_byte_leaves_nothing_behind(bridge, name):
    whole = request_bytes(name, ENDLESS[name])
    head = whole.index(b"\r\n\r\n") + 4
    for sent in sorted({1, 5, head - 2, head, head + 1, len(whole) // 2, len(whole) - 1, len(whole), *range(0, head, 16)}):
        with socket.create_connection(("127.0.0.1", bridge.port), timeout=PATIENCE) as s:
            s.sendall(whole[:sent])
    if name not in ("chat", "embed"):  # these say nothing until they are done
        for read in (1, 12, 100, 300, 301, 1000, 5000):
            with socket.create_connection(("127.0.0.1", bridge.port), timeout=PATIENCE) as s:
                s.sendall(whole)
                while read > 0:
                    read -= len(s.recv(read))
    bridge.wait_idle()


def test_a_thousand_idle_connections_do_not_keep_others_out(start):
    server = start()
    idle = []
    try:
        for i in range(1000):
            s = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            idle.append(s)
            if i % 3 == 1:
                s.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Le")  # half a head
            elif i % 3 == 2:
                s.sendall(request_bytes("chat", {})[:-5])  # half a body
        for name in ("generate", "chat", "embed", "v1/chat", "v1/responses", "v1/messages"):
            taken(server, name)
        assert server.json("GET", "/api/version")
        idle[2].sendall(request_bytes("chat", {})[-5:])  # the rest comes late
        assert idle[2].recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    finally:
        for s in idle:
            s.close()
    server.wait_idle()
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    if descriptors.exists():
        server.wait_for("closed", lambda _: len(list(descriptors.iterdir())) < 100)
