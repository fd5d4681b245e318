"""What computes: the list of devices, and how keys and values are kept."""
import json
import os
import subprocess

import pytest

from .bridge import program

OPTIONS = os.environ.get("LM_E2E_OPTIONS", "").split()
OVER_MLX = "mlx" in OPTIONS


def run(*arguments, **env):
    return subprocess.run([program(), *arguments], env={**os.environ, **env}, capture_output=True, text=True,
                          timeout=300, check=False)


def hello(server):
    body = {"model": "tiny-hello", "messages": [{"role": "user", "content": "hi"}], "stream": False,
            "options": {"temperature": 0}}
    return server.json("POST", "/api/chat", body)["message"]["content"]


def test_the_list_says_what_is_chosen(bridge):
    done = run("--list-devices", "--json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    devices = json.loads(done.stdout)
    assert devices[0]["backend"] == "cpu" and devices[0]["name"] and not devices[0]["gpu"]
    assert all(d["memory"] > 1 << 28 for d in devices)
    chosen = [d for d in devices if d["chosen"]]
    health = bridge.health()
    assert len(chosen) == 1
    assert (chosen[0]["backend"], chosen[0]["name"]) == (health["backend"], health["device"])
    assert chosen[0] in health["devices"]
    lines = run("--list-devices", *OPTIONS).stdout.splitlines()
    assert len(lines) == len(devices) + 1 and sum(line.endswith("chosen") for line in lines) == 1


@pytest.mark.skipif(OVER_MLX, reason="kernels of the CPU backend")
def test_a_forced_set_of_kernels_is_what_health_names(start):
    health = start("--cpu-features", "portable").health()
    assert health["device"] == "portable"
    assert [d["name"] for d in health["devices"] if d["chosen"]] == ["portable"]


def test_a_gpu_that_is_not_there_is_an_error(bridge):
    if any(d["gpu"] for d in bridge.health()["devices"]):
        pytest.skip("there is a GPU")
    done = run("--list-devices", "--backend", "mlx", "--device", "gpu:7")
    assert done.returncode == 1 and ("finds no GPU" in done.stderr or "no MLX backend" in done.stderr)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_keys_and_values_are_kept_as_asked_or_the_server_says_so(start, kind):
    server = start(env={"OLLAMA_KV_CACHE_TYPE": kind})
    assert hello(server) == "Hello world! Grün 🙂"
    kept = kind if OVER_MLX else "f16"
    assert server.health()["kv_cache_type"] == kept
    assert server.log().count("keys and values stay f16") == (kept != kind)


def test_an_unknown_type_of_keys_and_values_names_the_known(tmp_path):
    for arguments, env in ((("--kv-cache-type", "q5_1"), {}), ((), {"OLLAMA_KV_CACHE_TYPE": "q5_1"})):
        done = run("--port", "0", "--models", str(tmp_path), *arguments, **env)
        assert done.returncode == 2 and "there are f16, q8_0 and q4_0" in done.stderr
