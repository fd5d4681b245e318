import os
import subprocess
from pathlib import Path

import ollama
import pytest

from .bridge import Bridge, program


@pytest.fixture(scope="session")
def bridge(tiny_models):
    """One server for every test that leaves nothing behind."""
    with Bridge(roots=[tiny_models]) as server:
        yield server


@pytest.fixture
def start(tiny_models):
    """start(*arguments, env=...) gives a server of the test's own."""
    servers = []

    def make(*arguments, env=None):
        servers.append(Bridge(*arguments, roots=[tiny_models], env=env))
        return servers[-1]

    yield make
    for server in servers:
        server.__exit__()


@pytest.fixture
def server(start):
    """A server of the test's own, whose store it may change."""
    return start()


@pytest.fixture
def own(server):
    return Path(server.home.name) / "own"


@pytest.fixture
def client(server):
    return ollama.Client(server.url)


@pytest.fixture(scope="session")
def real_store(tmp_path_factory):
    """An own store with a real small model "real", imported from the GGUF file that LM_E2E_GGUF names."""
    gguf = os.environ.get("LM_E2E_GGUF")
    if not gguf:
        pytest.skip("LM_E2E_GGUF names no file")
    store = tmp_path_factory.mktemp("store")
    done = subprocess.run([program(), "import", gguf, "real", "--models", str(store)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return store
