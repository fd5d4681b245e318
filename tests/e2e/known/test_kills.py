"""Pull, import, create, copy and delete, killed before any of their steps, on a disk that is full from any of them on, and two at
once: the store is whole at every moment, and the same again succeeds."""
import json
import http.client
import os
import random
import shutil
import signal
import subprocess

import pytest

from . import stores, tiny
from .bridge import PATIENCE, Bridge, program
from .shim import Shim, build
from .standin_hub import Hub
from .test_manage import HELLO, check_store, files_below

KILLS = int(os.environ.get("LM_E2E_KILLS", "50"))  # of each operation
FULL = max(1, KILLS // 4)
SEED = int(os.environ.get("LM_E2E_SEED", "6"))
REPO = "org/tiny-hello"
FULL_DISK = ("o space left", "free some space", "make room")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(library, tmp_path):
    return Shim(library, tmp_path)


@pytest.fixture
def own(tmp_path):
    return tmp_path / "own"


@pytest.fixture
def watcher(tiny_models, own):
    """A server over the same store that is never killed: what it lists must run."""
    with Bridge(roots=[tiny_models], store=own) as server:
        yield server


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    stores.tiny_gguf(path, tiny.MODELS["tiny-hello"])
    return path


def clean_env(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_"))}
    return {**kept, **more}


def owned(own):
    root = own / "manifests"
    return ["/".join(p.relative_to(root).parts[:-1]).removeprefix("registry.ollama.ai/").removeprefix("library/") + ":" + p.name
            for p in sorted(root.rglob("*")) if not p.is_dir()]


def check(own, watcher, unloads=True):
    """Whole to the byte, and what there is runs."""
    check_store(own)
    there = owned(own)
    listed = {m["name"] for m in watcher.json("GET", "/api/tags")["models"]}
    assert set(there) <= listed, (there, listed)
    for name in there:
        keep = {"keep_alive": 0} if unloads else {}
        done = watcher.json("POST", "/api/generate", {"model": name, "prompt": "x", "stream": False, "options": {"num_predict": 20}, **keep})
        assert done["response"] == HELLO
    return there


def clear(own, watcher):
    """What is deleted leaves nothing: not what killed processes began, either."""
    for name in owned(own):
        assert watcher.request("DELETE", "/api/delete", {"model": name})[0] == 200
    # a delete prunes, and so does this upload that ends early where there was nothing to delete
    watcher.request("POST", "/api/blobs/sha256:" + "0" * 64, b"x")
    left = [f for f in files_below(own) if not f.startswith("partial/")]
    assert left == [".lock", ".users"], left


class Command:
    """A command of the program, each time as a new process."""

    def __init__(self, shim, own, env, *arguments):
        self.shim, self.own = shim, own
        self.command = [program(), *arguments, "--models", str(own)]
        self.env = clean_env(**env, HOME=str(own.parent))

    def begin(self):
        return subprocess.Popen(self.command, env={**self.env, **self.shim.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, **state):
        """(exit code, what it said, steps)"""
        self.shim.reset()
        for field, value in state.items():
            self.shim[field] = value
        process = self.begin()
        said = process.communicate(timeout=PATIENCE)
        return process.returncode, "".join(said), self.shim["steps"]


class Request:
    """A request to a server, which is started again when it has been killed."""

    def __init__(self, shim, own, models, method, path, body):
        self.shim, self.own, self.models, self.request = shim, own, models, (method, path, body)
        self.server = None

    def close(self):
        if self.server:
            self.server.__exit__()
            self.server = None

    def run(self, **state):
        if not self.server:
            self.shim.reset()
            self.server = Bridge(roots=[self.models], store=self.own, env=self.shim.env)
        before = self.shim["steps"]
        for field in ("kill_at", "full_from"):
            self.shim[field] = before + state[field] if state.get(field) else 0
        try:
            code, _, text = self.server.request(*self.request)
        except (OSError, http.client.HTTPException):
            assert self.server.process.wait(PATIENCE) == -signal.SIGKILL
            self.server.stop()
            self.server.home.cleanup()
            self.server = None
            return -signal.SIGKILL, "", 0
        self.shim["kill_at"] = self.shim["full_from"] = 0
        lines = [json.loads(line) for line in text.splitlines()]
        bad = code != 200 or any("error" in line for line in lines)
        return int(bad), text.decode(), self.shim["steps"] - before


CREATE = ("POST", "/api/create", {"model": "new", "from": "tiny-hello", "system": "Be kind.", "parameters": {"top_k": 1}})
COPY = ("POST", "/api/copy", {"source": "tiny-hello", "destination": "new"})
DELETE = ("DELETE", "/api/delete", {"model": "old"})
OPERATIONS = ["pull", "import", "create", "copy", "delete"]


@pytest.fixture
def operation(request, shim, own, tiny_models, watcher):
    """(what is done, what must be there before, what is there after)"""
    if request.param == "pull":
        hub = Hub()
        hub.repo(REPO, tiny_models / "tiny-hello")
        yield Command(shim, own, hub.env(), "pull", REPO), None, [REPO + ":latest"]
        hub.__exit__()
    elif request.param == "import":
        yield Command(shim, own, {}, "import", str(request.getfixturevalue("tiny_gguf")), "new"), None, ["new:latest"]
    else:
        asked = {"create": CREATE, "copy": COPY, "delete": DELETE}[request.param]
        before = ("POST", "/api/copy", {"source": "tiny-hello", "destination": "old"}) if request.param == "delete" else None
        one = Request(shim, own, tiny_models, *asked)
        yield one, before, [] if request.param == "delete" else ["new:latest"]
        one.close()


def prepare(watcher, before):
    if before:
        assert watcher.request(*before)[0] == 200


def again(done, own, watcher, after):
    """After something has gone wrong in the middle: whole as it is, and the same succeeds, if it had not been done."""
    there = check(own, watcher)
    code, said, _ = done.run()
    finished = there == after
    assert code == 0 or (finished and ("exists already" in said or "not found" in said)), said
    assert check(own, watcher) == after


@pytest.mark.parametrize("operation", OPERATIONS, indirect=True)
def test_killed_before_any_step(operation, own, watcher):
    done, before, after = operation
    dice = random.Random(SEED)
    prepare(watcher, before)
    code, said, steps = done.run()
    assert code == 0 and steps > 3, (said, steps)
    assert check(own, watcher) == after
    clear(own, watcher)
    killed = 0
    # each step once if there are so few, else as many as there is time for
    moments = list(range(1, steps + 1)) if steps <= KILLS else sorted(dice.sample(range(1, steps + 1), KILLS))
    for n in moments:
        prepare(watcher, before)
        code, said, _ = done.run(kill_at=n)
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), said
        again(done, own, watcher, after)
        clear(own, watcher)
    assert killed >= len(moments) // 2  # the number of steps depends a little on how pieces arrive


@pytest.mark.parametrize("operation", ["pull", "import", "create", "copy"], indirect=True)
def test_a_disk_that_is_full_from_any_step_on(operation, own, watcher):
    done, before, after = operation
    dice = random.Random(SEED)
    code, said, steps = done.run()
    assert code == 0, said
    clear(own, watcher)
    failed = 0
    for n in sorted({1, *dice.sample(range(2, steps + 1), min(FULL, steps - 1))}):
        shutil.rmtree(own / "partial", ignore_errors=True)
        code, said, _ = done.run(full_from=n)
        failed += code == 1
        assert code == 0 or (code == 1 and any(words in said for words in FULL_DISK)), (n, code, said)
        again(done, own, watcher, after)
        clear(own, watcher)
    assert failed


@pytest.mark.parametrize("operation", ["pull", "import"], indirect=True)
def test_a_disk_that_cannot_hold_it_is_seen_before_it_begins(operation, own, watcher):
    done, _, after = operation
    code, said, _ = done.run(room=1_000_000)
    assert code == 1 and any(words in said for words in FULL_DISK[1:]), said
    assert check(own, watcher) == []
    assert not any(p.stat().st_size for p in own.rglob("partial/*"))
    again(done, own, watcher, after)


@pytest.mark.parametrize("operation", ["pull", "import"], indirect=True)
def test_two_at_once_and_one_of_them_killed(operation, shim, own, watcher, library, tmp_path):
    """The other one succeeds all the same."""
    done, _, after = operation
    dice = random.Random(SEED)
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    other = Command(Shim(library, other_dir), own, {}, *done.command[1:-2])
    other.env = done.env
    _, _, steps = done.run()
    clear(own, watcher)
    for i in range(max(2, KILLS // 5)):
        shutil.rmtree(own / "partial", ignore_errors=True)
        shim.reset()
        shim["kill_at"] = dice.randint(1, steps) if i % 2 else 0
        first, second = done.begin(), other.begin()
        said = [p.communicate(timeout=PATIENCE)[1] for p in (first, second)]
        codes = [first.returncode, second.returncode]
        assert codes[0] in (0, -signal.SIGKILL) or "exists already" in said[0], said
        assert codes[1] == 0 or "exists already" in said[1], said
        assert check(own, watcher) == after
        clear(own, watcher)
