"""The doctor finds what is wrong with a server, says what to do, and finds nothing where all is well."""
import json
import os
import pty
import re
import signal
import socket
import time

import pytest
from known.bridge import Bridge

from .conftest import PATIENCE
from .standin import Server, stand_in

CHECKS = ["reachable", "health", "head", "version", "models", "show", "unknown-model", "generate", "stream", "chat", "tools",
          "embed", "openai", "leaving", "unload"]

# fault of the stand-in -> check that must fail, words of its detail, words of its remedy
FAULTS = {
    "not-ollama": ("reachable", "It works!", "--url"),
    "hang": ("reachable", "sent nothing for 1.0 s", "--timeout"),
    "health-degraded": ("health", "degraded", "log"),
    "router-down": ("health", "no backend behind it, mlx down, ollama down", "mlx-server-startup start"),
    "head-500": ("head", "answered 500", "log"),
    "version-words": ("version", "newest", "update"),
    "tags-null": ("models", "models must be an array", "update"),
    "tags-empty": ("models", "no model", "import"),
    "tags-digest": ("models", "digest", "update"),
    "tags-time": ("models", "modified_at must be a time", "update"),
    "tags-hang": ("models", "sent nothing for 1.0 s", "--timeout"),
    "tags-drip": ("models", "took longer than 3.0 s", "--timeout"),
    "show-info": ("show", "model_info is missing", "update"),
    "show-context": ("show", "llama.context_length", "update"),
    "unknown-500": ("unknown-model", "it was 500", "update"),
    "generate-500": ("generate", "answered 500: the model has  [31mcrashed", "log"),
    "generate-drop": ("generate", "without an answer", "log"),
    "generate-hang": ("generate", "sent nothing for 1.0 s", "--timeout"),
    "generate-model": ("generate", "something-else", "update"),
    "generate-not-done": ("generate", "done must be true", "update"),
    "generate-text": ("generate", "text/html", "update"),
    "durations-seconds": ("generate", "total_duration must be an integer", "update"),
    "durations-odd": ("generate", "they do not fit", "update"),
    "count-missing": ("generate", "eval_count is missing", "update"),
    "count-wrong": ("generate", "eval_count is 1000", "update"),
    "reason-missing": ("generate", "done_reason is missing", "update"),
    "stream-type": ("stream", "text/event-stream", "update"),
    "stream-dies": ("stream", "broke off after 1 events", "log"),
    "stream-hang": ("stream", "sent nothing for 1.0 s", "--timeout"),
    "stream-endless": ("stream", "does not end", "num_predict"),
    "stream-error": ("stream", "an error in the middle", "log"),
    "stream-garbage": ("stream", "data: oops", "update"),
    "stream-model": ("stream", "something-else", "update"),
    "stream-half-line": ("stream", "last line has no end", "update"),
    "stream-no-done": ("stream", "ended after 4 events without one that is done", "log"),
    "stream-after-done": ("stream", "after the event that is done", "update"),
    "chat-role": ("chat", "role must be assistant", "update"),
    "chat-content": ("chat", "content must be a string", "update"),
    "chat-503": ("chat", "answered 503: server busy", "busy"),
    "tools-arguments": ("tools", "arguments must be an object", "update"),
    "tools-name": ("tools", "the function is \"get_whether\"", "update"),
    "tools-leak": ("tools", "with <tool_call> in it", "update"),
    "embed-length": ("embed", "length is 5.000", "update"),
    "embed-one": ("embed", "two vectors", "update"),
    "openai-choice": ("openai", "message is missing", "update"),
    "openai-error": ("openai", "answered 500: out of memory", "memory"),
    "leave-runs-on": ("leaving", "still runs", "report"),
    "leave-breaks": ("leaving", "answered 500", "log"),
    "unload-reason": ("unload", "must be unload", "update"),
    "unload-stays": ("unload", "still in /api/ps", "restart"),
}


