"""The same tokens from several ranks as from one process."""
import os
import threading
from pathlib import Path

import pytest

from .conftest import ADAPTED, FAMILIES, MLX, UNEVEN, Bridge, hostfile, ids

DEEP = ["qwen3-moe-q4", "gpt-oss-mxfp4", "gemma2-q6", "gemma3-q4"]  # four layers at least
# what cannot be dealt out by heads or groups, over 2 ranks
PIPELINE = {"llama-f32", "qwen3-moe-q4", "olmo2-f32"}
PROMPT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def alone(models):
    """What one process says, for each model."""
    with Bridge(*MLX, roots=[models]) as server:
        return {name: ids(server, name, PROMPT) for name in FAMILIES + UNEVEN + ADAPTED}


def test_two_ranks_with_a_part_of_each_layer(alone, ranks):
    server = ranks(2)
    for name in FAMILIES:
        assert ids(server, name, PROMPT) == alone[name], name
        cluster = server.health()["cluster"]
        assert cluster["size"] == 2 and cluster["lost"] == []
        assert cluster["mode"] == ("pipeline" if name in PIPELINE else "tensor"), name


def test_four_ranks(alone, ranks):
    """More ranks than key/value heads: several have the same."""
    server = ranks(4)
    for name, mode in [("llama-mxfp4", "tensor"), ("smollm3-f32", "tensor"), ("gpt-oss-bf16", "tensor"), ("gpt-oss-mxfp4", "pipeline")]:
        assert ids(server, name, PROMPT, n=12) == alone[name][:len(PROMPT) + 12], name
        assert server.health()["cluster"]["mode"] == mode, name


@pytest.mark.parametrize("size", [2, 3])
def test_unequal_parts(alone, ranks, size):
    server = ranks(size, "--distributed-mode", "tensor")
    for name in UNEVEN:
        assert ids(server, name, PROMPT, n=12) == alone[name][:len(PROMPT) + 12], name


@pytest.mark.parametrize("size, mode", [(2, "tensor"), (3, "tensor"), (2, "pipeline")])
def test_adapters_are_dealt_out_with_what_they_change(alone, ranks, size, mode):
    server = ranks(size, "--distributed-mode", mode)
    for name in ADAPTED:
        assert alone[name] != alone[name.removeprefix("adapted-")]
        assert ids(server, name, PROMPT, n=12) == alone[name][:len(PROMPT) + 12], name
        assert server.health()["cluster"]["mode"] == mode, name


def test_keys_and_values_in_fewer_bits(models, ranks):
    with Bridge(*MLX, "--kv-cache-type", "q8_0", roots=[models]) as one:
        want = ids(one, "smollm3-f32", PROMPT, n=12)
    assert ids(ranks(2, "--kv-cache-type", "q8_0"), "smollm3-f32", PROMPT, n=12) == want


@pytest.mark.parametrize("mode,names", [("tensor", ["llama-mxfp4", "gpt-oss-bf16"]), ("pipeline", ["llama-f32", "gemma3-q4"])])
def test_embeddings(models, ranks, mode, names):
    texts = [PROMPT, "a", "the quick brown cat", PROMPT * 3]
    server = ranks(2, "--distributed-mode", mode)
    with Bridge(*MLX, roots=[models]) as one:
        for name in names:
            ask = {"model": name, "input": texts, "truncate": True}
            want, got = (s.json("POST", "/api/embed", ask)["embeddings"] for s in (one, server))
            off = max(abs(a - b) for u, v in zip(want, got) for a, b in zip(u, v))
            assert off < 1e-4, name
            assert ids(server, name, PROMPT, n=4) == ids(one, name, PROMPT, n=4)  # nobody is out of step


@pytest.mark.parametrize("size,names", [(2, FAMILIES), (4, DEEP)])
def test_a_pipeline(alone, ranks, size, names):
    server = ranks(size, "--distributed-mode", "pipeline")
    for name in names:
        assert ids(server, name, PROMPT, n=12) == alone[name][:len(PROMPT) + 12], name
        assert server.health()["cluster"]["mode"] == "pipeline"


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
def test_several_requests_at_once(models, ranks, mode):
    prompts = [f"{word} and so on and on" for word in ("one", "two two", "three three three", "four")]
    with Bridge(*MLX, roots=[models]) as one:
        want = [ids(one, "smollm3-f32", p, n=12) for p in prompts]
    server = ranks(2, "--distributed-mode", mode)
    got = [None] * len(prompts)

    def ask(i):
        got[i] = ids(server, "smollm3-f32", prompts[i], n=12)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == want
    # what they had in common with each other is in the ranks' caches
    assert [ids(server, "smollm3-f32", p, n=12) for p in prompts] == want


def test_sampling_masks_and_context_shift(models, ranks):
    """What the other ranks know nothing about: the seed, the grammar, penalties, a full context."""
    body = {"model": "smollm3-f32", "prompt": PROMPT, "stream": False,
            "options": {"seed": 7, "temperature": 0.8, "num_predict": 40, "num_ctx": 64, "repeat_penalty": 1.3}}
    json_body = {**body, "format": "json", "options": {"temperature": 0, "num_predict": 20, "num_ctx": 64}}
    with Bridge(*MLX, roots=[models]) as one:
        want = [one.json("POST", "/api/generate", b)["response"] for b in (body, json_body)]
    server = ranks(2)
    assert [server.json("POST", "/api/generate", b)["response"] for b in (body, json_body)] == want


def test_a_request_that_is_cancelled(models, ranks, alone):
    import http.client
    import json

    server = ranks(2)
    body = {"model": "smollm3-f32", "prompt": PROMPT, "options": {"num_predict": 100000, "num_ctx": 64, "temperature": 0}}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/api/generate", json.dumps(body))
    answer = connection.getresponse()
    assert answer.readline()
    connection.close()
    answer.close()
    server.wait_idle()
    assert ids(server, "smollm3-f32", PROMPT) == alone["smollm3-f32"]


def test_another_model_takes_the_place_of_the_first(ranks, alone):
    server = ranks(2)
    for name in ["smollm3-f32", "mixtral-q4", "smollm3-f32"]:
        assert ids(server, name, PROMPT) == alone[name]
        assert len(server.json("GET", "/api/ps")["models"]) == 1


def test_a_real_model(models, tmp_path):
    real = os.environ.get("LM_DIST_REAL")
    if not real:
        pytest.skip("LM_DIST_REAL names no model directory")
    path = Path(real)
    answers = []
    for more in ([], ["--distributed", hostfile(tmp_path / "two.json", 2)]):
        with Bridge(*MLX, *more, roots=[path.parent]) as server:
            answers.append(ids(server, path.name, "def", n=5))
    assert answers[0] == answers[1]
