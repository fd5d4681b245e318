"""The service under a systemd that runs."""
import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from .conftest import PATIENCE, alive, until
from .systemd import SystemSystemd, UserSystemd, begin


@pytest.fixture
def systemd(service):
    it = begin(UserSystemd, service)
    yield it
    it.end()


@pytest.fixture
def machine(service):
    """Its user has a bridge of a script."""
    it = begin(SystemSystemd, service)
    fake = Path(__file__).with_name("fake_bridge.py").read_text()
    it.put("/usr/local/bin/fake-bridge", "#!/usr/bin/python3\n" + fake, "755")
    it.put("/home/tester/.config/mlx-ollama/service.ini",
           f"[bridge]\nport = {service.port}\nprogram = /usr/local/bin/fake-bridge\noptions =\n", owner="tester")
    yield it
    it.end()


class Asking:
    """Somebody who asks again and again, each time over a connection of their own."""

    def __init__(self, service):
        self.service, self.stop, self.right, self.wrong = service, threading.Event(), 0, []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            try:
                status, _ = self.service.get("/api/version")
                self.right += status == 200
                if status != 200:
                    self.wrong.append(status)
            except (OSError, http.client.HTTPException) as problem:
                self.wrong.append(repr(problem))
            time.sleep(0.002)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(PATIENCE)


def test_it_is_started_told_about_and_taken_away(systemd):
    service = systemd.service
    assert "systemd user service installed" in systemd.install().stdout
    assert systemd.show("ActiveState") == "active" and systemd.show("SubState") == "running"
    assert systemd.show("UnitFileState") == "enabled" and systemd.show("UnitFileState", "socket") == "enabled"
    assert "requests running" in systemd.show("StatusText")
    assert service.get("/api/version")[0] == 200
    state = systemd("status").stdout
    assert "ready" in state and "systemd user service" in state and systemd.show("MainPID") in state
    systemd("diff")
    main = int(systemd.show("MainPID"))
    systemd("stop")
    assert systemd.show("ActiveState") == "inactive" and systemd.show("ActiveState", "socket") == "inactive" and not alive(main)
    with pytest.raises(ConnectionRefusedError):
        service.get()
    assert "is ready" in systemd("start").stdout
    assert service.get()[0] == 200
    systemd("uninstall-service")
    assert not list(systemd.units.rglob("*.s*"))
    assert systemd.show("LoadState") == "not-found"
    with pytest.raises(ConnectionRefusedError):
        service.get()


def refuses_nobody(service, *restarts):
    with Asking(service) as asking:
        for restart in [*restarts, lambda: None]:
            before = asking.right
            until("answers", lambda before=before: asking.right > before + 5 or asking.wrong)
            restart()
    assert not asking.wrong, asking.wrong


def test_a_restart_refuses_no_connection(systemd):
    systemd.install()
    refuses_nobody(systemd.service, lambda: systemd.ask("restart", "mlx-ollama-bridge.service"), lambda: systemd("restart"),
                   lambda: systemd.ask("restart", "mlx-ollama-bridge.service"))


def test_a_connection_starts_it(systemd):
    systemd.install()
    systemd.ask("stop", "mlx-ollama-bridge.service")
    assert systemd.show("ActiveState", "socket") == "active"
    assert systemd.service.get("/api/version")[0] == 200
    assert systemd.show("ActiveState") == "active"


def test_one_that_is_killed_comes_back_and_who_asks_meanwhile_is_answered(systemd):
    systemd.tune(RestartSec="0.3")
    systemd.install()
    main, bridge = int(systemd.show("MainPID")), json.loads(systemd("status", "--json").stdout)["bridge"]
    os.kill(main, signal.SIGKILL)
    until("its bridge is gone, too", lambda: not alive(bridge))  # which may take a connection to its end
    assert systemd.service.get("/api/version")[0] == 200
    until("another one", lambda: int(systemd.show("MainPID")) not in (0, main))
    assert systemd.show("NRestarts") == "1"