def wait_until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def by_name(document):
    return {c["check"]: c for c in document["checks"]}


# ---- a server that is right, or wrong in one thing


def test_a_server_that_is_right_passes_everything(doctor):
    with Server(stand_in()) as server:
        status, document = doctor.json("--url", server.url)
    assert [c["check"] for c in document["checks"]] == CHECKS
    assert {c["state"] for c in document["checks"]} == {"passed"}, document
    assert status == 0 and document["ok"] and document["passed"] == len(CHECKS)
    assert document["url"] == server.url
    assert "stand-in:latest" in by_name(document)["models"]["detail"]  # the smaller one writes no text
    assert "GPU" in by_name(document)["health"]["detail"]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_found_and_has_a_remedy(doctor, fault):
    check, detail, remedy = FAULTS[fault]
    with Server(stand_in(fault)) as server:
        status, document = doctor.json("--url", server.url, "--timeout", 1)
    assert status == document["failed"] > 0 and not document["ok"]
    found = by_name(document)[check]
    assert found["state"] == "failed", document
    assert detail in found["detail"], found
    assert remedy in found["remedy"], found
    before = document["checks"][: CHECKS.index(check)]
    assert all(c["state"] == "passed" for c in before), before
    assert all(c["remedy"] for c in document["checks"] if c["state"] == "failed")


def test_nobody_there_says_how_to_start_it(doctor):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # nobody listens
        done = doctor("--url", f"127.0.0.1:{s.getsockname()[1]}")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✗ the server answers: ") and "nothing answers" in lines[0]
    assert lines[1].startswith("  → ") and "mlx-ollama-bridge" in lines[1]
    assert lines[-1].startswith("0 passed, 1 failed, 14 skipped")


@pytest.mark.parametrize("fault, check, words", [
    ("no-health", "health", "neither mlx-ollama-bridge"),
    ("no-tools", "tools", "no tools among its capabilities"),
    ("tools-words", "tools", "did not call it, it said: It rains."),
    ("no-embed", "embed", "501"),
    ("no-openai", "openai", "404"),
])
def test_what_a_server_may_lack_is_skipped_with_the_reason(doctor, fault, check, words):
    with Server(stand_in(fault)) as server:
        status, document = doctor.json("--url", server.url)
    found = by_name(document)[check]
    assert status == 0 and found["state"] == "skipped" and words in found["detail"], document
    assert document["skipped"] == 1


@pytest.mark.parametrize("fault, advice", [("router", ""), ("router-half", "not all of them answer")])
def test_the_router_is_known_by_its_health(doctor, fault, advice):
    with Server(stand_in(fault)) as server:
        status, document = doctor.json("--url", server.url)
    found = by_name(document)["health"]
    assert status == 0 and "ollama-to-mlx-router 1.2.3, mlx healthy, ollama " in found["detail"], found
    assert advice in found["remedy"]


def test_an_old_version_passes_with_advice(doctor):
    with Server(stand_in("version-old")) as server:
        status, document = doctor.json("--url", server.url)
    found = by_name(document)["version"]
    assert status == 0 and found["state"] == "passed" and "0.13.4" in found["remedy"]


def test_a_model_that_is_not_there_is_said(doctor):
    with Server(stand_in()) as server:
        status, document = doctor.json("--url", server.url, "--model", "absent")
    found = by_name(document)["generate"]
    assert status == document["failed"] and found["state"] == "failed" and "--model" in found["remedy"], found


# ---- forms of the report


def test_tap_counts_its_tests(doctor):
    with Server(stand_in("head-500")) as server:
        done = doctor("--url", server.url, "--tap")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "TAP version 13" and lines[-1] == f"1..{len(CHECKS)}"
    tests = [re.match(r"(not )?ok (\d+) - (\S+)", line) for line in lines if re.match(r"(not )?ok ", line)]
    assert [int(t[2]) for t in tests] == list(range(1, len(CHECKS) + 1))
    assert [t[3] for t in tests if t[1]] == ["head"]


