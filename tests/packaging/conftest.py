"""An installation of the build that LM_BUILD names (build/release), in a place of its own."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("LM_BUILD") or TOP / "build/release").resolve()
PATIENCE = 120  # seconds for what must happen

sys.path.insert(0, str(TOP / "packaging"))
import manpage  # noqa: E402

PAGES = sorted((TOP / "packaging/man").glob("*.1"))
PROGRAMS = [manpage.read(page) for page in PAGES]


def run(*command, code=0, patience=PATIENCE, **more):
    """What a command prints. Nothing of the caller's own settings is seen by it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_", "DESTDIR"))}
    env.update(more.pop("env", {}))
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, timeout=patience, check=False,
                          stdin=subprocess.DEVNULL, **more)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def install(prefix, **more):
    run("cmake", "--install", BUILD, "--prefix", prefix, **more)
    return prefix


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_symlink() or not p.is_dir())


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    return install(tmp_path_factory.mktemp("installed") / "prefix")


@pytest.fixture(scope="session", params=PROGRAMS, ids=lambda p: p.name)
def program(request):
    return request.param
