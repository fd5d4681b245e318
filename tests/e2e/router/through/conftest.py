"""The bridge's own tests of the real clients, run again through the router to the real bridge, which stands beside a server that has
no models: nobody notices that there is a router."""
import pytest
from known.bridge import Bridge
from router.router import Router
from router.standin_ollama import Loop, StandIn


class Front:
    """The bridge, but for where requests go."""

    def __init__(self, bridge, router):
        self.behind, self.port, self.url = bridge, router.port, router.url

    def request(self, *arguments, **more):
        return Bridge.request(self, *arguments, **more)

    def json(self, *arguments, **more):
        return Bridge.json(self, *arguments, **more)

    def cancel(self, ask):
        return Bridge.cancel(self, ask)

    def __getattr__(self, name):
        return getattr(self.behind, name)


@pytest.fixture(scope="session")
def bridge(tiny_models):
    with Loop() as loop, StandIn(loop, "mlx-empty", models=()) as empty, Bridge(roots=[tiny_models]) as server, \
            Router({"mlx": server.url, "mlx-empty": empty.url}) as router:
        yield Front(server, router)


@pytest.fixture
def start():
    pytest.skip("a test of the bridge alone")


@pytest.fixture
def server():
    pytest.skip("a test of the bridge alone")


@pytest.fixture
def real_store():
    pytest.skip("a test of the bridge alone")


def pytest_collection_modifyitems(items):
    """/health is the router's own."""
    for item in items:
        if "through" in item.nodeid and "[basics: health]" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="the router has its own"))
