"""Making, copying and removing models with Ollama's client; servers that are killed in the middle of it, full disks, several
servers over one store."""
import hashlib
import http.client
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import ollama
import pytest

from .bridge import PATIENCE, Bridge, program
from .parts import split_gguf

HELLO = "Hello world! Grün 🙂"


def statuses(stream):
    return [step.status for step in stream]


def files_below(path):
    return sorted(str(p.relative_to(path)) for p in Path(path).rglob("*") if not p.is_dir())


def check_store(own):
    """Every blob is what its name says, every manifest has its blobs, nothing is half there."""
    for blob in (own / "blobs").glob("*"):
        assert blob.name == "sha256-" + hashlib.sha256(blob.read_bytes()).hexdigest()
    found = []
    for path in (own / "manifests").rglob("*"):
        if path.is_dir():
            continue
        manifest = json.loads(path.read_text())
        for layer in [manifest["config"], *manifest["layers"]]:
            assert (own / "blobs" / layer["digest"].replace(":", "-")).stat().st_size == layer["size"]
        found.append(path.parent.name)
    return found


# ---- with the client


def test_a_model_from_another_one(client, own, tiny_models):
    steps = statuses(client.create("mine", from_="tiny-hello", system="Be kind.", parameters={"num_predict": 2}, stream=True,
                                   messages=[{"role": "user", "content": "a"}], license="MIT"))
    assert steps[-2:] == ["writing manifest", "success"]
    shown = client.show("mine")
    assert "SYSTEM Be kind." in shown.modelfile and "MESSAGE user a" in shown.modelfile and shown.license == "MIT"
    assert "num_predict" in shown.parameters
    assert client.generate("mine", "x").eval_count == 2
    assert client.generate("mine", "x", options={"num_predict": 100}).response == HELLO
    check_store(own)
    # weights are shared, not copied
    blob = next(b for b in (own / "blobs").glob("*") if b.stat().st_size > 100000)
    assert blob.stat().st_ino == (tiny_models / "tiny-hello/model.safetensors").stat().st_ino or blob.stat().st_nlink == 1


def test_num_ctx_of_a_model_is_what_it_is_loaded_with(client, server):
    client.create("small", from_="tiny-hello", parameters={"num_ctx": 512})
    client.generate("small", "x")
    assert [m["context_length"] for m in server.json("GET", "/api/ps")["models"]] == [512]


