"""Models in the stores of Ollama and LM Studio, with Ollama's client: used where they lie, or imported once."""
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import ollama
import pytest

from . import stores, tiny
from .bridge import PATIENCE, Bridge, program

HELLO = "Hello world! Grün 🙂"


@pytest.fixture
def theirs(tmp_path):
    return stores.Ollama(tmp_path / "ollama")


@pytest.fixture(scope="session")
def hello_gguf(tmp_path_factory):
    return stores.tiny_gguf(tmp_path_factory.mktemp("gguf") / "hello.gguf", tiny.MODELS["tiny-hello"])


@pytest.fixture
def serve(theirs, tmp_path):
    """serve(*options) gives a server that sees Ollama's store, and its client."""
    servers = []

    def make(*options, env=None):
        servers.append(Bridge(*options, env={"OLLAMA_MODELS": str(theirs.path), **(env or {})}, store=tmp_path / "own"))
        return servers[-1], ollama.Client(servers[-1].url)

    yield make
    for server in servers:
        server.__exit__()


def snapshot(path):
    """Every file and its content: a store of somebody else's stays as it was."""
    return {str(p.relative_to(path)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in sorted(Path(path).rglob("*")) if p.is_file()}


def names(client):
    return sorted(m.model for m in client.list().models)


# ---- in place


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "quantised"])
def test_an_mlx_model_of_ollamas_runs_in_place(theirs, serve, tiny_models, quantised):
    theirs.mlx("mine:4b", tiny_models / "tiny-hello", theirs.layer("system", "Be kind."), quantised=quantised)
    before = snapshot(theirs.path)
    server, client = serve()
    [listed] = client.list().models
    assert listed.model == "mine:4b" and listed.details.format == "safetensors"
    assert listed.digest == hashlib.sha256(theirs.manifest_path("mine:4b").read_bytes()).hexdigest()
    assert listed.details.quantization_level == ("Q8_G64" if quantised else "F32")
    shown = client.show("MINE:4b")
    assert "SYSTEM Be kind." in shown.modelfile and shown.modelinfo["llama.block_count"] == 1
    assert client.generate("mine:4b", "x").response == HELLO
    assert client.chat("mine:4b", [{"role": "user", "content": "x"}]).message.content == HELLO
    assert snapshot(theirs.path) == before
    client.delete("mine:4b")  # forgotten here, and there it stays
    assert names(client) == [] and snapshot(theirs.path) == before
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.generate("mine:4b", "x")


def test_a_model_in_thousands_of_tensors(theirs, serve, tiny_models):
    """Files are mapped one by one: neither descriptors nor time run out."""
    layers = theirs.mlx_layers(tiny_models / "tiny-hello", quantised=True)
    for i in range(5000):
        name = f"unused.{i}.weight"
        layers.append(theirs.layer("tensor", stores.safetensors({name: np.full(1, i, np.float32)}), name))
    theirs.write("many", theirs.manifest({"model_format": "safetensors"}, layers))
    _, client = serve()
    assert client.generate("many", "x").response == HELLO
    begun = time.monotonic()
    client.generate("many", "x", keep_alive=0)
    assert client.generate("many", "x").response == HELLO
    print(f"5000 tensors loaded again in {time.monotonic() - begun:.2f} s")


def test_a_copy_of_a_model_in_place_is_our_own(theirs, serve, tiny_models, tmp_path):
    theirs.mlx("mine", tiny_models / "tiny-hello", quantised=True)
    _, client = serve()
    client.copy("mine", "ours")
    client.create("kind", from_="mine", system="Be kind.")
    shutil.rmtree(theirs.path)
    assert names(client) == ["kind:latest", "ours:latest"]
    assert client.generate("ours", "x").response == HELLO and client.generate("kind", "x").response == HELLO


