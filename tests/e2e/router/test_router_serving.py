"""What clients see of the router when all is well, and what it tells of itself."""
import asyncio
import http.client
import json
import re
import signal
import socket
import threading
import time

import anthropic
import ollama
import openai
import pytest

from .asking import ASKS, Client, body_of
from .router import PATIENCE, Router
from .standin_ollama import StandIn, right_answer

BILLING = "x-anthropic-billing-header: cc_version=2.1.177.{}; cc_entrypoint=cli; cch={};"


def chat(prompt, model="stand", **more):
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def asked(server, path="/api/chat"):
    """The bodies that came to this server."""
    return [json.loads(body) for _, p, _, body in server.seen if p == path]


# ---- clients

def test_the_ollama_client(router):
    client = ollama.Client(host=router.url)
    assert [m.model for m in client.list().models] == ["stand:latest"]
    answer = client.chat("stand", [{"role": "user", "content": "id=a words=3"}])
    assert right_answer(answer.message.content, "a", 3)
    text = "".join(part.response for part in client.generate("stand", "id=b words=3", stream=True))
    assert right_answer(text, "b", 3)
    with pytest.raises(ollama.ResponseError) as problem:
        client.chat("nobody-has-it", [{"role": "user", "content": "id=c words=3"}])
    assert problem.value.status_code == 404 and problem.value.error == "model 'nobody-has-it' not found"
    assert client.show("stand").modelinfo
    assert [p.status for p in client.pull("new", stream=True)][-1] == "success"
    assert client.delete("new").status == "success"


def test_the_openai_client(router):
    client = openai.OpenAI(base_url=router.url + "/v1", api_key="none", max_retries=0)
    assert [m.id for m in client.models.list()] == ["stand:latest"]
    answer = client.chat.completions.create(model="stand", messages=[{"role": "user", "content": "id=a words=3"}])
    assert right_answer(answer.choices[0].message.content, "a", 3)
    stream = client.chat.completions.create(model="stand", messages=[{"role": "user", "content": "id=b words=3"}], stream=True)
    assert right_answer("".join(part.choices[0].delta.content or "" for part in stream), "b", 3)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody-has-it", messages=[{"role": "user", "content": "id=c words=3"}])


def test_the_anthropic_client(router):
    client = anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0)
    message = {"model": "stand", "max_tokens": 50}
    answer = client.messages.create(**message, messages=[{"role": "user", "content": "id=a words=3"}])
    assert right_answer(answer.content[0].text, "a", 3)
    with client.messages.stream(**message, messages=[{"role": "user", "content": "id=b words=3"}]) as stream:
        assert right_answer("".join(stream.text_stream), "b", 3)


def test_the_first_answer_of_a_server_as_clients_look_for_it(router):
    for method in ("GET", "HEAD"):
        status, _, body = router.request(method, "/")
        assert status == 200 and body == (b"Ollama is running" if method == "GET" else b"")
    assert router.json("GET", "/api/version") == {"version": "0.33.0"}
    status, headers, body = router.request("GET", "/api/chat")
    assert (status, headers["Allow"], body) == (405, "POST", b"405 method not allowed")
    assert router.request("GET", "/api/chats")[2] == b"404 page not found"
    status, headers, _ = router.request("POST", "/api/chat/", b"{}")
    assert (status, headers["Location"]) == (307, "/api/chat")


def test_browsers_are_let_in_as_by_ollama(pair, router):
    ask = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    status, headers, _ = router.request("OPTIONS", "/api/chat", headers=ask)
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert router.request("POST", "/api/chat", chat("id=a words=1"), {"Origin": "http://evil.example"})[0] == 403
    assert router.request("GET", "/api/tags", headers={"Host": "evil.example"})[0] == 403
    status, headers, body = router.request("POST", "/api/chat", chat("id=b words=1"), {"Origin": "http://localhost:3000"})
    assert status == 200 and headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    came = [h for s in pair for _, p, h, _ in s.seen if p == "/api/chat"]
    assert len(came) == 1 and "origin" not in came[0]


# ---- what goes to a backend

