"""With a real Ollama (scripts/real-ollama builds one; without it these are skipped): its command line before our programs, its
server behind the router beside the bridge, which uses the same store."""
import http.client
import json
import os
import re
from pathlib import Path

import pytest

from known.bridge import PATIENCE, Bridge
from known.real_ollama import MODEL, RealOllama, needs_model, needs_program

from .router import Router

pytestmark = [needs_program, needs_model]
SHORT = {"num_predict": 8, "temperature": 0}


@pytest.fixture(scope="module")
def ollama():
    with RealOllama() as real:
        modelfile = Path(real.home.name) / "Modelfile"
        modelfile.write_text(f"FROM {os.environ['LM_E2E_GGUF']}\nPARAMETER num_predict 8\n")  # it rambles
        real.command("create", MODEL, "-f", str(modelfile))
        yield real


@pytest.fixture(scope="module")
def bridge(ollama):
    """Beside it, over the same store."""
    with Bridge(env={"OLLAMA_MODELS": ollama.store}) as server:
        yield server


@pytest.fixture
def router(ollama, bridge):
    with Router({"ollama": ollama.url, "mlx": bridge.url}) as running:
        running.wait_state("ollama", "healthy", "warming")
        running.wait_state("mlx", "healthy", "warming")
        yield running


def asked(server, **more):
    status, headers, data = server.request("POST", "/api/generate", {"model": MODEL, "prompt": "Say hi.", "stream": False,
                                                                     "options": SHORT, **more})
    return status, headers, json.loads(data)


def test_its_own_store_is_used_where_it_lies(ollama, bridge):
    theirs, ours = (s.json("GET", "/api/tags")["models"] for s in (ollama, bridge))
    assert [m["name"] for m in ours] == [m["name"] for m in theirs] == [MODEL]
    _, _, real = asked(ollama)
    status, _, answer = asked(bridge)
    assert status == 200 and answer["eval_count"] == real["eval_count"] == 8
    n = answer["prompt_eval_count"]
    assert n == real["prompt_eval_count"] and answer["context"][:n] == real["context"][:n]  # the same template, the same tokens


@pytest.mark.parametrize("through", ["bridge", "router"])
def test_its_command_line_does_not_notice(ollama, bridge, router, through):
    url = {"bridge": bridge, "router": router}[through].url
    assert MODEL in ollama.command("list", url=url)
    assert re.search(r"architecture\s+llama", ollama.command("show", MODEL, url=url))
    assert ollama.command("run", MODEL, "Say hi.", "--format", "json", url=url).strip()
    assert MODEL in ollama.command("ps", url=url)
    ollama.command("cp", MODEL, "mine", url=url)
    assert "mine:latest" in ollama.command("list", url=url)
    ollama.command("rm", "mine", url=url)
    assert "mine" not in ollama.command("list", url=url)
    ollama.command("stop", MODEL, url=url)


def test_when_it_is_killed_the_bridge_goes_on(ollama, router):
    router.switch("ollama")
    router.wait_for("the order is read", lambda: router.status()["order"] == "ollama")
    router.wait_for("it answers", lambda: asked(router)[1]["X-Router-Backend"] == "ollama")  # a busy machine may make it late once
    ollama.kill()
    try:
        status, headers, answer = asked(router)
        assert status == 200 and headers["X-Router-Backend"] == "mlx" and answer["eval_count"] == 8
    finally:
        ollama.start()


def test_killed_in_the_middle_of_an_answer_it_is_told(ollama, router):
    router.switch("ollama")
    router.wait_for("the order is read", lambda: router.status()["order"] == "ollama")
    router.wait_state("ollama", "healthy", "warming")
    body = {"model": MODEL, "prompt": "Count to a thousand.", "options": {"num_predict": 5000, "num_ctx": 8192}}
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=PATIENCE)
    connection.request("POST", "/api/generate", json.dumps(body))
    answer = connection.getresponse()
    lines = [json.loads(answer.readline())]
    ollama.kill()
    try:
        lines += [json.loads(line) for line in answer.read().splitlines()]
        assert "error" in lines[-1] and not any(line.get("done") for line in lines)
    finally:
        connection.close()
        ollama.start()
