import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from known.bridge import free_port, program

PATIENCE = 300  # seconds for what must happen


class Doctor:
    """Runs test-mlx-integration as somebody does who has set nothing."""

    def __init__(self, home, program_file=None):
        self.program = str(program_file or Path(program()).with_name("test-mlx-integration"))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_", "NO_COLOR"))}
        self.env = {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8"}

    def __call__(self, *arguments, env=None):
        return subprocess.run([self.program, *map(str, arguments)], env={**self.env, **(env or {})}, capture_output=True,
                              text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL)

    def json(self, *arguments, env=None):
        """(exit status, document)"""
        done = self("--json", *arguments, env=env)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def start(self, *arguments, **more):
        return subprocess.Popen([self.program, *map(str, arguments)], env=self.env, stdin=subprocess.DEVNULL, **more)


def prints(text):
    return f"cat <<'END'\n{text}\nEND"


def fails(text, status=1):
    return f"cat >&2 <<'END'\n{text}\nEND\nexit {status}"


def unit(installed=True, differs=False):
    """What mlx-server-startup diff --json says."""
    return prints(json.dumps({"installed": installed, "differs": differs, "file": "/x/bridge.service", "differences": []}))


class Installation:
    """The four programs in a directory of their own: the doctor and the bridge as they were built, and stand-ins of the other
    two, which say what they are told. Nothing is wrong with it."""

    def __init__(self, top):
        self.bin, self.home, self.logs = top / "bin", top / "home", top / "logs"
        for directory in (self.bin, self.home, self.logs):
            directory.mkdir()
        built = Path(program())
        shutil.copy(built.with_name("test-mlx-integration"), self.bin)
        (self.bin / "mlx-ollama-bridge").symlink_to(built)
        self.doctor = Doctor(self.home, self.bin / "test-mlx-integration")
        self.clients, self.bridge, self.router = free_port(), free_port(), free_port()
        self.doctor.env |= {"PATH": f"{top}/tools:/usr/bin:/bin", "OLLAMA_HOST": f"127.0.0.1:{self.clients}",
                            "OLLAMA_MODELS": str(top / "ollama")}
        self.version = self.doctor("--version").stdout.split()[1]
        self.tools = top / "tools"
        self.tools.mkdir()
        self.service()
        self.stand_in("ollama-to-mlx-router", {"status": prints(json.dumps({"router": {"url": f"http://127.0.0.1:{self.router}"}}))})

    def service(self, answers=None, version=None):
        """The stand-in of mlx-server-startup, with other answers."""
        logs = {"log": "b.log", "error-log": "e.log", "pid": "b.pid"}
        settings = {"bridge": {"port": {"value": str(self.bridge), "default": False}},
                    "logs": {key: {"value": f"{self.logs}/{file}", "default": False} for key, file in logs.items()}}
        whole = {"config": prints(json.dumps({"settings": settings})), "diff": unit(), **(answers or {})}
        self.stand_in("mlx-server-startup", whole, version)

    def stand_in(self, name, answers, version=None):
        """A program that runs answers[word], a piece of shell, if word is among its arguments."""
        lines = ["#!/bin/sh", 'case " $* " in']
        for word, shell in {"--version": prints(f"{name} {version or self.version}"), **answers}.items():
            lines.append(f'*" {word} "*) {shell}\n;;')
        lines += [f"*) echo \"{name}: what is '$*'?\" >&2; exit 2;;", "esac"]
        file = self.bin / name
        if file.is_symlink():
            file.unlink()
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o755)

    def check(self, *arguments):
        """(exit status, {check: result})"""
        status, document = self.doctor.json("--installation", *arguments)
        assert [k for k in document if k != "url"] == ["ok", "passed", "failed", "skipped", "checks"]
        assert status == document["failed"]
        return status, {c["check"]: c for c in document["checks"]}


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


@pytest.fixture(scope="session")
def doctor(tmp_path_factory):
    return Doctor(tmp_path_factory.mktemp("doctor-home"))