def test_an_export_is_mlx_lms(theirs, tiny_models, hello_gguf, tmp_path):
    """Ollama's names and forms become MLX's; a GGUF model is imported for it."""
    from mlx_lm import generate, load

    theirs.mlx("plain", tiny_models / "tiny-hello")
    theirs.mlx("small", tiny_models / "tiny-hello", quantised=True)
    theirs.gguf_model("old", hello_gguf)
    env = {**os.environ, "HOME": str(tmp_path), "OLLAMA_MODELS": str(theirs.path)}
    for name in "plain", "small", "old":
        out = tmp_path / name
        done = subprocess.run([program(), "export", name, str(out), "--models", str(tmp_path / "own")], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        model, tokenizer = load(str(out))
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True, tokenize=False)
        assert generate(model, tokenizer, prompt, max_tokens=20) == HELLO
    forms = json.loads((tmp_path / "small/config.json").read_text())["quantization"]
    assert (forms["bits"], forms["group_size"], forms["model.layers.0.mlp.up_proj"]["bits"]) == (8, 64, 4)


# ---- GGUF


def test_a_gguf_model_is_imported_when_it_is_first_used(theirs, serve, hello_gguf, tmp_path):
    theirs.gguf_model("old:7b", hello_gguf, theirs.layer("system", "Be kind."), theirs.layer("license", "MIT"),
                      theirs.layer("params", json.dumps({"num_predict": 3, "stop": ["<|x|>"]})),
                      theirs.layer("template", "{{ .System }}<|user|>{{ .Prompt }}<|end|><|assistant|>{{ .Response }}<|end|>"),
                      theirs.layer("projector", "of images"))
    before = snapshot(theirs.path)
    server, client = serve()
    [listed] = client.list().models
    assert (listed.model, listed.details.format, listed.details.family) == ("old:7b", "gguf", "llama")
    assert (listed.details.parameter_size, listed.details.quantization_level) == ("1.5M", "F32")
    assert listed.size == sum(len((theirs.path / "blobs" / b).read_bytes()) for b in os.listdir(theirs.path / "blobs"))
    shown = client.show("old:7b")
    assert shown.details.format == "gguf" and shown.modelinfo["llama.context_length"] == 32768
    assert "SYSTEM Be kind." in shown.modelfile and shown.license == "MIT" and ".Prompt" in shown.template
    assert not (tmp_path / "own/manifests").exists()  # nobody has asked for it yet

    assert client.generate("old:7b", "x").response == "Hello world"  # num_predict came along
    assert client.generate("old:7b", "x", options={"num_predict": 50}).response == HELLO
    assert "msg=imported" in server.log() and "percent=100" in server.log()
    [listed] = client.list().models
    assert (listed.model, listed.details.format) == ("old:7b", "safetensors")
    assert sorted(client.show("old:7b").parameters.splitlines()) == sorted(shown.parameters.splitlines())
    assert client.show("old:7b").template == shown.template
    assert snapshot(theirs.path) == before


@pytest.mark.parametrize("path,body,answer", [
    ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": False}, lambda a: a["message"]["content"]),
    ("/api/generate", {"prompt": "x", "stream": False}, lambda a: a["response"]),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, lambda a: a["choices"][0]["message"]["content"]),
    ("/v1/completions", {"prompt": "<|assistant|>"}, lambda a: a["choices"][0]["text"]),
    ("/v1/responses", {"input": "x"}, lambda a: a["output"][-1]["content"][0]["text"]),
    ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 50}, lambda a: a["content"][0]["text"]),
])
def test_every_endpoint_waits_for_the_import(theirs, serve, hello_gguf, path, body, answer):
    theirs.gguf_model("old", hello_gguf)
    server, _ = serve()
    got = server.json("POST", path, {"model": "old", **body})
    assert answer(got).strip() == HELLO
    assert server.log().count("msg=imported") == 1


def test_embeddings_wait_too(theirs, serve, hello_gguf):
    theirs.gguf_model("old", hello_gguf)
    _, client = serve()
    assert len(client.embed("old", "x").embeddings[0]) == tiny.WIDTH


