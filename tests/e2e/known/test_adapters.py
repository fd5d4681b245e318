"""ADAPTER of a Modelfile: LoRA adapters through Ollama's client, in each form that they come in.

The adapter makes tiny-hello say "Hello" for ever: v_proj finds that there is a token, and o_proj adds the embedding of the token that
"Hello" follows, more of it than of anything else.
"""
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import ollama
import pytest

from . import tiny
from .bridge import Bridge
from .standin_hub import Hub
from .test_manage import HELLO, check_store, files_below, statuses
from .test_pull import pull
from .test_push import push

sys.path.append(str(Path(__file__).resolve().parents[2] / "golden"))
import make_adapters  # noqa: E402

LAYER = "model.layers.0.self_attn."
STRENGTH = 2.0


def matrices(width=tiny.WIDTH):
    """name -> A (1, columns), B (rows, 1)"""
    _, added = tiny.vocabulary(tiny.MODELS["tiny-hello"])
    first = next(a["id"] for a in added if a["content"] == tiny.ASSISTANT)
    one = np.zeros((width, 1), np.float32)
    one[0] = 1
    target = np.zeros((width, 1), np.float32)
    target[first] = 4
    return {LAYER + "v_proj": (np.ones((1, width), np.float32), one), LAYER + "o_proj": (one.T.copy(), target)}


