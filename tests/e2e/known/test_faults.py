"""Broken, hostile and vanishing clients; the server's own end. The health counters show that nothing is left behind."""
import http.client
import json
import signal
import socket
import subprocess
import threading
import time

import pytest

from .bridge import PATIENCE, program

ENDLESS = {"model": "tiny", "prompt": "x", "options": {"num_predict": 1000000, "num_ctx": 4096}}


def post(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def dial(bridge):
    s = socket.create_connection(("127.0.0.1", bridge.port), timeout=PATIENCE)
    return s


def read_until(s, what):
    seen = b""
    while what not in seen:
        more = s.recv(65536)
        assert more, f"the connection ended after {seen[-500:]!r}"
        seen += more
    return seen


# ---- clients who leave


@pytest.mark.parametrize("lines", [1, 2, 5, 20])
def test_a_client_gone_mid_stream_frees_its_place(bridge, lines):
    before = bridge.wait_idle()["cancelled"]
    s = dial(bridge)
    s.sendall(post("/api/generate", ENDLESS))
    seen = b""
    while seen.count(b'"done":false') < lines:
        seen += s.recv(4096)
    assert bridge.health()["running"] == 1
    s.close()
    bridge.wait_idle()
    bridge.wait_for("counted", lambda h: h["cancelled"] == before + 1)


def test_a_client_gone_before_an_answer_at_once_frees_its_place(bridge):
    bridge.wait_idle()
    s = dial(bridge)
    s.sendall(post("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": False,
                                 "options": ENDLESS["options"]}))
    bridge.wait_for("running", lambda h: h["running"] == 1)
    s.close()
    bridge.wait_idle()


def test_a_client_gone_mid_prefill_frees_its_place(bridge):
    bridge.wait_idle()
    s = dial(bridge)
    s.sendall(post("/api/generate", {"model": "tiny", "prompt": "some words " * 2000, "options": {"num_ctx": 32768}}))
    bridge.wait_for("started", lambda h: h["running"] + h["waiting"] >= 1 or h["prompt_tokens"] > 20000)
    s.close()
    bridge.wait_idle()


def test_a_client_that_closes_its_sending_half_is_gone(bridge):
    bridge.wait_idle()
    s = dial(bridge)
    s.sendall(post("/api/generate", ENDLESS))
    read_until(s, b'"done":false')
    s.shutdown(socket.SHUT_WR)
    bridge.wait_idle()
    s.close()


def test_clients_gone_while_waiting_leave_the_queue(start):
    server = start(env={"OLLAMA_NUM_PARALLEL": "1"})
    running = dial(server)
    running.sendall(post("/api/generate", ENDLESS))
    read_until(running, b'"done":false')
    waiting = [dial(server) for _ in range(5)]
    for s in waiting:
        s.sendall(post("/api/generate", ENDLESS))
    server.wait_for("queued", lambda h: h["waiting"] == 5)
    for s in waiting:
        s.close()
    server.wait_for("empty", lambda h: h["waiting"] == 0)
    assert server.health()["running"] == 1
    running.close()
    server.wait_idle()


