"""mlx-ollama-bridge export: a model out of the store, as a directory of the user's own."""
import json
import os
import resource
import signal
import stat
import struct
import subprocess
from pathlib import Path

import ollama
import pytest

from . import stores
from .bridge import PATIENCE, Bridge, program
from .test_manage import HELLO
from .test_quantize import makers  # noqa: F401 - a fixture


@pytest.fixture
def place(tmp_path):
    """(the own store, with a model "mine" that a Modelfile adds to; a directory for what is exported)"""
    return tmp_path / "own", tmp_path / "out"


def export(own, *words, roots=(), **more):
    command = [program(), "--models", str(own)]
    for root in roots:
        command += ["--root", str(root)]
    return subprocess.run([*command, "export", *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, **more)


def make_mine(own, tiny_models, **more):
    with Bridge(roots=[tiny_models], store=own) as server:
        ollama.Client(server.url).create("mine", from_="tiny-hello", template="<|user|>{{ .Prompt }}<|end|><|assistant|>", system="Be kind.",
                                         parameters={"temperature": 0.5}, license=["MIT", "and more"],
                                         messages=[{"role": "user", "content": "a"}], **more)


def test_a_model_of_the_own_store_becomes_files_of_its_own(tiny_models, place):
    own, out = place
    make_mine(own, tiny_models, quantize="4bit")
    done = export(own, "mine", f"{out}/deep/model/")
    assert done.returncode == 0, done.stderr
    made = out / "deep" / "model"
    assert done.stdout.strip() == f"{made}/" and "exporting 100 %" in done.stderr
    assert {p.name for p in made.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "template", "system", "params", "messages", "license", "license.1"}
    for file in made.iterdir():
        info = file.lstat()
        assert stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and os.access(file, os.W_OK), file
    assert [p.name for p in made.parent.iterdir()] == ["model"]
    assert (made / "system").read_text() == "Be kind." and json.loads((made / "params").read_text()) == {"temperature": 0.5}
    assert "{% for m in messages %}" in json.loads((made / "tokenizer_config.json").read_text())["chat_template"]
    # what is changed there is not changed in the store, and the directory is a model like any other
    (made / "system").write_text("Be brief.")
    with Bridge(roots=[made.parent], store=own) as server:
        client = ollama.Client(server.url)
        assert "SYSTEM Be kind." in client.show("mine").modelfile and "SYSTEM Be brief." in client.show("model").modelfile
        assert client.generate("model", "x").response == HELLO


def test_a_linked_model_and_one_as_its_makers_publish_it(tiny_models, makers, place):  # noqa: F811
    own, out = place
    done = export(own, "tiny-embed", out / "a", roots=[tiny_models, makers])
    assert done.returncode == 0, done.stderr
    for file in (tiny_models / "tiny-embed").rglob("*.*"):
        assert (out / "a" / file.relative_to(tiny_models / "tiny-embed")).read_bytes() == file.read_bytes()
    done = export(own, "hf-mixtral-f16", out / "b", roots=[makers])
    assert done.returncode == 0, done.stderr
    data = (out / "b/model.safetensors").read_bytes()
    names = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight" in names and not [n for n in names if ".experts." in n]


def test_weights_get_names_that_mlx_lm_looks_for(tiny_models, place, tmp_path):
    own, out = place
    odd = tmp_path / "roots/odd"
    odd.mkdir(parents=True)
    for file in (tiny_models / "tiny-hello").iterdir():
        (odd / file.name.replace("model.safetensors", "weights.00.safetensors")).write_bytes(file.read_bytes())
    assert export(own, "odd", out, roots=[odd.parent]).returncode == 0
    assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
    # the makers' own form of the same weights is left behind
    (odd / "weights.00.safetensors").rename(odd / "model.safetensors")
    (odd / "consolidated.safetensors").write_bytes((odd / "model.safetensors").read_bytes())
    assert export(own, "odd", tmp_path / "out2", roots=[odd.parent]).returncode == 0
    assert [p.name for p in (tmp_path / "out2").glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "quantised"])