def write_peft(out, both=None, **more):
    out.mkdir()
    make_adapters.save(out / "adapter_model.safetensors",
                       {f"base_model.model.{n}.lora_{k}.weight": x for n, p in (both or matrices()).items() for k, x in zip("AB", p)}, "F32")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": STRENGTH, "target_modules": ["v_proj", "o_proj"], "bias": "none"} | more
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def write_mlx(out):
    out.mkdir()
    tensors = {f"{n}.lora_{k}": x.T for n, p in matrices().items() for k, x in zip("ab", p)}
    make_adapters.save(out / "adapters.safetensors", tensors, "F16")
    shutil.copy(out / "adapters.safetensors", out / "0000100_adapters.safetensors")  # as training leaves them there
    (out / "adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 1, "scale": STRENGTH, "dropout": 0.0}}))
    return out


def write_gguf(out, arch="llama"):
    out.mkdir()
    make_adapters.save_gguf(out / "adapter.gguf", arch, STRENGTH, {"config": {"num_attention_heads": tiny.HEADS}}, matrices(), "F32")
    return out


def upload(client, directory):
    return {f.name: client.create_blob(f) for f in sorted(directory.iterdir())}


def says(client, model, n=4):
    return client.generate(model, "x", options={"num_predict": n}).response


@pytest.mark.parametrize("write, status", [(write_peft, "converting adapter"), (write_mlx, "converting adapter"), (write_gguf, "parsing GGUF")])
def test_an_adapter_changes_the_answer_and_nothing_else(client, own, tmp_path, write, status):  # noqa: F811
    files = upload(client, write(tmp_path / "adapter"))
    client.create("base", from_="tiny-hello")
    steps = statuses(client.create("mine", from_="base", adapters=files, system="S", stream=True))
    assert status in steps and steps[-2:] == ["writing manifest", "success"]
    # both at a time, in turns: what one has computed is not taken for the other's
    for _ in range(2):
        assert says(client, "mine") == "Hello" * 4
        assert says(client, "base", 20) == HELLO
    layers = json.loads((own / "manifests/registry.ollama.ai/library/mine/latest").read_text())["layers"]
    adapter = [la for la in layers if la["mediaType"] == "application/vnd.ollama.image.adapter"]
    assert len(adapter) == 1
    weights = [b for b in (own / "blobs").iterdir() if b.stat().st_size > 500_000]
    assert len(weights) == 1  # one base for both
    line = next(li for li in client.show("mine").modelfile.splitlines() if li.startswith("ADAPTER "))
    assert line.endswith(adapter[0]["digest"].replace(":", "-")) and Path(line.split()[1]).exists()
    assert "ADAPTER" not in client.show("base").modelfile

    client.copy("mine", "other")
    client.create("further", from_="mine", system="T")
    client.delete("mine")
    client.delete("base")
    assert says(client, "other") == says(client, "further") == "Hello" * 4
    assert sorted(check_store(own)) == ["further", "other"]
    client.delete("other")
    client.delete("further")
    # what the models were is gone at once; what was only uploaded stays for an hour
    assert {Path(f).name for f in files_below(own / "blobs")} == {d.replace(":", "-") for d in files.values()}


def test_what_show_says_makes_the_model_again(client, tmp_path):
    client.create("mine", from_="tiny-hello", adapters=upload(client, write_peft(tmp_path / "adapter")))
    lines = dict(line.split(" ", 1) for line in client.show("mine").modelfile.splitlines() if line.startswith(("FROM", "ADAPTER")))
    file = Path(lines["ADAPTER"])
    for base in (lines["FROM"], "tiny-hello"):
        client.create("again", from_=base, adapters={file.name: client.create_blob(file)})
        assert says(client, "again") == "Hello" * 4


def test_an_adapter_stays_when_its_model_is_quantised(client, tmp_path):
    files = upload(client, write_peft(tmp_path / "adapter"))
    client.create("mine", from_="tiny-hello", adapters=files)
    client.create("small", from_="mine", quantize="q8_0")
    client.create("other", from_="tiny-hello", quantize="q8_0", adapters=files)
    sizes = {m.model: m.size for m in client.list().models}
    assert sizes["small:latest"] < sizes["mine:latest"] / 2
    for model in ("small", "other"):
        assert says(client, model) == "Hello" * 4 and "ADAPTER" in client.show(model).modelfile


def test_a_pushed_model_comes_back_with_its_adapter(tiny_models, tmp_path):
    with Hub() as hub, Bridge(roots=[tiny_models], env=hub.env()) as server:
        client = ollama.Client(server.url)
        name = f"{hub.host}/me/mine:latest"
        client.create(name, from_="tiny-hello", adapters=upload(client, write_mlx(tmp_path / "adapter")))
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        client.delete(name)
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        assert says(client, name) == "Hello" * 4


@pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")
def test_a_model_of_a_registry_comes_with_its_adapter(tiny_models, tmp_path):
    """SmolLM2 and an adapter of its head, which prefers one token to all others."""
    kind = "application/vnd.ollama.image."
    a, b = np.random.default_rng(1).normal(size=(2, 576)).astype(np.float32), np.zeros((49152, 2), np.float32)
    b[28] = [1000, -1000]  # one of the two is large enough, whatever the sign of what it is multiplied by
    b[29] = [-1000, 1000]
    (tmp_path / "gguf").mkdir()
    make_adapters.save_gguf(tmp_path / "gguf/adapter", "llama", 2.0, {"config": {"num_attention_heads": 9}}, {"lm_head": (a, b)}, "F16")
    weights, adapter = (Path(p).read_bytes() for p in (os.environ["LM_E2E_GGUF"], tmp_path / "gguf/adapter"))
    with Hub() as hub, Bridge(roots=[tiny_models], env=hub.env()) as server:
        hub.model("me/mine:latest", [(kind + "model", weights), (kind + "adapter", adapter), (kind + "system", b"S")])
        hub.model("me/two:latest", [(kind + "model", weights), (kind + "adapter", adapter), (kind + "adapter", adapter[:-1] + b"x")])
        hub.model("me/broken:latest", [(kind + "model", weights), (kind + "adapter", adapter[:2000])])
        name = f"{hub.host}/me/mine:latest"
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        client = ollama.Client(server.url)
        assert set(says(client, name, 8)) <= set(",-")  # tokens 28 and 29
        assert "ADAPTER" in client.show(name).modelfile and client.show(name).modelfile.count("SYSTEM S") == 1
        assert "only one adapter" in pull(server, f"http://{hub.host}/me/two:latest")[-1]["error"]
        assert "error" in pull(server, f"http://{hub.host}/me/broken:latest")[-1]
        assert len(client.list().models) == 1 + len(tiny.MODELS)


def test_the_files_of_a_model_and_of_an_adapter(client, tiny_models, tmp_path):
    files = {f.name: client.create_blob(f) for f in sorted((tiny_models / "tiny-hello").iterdir())}
    client.create("mine", files=files, adapters=upload(client, write_gguf(tmp_path / "adapter")))
    assert says(client, "mine") == "Hello" * 4


def refused(client, words, status=400, from_="tiny-hello", **more):
    with pytest.raises(ollama.ResponseError, match=words) as problem:
        client.create("new", from_=from_, **more)
    assert problem.value.status_code == status
    assert "new:latest" not in [m.model for m in client.list().models]


def test_what_cannot_be_is_refused_by_name(client, tmp_path):
    peft = upload(client, write_peft(tmp_path / "peft"))
    gguf = upload(client, write_gguf(tmp_path / "gguf"))["adapter.gguf"]
    refused(client, "only one adapter is currently supported", adapters={"a.gguf": gguf, "b.gguf": gguf})
    refused(client, "unknown type", adapters={"adapter_config.json": peft["adapter_config.json"]})
    refused(client, "adapter_config.json is missing", adapters={"adapter_model.safetensors": peft["adapter_model.safetensors"]})
    refused(client, "invalid digest format", adapters={"a.gguf": "sha256:1"})
    refused(client, "is missing: upload it first", adapters={"a.gguf": "sha256:" + "1" * 64})
    client.create("mine", from_="tiny-hello", adapters=peft)
    refused(client, "only one adapter is currently supported", from_="mine", adapters={"a.gguf": gguf})
    refused(client, "neither 'from' or 'files'", from_=None, adapters=peft)
    for n, (change, words) in enumerate([({"use_dora": True}, "DoRA"), ({"bias": "all"}, "biases"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
                                         ({"peft_type": "IA3"}, "only LoRA"), ({"init_lora_weights": "pissa"}, "pissa")]):
        refused(client, words, adapters=upload(client, write_peft(tmp_path / f"other{n}", **change)))
    refused(client, "made for another model", adapters=upload(client, write_peft(tmp_path / "wide", matrices(512))))
    refused(client, "not that of a llama model", adapters=upload(client, write_gguf(tmp_path / "arch", "qwen2")))
    both = {"model.layers.1.self_attn.v_proj": matrices()[LAYER + "v_proj"]}
    refused(client, "layers.1.self_attn.v_proj", adapters=upload(client, write_peft(tmp_path / "deep", both)))
    both = {"model.embed_tokens": matrices()[LAYER + "v_proj"]}
    refused(client, "model.embed_tokens", adapters=upload(client, write_peft(tmp_path / "embed", both)))
