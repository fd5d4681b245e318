"""--bench measures who is there, names who is absent, and invents nothing."""
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from known.bridge import Bridge
from router.router import Router

from .conftest import PATIENCE
from .standin import Server, relay, stand_in

SOME = ["load_to_first_token", "first_token", "prompt", "answer", "memory", "code_review"]


def figures(document):
    return {f["figure"]: f for f in document["figures"]}


@pytest.fixture
def nobody():
    """An address where nobody answers."""
    with Server(stand_in()) as server:
        url = server.url
    return url


def test_beside_mlx_lm_on_a_tiny_model(doctor, tiny_models, nobody):
    done = doctor("--bench", "--bench-model", "tiny", "--repeat", 2, "--mlx-lm", sys.executable, "--ollama", nobody, "--json",
                  "--", "--root", tiny_models)
    assert done.returncode == 1, done.stderr  # the Ollama that was named is not there
    document = json.loads(done.stdout)
    for name in [*SOME, "start_to_first_token"]:
        one = figures(document)[name]
        assert one["mlx_ollama"] > 0 and one["mlx_lm"] > 0 and one["ratio_mlx_lm"] > 0, one
        assert one["ollama"] is None and one["ratio_ollama"] is None
    peers = document["peers"]
    assert len(peers["mlx_ollama"]["runs"]) == len(peers["mlx_lm"]["runs"]) == 2
    assert not peers["ollama"]["present"] and "nothing answers" in peers["ollama"]["absent"] and peers["ollama"]["runs"] == []
    ours, theirs = peers["mlx_ollama"]["runs"][0], peers["mlx_lm"]["runs"][0]
    assert ours["prompt_tokens"] == theirs["prompt_tokens"] > 1000  # bytes are tokens to this model
    assert ours["answer_tokens"] == theirs["answer_tokens"] == 128
    assert Path(peers["mlx_lm"]["model"]) == tiny_models / "tiny"
    assert "mlx" in peers["mlx_lm"]["version"]


def test_beside_an_ollama_as_a_table(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as there, Server(relay(there.port)) as ollama:
        done = doctor("--bench", "--bench-model", "tiny-wordy", "--ollama-model", "tiny", "--repeat", 1, "--ollama", ollama.url,
                      "--", "--root", tiny_models)
        assert done.returncode == 0, done.stderr + done.stdout
        assert there.health()["models"] == 0  # its memory is given back
    lines = done.stdout.splitlines()
    assert "model tiny-wordy" in lines[0] and "Ollama 0.33.0-relay" in lines[0]
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert len(rows) == 8 and all(len(row) == 8 for row in rows)
    for row in rows[1:-1]:
        assert re.search(r"\d", row[2]) and re.search(r"\d", row[3]) and re.search(r"\d+x", row[4]), row
    assert rows[-1][3].strip() == "–"  # a running server's start is not measured
    assert "mlx-lm is absent: " in done.stdout
    assert "run 1 of 1: Ollama" in done.stderr


def test_beside_any_other_server(doctor, tiny_models, nobody):
    with Bridge(roots=[tiny_models]) as bridge, Router({"mlx": bridge.url}) as router:
        router.wait_state("mlx", "healthy")
        done = doctor("--bench", "--bench-model", "tiny", "--repeat", 1, "--peer", f"router={router.url}", "--peer", f"gone={nobody}",
                      "--json", "--", "--root", tiny_models)
        assert bridge.health()["models"] == 0  # its memory is given back
    document = json.loads(done.stdout)
    assert done.returncode == 1  # one that was named is not there
    for name in SOME:
        one = figures(document)[name]
        assert one["router"] > 0 and one["ratio_router"] > 0 and one["gone"] is None, one
    assert "nothing answers" in document["peers"]["gone"]["absent"] and document["peers"]["router"]["present"]


def test_a_bridge_is_not_taken_for_an_ollama(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as other:
        done = doctor("--bench", "--bench-model", "tiny", "--repeat", 1, "--ollama", other.url, "--json", "--", "--root",
                      tiny_models)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert "is mlx-ollama-bridge, not Ollama" in document["peers"]["ollama"]["absent"]


def test_an_ollama_without_the_model_is_absent(doctor, tiny_models, tmp_path):
    with Bridge(roots=[tmp_path]) as empty, Server(relay(empty.port)) as ollama:
        done = doctor("--bench", "--bench-model", "tiny", "--repeat", 1, "--ollama", ollama.url, "--json", "--", "--root",
                      tiny_models)
    absent = json.loads(done.stdout)["peers"]["ollama"]["absent"]
    assert "not found" in absent and "ollama pull" in absent


def test_a_running_bridge_is_measured_where_it_is(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge:
        done = doctor("--bench", "--url", bridge.url, "--bench-model", "tiny", "--repeat", 1, "--json")
    assert done.returncode == 0, done.stderr
    all_figures = figures(json.loads(done.stdout))
    assert all(all_figures[name]["mlx_ollama"] > 0 for name in SOME)
    assert all_figures["start_to_first_token"]["mlx_ollama"] is None


def test_what_is_no_bridge_is_not_measured_as_one(doctor):
    with Server(stand_in("no-health")) as server:
        done = doctor("--bench", "--url", server.url)
    assert done.returncode == 1 and "is not mlx-ollama-bridge" in done.stderr and not done.stdout


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_a_python_without_mlx_lm_is_absent(doctor, tiny_models, python):
    done = doctor("--bench", "--bench-model", "tiny", "--repeat", 1, "--mlx-lm", python, "--json", "--", "--root", tiny_models)
    document = json.loads(done.stdout)
    assert done.returncode == 1 and not document["peers"]["mlx_lm"]["present"] and document["peers"]["mlx_lm"]["absent"]
    assert figures(document)["answer"]["mlx_lm"] is None


def test_an_interrupt_leaves_no_process_behind(doctor, tiny_models):
    process = doctor.start("--bench", "--bench-model", "tiny", "--repeat", 100, "--", "--root", tiny_models, stderr=-1, stdout=-1)
    assert b"run 1 of 100" in process.stderr.readline()
    end = time.monotonic() + PATIENCE
    children = []
    while not children and time.monotonic() < end:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and out == b""
    for pid in children:
        assert not os.path.exists(f"/proc/{pid}"), f"process {pid} is left"
