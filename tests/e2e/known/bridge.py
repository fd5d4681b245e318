"""Starts the real server on a free port, for the tests here and for run_api.py."""
import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
PATIENCE = 300  # seconds for what must happen; sanitizer builds on a busy machine are slow


def program():
    build = Path(os.environ.get("LM_BUILD") or "build/release")
    path = (build if build.is_absolute() else TOP / build) / "bin" / "mlx-ollama-bridge"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build it, or set LM_BUILD to the build directory that has it")
    return str(path)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Started:
    """A program that serves on self.port and writes into self.log_path, in a home of its own; it must end with status 0."""

    def log(self):
        return self.log_path.read_text(errors="replace")

    def request(self, method, path, body=None, headers=None):
        """(status, headers, bytes); body may be bytes, or what becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, status=200):
        got, _, text = self.request(method, path, body)
        assert got == status, f"{method} {path}: {got} {text[:500]!r}"
        return json.loads(text) if text else None

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log_file.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            code = self.stop()
            assert code == 0, f"{self.process.args[0]} ended with {code}: {self.log()[-3000:]}"
        finally:
            self.home.cleanup()


class Bridge(Started):
    """A running server. Nothing of the caller's own models or settings is seen by it."""

    def __init__(self, *arguments, roots=(), env=None, store=None):
        self.home = tempfile.TemporaryDirectory(prefix="mlx-ollama-")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_"))}
        # A test that pulls says from where, and sets HF_HUB_OFFLINE to 0.
        kept.update({"HOME": self.home.name, "HF_HUB_OFFLINE": "1", "OLLAMA_MODELS": f"{self.home.name}/ollama"}, **(env or {}))
        command = [program(), "--port", "0", "--models", str(store or f"{self.home.name}/own")]
        for root in roots:
            command += ["--root", str(root)]
        command += os.environ.get("LM_E2E_OPTIONS", "").split()
        self.log_path = Path(self.home.name) / "log"
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen([*command, *arguments], env=kept, stderr=self.log_file, stdout=self.log_file)
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _wait_for_port(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.search(r"msg=listening .*?port=(\d+)", self.log())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start: {self.log()}")

    def health(self):
        return self.json("GET", "/health")

    def wait_for(self, what, check):
        """Until check(health) is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            health = self.health()
            if check(health):
                return health
            time.sleep(0.02)
        raise AssertionError(f"never {what}: {health}")

    def wait_idle(self):
        return self.wait_for("idle", lambda h: h["running"] == 0 and h["waiting"] == 0)

    def cancel(self, ask):
        """Leaves what ask() waits for, a coroutine, once the server is at it; returns when the server has noticed."""

        async def leave():
            task = asyncio.create_task(ask())
            while not self.health()["running"]:
                await asyncio.sleep(0.02)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return
            raise AssertionError("it was over before it could be cancelled")

        asyncio.run(leave())
        self.wait_idle()