def test_a_model_in_tensors_of_ollamas_store_becomes_one_file(tiny_models, place, tmp_path, quantised):
    own, out = place
    theirs = stores.Ollama(tmp_path / "ollama")
    theirs.mlx("mine:4b", tiny_models / "tiny-hello", theirs.layer("system", "Be kind."), quantised=quantised)
    env = os.environ | {"OLLAMA_MODELS": str(theirs.path)}
    done = export(own, "mine:4b", out / "model", env=env)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (out / "model").glob("*.safetensors")] == ["model.safetensors"]
    assert (out / "model/system").read_text() == "Be kind."
    config = json.loads((out / "model/config.json").read_text())
    forms = config.get("quantization")
    assert (forms and {k: forms[k] for k in ("group_size", "bits", "mode")}) == ({"group_size": 64, "bits": 8, "mode": "affine"} if quantised else None)
    with Bridge("--root", str(out), env=env, store=own) as server:
        client = ollama.Client(server.url)
        assert client.generate("model", "x").response == HELLO
        if not quantised:
            client.create("small", from_="mine:4b", quantize="4bit")
            assert client.generate("small", "x").response == HELLO
            assert client.show("small").details.quantization_level == "Q4_G64"


def test_progress_as_lines_of_json(tiny_models, place):
    own, out = place
    done = export(own, "tiny", out, "--json", roots=[tiny_models])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and lines[-1] == {"status": "success"}
    assert lines[-2]["status"] == "exporting tiny" and lines[-2]["completed"] == lines[-2]["total"] > 100_000
    done = export(own, "tiny", out, "--json", roots=[tiny_models])
    assert done.returncode == 1 and "exists already" in json.loads(done.stdout)["error"]


def test_what_cannot_be_exported_says_why(tiny_models, place):
    own, out = place
    done = export(own, "nothere", out, roots=[tiny_models])
    assert (done.returncode, done.stderr) == (1, "mlx-ollama-bridge: model 'nothere' not found\n")
    for words, code, text in ((["tiny"], 2, "export needs a name and a directory"), (["tiny", out, "more"], 2, "export needs"),
                              (["tiny", "/"], 1, "not a place"), (["tiny", tiny_models], 1, "exists already")):
        done = export(own, *words, roots=[tiny_models])
        assert done.returncode == code and text in done.stderr, done.stderr
    assert not out.exists()


def test_a_full_disk_leaves_nothing(tiny_models, place):
    own, out = place

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = export(own, "tiny", out / "x", roots=[tiny_models], preexec_fn=small_files)
    assert done.returncode == 1 and "mlx-ollama-bridge: " in done.stderr
    assert not list(out.iterdir())
    assert export(own, "tiny", out / "x", roots=[tiny_models]).returncode == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_no_half_model(place, tmp_path, sig):
    own, out = place
    big = tmp_path / "roots/big"
    big.mkdir(parents=True)
    (big / "config.json").write_text('{"model_type": "llama"}')
    header = json.dumps({"x": {"dtype": "F32", "shape": [300 << 20], "data_offsets": [0, 1200 << 20]}}).encode()
    with open(big / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + (1200 << 20))  # a hole: takes no room until it is copied
    command = [program(), "--models", str(own), "--root", str(big.parent), "export", "big", str(out / "x")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    process.send_signal(sig)
    process.communicate(timeout=PATIENCE)
    if "10 %" not in line:
        pytest.skip("the file system clones: nothing can be caught in the middle")
    assert not (out / "x").exists()
    if sig == signal.SIGINT:
        assert process.returncode == 1 and not list(out.iterdir())
        return
    assert [p.name for p in out.iterdir()] == [".exporting-x"]
    with open(big / "model.safetensors", "r+b") as f:  # the next one clears what is left; a small one will do
        header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        f.truncate(0)
        f.write(struct.pack("<Q", len(header)) + header + bytes(4))
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in out.iterdir()] == ["x"]