def test_the_digest_is_that_of_the_manifest_and_a_copy_has_the_same(client, own):
    client.create("a", from_="tiny-hello", system="S")
    client.copy("a", "b:2")
    digests = {m.model: m.digest for m in client.list().models}
    manifest = own / "manifests/registry.ollama.ai/library/a/latest"
    assert digests["a:latest"] == digests["b:2"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_the_files_of_a_directory(client, own, tiny_models):
    files = {f.name: client.create_blob(f) for f in sorted((tiny_models / "tiny-hello").iterdir())}
    assert statuses(client.create("files", files=files, stream=True))[-1] == "success"
    assert client.generate("files", "x").response == HELLO
    del files["config.json"]
    with pytest.raises(ollama.ResponseError, match="config.json") as problem:
        client.create("other", files=files)
    assert problem.value.status_code == 400
    assert check_store(own) == ["files"]


@pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")
def test_a_gguf_file(client, own):
    digest = client.create_blob(os.environ["LM_E2E_GGUF"])
    steps = list(client.create("real", files={"model.gguf": digest}, parameters={"temperature": 0}, stream=True))
    assert steps[0].status == "parsing GGUF" and steps[-1].status == "success"
    converting = [s for s in steps if s.status == "converting model"]
    assert converting[-1].completed == converting[-1].total > 10_000_000
    assert client.generate("real", "The capital of France is", options={"num_predict": 4}).response
    assert check_store(own) == ["real"]


@pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")
def test_a_gguf_file_in_parts_is_the_same_model(server, client, own, tmp_path):
    client.create("whole", files={"model.gguf": client.create_blob(os.environ["LM_E2E_GGUF"])})
    parts = split_gguf(os.environ["LM_E2E_GGUF"], tmp_path, 3)
    files = {p.name: client.create_blob(p) for p in reversed(parts)}
    assert statuses(client.create("parts", files=files, stream=True))[-1] == "success"
    digests = {m.model: m.digest for m in client.list().models}
    assert digests["whole:latest"] == digests["parts:latest"]
    for wrong, why in (({k: v for k, v in files.items() if "-00002-" not in k}, "part 2 is missing"),
                       ({**files, "mmproj.gguf": files[parts[0].name]}, "are both part 1 of 3"),
                       ({parts[0].name: files[parts[0].name]}, "give all of them"),
                       ({**files, "README.md": files[parts[0].name]}, "README.md")):
        with pytest.raises(ollama.ResponseError, match=why) as problem:
            client.create("wrong", files=wrong)
        assert problem.value.status_code == 400
    assert check_store(own) == ["parts", "whole"] or check_store(own) == ["whole", "parts"]

    command = [program(), "import", "--models", str(tmp_path / "store")]
    made = subprocess.run([*command, str(parts[0]), "mine"], capture_output=True, text=True, timeout=PATIENCE)
    assert made.returncode == 0, made.stderr
    weights = Path(made.stdout.strip()) / "model.safetensors"
    whole = next(b for b in (own / "blobs").iterdir() if b.name.endswith(hashlib.sha256(weights.read_bytes()).hexdigest()))
    assert whole.stat().st_size > 10_000_000
    parts[2].unlink()
    made = subprocess.run([*command, str(parts[0]), "other"], capture_output=True, text=True, timeout=PATIENCE)
    assert made.returncode and "model-00003-of-00003.gguf is missing" in made.stderr and made.stderr.count("\n") == 1


def test_deleting_frees_what_nobody_else_names(client, own):
    client.create("a", from_="tiny-hello", system="one")
    client.create("b", from_="a", system="two")
    blobs = len(list((own / "blobs").iterdir()))
    client.generate("a", "x")
    client.delete("a")
    assert client.generate("b", "x").response == HELLO
    assert len(list((own / "blobs").iterdir())) == blobs - 2  # its system and its config
    client.delete("b")
    assert files_below(own) == [".lock", ".users"]
    with pytest.raises(ollama.ResponseError) as problem:
        client.delete("b")
    assert (problem.value.status_code, problem.value.error) == (404, "model 'b' not found")


def test_a_replaced_model_is_the_new_one_at_once(client):
    client.create("a", from_="tiny-hello")
    assert client.generate("a", "x").response == HELLO
    client.create("a", from_="tiny-hello", parameters={"num_predict": 1})
    assert client.generate("a", "x").response == "Hello"


# ---- uploads


def upload_head(bridge, data, length):
    digest = hashlib.sha256(data).hexdigest()
    c = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    c.putrequest("POST", f"/api/blobs/sha256:{digest}")
    c.putheader("Content-Length", str(length))
    c.endheaders()
    return c


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_upload_is_not_kept_in_memory(server, own):
    block = random.Random(1).randbytes(1 << 20)
    n, sha = 200, hashlib.sha256()
    for _ in range(n):
        sha.update(block)

    def peak():
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    before = peak()
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    c.request("POST", f"/api/blobs/sha256:{sha.hexdigest()}", (block for _ in range(n)), {"Transfer-Encoding": "chunked"},
              encode_chunked=True)
    assert c.getresponse().status == 201
    assert peak() - before < 50_000  # KB, of 200 MB
    assert (own / "blobs" / f"sha256-{sha.hexdigest()}").stat().st_size == n << 20


def test_an_upload_that_ends_early_leaves_nothing(server, own):
    c = upload_head(server, b"x", 1000000)
    c.send(b"y" * 500000)
    c.close()
    end = time.monotonic() + PATIENCE
    while files_below(own / "work") and time.monotonic() < end:
        time.sleep(0.02)
    assert not files_below(own / "work") and not files_below(own / "blobs")


def test_more_than_the_disk_holds_is_refused_before_it_comes(server):
    c = upload_head(server, b"x", 1 << 60)
    answer = c.getresponse()
    assert answer.status == 507 and "free some space" in json.loads(answer.read())["error"]
    c.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process is Linux'")
def test_a_disk_that_fills_up_is_an_error_and_nothing_is_lost(server, client, own):
    """A limit of file sizes stands for the full disk: each write beyond it fails."""
    client.create("kept", from_="tiny-hello", system="one")
    before = files_below(own)
    limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    data = b"z" * 3_000_000
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    status, _, text = server.request("POST", "/api/blobs/sha256:" + hashlib.sha256(data).hexdigest(), data)
    assert status == 507 and "free some space" in json.loads(text)["error"]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100, limit[1]))
    status, _, text = server.request("POST", "/api/create", {"model": "new", "from": "kept", "system": "s" * 200, "stream": False})
    assert status == 507, text
    assert files_below(own) == before
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
    client.create("new", from_="kept", system="s" * 200)
    assert client.show("kept").modelfile.count("SYSTEM one") == 1 and client.generate("new", "x").response == HELLO


