"""A bridge of its own for the end-to-end tests: a home directory in a temporary place, one real model, a free port.

    LM_BUILD           directory of the build to test (build/release)
    LM_E2E_OPTIONS     further options of every server, for example --backend mlx
    LM_E2E_GGUF        the GGUF file that is imported as smollm2:135m; scripts/lib.sh's lm_gguf fetches it
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from known import tiny

TOP = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "mlx-ollama"
MODEL = "smollm2:135m"
SLOW = "mlx" in os.environ.get("LM_E2E_OPTIONS", "").split()  # MLX's CPU code: a few tokens a second


def few(n):
    """n tokens, or a third of them where each takes its time."""
    return n // 3 if SLOW else n


def build_dir():
    return pathlib.Path(os.environ.get("LM_BUILD", TOP / "build/release")).resolve()


class Bridge:
    """One running mlx-ollama-bridge."""

    def __init__(self, home, *options, port=None, **env):
        self.home = home
        if port is None:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / f"bridge-{self.port}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_"))}
        clean.update(HOME=str(home), **env)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(build_dir() / "bin/mlx-ollama-bridge"), "--port", str(self.port),
                 *os.environ.get("LM_E2E_OPTIONS", "").split(), *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=clean)
        self.wait()

    def wait(self):
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + "/api/version", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the bridge did not come up: {self.log.read_text()[-2000:]}")

    def stop(self):
        """The exit status after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return "killed"
        return self.process.returncode

    def call(self, method, path, body=None, headers=None, raw=None):
        """(status, headers, bytes); body is sent as JSON."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as problem:
            return problem.code, problem.headers, problem.read()

    def json(self, method, path, body=None, **more):
        status, _, data = self.call(method, path, body, **more)
        return status, json.loads(data)

    def lines(self, path, body):
        status, _, data = self.call("POST", path, body)
        assert status == 200, data
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A directory of models that are made in a moment and say what they must (known/tiny.py)."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.write_all(root)
    return root


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A home directory whose store holds MODEL, imported from its GGUF file."""
    gguf = pathlib.Path(os.environ.get("LM_E2E_GGUF", CACHE / "models/smollm2.gguf"))
    assert gguf.exists(), f"{gguf} is missing: ./check fetches it"
    directory = tmp_path_factory.mktemp("home")
    done = subprocess.run([str(build_dir() / "bin/mlx-ollama-bridge"), "import", str(gguf), MODEL],
                          env={**os.environ, "HOME": str(directory)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def model_directory(home):
    """The directory of MODEL in the store of home (docs/STORE.md: one view for each manifest)."""
    [view] = (home / ".mlx-ollama/models/views").iterdir()
    return view


@pytest.fixture(scope="session")
def bridge(home):
    """The server that most tests share; none of them may leave it changed."""
    server = Bridge(home)
    yield server
    status = server.stop()
    assert status == 0, server.log.read_text()[-2000:]


@pytest.fixture
def own_bridge(home):
    """Starts servers with options of one's own: own_bridge("--option", VARIABLE="value")."""
    servers = []

    def start(*options, **env):
        servers.append(Bridge(home, *options, **env))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
