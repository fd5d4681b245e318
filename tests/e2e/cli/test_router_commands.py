"""status, explain, bench, switch and serve: with a router that runs, and without one."""
import json
import re
import signal
import subprocess
import time

import pytest
from doctor.standin import Server
from known.bridge import free_port

from .schema import COUNT, NUMBER, TEXT, TRUTH, a_list, an_object, as_json
from .standin import HOSTILE, events, stand_in

PATIENCE = 120
STATUS = an_object(router=an_object(url=TEXT, running=TRUTH), order={"enum": ["auto", "ollama", "mlx"]}, orders={"type": "object"},
                   backends=a_list(an_object(name=TEXT, kind={"enum": ["ollama", "mlx"]}, url=TEXT, state=TEXT,
                                             models=a_list(an_object(name=TEXT, size=COUNT, loaded=TRUTH)))))
EXPLAIN = an_object(model=TEXT, needs=a_list(TEXT), candidates=a_list(an_object(backend=TEXT, ok=TRUTH, score=NUMBER)),
                    chosen={"type": ["string", "null"]})
BENCH = an_object(models=a_list(an_object(model=TEXT, names=a_list(TEXT), best={"type": ["string", "null"]}, why=TEXT,
                                          backends=a_list(an_object(backend=TEXT, model=TEXT))), minItems=1),
                  skipped=a_list(an_object(model=TEXT, reason=TEXT)), chosen=TRUTH)


