"""Pulling from a stand-in hub and registry on loopback: what arrives, what is told, and what may go wrong on the way."""
import hashlib
import json
import os
import resource
import shutil
import subprocess
import threading
import time

import pytest

from . import stores
from .bridge import Bridge, program
from .parts import split_gguf
from .standin_hub import LARGE, Hub, chunked, drop, other, slow, status, zipped
from .test_javascript import MODULES

NAME = "org/tiny-hello"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def pull(server, name=NAME, **more):
    code, _, text = server.request("POST", "/api/pull", {"model": name, **more})
    assert code == 200, text
    return [json.loads(line) for line in text.splitlines()]


def said(server, name=NAME):
    body = {"model": name, "messages": [{"role": "user", "content": "x"}], "stream": False, "options": {"num_predict": 20}}
    return server.json("POST", "/api/chat", body)["message"]["content"]


def served(store, hub, **env):
    return Bridge(store=store, env=hub.env(**env))


def total_sent(hub):
    return sum(hub.sent.values())


def test_a_pulled_model_answers(tiny_models, store):
    with Hub(redirect=True, compressed=True) as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        lines = pull(server)
        assert lines[0] == {"status": "pulling manifest"}
        assert [l["status"] for l in lines[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
        layers = [l for l in lines if "digest" in l]
        for l in layers:
            assert l["status"] == "pulling " + l["digest"].removeprefix("sha256:")[:12] and l["total"] > 0
        done = {l["digest"]: l.get("completed", 0) == l["total"] for l in layers}
        assert done and all(done.values())
        assert said(server).startswith("Hello world!")
        assert [m["name"] for m in server.json("GET", "/api/tags")["models"]] == [NAME + ":latest"]

        before = total_sent(hub)
        lines = pull(server)  # all of it is there
        assert lines[-1] == {"status": "success"} and total_sent(hub) == before
        assert server.json("POST", "/api/pull", {"name": NAME, "stream": False}) == {"status": "success"}


def test_aliases_try_their_repositories_in_order(tiny_models, store, tmp_path):
    config = tmp_path / "config" / "mlx-ollama"
    config.mkdir(parents=True)
    (config / "aliases.ini").write_text("[aliases]\nhello:1b = org/not-there, org/tiny-hello\n[default-tags]\nhello = 1b\n")
    with Hub() as hub, served(store, hub, XDG_CONFIG_HOME=str(tmp_path / "config")) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        assert pull(server, "hello")[-1] == {"status": "success"}
        assert said(server, "hello").startswith("Hello")


def test_an_embedder_brings_its_folder_of_pooling(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo("org/embed", tiny_models / "tiny-embed")
        assert "1_Pooling/config.json" in hub.repos["org/embed"]
        assert pull(server, "org/embed")[-1] == {"status": "success"}
        assert hub.of("1_Pooling/config.json")
        assert server.json("POST", "/api/embed", {"model": "org/embed", "input": "x"})["embeddings"][0]


def test_create_fetches_the_model_that_it_is_made_from(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        code, _, text = server.request("POST", "/api/create", {"model": "mine", "from": NAME, "system": "Be kind."})
        statuses = [json.loads(line)["status"] for line in text.splitlines()]
        assert code == 200 and statuses[0] == "pulling manifest" and statuses[-1] == "success"
        assert said(server, "mine").startswith("Hello") and said(server).startswith("Hello")
        code, _, text = server.request("POST", "/api/create", {"model": "other", "from": "org/not-there"})
        assert code == 200 and json.loads(text.splitlines()[-1]) == {"error": "pull model manifest: file does not exist"}


def test_a_name_may_pin_a_revision(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        assert pull(server, f"hf.co/{NAME}:v1")[-1] == {"status": "success"}
        assert said(server, f"hf.co/{NAME}:v1").startswith("Hello")
        assert pull(server, f"hf.co/{NAME}:v2")[-1] == {"error": "pull model manifest: file does not exist"}


def test_unknown_models_fail_as_with_ollama(store):
    with Hub() as hub, served(store, hub) as server:
        text = "pull model manifest: file does not exist"
        assert pull(server, "org/none") == [{"status": "pulling manifest"}, {"error": text}]
        assert server.json("POST", "/api/pull", {"model": "org/none", "stream": False}, 500) == {"error": text}


def test_drops_and_busy_servers_are_outlasted(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.faults["listing"] = [status(503), status(429, retry_after=1)]
        size = len(hub.repos[NAME]["model.safetensors"])
        hub.faults["model.safetensors"] = [drop(size // 3), status(503), status(429, retry_after=1), drop(1000), drop(0)]
        started = time.monotonic()
        assert pull(server)[-1] == {"status": "success"}
        assert time.monotonic() - started >= 2  # it waited as it was told
        assert hub.sent["model.safetensors"] == size  # nothing twice
        assert said(server).startswith("Hello")


def test_a_server_without_ranges_begins_again(tiny_models, store):
    with Hub(ranges=False) as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.faults["model.safetensors"] = [drop(1000)]
        assert pull(server)[-1] == {"status": "success"}
        assert said(server).startswith("Hello")


def test_a_long_wait_is_an_error(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.faults["listing"] = [status(429, retry_after=3600)]
        assert "too many requests" in pull(server)[-1]["error"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_wrong_content_is_refused_and_fetched_anew(tiny_models, store, file):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        right = hub.repos[NAME][file]
        digest = hub.listing(NAME)
        hub.listing = lambda repo: digest
        hub.repos[NAME][file] = right[:-1] + bytes([right[-1] ^ 1])
        assert "digest mismatch" in pull(server)[-1]["error"]
        assert server.json("GET", "/api/tags")["models"] == []
        hub.repos[NAME][file] = right
        assert pull(server)[-1] == {"status": "success"}
        assert said(server).startswith("Hello")


@pytest.mark.parametrize("more", [1, -1])
def test_a_wrong_size_is_refused(tiny_models, store, more):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        listing = hub.listing(NAME)
        hub.listing = lambda repo: listing
        data = hub.repos[NAME]["model.safetensors"]
        hub.repos[NAME]["model.safetensors"] = data + b"x" if more > 0 else data[:-1]
        assert "announced" in pull(server)[-1]["error"]


def test_hostile_names_are_left_out_and_lies_refused(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.lies["extra"] = [{"rfilename": n, "size": 1, "blobId": "0" * 40} for n in
                             ("../config.json", "/etc/config.json", "a/../../tokenizer.json", "tokenizer\n.json",
                              ".tokenizer.json", "tokenizer\u0000.json", "c:\\tokenizer.json", "pytorch_model.bin")]
        assert pull(server)[-1] == {"status": "success"}
        assert not any(".." in r["path"] for r in hub.requests)
        hub.lies["extra"] = [{"rfilename": "tokenizer_more.json", "size": -1, "blobId": "0" * 40}]
        assert "no size" in pull(server)[-1]["error"]
        hub.lies["extra"] = [{"rfilename": "tokenizer_more.json", "size": 1 << 60, "blobId": "0" * 40}]
        assert "no size" in pull(server)[-1]["error"]
        hub.lies["extra"] = [{"rfilename": "x.safetensors", "lfs": {"sha256": "0" * 64, "size": 1 << 43}}]
        assert "GB are needed" in pull(server)[-1]["error"]
        hub.lies["extra"] = ["x" * (40 << 20)]
        assert "larger than expected" in pull(server)[-1]["error"]


def test_the_token_goes_to_the_hub_alone(tiny_models, store):
    with Hub(token="secret", redirect=True) as hub:
        hub.repo(NAME, tiny_models / "tiny-hello")
        with served(store, hub) as server:
            assert "HF_TOKEN" in pull(server)[-1]["error"]
        with served(store, hub, HF_TOKEN="secret") as server:
            assert pull(server)[-1] == {"status": "success"}
        assert [r for r in hub.requests if r["cdn"]] and not any(r["token"] for r in hub.requests if r["cdn"])
        hub.faults["listing"] = [status(403, error="GatedRepo")]
        with served(store, hub, HF_TOKEN="secret") as server:
            assert "accept its licence" in pull(server)[-1]["error"]


def test_offline_means_offline(store):
    with Hub() as hub, served(store, hub, HF_HUB_OFFLINE="1") as server:
        assert "HF_HUB_OFFLINE" in pull(server)[-1]["error"]
        assert not hub.requests


def test_two_clients_get_one_download(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.faults["model.safetensors"] = [slow(65536, 0.02)]
        ends = []
        threads = [threading.Thread(target=lambda: ends.append(pull(server)[-1])) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert ends == [{"status": "success"}] * 3
        assert len(hub.of("model.safetensors")) == 1


def begin_and_wait(server, hub, size):
    """A pull in another thread, once a third of the weights is there."""
    def quiet():
        try:
            pull(server)
        except (OSError, AssertionError, ValueError, Exception):
            pass
    thread = threading.Thread(target=quiet)
    thread.start()
    while hub.sent.get("model.safetensors", 0) < size // 3:
        time.sleep(0.01)
    return thread


def test_a_killed_server_goes_on_where_it_was(tiny_models, store):
    with Hub() as hub:
        hub.repo(NAME, tiny_models / "tiny-hello")
        size = len(hub.repos[NAME]["model.safetensors"])
        hub.faults["model.safetensors"] = [slow(size // 30, 0.05)]
        server = served(store, hub)
        thread = begin_and_wait(server, hub, size)
        server.process.kill()
        server.process.wait()
        thread.join()
        server.home.cleanup()
        with served(store, hub) as server:
            assert server.json("GET", "/api/tags")["models"] == []
            assert pull(server)[-1] == {"status": "success"}
            assert said(server).startswith("Hello")
        again = hub.of("model.safetensors")[-1]["range"]
        assert again and int(again.removeprefix("bytes=").rstrip("-")) >= size // 5


def test_a_client_who_leaves_ends_the_pull(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        size = len(hub.repos[NAME]["model.safetensors"])
        hub.faults["model.safetensors"] = [slow(size // 60, 0.05)]
        client = subprocess.Popen(["curl", "-sN", server.url + "/api/pull", "-d", json.dumps({"model": NAME})],
                                  stdout=subprocess.DEVNULL)
        while hub.sent.get("model.safetensors", 0) < size // 10:
            time.sleep(0.01)
        client.kill()
        client.wait()
        assert pull(server)[-1] == {"status": "success"}  # waits for the first one, which ends, and goes on
        assert len(hub.of("model.safetensors")) == 2 and hub.of("model.safetensors")[-1]["range"]
        assert said(server).startswith("Hello")


def command(store, hub, *arguments, **options):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "OLLAMA_"))}
    env.update(hub.env(), HOME=str(store.parent))
    return subprocess.run([program(), "pull", *arguments, "--models", str(store)], env=env, capture_output=True, text=True, **options)


def test_a_full_disk_is_an_error_and_the_next_pull_goes_on(tiny_models, store):
    with Hub() as hub:
        hub.repo(NAME, tiny_models / "tiny-hello")
        size = len(hub.repos[NAME]["model.safetensors"])
        limit = size // 2
        done = command(store, hub, NAME, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        assert done.returncode == 1 and "free some space" in done.stderr, done.stderr
        done = command(store, hub, NAME)
        assert done.returncode == 0 and done.stderr.endswith("success\n"), done.stderr
        assert hub.of("model.safetensors")[-1]["range"]


def test_kills_at_any_moment_leave_a_whole_store(tiny_models, store):
    with Hub(redirect=True) as hub:
        hub.repo(NAME, tiny_models / "tiny-hello")
        size = len(hub.repos[NAME]["model.safetensors"])
        whole = 0
        for i in range(12):
            hub.faults["model.safetensors"] = [slow(size // 40, 0.005)]
            env = {**os.environ, **hub.env(), "HOME": str(store.parent)}
            victim = subprocess.Popen([program(), "pull", NAME, "--models", str(store)], env=env, stderr=subprocess.DEVNULL)
            time.sleep(0.02 + 0.015 * i)
            victim.kill()
            victim.wait()
            listed = subprocess.run([program(), "list", "--models", str(store)], env=env, capture_output=True, text=True)
            assert listed.returncode == 0, listed.stderr
            if len(listed.stdout.splitlines()) > 1:
                whole += 1
                shutil.rmtree(store)
        assert command(store, hub, NAME).returncode == 0
        with served(store, hub) as server:
            assert said(server).startswith("Hello")
        # what was on its way in a socket when the process died comes twice, nothing else
        assert hub.sent["model.safetensors"] < (whole + 3) * size


def test_the_command_line_pulls(tiny_models, store):
    with Hub() as hub:
        hub.repo(NAME, tiny_models / "tiny-hello")
        done = command(store, hub, NAME)
        assert done.returncode == 0 and "100 %" in done.stderr, done.stderr
        done = command(store, hub, "org/none")
        assert done.returncode == 1 and "file does not exist" in done.stderr
        assert command(store, hub).returncode == 2


def test_the_python_client_pulls(tiny_models, store):
    ollama = pytest.importorskip("ollama")
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        client = ollama.Client(host=server.url)
        steps = list(client.pull(NAME, stream=True))
        assert steps[0].status == "pulling manifest" and steps[-1].status == "success"
        assert client.pull(NAME).status == "success"
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            client.pull("org/none")


SCRIPT = """
import assert from "node:assert/strict";
import { Ollama } from "ollama";
const ollama = new Ollama({ host: process.argv[1] });
const steps = [];
for await (const step of await ollama.pull({ model: process.argv[2], stream: true })) steps.push(step.status);
assert.equal(steps[0], "pulling manifest");
assert.equal(steps.at(-1), "success");
assert.equal((await ollama.pull({ model: process.argv[2] })).status, "success");
await assert.rejects(ollama.pull({ model: "org/none" }), /file does not exist/);
"""


def test_the_javascript_client_pulls(tiny_models, store, tmp_path):
    if not shutil.which("node") or not (MODULES / "ollama").exists():
        pytest.skip("node, or `npm ci` in tests/e2e, is missing")
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        done = subprocess.run(["node", "--input-type=module", "-e", SCRIPT, server.url, NAME], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")
def test_a_quantised_form_in_parts_is_pulled_whole(store, tmp_path):
    repo = tmp_path / "repo"
    (repo / "Q4_1").mkdir(parents=True)
    parts = split_gguf(os.environ["LM_E2E_GGUF"], repo / "Q4_1", 2, "small-Q4_1")
    (repo / "small-Q2_K.gguf").write_bytes(b"GGUF" + bytes(LARGE))
    with Hub() as hub, served(store, hub) as server:
        hub.repo("org/parts", repo)
        size = parts[1].stat().st_size
        hub.faults["Q4_1/" + parts[1].name] = [drop(size // 2)]
        assert pull(server, "org/parts:Q4_1")[-1] == {"status": "success"}
        assert not hub.of("small-Q2_K.gguf") and said(server, "org/parts:Q4_1")
        before = total_sent(hub)
        assert pull(server, "org/parts:Q4_1")[-1] == {"status": "success"}
        assert total_sent(hub) == before
        del hub.repos["org/parts"]["Q4_1/" + parts[0].name]
        assert "no part 1" in pull(server, "org/parts:q4_1")[-1]["error"]


# ---- what may go wrong with a file, on a hub and in a registry


@pytest.fixture(params=["hub", "registry"])
def offered(request, tiny_models, store):
    """(server, stand-in, name, what the faults of the weights go by)"""
    with Hub(redirect=request.param == "hub") as hub, served(store, hub) as server:
        directory = tiny_models / "tiny-hello"
        if request.param == "hub":
            hub.repo(NAME, directory)
            yield server, hub, NAME, "model.safetensors"
        else:
            hub.files("me/hello:latest", directory)
            yield server, hub, f"http://{hub.host}/me/hello", "sha256:" + hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def test_a_file_without_a_length_is_taken(offered):
    server, hub, name, weights = offered
    hub.faults[weights] = [chunked()]
    assert pull(server, name)[-1] == {"status": "success"}
    assert said(server, name.removeprefix("http://")).startswith("Hello")


@pytest.mark.parametrize("faults, words", [
    ([zipped()], "announced"), ([other()], "digest mismatch"), ([drop(100000), other()], "digest mismatch"), ([status(416)], "416"),
    ([status(401)], "401"), ([status(404)], "does not exist"), ([status(429, retry_after=3600)], "too many requests"),
])
def test_what_cannot_be_right_is_refused_and_the_next_pull_succeeds(offered, faults, words):
    server, hub, name, weights = offered
    hub.faults[weights] = list(faults)
    assert words in pull(server, name)[-1]["error"]
    assert server.json("GET", "/api/tags")["models"] == []
    assert pull(server, name)[-1] == {"status": "success"}
    assert said(server, name.removeprefix("http://")).startswith("Hello")


def test_a_file_goes_on_where_it_was(offered):
    server, hub, name, weights = offered
    hub.faults[weights] = [drop(1_000_000), status(503), drop(2_000_000), status(502)]
    assert pull(server, name)[-1] == {"status": "success"}
    assert [r["range"] for r in hub.of(weights, cdn=hub.redirect)] == [None, "bytes=1000000-", "bytes=1000000-", "bytes=3000000-", "bytes=3000000-"]


def test_listings_that_end_early(tiny_models, store):
    with Hub() as hub, served(store, hub) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        hub.faults["listing"] = [{"cut": 200}]
        assert "not a listing" in pull(server)[-1]["error"]
        hub.faults["listing"] = [drop(200), drop(0)]
        assert pull(server)[-1] == {"status": "success"}


# ---- what the Hugging Face tools have fetched


def test_what_lies_in_the_hubs_cache_is_not_fetched(tiny_models, store, tmp_path):
    blobs = tmp_path / "cache" / "models--org--tiny-hello" / "blobs"
    blobs.mkdir(parents=True)
    with Hub() as hub, served(store, hub, HF_HUB_CACHE=str(tmp_path / "cache")) as server:
        hub.repo(NAME, tiny_models / "tiny-hello")
        for entry in json.loads(hub.listing(NAME))["siblings"]:
            (blobs / entry.get("lfs", {}).get("sha256", entry["blobId"])).write_bytes(hub.repos[NAME][entry["rfilename"]])
        weights = blobs / hashlib.sha256(hub.repos[NAME]["model.safetensors"]).hexdigest()
        assert pull(server)[-1] == {"status": "success"}
        assert not hub.sent and said(server).startswith("Hello")
        assert weights.exists()  # it is still theirs

        server.request("DELETE", "/api/delete", {"model": NAME})
        assert weights.exists()
        right = weights.read_bytes()
        weights.unlink()  # it may be shared
        weights.write_bytes(bytes(len(right)))
        assert f"{weights} is not what its name promises: remove it" in pull(server)[-1]["error"]
        weights.write_bytes(right[:1000])  # not whole: not theirs yet
        assert pull(server)[-1] == {"status": "success"} and hub.sent["model.safetensors"] == len(right)


# ---- a registry

def test_a_model_of_a_registry_is_imported(store):
    gguf = os.environ.get("LM_E2E_GGUF")
    if not gguf:
        pytest.skip("LM_E2E_GGUF names no file")
    kind = "application/vnd.ollama.image."
    with open(gguf, "rb") as f:
        weights = f.read()
    with Hub() as hub, served(store, hub) as server:
        hub.model("me/small:one", [(kind + "model", weights), (kind + "system", b"You are a parrot."),
                                   (kind + "params", b'{"temperature":0,"stop":["<|im_end|>"]}'),
                                   (kind + "license", b"Do as you like.")])
        name = f"http://{hub.host}/me/small:one"
        hub.faults[next(d for d, b in hub.blobs.items() if b == weights)] = [drop(len(weights) // 2)]
        assert pull(server, name)[-1] == {"status": "success"}
        shown = server.json("POST", "/api/show", {"model": f"{hub.host}/me/small:one"})
        assert shown["system"] == "You are a parrot." and shown["license"] == "Do as you like."
        assert "temperature" in shown["parameters"]
        assert said(server, f"{hub.host}/me/small:one")
        before = total_sent(hub)
        assert pull(server, name)[-1] == {"status": "success"}
        assert total_sent(hub) == before
        assert pull(server, f"http://{hub.host}/me/none:one")[-1] == {"error": "pull model manifest: file does not exist"}


@pytest.mark.parametrize("quantised", [False, True])
def test_a_model_in_tensors_is_pulled_and_told_as_one(tiny_models, store, tmp_path, quantised):
    """As Ollama's own MLX models are: a layer for each tensor."""
    made = stores.Ollama(tmp_path / "ollama")
    layers = made.mlx_layers(tiny_models / "tiny-hello", quantised)
    system = made.layer("system", "Be kind.")
    with Hub() as hub, served(store, hub) as server:
        hub.model("me/tensors:latest", [(l["mediaType"], made.blob_path(l).read_bytes()) for l in [*layers, system]],
                  names=[l.get("name", "") for l in [*layers, system]])
        name = f"http://{hub.host}/me/tensors"
        hub.faults[layers[0]["digest"]] = [drop(1000), status(503)]
        lines = pull(server, name)
        assert lines[0] == {"status": "pulling manifest"} and lines[-2:] == [{"status": "writing manifest"}, {"status": "success"}]
        told = [l for l in lines if "digest" in l]
        assert {(l["status"], l["digest"]) for l in told} == {("pulling model", "sha256:model")} and told[-1]["completed"] == told[-1]["total"]
        assert said(server, f"{hub.host}/me/tensors").startswith("Hello world")
        assert server.json("POST", "/api/show", {"model": f"{hub.host}/me/tensors"})["system"] == "Be kind."
        before = total_sent(hub)
        assert pull(server, name)[-1] == {"status": "success"} and total_sent(hub) == before
        hub.model("me/bad:latest", [("application/vnd.ollama.image.tensor", b"x")], names=["../../x"])
        assert "error" in pull(server, f"http://{hub.host}/me/bad")[-1]
        assert [m["name"] for m in server.json("GET", "/api/tags")["models"]] == [f"{hub.host}/me/tensors:latest"]


def test_registries_that_lie_are_refused(store):
    kind = "application/vnd.ollama.image."
    with Hub() as hub, served(store, hub) as server:
        name = f"http://{hub.host}/me/x:latest"
        hub.model("me/x:latest", [(kind + "tensor", b"x")])
        assert "has no name" in pull(server, name)[-1]["error"]
        hub.model("me/x:latest", [(kind + "projector", b"x")])
        assert "cannot be imported" in pull(server, name)[-1]["error"]
        hub.manifests["me/x:latest"] = b"x" * (5 << 20)
        assert "larger than expected" in pull(server, name)[-1]["error"]
        hub.manifests["me/x:latest"] = b'{"layers":[{"mediaType":"a","digest":"sha256:../../x","size":1}]}'
        assert "not a manifest" in pull(server, name)[-1]["error"]
        hub.model("me/x:latest", [(kind + "model", b"GGUF" + b"x" * 100)])
        assert "error" in pull(server, name)[-1]
        assert server.json("GET", "/api/tags")["models"] == []
