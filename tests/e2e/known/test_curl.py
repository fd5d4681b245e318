"""What people type: the documented curl commands, as they stand there, without a Content-Type."""
import hashlib
import json
import shutil
import subprocess

import pytest

from .bridge import PATIENCE

HELLO = "Hello world! Grün 🙂"
pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@pytest.fixture
def curl(bridge):
    """curl(path, *options) gives what it printed; its exit status has to be 0."""

    def run(path, *options, status=0):
        command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *options, bridge.url + path]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE + 10)
        assert done.returncode == status, done.stderr
        return done.stdout.decode()

    return run


def body(**fields):
    return json.dumps(fields)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


ASK = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


def test_a_stream(curl):
    pieces = lines(curl("/api/generate", "--no-buffer", "-d", body(model="tiny-hello", prompt="Why is the sky blue?")))
    assert "".join(p["response"] for p in pieces) == HELLO and pieces[-1]["done"]
    pieces = lines(curl("/api/chat", "-N", "-d", body(model="tiny-hello", messages=ASK)))
    assert "".join(p["message"]["content"] for p in pieces) == HELLO and pieces[-1]["done"]


def test_an_answer_at_once(curl):
    said = curl("/api/generate", "-d", body(model="tiny-hello", prompt="x", stream=False))
    assert json.loads(said)["response"] == HELLO
    written = curl("/api/chat", "-w", "%{http_code} %{content_type}", "-d", body(model="tiny-hello", messages=ASK, stream=False))
    assert written.endswith("200 application/json; charset=utf-8")


def test_tools_schema_and_thinking(curl):
    called = json.loads(curl("/api/chat", "-d", body(model="tiny-tool", messages=ASK, tools=[TOOL], stream=False)))
    assert called["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris", "days": 2}
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    kept = json.loads(curl("/api/chat", "-d", body(model="tiny", messages=ASK, format=schema, stream=False)))
    assert set(json.loads(kept["message"]["content"])) == {"yes"}
    thought = json.loads(curl("/api/chat", "-d", body(model="tiny-think", messages=ASK, think=True, stream=False)))
    assert (thought["message"]["thinking"], thought["message"]["content"]) == ("hm, well", "Yes.")


def test_embeddings(curl):
    many = json.loads(curl("/api/embed", "-d", body(model="tiny", input=["Why is the sky blue?", "Why is the grass green?"])))
    assert [v.index(max(v)) for v in many["embeddings"]] == [ord("?")] * 2 and many["prompt_eval_count"] == 43
    old = json.loads(curl("/api/embeddings", "-d", body(model="tiny", prompt="x")))
    assert len(old["embedding"]) == 384
    said = json.loads(curl("/v1/embeddings", "-H", "Content-Type: application/json", "-d", body(model="tiny", input="x")))
    assert len(said["data"][0]["embedding"]) == 384


def test_a_long_body_after_expect_100_and_a_chunked_one(curl, tmp_path):
    long = tmp_path / "body.json"
    long.write_text(body(model="tiny-hello", prompt="many words " * 100000, stream=False))  # curl asks before it sends 1 MB
    assert json.loads(curl("/api/generate", "--data-binary", f"@{long}"))["response"] == HELLO
    small = tmp_path / "small.json"
    small.write_text(body(model="tiny-hello", prompt="x", stream=False))
    said = curl("/api/generate", "-H", "Transfer-Encoding: chunked", "-d", f"@{small}")
    assert json.loads(said)["response"] == HELLO


def test_lists_and_versions(curl):
    assert "tiny-hello:latest" in [m["name"] for m in json.loads(curl("/api/tags"))["models"]]
    assert json.loads(curl("/api/version")) == {"version": "0.33.0"}
    assert isinstance(json.loads(curl("/api/ps"))["models"], list)
    assert json.loads(curl("/api/show", "-d", body(model="tiny-hello")))["details"]["family"] == "llama"
    assert curl("/") == "Ollama is running"


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head_has_a_length_and_no_body(curl, path):
    head = curl(path, "--head")
    assert head.startswith("HTTP/1.1 200 OK\r\n") and "content-length: " in head.lower() and head.endswith("\r\n\r\n")


