import os
import shutil
import subprocess
from pathlib import Path

import pytest
from known.bridge import Bridge, program

PATIENCE = 120  # seconds for what must happen


class Cli:
    """Runs ollama-to-mlx-router as somebody does who has set nothing, but for a home of its own."""

    def __init__(self, home, server=None):
        self.program = str(Path(program()).with_name("ollama-to-mlx-router"))
        self.home = home
        kept = {k: v for k, v in os.environ.items()
                if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_", "NO_COLOR", "LC_"))}
        self.env = {**kept, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm-256color"}
        if server:
            self.env["OLLAMA_HOST"] = server

    def __call__(self, *arguments, given=None, env=None, **more):
        """given: bytes or text for stdin."""
        stdin = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([self.program, *map(str, arguments)], env={**self.env, **(env or {})}, capture_output=True,
                              text=not isinstance(given, bytes), timeout=PATIENCE, check=False, **{**stdin, **more})

    def start(self, *arguments, env=None, **more):
        return subprocess.Popen([self.program, *map(str, arguments)], env={**self.env, **(env or {})}, **more)


@pytest.fixture(scope="session")
def bridge(tiny_models):
    """The server of all tests that leave nothing behind."""
    with Bridge(roots=[tiny_models]) as server:
        yield server


@pytest.fixture
def own_bridge(tiny_models):
    with Bridge(roots=[tiny_models]) as server:
        yield server


@pytest.fixture
def cli(tmp_path, bridge):
    return Cli(tmp_path, bridge.url)


@pytest.fixture
def cli_at(tmp_path):
    """cli_at(url) or cli_at(None), which leaves it to the program to find a server."""
    return lambda url: Cli(tmp_path, url)


@pytest.fixture
def config(tmp_path):
    """Writes the router's configuration of this test's home; nobody listens on ports 1 to 3."""
    path = tmp_path / ".config/mlx-ollama/router.ini"
    path.parent.mkdir(parents=True)

    def write(mlx="http://127.0.0.1:2", ollama="http://127.0.0.1:3", port=1):
        path.write_text(f"[router]\nport = {port}\n[bridge]\nkind = mlx\nurl = {mlx}\n[real]\nkind = ollama\nurl = {ollama}\n")
        return path

    return write


@pytest.fixture(scope="session")
def tmux():
    found = shutil.which("tmux")
    assert found, "tmux is missing: ./check installs it"
    return found
