import json
import os
import subprocess
from pathlib import Path

import pytest
from known import tiny
from known.bridge import program

PATIENCE = 300  # seconds for what must happen


class Doctor:
    """Runs test-mlx-integration as somebody does who has set nothing."""

    def __init__(self, home):
        self.program = str(Path(program()).with_name("test-mlx-integration"))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_", "NO_COLOR"))}
        self.env = {**kept, "HOME": str(home)}

    def __call__(self, *arguments, env=None):
        return subprocess.run([self.program, *map(str, arguments)], env={**self.env, **(env or {})}, capture_output=True,
                              text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL)

    def json(self, *arguments):
        """(exit status, document)"""
        done = self("--json", *arguments)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def start(self, *arguments, **more):
        return subprocess.Popen([self.program, *map(str, arguments)], env=self.env, stdin=subprocess.DEVNULL, **more)


@pytest.fixture(scope="session")
def doctor(tmp_path_factory):
    return Doctor(tmp_path_factory.mktemp("doctor-home"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    tiny.write_all(root)
    return root