def test_delete_takes_a_body(curl):
    said = curl("/api/delete", "-X", "DELETE", "-w", " %{http_code}", "-d", body(model="nothere"))
    assert said == '{"error":"model \'nothere\' not found"} 404'


def test_models_are_made_of_what_is_sent(curl, tiny_models):
    files = {}
    for file in (tiny_models / "tiny-hello").iterdir():
        digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
        blob = f"/api/blobs/{digest}"
        assert curl(blob, "--head").startswith("HTTP/1.1 404 ")
        assert curl(blob, "-w", "%{http_code}", "-T", str(file), "-X", "POST") == "201"
        assert curl(blob, "--head").startswith("HTTP/1.1 200 ")
        files[file.name] = digest
    steps = lines(curl("/api/create", "-d", body(model="by-curl", files=files, system="be kind")))
    assert steps[-1] == {"status": "success"}
    assert curl("/api/copy", "-w", "%{http_code}", "-d", body(source="by-curl", destination="copied")) == "200"
    assert json.loads(curl("/api/generate", "-d", body(model="copied", prompt="x", stream=False)))["response"] == HELLO
    for name in ("by-curl", "copied"):
        assert curl("/api/delete", "-w", "%{http_code}", "-X", "DELETE", "-d", body(model=name)) == "200"
    wrong = "sha256:" + "0" * 64
    said = curl(f"/api/blobs/{wrong}", "-w", " %{http_code}", "-d", "x")
    assert "digest mismatch" in said and said.endswith(" 400")


def test_errors(curl):
    said = curl("/api/chat", "-w", " %{http_code}", "-d", body(model="nothere", messages=ASK))
    assert said == '{"error":"model \'nothere\' not found"} 404'
    assert curl("/api/generate", "-w", " %{http_code}", "-X", "POST") == '{"error":"missing request body"} 400'
    assert curl("/api/generate", "-w", " %{http_code}") == "405 method not allowed 405"
    assert curl("/api/nothing", "-w", " %{http_code}") == "404 page not found 404"
    assert curl("/api/version", "--fail", "-H", "Origin: https://evil.example", status=22) == ""


def test_loading_and_unloading_by_an_empty_prompt(curl):
    assert json.loads(curl("/api/generate", "-d", body(model="tiny-fim")))["done_reason"] == "load"
    assert json.loads(curl("/api/generate", "-d", body(model="tiny-fim", keep_alive=0)))["done_reason"] == "unload"


def test_openais_and_anthropics(curl):
    key = ("-H", "Content-Type: application/json", "-H", "Authorization: Bearer ollama")
    said = json.loads(curl("/v1/chat/completions", *key, "-d", body(model="tiny-hello", messages=ASK)))
    assert said["choices"][0]["message"]["content"] == HELLO
    events = curl("/v1/chat/completions", "-N", *key, "-d", body(model="tiny-hello", messages=ASK, stream=True))
    assert events.startswith("data: {") and events.endswith("data: [DONE]\n\n")
    said = json.loads(curl("/v1/messages", *key, "-d", body(model="tiny-hello", max_tokens=50, messages=ASK)))
    assert said["content"][0]["text"] == HELLO
    said = json.loads(curl("/v1/responses", *key, "-d", body(model="tiny-hello", input="hi")))
    assert said["output"][0]["content"][0]["text"] == HELLO
    assert json.loads(curl("/v1/models"))["object"] == "list"


def test_a_curl_that_is_interrupted_frees_its_place(bridge):
    command = ["curl", "-sN", bridge.url + "/api/generate", "-d", body(model="tiny", prompt="x", options={"num_predict": 1000000})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert b'"done":false' in process.stdout.readline()
    process.terminate()
    process.communicate()
    bridge.wait_idle()