def test_a_client_that_leaves_ends_its_create(server, own, tmp_path):
    """The rest of a long file is not read for nobody."""
    big = tmp_path / "roots" / "big"
    big.mkdir(parents=True)
    (big / "config.json").write_text("{}")
    header = json.dumps({"x": {"dtype": "F32", "shape": [16 << 30], "data_offsets": [0, 64 << 30]}}).encode()
    with open(big / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + (64 << 30))  # a hole: takes no room, and minutes to read
    with Bridge("--root", str(big.parent), store=tmp_path / "own") as server:
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        c.request("POST", "/api/create", json.dumps({"model": "x", "from": "big"}))
        assert b'"status":"reading big:latest"' in c.getresponse().readline()
        c.close()
        end = time.monotonic() + PATIENCE
        while files_below(tmp_path / "own") != [".lock", ".users"]:
            assert time.monotonic() < end, files_below(tmp_path / "own")
            time.sleep(0.02)


# ---- killed at any moment

UPLOADED = bytes(1_000_000)
BLOB = "sha256-" + hashlib.sha256(UPLOADED).hexdigest()
STEPS = [
    ("POST", f"/api/blobs/{BLOB}", UPLOADED),
    ("POST", "/api/create", {"model": "a", "from": "tiny-hello", "system": "one", "stream": False}),
    ("POST", "/api/copy", {"source": "a", "destination": "b"}),
    ("POST", "/api/create", {"model": "a", "from": "a", "system": "two", "parameters": {"top_k": 1}, "stream": False}),
    ("DELETE", "/api/delete", {"model": "b"}),
    ("POST", "/api/create", {"model": "c", "from": "a", "messages": [{"role": "user", "content": "x"}], "stream": False}),
    ("DELETE", "/api/delete", {"model": "a"}),
    ("POST", "/api/create", {"model": "d", "from": "tiny-hello", "quantize": "q8_0", "stream": False}),
]


def go_round(port, seed):
    """The same steps again and again, until the server is gone."""
    at = seed
    while True:
        method, path, body = STEPS[at % len(STEPS)]
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            c.request(method, path, body if isinstance(body, bytes) else json.dumps(body))
            c.getresponse().read()
            c.close()
        except (OSError, http.client.HTTPException):
            return
        at += 1


def test_a_server_killed_at_any_moment_leaves_a_sound_store(tiny_models, tmp_path):
    dice = random.Random(20)
    own = tmp_path / "own"
    for turn in range(int(os.environ.get("LM_E2E_KILLS", "25"))):
        server = Bridge(roots=[tiny_models], store=own)
        threads = [threading.Thread(target=go_round, args=(server.port, turn + i)) for i in range(2)]
        for t in threads:
            t.start()
        time.sleep(dice.uniform(0, 0.12))
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        for t in threads:
            t.join()
        server.home.cleanup()
        check_store(own)
    with Bridge(roots=[tiny_models], store=own) as server:
        client = ollama.Client(server.url)
        for model in client.list().models:
            if (own / "manifests/registry.ollama.ai/library" / model.model.split(":")[0]).exists():
                assert client.generate(model.model, "x").response == HELLO
        for method, path, body in STEPS:
            status, _, text = server.request(method, path, body)
            assert status in (200, 201), (path, text)
        for name in check_store(own):
            client.delete(name)
        assert files_below(own) == [".lock", ".users", f"blobs/{BLOB}"]  # the upload waits for its create


def test_several_servers_over_one_store(tiny_models, tmp_path):
    own = tmp_path / "own"
    servers = [Bridge(roots=[tiny_models], store=own) for _ in range(2)]
    problems = []

    def work(server, number):
        client = ollama.Client(server.url)
        try:
            for i in range(6):
                client.create("shared", from_="tiny-hello", system=f"{number} {i}")
                client.create(f"mine{number}", from_="tiny-hello", system=f"{number} {i}")
                assert client.show(f"mine{number}").modelfile.count(f"SYSTEM {number} {i}\n") == 1
                if i % 2:
                    client.delete(f"mine{number}")
        except Exception as problem:  # noqa: BLE001 - told by the thread that can fail the test
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(servers[i % 2], i)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems
    assert check_store(own) == ["shared"]
    for server in servers:
        server.__exit__()


@pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")
def test_import_of_the_command_line_is_one_of_the_stores_models(tmp_path):
    command = [program(), "import", os.environ["LM_E2E_GGUF"], "real", "--models", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and (Path(done.stdout.strip()) / "config.json").exists()
    assert check_store(tmp_path) == ["real"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert again.returncode == 1 and "exists already" in again.stderr