def on_a_terminal(doctor, *arguments, env=None):
    """What somebody sees who runs it in a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(doctor.program, [doctor.program, *arguments], {**doctor.env, "TERM": "xterm", **(env or {})})
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:  # Linux's way to say that it is over
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def test_a_terminal_gets_colours_and_progress(doctor):
    with Server(stand_in("slow")) as server:
        status, seen = on_a_terminal(doctor, "--url", server.url)
        assert status == 0
        assert "\033[32m✓\033[0m GET /api/version" in seen
        assert re.search(r"\r\033\[K… GET /api/version \([12] s\)", seen), seen
    with Server(stand_in()) as server:
        status, seen = on_a_terminal(doctor, "--url", server.url, env={"NO_COLOR": "1"})
        assert status == 0 and "\033[3" not in seen and "✓ GET /api/version" in seen
        plain = doctor("--url", server.url)
    assert "\033" not in plain.stdout + plain.stderr


def test_a_locale_without_such_signs_gets_plain_ones(doctor):
    with Server(stand_in("head-500")) as server:
        done = doctor("--url", server.url, env={"LC_ALL": "C"})
    assert done.returncode == 1 and done.stdout.isascii() and done.stderr.isascii()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok   the server answers: ")
    failed = next(i for i, line in enumerate(lines) if line.startswith("FAIL HEAD /"))
    assert lines[failed + 1].startswith("  -> ")


def test_wrong_usage_is_told_from_failure(doctor):
    done = doctor("--json", "--tap")
    assert done.returncode == 101 and "choose one" in done.stderr and not done.stdout
    assert doctor("--help").returncode == 0
    assert re.match(r"test-mlx-integration \d", doctor("--version").stdout)


def test_an_interrupt_ends_it_at_once(doctor):
    hanging = stand_in("generate-hang")
    with Server(hanging) as server:
        process = doctor.start("--url", server.url, stdout=-1, text=True)
        wait_until(lambda: hanging.seen["hangs"])
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "✗" not in out and "✓ POST /api/show" in out


# ---- the bridge


def test_a_running_bridge_passes(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge:
        status, document = doctor.json("--url", bridge.url)
        assert status == 0, document
        states = {c["check"]: c["state"] for c in document["checks"]}
        assert {k for k, v in states.items() if v != "passed"} == {"tools"}  # that model has none
        assert bridge.health()["models"] == 0  # unloaded at the end
        assert bridge.health()["cancelled"] == 1
        status, document = doctor.json("--url", bridge.url, "--model", "tiny-tool")
        assert by_name(document)["tools"]["state"] == "passed", document


def test_a_bridge_of_its_own_is_started_and_stopped(doctor, tiny_models):
    status, document = doctor.json("--start", "--model", "tiny-hello", "--", "--root", tiny_models)
    assert status == 0, document
    found = by_name(document)
    assert found["start"]["state"] == found["stop"]["state"] == "passed"
    pid = int(re.search(r"process (\d+)", found["start"]["detail"])[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_bridge_that_does_not_start_says_why(doctor):
    done = doctor("--start", "--", "--backend", "abacus")
    assert done.returncode == 1
    assert "✗ the bridge starts" in done.stdout and "there are auto, cpu and mlx" in done.stdout


def test_a_bridge_without_models_says_how_to_get_one(doctor, tmp_path):
    status, document = doctor.json("--start", "--", "--models", tmp_path / "none")
    found = by_name(document)
    assert status == 1 and found["models"]["state"] == "failed" and "quickstart" in found["models"]["remedy"]
    assert found["generate"]["state"] == "skipped"


def test_the_document_is_whole_when_it_is_interrupted(doctor):
    hanging = stand_in("generate-hang")
    with Server(hanging) as server:
        process = doctor.start("--url", server.url, "--json", stdout=-1)
        wait_until(lambda: hanging.seen["hangs"])
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "generate" not in by_name(json.loads(out))
