"""Clients who leave, at every step: the backend hears of it, and nobody else is asked."""
import asyncio
import time

import pytest

from .asking import ASKS, Client, body_of
from .router import Router
from .standin_ollama import StandIn

PATIENCE = 60


def wait_until(check, what):
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.005)


async def leave_after(router, kind, request, n_pieces):
    """Asks for a long answer and leaves when so many pieces of it have come."""
    c = Client(router.port)
    await c.send(ASKS[kind][0], body_of(kind, f"id={request} words=2000"))
    for i in range(n_pieces):
        if i == 0:
            assert await c.head() == 200
        else:
            assert await c.piece()
    if not n_pieces:
        await asyncio.sleep(0.1)
    c.drop()


@pytest.mark.parametrize("kind", sorted(ASKS))
def test_a_client_that_leaves_cancels_upstream_and_nothing_else_begins(pair, ledger, router, kind):
    for server in pair:
        server.pace = 0.01
    steps = range(4) if ASKS[kind][1] else range(1)
    for n in steps:
        request = f"{kind}-{n}"
        asyncio.run(leave_after(router, kind, request, n))
        ledger.wait(lambda led: led.begun.get(request) and not led.running[request])
        assert ledger.cancelled == {**ledger.cancelled, request: 1}
        assert request not in ledger.completed
        assert ledger.begun[request] == 1  # a client's leaving is no reason to ask somebody else
    wait_until(lambda: sum(r["gone"] for r in router.records()) == len(steps), "each is told as gone")
    last = [r for r in router.records() if r["gone"]]
    assert all(r["attempts"][-1]["end"] == "left" and len(r["attempts"]) == 1 for r in last)
    assert not any(b["running"] for b in router.status()["backends"])
    assert {b["state"] for b in router.status()["backends"]} == {"healthy"}  # nobody is blamed


def test_one_who_leaves_while_nobody_answers(pair, ledger, router):
    """The backends hang; the client goes before any of them is given up."""
    for server in pair:
        server.fault = lambda *_: "hang"
    asyncio.run(leave_after(router, "chat", "waiting", 0))
    ledger.wait(lambda led: led.begun.get("waiting") and not led.running["waiting"])
    assert ledger.begun["waiting"] == 1


def test_one_who_leaves_while_all_are_busy(loop, ledger):
    """It waits in the router: after its leaving nothing is asked any more."""
    with StandIn(loop, "ollama", ledger, fault=lambda *_: "503") as one, Router({"ollama": one.url}) as router:
        asyncio.run(leave_after(router, "chat", "queued", 0))
        wait_until(lambda: any(r["gone"] for r in router.records()), "it is told as gone")
        n = len(one.seen)
        time.sleep(1.5)
        assert len(one.seen) == n
        assert not ledger.begun


def test_a_slow_reader_gets_all_and_holds_up_nobody(pair, ledger, router):
    """A client that reads slowly: its backend waits for it, others are served meanwhile."""
    async def talk():
        slow, quick = Client(router.port), Client(router.port)
        n = 60000
        await slow.send("/api/chat", body_of("chat-stream", f"id=slow words={n}"))
        for i in range(20):
            assert (await asyncio.wait_for(quick.ask("chat-stream", f"quick{i}"), PATIENCE)).what == "right"
        assert await slow.head() == 200
        answer = slow.judge("/api/chat", True, 200, await asyncio.wait_for(slow.body(), PATIENCE), "slow", n)
        slow.drop()
        quick.drop()
        return answer

    assert asyncio.run(talk()).what == "right"
