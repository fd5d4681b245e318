"""Each command, piped, against the real server."""
import json
import os
import signal
import subprocess

import pytest
from doctor.standin import Server

from .schema import COUNT, TEXT, an_object, as_json
from .standin import stand_in

COMMANDS = ["list", "ps", "show", "run", "chat", "pull", "push", "create", "rm", "cp", "stop", "start-mlx", "stop-mlx", "switch", "status", "explain", "bench", "serve", "help",
            "version"]
MODELS = an_object(models={"type": "array", "items": an_object(name=TEXT, digest=TEXT, size=COUNT)})


def test_help_names_every_command_and_each_has_its_own(cli):
    everything = cli("help")
    assert everything.returncode == 0 and not everything.stderr
    assert "Exit codes: 0 done" in everything.stdout
    for name in COMMANDS:
        assert f"\n  {name} " in everything.stdout
        for words in ([name, "--help"], ["help", name]):
            done = cli(*words)
            assert done.returncode == 0 and not done.stderr
            assert done.stdout.startswith(f"Usage: ollama-to-mlx-router {name}")
    assert cli("--help").stdout == everything.stdout
    assert cli().returncode == 2


@pytest.mark.parametrize("words, why", [
    (["lsit"], "did you mean list?"), (["frobnicate"], "see ollama-to-mlx-router help"), (["help", "lsit"], "did you mean list?"),
    (["show"], "too few operands"), (["cp", "a"], "too few operands"), (["list", "a", "b"], "too many operands"),
    (["list", "--jsno"], "did you mean --json?"), (["run", "m", "--think=hard", "x"], "low, medium, high"),
    (["run", "m", "--keepalive", "soon", "x"], "like 5m"), (["run", "m", "--format", "yaml", "x"], "JSON schema"),
    (["run", "m", "--dimensions", "0", "x"], "number from 1"), (["show", "m", "--license", "--system"], "choose one"),
    (["list", "--host", "ftp://x"], "http:// or https://"), (["switch", "sideways"], "none of auto, ollama, mlx"),
    (["switch", "mlx", "a b"], "invalid model name"),
])
def test_wrong_usage_says_what_is_right(cli, words, why):
    done = cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_a_command_line_that_is_no_text_is_refused(cli):
    done = subprocess.run([cli.program.encode(), b"show", b"\xff\xfe"], env=cli.env, capture_output=True, check=False)
    assert done.returncode == 2 and b"UTF-8" in done.stderr


def test_list_shows_what_the_server_has(cli):
    done = cli("list")
    assert done.returncode == 0 and not done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert {row.split()[0] for row in rows} >= {"tiny:latest", "tiny-hello:latest"}
    assert all(row.endswith("ago") for row in rows)
    only = cli("ls", "TINY-H")
    assert [row.split()[0] for row in only.stdout.splitlines()[1:]] == ["tiny-hello:latest"]
    names = [m["name"] for m in as_json(cli("list", "--json", "tiny-h"), MODELS)["models"]]
    assert names == ["tiny-hello:latest"]


def test_ps_shows_what_is_loaded_until_it_is_stopped(own_bridge, cli_at):
    cli = cli_at(own_bridge.url)
    assert as_json(cli("ps", "--json"), MODELS) == {"models": []}
    assert cli("run", "tiny-hello", "hi", "--keepalive", "1h").returncode == 0
    head, row = cli("ps").stdout.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.startswith("tiny-hello:latest") and "100% CPU" in row
    assert "About an hour from now" in row or "59 minutes from now" in row
    stopped = as_json(cli("stop", "tiny-hello", "--json"), an_object(stopped=TEXT))
    assert stopped == {"stopped": "tiny-hello"}
    own_bridge.wait_idle()
    assert as_json(cli("ps", "--json"), MODELS) == {"models": []}
    assert cli("stop", "no-such-model").returncode == 4