def test_a_full_queue_says_so(start):
    server = start(env={"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "2"})
    busy = [dial(server) for _ in range(3)]
    busy[0].sendall(post("/api/generate", ENDLESS))
    read_until(busy[0], b'"done":false')
    for s in busy[1:]:
        s.sendall(post("/api/generate", ENDLESS))
    server.wait_for("queued", lambda h: h["waiting"] == 2)
    answer = server.json("POST", "/api/generate", ENDLESS, status=503)
    assert answer == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    for s in busy:
        s.close()
    server.wait_idle()


def test_a_client_that_never_reads_is_cut_and_its_place_freed(bridge):
    before = bridge.wait_idle()["cancelled"]
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", bridge.port))
    # long lines fill the backlog soon, also where a step takes long
    s.sendall(post("/api/generate", dict(ENDLESS, model="tiny-wordy", logprobs=True, top_logprobs=1)))
    bridge.wait_for("cut", lambda h: h["cancelled"] == before + 1)
    bridge.wait_idle()
    assert "the client read too slowly" in bridge.log()
    s.close()


# ---- bad input


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
def test_a_huge_body_is_refused_in_json(bridge, path):
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
    size = 130 << 20
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    block = b" " * (1 << 20)
    for _ in range(size >> 20):
        connection.send(block)
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert answer.status == 413 and (error["type"] == "api_error" if path.startswith("/v1") else isinstance(error, str))
    connection.close()
    assert bridge.health()["status"] == "ok"


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions", "/v1/completions"])
def test_deeply_nested_json_is_refused(bridge, path):
    deep = b'{"model":"tiny","options":' + b'{"a":' * 100000 + b"1" + b"}" * 100000 + b"}"
    status, _, text = bridge.request("POST", path, deep)
    assert status == 400 and "error" in json.loads(text)


def test_chunked_bodies_and_keep_alive(bridge):
    s = dial(bridge)
    body = json.dumps({"model": "tiny-hello", "prompt": "x", "stream": False}).encode()
    for _ in range(3):
        s.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(body), 7):
            piece = body[i : i + 7]
            s.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        s.sendall(b"0\r\n\r\n")
        assert b'"done_reason":"stop"' in read_until(s, b'"eval_duration":')
    s.close()


def test_half_requests_do_not_hold_up_others(bridge):
    halves = [dial(bridge) for _ in range(50)]
    for i, s in enumerate(halves):
        s.sendall(post("/api/generate", ENDLESS)[: 10 + 2 * i])
    assert bridge.json("POST", "/api/generate", {"model": "tiny-hello", "prompt": "x", "stream": False})["done"]
    for s in halves:
        s.close()
    bridge.wait_idle()


@pytest.mark.parametrize("text", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100 + b"\r\n\r\n",
                                  b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                                  b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"])
def test_nonsense_does_not_hurt(bridge, text):
    s = dial(bridge)
    s.sendall(text)
    assert bridge.health()["status"] == "ok"
    s.close()
    assert bridge.health()["status"] == "ok"


def test_a_broken_model_fails_its_own_requests_only(start, tmp_path, tiny_models):
    import shutil

    broken = tmp_path / "roots" / "broken"
    shutil.copytree(tiny_models / "tiny-hello", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10000])
    server = start("--root", str(broken.parent))
    status, _, text = server.request("POST", "/api/generate", {"model": "broken", "prompt": "x"})
    assert status == 500 and "safetensors" in json.loads(text)["error"]
    assert server.json("POST", "/api/generate", {"model": "tiny-hello", "prompt": "x", "stream": False})["done"]
    server.json("GET", "/api/tags")
    server.wait_idle()


def test_a_model_with_a_damaged_text_file_is_still_shown(start, tmp_path, tiny_models):
    import shutil

    broken = tmp_path / "roots" / "broken"
    shutil.copytree(tiny_models / "tiny-tuned", broken)
    (broken / "tokenizer_config.json").write_text('{"chat_template":')
    server = start("--root", str(broken.parent))
    shown = server.json("POST", "/api/show", {"model": "broken", "verbose": True})
    assert shown["model_info"]["general.architecture"] == "llama" and shown["tensors"] and shown["license"]
    assert "template" not in shown and "parameters" not in shown and shown["capabilities"] == ["completion"]
    status, _, text = server.request("POST", "/api/generate", {"model": "broken", "prompt": "x"})
    assert status == 500 and "tokenizer_config.json" in json.loads(text)["error"]


# ---- delete


def test_delete_of_a_linked_model_keeps_the_users_files(start, tmp_path, tiny_models):
    import shutil

    linked = tmp_path / "roots" / "mine"
    shutil.copytree(tiny_models / "tiny-hello", linked)
    server = start("--root", str(linked.parent))
    server.json("POST", "/api/generate", {"model": "mine", "prompt": "x", "stream": False})
    assert server.request("DELETE", "/api/delete", {"name": "mine"})[::2] == (200, b"")
    assert (linked / "model.safetensors").exists()
    assert "mine:latest" not in [m["name"] for m in server.json("GET", "/api/tags")["models"]]
    assert server.json("POST", "/api/show", {"model": "mine"}, status=404) == {"error": "model 'mine:latest' not found"}
    server.wait_for("unloaded", lambda h: h["models"] == 0)


# ---- the server's own end


def test_sigterm_lets_a_running_answer_finish(start):
    server = start("--drain", "600")  # a sanitizer build on a busy machine takes its time
    s = dial(server)
    s.sendall(post("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 1000}}))
    read_until(s, b'"done":false')
    server.process.send_signal(signal.SIGTERM)
    seen = b""
    while more := s.recv(65536):
        seen += more
    assert b'"done":true' in seen[-1000:] and b'"eval_count":1000' in seen[-1000:]
    s.close()
    assert server.process.wait(PATIENCE) == 0


def test_sigint_with_an_endless_answer_ends_it_with_an_error_line(start):
    server = start("--drain", "0")
    s = dial(server)
    s.sendall(post("/api/generate", ENDLESS))
    read_until(s, b'"done":false')
    server.process.send_signal(signal.SIGINT)
    seen = b""
    while more := s.recv(65536):
        seen += more
    assert b'{"error":' in seen[-2000:]
    s.close()
    assert server.process.wait(PATIENCE) == 0


def test_signals_at_any_moment_end_it_cleanly(start):
    for i in range(6):
        server = start("--drain", "1")
        sockets = [dial(server) for _ in range(8)]
        threads = [threading.Thread(target=s.sendall, args=(post("/api/generate", ENDLESS),)) for s in sockets]
        for t in threads:
            t.start()
        time.sleep(0.03 * i)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0, server.log()[-2000:]
        for t in threads:
            t.join()
        for s in sockets:
            s.close()


def test_a_port_in_use_is_named_with_its_remedy(bridge):
    done = subprocess.run([program(), "--port", str(bridge.port), "--models", f"{bridge.home.name}/other"],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 3
    assert str(bridge.port) in done.stderr and "--port" in done.stderr


@pytest.mark.parametrize("arguments, code, words", [
    (["--help"], 0, "OLLAMA_KEEP_ALIVE"), (["--version"], 0, "mlx-ollama-bridge"), (["--backend", "abacus"], 2, "auto, cpu and mlx"),
    (["dance"], 2, "unknown command"), (["--port", "x"], 2, "--port"), (["import", "/nothing.gguf"], 1, "/nothing.gguf"),
])
def test_command_line(arguments, code, words, tmp_path):
    done = subprocess.run([program(), *arguments, *(["--models", str(tmp_path)] if arguments[0] == "import" else [])],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code
    assert words in done.stdout + done.stderr


def test_one_log_line_for_a_request(bridge):
    bridge.json("POST", "/api/generate", {"model": "tiny-hello", "prompt": "marker", "stream": False})
    line = next(line for line in reversed(bridge.log().splitlines()) if "path=/api/generate" in line)
    for part in ("method=POST", "status=200", "ms=", "model=tiny-hello", "tokens=", "ttft_ms="):
        assert part in line
