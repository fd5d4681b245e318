"""Lists of all backends as one, and changes at the one that they belong to."""
import hashlib
import json
import time

import pytest

from .router import Router
from .standin_ollama import StandIn


@pytest.fixture
def two(loop, ledger):
    with StandIn(loop, "ollama", ledger, ("both:latest", "llama:8b")) as ollama, \
            StandIn(loop, "mlx", ledger, ("both:latest", "org/repo:latest")) as mlx, \
            Router({"ollama": ollama.url, "mlx": mlx.url}) as router:
        yield ollama, mlx, router


def names(router, path="/api/tags"):
    value = router.json("GET", path)
    return [m.get("name") or m["id"] for m in value.get("models", value.get("data"))]


def test_lists_are_one_newest_first_and_each_name_once(two):
    ollama, mlx, router = two
    ollama.add("newest:1", "2027-05-05T00:00:00Z")
    assert names(router) == ["newest:1"] + sorted(["llama:8b", "org/repo:latest"], key=lambda _: 0) + ["both:latest"]
    assert sorted(names(router, "/v1/models")) == ["both:latest", "llama:8b", "newest:1", "org/repo:latest"]
    status, headers, body = router.request("HEAD", "/api/tags")
    assert status == 200 and not body and "X-Router-Partial" not in headers


def test_of_two_with_one_name_the_one_is_listed_that_would_be_asked(two):
    ollama, mlx, router = two
    mlx.add("both:latest", "2026-01-01T00:00:00Z", salt="other")
    for order, server in (("ollama", ollama), ("mlx", mlx)):
        router.switch(order)
        router.wait_for(f"{order} is preferred", lambda: next(
            m for m in router.json("GET", "/api/tags")["models"] if m["name"] == "both:latest")["digest"] ==
            server.models["both:latest"]["digest"])


def test_loaded_models_are_one_list(two):
    ollama, mlx, router = two
    ollama.loaded["llama:8b"] = {**ollama.models["llama:8b"], "expires_at": "2026-01-01T00:00:00Z"}
    mlx.loaded["org/repo:latest"] = {**mlx.models["org/repo:latest"], "expires_at": "2318-01-01T00:00:00Z"}
    assert names(router, "/api/ps") == ["org/repo:latest", "llama:8b"]


@pytest.mark.parametrize("fault", ["hang", "500", "garbage"])
def test_a_backend_that_does_not_answer_holds_no_list_up(two, fault):
    ollama, mlx, router = two
    whole = names(router)
    mlx.check_fault = fault
    began = time.monotonic()
    status, headers, body = router.request("GET", "/api/tags")
    assert status == 200 and time.monotonic() - began < 30
    assert headers["X-Router-Partial"] == "mlx"
    assert [m["name"] for m in json.loads(body)["models"]] == whole  # as it was known last
    mlx.down()
    ollama.add("fresh:1", "2028-01-01T00:00:00Z")
    assert names(router) == ["fresh:1", *whole]


def test_a_pull_goes_to_who_has_it_and_is_begun_once(two):
    ollama, mlx, router = two
    for model, server in (("llama:8b", ollama), ("org/repo", mlx)):
        status, headers, body = router.request("POST", "/api/pull", {"model": model})
        lines = [json.loads(line) for line in body.splitlines()]
        assert status == 200 and lines[-1] == {"status": "success"} and len(lines) == 5
        assert headers["Content-Type"] == "application/x-ndjson" and headers["X-Router-Backend"] == server.name
        assert server.changes == [("/api/pull", model)]
        server.changes.clear()
    assert not ollama.changes and not mlx.changes


def test_a_new_model_is_listed_as_soon_as_its_pull_is_over(two):
    _, _, router = two
    assert router.json("POST", "/api/pull", {"name": "brand-new", "stream": False}) == {"status": "success"}
    assert "brand-new:latest" in names(router)
    router.wait_for("it is known", lambda: any(c["ok"] and not c["reason"].startswith("not in") if c.get("reason") else c["ok"]
                                               for c in router.json("GET", "/router/explain?model=brand-new")["candidates"]))


@pytest.mark.parametrize("model", ["broken", "missing"])
def test_a_pull_that_fails_says_so_and_is_not_begun_elsewhere(two, model):
    ollama, mlx, router = two
    status, _, body = router.request("POST", "/api/pull", {"model": model})
    assert "error" in json.loads(body.splitlines()[-1]), (status, body)
    assert len(ollama.changes + mlx.changes) == 1
    with pytest.raises(StopIteration):
        next(line for line in body.splitlines() if b"success" in line)