def test_show_tells_all_or_one_part(cli):
    done = cli("show", "tiny-tuned")
    assert done.returncode == 0
    for words in ("Model", "architecture", "llama", "Capabilities", "completion", "Parameters", "top_k", "License", "But be kind."):
        assert words in done.stdout
    assert "Metadata" not in done.stdout and "Tensors" not in done.stdout
    assert "general.architecture" in cli("show", "tiny-tuned", "-v").stdout
    assert cli("show", "tiny-tuned", "--license").stdout == "Do as you like.\n\nBut be kind.\n"
    assert "FROM" in cli("show", "tiny-tuned", "--modelfile").stdout
    assert "temperature" in cli("show", "tiny-tuned", "--parameters").stdout
    assert "content" in cli("show", "tiny-tuned", "--template").stdout
    as_json(cli("show", "tiny-tuned", "--json"), an_object(details={"type": "object"}, model_info={"type": "object"}))


def test_an_answer_that_is_piped_is_all_that_stdout_gets(cli):
    done = cli("run", "tiny-hello", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello world! Grün 🙂\n", "")
    done = cli("run", "tiny-think", "hi", "--verbose")
    assert (done.returncode, done.stdout) == (0, "Yes.\n")
    assert done.stderr.startswith("Thinking...\n") and "...done thinking." in done.stderr
    assert "eval rate:" in done.stderr and "total duration:" in done.stderr
    done = cli("run", "tiny-think", "hi", "--hidethinking")
    assert (done.stdout, done.stderr) == ("Yes.\n", "")
    assert "Thinking" not in cli("run", "tiny-think", "hi", "--think=false").stderr


def test_run_as_json_is_the_whole_answer(cli):
    schema = an_object(model=TEXT, response=TEXT, thinking=TEXT, done={"const": True}, done_reason=TEXT, eval_count=COUNT, total_duration=COUNT)
    answer = as_json(cli("run", "tiny-think", "hi", "--json"), schema)
    assert answer["response"] == "Yes." and "hm, well" in answer["thinking"]
    assert "thinking" not in json.loads(cli("run", "tiny-think", "hi", "--json", "--hidethinking").stdout)


def test_run_without_a_prompt_loads(own_bridge, cli_at):
    cli = cli_at(own_bridge.url)
    done = cli("run", "tiny-hello")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(cli("ps", "--json").stdout)["models"][0]["name"] == "tiny-hello:latest"


def test_vectors_are_printed(cli):
    done = cli("run", "tiny-embed", "hello", "--dimensions", "4")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 4
    vectors = an_object(embeddings={"type": "array", "minItems": 1})
    assert len(as_json(cli("run", "tiny-embed", "hello", "--json"), vectors)["embeddings"][0]) == 384
    assert cli("run", "tiny-embed").returncode == 2
    refused = cli("run", "tiny-embed", "x" * 40000, "--truncate=false")
    assert refused.returncode == 1 and "context" in refused.stderr


def test_a_name_that_is_not_there_finds_its_neighbour(cli):
    for words in (["show", "tiny-helo"], ["stop", "tiny-helo"], ["cp", "tiny-helo", "x"], ["rm", "tiny-helo"]):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (4, "")
        assert "Did you mean tiny-hello?" in done.stderr
    done = cli("show", "something-else", "--json")
    assert done.returncode == 4 and "pull something-else" in as_json(done, an_object(error=TEXT))["error"]


def test_cp_and_rm(own_bridge, cli_at):
    cli = cli_at(own_bridge.url)
    done = cli("cp", "tiny-hello", "copy")
    assert (done.returncode, done.stdout) == (0, "copied 'tiny-hello' to 'copy'\n")
    assert cli("run", "copy", "hi").stdout.startswith("Hello")
    assert json.loads(cli("cp", "copy", "copy2", "--json").stdout) == {"source": "copy", "destination": "copy2"}
    assert cli("rm", "copy").stdout == "deleted 'copy'\n"
    assert json.loads(cli("rm", "copy2", "--json").stdout) == {"deleted": ["copy2"]}
    assert cli("show", "copy").returncode == 4


def test_versions(cli, bridge):
    short = cli("--version").stdout
    assert short.startswith("ollama-to-mlx-router ") and short.count("\n") == 1
    assert cli("version").stdout == f"{short}server at {bridge.url}: 0.33.0\n"
    schema = an_object(version=TEXT, server=an_object(url=TEXT, version=TEXT))
    assert as_json(cli("version", "--json"), schema)["server"]["version"] == "0.33.0"
    alone = cli("version", "--json", "--host", "127.0.0.1:1")
    assert alone.returncode == 0 and json.loads(alone.stdout)["server"] is None


# ---- which server

def test_without_a_server_it_says_what_to_start(cli_at, config):
    config()
    done = cli_at(None)("list")
    assert done.returncode == 5 and "start-mlx" in done.stderr
    assert all(f"127.0.0.1:{port}" in done.stderr for port in (1, 2, 3))
    named = cli_at("127.0.0.1:1")("list", "--json")
    assert named.returncode == 5 and "127.0.0.1:1" in json.loads(named.stdout)["error"]


def test_the_first_that_answers_is_asked(cli_at, bridge, config):
    cli = cli_at(None)
    with Server(stand_in(models=["elsewhere:latest"])) as other:
        config(ollama=bridge.url)
        assert "tiny:latest" in cli("list").stdout
        config(ollama=bridge.url, mlx=other.url)
        assert "elsewhere:latest" in cli("list").stdout
        config(port=bridge.port, mlx=other.url)
        assert "tiny:latest" in cli("list").stdout
        config(port=other.port, mlx=bridge.url)
        assert "elsewhere:latest" in cli("list").stdout
        assert "tiny:latest" in cli("list", "--host", bridge.url).stdout
        # The one that is named, and no other.
        assert cli("list", env={"OLLAMA_HOST": "127.0.0.1:3"}).returncode == 5
        assert "tiny:latest" in cli("list", "--host", bridge.url, env={"OLLAMA_HOST": "127.0.0.1:3"}).stdout
    config(port="many")
    done = cli("list")
    assert done.returncode == 2 and "router.ini" in done.stderr


# ---- switch, start-mlx

def test_switch_is_kept_and_says_what_it_means(cli_at, tmp_path, config):
    config()
    cli = cli_at(None)
    assert cli("switch").stdout.startswith("auto: ")
    done = cli("switch", "mlx")
    assert done.returncode == 0 and "to the bridge first" in done.stdout and "not running" in done.stdout
    assert json.loads(cli("switch", "--json").stdout)["order"] == "mlx"
    one = json.loads(cli("switch", "ollama", "llama3.2", "--json").stdout)
    assert (one["order"], one["model"]) == ("ollama", "llama3.2:latest")
    assert json.loads(cli("switch", "--json").stdout)["order"] == "mlx"
    assert "llama3.2" in (tmp_path / ".mlx-ollama/switch.ini").read_text()


def test_the_service_is_started_by_the_program_beside_or_in_path(cli_at, tmp_path):
    cli = cli_at(None)
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    (beside / "router").write_bytes(open(cli.program, "rb").read())
    (beside / "router").chmod(0o755)
    cli.program = str(beside / "router")
    none = cli("start-mlx", env={"PATH": "/nonexistent"})
    assert none.returncode == 1 and "mlx-ollama-bridge --port 11435" in none.stderr
    for place, word in ((elsewhere, "path"), (beside, "beside")):
        (place / "mlx-server-startup").write_text(f'#!/bin/sh\necho {word} "$@"\nexit 7\n')
        (place / "mlx-server-startup").chmod(0o755)
        done = cli("start-mlx", "--port", "7", env={"PATH": f"{elsewhere}:{os.environ['PATH']}"})
        assert (done.returncode, done.stdout) == (7, f"{word} start --port 7\n")
    assert cli("stop-mlx").stdout == "beside stop\n"


# ---- what is written where

def test_a_full_disk_and_a_reader_who_leaves_are_noticed(cli):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([cli.program, "list"], env=cli.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "cannot be written" in done.stderr
    process = cli.start("run", "tiny", "talk", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1


def test_an_interrupt_ends_the_answer_at_the_server_too(cli, bridge):
    before = bridge.health()["cancelled"]
    process = cli.start("run", "tiny-wordy", "talk", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and not errors and rest.endswith(b"\n")
    bridge.wait_for("cancelled", lambda h: h["cancelled"] > before)
    bridge.wait_idle()


def test_a_chat_by_a_pipe_is_its_answers(cli, tmp_path):
    """Without a terminal, chat reads lines and keeps none."""
    done = cli("chat", "tiny-hello", given="hi\n/bye\n")
    assert done.returncode == 0 and done.stdout == "Hello world! Grün 🙂\n"
    assert not (tmp_path / ".mlx-ollama/history").exists()
