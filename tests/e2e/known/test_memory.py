"""Models that do not fit, and models that have to take turns."""
import concurrent.futures
import json
import re
import sys
from pathlib import Path

import pytest

HELLO = "Hello world! Grün 🙂"


def ask(server, model="tiny-hello", **more):
    status, _, text = server.request("POST", "/api/generate", {"model": model, "prompt": "hi", "stream": False, **more})
    return status, json.loads(text)


def test_a_model_over_the_budget_is_refused_with_numbers(start):
    server = start(env={"OLLAMA_NUM_PARALLEL": "1024"})
    for _ in range(2):
        status, answer = ask(server, options={"num_ctx": 32768})
        assert status == 500
        assert re.search(r"requires more system memory \([\d.]+ GiB\) than is available \([\d.]+ GiB\)", answer["error"])
        assert "lower num_ctx" in answer["error"]
    server.wait_for("nothing loaded", lambda h: h["models"] == 0 and h["running"] == 0 and h["waiting"] == 0)


def sanitized(server):
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    return "libasan" in maps or "libtsan" in maps


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_memory_that_the_system_refuses_costs_one_request(start):
    import resource

    server = start()
    if sanitized(server):
        pytest.skip("a sanitizer's own memory comes first")
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    used = int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) << 10
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (32 << 20), before[1]))
    status, answer = ask(server, options={"num_ctx": 32768})
    assert status == 500 and "memory" in answer["error"], answer
    assert server.health()["status"] == "ok"
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    status, answer = ask(server)
    assert status == 200 and answer["response"] == HELLO


@pytest.mark.parametrize("env", [{}, {"OLLAMA_MAX_LOADED_MODELS": "1"}])
def test_requests_for_different_models_at_once_are_all_answered(start, env):
    server = start(env=env)
    wants = {"tiny-hello": HELLO, "tiny-think": "Yes.", "tiny-fim": "fim"}
    asked = [model for _ in range(6) for model in wants]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda model: ask(server, model), asked))
    for model, (status, answer) in zip(asked, answers):
        assert status == 200 and answer["response"] == wants[model], (model, answer)
    loaded = server.json("GET", "/api/ps")["models"]
    assert len(loaded) == 1 if env else len(loaded) == 3


def test_an_answer_goes_on_when_its_files_vanish(start, tmp_path, tiny_models):
    import http.client
    import shutil

    root = tmp_path / "roots"
    shutil.copytree(tiny_models / "tiny", root / "mine")
    server = start("--root", str(root))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/api/generate", json.dumps({"model": "mine", "prompt": "x", "options": {"num_predict": 3000}}))
    answer = connection.getresponse()
    assert json.loads(answer.readline())["done"] is False
    shutil.rmtree(root / "mine")
    lines = [json.loads(line) for line in answer.read().splitlines()]
    assert lines[-1]["done"] is True and lines[-1]["eval_count"] == 3000
    assert ask(server, "mine") == (404, {"error": "model 'mine' not found"})
    assert ask(server)[1]["response"] == HELLO
    connection.close()
