"""Units for launchd and systemd: their text, and how they get in place, over stand-ins for launchctl and systemctl."""
import configparser
import json
import os
import plistlib
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from known.bridge import free_port
from .conftest import OTHER_USER, Machine, alive

GOLDEN = Path(__file__).parent / "golden"

# Notes what it was asked, and answers what the test has laid out. `start` and `restart` of the service run what the unit says.
TOOL = """#!{python}
import os, shlex, subprocess, sys
from pathlib import Path
here = Path(__file__).parent
name = Path(__file__).name
with open(here / "calls", "a") as calls:
    print(name, *sys.argv[1:], file=calls)
for line in (here / "fails").read_text().splitlines() if (here / "fails").exists() else []:
    if line in " ".join([name, *sys.argv[1:]]):
        print("Bootstrap failed: 125: Domain does not support specified action", file=sys.stderr)
        sys.exit(5)
words = [w for w in sys.argv[1:] if not w.startswith("-")]
if words[0] in ("start", "restart") and words[-1].endswith(".service") and (here / "runs").exists():
    unit = Path(os.environ["HOME"]) / ".config/systemd/user" / words[-1]
    line = next(l for l in unit.read_text().splitlines() if l.startswith("ExecStart="))
    subprocess.Popen(shlex.split(line.split("=", 1)[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
"""


class StandIns(Machine):
    """The init systems' tools are the test's own."""

    def __init__(self, service):
        super().__init__(service)
        self.bin = service.dir / "bin"
        self.bin.mkdir()
        for name in ("launchctl", "systemctl", "loginctl"):
            (self.bin / name).write_text(TOOL.format(python=sys.executable))
            (self.bin / name).chmod(0o755)
        service.env["PATH"] = f"{self.bin}:{service.env['PATH']}"
        self.agent = service.home / "Library/LaunchAgents/com.mlx.ollama.bridge.plist"

    def calls(self):
        path = self.bin / "calls"
        got = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return got

    def fails(self, *words):
        (self.bin / "fails").write_text("\n".join(words))


@pytest.fixture
def machine(service):
    return StandIns(service)


def printed(service, kind, *more, config=False):
    command = service.command() if config else [service.program]
    done = subprocess.run([*command, "install-service", "--print", kind, *more], env={**service.env, **OTHER_USER}, capture_output=True, text=True, check=True)
    return done.stdout


def filled(value, words):
    if isinstance(value, str):
        return words.get(value, value)
    if isinstance(value, list):
        return [filled(v, words) for v in value]
    return {k: filled(v, words) for k, v in value.items()} if isinstance(value, dict) else value


def expect_golden(service, text, name, home=""):
    words = {"@PROGRAM@": str(Path(service.program).resolve()), "@CONFIG@": str(service.config_path), "@HOME@": home}
    with open(GOLDEN / f"{name}.plist", "rb") as golden:
        assert plistlib.loads(text.encode()) == filled(plistlib.load(golden), words)


def test_plists_are_what_launchd_must_be_told(service):
    expect_golden(service, printed(service, "launchd"), "agent")
    daemon = pwd.getpwnam("daemon")
    expect_golden(service, printed(service, "launchd", "--daemon", "--user", "daemon"), "daemon", daemon.pw_dir)
    service.config_path.write_text("[units]\nsocket = yes\n")
    expect_golden(service, printed(service, "launchd", config=True), "agent-socket")


