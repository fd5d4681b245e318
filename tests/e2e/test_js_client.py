"""Ollama's own JavaScript client, unchanged (client.mjs does the calls)."""
import json
import os
import pathlib
import subprocess

import pytest

from conftest import CACHE, MODEL, few

HERE = pathlib.Path(__file__).parent
MODULES = pathlib.Path(os.environ.get("LM_E2E_NODE", CACHE / "node"))  # ./check installs package.json there


@pytest.fixture(scope="module")
def result(bridge):
    assert (MODULES / "node_modules/ollama").is_dir(), f"{MODULES} has no node_modules: ./check e2e installs them"
    # Node looks for packages beside the script.
    script = MODULES / "client.mjs"
    script.write_text((HERE / "client.mjs").read_text())
    done = subprocess.run(["node", str(script), bridge.url, MODEL, str(few(16))], capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list_and_show(result):
    assert MODEL in result["list"]
    assert result["show"] == "llama"


def test_a_stream_says_what_the_whole_answer_says(result):
    assert result["whole"]["response"]
    assert "".join(p["response"] for p in result["pieces"]) == result["whole"]["response"]
    assert result["pieces"][-1]["done"]


def test_chat_streams_text(result):
    assert result["chat"]


def test_unknown_models_are_404(result):
    assert result["problem"] == {"status": 404, "text": "model 'nosuch' not found"}


def test_an_aborted_stream_leaves_the_server_ready(result):
    assert result["aborted"] == "AbortError"
    assert result["after"] is True
