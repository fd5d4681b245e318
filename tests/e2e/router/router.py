"""A running router over some backends, for the tests here."""
import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from known.bridge import Started, free_port, program

PATIENCE = 120  # seconds for what must happen
QUICK = {"check": "200ms", "check_timeout": "1s", "connect_timeout": "1s", "first_timeout": "20s", "whole_timeout": "20s",
         "silent_timeout": "20s", "max_wait": "10s", "breaker_time": "500ms"}


def router_program():
    return os.environ.get("LM_ROUTER") or str(Path(program()).with_name("ollama-to-mlx-router"))


class Router(Started):
    """backends: {name: url} or {name: {"url": ..., "kind": ...}}; settings: keys of [router]."""

    def __init__(self, backends, env=None, **settings):
        self.home = tempfile.TemporaryDirectory(prefix="mlx-router-")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = Path(self.home.name) / "router.ini"
        self.write(backends, **settings)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_"))}
        self.env = {**kept, "HOME": self.home.name, **(env or {})}
        self.log_path = Path(self.home.name) / "log"
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen([router_program(), "serve", "--config", str(self.config)], env=self.env,
                                        stdout=self.log_file, stderr=self.log_file, stdin=subprocess.DEVNULL)
        self.wait_for("it listens", lambda: "msg=listening" in self.log() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()

    def write(self, backends, **settings):
        lines = ["[router]"]
        lines += [f"{k} = {v}" for k, v in {"host": "127.0.0.1", "port": self.port, **QUICK, **settings}.items()]
        for name, backend in backends.items():
            backend = backend if isinstance(backend, dict) else {"url": backend}
            backend.setdefault("kind", "mlx" if name.startswith("mlx") else "ollama")
            lines += [f"[{name}]", *(f"{k} = {v}" for k, v in backend.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def wait_for(self, what, check):
        end = time.monotonic() + PATIENCE
        while not (found := check()):
            assert time.monotonic() < end, f"never: {what}\n{self.log()[-3000:]}"
            time.sleep(0.01)
        return found

    def records(self):
        """The lines about requests, as far as they are whole."""
        return [json.loads(line) for line in self.log().splitlines(keepends=True)
                if line.startswith("{") and line.endswith("}\n")]

    def record(self, headers):
        """The line of the request that was answered with these headers."""
        request = headers["X-Router-Request-Id"]
        return self.wait_for("its line is written", lambda: next((r for r in self.records() if r["id"] == request), None))

    def status(self):
        return self.json("GET", "/router/status")

    def state(self, name):
        return next(b["state"] for b in self.status()["backends"] if b["name"] == name)

    def wait_state(self, name, *states):
        return self.wait_for(f"{name} is {states}", lambda: self.state(name) in states)

    def metrics(self):
        """{name{labels}: value}"""
        _, _, text = self.request("GET", "/metrics")
        return {m[1]: float(m[2]) for m in re.finditer(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text.decode(), re.M)}

    def switch(self, order, model=None):
        state = Path(self.home.name) / ".mlx-ollama" / "switch.ini"
        state.parent.mkdir(exist_ok=True)
        text = f"[models]\n{model} = {order}\n" if model else f"[order]\ndefault = {order}\n"
        fresh = state.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(state)