class Running:
    """serve, on a port that was free a moment ago."""

    def __init__(self, cli, *arguments):
        self.log = cli.home / "router.log"
        with open(self.log, "wb") as log:
            self.process = cli.start("serve", *arguments, stderr=log, stdout=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"msg=listening .*?port=(\d+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def running(cli_at, config, bridge):
    """A router in front of the bridge, at the address of this test's configuration."""
    port = free_port()
    config(mlx=bridge.url, port=port)
    router = Running(cli_at(None))
    yield router
    assert router.stop() == 0


def test_status_without_a_router(cli_at, config, bridge):
    config(mlx=bridge.url)
    cli = cli_at(None)
    done = cli("status")
    assert done.returncode == 0 and not done.stderr
    assert "not running at http://127.0.0.1:1" in done.stdout
    assert re.search(r"^bridge +mlx +healthy +0\.33\.0 +[\d.]+ ms +\d+ \(\d+ loaded\) +http", done.stdout, re.M)
    assert re.search(r"^real +ollama +down +- ", done.stdout, re.M)
    assert re.search(r"^tiny-hello:latest +bridge +5\.0 MB +(yes|no)$", done.stdout, re.M)
    status = as_json(cli("status", "--json"), STATUS)
    assert status["router"]["running"] is False
    assert [b["state"] for b in status["backends"]] == ["healthy", "down"]


def test_status_when_nothing_runs(cli_at, config):
    config()
    done = cli_at(None)("status")
    assert done.returncode == 5 and "start-mlx" in done.stderr
    assert cli_at(None)("status", "--json").returncode == 5


def test_status_of_a_running_router(cli_at, running):
    cli = cli_at(None)
    assert cli("switch", "mlx", "tiny-hello").stdout == "tiny-hello:latest: mlx: requests go to the bridge first, and to Ollama " \
                                                        "when the bridge cannot serve them\n"
    end = time.monotonic() + PATIENCE
    while "tiny-hello" not in as_json(cli("status", "--json"), STATUS)["orders"].__repr__() and time.monotonic() < end:
        time.sleep(0.05)
    status = as_json(cli("status", "--json"), STATUS)
    assert status["router"]["running"] is True and status["router"]["url"].endswith(str(running.port))
    assert status["orders"] == {"tiny-hello:latest": "mlx"}
    text = cli("status").stdout
    assert text.startswith(f"router   running at http://127.0.0.1:{running.port}, version ")
    assert re.search(r"^ +tiny-hello:latest +mlx$", text, re.M)


def test_commands_go_through_the_running_router(cli_at, running):
    cli = cli_at(None)
    assert cli("run", "tiny-hello", "hi").stdout == "Hello world! Grün 🙂\n"
    assert "tiny-hello:latest" in cli("list").stdout
    assert json.loads(cli("version", "--json").stdout)["server"]["url"].endswith(str(running.port))
    assert '"path":"/api/generate"' in running.log.read_text()


@pytest.mark.parametrize("through", [True, False])
def test_explain(cli_at, config, bridge, request, through):
    if through:
        request.getfixturevalue("running")
    else:
        config(mlx=bridge.url)
    cli = cli_at(None)
    done = cli("explain", "tiny-hello")
    assert done.returncode == 0 and "bridge is asked first." in done.stdout
    assert re.search(r"^real .* no ", done.stdout, re.M)
    plain = as_json(cli("explain", "tiny-hello", "--json"), EXPLAIN)
    assert (plain["chosen"], plain["needs"]) == ("bridge", ["completion"])
    needs = {("--tools",): "tools", ("--format", "json"): "format", ("--image",): "vision", ("--embed",): "embedding"}
    for words, need in needs.items():
        assert need in as_json(cli("explain", "tiny-able", *words, "--json"), EXPLAIN)["needs"], words
    large = as_json(cli("explain", "tiny-hello", "--num-ctx", "4096", "--json"), EXPLAIN)
    assert large["chosen"] == "bridge"
    for words in (["--num-ctx", "many"], ["--format", "yaml"], ["--embed", "--tools"]):
        assert cli("explain", "tiny-hello", *words).returncode == 2


def test_explain_when_nobody_can(cli_at, config):
    config()
    done = cli_at(None)("explain", "m")
    assert done.returncode == 4 and "Nobody can serve it." in done.stdout


def test_bench_measures_and_keeps_its_choice(cli_at, config):
    slow = stand_in(generate=events("a", "b", "c"), models=["m:latest"])
    with Server(stand_in(generate=events("a", "b", "c"), models=["m:latest"])) as quick, Server(slow) as other:
        config(mlx=quick.url, ollama=other.url)
        cli = cli_at(None)
        done = cli("bench", "--json", "m")
        figures = as_json(done, BENCH)
        assert {b["backend"] for b in figures["models"][0]["backends"]} == {"bridge", "real"}
        assert figures["chosen"] is False and "m on bridge" in done.stderr
        text = cli("bench", "--choose", "m")
        assert text.returncode == 0 and text.stdout.startswith("MODEL ") and "bridge" in text.stdout
        assert "The choice is kept" in text.stdout
        none = cli("bench", "absent")
        assert none.returncode == 4 and "absent" in none.stderr


def test_a_server_cannot_drive_the_terminal_of_status(cli_at, config):
    with Server(stand_in(models=[f"m{HOSTILE}:latest"])) as server:
        config(mlx=server.url)
        cli = cli_at(None)
        for words in (["status"], ["explain", "m"], ["list"]):
            done = cli(*words)
            assert "\x1b" not in done.stdout + done.stderr and "\x9b" not in done.stdout, words


def test_serve_shows_its_configuration_as_it_holds(cli_at, config, tmp_path):
    cli = cli_at(None)
    path = config(port=4321)
    done = cli("serve", "--check")
    assert done.returncode == 0 and "port = 4321" in done.stdout and "[bridge]" in done.stdout
    assert "port = 99\n" in cli("serve", "--check", "--port", "99").stdout
    schema = an_object(router=an_object(host=TEXT, port=COUNT), backends=a_list(an_object(name=TEXT, kind=TEXT, url=TEXT)))
    assert as_json(cli("serve", "--check", "--json"), schema)["router"]["port"] == 4321
    other = tmp_path / "other.ini"
    other.write_text(done.stdout.replace("4321", "77"))
    assert "port = 77" in cli("serve", "--check", "--config", other).stdout
    path.write_text("[router]\nport = many\n")
    for words in (["serve", "--check"], ["serve"], ["status"], ["explain", "m"], ["bench"]):
        wrong = cli(*words)
        assert wrong.returncode == 2 and "router.ini" in wrong.stderr and "line 2" in wrong.stderr, words
    absent = cli("serve", "--config", tmp_path / "absent.ini")
    assert absent.returncode == 2 and "absent.ini" in absent.stderr
    for words in (["--port", "70000"], ["--port", ""], ["--host", ""]):
        assert cli("serve", "--check", "--config", other, *words).returncode == 2


def test_an_address_that_is_taken_has_an_exit_code_of_its_own(cli_at, config, bridge):
    config()
    done = cli_at(None)("serve", "--port", bridge.port)
    assert done.returncode == 3 and str(bridge.port) in done.stderr


def test_the_bridge_is_started_asked_and_stopped(cli_at, config, tiny_models, tmp_path):
    port = free_port()
    config(mlx=f"http://127.0.0.1:{port}")
    service = tmp_path / ".config/mlx-ollama/service.ini"
    service.write_text(f"[bridge]\nport = {port}\noptions = --root {tiny_models}\n[logs]\nlogs = state\n")
    cli = cli_at(None)
    assert cli("status").returncode == 5
    try:
        started = cli("start-mlx")
        assert started.returncode == 0, started.stderr
        assert re.search(r"^bridge +mlx +healthy ", cli("status").stdout, re.M)
        assert cli("run", "tiny-hello", "hi").stdout == "Hello world! Grün 🙂\n"
    finally:
        stopped = cli("stop-mlx")
    assert stopped.returncode == 0, stopped.stderr
    assert cli("status").returncode == 5