def test_one_that_hangs_is_ended_by_the_watchdog(systemd):
    systemd.tune(WatchdogSec="6", RestartSec="0.3")
    systemd.install()
    main = int(systemd.show("MainPID"))
    time.sleep(8)  # it is well, and says so
    assert int(systemd.show("MainPID")) == main
    os.kill(main, signal.SIGSTOP)
    until("another one", lambda: int(systemd.show("MainPID")) not in (0, main))
    assert systemd.service.get("/api/version")[0] == 200
    assert systemd.show("NRestarts") == "1"


def test_reload_goes_to_the_supervisor(systemd):
    service = systemd.service
    systemd.install()
    main, bridge = systemd.show("MainPID"), service.status()["bridge"]
    service.set(bridge__options=f"--models {service.dir}/own --threads 2")
    systemd.ask("reload", "mlx-ollama-bridge.service")
    until("another bridge", lambda: service.status()["bridge"] not in (0, None, bridge) and service.status()["healthy"])
    assert systemd.show("MainPID") == main


def test_one_that_cannot_start_gives_up_and_the_words_are_shown(systemd):
    systemd.service.fake("die-before", environment__FAKE_CODE=2)
    error = systemd.install(code=1).stderr
    assert "the bridge's last words" in error and str(systemd.service.errors) in error
    assert systemd.show("ActiveState") == "failed" and systemd.show("NRestarts") == "0"
    error = systemd("start", code=1).stderr
    assert "the bridge's last words" in error
    systemd("uninstall-service")
    assert systemd.show("LoadState") == "not-found"


def test_roots_commands_are_about_the_service_of_its_user(machine):
    def status():
        return json.loads(machine("status", "--system", "--json", code=None).stdout)

    def owner(path):
        return machine.there("stat", "-c", "%U", path).stdout.strip()

    assert "systemd system service installed" in machine("install-service", "--system", "--user", "tester").stdout
    assert machine.show("ActiveState") == "active" and machine.show("User") == "tester"
    got = status()
    assert got["healthy"] and got["url"].endswith(f":{machine.service.port}") and str(got["supervisor"]) == machine.show("MainPID")
    assert machine.service.get()[0] == 200
    assert {owner(p) for p in ("/tmp/mlx-bridge.log", "/tmp/mlx-bridge.pid", "/home/tester/.mlx-ollama/service.json",
                               f"/proc/{got['bridge']}")} == {"tester"}
    machine("diff", "--system")
    assert "/home/tester/.config/mlx-ollama/service.ini" in machine("config", "--system").stdout
    assert "READY" in machine("logs", "--system").stdout.upper()
    machine("restart", "--system")
    assert status()["bridge"] != got["bridge"] and status()["supervisor"] == got["supervisor"]
    assert "configuration read" in machine("reload", "--system").stdout
    for user, code in (("tester", 0), ("daemon", 1)):
        done = machine.there("runuser", "-u", user, "--", machine.program, "status", "--system")
        assert done.returncode == code, (user, done.stdout, done.stderr)
    assert "runs as tester" in done.stderr
    machine("stop", "--system")
    assert machine.show("ActiveState") == "inactive" and machine.show("ActiveState", "socket") == "inactive"
    with pytest.raises(ConnectionRefusedError):
        machine.service.get()
    machine("status", "--system", code=3)
    machine("start", "--system")
    assert machine.service.get()[0] == 200
    machine("uninstall-service", "--system")
    assert machine.show("LoadState") == "not-found"
    assert not machine.there("sh", "-c", "ls /etc/systemd/system | grep mlx").stdout
    assert "install-service --system" in machine("start", "--system", code=1).stderr


def test_the_machines_service_is_restarted_as_any_other(machine):
    machine("install-service", "--system", "--user", "tester")
    refuses_nobody(machine.service, lambda: machine.ask("restart", "mlx-ollama-bridge.service"), lambda: machine("restart", "--system"))
