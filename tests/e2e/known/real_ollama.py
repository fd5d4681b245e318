"""A real Ollama, its server and its command line, where scripts/real-ollama has built one."""
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from .bridge import PATIENCE, TOP, Started, free_port

PROGRAM = Path(subprocess.run([TOP / "scripts/real-ollama", "--where"], capture_output=True, text=True, check=True).stdout.strip())
MODEL = "smollm2:135m"
needs_program = pytest.mark.skipif(not PROGRAM.exists(), reason="no real Ollama here (scripts/real-ollama)")
needs_model = pytest.mark.skipif("not os.environ.get('LM_E2E_GGUF')", reason="LM_E2E_GGUF names no file")


class RealOllama(Started):
    def __init__(self):
        self.home = tempfile.TemporaryDirectory(prefix="real-ollama-")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = f"{self.home.name}/.ollama/models"
        self.log_path = Path(self.home.name) / "log"
        self.start()

    def start(self):
        self.log_file = open(self.log_path, "ab")
        self.process = subprocess.Popen([PROGRAM, "serve"], env=self.environment(), stdout=self.log_file, stderr=self.log_file,
                                        start_new_session=True)
        end = time.monotonic() + PATIENCE
        while not self.up():
            assert time.monotonic() < end and self.process.poll() is None, self.log()
            time.sleep(0.05)

    def up(self):
        try:
            return self.request("GET", "/")[0] == 200
        except OSError:
            return False

    def environment(self, url=None):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_"))}
        return {**kept, "HOME": self.home.name, "OLLAMA_HOST": url or self.url, "OLLAMA_NO_CLOUD": "1"}

    def command(self, *words, url=None, given=""):
        """Its command line, which asks the server at url."""
        done = subprocess.run([PROGRAM, *words], env=self.environment(url), input=given, capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)

    def kill(self):
        """With the runners of its models, which would go on."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log_file.close()
