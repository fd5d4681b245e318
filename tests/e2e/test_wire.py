"""What goes over the wire, byte by byte where clients depend on it."""
import concurrent.futures
import json
import os
import re
import socket
import time

import pytest

from conftest import MODEL, few, model_directory

OPTIONS = {"temperature": 0, "num_predict": 8}
RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$")


def ask(**more):
    return {"model": MODEL, "prompt": "Say hi.", "options": OPTIONS, **more}


# ---- transport

def test_root_says_what_clients_look_for(bridge):
    status, headers, body = bridge.call("GET", "/")
    assert (status, body) == (200, b"Ollama is running")
    assert headers["Content-Type"].startswith("text/plain")
    assert bridge.call("HEAD", "/")[0] == 200


def test_version_is_plain_semver(bridge):
    status, answer = bridge.json("GET", "/api/version")
    assert status == 200
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer["version"])


def test_health(bridge):
    status, answer = bridge.json("GET", "/health")
    assert status == 200 and answer["status"] == "ok"
    assert answer["backend"] == ("mlx" if "mlx" in os.environ.get("LM_E2E_OPTIONS", "") else "cpu")
    assert answer["device"] and answer["gpu"] is False
    assert 0 < answer["memory_budget"] < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def test_unknown_paths_and_methods(bridge):
    assert bridge.call("GET", "/nosuch")[::2] == (404, b"404 page not found")
    assert bridge.call("GET", "/api/generate")[::2] == (405, b"405 method not allowed")
    assert bridge.call("DELETE", "/api/tags")[0] == 405


def test_bodies_are_json_whatever_the_content_type(bridge):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, answer = bridge.json("POST", "/api/generate", ask(stream=False), headers=form)
    assert status == 200 and answer["done"]


@pytest.mark.parametrize("body, words", [
    (b"", "missing request body"),
    (b"{", ""),
    (b"[1]", ""),
    (b'{"model": 5}', ""),
    (b"[" * 100_000, ""),
])
def test_bad_bodies_are_400_with_an_error_text(bridge, body, words):
    status, answer = bridge.json("POST", "/api/generate", raw=body)
    assert status == 400
    assert answer["error"] and words in answer["error"]


def test_unknown_fields_and_options_are_ignored(bridge):
    status, answer = bridge.json("POST", "/api/generate", ask(
        stream=False, nosuch={"a": [1]}, options={**OPTIONS, "mirostat": 1, "numa": True, "tfs_z": 1.0}))
    assert status == 200 and answer["done"]


def test_origins(bridge):
    assert bridge.call("GET", "/api/tags", headers={"Origin": "http://localhost:3000"})[0] == 200
    assert bridge.call("GET", "/api/tags", headers={"Origin": "https://evil.example"})[::2] == (403, b"")
    assert bridge.call("GET", "/api/tags", headers={"Host": "evil.example"})[0] == 403
    status, headers, _ = bridge.call("OPTIONS", "/api/chat", headers={
        "Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"})
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


# ---- generate and chat

def test_streams_are_ndjson_by_default(bridge):
    status, headers, body = bridge.call("POST", "/api/generate", ask())
    assert status == 200 and headers["Content-Type"] == "application/x-ndjson"
    assert body.endswith(b"\n") and b"\n\n" not in body
    events = [json.loads(line) for line in body.splitlines()]
    for event in events[:-1]:
        assert event["done"] is False and "total_duration" not in event and "context" not in event
        assert event["model"] == MODEL and RFC3339.match(event["created_at"])
    last = events[-1]
    assert last["done"] is True and last["response"] == "" and last["done_reason"] in ("stop", "length")
    for key in ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
                "eval_duration"):
        assert isinstance(last.get(key, 0), int), key
    assert last["total_duration"] >= last["eval_duration"] > 0
    assert len(last["context"]) == last["prompt_eval_count"] + last["eval_count"]
    assert all(isinstance(n, int) for n in last["context"])


