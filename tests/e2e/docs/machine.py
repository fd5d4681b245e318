"""A machine for the commands of one page: a home, a /tmp, processes and a network of its own, so that they run as they are written.

Its network is a loopback and nothing else: ports 11434 to 11436 are free, and whatever would ask the outside fails. /tmp is a
layer over the real one. In its home are what the pages speak of: the sources as ~/mlx-ollama with what was built, a GGUF file
in ~/Downloads, and a small model under the name of a large one's repository in ~/workspace/mlx.
"""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
PATIENCE = 300  # seconds for what must happen

SETUP = """set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/tmp,upperdir=/mnt/upper,workdir=/mnt/work /tmp
rm -f /tmp/mlx-bridge.* /tmp/mlx-bridge-error.*
ip link set lo up
echo ready
exec sleep 1000000
"""


def possible():
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip")):
        return False
    return subprocess.run(["unshare", "-m", "-n", "-p", "-f", "true"], check=False, capture_output=True).returncode == 0


class Machine:
    def __init__(self, home, build, gguf, model, node):
        self.home = home
        source = home / "mlx-ollama"
        source.mkdir(parents=True)
        for path in TOP.iterdir():
            if path.name not in ("build", ".git"):
                (source / path.name).symlink_to(path)
        (source / "build").mkdir()
        (source / "build/release").symlink_to(build)
        (home / "Downloads").mkdir()
        (home / "Downloads/smollm2.gguf").symlink_to(gguf)
        (home / "workspace/mlx").mkdir(parents=True)
        (home / "workspace/mlx/Qwen2.5-Coder-7B-Instruct-4bit").symlink_to(model)
        if node:
            (source / "node_modules").symlink_to(node / "node_modules")
        path = [str(Path(sys.executable).parent), *os.environ["PATH"].split(":")]
        self.env = {"HOME": str(home), "PATH": ":".join(path), "LANG": "C.UTF-8", "USER": "somebody", "TERM": "dumb",
                    "OLLAMA_CONTEXT_LENGTH": "128"}  # a small model that cannot find an end stops at ten times of it
        self.state = home.parent / "state"  # what a block leaves to the next: variables and the directory
        self.state.write_text(f"cd {source}\n")
        self.n = 0
        self.holder = subprocess.Popen(["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", SETUP],
                                       stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        self.pid = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0]

    def inside(self, *command):
        return ["nsenter", "-t", self.pid, "-m", "-n", "-p", *command]

    def run(self, script):
        """(exit status, what it printed) of a block of shell commands; the first that fails ends it."""
        file = self.home.parent / f"block-{self.n}.sh"
        self.n += 1
        file.write_text(f". {self.state}\nset -eo pipefail\n{script}\nset +eo pipefail\n{{ export -p; echo \"cd '$PWD'\"; }} >{self.state}\n")
        log = file.with_suffix(".log")
        with open(log, "wb") as out:
            done = subprocess.run(self.inside("bash", "--norc", str(file)), env=self.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                  timeout=PATIENCE, check=False)
        return done.returncode, log.read_text(errors="replace")

    def start(self, script, port):
        """Runs a block that serves until the machine goes; returns when its port is open."""
        file = self.home.parent / f"block-{self.n}.sh"
        self.n += 1
        file.write_text(f". {self.state}\n{script}\n")
        log = file.with_suffix(".log")
        with open(log, "wb") as out:
            process = subprocess.Popen(self.inside("bash", "--norc", str(file)), env=self.env, stdout=out, stderr=out,
                                       stdin=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while not self.listens(port):
            assert process.poll() is None and time.monotonic() < end, f"nobody listens on {port}: {log.read_text()[-3000:]}"
            time.sleep(0.1)

    def listens(self, port):
        probe = f"import socket, sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', {port})))"
        return subprocess.run(self.inside(sys.executable, "-c", probe), check=False).returncode == 0

    def close(self):
        """All its processes go with the first."""
        self.holder.kill()
        self.holder.wait()
