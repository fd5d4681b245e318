"""A server of Ollama's wire that answers as it is told, and notes what it was asked."""
import json
import time

from doctor.standin import DIGEST, NOW, Handler

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b2J\r\x08\x7fend"


def events(*texts, thinking=(), done=True):
    """Lines of /api/generate."""
    lines = [{"model": "m", "created_at": NOW, "response": "", "thinking": t, "done": False} for t in thinking]
    lines += [{"model": "m", "created_at": NOW, "response": t, "done": False} for t in texts]
    if done:
        lines.append({"model": "m", "created_at": NOW, "response": "", "done": True, "done_reason": "stop", "total_duration": 1500000000,
                      "load_duration": 1, "prompt_eval_count": 3, "prompt_eval_duration": 1000000, "eval_count": 4, "eval_duration": 2000000})
    return [json.dumps(line).encode() + b"\n" for line in lines]


def stand_in(generate=None, pull=None, models=("m:latest",), missing=(), capabilities=("completion",), license="", after=None, slow=()):
    """generate, pull (also of push): the stream's pieces (bytes), or (status, object); missing: names that show does not know until they are
    pulled; after: what happens behind the pieces, "cut" or "hang"; slow: names that never get loaded."""
    state = {"asked": [], "missing": set(missing), "left": 0}

    class StandIn(Handler):
        seen = state

        def do_GET(self):
            listed = [{"name": n, "model": n, "modified_at": NOW, "size": 5000000, "digest": DIGEST} for n in models]
            answers = {"/api/version": {"version": "0.33.0"}, "/api/tags": {"models": listed}, "/api/ps": {"models": []}}
            self.reply(answers[self.path])

        def do_DELETE(self):
            asked = json.loads(self.body())
            state["asked"].append((self.path, asked))
            self.reply({"error": f"model '{asked['model']}' not found"}, 404)

        def do_POST(self):
            asked = json.loads(self.body())
            state["asked"].append((self.path, asked))
            if self.path == "/api/show":
                if asked["model"] in state["missing"]:
                    return self.reply({"error": f"model '{asked['model']}' not found"}, 404)
                return self.reply({"details": {"family": "llama"}, "capabilities": list(capabilities), "license": license, "modified_at": NOW,
                                   "model_info": {"general.architecture": "llama"}})
            if self.path in ("/api/pull", "/api/push"):
                state["missing"].discard(asked["model"])
                return self.stream(pull)
            if self.path == "/api/create":
                return self.stream([b'{"status":"success"}\n'])
            if self.path == "/api/chat":
                lines = [json.loads(line) for line in generate]
                return self.stream([json.dumps({**line, "message": {"role": "assistant", "content": line.pop("response", ""),
                                                                    "thinking": line.pop("thinking", "")}}).encode() + b"\n" for line in lines])
            if not asked.get("prompt") and asked["model"] in slow:
                return self.wait_until_left()
            if not asked.get("prompt"):
                return self.reply({"model": asked["model"], "created_at": NOW, "response": "", "done": True, "done_reason": "load"})
            return self.stream(generate)

        def wait_until_left(self):
            self.connection.settimeout(60)
            assert self.connection.recv(1) == b""
            state["left"] += 1
            self.close_connection = True

        def stream(self, pieces):
            if isinstance(pieces, tuple):
                return self.reply(pieces[1], pieces[0])
            self.begin_stream()
            try:
                for piece in pieces:
                    self.chunk(piece)
                if after == "cut":
                    return self.cut()
                while after == "hang":
                    time.sleep(0.05)
                    self.chunk(events(" more", done=False)[0])
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                state["left"] += 1
                self.close_connection = True

    return StandIn
