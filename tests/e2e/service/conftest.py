import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from known.bridge import free_port, program

PATIENCE = 120  # seconds for what must happen
OTHER_USER = {"ASAN_OPTIONS": "detect_leaks=0"}  # a process that has changed its user lets no leak checker look into it


def until(what, check):
    """What check() gives, once that is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        got = check()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Service:
    """mlx-server-startup with a home, files and a port of its own."""

    def __init__(self, dir):
        self.dir, self.port = dir, free_port()
        self.home = dir / "home"
        self.home.mkdir()
        self.config_path = dir / "service.ini"
        self.log, self.errors, self.pid, self.state = (dir / n for n in ("out.log", "error.log", "pid", "state.json"))
        self.program = str(Path(program()).with_name("mlx-server-startup"))
        kept = {k: v for k, v in os.environ.items()
                if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_", "NOTIFY_", "LISTEN_", "FAKE_"))}
        self.env = {**kept, "HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OLLAMA_MODELS": str(dir / "ollama")}
        self.settings = {}
        self.set()

    def set(self, **settings):
        """section__key=value; a key's blanks are underscores."""
        given = {"bridge__port": self.port, "bridge__drain": "5s", "logs__log": self.log, "logs__error-log": self.errors,
                 "logs__pid": self.pid, "logs__state": self.state}
        self.settings = {**given, **self.settings, **settings}
        if "bridge__options" not in self.settings:
            self.settings["bridge__options"] = f"--models {self.dir}/own --threads 1"
        sections = {}
        for name, value in self.settings.items():
            section, key = name.split("__", 1)
            key = key if section == "environment" else key.replace("_", "-")
            sections.setdefault(section, []).append(f"{key} = {value}\n")
        self.config_path.write_text("".join(f"[{s}]\n{''.join(lines)}\n" for s, lines in sections.items()))

    def fake(self, do="", **settings):
        script = self.dir / "fake-bridge"
        script.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("fake_bridge.py").read_text())
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.set(bridge__program=script, environment__FAKE_DO=do, bridge__options="", **settings)

    def command(self, *arguments):
        return [self.program, "--config", str(self.config_path), *map(str, arguments)]

    def __call__(self, *arguments, code=0, env=None):
        done = subprocess.run(self.command(*arguments), env={**self.env, **(env or {})}, capture_output=True, text=True,
                              timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL)
        assert code is None or done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr, self.all_logs())
        return done

    def popen(self, *arguments, env=None, **more):
        return subprocess.Popen(self.command(*arguments), env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL, text=True, **more)

    def status(self):
        return json.loads(self("status", "--json", code=None).stdout)

    def all_logs(self):
        return "".join(f"\n== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in (self.log, self.errors) if p.exists())

    def get(self, path="/health", port=None):
        """(status, document)"""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def end(self):
        """Whatever a test has left running."""
        pids = [json.loads(self.state.read_text()).get(k) for k in ("supervisor", "bridge")] if self.state.exists() else []
        subprocess.run(self.command("stop"), env=self.env, capture_output=True, timeout=PATIENCE, check=False)
        for pid in filter(None, pids):
            if alive(pid) and str(self.dir) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


class Machine:
    """A service with the user's own configuration, which is what an init system starts."""

    def __init__(self, service):
        self.service = service
        service.config_path = service.home / ".config/mlx-ollama/service.ini"
        service.config_path.parent.mkdir(parents=True)
        service.set()
        self.units, self.program = service.home / ".config/systemd/user", service.program

    def there(self, *command):
        return subprocess.run(command, env=self.service.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
                              stdin=subprocess.DEVNULL)

    def __call__(self, *arguments, code=0):
        done = self.there(self.program, *arguments)
        assert code is None or done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr, self.service.all_logs())
        return done

    def install(self, *more, code=0):
        return self("install-service", *(["--user", "root"] if os.geteuid() == 0 else []), *more, code=code)


@pytest.fixture
def service(tmp_path):
    it = Service(tmp_path)
    yield it
    it.end()
