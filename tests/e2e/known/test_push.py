"""Pushing to a stand-in hub and registry on loopback: what arrives, what is told, and what may go wrong on the way."""
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from .bridge import Bridge, program
from .standin_hub import Hub, drop, status
from .standin_uploads import lose, make_key
from .test_javascript import MODULES
from .test_pull import pull, said

REPO = "me/tiny-hello"
PART = {"MLX_BRIDGE_PUSH_PART": "65536"}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def served(tiny_models, store, tmp_path):
    """served(hub) is a server that has the tiny models, and a copy of one of them under the names given."""
    servers = []

    def make(hub, *names, source="tiny-hello", **env):
        server = Bridge(roots=[tiny_models], store=store, env=hub.env(**{**PART, **env}))
        servers.append(server)
        for name in names:
            server.json("POST", "/api/copy", {"source": source, "destination": name})
        return server

    yield make
    for server in servers:
        server.__exit__()


def push(server, name, **more):
    code, _, text = server.request("POST", "/api/push", {"model": name, **more})
    assert code == 200, text
    return [json.loads(line) for line in text.splitlines()]


def weights(tiny_models, name="tiny-hello"):
    return (tiny_models / name / "model.safetensors").read_bytes()


def files_of(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


# ---- a registry


def test_a_pushed_model_comes_back_from_a_registry(tiny_models, served):
    with Hub() as hub:
        name = f"{hub.host}/me/hello:v1"
        server = served(hub, name)
        lines = push(server, f"http://{name}")
        assert lines[0] == {"status": "retrieving manifest"}
        assert [l["status"] for l in lines[-2:]] == ["pushing manifest", "success"]
        layers = [l for l in lines if "digest" in l]
        for l in layers:
            assert l["status"] == "pushing " + l["digest"].removeprefix("sha256:")[:12] and l["total"] > 0
        done = {l["digest"]: l.get("completed", 0) == l["total"] for l in layers}
        manifest = json.loads(hub.manifests["me/hello:v1"])
        assert set(done) == {l["digest"] for l in [*manifest["layers"], manifest["config"]]} and all(done.values())
        assert hashlib.sha256(weights(tiny_models)).hexdigest() in [d.removeprefix("sha256:") for d in hub.blobs]
        assert hub.etags and len([r for r in hub.requests if r["method"] == "PATCH"]) > len(done)  # in parts
        local = next(m for m in server.json("GET", "/api/tags")["models"] if m["name"] == name)
        assert local["digest"] == hashlib.sha256(hub.manifests["me/hello:v1"]).hexdigest()

        taken = hub.taken
        assert push(server, f"http://{name}")[-1] == {"status": "success"}  # nothing but the manifest
        assert hub.taken - taken == len(hub.manifests["me/hello:v1"])

        server.request("DELETE", "/api/delete", {"model": name})
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        assert said(server, name).startswith("Hello")
        again = next(m for m in server.json("GET", "/api/tags")["models"] if m["name"] == name)
        assert again["digest"] == local["digest"]


def test_what_a_modelfile_says_goes_along(served):
    with Hub() as hub:
        server = served(hub)
        name = f"{hub.host}/me/kind:latest"
        server.request("POST", "/api/create", {"model": name, "from": "tiny-hello", "system": "Be kind.", "parameters": {"top_k": 3}})
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        server.request("DELETE", "/api/delete", {"model": name})
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        shown = server.json("POST", "/api/show", {"model": name})
        assert shown["system"] == "Be kind." and "top_k" in shown["parameters"]


def test_blobs_of_another_model_there_are_not_sent(tiny_models, served):
    with Hub() as hub:
        server = served(hub, f"{hub.host}/me/base")
        assert push(server, f"http://{hub.host}/me/base")[-1] == {"status": "success"}
        taken = hub.taken
        server.request("POST", "/api/create", {"model": f"{hub.host}/me/kind", "from": f"{hub.host}/me/base", "system": "Be kind."})
        assert push(server, f"http://{hub.host}/me/kind")[-1] == {"status": "success"}
        assert hub.taken - taken < len(weights(tiny_models)) // 4


def test_the_key_signs_in_and_its_token_goes_to_the_registry_alone(served, tmp_path):
    home = tmp_path / "home"
    with Hub() as hub:
        hub.key, hub.elsewhere = make_key(home), True
        name = f"{hub.host}/me/hello"
        server = served(hub, name, HOME=str(home))
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        assert hub.tokens_given == 1 and hub.scopes == ["repository:me/hello:pull,push"]
        moved = [r for r in hub.requests if r["cdn"]]
        assert moved and not any(r["token"] for r in moved)
        hub.tokens.clear()  # they run out
        server.request("DELETE", "/api/delete", {"model": name})
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        assert hub.tokens_given >= 2

        shutil.rmtree(home / ".ollama")
        hub.tokens.clear()
        server2 = push(server, f"http://{name}")[-1]["error"]
        assert "sign in" in server2 or "id_ed25519" in server2
        make_key(home)  # not the one that is known there
        assert "unknown key" in push(server, f"http://{name}")[-1]["error"]
        (home / ".ollama" / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
        assert "id_ed25519: the key is" in push(server, f"http://{name}")[-1]["error"]


def test_what_is_for_everybody_needs_no_key(served):
    with Hub() as hub:
        hub.key = "anybody"  # the token server is another host, which no signature may reach
        name = f"{hub.host}/me/hello"
        server = served(hub, name)
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        server.request("DELETE", "/api/delete", {"model": name})
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        assert hub.tokens_given == 1 or hub.tokens_given == 2


@pytest.mark.parametrize("keeps", [True, False])
def test_drops_and_busy_registries_are_outlasted(tiny_models, served, keeps):
    with Hub() as hub:
        hub.keeps = keeps
        name = f"{hub.host}/me/hello"
        server = served(hub, name, OLLAMA_MAX_TRANSFER_STREAMS="1")
        hub.faults.update(HEAD=[status(503), status(429, retry_after=1)], POST=[status(500)], manifest=[status(503), lose()],
                          PATCH=[drop(100), status(503), {}, status(429, retry_after=1), drop(50000), lose(), {"forget": True}],
                          PUT=[status(502), lose()])
        started = time.monotonic()
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        assert time.monotonic() - started >= 2
        assert not any(hub.faults.values())
        server.request("DELETE", "/api/delete", {"model": name})
        assert pull(server, f"http://{name}")[-1] == {"status": "success"}
        assert said(server, name).startswith("Hello")


def test_drops_on_the_way_to_the_cdn_are_outlasted(served):
    with Hub() as hub:
        hub.elsewhere = True
        name = f"{hub.host}/me/hello"
        server = served(hub, name)
        hub.faults["part"] = [drop(100), status(503)]
        assert push(server, f"http://{name}")[-1] == {"status": "success"}
        assert not hub.faults["part"]


@pytest.mark.parametrize("kind, fault, words", [
    ("HEAD", status(403), "namespace of your own"), ("POST", status(429, retry_after=3600), "too many requests"),
    ("PATCH", status(413), "no room"), ("PUT", {"damaged": True}, "did not match"), ("manifest", status(400), "400"),
])
def test_refusals_of_a_registry_are_told(served, kind, fault, words):
    with Hub() as hub:
        name = f"{hub.host}/me/hello"
        server = served(hub, name)
        hub.faults[kind] = [fault] * 20
        assert words in push(server, f"http://{name}")[-1]["error"]
        code, _, text = server.request("POST", "/api/push", {"model": f"http://{name}", "stream": False})
        assert code == 500 and words in json.loads(text)["error"]
        assert not hub.manifests
        hub.faults.clear()
        assert push(server, f"http://{name}")[-1] == {"status": "success"}


def test_errors_are_told_as_ollama_does(served):
    with Hub() as hub:
        server = served(hub)
        lines = push(server, "me/none")
        assert [l.get("status") for l in lines[:2]] == ["retrieving manifest", "couldn't retrieve manifest"] and "not found" in lines[2]["error"]
        assert server.json("POST", "/api/push", {}, 400) == {"error": "model is required"}
        server.json("POST", "/api/copy", {"source": "tiny-hello", "destination": "example.invalid/me/hello"})
        assert "insecure protocol http" in push(server, "http://example.invalid/me/hello")[-1]["error"]
        assert not hub.requests


# ---- the hub


def test_a_pushed_model_comes_back_from_the_hub(tiny_models, served):
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        lines = push(server, REPO)
        assert lines[0] == {"status": "retrieving manifest"} and [l["status"] for l in lines[-2:]] == ["pushing manifest", "success"]
        done = {l["digest"]: l.get("completed", 0) == l["total"] for l in lines if "digest" in l}
        assert done and all(done.values())
        there, here = hub.repos[REPO], files_of(tiny_models / "tiny-hello")
        assert {n: there[n] for n in here} == here and b"library_name: mlx" in there["README.md"]
        assert [r for r in hub.requests if r["cdn"]] and not any(r["token"] for r in hub.requests if r["cdn"])
        keys = [line["key"] for line in hub.commits[0][2]]
        assert "lfsFile" in keys and "file" in keys

        taken, commits = hub.taken, len(hub.commits)
        assert push(server, REPO)[-1] == {"status": "success"}  # nothing has changed
        assert hub.taken - taken < 10000 and len(hub.commits) == commits

        server.request("DELETE", "/api/delete", {"model": REPO})
        assert pull(server, REPO)[-1] == {"status": "success"}
        assert said(server, REPO).startswith("Hello")


def test_a_repository_that_is_there_gets_what_has_changed(tiny_models, served):
    with Hub(token="secret") as hub:
        hub.repo(REPO, tiny_models / "tiny")
        hub.repos[REPO].update({"README.md": b"# mine", "model-00001-of-00002.safetensors": b"x" * 9999, "picture.png": b"p"})
        server = served(hub, f"hf.co/{REPO}", HF_TOKEN="secret")
        assert push(server, f"hf.co/{REPO}")[-1] == {"status": "success"}
        there, here = hub.repos[REPO], files_of(tiny_models / "tiny-hello")
        assert {n: there[n] for n in here} == here
        assert there["README.md"] == b"# mine" and there["picture.png"] == b"p"
        assert "model-00001-of-00002.safetensors" not in there
        # what was the same is not in the commit
        same = [n for n in here if here[n] == files_of(tiny_models / "tiny").get(n)]
        assert same and not {line["value"].get("path") for line in hub.commits[0][2]} & set(same)


def test_large_files_go_in_the_parts_that_the_hub_wants(tiny_models, served):
    with Hub(token="secret") as hub:
        hub.chunk = 50000
        server = served(hub, REPO, HF_TOKEN="secret")
        hub.faults["lfs"] = [drop(100), status(503), {}, lose()]
        hub.faults["complete"] = [status(503)]
        assert push(server, REPO)[-1] == {"status": "success"}
        assert hub.repos[REPO]["model.safetensors"] == weights(tiny_models)
        assert not hub.faults["lfs"] and max(len(p) for p in hub.parts.values()) > 2


def test_drops_and_busy_hubs_are_outlasted(tiny_models, served):
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        hub.faults.update(listing=[status(503)], create=[lose(), status(503)], preupload=[status(429, retry_after=1)], batch=[status(500)],
                          lfs=[drop(1000), status(503), lose()], verify=[status(503)], commit=[status(503), lose()])
        assert push(server, REPO)[-1] == {"status": "success"}
        assert hub.repos[REPO]["model.safetensors"] == weights(tiny_models)


def test_what_has_no_place_in_a_repository_is_told(served):
    with Hub(token="secret") as hub:
        server = served(hub, HF_TOKEN="secret")
        server.request("POST", "/api/create", {"model": REPO, "from": "tiny-tuned", "system": "Be kind.", "parameters": {"top_k": 3}})
        statuses = [l.get("status") for l in push(server, REPO)]
        assert statuses[-1] == "success"
        assert {"leaving out system: a repository has no place for it", "leaving out params: a repository has no place for it"} <= set(statuses)
        assert hub.repos[REPO]["LICENSE"].startswith(b"Do as you like.") and "system" not in hub.repos[REPO]


@pytest.mark.parametrize("fault, words", [
    ({"create": status(403, error="not your organization")}, "not your organization"), ({"preupload": status(401)}, "HF_TOKEN"),
    ({"batch": status(429, retry_after=3600)}, "too many requests"), ({"lfs": status(403)}, "403"), ({"commit": status(412, error="try again")}, "try again"),
    ({"verify": status(404)}, "404"),
])
def test_refusals_of_the_hub_are_told(served, fault, words):
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        hub.faults.update({k: [v] * 20 for k, v in fault.items()})
        assert words in push(server, REPO)[-1]["error"]
        assert not hub.commits
        hub.faults.clear()
        assert push(server, REPO)[-1] == {"status": "success"}


@pytest.mark.parametrize("lie, words", [
    ({"actions": {"upload": {"href": "file:///etc/passwd"}}}, "where to send"), ({"actions": {"upload": {"href": 5}}}, "where to send"),
    ({"actions": {"upload": {"href": "https://x", "header": {"A": "b\r\nC: d"}}}}, "where to send"),
    ({"actions": {"upload": {"href": "https://x", "header": {"chunk_size": "1"}}}}, "where to send"),
    ({"error": {"code": 422, "message": "no quota"}}, "no quota"), ({"oid": "0" * 64}, "says nothing"),
])
def test_a_hub_that_lies_is_refused(served, lie, words):
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        hub.lies["batch"] = lie
        assert words in push(server, REPO)[-1]["error"]


def test_the_hub_wants_a_token(served):
    with Hub(token="secret") as hub:
        server = served(hub, REPO)
        assert "set HF_TOKEN" in push(server, REPO)[-1]["error"]
        assert not hub.requests
    with Hub(token="secret") as hub:
        server = served(hub, HF_TOKEN="wrong")
        assert "HF_TOKEN" in push(server, REPO)[-1]["error"] and REPO not in hub.repos


def test_offline_means_offline_for_a_push(served):
    with Hub() as hub:
        server = served(hub, REPO, HF_TOKEN="secret", HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE" in push(server, REPO)[-1]["error"] and not hub.requests


# ---- a push that ends early


def test_a_killed_push_goes_on_with_what_is_missing(tiny_models, served, store):
    with Hub(token="secret") as hub:
        served(hub, REPO, HF_TOKEN="secret")
        hub.slowness = 0.005
        env = {**os.environ, **hub.env(HF_TOKEN="secret", HOME=str(store.parent), OLLAMA_MAX_TRANSFER_STREAMS="1")}
        command = [program(), "push", REPO, "--models", str(store)]
        for sig, code in ((signal.SIGKILL, -9), (signal.SIGINT, 1)):
            before = len(hub.requests)
            victim = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
            while not any(r["method"] == "PUT" for r in hub.requests[before:]):
                time.sleep(0.005)
            victim.send_signal(sig)
            said_last = victim.communicate()[1]
            assert victim.returncode == code and (code < 0 or "push again to go on" in said_last)
            assert not hub.commits
        hub.slowness = 0
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.endswith("success\n") and "100 %" in done.stderr, done.stderr
        assert hub.repos[REPO]["model.safetensors"] == weights(tiny_models)


def test_the_command_line_pushes_and_tells_in_json(served, store):
    with Hub(token="secret") as hub:
        served(hub, REPO, f"{hub.host}/me/x")
        env = {**os.environ, **hub.env(HF_TOKEN="secret", HOME=str(store.parent))}
        done = subprocess.run([program(), "push", REPO, "--json", "--models", str(store)], env=env, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0 and lines[0] == {"status": "retrieving manifest"} and lines[-1] == {"status": "success"}
        assert any(l.get("digest") and l["completed"] == l["total"] for l in lines)
        done = subprocess.run([program(), "push", f"{hub.host}/me/x", "--insecure", "--models", str(store)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "me/x:latest" in hub.manifests
        done = subprocess.run([program(), "push", "me/none", "--json", "--models", str(store)], env=env, capture_output=True, text=True)
        assert done.returncode == 1 and "not found" in json.loads(done.stdout.splitlines()[-1])["error"] and "not found" in done.stderr
        assert subprocess.run([program(), "push"], env=env, capture_output=True).returncode == 2


# ---- the clients


def test_the_python_client_pushes(served):
    ollama = pytest.importorskip("ollama")
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        client = ollama.Client(host=server.url)
        steps = list(client.push(REPO, stream=True))
        assert steps[0].status == "retrieving manifest" and steps[-1].status == "success"
        assert client.push(REPO).status == "success"
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.push("org/none")


SCRIPT = """
import assert from "node:assert/strict";
import { Ollama } from "ollama";
const ollama = new Ollama({ host: process.argv[1] });
const steps = [];
for await (const step of await ollama.push({ model: process.argv[2], stream: true })) steps.push(step.status);
assert.equal(steps[0], "retrieving manifest");
assert.equal(steps.at(-1), "success");
assert.equal((await ollama.push({ model: process.argv[2] })).status, "success");
await assert.rejects(ollama.push({ model: "org/none" }), /not found/);
"""


def test_the_javascript_client_pushes(served, tmp_path):
    if not shutil.which("node") or not (MODULES / "ollama").exists():
        pytest.skip("node, or `npm ci` in tests/e2e, is missing")
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    with Hub(token="secret") as hub:
        server = served(hub, REPO, HF_TOKEN="secret")
        done = subprocess.run(["node", "--input-type=module", "-e", SCRIPT, server.url, REPO], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
