"""Requests of all wires through the router over backends that fail by chance: no wrong answer, no generation twice, no lost request that
somebody could have served, and nobody waits for ever.

    LM_E2E_REQUESTS   how many (1000; 10000 takes some minutes)
    LM_E2E_SEED       another run by chance
"""
import asyncio
import os
import random
import time

import pytest

from .asking import ASKS, Answer, Client
from .router import Router
from .standin_ollama import StandIn

N = int(os.environ.get("LM_E2E_REQUESTS", "1000"))
SEED = os.environ.get("LM_E2E_SEED", "1")
CLIENTS = 128
PATIENCE = 60
MODELS = ("stand", "other", "third")

QUIET = ("close", "hang", "500", "429", "503", "error", "garbage", "half")  # nothing good came: another one can serve it
LATE = ("late-error", "late-death", "late-silence", "late-half", "no-end")   # the client has something
SETTINGS = {"first_timeout": "1s", "whole_timeout": "1s", "silent_timeout": "1s", "attempts": "4"}


def schedule(rate):
    """The same fault for the same request at the same server, whenever it comes."""

    def fault(server, request, path):
        chance = random.Random(f"{SEED} {server.name} {request}")
        if chance.random() >= rate[server.name]:
            return "drip" if chance.random() < 0.05 else None
        return chance.choice(QUIET + LATE)

    return fault


def could_serve(fault, servers, request, path, stream):
    """Servers that have no fault for it, or one that no attempt sees."""
    return [s.name for s in servers if fault(s, request, path) in (None, "drip") or (not stream and fault(s, request, path) == "no-end")]


def check(answer, request, kind, servers, fault, problems):
    path, stream = ASKS[kind]
    good = could_serve(fault, servers, request, path, stream)
    late = [s.name for s in servers if fault(s, request, path) in LATE]
    if answer.what == "wrong":
        problems.append((request, kind, "a wrong answer", answer))
    elif answer.what == "right":
        if answer.by not in good:
            problems.append((request, kind, "right from somebody who was wrong", answer))
    elif answer.what in ("broken", "cut"):
        if not (stream and late):
            problems.append((request, kind, "broke in the middle without a fault of that kind", answer, good))
        if answer.what == "cut":
            problems.append((request, kind, "a cut answer instead of an error", answer))
    elif good:
        problems.append((request, kind, f"lost, though {good} could have served it", answer, good))


def too_slow(problem, records):
    """One whose good server was asked, and did not get to answer within the limit: a busy machine's, not the router's."""
    if not problem[2].startswith(("lost", "broke")):
        return False
    record = records[problem[3].headers["x-router-request-id"]]
    return any(a["end"] == "timeout" and a["backend"] in problem[4] for a in record["attempts"])


def run_all(router, servers, fault, ledger, n, meanwhile=None):
    problems, counts, right, left = [], {}, [], iter(range(n))

    async def client():
        c = Client(router.port)
        for i in left:
            request = f"r{i}"
            chance = random.Random(f"{SEED} ask {i}")
            kind, model = chance.choice(list(ASKS)), chance.choice(MODELS)
            try:
                answer = await asyncio.wait_for(c.ask(kind, request, chance.randint(3, 6), model), PATIENCE)
            except asyncio.TimeoutError:
                problems.append((request, kind, "hangs", ""))
                c.drop()
                continue
            counts[answer.what] = counts.get(answer.what, 0) + 1
            check(answer, request, kind, servers, fault, problems)
            if answer.what == "right":
                right.append(request)
        c.drop()

    async def all_of_them():
        clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
        chaos = asyncio.ensure_future(meanwhile()) if meanwhile else None
        await asyncio.gather(*clients)
        if chaos:
            chaos.cancel()

    asyncio.run(all_of_them())
    ledger.wait(lambda l: not any(l.running.values()))
    twice = {r: c for r, c in ledger.completed.items() if c > 1}
    records = {r["id"]: r for r in router.records()} if problems else {}
    slow = [p for p in problems if too_slow(p, records)]
    problems = [p for p in problems if p not in slow]
    assert len(slow) <= n // 50, f"{len(slow)} of {n} good answers came too late: {slow[:3]}"
    assert not problems, f"{len(problems)} of {n} ({counts}): " + "\n".join(
        f"{p} {records.get(p[3].headers.get('x-router-request-id')) if isinstance(p[3], Answer) else ''}" for p in problems[:9])
    assert not twice, twice
    assert not [r for r in right if ledger.completed.get(r) != 1]
    assert not ledger.overlaps, ledger.overlaps[:20]
    assert sum(counts.values()) == n
    return counts


@pytest.fixture
def servers(loop, ledger):
    models = tuple(f"{m}:latest" for m in MODELS)
    with StandIn(loop, "ollama", ledger, models) as a, StandIn(loop, "mlx", ledger, models) as b, \
            StandIn(loop, "mlx-two", ledger, models) as c:
        yield a, b, c


def test_a_random_schedule_of_faults(servers, ledger):
    fault = schedule({"ollama": 0.25, "mlx": 0.35, "mlx-two": 0.15})
    for s in servers:
        s.fault = fault
    with Router({s.name: s.url for s in servers}, **SETTINGS) as router:
        began = time.monotonic()
        counts = run_all(router, servers, fault, ledger, N)
        print(f"{N} requests in {time.monotonic() - began:.1f} s: {counts}")
        assert counts["right"] > N * 0.5
        assert router.wait_for("all lines are written", lambda: len([r for r in router.records() if r["method"] == "POST"]) >= N)
        metrics = router.metrics()
        assert sum(v for k, v in metrics.items() if k.startswith("mlx_router_requests_total")) == N
        assert all(v == 0 for k, v in metrics.items() if k.startswith("mlx_router_in_flight"))


def test_backends_that_come_and_go(servers, ledger):
    """One after the other is stopped and started again; one is always up."""
    n = max(N // 4, 200)

    def fault(server, request, path):
        return None

    with Router({s.name: s.url for s in servers}, **SETTINGS) as router:
        stop = {"n": 0}

        async def meanwhile():
            loop = asyncio.get_running_loop()
            while True:
                one = servers[stop["n"] % 2]
                stop["n"] += 1
                await loop.run_in_executor(None, one.down)
                await asyncio.sleep(0.25)
                await loop.run_in_executor(None, one.up)
                await asyncio.sleep(0.4)

        problems = []
        counts = {}
        left = iter(range(n))

        async def client():
            c = Client(router.port)
            for i in left:
                kind = random.Random(f"{SEED} go {i}").choice(list(ASKS))
                answer = await asyncio.wait_for(c.ask(kind, f"g{i}", 4), PATIENCE)
                counts[answer.what] = counts.get(answer.what, 0) + 1
                # a stream that was begun when its server stopped can only say so
                if answer.what not in ("right", "broken") or (answer.what == "broken" and not ASKS[kind][1]):
                    problems.append((i, kind, answer))
                await asyncio.sleep(0.02)
            c.drop()

        async def all_of_them():
            clients = [asyncio.ensure_future(client()) for _ in range(8)]
            chaos = asyncio.ensure_future(meanwhile())
            await asyncio.gather(*clients)
            chaos.cancel()

        asyncio.run(all_of_them())
        assert not problems, problems[:10]
        assert stop["n"] > 1 and counts["right"] > n * 0.9
        assert not ledger.overlaps
