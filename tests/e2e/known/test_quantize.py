"""Models made in another form: `quantize` of /api/create, and checkpoints as their makers publish them."""
import json
import os
import resource
import shutil
import struct
import sys
from pathlib import Path

import ollama
import pytest

from .bridge import TOP, Bridge
from .standin_hub import Hub
from .test_manage import HELLO, check_store, files_below

FORMS = {
    "q4_K_M": "Q4_G64", "Q4_K": "Q4_G64", "q4_k_s": "Q4_G64", "q8_0": "Q8_G64", "int4": "Q4_G64", "INT8": "Q8_G64",
    "2bit": "Q2_G64", "3bit": "Q3_G64", "4bit": "Q4_G64", "5bit": "Q5_G64", "6bit": "Q6_G64", "8bit": "Q8_G64",
    "mxfp4": "MXFP4", "mxfp8": "MXFP8", "nvfp4": "NVFP4", "f16": "F16", "bf16": "BF16",
}


def config_of(client, own, name):
    model = next(m for m in client.list().models if m.model == f"{name}:latest")
    return json.loads((own / "views" / model.digest / "config.json").read_text())


def test_every_form_can_be_asked_for(client, own):
    for form, level in FORMS.items():
        steps = list(client.create("made", from_="tiny-hello", quantize=form, system="Be kind.", stream=True))
        texts = [s.status for s in steps]
        doing = f"quantizing F32 model to {form.upper()}"
        assert texts.count("verifying conversion") == 1 and texts[-2:] == ["writing manifest", "success"], texts
        last = [s for s in steps if s.status == doing][-1]
        assert last.total == last.completed > 100_000 and last.digest == "0000000000000000000"
        shown = client.show("made")
        assert shown.details.quantization_level == level, form
        assert "SYSTEM Be kind." in shown.modelfile
        assert client.generate("made", "x").response == HELLO, form
    assert check_store(own) == ["made"]
    client.delete("made")
    assert files_below(own) == [".lock", ".users"]  # nothing of any form before is left


def test_the_config_says_what_mlx_lm_would_have_written(client, own):
    client.create("made", from_="tiny-hello", quantize="q4_K_M")
    config = config_of(client, own, "made")
    usual = {"group_size": 64, "bits": 4, "mode": "affine"}
    wide = dict(usual, bits=6)
    layer = "model.layers.0."
    assert config["quantization"] == usual | {"lm_head": wide, layer + "self_attn.v_proj": wide, layer + "mlp.down_proj": wide}
    assert config["quantization_config"] == config["quantization"]
    client.create("made", from_="tiny-hello", quantize="f16")
    assert config_of(client, own, "made")["torch_dtype"] == "float16"


def test_the_form_that_there_is_already_costs_nothing(client, own, tiny_models):
    steps = [s.status for s in client.create("same", from_="tiny-hello", quantize="F32", stream=True)]
    assert not [s for s in steps if "quantizing" in s]
    blob = next(b for b in (own / "blobs").glob("*") if b.stat().st_size > 100_000)
    assert blob.stat().st_size == (tiny_models / "tiny-hello/model.safetensors").stat().st_size


def test_what_is_quantised_is_not_quantised_again(client, own):
    client.create("made", from_="tiny-hello", quantize="4bit")
    for form in ("8bit", "f16"):
        with pytest.raises(ollama.ResponseError, match="quantization is only supported for F16 and F32 models"):
            client.create("again", from_="made", quantize=form)
    with pytest.raises(ollama.ResponseError) as problem:
        client.create("again", from_="tiny-hello", quantize="q5_1")
    assert problem.value.status_code == 400
    assert problem.value.error.startswith("unsupported quantization type Q5_1 - supported types are F32, F16, BF16, Q4_K_S")
    client.create("copy", from_="made", system="x")
    assert client.generate("copy", "x").response == HELLO
    assert sorted(check_store(own)) == ["copy", "made"]


def test_files_of_a_directory_become_quantised(client, own, tiny_models):
    files = {f.name: client.create_blob(f) for f in sorted((tiny_models / "tiny-hello").iterdir())}
    client.create("files", files=files, quantize="mxfp8")
    assert client.show("files").details.quantization_level == "MXFP8"
    assert client.generate("files", "x").response == HELLO


@pytest.fixture(scope="module")
def makers(tmp_path_factory):
    """Tiny checkpoints as their makers publish them."""
    out = tmp_path_factory.mktemp("makers")
    golden = str(TOP / "tests/golden")
    sys.path.insert(0, golden)
    try:
        import make_convert
    finally:
        sys.path.remove(golden)
    for name, made in make_convert.cases().items():
        made.save(out / name)
    return out


@pytest.mark.parametrize("name, level", [("hf-mixtral-f16", "F16"), ("hf-qwen3-moe-f32", "BF16"), ("hf-gpt-oss-hf", "MXFP4"),
                                         ("hf-gemma3-nested", "F32"), ("hf-llama-f16", "F16")])
