import pytest

from router.router import Router
from router.standin_ollama import Ledger, Loop, StandIn


@pytest.fixture
def loop():
    with Loop() as running:
        yield running


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def pair(loop, ledger):
    """(a stand-in called "ollama", one called "mlx"), both with stand:latest."""
    with StandIn(loop, "ollama", ledger) as ollama, StandIn(loop, "mlx", ledger) as mlx:
        yield ollama, mlx


@pytest.fixture
def router(pair):
    """In front of the pair."""
    ollama, mlx = pair
    with Router({"ollama": ollama.url, "mlx": mlx.url}) as running:
        yield running