def test_a_body_goes_on_byte_for_byte(pair, router):
    odd = b'{ "model" :"stand" ,"messages":[{"role":"user","content":"id=a words=1 \\u00e9 \xc3\xa9"}],\n "unknown": 1.0e0}  '
    assert router.request("POST", "/api/chat", odd, {"Content-Type": "application/x-www-form-urlencoded"})[0] == 200
    (_, _, headers, body), = [seen for s in pair for seen in s.seen]
    assert body == odd and headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_body_that_is_no_json_is_the_backends_to_word(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, Router({"ollama": one.url}) as router:
        status, _, body = router.request("POST", "/api/create", b"{")
        assert status >= 400 and b"error" in body
        assert [b for _, _, _, b in one.seen] == [b"{"]


def test_what_lets_clients_in_goes_to_this_machine_only_without_a_key_of_its_own(loop, ledger):
    with StandIn(loop, "ollama", ledger, ("a:latest",)) as plain, StandIn(loop, "mlx", ledger, ("b:latest",)) as locked:
        with Router({"ollama": plain.url, "mlx": {"url": locked.url, "api_key": "sesame"}}) as router:
            for model in ("a", "b"):
                headers = {"Authorization": "Bearer mine", "Cookie": "c=1", "X-Api-Key": "k", "User-Agent": "agent/1"}
                assert router.request("POST", "/api/chat", chat("id=x words=1", model), headers)[0] == 200
            one, two = (s.seen[-1][2] for s in (plain, locked))
            assert one["authorization"] == "Bearer mine" and one["x-api-key"] == "k" and one["user-agent"] == "agent/1"
            assert two["authorization"] == "Bearer sesame" and "x-api-key" not in two
            assert "cookie" not in one and "cookie" not in two
            assert "sesame" not in router.log() and "sesame" not in json.dumps(router.status())


def test_a_pinned_context_is_what_the_backend_is_asked_for(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, Router({"ollama": {"url": one.url, "num_ctx": "8192"}}) as router:
        for options in (None, {"num_ctx": 4096, "seed": 1}, {"num_ctx": 8192}):
            router.json("POST", "/api/chat", chat("id=x words=1", stream=False, **({"options": options} if options else {})))
        assert [b["options"]["num_ctx"] for b in asked(one)] == [8192] * 3
        assert asked(one)[1]["options"]["seed"] == 1
        router.json("POST", "/v1/chat/completions", chat("id=x words=1"))
        assert asked(one, "/v1/chat/completions")[0] == chat("id=x words=1")


def test_an_alias_is_asked_for_by_its_name_there_and_answered_by_the_clients(loop, ledger, tmp_path):
    config = tmp_path / ".config" / "mlx-ollama"
    config.mkdir(parents=True)
    (config / "aliases.ini").write_text("[aliases]\nstand:1b = mlx-community/Stand-1B-4bit\n")
    with StandIn(loop, "mlx", ledger, ("mlx-community/Stand-1B-4bit:latest",)) as mlx, \
            Router({"mlx": mlx.url}, env={"XDG_CONFIG_HOME": str(tmp_path / ".config"), "HOME": str(tmp_path)}) as router:
        answer = router.json("POST", "/api/chat", chat("id=a words=2", "stand:1b", stream=False))
        assert answer["model"] == "stand:1b" and right_answer(answer["message"]["content"], "a", 2)
        _, _, body = router.request("POST", "/api/chat", chat("id=a words=2", "stand:1b"))
        assert {json.loads(line)["model"] for line in body.splitlines()} == {"stand:1b"}
        assert all(b["model"].lower().startswith("mlx-community/stand-1b-4bit") for b in asked(mlx))


def test_volatile_markers_go_and_are_counted(pair, router):
    def turn(nonce, left, *messages):
        return {"model": "stand", "max_tokens": 9, "system": [
            {"type": "text", "text": BILLING.format(nonce[:3], nonce)}, {"type": "text", "text": "You are a helper. " * 50}],
            "messages": [{"role": "user", "content": "id=a words=2"}, *messages,
                         {"role": "system", "content": f"<total_tokens>{left} tokens left</total_tokens>"},
                         {"role": "user", "content": "id=b words=2"}]}

    said = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
    for body in (turn("01c00", 15000000), turn("9abff", 14990000, *said)):
        assert router.request("POST", "/v1/messages", body)[0] == 200
    one, two = asked(pair[0], "/v1/messages") + asked(pair[1], "/v1/messages")
    assert one["system"] == two["system"] == [{"type": "text", "text": "You are a helper. " * 50}]
    assert two["messages"][:1] == one["messages"][:1] and all(m["role"] != "system" for m in two["messages"])
    metrics = router.metrics()
    assert metrics["mlx_router_markers_total"] == 4 and metrics["mlx_router_cleaned_requests_total"] == 2
    assert metrics["mlx_router_tokens_saved_total"] > 400


def test_hygiene_can_be_switched_off(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, Router({"ollama": one.url}, hygiene="off") as router:
        body = json.dumps({"model": "stand", "max_tokens": 9, "system": BILLING.format("01c", "36ee5") + "\nYou",
                           "messages": [{"role": "user", "content": "id=b words=2"}]}).encode()
        assert router.request("POST", "/v1/messages", body)[0] == 200
        assert one.seen[-1][3] == body


# ---- whom it asks

def test_a_conversation_stays_where_it_was(pair, router):
    ollama_server, mlx = pair
    for talk in range(6):
        messages, servers = [], []
        for turn in range(4):
            messages.append({"role": "user", "content": f"id=t{talk}.{turn} words=2"})
            status, headers, body = router.request("POST", "/api/chat", {"model": "stand", "stream": False, "messages": messages})
            assert status == 200
            servers.append(headers["X-Router-Backend"])
            messages.append(json.loads(body)["message"])
        assert len(set(servers)) == 1


def test_who_asks_again_at_once_finds_the_place_free_that_was_his(pair):
    """A place is given back before the client hears the end of its answer: else its next request goes elsewhere, or waits."""
    with Router({name: {"url": server.url, "max_requests": 1} for name, server in zip(("ollama", "mlx"), pair)}) as router:
        for name in ("ollama", "mlx"):
            router.wait_state(name, "healthy")
        for i in range(300):
            asked = {"model": "stand", "stream": i % 2 == 0, "prompt": f"id=p{i} words=2"}
            status, headers, _ = router.request("POST", "/api/generate", asked)
            assert (status, headers["X-Router-Backend"], headers["X-Router-Attempts"]) == (200, "ollama", "1"), f"request {i}"


def test_the_users_order_holds_at_once_and_by_model(pair, router):
    def who(model="stand"):
        return router.request("POST", "/api/chat", chat(f"id=w{time.monotonic()} words=1", model, stream=False))[1]["X-Router-Backend"]

    for order in ("mlx", "ollama", "mlx"):
        router.switch(order)
        router.wait_for(f"{order} is asked", lambda: who() == order)
    router.switch("ollama", "stand:latest")
    router.wait_for("the model's own order counts", lambda: who() == "ollama")


def test_explain_says_whom_it_would_ask_and_asks_nobody(pair, router):
    router.switch("mlx")
    router.wait_for("it is seen", lambda: router.json("GET", "/router/explain?model=stand")["chosen"] == "mlx")
    said = router.json("POST", "/router/explain", chat("hi"))
    assert said["chosen"] == "mlx" and [c["backend"] for c in said["candidates"]] == ["mlx", "ollama"]
    assert "error" in router.json("GET", "/router/explain", status=400)
    assert "error" in router.json("POST", "/router/explain?path=/api/tags", chat("hi"), 400)
    assert not any(p == "/api/chat" for s in pair for _, p, _, _ in s.seen)


def test_headers_and_the_line_say_what_was_decided(pair, router):
    pair[0].fault = lambda server, request, path: "500"
    router.switch("ollama")
    router.wait_for("it is seen", lambda: router.json("GET", "/router/explain?model=stand")["chosen"] == "ollama")
    status, headers, _ = router.request("POST", "/api/chat", chat("id=a words=2"))
    assert status == 200
    assert headers["X-Router-Backend"] == "mlx" and headers["X-Router-Attempts"] == "2"
    assert headers["X-Router-Model"] in ("stand", "stand:latest") and re.fullmatch(r"[0-9a-f]{16}", headers["X-Router-Request-Id"])
    record = router.record(headers)
    assert [(a["backend"], a["end"]) for a in record["attempts"]] == [("ollama", "failed"), ("mlx", "ok")]
    assert record["backend"] == "mlx" and record["status"] == 200 and record["bytes"] > 0 and not record["gone"]
    assert record["ttft_ms"] > 0 and record["added_ms"] > 0 and {c["backend"] for c in record["candidates"]} == {"ollama", "mlx"}
    metrics = router.metrics()
    assert metrics['mlx_router_fallbacks_total{from="ollama"}'] == 1
    assert metrics['mlx_router_attempts_total{backend="ollama",end="failed"}'] == 1
    assert metrics['mlx_router_requests_total{backend="mlx",result="ok"}'] == 1
    assert metrics['mlx_router_first_event_seconds_count{backend="mlx"}'] == 1 and metrics["mlx_router_added_seconds_count"] == 1
    assert metrics['mlx_router_backend_state{backend="mlx",state="healthy"}'] == 1


def test_no_answer_names_an_address(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, StandIn(loop, "mlx", ledger) as two, \
            Router({"ollama": one.url, "mlx": two.url}, max_wait="0s", whole_timeout="500ms", first_timeout="500ms") as router:
        seen = []
        for fault in ("close", "hang", "500", "503", "error", "garbage", "half", "late-death"):
            for server in (one, two):
                server.fault = lambda *_, f=fault: f
            for kind in ("chat", "chat-stream", "openai-stream", "messages"):
                status, headers, body = router.request("POST", ASKS[kind][0], body_of(kind, f"id={fault}{kind} words=4"))
                seen.append(f"{headers} {body}")
        one.down(), two.down()
        router.wait_state("ollama", "down")
        for path in ("/api/tags", "/api/version", "/health"):
            _, headers, body = router.request("GET", path)
            seen.append(f"{headers} {body}")
        status, headers, body = router.request("POST", "/api/chat", chat("id=a words=1"))
        assert status == 503 and "ollama" in json.loads(body)["error"] and "mlx-server-startup" in json.loads(body)["error"]
        seen.append(f"{headers} {body}")
        for text in seen:
            assert "127.0.0.1" not in text and str(one.port) not in text and str(two.port) not in text, text


def test_a_model_that_nobody_has_is_404_in_the_words_of_the_wire(router):
    assert router.json("POST", "/api/chat", chat("x", "nope"), 404) == {"error": "model 'nope' not found"}
    assert router.json("POST", "/v1/chat/completions", chat("x", "nope"), 404)["error"]["message"] == "model 'nope' not found"
    assert router.json("POST", "/v1/messages", {**chat("x", "nope"), "max_tokens": 5}, 404)["type"] == "error"


def test_requests_wait_for_a_backend_that_starts_again(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, Router({"ollama": one.url}) as router:
        one.down()
        router.wait_state("ollama", "down")
        threading.Timer(1.0, one.up).start()
        status, headers, _ = router.request("POST", "/api/chat", chat("id=a words=1"))
        assert status == 200
        assert router.record(headers)["waited_ms"] > 0


def test_one_that_is_full_keeps_requests_waiting(loop, ledger):
    with StandIn(loop, "ollama", ledger, pace=0.05) as one, \
            Router({"ollama": {"url": one.url, "max_requests": "2"}}) as router:
        async def all_of_them():
            clients = [Client(router.port) for _ in range(8)]
            answers = await asyncio.gather(*(c.ask("chat", f"f{i}") for i, c in enumerate(clients)))
            for c in clients:
                c.drop()
            return answers

        most = 0

        def watch():
            nonlocal most
            while not stop.wait(0.005):
                most = max(most, sum(map(len, list(ledger.running.values()))))

        stop = threading.Event()
        watcher = threading.Thread(target=watch)
        watcher.start()
        answers = asyncio.run(all_of_them())
        stop.set()
        watcher.join()
        assert all(a.what == "right" for a in answers), answers
        assert 1 <= most <= 2


# ---- its life

def test_the_configuration_is_read_again(loop, ledger):
    with StandIn(loop, "ollama", ledger, ("a:latest",), pace=0.2) as one, StandIn(loop, "mlx", ledger, ("b:latest",)) as two, \
            Router({"ollama": one.url}) as router:
        slow = {}
        thread = threading.Thread(target=lambda: slow.update(
            got=router.request("POST", "/api/chat", chat("id=slow words=8", "a", stream=True))))
        thread.start()
        ledger.wait(lambda led: led.begun.get("slow"))
        router.write({"mlx": two.url})
        router.process.send_signal(signal.SIGHUP)
        router.wait_for("the new one is there", lambda: [b["name"] for b in router.status()["backends"]] == ["mlx"])
        assert router.json("POST", "/api/chat", chat("id=n words=1", "b", stream=False))["model"] == "b"
        thread.join(PATIENCE)
        assert slow["got"][0] == 200 and b'"done": true' in slow["got"][2]  # began with the old one, ended with it
        router.config.write_text("[router]\nport = no\n")
        router.process.send_signal(signal.SIGHUP)
        router.wait_for("it is refused", lambda: "stays as it was" in router.log())
        assert [b["name"] for b in router.status()["backends"]] == ["mlx"]


def test_a_stop_lets_answers_end_and_takes_no_new_ones(loop, ledger):
    with StandIn(loop, "ollama", ledger, pace=0.1) as one:
        router = Router({"ollama": one.url})
        slow = {}
        thread = threading.Thread(target=lambda: slow.update(got=router.request("POST", "/api/chat", chat("id=slow words=10"))))
        thread.start()
        ledger.wait(lambda led: led.begun.get("slow"))
        router.process.send_signal(signal.SIGTERM)
        router.wait_for("it stops", lambda: "msg=stopping" in router.log())
        with pytest.raises(OSError):
            with socket.create_connection(("127.0.0.1", router.port), 5) as s:
                s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if not s.recv(1):
                    raise OSError("closed")
        thread.join(PATIENCE)
        assert slow["got"][0] == 200 and b'"done": true' in slow["got"][2]
        assert router.process.wait(PATIENCE) == 0, router.log()
        router.log_file.close()
        router.home.cleanup()


def test_a_taken_port_is_told_by_its_exit_status(router):
    other = Router.__new__(Router)
    with pytest.raises(AssertionError) as problem:
        other.__init__({"ollama": "http://127.0.0.1:9"}, port=router.port)
    assert "in use" in str(problem.value)
    assert other.process.wait(PATIENCE) == 3
    other.log_file.close()
    other.home.cleanup()


def test_many_streams_at_once(loop, ledger):
    """As many as a small machine's tests can have; the middle of all must not stand still."""
    n = 300
    with StandIn(loop, "ollama", ledger, pace=0.02) as one, Router({"ollama": one.url}) as router:
        async def all_of_them():
            clients = [Client(router.port) for _ in range(n)]
            answers = await asyncio.wait_for(asyncio.gather(*(c.ask("chat-stream", f"m{i}", 10) for i, c in enumerate(clients))),
                                             PATIENCE)
            for c in clients:
                c.drop()
            return answers

        assert all(a.what == "right" for a in asyncio.run(all_of_them()))


def test_a_query_is_passed_on_and_bounded(router, pair):
    body = chat("id=a words=3", stream=False)
    assert router.request("POST", "/api/chat?beta=true&x=a%20b%26c%0d%0a", body)[0] == 200
    assert router.request("POST", "/api/chat?" + "q" * 999 + "=", body)[0] == 200
    assert router.request("POST", "/api/show?a=1", {"model": "stand"})[0] == 200
    status, _, text = router.request("POST", "/api/chat?" + "q" * 1000 + "=", body)
    assert status == 414 and "1000 bytes" in json.loads(text)["error"]
    queries = [q for server in pair for (_, path, *_), q in zip(server.seen, server.queries) if path in ("/api/chat", "/api/show")]
    assert sorted(queries) == sorted(["beta=true&x=a%20b%26c%0D%0A", "q" * 999 + "=", "a=1"])


def test_a_body_over_the_limit_is_refused(loop, ledger):
    with StandIn(loop, "ollama", ledger) as one, Router({"ollama": one.url}, max_body="10KB") as router:
        connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=PATIENCE)
        connection.request("POST", "/api/chat", json.dumps(chat("x" * 20000)))
        answer = connection.getresponse()
        assert answer.status == 413 and "larger" in json.loads(answer.read())["error"]
        connection.close()
        assert not one.seen