def test_an_adapter_comes_along(theirs, serve, hello_gguf, tmp_path):
    theirs.gguf_model("plain", hello_gguf)
    theirs.gguf_model("adapted", hello_gguf, theirs.layer("adapter", stores.tiny_adapter(tmp_path / "a.gguf")))
    _, client = serve()
    assert client.generate("adapted", "x").response == HELLO and client.generate("plain", "x").response == HELLO
    assert "ADAPTER" in client.show("adapted").modelfile and "ADAPTER" not in client.show("plain").modelfile


def test_many_at_once_import_it_once(theirs, serve, hello_gguf):
    theirs.gguf_model("old", hello_gguf)
    server, client = serve()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(client.generate("old", "x").response)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE)
    assert answers == [HELLO] * 8
    assert "status=500" not in server.log()


def test_another_name_of_the_same_file_is_not_imported_again(theirs, serve, hello_gguf, tmp_path):
    theirs.gguf_model("old:latest", hello_gguf)
    theirs.gguf_model("old:7b", hello_gguf, theirs.layer("system", "Be brief."))
    server, client = serve()
    client.generate("old", "x")
    weights = {p.name for p in (tmp_path / "own/blobs").iterdir()}
    assert client.generate("old:7b", "x").response == HELLO
    assert "percent=" not in server.log().split("model=old:7b", 1)[1]
    more = {p.name for p in (tmp_path / "own/blobs").iterdir()} - weights
    assert all((tmp_path / "own/blobs" / n).stat().st_size < 5000 for n in more)
    assert "SYSTEM Be brief." in client.show("old:7b").modelfile and "SYSTEM" not in client.show("old").modelfile
    client.delete("old:7b")
    assert client.generate("old", "x").response == HELLO and names(client) == ["old:latest"]


def test_ask_names_the_command_and_never_hides(theirs, serve, hello_gguf, tmp_path):
    theirs.gguf_model("old:7b", hello_gguf)
    server, client = serve("--import-gguf", "ask")
    assert names(client) == ["old:7b"]
    with pytest.raises(ollama.ResponseError, match="mlx-ollama-bridge import old:7b") as problem:
        client.generate("old:7b", "x")
    assert problem.value.status_code == 400
    env = {**os.environ, "HOME": str(tmp_path), "OLLAMA_MODELS": str(theirs.path)}
    command = [program(), "import", "old:7b", "--models", str(tmp_path / "own")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "config.json").exists()
    assert client.generate("old:7b", "x").response == HELLO  # the running server sees it
    again = subprocess.run(command, capture_output=True, text=True, env=env)
    assert again.returncode == 1 and "runs as it is" in again.stderr
    gone = subprocess.run([*command[:2], "nothing", *command[3:]], capture_output=True, text=True, env=env)
    assert gone.returncode == 1 and "neither a file nor a model" in gone.stderr
    theirs.gguf_model("more", hello_gguf)
    _, other = serve("--root", str(tmp_path), env={"MLX_BRIDGE_IMPORT": "never"})
    assert names(other) == ["old:7b"]
    with pytest.raises(ollama.ResponseError, match="not found"):
        other.generate("more", "x")


def test_a_copy_or_a_create_imports(theirs, serve, hello_gguf):
    theirs.gguf_model("old", hello_gguf)
    _, client = serve()
    client.copy("old", "new")
    assert names(client) == ["new:latest", "old:latest"]
    client.create("kind", from_="old", system="Be kind.")
    assert client.generate("kind", "x").response == HELLO and client.generate("new", "x").response == HELLO


def test_a_forgotten_one_stays_forgotten(theirs, serve, hello_gguf):
    theirs.gguf_model("old", hello_gguf)
    before = snapshot(theirs.path)
    _, client = serve()
    client.generate("old", "x")
    client.delete("old")  # the import and the name
    assert names(client) == [] and snapshot(theirs.path) == before


# ---- what is wrong


