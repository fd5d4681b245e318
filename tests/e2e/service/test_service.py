"""The commands for real: what people type, and what goes wrong under them."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from known import tiny
from known.bridge import program

from known.bridge import free_port
from .conftest import PATIENCE, alive, until


def started(service):
    service("start")
    got = service.status()
    assert got["phase"] == "ready" and got["healthy"], got
    return got


class Clients:
    """Asks all the time, each time over a new connection, until it is left; counts what went wrong."""

    def __init__(self, service):
        self.service, self.pids, self.wrong, self.n = service, set(), [], 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(2)]

    def ask(self):
        while not self.over.is_set():
            try:
                status, _ = self.service.get("/api/version")
                if status != 200:
                    self.wrong.append(status)
            except (OSError, EOFError, ValueError) as e:
                self.wrong.append(repr(e))
            self.n += 1

    def __enter__(self):
        for t in self.threads:
            t.start()
        until("a first answer", lambda: self.n > 5)
        return self

    def __exit__(self, *_):
        n = self.n
        until("an answer at the end", lambda: self.n > n + 5)
        self.over.set()
        for t in self.threads:
            t.join(PATIENCE)


def test_start_status_stop(service):
    assert service("status", code=3).stdout.startswith("mlx-ollama-bridge: stopped")
    done = service("start")
    assert f"http://127.0.0.1:{service.port}" in done.stdout and str(service.log) in done.stdout
    assert service.get()[0] == 200
    got = service.status()
    assert got["running"] and got["url"] == f"http://127.0.0.1:{service.port}" and got["starts"] == 1
    assert int(service.pid.read_text()) == got["supervisor"] and alive(got["bridge"])
    service("status")
    assert "running already" in service("start").stdout
    assert "stopped" in service("stop").stdout
    assert not alive(got["bridge"]) and not alive(got["supervisor"]) and not service.pid.exists()
    assert "not running" in service("stop").stdout
    service("status", code=3)
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", service.port)) != 0


def test_two_starts_at_once_make_one(service):
    both = [service.popen("start", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    said = [p.communicate(timeout=PATIENCE) for p in both]
    assert [p.returncode for p in both] == [0] * 4, said
    assert len({re.search(r"process (\d+), its supervisor (\d+)", out).groups() for out, _ in said}) == 1, said
    assert service.status()["starts"] == 1


def test_starts_and_stops_at_once_leave_one_or_none(service):
    for _ in range(3):
        several = [service.popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for c in ("start", "stop", "restart", "start", "stop")]
        for p in several:
            p.communicate(timeout=PATIENCE)
    service("stop")
    service("status", code=3)
    started(service)


def test_a_restart_refuses_nobody(service):
    before = started(service)
    with Clients(service) as clients:
        for _ in range(3):
            service("restart")
    assert not clients.wrong, (clients.wrong[:5], clients.n)
    after = service.status()
    assert after["supervisor"] == before["supervisor"] and after["bridge"] != before["bridge"] and after["starts"] == 4
    assert after["failures"] == 0


def test_restart_starts_what_is_not_running(service):
    service("restart")
    assert service.status()["phase"] == "ready"


def test_a_killed_bridge_is_started_again_and_who_connects_meanwhile_is_answered(service):
    service.set(supervisor__backoff="500ms")
    before = started(service)
    os.kill(before["bridge"], signal.SIGKILL)
    until("the end of the bridge", lambda: not alive(before["bridge"]))
    status, _ = service.get()  # waits in the socket's queue
    assert status == 200
    after = service.status()
    assert after["bridge"] != before["bridge"] and after["failures"] == 1
    assert "signal 9" in after["trouble"] and "signal 9" in service.errors.read_text()


def test_a_killed_supervisor_takes_its_bridge_along(service):
    before = started(service)
    os.kill(before["supervisor"], signal.SIGKILL)
    until("the end of the bridge", lambda: not alive(before["bridge"]))
    assert "left behind" in service("status", code=1).stdout
    after = started(service)
    assert after["supervisor"] != before["supervisor"]


def test_a_bridge_that_outlives_its_supervisor_is_ended_by_the_next_start(service):
    before = started(service)
    os.kill(before["bridge"], signal.SIGSTOP)  # it can't react to its parent's end
    os.kill(before["supervisor"], signal.SIGKILL)
    until("the end of the supervisor", lambda: not alive(before["supervisor"]))
    after = started(service)
    assert not alive(before["bridge"]) and after["bridge"] != before["bridge"]


def test_a_stale_pid_file_is_nobody_elses_process(service):
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            service.pid.write_text(f"{other.pid}\n")
            service("status", code=1)
            service("stop")
            assert other.poll() is None
            got = started(service)
            assert int(service.pid.read_text()) == got["supervisor"] != other.pid
            service("stop")
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("which", ["log", "errors", "pid"])
def test_a_symbolic_link_is_refused_and_what_it_names_untouched(service, which):
    victim = service.dir / "victim"
    victim.write_text("precious\n")
    getattr(service, which).symlink_to(victim)
    done = service("start", code=1)
    assert "symbolic link" in done.stderr and "logs = state" in done.stderr
    assert victim.read_text() == "precious\n"
    service("status", code=4 if which == "pid" else 3)


def test_a_start_that_fails_says_why_and_where_the_log_is(service):
    service.set(bridge__options="--no-such-option")
    done = service("start", code=1)
    assert "exit status 2" in done.stderr and "--no-such-option" in done.stderr and str(service.errors) in done.stderr
    assert "gave up" in service("status", code=3).stdout
    for _ in range(20):  # it has ended by the time that this is said
        service("start", code=1)
        service("status", code=3)
    service.set(bridge__options=f"--models {service.dir}/own")
    started(service)


def test_a_port_that_is_taken_is_named(service):
    with socket.socket() as s:
        s.bind(("127.0.0.1", service.port))
        s.listen()
        done = service("start", code=1)
    assert f"port {service.port}" in done.stderr and "in use" in done.stderr
    service("status", code=3)


def test_a_bridge_that_hangs_is_restarted(service):
    service.set(supervisor__watchdog="2s", supervisor__backoff="100ms")
    before = started(service)
    os.kill(before["bridge"], signal.SIGSTOP)
    after = until("another bridge", lambda: (s := service.status())["phase"] == "ready" and s["bridge"] != before["bridge"] and s)
    assert not alive(before["bridge"]) and "silent" in after["trouble"]
    assert "the bridge hangs and is killed" in service.errors.read_text()


def test_a_bridge_that_is_well_is_left_alone_by_a_short_watchdog(service):
    service.set(supervisor__watchdog="1s")
    before = started(service)
    time.sleep(3)
    after = service.status()
    assert after["bridge"] == before["bridge"] and after["failures"] == 0


def test_a_machine_that_slept_is_no_bridge_that_hangs(service):
    service.set(supervisor__watchdog="1s")
    before = started(service)
    for pid in (before["supervisor"], before["bridge"]):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)  # longer than a turn of the supervisor may be late
    for pid in (before["supervisor"], before["bridge"]):
        os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    after = service.status()
    assert after["bridge"] == before["bridge"] and after["failures"] == 0, after


def test_a_silent_bridge_is_restarted(service):
    service.fake("silent", supervisor__watchdog="1s", supervisor__backoff="100ms")
    before = started(service)
    until("another bridge", lambda: service.status().get("bridge") not in (before["bridge"], None))


def test_a_bridge_that_answers_no_health_check_is_restarted(service):
    service.fake("", supervisor__health="200ms", supervisor__health_failures="2", supervisor__backoff="100ms")
    before = started(service)
    time.sleep(1)
    assert service.status()["bridge"] == before["bridge"]
    service.fake("ill")
    service("reload", code=1)  # ready, but not healthy
    until("three bridges", lambda: service.status()["starts"] >= 3)
    assert "GET /health answered" in service.errors.read_text()


def test_health_is_asked_by_the_number_of_requests_too(service):
    service.fake("requests", supervisor__health="0", supervisor__health_requests="5")
    started(service)
    until("health checks", lambda: service.get("/other")[1]["health"] >= 5)


def test_it_gives_up_loudly(service):
    service.fake("die", environment__FAKE_CODE="7", supervisor__backoff="20ms", supervisor__failures="4")
    done = service("start", code=None)
    assert done.returncode in (0, 1)  # it was ready for a moment
    until("giving up", lambda: service.status()["phase"] == "gave up")
    got = service.status()
    assert not got["running"] and "4 failures within 10m" in got["trouble"] and "exit status 7" in got["trouble"]
    assert "gave up" in service.errors.read_text() and "gave up" in service("status", code=3).stdout
    assert service.popen("run", stderr=subprocess.DEVNULL).wait(PATIENCE) == 6
    assert service.popen("run", "--give-up-ok", stderr=subprocess.DEVNULL).wait(PATIENCE) == 0


def test_attempts_come_slower_and_slower(service):
    service.fake("die", environment__FAKE_CODE="1", supervisor__backoff="100ms", supervisor__backoff_max="400ms", supervisor__failures="6")
    service.popen("run", stderr=subprocess.DEVNULL).wait(PATIENCE)
    waits = re.findall(r"next_attempt_s=([\d.]+)", service.errors.read_text())
    assert waits == ["0.1", "0.2", "0.4", "0.4", "0.4"]


def test_a_slow_start_is_waited_for_and_a_hanging_one_is_not(service):
    service.fake("start-slow")
    done = service("start")
    assert "ready" in done.stdout and "starting" in done.stderr
    service("stop")
    service.set(supervisor__start_limit="200ms")
    assert "not ready within 200ms" in service("start", code=1).stderr


def test_a_deaf_bridge_is_killed_after_the_drain(service):
    service.fake("deaf", bridge__drain="0")
    before = started(service)
    service("stop")
    assert not alive(before["bridge"]) and not alive(before["supervisor"])
    assert "did not end in time" in service.errors.read_text()


def test_a_stopped_supervisor_is_killed(service):
    service.fake("", bridge__drain="0")
    before = started(service)
    notify = json.loads(service.state.read_text())["notify"]
    assert Path(notify).stat().st_mode & 0o7777 == 0o700
    os.kill(before["supervisor"], signal.SIGSTOP)
    assert "killed" in service("stop").stdout
    until("the end of both", lambda: not alive(before["bridge"]) and not alive(before["supervisor"]))
    assert not Path(notify).exists()


def test_reload_restarts_what_has_changed_and_nothing_else(service):
    service.fake("")
    first = started(service)
    service.set(supervisor__health="1s")
    assert "nothing" in service("reload").stdout
    assert service.status()["bridge"] == first["bridge"]
    service.set(environment__NEW="1")
    assert "restarted" in service("reload").stdout
    second = service.status()
    assert second["bridge"] != first["bridge"] and second["supervisor"] == first["supervisor"]
    service.set(bridge__drain="often")
    done = service("reload", code=2)
    assert f"{service.config_path} line" in done.stderr
    service.set(bridge__drain="5s", bridge__program="/nowhere")
    assert "stays as it was" in service("reload", code=1).stderr
    assert service.status()["bridge"] == second["bridge"]


def test_reload_moves_to_another_port(service):
    service.fake("")
    started(service)
    old, new = service.port, free_port()
    service.set(bridge__port=new)
    service("reload")
    assert service.get(port=new)[0] == 200
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", old)) != 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service.set(bridge__port=taken.getsockname()[1])
        assert "in use" in service("reload", code=1).stderr
    assert service.get(port=new)[0] == 200


def test_the_foreground_ends_by_a_signal(service):
    service.fake("")
    for sig in (signal.SIGTERM, signal.SIGINT):
        with service.popen("run", stderr=subprocess.PIPE) as run:
            until("ready", lambda: service.status()["phase"] == "ready")
            run.send_signal(sig)
            said = run.communicate(timeout=PATIENCE)[1]
            assert run.returncode == 0 and "supervisor ends" in said


def test_a_second_supervisor_is_refused(service):
    started(service)
    done = service("run", code=1)
    assert "running already" in done.stderr


def with_socket(listening, command):
    """A command that gives the socket to another as systemd does: as file descriptor 3, by LISTEN_FDS and LISTEN_PID."""
    script = (f"import os, sys; {listening.fileno()} == 3 or os.dup2({listening.fileno()}, 3); os.set_inheritable(3, True); "
              "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[1], sys.argv[1:])")
    return [sys.executable, "-c", script, *command]


def test_an_init_systems_socket_and_word(service):
    """As systemd runs it: the socket is file descriptor 3, and NOTIFY_SOCKET hears how it is."""
    with socket.socket() as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = str(service.dir / "notify")
        heard.bind(address)
        heard.settimeout(PATIENCE)
        port = listening.getsockname()[1]
        env = {**service.env, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
        with subprocess.Popen(with_socket(listening, service.command("run")), env=env, pass_fds=[listening.fileno()],
                              stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            words = ""
            while "READY=1" not in words:
                words += heard.recv(4096).decode()
            assert service.get(port=port)[0] == 200
            before = service.status()
            assert before["url"] == f"http://127.0.0.1:{port}"
            while words.count("WATCHDOG=1") < 3 or "models loaded" not in words:
                words += heard.recv(4096).decode()
            os.kill(before["bridge"], signal.SIGKILL)
            until("another bridge", lambda: service.status().get("bridge") not in (before["bridge"], None))
            assert service.get(port=port)[0] == 200
            run.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in words:
                words += heard.recv(4096).decode()
            assert run.wait(PATIENCE) == 0
        listening.settimeout(PATIENCE)
        with socket.create_connection(("127.0.0.1", port)):
            listening.accept()[0].close()  # it listens still: nobody has shut it down


def test_the_bridge_itself_takes_systemds_socket(service):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        command = with_socket(listening, [program(), "--models", str(service.dir / "own")])
        with subprocess.Popen(command, env=service.env, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bridge:
            assert service.get(port=port)[0] == 200
            bridge.send_signal(signal.SIGTERM)
            assert bridge.wait(PATIENCE) == 0


def test_the_watchdogs_word_hangs_on_the_models_steps(service):
    """With a limit of nothing every step is too long: while a model works the watchdog hears nothing, before and after it does."""
    tiny.write(service.dir / "models" / "tiny", tiny.MODELS["tiny"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        address = str(service.dir / "notify")
        heard.bind(address)
        heard.settimeout(PATIENCE)
        env = {**service.env, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        command = [program(), "--port", str(service.port), "--models", str(service.dir / "own"), "--root", str(service.dir / "models"),
                   "--step-limit", "0", "--threads", "1"]
        with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bridge:
            def hear_until(*words):
                got = ""
                while not all(w in got for w in words):
                    got += heard.recv(4096).decode()
                return got

            hear_until("READY=1", "WATCHDOG=1")
            asking = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
            body = {"model": "tiny", "prompt": "a", "options": {"num_predict": 10**9, "num_ctx": 256}}
            asking.request("POST", "/api/generate", json.dumps(body))
            asking.getresponse().readline()
            hear_until("no progress")
            while "WATCHDOG" not in (got := heard.recv(4096).decode()):
                pass
            assert "0 requests running" in got, got  # it was silent for all of the answer
            asking.close()
            bridge.send_signal(signal.SIGTERM)
            hear_until("STOPPING=1")
            assert bridge.wait(PATIENCE) == 0


def test_logs_may_lie_with_the_users_own_files(service):
    service.config_path.write_text(f"[bridge]\nport = {service.port}\noptions = --models {service.dir}/own\n[logs]\nlogs = state\n")
    service("start")
    own = service.home / ".mlx-ollama"
    assert {p.name for p in own.iterdir()} >= {"mlx-bridge.log", "mlx-bridge-error.log", "mlx-bridge.pid", "service.json"}
    service("stop")
    assert not (own / "mlx-bridge.pid").exists() and "listening" in (own / "mlx-bridge.log").read_text()


def test_config_shows_what_is_in_effect(service):
    shown = json.loads(service("config", "--json").stdout)
    assert shown["found"] and shown["settings"]["bridge"]["port"] == {"value": str(service.port), "default": False, "line": 2}
    assert shown["settings"]["supervisor"]["watchdog"] == {"value": "30s", "default": True}
    service.set(environment__HF_TOKEN="hf_very_secret")
    text = service("config").stdout
    assert f"port = {service.port}    # line 2" in text and "watchdog = 30s    # default" in text
    assert "HF_TOKEN = (hidden)" in text and "very_secret" not in text + service("config", "--json").stdout


def test_config_init_writes_once(service):
    alone = [service.program, "config", "--init"]
    path = service.home / ".config/mlx-ollama/service.ini"
    done = subprocess.run(alone, env=service.env, capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    text = path.read_text()
    assert "# port = 11435" in text
    path.write_text(text + "\n[bridge]\nport = 5\n")
    assert "stays as it is" in subprocess.run(alone, env=service.env, capture_output=True, text=True, check=True).stdout
    assert path.read_text().endswith("port = 5\n")
    shown = subprocess.run([service.program, "config", "--json"], env=service.env, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["settings"]["bridge"]["port"]["value"] == "5"


def test_wrong_usage_and_help(service):
    assert "Exit codes" in service("help").stdout
    assert "unknown command" in service("strat", code=2).stderr
    service("start", "now", code=2)
    service("--no-such-option", "start", code=2)
    service.config_path.write_text("[bridge]\n\nprot = 1\n")
    assert f"{service.config_path} line 3" in service("start", code=2).stderr
    service.config_path.unlink()
    service("status", code=2)
