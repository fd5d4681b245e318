"""A small server of Ollama's wire that is right in everything, or wrong in one thing that it is told: what the doctor must
find. It has one model and always says the same.

Relay hides that a bridge is a bridge: what remains is what a real Ollama shows.
"""
import http.client
import http.server
import json
import threading
import time

MODEL = "stand-in:latest"
WORDS = ["One", ", two", ", three", "."]
NOW = "2026-01-31T09:08:07.5Z"
DIGEST = "0123456789abcdef" * 4
ROUTERS = {"router": ("ok", "healthy", "healthy"), "router-half": ("degraded", "healthy", "down"),
           "router-down": ("down", "down", "down")}  # fault -> what the router's /health says


class Server:
    """Runs a handler class on a free port while the block runs."""

    def __init__(self, handler):
        class Threaded(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 50

        self.http = Threaded(("127.0.0.1", 0), handler)
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.settimeout(60)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, value, status=200, kind="application/json; charset=utf-8"):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def begin_stream(self, kind="application/x-ndjson"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def cut(self):
        """The end of the connection without the end of the answer."""
        self.close_connection = True
        self.connection.shutdown(2)


def stand_in(fault=None):
    """The handler class of a server with this fault; the tests name them."""
    state = {"loaded": False, "cancelled": 0, "told": 0, "hangs": 0}

    class StandIn(Handler):
        seen = state

        def do_HEAD(self):
            self.reply({"error": "no"}, 500) if fault == "head-500" else self.reply(b"Ollama is running")

        def do_GET(self):
            get = {"/": self.root, "/health": self.health, "/api/version": self.version, "/api/tags": self.tags, "/api/ps": self.ps}
            get.get(self.path, self.unknown_path)()

        def do_POST(self):
            self.asked = json.loads(self.body())
            post = {"/api/show": self.show, "/api/generate": self.generate, "/api/chat": self.chat, "/api/embed": self.embed,
                    "/v1/chat/completions": self.openai}
            post.get(self.path, self.unknown_path)()

        def unknown_path(self):
            self.reply(b"404 page not found", 404, "text/plain")

        def root(self):
            if fault == "hang":
                time.sleep(30)
            self.reply(b"It works!" if fault == "not-ollama" else b"Ollama is running", 200, "text/plain")

        def health(self):
            if fault == "no-health":
                return self.unknown_path()
            if fault in ROUTERS:
                status, mlx, ollama = ROUTERS[fault]
                return self.reply({"status": status, "version": "1.2.3", "backends": {"mlx": mlx, "ollama": ollama}, "open": 0},
                                  503 if status == "down" else 200)
            status = "degraded" if fault == "health-degraded" else "ok"
            self.reply({"status": status, "version": "1.2.3", "backend": "mlx", "device": "stand-in", "gpu": True,
                        "memory_budget": 8 << 30, "waiting": 0, "running": 1 if fault == "leave-runs-on" else 0,
                        "cancelled": state["cancelled"]})

        def version(self):
            if fault == "slow":
                time.sleep(1.7)
            self.reply({"version": "newest" if fault == "version-words" else "0.9.0" if fault == "version-old" else "0.33.0"})

        def tags(self):
            if fault == "tags-hang":
                time.sleep(30)
            if fault == "tags-drip":
                return self.drip()
            if fault == "tags-null":
                return self.reply({"models": None})
            if fault == "tags-empty":
                return self.reply({"models": []})
            model = {"name": MODEL, "model": MODEL, "modified_at": NOW, "size": 1000, "digest": DIGEST, "details": {},
                     "capabilities": ["completion"]}
            if fault == "tags-digest":
                model["digest"] = "sha256:" + DIGEST
            if fault == "tags-time":
                model["modified_at"] = 1767225600
            self.reply({"models": [{**model, "name": "vectors:latest", "size": 10, "capabilities": ["embedding"]}, model]})

        def drip(self):
            self.begin_stream("application/json")
            try:
                for _ in range(100):
                    self.chunk(b" ")
                    time.sleep(0.3)
            except OSError:
                self.close_connection = True

        def ps(self):
            self.reply({"models": [{"name": MODEL, "model": MODEL, "digest": DIGEST}] if state["loaded"] else []})

        def show(self):
            info = {"general.architecture": "llama", "llama.context_length": 4096}
            able = ["completion"] if fault == "no-tools" else ["completion", "tools"]
            answer = {"details": {}, "model_info": info, "capabilities": able, "modified_at": NOW}
            if fault == "show-info":
                del answer["model_info"]
            if fault == "show-context":
                del info["llama.context_length"]
            self.reply(answer)

        def final(self):
            last = {"model": self.asked["model"], "created_at": NOW, "done": True, "done_reason": "stop", "total_duration": 9000,
                    "load_duration": 10, "prompt_eval_count": 5, "prompt_eval_duration": 100, "eval_count": 4, "eval_duration": 500}
            if fault == "durations-seconds":
                last["total_duration"] = 0.5
            if fault == "durations-odd":
                last["eval_duration"] = 10**12
            if fault == "count-missing":
                del last["eval_count"]
            if fault == "count-wrong":
                last["eval_count"] = 1000
            if fault == "reason-missing":
                del last["done_reason"]
            return last

        def generate(self):
            if self.asked["model"] != MODEL:
                status = 500 if fault == "unknown-500" else 404
                return self.reply({"error": f"model '{self.asked['model']}' not found"}, status)
            prompt = self.asked.get("prompt")
            if not prompt:
                unload = self.asked.get("keep_alive") == 0
                if not (unload and fault == "unload-stays"):
                    state["loaded"] = not unload
                reason = "unload" if unload and fault != "unload-reason" else "load"
                return self.reply({"model": MODEL, "created_at": NOW, "response": "", "done": True, "done_reason": reason})
            if self.asked["stream"]:
                return self.stream(lambda word: {"response": word})
            if fault == "generate-hang":
                state["hangs"] += 1
                time.sleep(30)
            if fault == "generate-500" or (fault == "leave-breaks" and state["told"]):
                return self.reply({"error": "the model has \x1b[31mcrashed"}, 500)
            if fault == "generate-drop":
                return self.cut()
            answer = {**self.final(), "response": "".join(WORDS), "context": [1, 2]}
            if fault == "generate-model":
                answer["model"] = "something-else"
            if fault == "generate-not-done":
                answer["done"] = False
            if fault == "generate-text":
                return self.reply(answer, kind="text/html")
            self.reply(answer)

        def chat(self):
            role = "user" if fault == "chat-role" else "assistant"
            if fault == "chat-503":
                return self.reply({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503)
            if "tools" in self.asked:
                return self.call_tool()
            self.stream(lambda word: {"message": {"role": role, "content": 5 if fault == "chat-content" else word}})

        def call_tool(self):
            function = {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
            if fault == "tools-arguments":
                function["arguments"] = '{"city": "Paris"}'
            if fault == "tools-name":
                function["name"] = "get_whether"
            message = {"role": "assistant", "content": "", "tool_calls": [{"id": "call_abcdefgh", "function": function}]}
            if fault == "tools-leak":
                message = {"role": "assistant", "content": '<tool_call>{"name": "get_weather"}</tool_call>'}
            if fault == "tools-words":
                message = {"role": "assistant", "content": "It rains."}
            self.reply({**self.final(), "message": message})

        def stream(self, text):
            generate = self.path == "/api/generate"
            broken = fault if generate else None
            self.begin_stream("text/event-stream" if broken == "stream-type" else "application/x-ndjson")
            story = self.asked["options"]["num_predict"] > 1000
            state["told"] += story
            try:
                for i, word in enumerate(WORDS * (500 if story or broken == "stream-endless" else 1)):
                    line = {"model": self.asked["model"], "created_at": NOW, **text(word), "done": False}
                    if i == 1 and not story:
                        if broken == "stream-dies":
                            return self.cut()
                        if broken == "stream-hang":
                            time.sleep(30)
                        if broken == "stream-error":
                            line = {"error": "an error in the middle"}
                        if broken == "stream-garbage":
                            self.chunk(b"data: oops\n")
                        if broken == "stream-model":
                            line["model"] = "something-else"
                    data = json.dumps(line).encode() + b"\n"
                    self.chunk(data[:7])  # lines come in any pieces
                    self.chunk(data[7:])
                    if story:
                        time.sleep(0.01)
                last = json.dumps({**self.final(), **text("")}).encode() + b"\n"
                if broken == "stream-half-line":
                    last = last[:-1]
                if broken != "stream-no-done":
                    self.chunk(last)
                if broken == "stream-after-done":
                    self.chunk(last)
                self.wfile.write(b"0\r\n\r\n")
            except OSError:  # the client has left
                state["cancelled"] += fault != "leave-runs-on"
                self.close_connection = True

        def embed(self):
            if fault == "no-embed":
                return self.reply({"error": "this model does not support embeddings"}, 501)
            one = [3.0, 4.0] if fault == "embed-length" else [0.6, 0.8]
            vectors = [one] if fault == "embed-one" else [one, one]
            self.reply({"model": MODEL, "embeddings": vectors, "total_duration": 5})

        def openai(self):
            if fault == "no-openai":
                return self.unknown_path()
            if fault == "openai-error":
                return self.reply({"error": {"message": "out of memory", "type": "api_error"}}, 500)
            usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            if fault == "openai-choice":
                del choice["message"]
            self.reply({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice],
                        "usage": usage})

    return StandIn


class Answer:
    """What a relay got, before it passes it on; a spoiler changes one thing of it."""

    def __init__(self, asked, there):
        self.method, self.path, self.asked = asked.command, asked.path, asked.sent
        self.status, self.kind = there.status, there.headers.get("Content-Type")
        self.headers = {k: v for k, v in there.headers.items() if k.startswith(("Access-Control", "Vary"))}
        self.body = there.read()

    def json(self, change):
        """change(value), which may return another one, of the body."""
        value = json.loads(self.body)
        other = change(value)
        self.body = json.dumps(value if other is None else other).encode()

    def lines(self, change):
        """The same of the list of an NDJSON body's values."""
        values = [json.loads(line) for line in self.body.splitlines()]
        other = change(values)
        self.body = b"".join(json.dumps(v).encode() + b"\n" for v in (values if other is None else other))


def relay(port, version="0.33.0-relay", spoil=None):
    """The handler class of a server that passes everything on to the bridge on port but what tells that it is one. With spoil
    each answer goes through spoil(Answer) first, which returns False to cut the connection."""

    class Relay(Handler):
        def pass_on(self):
            self.sent = data = self.body()
            if self.path == "/health":
                return self.reply(b"404 page not found", 404, "text/plain")
            if self.path == "/api/version" and not spoil:
                return self.reply({"version": version})
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("content-length", "connection")}
            there.request(self.command, self.path, data if data or self.command == "POST" else None, kept)
            answer = there.getresponse()
            if spoil:
                self.pass_spoilt(Answer(self, answer))
            elif answer.headers.get("Content-Type", "text/plain") != "application/x-ndjson":
                self.reply(answer.read(), answer.status, answer.headers.get("Content-Type", "text/plain"))
            else:
                self.begin_stream()
                while line := answer.readline():
                    self.chunk(line)
                self.wfile.write(b"0\r\n\r\n")
            there.close()

        def pass_spoilt(self, answer):
            if spoil(answer) is False:
                return self.cut()
            self.send_response(answer.status)
            for name, value in {**answer.headers, **({"Content-Type": answer.kind} if answer.kind else {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_DELETE = do_OPTIONS = do_PUT = pass_on

    return Relay
