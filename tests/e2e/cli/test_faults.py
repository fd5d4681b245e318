"""A server that lies, breaks off, or would like to drive the terminal; and the models that it does not have."""
import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest
from doctor.standin import Server

from .standin import HOSTILE, events, stand_in

PULL = [json.dumps(e).encode() + b"\n" for e in (
    {"status": "pulling manifest"},
    {"status": "pulling 0123456789ab", "digest": "sha256:0123456789abcdef", "total": 1000000},
    *({"status": "pulling 0123456789ab", "digest": "sha256:0123456789abcdef", "total": 1000000, "completed": n * 50000} for n in range(1, 21)),
    {"status": "verifying sha256 digest"}, {"status": "success"})]


def in_terminal(cli, *arguments, typed=b"", env=None, columns=60):
    """(exit status, what the terminal got): all three streams are the terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.execve(cli.program, [cli.program, *map(str, arguments)], {**cli.env, "COLUMNS": str(columns), **(env or {})})
        finally:
            os._exit(99)
    got, end = b"", time.monotonic() + 60
    if typed:
        os.write(fd, typed)
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                piece = os.read(fd, 65536)
            except OSError:
                piece = b""
            if not piece:
                break
            got += piece
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), got.decode()


# ---- streams

def test_an_error_in_the_middle_of_an_answer_is_a_failure(cli_at):
    with Server(stand_in(generate=[*events("Well,", " as", done=False), b'{"error":"the model has \\u001b[31mcrashed"}\n'])) as server:
        done = cli_at(server.url)("run", "m", "hi")
        assert (done.returncode, done.stdout) == (1, "Well, as\n")
        assert "the model has [31mcrashed" in done.stderr
        as_json = cli_at(server.url)("run", "m", "hi", "--json")
        assert as_json.returncode == 1 and "crashed" in json.loads(as_json.stdout)["error"]


@pytest.mark.parametrize("pieces, after, why", [
    (events("Well,", done=False), "cut", "in the middle of its answer"),
    (events("Well,", done=False), None, "without saying that it is whole"),
    ([b"<html>It works!</html>\n"], None, "no stream of JSON"),
    ([b"[1]\n"], None, "no stream of JSON"),
    ([b'{"response":"' + b"x" * (9 << 20)], None, "longer than 8388608"),
    ([events("Well,")[0][:20]], None, "no stream of JSON"),
    ((500, {"error": "out of memory"}), None, "out of memory"),
    ((503, {"error": "server busy"}), None, "server busy"),
    ((403, {}), None, "403"),
    ((400, {"error": {"message": "no such option"}}), None, "no such option"),
])
def test_what_is_no_whole_answer_is_a_failure(cli_at, pieces, after, why):
    with Server(stand_in(generate=pieces, after=after)) as server:
        done = cli_at(server.url)("run", "m", "hi")
    assert done.returncode == 1 and why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_lines_in_any_pieces_are_one_answer(cli_at):
    whole = b"".join(events("Gr", "ü", "n", " 漢字"))
    with Server(stand_in(generate=[whole[i:i + 7] for i in range(0, len(whole), 7)])) as server:
        assert cli_at(server.url)("run", "m", "hi").stdout == "Grün 漢字\n"
    with Server(stand_in(generate=[whole.rstrip(b"\n")])) as server:
        assert cli_at(server.url)("run", "m", "hi").stdout == "Grün 漢字\n"


def test_what_comes_by_a_pipe_is_the_beginning_of_the_prompt(cli_at):
    server_class = stand_in(generate=events("ok"))
    with Server(server_class) as server:
        cli = cli_at(server.url)
        assert cli("run", "m", "what", "is this?", "--system", "be brief", "--format", "json", "--keepalive", "1m", given="some text\n").returncode == 0
        path, asked = server_class.seen["asked"][-1]
        assert path == "/api/generate" and asked["prompt"] == "some text\n what is this?"
        assert (asked["system"], asked["format"], asked["keep_alive"]) == ("be brief", "json", "1m")
        assert "think" not in asked
        done = cli("run", "m", given=b"\xff\xfe")
        assert done.returncode == 1 and b"no UTF-8" in done.stderr


def test_pictures_go_along_for_models_that_see(cli_at, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    server_class = stand_in(generate=events("ok"), capabilities=("completion", "vision"))
    with Server(server_class) as server:
        done = cli_at(server.url)("run", "m", f"what is {tmp_path}/a.png?")
        assert "Added image" in done.stderr
        asked = server_class.seen["asked"][-1][1]
        assert (asked["prompt"], asked["images"]) == ("what is ?", ["iVBORw0KGgo="])
    server_class = stand_in(generate=events("ok"))
    with Server(server_class) as server:
        cli_at(server.url)("run", "m", f"what is {tmp_path}/a.png?")
        assert "images" not in server_class.seen["asked"][-1][1]


# ---- the terminal

def strip_own(text):
    """Without the sequences that the program itself uses: colours, taking back a word, the line editor's paste mode."""
    for own in ("\x1b[2m", "\x1b[1m", "\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[K"):
        text = text.replace(own, "")
    return text