def test_a_checkpoint_of_the_makers_runs(client, own, makers, name, level):
    files = {f.name: client.create_blob(f) for f in sorted((makers / name).iterdir())}
    steps = [s.status for s in client.create("theirs", files=files, stream=True)]
    assert ("converting model" in steps) == (name not in ("hf-gemma3-nested", "hf-llama-f16"))
    assert client.show("theirs").details.quantization_level == level
    client.create("smaller", files=files, quantize="q8_0")
    small = config_of(client, own, "smaller")["quantization"]
    assert small["bits"] == (4 if "gpt-oss" in name else 8)  # gpt-oss's experts stay MXFP4, everything else is named
    assert not any("experts" in k for k in small)
    check_store(own)


def test_a_checkpoint_in_shards_and_one_that_lies_elsewhere(start, makers, tmp_path):
    import numpy as np
    from . import tiny

    roots = tmp_path / "roots"
    whole = makers / "hf-mixtral-f16"
    shutil.copytree(whole, roots / "sharded")
    data = (whole / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    tensors = {k: np.frombuffer(data[8 + n :][slice(*v["data_offsets"])], np.float16).reshape(v["shape"]).astype(np.float32)
               for k, v in json.loads(data[8 : 8 + n]).items() if k != "__metadata__"}
    (roots / "sharded/model.safetensors").unlink()
    names, parts = list(tensors), 3
    weight_map = {}
    for i in range(parts):
        file = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        tiny.save_safetensors(roots / "sharded" / file, {k: tensors[k] for k in names[i::parts]})
        weight_map |= {k: file for k in names[i::parts]}
    (roots / "sharded/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    server = start("--root", str(roots))
    client = ollama.Client(server.url)
    with pytest.raises(ollama.ResponseError, match="create a model from it"):  # where it lies it cannot run
        client.generate("sharded", "x")
    client.create("mine", from_="sharded", quantize="f16")
    assert client.show("mine").details.quantization_level == "F16"
    blobs = Path(server.home.name) / "own/blobs"
    assert sum(b.stat().st_size for b in blobs.iterdir()) < sum(f.stat().st_size for f in (roots / "sharded").iterdir()) * 0.6


def test_a_pulled_checkpoint_is_converted_once(makers, tmp_path):
    store = tmp_path / "store"
    with Hub() as hub, Bridge(store=store, env=hub.env()) as server:
        hub.repo("org/theirs", makers / "hf-mixtral-f16")
        steps = [s.status for s in ollama.Client(server.url).pull("org/theirs", stream=True)]
        assert steps[-4:] == ["verifying sha256 digest", "converting model", "writing manifest", "success"]
        assert ollama.Client(server.url).show("org/theirs").details.quantization_level == "F16"
        check_store(store)
        weights = [b for b in (store / "blobs").iterdir() if b.stat().st_size > 100_000]
        assert len(weights) == 1  # what came is not kept beside what it became
        before = sum(hub.sent.values())
        assert [s.status for s in ollama.Client(server.url).pull("org/theirs", stream=True)][-1] == "success"
        assert sum(hub.sent.values()) == before


def test_what_has_no_form_for_mlx_is_refused_by_name(client, makers, tmp_path):
    for change, words in (({"quantization_config": {"quant_method": "awq"}}, "quantised by awq"),
                          ({"quantization_config": {"quant_method": "fp8"}}, "quantised by fp8")):
        config = json.loads((makers / "hf-qwen3-f32/config.json").read_text()) | change
        (tmp_path / "config.json").write_text(json.dumps(config))
        files = {"config.json": client.create_blob(tmp_path / "config.json"),
                 "model.safetensors": client.create_blob(makers / "hf-qwen3-f32/model.safetensors")}
        with pytest.raises(ollama.ResponseError, match=words) as problem:
            client.create("theirs", files=files)
        assert problem.value.status_code == 400


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process is Linux'")
def test_a_disk_that_fills_up_leaves_nothing_half(server, client, own):
    client.create("kept", from_="tiny-hello", system="one")
    before = files_below(own)
    limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (300_000, limit[1]))
    with pytest.raises(ollama.ResponseError, match="make room"):
        client.create("new", from_="kept", quantize="8bit")
    assert files_below(own) == before
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
    client.create("new", from_="kept", quantize="8bit")
    assert client.generate("new", "x").response == HELLO


@pytest.mark.skipif("not os.environ.get('LM_E2E_ENCODER')", reason="LM_E2E_ENCODER names no directory")
def test_a_quantised_encoder_gives_nearly_the_same_vectors(start):
    root = Path(os.environ["LM_E2E_ENCODER"])
    client = ollama.Client(start("--root", str(root.parent)).url)
    client.create("small", from_=root.name, quantize="q8_0")
    one, two = (client.embed(name, "the store keeps what it is given")["embeddings"][0] for name in (root.name, "small"))
    assert one != two and sum(a * b for a, b in zip(one, two)) > 0.999