def test_whole_answers_are_one_json_object(bridge):
    status, headers, body = bridge.call("POST", "/api/chat", {
        "model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "stream": False, "options": OPTIONS})
    assert status == 200 and headers["Content-Type"] == "application/json; charset=utf-8"
    answer = json.loads(body)
    assert answer["message"]["role"] == "assistant" and answer["message"]["content"]
    assert answer["done"] is True and "context" not in answer


def test_answers_repeat_the_model_as_it_was_asked_for(bridge):
    for name in (MODEL, MODEL.upper(), "registry.ollama.ai/library/" + MODEL):
        status, answer = bridge.json("POST", "/api/generate", ask(model=name, stream=False))
        assert status == 200 and answer["model"] == name


def test_empty_prompts_load(bridge):
    status, headers, body = bridge.call("POST", "/api/generate", {"model": MODEL})
    assert status == 200 and headers["Content-Type"] == "application/json; charset=utf-8"
    answer = json.loads(body)
    assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")
    status, answer = bridge.json("POST", "/api/chat", {"model": MODEL, "messages": []})
    assert answer["message"] == {"role": "assistant", "content": ""} and answer["done_reason"] == "load"


def test_num_predict_is_kept(bridge):
    for n in (1, 5):
        events = bridge.lines("/api/generate", ask(prompt="Count to a hundred: 1, 2,", raw=True,
                                                   options={"temperature": 0, "num_predict": n}))
        assert events[-1]["eval_count"] == n and events[-1]["done_reason"] == "length"


def test_raw_has_no_context_and_no_template(bridge):
    _, raw = bridge.json("POST", "/api/generate", ask(raw=True, stream=False))
    _, rendered = bridge.json("POST", "/api/generate", ask(stream=False))
    assert "context" not in raw
    assert raw["prompt_eval_count"] < rendered["prompt_eval_count"]
    status, answer = bridge.json("POST", "/api/generate", ask(raw=True, system="x", stream=False))
    assert (status, answer["error"]) == (400, "raw mode does not support template, system, or context")


@pytest.mark.parametrize("path, body, status, text", [
    ("/api/generate", {"model": "nosuch", "prompt": "x"}, 404, "model 'nosuch' not found"),
    ("/api/chat", {"model": "nosuch", "messages": [{"role": "user", "content": "x"}]}, 404, "model 'nosuch' not found"),
    ("/api/generate", {"prompt": "x"}, 404, "model '' not found"),
    ("/api/chat", {"messages": []}, 400, "model is required"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/show", {"model": "nosuch"}, 404, "model 'nosuch:latest' not found"),
])
def test_errors_have_ollamas_status_and_text(bridge, path, body, status, text):
    assert bridge.json("POST", path, body) == (status, {"error": text})


def test_keep_alive_forms(bridge):
    for value in (60, "5m", "1h30m", -1, "-1m"):
        assert bridge.json("POST", "/api/generate", {"model": MODEL, "keep_alive": value})[0] == 200
    status, answer = bridge.json("POST", "/api/generate", {"model": MODEL, "keep_alive": "300"})
    assert status == 400 and "missing unit in duration" in answer["error"]


def test_logprobs_cover_the_answer(bridge):
    _, answer = bridge.json("POST", "/api/generate", ask(stream=False, logprobs=True, top_logprobs=3))
    tokens = answer["logprobs"]
    assert "".join(t["token"] for t in tokens).startswith(answer["response"][:4])
    for t in tokens:
        assert t["logprob"] <= 0 and bytes(t["bytes"]).decode(errors="replace")
        assert len(t["top_logprobs"]) == 3
        assert t["top_logprobs"][0]["logprob"] >= t["top_logprobs"][2]["logprob"]
    status, answer = bridge.json("POST", "/api/generate", ask(stream=False, logprobs=True, top_logprobs=21))
    assert status == 400 and "between 0 and 20" in answer["error"]


def test_a_long_conversation_is_cut_to_the_context(bridge):
    messages = [{"role": "system", "content": "Be brief."}]
    for n in range(60):
        messages.append({"role": "user", "content": f"Number {n}: " + "word " * 20})
        messages.append({"role": "assistant", "content": "Yes."})
    messages.append({"role": "user", "content": "Say hi."})
    status, answer = bridge.json("POST", "/api/chat", {"model": MODEL, "messages": messages, "stream": False,
                                                       "options": {**OPTIONS, "num_ctx": few(512)}})
    assert status == 200 and 0 < answer["prompt_eval_count"] <= few(512)
    status, answer = bridge.json("POST", "/api/chat", {"model": MODEL, "messages": messages, "stream": False,
                                                       "truncate": False, "options": {**OPTIONS, "num_ctx": few(512)}})
    assert status == 400 and answer["error"]


# ---- models

def test_tags_and_show_agree(bridge):
    _, tags = bridge.json("GET", "/api/tags")
    item = next(m for m in tags["models"] if m["name"] == MODEL)
    assert item["model"] == MODEL and re.fullmatch(r"[0-9a-f]{64}", item["digest"])
    assert RFC3339.match(item["modified_at"])
    for key in ("parent_model", "format", "family", "families", "parameter_size", "quantization_level"):
        assert key in item["details"]
    _, shown = bridge.json("POST", "/api/show", {"model": MODEL})
    assert shown["details"]["family"] == item["details"]["family"]
    assert isinstance(shown["model_info"], dict) and shown["model_info"]["general.architecture"] == "llama"
    assert bridge.json("POST", "/api/show", {"name": MODEL})[0] == 200


def test_ps_is_empty_until_something_is_loaded(own_bridge):
    server = own_bridge()
    assert server.json("GET", "/api/ps") == (200, {"models": []})
    server.json("POST", "/api/generate", {"model": MODEL, "keep_alive": -1})
    _, ps = server.json("GET", "/api/ps")
    item = ps["models"][0]
    assert item["name"] == MODEL and item["size_vram"] == 0 and item["size"] > 0
    assert int(item["expires_at"][:4]) > 2200  # for ever


def test_delete_of_a_linked_model_leaves_its_files(own_bridge, home, tmp_path):
    source = model_directory(home)
    (tmp_path / "linked").symlink_to(source)
    server = own_bridge("--root", str(tmp_path), "--models", str(tmp_path / "own"))
    assert server.json("POST", "/api/generate", ask(model="linked", stream=False))[0] == 200
    assert server.call("DELETE", "/api/delete", {"model": "linked"})[::2] == (200, b"")
    assert server.json("GET", "/api/ps")[1] == {"models": []}
    assert server.json("DELETE", "/api/delete", {"model": "linked"}) == (404, {"error": "model 'linked' not found"})
    assert (source / "config.json").exists()


# ---- many clients, and those who leave

def read_some(server, body, n_bytes):
    """Sends a request and closes the connection after n_bytes of the answer."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
        s.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        got = b""
        while len(got) < n_bytes:
            piece = s.recv(n_bytes - len(got))
            if not piece:
                break
            got += piece
    return got


def wait_for_quiet(server, seconds=20):
    """Until no request is running; the answer to a short one shows that a place is free."""
    deadline = time.monotonic() + seconds
    while True:
        _, health = server.json("GET", "/health")
        if not health.get("running", 0) or time.monotonic() > deadline:
            return health
        time.sleep(0.05)


def test_clients_who_leave_give_their_place_back(own_bridge):
    server = own_bridge(OLLAMA_NUM_PARALLEL="1")
    long = ask(prompt="Write a very long story.", options={"num_predict": 4000, "temperature": 0})
    for n_bytes in (0, 1, 150, 151, 300, 900, 2000):
        read_some(server, long, n_bytes)
    prefill = ask(prompt="word " * 6000, options={"num_predict": 1, "num_ctx": 8192})
    read_some(server, prefill, 0)
    # With one place, this answer comes only when every story above has ended early.
    status, answer = server.json("POST", "/api/generate", ask(stream=False))
    assert status == 200 and answer["done"]
    assert wait_for_quiet(server).get("running", 0) == 0


def test_a_full_queue_answers_503(own_bridge):
    server = own_bridge(OLLAMA_NUM_PARALLEL="1", OLLAMA_MAX_QUEUE="1")
    server.json("POST", "/api/generate", {"model": MODEL})
    body = ask(prompt="Write a long story.", stream=False, options={"num_predict": few(60), "temperature": 0})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.json("POST", "/api/generate", body), range(8)))
    codes = [status for status, _ in answers]
    assert set(codes) == {200, 503}
    busy = next(answer for status, answer in answers if status == 503)
    assert busy == {"error": "server busy, please try again.  maximum pending requests exceeded"}


def test_a_model_whose_files_vanish_fails_alone(own_bridge, home, tmp_path):
    source = model_directory(home)
    root = tmp_path / "root"
    (root / "copy").mkdir(parents=True)
    for file in source.iterdir():
        (root / "copy" / file.name).write_bytes(file.read_bytes())
    server = own_bridge("--root", str(root))
    assert server.json("POST", "/api/generate", ask(model="copy", stream=False))[0] == 200
    (root / "copy").rename(tmp_path / "away")
    assert server.json("POST", "/api/generate", ask(model="copy", stream=False)) == (
        404, {"error": "model 'copy' not found"})
    assert server.json("POST", "/api/generate", ask(stream=False))[0] == 200


def test_damaged_models_give_one_clear_error(own_bridge, home, tmp_path):
    source = model_directory(home)
    for name, file, content in (("cut", "model.safetensors", b"\x10\0\0\0\0\0\0\0{"), ("lying", "config.json", b"{}"),
                                ("garbled", "tokenizer.json", b"{\"model\":")):
        (tmp_path / name).mkdir()
        for path in source.iterdir():
            (tmp_path / name / path.name).symlink_to(path)
        (tmp_path / name / file).unlink()
        (tmp_path / name / file).write_bytes(content)
    server = own_bridge("--root", str(tmp_path), "--models", str(tmp_path / "own"))
    for name in ("cut", "lying", "garbled"):
        status, answer = server.json("POST", "/api/generate", ask(model=name, stream=False))
        assert status >= 400 and answer["error"], name
    assert server.json("GET", "/api/tags")[0] == 200


# ---- life of the program

def test_sigterm_lets_a_running_answer_finish(own_bridge):
    server = own_bridge()
    server.json("POST", "/api/generate", {"model": MODEL})
    body = ask(prompt="Write a story.", stream=False, options={"num_predict": few(80), "temperature": 0})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.json, "POST", "/api/generate", body)
        for _ in range(200):
            if server.json("GET", "/health")[1].get("running", 1):
                break
            time.sleep(0.02)
        time.sleep(0.2)
        assert server.stop() == 0
        status, whole = answer.result()
    assert status == 200 and whole["done"]


def test_a_port_in_use_is_named_with_the_remedy(bridge, home):
    import os
    import subprocess

    from conftest import build_dir
    done = subprocess.run([str(build_dir() / "bin/mlx-ollama-bridge"), "--port", str(bridge.port)], timeout=60,
                          env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert str(bridge.port) in done.stderr and "--port" in done.stderr


def test_one_log_line_for_each_request(own_bridge):
    server = own_bridge()
    server.json("POST", "/api/generate", ask(stream=False))
    server.json("GET", "/api/tags")
    server.stop()
    lines = [line for line in server.log.read_text().splitlines() if "path=/api/" in line]
    assert sum("path=/api/generate" in line for line in lines) == 1
    assert sum("path=/api/tags" in line for line in lines) == 1
    generate = next(line for line in lines if "path=/api/generate" in line)
    assert "status=200" in generate and MODEL in generate
