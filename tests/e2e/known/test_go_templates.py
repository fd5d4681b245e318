"""A model with a Modelfile's TEMPLATE answers as Ollama would: what is rendered here was rendered by Go with Ollama's package (the
reference of tests/gotmpl)."""
import shutil

import ollama
import pytest

from . import tiny

CHAT = ('{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}<|{{ .Role }}|>'
        '{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}'
        '{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>{{ end }}<|end|>'
        '{{- if $last }}<|assistant|>{{ end }}{{ end }}')
TOOLS = "{{ if .Tools }}<|system|>{{ range .Tools }}{{ . }}{{ end }}<|end|>{{ end }}" + CHAT
LEGACY = "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}<|user|>{{ .Prompt }}<|end|><|assistant|>{{ .Response }}<|end|>"
INSERT = "{{ if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>{{ else }}" + LEGACY + "{{ end }}"
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "it's <fine>", "parameters": {
    "type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}
WRITTEN = ('{"type":"function","function":{"name":"get_weather","description":"it\'s \\u003cfine\\u003e","parameters":{"type":"object",'
           '"required":["city"],"properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}}')


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Models whose directories hold a file `template` beside the makers' Jinja."""
    from .bridge import Bridge
    root = tmp_path_factory.mktemp("go")
    every = tmp_path_factory.mktemp("tiny")
    tiny.write_all(every)
    for name, of, template in (("chat", "tiny-think", CHAT), ("tools", "tiny-tool", TOOLS), ("legacy", "tiny-hello", LEGACY), ("fim", "tiny-fim", INSERT)):
        shutil.copytree(every / of, root / name)
        (root / name / "template").write_text(template)
    with Bridge(roots=[root]) as running:
        yield running


def rendered(server, path, **body):
    return server.json("POST", path, {"_debug_render_only": True, **body})["_debug_info"]["rendered_template"]


def m(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize("model, messages, prompt", [
    ("chat", [m("user", "a")], "<|user|>a<|end|><|assistant|>"),
    ("chat", [m("system", "s"), m("system", "t"), m("user", "a"), m("user", "b")], "<|system|>s\n\nt<|end|><|user|>a\n\nb<|end|><|assistant|>"),
    ("chat", [m("user", "a"), m("assistant", "b", thinking="hm"), m("user", "c")],
     "<|user|>a<|end|><|assistant|><think>hm</think>b<|end|><|user|>c<|end|><|assistant|>"),
    ("chat", [m("user", "a"), m("assistant", "", tool_calls=[{"function": {"name": "f", "arguments": {"z": 1, "a": "<"}}}]), m("tool", "1"), m("tool", "2")],
     '<|user|>a<|end|><|assistant|><tool_call>{"name": "f", "arguments": {"a":"\\u003c","z":1}}</tool_call><|end|><|tool|>1<|end|><|tool|>2<|end|><|assistant|>'),
    ("legacy", [m("system", "s"), m("user", "a"), m("assistant", "b"), m("user", "c")],
     "<|system|>s<|end|><|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>"),
])
def test_chats_are_rendered_as_by_go(server, model, messages, prompt):
    assert rendered(server, "/api/chat", model=model, messages=messages) == prompt


def test_tools_and_gaps_are_rendered_as_by_go(server):
    assert rendered(server, "/api/chat", model="tools", messages=[m("user", "a")], tools=[WEATHER]) == (
        "<|system|>" + WRITTEN + "<|end|><|user|>a<|end|><|assistant|>")
    assert rendered(server, "/api/generate", model="fim", prompt="a", suffix="b") == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    assert rendered(server, "/api/generate", model="legacy", prompt="a", system="s") == "<|system|>s<|end|><|user|>a<|end|><|assistant|>"
    assert rendered(server, "/api/generate", model="chat", prompt="a", template="{{ .Prompt }}{{ .Think }}") == "atrue"
    assert rendered(server, "/api/generate", model="fim", prompt="a", suffix="b", template="{{ .Suffix }}-{{ .Prompt }}") == "b-a"


def test_a_model_can_what_its_template_shows(server):
    shown = {name: ollama.Client(server.url).show(name) for name in ("chat", "tools", "legacy", "fim")}
    assert {name: sorted(one.capabilities) for name, one in shown.items()} == {
        "chat": ["completion", "thinking"], "tools": ["completion", "thinking", "tools"], "legacy": ["completion"], "fim": ["completion", "insert"]}
    assert shown["fim"].template == INSERT and "TEMPLATE" in shown["fim"].modelfile
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        ollama.Client(server.url).chat("legacy", [m("user", "a")], tools=[WEATHER])
    with pytest.raises(ollama.ResponseError, match="does not support insert"):
        ollama.Client(server.url).generate("legacy", "a", suffix="b")


def test_answers_come_through_the_template(server):
    client = ollama.Client(server.url)
    assert client.generate("legacy", "hi").response == "Hello world! Grün 🙂"
    assert client.generate("fim", "def f():", suffix="x").response == "return 1"
    call = client.chat("tools", [m("user", "weather?")], tools=[WEATHER]).message.tool_calls[0].function
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris", "days": 2})
    thought = client.chat("chat", [m("user", "?")]).message
    assert (thought.thinking, thought.content) == ("hm, well", "Yes.")


def test_a_model_gets_its_template_when_it_is_made(start, tiny_models):
    client = ollama.Client(start().url)
    client.create("mine", from_="tiny-hello", template=LEGACY)
    assert client.show("mine").template == LEGACY
    assert client.generate("mine", "hi").response == "Hello world! Grün 🙂"