def test_a_damaged_file_is_named_and_leaves_nothing(theirs, serve, hello_gguf, tmp_path):
    m = theirs.gguf_model("old", hello_gguf)
    blob = theirs.blob_path(m["layers"][0])
    blob.write_bytes(hello_gguf[:-4] + b"\1\2\3\4")  # as long as it should be
    server, client = serve()
    with pytest.raises(ollama.ResponseError, match="is damaged: its sha256 is .*pull it again"):
        client.generate("old", "x")
    assert not (tmp_path / "own/manifests").exists() and not list((tmp_path / "own/work").iterdir())
    blob.write_bytes(hello_gguf)
    assert client.generate("old", "x").response == HELLO


def test_what_cannot_be_imported_is_refused_by_name(theirs, serve, hello_gguf):
    theirs.gguf_model("adapted", hello_gguf, theirs.layer("adapter", b"GGUF" + bytes(100)))
    theirs.gguf_model("two", hello_gguf, theirs.layer("model", hello_gguf + b"x"))
    theirs.gguf_model("garbled", b"GGUF" + bytes(100))
    _, client = serve()
    for name, words in ("adapted", "GGUF"), ("two", "is a whole model"), ("garbled", "GGUF"):
        with pytest.raises(ollama.ResponseError, match=words):
            client.generate(name, "x")
        assert client.show(name).details.format == "gguf"


def test_a_model_that_ollama_is_pulling_shows_when_it_is_there(theirs, serve, hello_gguf):
    """Ollama writes a blob beside its place, and the manifest last; one that grows in place is passed over as well."""
    m = theirs.gguf_model("old", hello_gguf)
    blob = theirs.blob_path(m["layers"][0])
    blob.write_bytes(b"")
    _, client = serve()
    for at in range(0, len(hello_gguf), 1_000_000):
        assert names(client) == []
        with open(blob, "ab") as f:
            f.write(hello_gguf[at : at + 1_000_000])
    assert names(client) == ["old:latest"]
    assert client.generate("old", "x").response == HELLO


def test_a_client_that_leaves_ends_the_import(theirs, serve, tmp_path):
    """Nobody waits for it: the next one begins anew."""
    data = os.environ.get("LM_E2E_GGUF")
    if not data:
        pytest.skip("LM_E2E_GGUF names no file")
    theirs.gguf_model("real", Path(data).read_bytes())
    server, client = serve()
    with pytest.raises(Exception):
        ollama.Client(server.url, timeout=0.3).generate("real", "x")
    end = time.monotonic() + PATIENCE
    while any((tmp_path / "own/work").iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert client.generate("real", "The capital of France is", options={"num_predict": 4, "temperature": 0}).response


# ---- LM Studio


def test_lm_studios_models(hello_gguf, tiny_models, tmp_path):
    models = tmp_path / "home/.lmstudio/models"
    shutil.copytree(tiny_models / "tiny-hello", models / "mlx-community/Hello-4bit")
    (models / "lmstudio-community/Hello-GGUF").mkdir(parents=True)
    (models / "lmstudio-community/Hello-GGUF/Hello-Q4_K_M.gguf").write_bytes(hello_gguf)
    before = snapshot(models)
    with Bridge(env={"HOME": str(tmp_path / "home")}) as server:
        client = ollama.Client(server.url)
        assert names(client) == ["lmstudio-community/Hello-GGUF:Q4_K_M", "mlx-community/Hello-4bit:latest"]
        assert client.generate("mlx-community/Hello-4bit", "x").response == HELLO
        shown = client.show("hf.co/lmstudio-community/Hello-GGUF:Q4_K_M")
        assert (shown.details.format, shown.details.family, shown.details.quantization_level) == ("gguf", "llama", "Q4_K_M")
        assert client.generate("hf.co/lmstudio-community/Hello-GGUF:Q4_K_M", "x").response == HELLO
        assert client.generate("lmstudio-community/Hello-GGUF", "x").response == HELLO
        assert len(names(client)) == 2
    assert snapshot(models) == before
