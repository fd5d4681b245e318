"""The stand-in for a real Ollama on its own port, with models of these names, until it is killed: ollama_here.py NAME..."""
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from router.standin_ollama import Loop, StandIn  # noqa: E402


class Ollama(StandIn):
    def up(self):
        self.port = 11434
        super().up()


with Loop() as loop, Ollama(loop, "ollama", models=sys.argv[1:]):
    print("listening", flush=True)
    threading.Event().wait()