def test_a_model_cannot_drive_the_terminal(cli_at):
    handler = stand_in(generate=events(HOSTILE, thinking=[HOSTILE]), models=[f"m{HOSTILE}:latest"], license=HOSTILE)
    with Server(handler) as server:
        cli = cli_at(server.url)
        for words in (["run", "m", "hi"], ["list"], ["show", "m"], ["show", "m", "--license"]):
            status, got = in_terminal(cli, *words, env={"NO_COLOR": "1"})
            assert status == 0
            assert "\x1b" not in strip_own(got) and "\x9b" not in got and "\x07" not in got and "\x7f" not in got, words
            assert "]0;owned[2J[31mred2Jend" in got
            piped = cli(*words)
            assert "\x1b" not in piped.stdout + piped.stderr
        # For programs it is as it came.
        assert json.loads(cli("run", "m", "hi", "--json").stdout)["response"] == HOSTILE


def test_colours_are_for_terminals_that_want_them(cli_at):
    with Server(stand_in(generate=events("Yes.", thinking=["hm"]))) as server:
        cli = cli_at(server.url)
        status, got = in_terminal(cli, "run", "m", "hi")
        assert status == 0 and "\x1b[2mThinking..." in got and "...done thinking.\r\n\x1b[0m" in got and "Yes." in got
        _, plain = in_terminal(cli, "run", "m", "hi", env={"NO_COLOR": "1"})
        assert "Thinking..." in plain and "\x1b[2m" not in plain
        _, dumb = in_terminal(cli, "run", "m", "hi", env={"TERM": "dumb"})
        assert "\x1b" not in dumb
        assert "\x1b" not in cli("show", "--nonsense").stderr
        _, wrong = in_terminal(cli, "show", "--nonsense")
        assert "\x1b[31m" in wrong


def test_a_word_that_does_not_fit_goes_down(cli_at):
    words = "alpha beta gamma delta epsilon " * 6
    with Server(stand_in(generate=events(*words))) as server:
        cli = cli_at(server.url)
        _, got = in_terminal(cli, "run", "m", "hi")
        assert "\x1b[K\r\n" in got
        _, flat = in_terminal(cli, "run", "m", "hi", "--nowordwrap")
        assert flat.rstrip() == words.rstrip()


# ---- models that are not there

def test_pull_tells_how_it_goes(cli_at):
    with Server(stand_in(pull=PULL)) as server:
        cli = cli_at(server.url)
        done = cli("pull", "m2")
        assert (done.returncode, done.stdout) == (0, "")
        lines = done.stderr.splitlines()
        assert lines[0] == "pulling manifest" and lines[-1] == "success"
        assert "pulling 0123456789ab: 50% of 1 MB" in lines and len(lines) <= 15
        events_seen = [json.loads(line) for line in cli("pull", "m2", "--json").stdout.splitlines()]
        assert events_seen[-1] == {"status": "success"} and len(events_seen) == len(PULL)
        status, got = in_terminal(cli, "pull", "m2")
        assert status == 0 and "100% ▕" in got and "success" in got


@pytest.mark.parametrize("pieces, status, why", [
    ([b'{"status":"pulling manifest"}\n', b'{"error":"pull model manifest: file does not exist"}\n'], 4, "Did you mean m, which is there?"),
    ([b'{"status":"pulling manifest"}\n', b'{"error":"dial tcp: no such host"}\n'], 1, "no such host"),
    (PULL[:-1], 1, "pull it again"),
    ((400, {"error": "invalid model name"}), 1, "invalid model name"),
])
def test_a_pull_that_fails_says_so(cli_at, pieces, status, why):
    with Server(stand_in(pull=pieces)) as server:
        done = cli_at(server.url)("pull", "mm")
    assert done.returncode == status and why in done.stderr


def test_run_pulls_what_is_not_there(cli_at):
    with Server(stand_in(generate=events("hi"), pull=PULL, missing=["new"])) as server:
        done = cli_at(server.url)("run", "new", "hello", "--insecure")
        assert (done.returncode, done.stdout) == (0, "hi\n") and "success" in done.stderr


def test_on_a_terminal_it_asks_before(cli_at):
    for answer, status, words in ((b"n\n", 4, []), (b"\n", 0, ["/api/pull"]), (b"y\n", 0, ["/api/pull"])):
        handler = stand_in(generate=events("hi"), pull=PULL, missing=["mm"])
        with Server(handler) as server:
            code, got = in_terminal(cli_at(server.url), "run", "mm", "hello", typed=answer)
        assert code == status and "mm is not here (did you mean m?). Pull it? [Y/n]" in got
        assert [path for path, _ in handler.seen["asked"] if path == "/api/pull"] == words


def test_an_interrupted_pull_is_left(cli_at):
    handler = stand_in(pull=PULL[:5], after="hang")
    with Server(handler) as server:
        process = cli_at(server.url).start("pull", "m2", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stderr.readline() == b"pulling manifest\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        end = time.monotonic() + 60
        while not handler.seen["left"] and time.monotonic() < end:
            time.sleep(0.05)
        assert handler.seen["left"] == 1
