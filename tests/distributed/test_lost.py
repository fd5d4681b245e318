"""A rank that goes away, whoever it is: nothing hangs, nobody stays behind, everybody hears why."""
import http.client
import json
import os
import signal
import threading
import time

import pytest

from .conftest import followers, gone, ids

PATIENCE = 30  # seconds for what takes about one
ENDLESS = {"model": "endless", "prompt": "the quick brown fox", "options": {"num_predict": 100000, "num_ctx": 256}}


def within(what, check):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.05)
    raise AssertionError(f"not {what} in {PATIENCE} s")


def begin(server, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("POST", "/api/generate", json.dumps(body))
    answer = connection.getresponse()
    first = json.loads(answer.readline())
    assert "error" not in first
    return connection, answer


def last_line(answer):
    *_, last = [line for line in answer.read().split(b"\n") if line]
    return json.loads(last)


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_follower_that_dies_in_mid_answer(ranks, mode, end):
    server = ranks(2, "--distributed-mode", mode)
    [pid] = followers(server)
    connections = [begin(server, ENDLESS) for _ in range(2)]
    os.kill(pid, end)
    for connection, answer in connections:
        text = last_line(answer)["error"]
        assert "rank 1 (127.0.0.1) was lost" in text and "restart the server" in text
        connection.close()
    # it says so, and is still there
    status, _, body = server.request("GET", "/health")
    health = json.loads(body)
    assert status == 503 and health["status"] == "lost"
    assert health["cluster"]["lost"] == [1] and health["cluster"]["ring"] == "lost"
    assert "rank 1" in health["cluster"]["error"]
    assert health["running"] == 0 and health["waiting"] == 0
    assert server.json("GET", "/api/version")["version"]
    assert "endless" in str(server.json("GET", "/api/tags"))
    for model in ("endless", "mixtral-q4"):
        refused = server.json("POST", "/api/generate", {**ENDLESS, "model": model, "stream": False}, status=503)
        assert "rank 1 (127.0.0.1) was lost" in refused["error"]
    assert server.stop() == 1
    within("gone", lambda: gone(pid))


def test_one_of_four_that_is_stopped_takes_the_others_along(ranks):
    server = ranks(4)
    pids = followers(server)
    assert len(pids) == 3
    connection, answer = begin(server, ENDLESS)
    os.kill(pids[1], signal.SIGKILL)
    assert "was lost" in last_line(answer)["error"]
    connection.close()
    within("gone", lambda: all(gone(p) for p in pids))
    assert server.stop() == 1


def test_a_follower_that_falls_silent(ranks):
    """As when a machine loses its power: no word, no end of the connection."""
    server = ranks(2)
    [pid] = followers(server)
    connection, answer = begin(server, ENDLESS)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "silent" in last_line(answer)["error"]
        connection.close()
        assert server.request("GET", "/health")[0] == 503
        assert server.stop() == 1  # which ends a follower that does not hear its goodbye
        within("gone", lambda: gone(pid))
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_rank_lost_while_nothing_runs(ranks):
    server = ranks(2)
    [pid] = followers(server)
    ids(server, "smollm3-f32", n=4)
    os.kill(pid, signal.SIGKILL)
    within("noticed", lambda: server.request("GET", "/health")[0] == 503)
    assert server.stop() == 1


def test_rank_0_killed_leaves_nobody(ranks):
    server = ranks(4)
    pids = followers(server)
    connection, _ = begin(server, ENDLESS)
    server.process.kill()
    server.process.wait()
    within("gone", lambda: all(gone(p) for p in pids))
    connection.close()


def test_an_end_as_asked_leaves_nobody(ranks):
    server = ranks(2)
    pids = followers(server)
    results = []
    thread = threading.Thread(target=lambda: results.append(ids(server, "smollm3-f32", n=40)))
    thread.start()
    server.wait_for("running", lambda h: h["running"] == 1 or results)
    assert server.stop() == 0
    thread.join()
    assert len(results[0]) > 40  # it was let finish
    within("gone", lambda: all(gone(p) for p in pids))


def test_a_model_that_the_others_do_not_have_is_an_error_for_that_model_only(ranks, models, tmp_path):
    """Each rank opens the files itself; here they vanish between rank 0's look and the load of the others."""
    server = ranks(2)
    bad = models / "cut-short"
    if not bad.exists():
        bad.mkdir()
        for file in (models / "smollm3-f32").iterdir():
            if file.name != "model.safetensors":
                (bad / file.name).symlink_to(file.resolve())
        (bad / "model.safetensors").write_bytes((models / "smollm3-f32" / "model.safetensors").read_bytes()[:2000])
    got, _, text = server.request("POST", "/api/generate", {"model": "cut-short", "prompt": "x", "stream": False})
    assert got >= 400 and b"error" in text
    assert ids(server, "smollm3-f32", n=4)
    assert server.health()["status"] == "ok"