def test_a_plist_holds_any_path(service):
    odd = service.dir / 'a <b> & "c" $HOME %h'
    odd.mkdir()
    service.config_path = odd / "s.ini"
    service.set()
    job = plistlib.loads(printed(service, "launchd", config=True).encode())
    assert job["ProgramArguments"][-1] == str(service.config_path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("socket", ["yes", "no"])
def test_systemd_finds_nothing_wrong(service, system, socket):
    odd = service.dir / 'a %h $x "q" \\ b'
    odd.mkdir()
    service.config_path = odd / "s.ini"
    service.set(units__socket=socket, bridge__host="::1")
    more = ["--system", "--user", "daemon"] if system else []
    units = []
    for kind, end in (("systemd", "service"), ("socket", "socket"))[: 2 if socket == "yes" else 1]:
        units.append(service.dir / f"mlx-ollama-bridge.{end}")
        units[-1].write_text(printed(service, kind, *more, config=True))
    run = service.dir / "run"
    run.mkdir(mode=0o700)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *([] if system else ["--user"]), *map(str, units)],
                          env={**service.env, "XDG_RUNTIME_DIR": str(run)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_units_say_what_they_must(service):
    service.set(bridge__drain="20s")
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(printed(service, "systemd", config=True))
    got = unit["Service"]
    assert got["Type"] == "notify" and int(got["TimeoutStopSec"]) > 20 and int(got["WatchdogSec"]) > 0 and got["KillMode"] == "mixed"
    assert got["RestartPreventExitStatus"] == "2 6" and got["NoNewPrivileges"] == "yes"
    assert not {"PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "PrivateTmp", "ProtectHome", "User"} & set(got)
    assert unit["Install"]["WantedBy"] == "default.target" and "mlx-ollama-bridge.socket" in unit["Unit"]["Requires"]
    unit.read_string(printed(service, "systemd", "--system", "--user", "daemon", config=True))
    assert unit["Service"]["User"] == "daemon" and unit["Install"]["WantedBy"] == "multi-user.target"
    assert f"ListenStream=127.0.0.1:{service.port}" in printed(service, "socket", config=True)


def test_install_and_uninstall_with_systemd(machine):
    assert "systemd user service installed" in machine.install().stdout
    assert machine.calls() == ["systemctl --user daemon-reload", "systemctl --user enable mlx-ollama-bridge.socket",
                               "systemctl --user enable mlx-ollama-bridge.service", "systemctl --user stop mlx-ollama-bridge.service",
                               "systemctl --user restart mlx-ollama-bridge.socket", "systemctl --user restart mlx-ollama-bridge.service"]
    service, socket = machine.units / "mlx-ollama-bridge.service", machine.units / "mlx-ollama-bridge.socket"
    assert "run" in service.read_text() and "ListenStream" in socket.read_text()
    machine("uninstall-service")
    assert machine.calls() == ["systemctl --user disable --now mlx-ollama-bridge.socket",
                               "systemctl --user disable --now mlx-ollama-bridge.service", "systemctl --user daemon-reload"]
    assert not list(machine.units.iterdir())
    assert "no systemd user service" in machine("uninstall-service").stdout
    assert not machine.calls()


def test_a_unit_names_the_link_that_outlives_an_upgrade(machine):
    link = machine.bin / "mlx-server-startup"
    link.symlink_to(machine.service.program)
    machine.install()
    assert f'ExecStart="{link}" run' in (machine.units / "mlx-ollama-bridge.service").read_text()


def test_linger_is_explained_and_done_when_asked(machine):
    assert "enable-linger" in machine.install().stdout
    assert "loginctl enable-linger" not in machine.calls()
    assert "not logged in" in machine.install("--linger").stdout
    assert "loginctl enable-linger" in machine.calls()


def test_install_and_uninstall_with_launchd(machine):
    launchd = ["--init-system", "launchd"]
    uid = os.getuid()
    machine.fails("bootout")  # there is none yet
    machine.install(*launchd)
    assert machine.calls() == [f"launchctl bootout gui/{uid}/com.mlx.ollama.bridge", f"launchctl bootout user/{uid}/com.mlx.ollama.bridge",
                               f"launchctl bootstrap gui/{uid} {machine.agent}"]
    with open(machine.agent, "rb") as job:
        assert plistlib.load(job)["Label"] == "com.mlx.ollama.bridge"
    machine.fails()
    machine("uninstall-service", *launchd)
    assert machine.calls() == [f"launchctl bootout gui/{uid}/com.mlx.ollama.bridge"]
    assert not machine.agent.exists()


def test_over_ssh_launchd_has_no_screen(machine):
    uid = os.getuid()
    machine.fails("bootout", f"bootstrap gui/{uid}")
    machine.install("--init-system", "launchd")
    assert machine.calls()[-2:] == [f"launchctl bootstrap gui/{uid} {machine.agent}", f"launchctl bootstrap user/{uid} {machine.agent}"]
    machine.fails("bootstrap")
    done = machine.install("--init-system", "launchd", code=1)
    assert "launchctl bootstrap" in done.stderr and "Domain does not support" in done.stderr


def test_start_and_stop_ask_launchd(machine):
    uid = os.getuid()
    machine.install("--init-system", "launchd")
    machine.calls()
    machine.fails("bootstrap")
    assert "Domain does not support" in machine("start", "--init-system", "launchd", code=1).stderr
    assert machine.calls() == [f"launchctl bootstrap gui/{uid} {machine.agent}", f"launchctl bootstrap user/{uid} {machine.agent}"]
    machine("stop", "--init-system", "launchd")
    assert machine.calls() == [f"launchctl bootout gui/{uid}/com.mlx.ollama.bridge"]


def test_start_and_stop_ask_systemd_and_wait(machine):
    machine.install()
    machine.calls()
    (machine.bin / "runs").touch()
    done = machine("start")
    assert machine.calls() == ["systemctl --user start mlx-ollama-bridge.socket", "systemctl --user start mlx-ollama-bridge.service"]
    assert "is ready" in done.stdout
    got = json.loads(machine("status", "--json").stdout)
    assert got["healthy"] and got["service"] == str(machine.units / "mlx-ollama-bridge.service")
    assert "systemd user service" in machine("status").stdout
    machine("stop")  # the stand-in stops nothing: so it is done by hand
    assert machine.calls() == ["systemctl --user stop mlx-ollama-bridge.socket", "systemctl --user stop mlx-ollama-bridge.service"]
    assert not alive(got["supervisor"]) and not alive(got["bridge"])
    machine.fails("start")
    assert "systemctl --user start failed" in machine("start", code=1).stderr


def test_diff_shows_what_has_changed(machine):
    machine("diff", code=3)
    machine.install()
    assert "is what install-service would write" in machine("diff").stdout
    unit = machine.units / "mlx-ollama-bridge.service"
    unit.write_text(unit.read_text().replace("RestartSec=5", "RestartSec=77\nNice=5"))
    text = machine("diff", code=1).stdout
    assert [line for line in text.splitlines() if line[0] in "+-" and line[1] not in "+-"] == ["-RestartSec=77", "+RestartSec=5", "-Nice=5"] \
        or {"-RestartSec=77", "+RestartSec=5", "-Nice=5"} <= set(text.splitlines())
    got = json.loads(machine("diff", "--json", code=1).stdout)
    assert got["differs"] and got["differences"] == [{"file": str(unit), "is": "different"}]
    machine.install()
    machine("diff")
    machine.service.set(bridge__port=free_port())
    assert f"+ListenStream=127.0.0.1:{machine.service.settings['bridge__port']}" in machine("diff", code=1).stdout
    machine.service.set(units__socket="no")
    assert "not wanted" in machine("diff", "--json", code=1).stdout


def test_what_runs_by_itself_is_not_installed_over(machine):
    machine("start", "--init-system", "none")
    assert "stop` first" in machine.install(code=1).stderr
    assert not machine.units.exists() and not machine.calls()
    machine("stop")


def test_nothing_runs_as_root_unless_asked(machine):
    if os.geteuid() == 0:
        assert "unless it is asked" in machine("install-service", code=1).stderr
        assert "--user NAME" in machine("install-service", "--system", "--print", "systemd", code=1).stderr
        assert "no user" in machine("install-service", "--system", "--user", "nobody-at-all", "--print", "systemd", code=1).stderr
    else:
        assert "for root" in machine("install-service", "--system", code=1).stderr
    assert not machine.calls()


def test_a_failing_tool_is_told(machine):
    machine.fails("daemon-reload")
    assert "systemctl --user daemon-reload failed: Bootstrap failed" in machine.install(code=1).stderr
    for name in ("launchctl", "systemctl", "loginctl"):
        (machine.bin / name).unlink()
    machine.service.env["PATH"] = str(machine.bin)
    assert "cannot run systemctl" in machine.install(code=1).stderr