def test_delete_takes_the_name_from_all_who_list_it(two):
    ollama, mlx, router = two
    status, _, body = router.request("DELETE", "/api/delete", {"model": "both"})
    assert (status, body) == (200, b"")
    assert "both:latest" not in ollama.models and "both:latest" not in mlx.models
    assert "both:latest" not in names(router)
    assert router.json("DELETE", "/api/delete", {"name": "llama:8b"}) is None
    assert ollama.changes[-1] == ("/api/delete", "llama:8b") and mlx.changes == [("/api/delete", "both:latest")]
    assert router.json("DELETE", "/api/delete", {"model": "both"}, 404) == {"error": "model 'both' not found"}


def test_copy_stays_where_the_source_is(two):
    ollama, mlx, router = two
    assert router.json("POST", "/api/copy", {"source": "org/repo", "destination": "mine"}) is None
    assert mlx.changes == [("/api/copy", "mine")] and not ollama.changes
    assert "mine:latest" in names(router)


@pytest.mark.parametrize("chunked", [False, True])
def test_blobs_stream_to_where_the_create_goes(two, chunked):
    ollama, mlx, router = two
    data = bytes(range(256)) * 40000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = f"/api/blobs/{digest}"
    assert router.request("HEAD", path)[0] == 404
    body = (data[i:i + 100000] for i in range(0, len(data), 100000)) if chunked else data
    if chunked:
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
        connection.request("POST", path, body, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        answer = connection.getresponse()
        status = answer.status
        answer.read()
        connection.close()
    else:
        status = router.request("POST", path, body)[0]
    assert status == 201
    assert router.request("HEAD", path)[0] == 200
    where = [s for s in (ollama, mlx) if digest in s.blobs]
    assert len(where) == 1 and where[0].blobs[digest] == len(data)
    assert router.json("POST", "/api/create", {"model": "made", "files": {"model.gguf": digest}}) == {"status": "success"}
    assert where[0].changes == [("/api/create", "made")]
    wrong = "sha256:" + "0" * 64
    assert router.json("POST", f"/api/blobs/{wrong}", b"other", 400) == {"error": "digest mismatch"}


def test_blobs_of_one_model_come_together_whatever_lies_elsewhere(loop, ledger):
    blobs = {"sha256:" + hashlib.sha256(data).hexdigest(): data for data in (b"one", b"two")}
    first = next(iter(blobs))
    with StandIn(loop, "ollama", ledger) as ollama, StandIn(loop, "mlx", ledger) as mlx:
        for server, other in ((ollama, mlx), (mlx, ollama)):
            server.blobs, other.blobs = {first: 3}, {}
            with Router({"ollama": ollama.url, "mlx": mlx.url}) as router:
                for digest, data in blobs.items():  # as clients do that ask before they send
                    if router.request("HEAD", f"/api/blobs/{digest}")[0] == 404:
                        assert router.request("POST", f"/api/blobs/{digest}", data)[0] == 201
                name = f"made-{server.name}"
                router.json("POST", "/api/create", {"model": name, "files": dict(zip(("a.json", "b.json"), blobs))})
            [made] = [s for s in (ollama, mlx) if ("/api/create", name) in s.changes]
            assert set(blobs) <= set(made.blobs)


def test_a_create_finds_its_blob_after_a_restart_of_the_router(loop, ledger):
    with StandIn(loop, "ollama", ledger) as ollama, StandIn(loop, "mlx", ledger) as mlx:
        for server in (ollama, mlx):
            digest = "sha256:" + hashlib.sha256(server.name.encode()).hexdigest()
            server.blobs[digest] = 1
            with Router({"ollama": ollama.url, "mlx": mlx.url}) as router:
                router.json("POST", "/api/create", {"model": server.name, "files": {"a.gguf": digest}})
            assert server.changes == [("/api/create", server.name)]


def test_a_model_made_from_another_is_made_where_that_is(two):
    ollama, mlx, router = two
    for source, server in (("llama:8b", ollama), ("org/repo", mlx)):
        router.json("POST", "/api/create", {"model": f"from-{server.name}", "from": source})
        assert server.changes == [("/api/create", f"from-{server.name}")]
