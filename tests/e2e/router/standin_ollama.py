"""A server that speaks Ollama's wires (Ollama's own, OpenAI's, Anthropic's) and is wrong when it is told to be: what stands behind
the router in these tests. Any number of them run on one event loop in a thread of their own.

What a request is answered is decided by its prompt, which holds "id=NAME words=N": N words, each with the request's id, its place and
the name of the server, so that a wrong, mixed or cut answer is recognised (right_answer). A Ledger, shared by the servers,
counts each generation.

Faults (fault(server, id, path) names one for a generation, None: none):

    close         the connection closes without an answer          hang        nothing comes
    500 429 503   that status; the last two with Retry-After: 0    error        200 and an error as its first event
    garbage       200 and what is no event                         half        half an event, then the connection closes
    drip          right, but byte for byte                         half-body    half of an answer that does not stream
    late-error    two events, then an error event                  late-death   two events, then the connection closes
    late-silence  two events, then nothing                         late-half    two events, half an event, and it closes
    no-end        all words, the end of the answer, but no last event
"""
import asyncio
import contextlib
import hashlib
import json
import re
import threading
import time

NOW = "2026-01-31T09:08:07.5Z"
PATIENCE = 60


def words(request, n, name):
    return [f"{request}.{i}@{name} " for i in range(n)] + [f"{request}.end@{name}"]


def right_answer(text, request, n):
    """The server's name, or None when this is not exactly what one server says to this request."""
    found = re.search(r"@(\S+)$", text)
    return found[1] if found and text == "".join(words(request, n, found[1])) else None


class Ledger:
    """Every generation of every server, by the request's id."""

    def __init__(self):
        self.running = {}  # id -> servers
        self.begun = {}
        self.completed = {}
        self.cancelled = {}
        self.overlaps = []
        self.log = []

    def begin(self, request, server):
        others = self.running.setdefault(request, [])
        self.begun[request] = self.begun.get(request, 0) + 1
        mine = (server, self.begun[request])
        for other in others:  # one whose cancel is on its way here will be gone soon
            asyncio.get_running_loop().call_later(2.0, self.check, request, other)
        others.append(mine)
        self.log.append(("begin", request, server))
        return mine

    def check(self, request, other):
        if other in self.running[request]:
            self.overlaps.append((request, other))

    def end(self, request, mine, how):
        self.running[request].remove(mine)
        counts = self.completed if how == "completed" else self.cancelled
        counts[request] = counts.get(request, 0) + 1
        self.log.append((how, request, mine[0]))

    def wait(self, what):
        end = time.monotonic() + PATIENCE
        while not what(self):
            assert time.monotonic() < end, (self.running, self.completed, self.cancelled)
            time.sleep(0.005)


class Loop:
    """An event loop in a thread; servers live on it."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        async def cancel_all():
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Gone(Exception):
    """The other side has closed the connection."""


class Exchange:
    """One connection: its requests, one after the other."""

    def __init__(self, server, reader, writer):
        self.server, self.reader, self.writer = server, reader, writer

    async def read(self):
        """False: no further request."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, target, _ = first.split(" ", 2)
        self.path, _, self.query = target.partition("?")
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = b""
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                self.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readline()
        else:
            self.body = await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        return True

    def json(self):
        return json.loads(self.body)

    async def send(self, data, piece=None):
        for at in range(0, len(data), piece or len(data)):
            self.writer.write(data[at:at + (piece or len(data))])
            await self.writer.drain()
            if piece:
                await asyncio.sleep(0)

    async def reply(self, status, value=None, kind="application/json; charset=utf-8", headers=(), piece=None):
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *headers]
        if value is not None:
            head.append(f"Content-Type: {kind}")
        await self.send("\r\n".join([*head, "", ""]).encode() + (b"" if self.method == "HEAD" else data), piece)

    async def begin_stream(self, kind):
        await self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    async def chunk(self, data, piece=None):
        await self.send(b"%x\r\n%s\r\n" % (len(data), data), piece)

    async def end_stream(self):
        await self.send(b"0\r\n\r\n")

    def cut(self):
        self.writer.transport.abort()
        raise Gone

    async def hang(self):
        await asyncio.sleep(3600)


class Wire:
    """How a generation is said: events of a stream and whole answers."""

    def __init__(self, path, asked):
        self.path, self.asked, self.model = path, asked, asked.get("model", "")
        ours = path.startswith("/api/")
        stream = asked.get("stream")
        self.streams = stream is not False if ours else stream is True
        self.kind = "application/x-ndjson" if ours else "text/event-stream"

    def line(self, value):
        return json.dumps(value).encode() + b"\n"

    def data(self, value, event=None):
        return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"

    def last_numbers(self, n):
        return {"done": True, "done_reason": "stop", "total_duration": 9000, "load_duration": 10, "prompt_eval_count": 5,
                "prompt_eval_duration": 100, "eval_count": n, "eval_duration": 500}

    def events(self, said):
        """(first ones, one for each word, last ones), all as bytes."""
        m, head = self.model, {"model": self.model, "created_at": NOW}
        if self.path == "/api/generate":
            return [], [self.line({**head, "response": w, "done": False}) for w in said], [
                self.line({**head, "response": "", **self.last_numbers(len(said))})]
        if self.path == "/api/chat":
            say = [self.line({**head, "message": {"role": "assistant", "content": w}, "done": False}) for w in said]
            return [], say, [self.line({**head, "message": {"role": "assistant", "content": ""}, **self.last_numbers(len(said))})]
        if self.path == "/v1/chat/completions":
            def choice(delta, reason=None):
                return self.data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": m, "choices": [
                    {"index": 0, "delta": delta, "finish_reason": reason}]})
            return [], [choice({"role": "assistant", "content": w}) for w in said], [choice({}, "stop"), b"data: [DONE]\n\n"]
        if self.path == "/v1/messages":
            message = {"id": "msg_1", "type": "message", "role": "assistant", "model": m, "content": [], "stop_reason": None,
                       "usage": {"input_tokens": 1, "output_tokens": 0}}
            first = [self.data({"type": "message_start", "message": message}, "message_start"),
                     self.data({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                               "content_block_start")]
            say = [self.data({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}},
                             "content_block_delta") for w in said]
            return first, say, [
                self.data({"type": "content_block_stop", "index": 0}, "content_block_stop"),
                self.data({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": len(said)}},
                          "message_delta"),
                self.data({"type": "message_stop"}, "message_stop")]
        if self.path == "/v1/responses":
            first = [self.data({"type": "response.created", "sequence_number": 0, "response": {
                "id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": m, "output": []}},
                "response.created")]
            say = [self.data({"type": "response.output_text.delta", "sequence_number": i + 1, "item_id": "msg_1",
                              "output_index": 0, "content_index": 0, "delta": w}, "response.output_text.delta")
                   for i, w in enumerate(said)]
            return first, say, [self.data({"type": "response.completed", "sequence_number": len(said) + 1,
                                           "response": self.whole("".join(said))}, "response.completed")]
        raise ValueError(self.path)

    def whole(self, text):
        m = self.model
        return {
            "/api/generate": lambda: {"model": m, "created_at": NOW, "response": text, **self.last_numbers(5)},
            "/api/chat": lambda: {"model": m, "created_at": NOW, "message": {"role": "assistant", "content": text},
                                  **self.last_numbers(5)},
            "/v1/chat/completions": lambda: {
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": m,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}},
            "/v1/messages": lambda: {"id": "msg_1", "type": "message", "role": "assistant", "model": m,
                                     "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                                     "usage": {"input_tokens": 1, "output_tokens": 5}},
            "/v1/responses": lambda: {
                "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": m,
                "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                            "content": [{"type": "output_text", "text": text, "annotations": []}]}]},
        }[self.path]()

    def error(self, text, status=500):
        if self.path == "/v1/messages":
            return {"type": "error", "error": {"type": "api_error", "message": text}}
        return {"error": text} if self.path.startswith("/api/") else {"error": {"message": text, "type": "api_error"}}

    def error_event(self, text):
        if self.path.startswith("/api/"):
            return self.line(self.error(text))
        if self.path == "/v1/responses":
            return self.data({"type": "response.failed", "response": {"status": "failed", "error": {"message": text}}},
                             "response.failed")
        return self.data(self.error(text), "error" if self.path == "/v1/messages" else None)


WIRES = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses")


class StandIn:
    def __init__(self, loop, name, ledger=None, models=("stand:latest",), fault=None, pace=0.0, version="0.33.0"):
        self.loop, self.name, self.ledger, self.fault, self.pace = loop, name, ledger or Ledger(), fault, pace
        self.version, self.models, self.loaded, self.blobs = version, {}, {}, {}
        self.seen = []  # (method, path, headers, body) of all but checks
        self.queries = []  # of the same
        self.changes = []
        self.check_fault = None  # of version, tags, ps: hang, 500, garbage
        for i, model in enumerate(models):
            self.add(model, f"2026-01-{i + 1:02}T00:00:00Z")
        self.port = 0
        self.listener = None
        self.connections = set()
        self.up()

    # ---- life

    def up(self):
        async def listen():
            self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1000)
            self.port = self.listener.sockets[0].getsockname()[1]

        self.loop.run(listen())
        self.url = f"http://127.0.0.1:{self.port}"

    def down(self):
        """Refuses, and closes what is open."""
        async def close():
            self.listener.close()
            for writer in list(self.connections):
                writer.transport.abort()
            await asyncio.sleep(0)

        self.loop.run(close())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def add(self, model, modified=NOW, **more):
        digest = hashlib.sha256(f"{model}{more.pop('salt', '')}".encode()).hexdigest()
        self.models[model] = {"name": model, "model": model, "modified_at": modified, "size": 1000, "digest": digest,
                              "details": {"format": "gguf", "family": "llama"},
                              "capabilities": ["completion", "tools", "vision"], **more}

    async def serve(self, reader, writer):
        self.connections.add(writer)
        x = Exchange(self, reader, writer)
        try:
            while await x.read():
                await self.answer(x)
        except (Gone, ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            writer.transport.abort()

    # ---- requests

    def find(self, name):
        name = (name or "") + ("" if ":" in (name or "") else ":latest")
        return next((m for m in self.models if m.lower() == name.lower()), None)

    async def answer(self, x):
        key = (x.method if x.method != "HEAD" else "GET", x.path)
        checks = {("GET", "/api/version"): lambda: {"version": self.version},
                  ("GET", "/api/tags"): lambda: {"models": list(self.models.values())},
                  ("GET", "/api/ps"): lambda: {"models": list(self.loaded.values())}}
        if key in checks:
            if self.check_fault == "hang":
                await x.hang()
            if self.check_fault == "garbage":
                return await x.reply(200, b"<html>", "text/html")
            if self.check_fault:
                return await x.reply(int(self.check_fault), {"error": "no"})
            return await x.reply(200, checks[key]())
        self.seen.append((x.method, x.path, x.headers, x.body))
        self.queries.append(x.query)
        if x.path in WIRES:
            return await self.generate(x)
        if x.path.startswith("/api/blobs/"):
            return await self.blob(x)
        others = {("GET", "/"): self.root, ("GET", "/v1/models"): self.v1_models, ("POST", "/api/show"): self.show,
                  ("POST", "/api/pull"): self.pull, ("POST", "/api/push"): self.pull, ("POST", "/api/create"): self.create,
                  ("POST", "/api/copy"): self.copy, ("DELETE", "/api/delete"): self.delete, ("POST", "/api/embed"): self.embed,
                  ("POST", "/api/me"): self.me}
        await others.get(key, self.unknown)(x)

    async def unknown(self, x):
        await x.reply(404, b"404 page not found", "text/plain")

    async def root(self, x):
        await x.reply(200, b"Ollama is running", "text/plain; charset=utf-8")

    async def me(self, x):
        await x.reply(401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect"})

    async def v1_models(self, x):
        await x.reply(200, {"object": "list", "data": [{"id": m, "object": "model", "created": i, "owned_by": "library"}
                                                       for i, m in enumerate(self.models)]})

    def model_not_found(self, name):
        return {"error": f"model '{name}' not found"}

    async def show(self, x):
        name = x.json().get("model") or x.json().get("name")
        if not self.find(name):
            return await x.reply(404, self.model_not_found(name))
        await x.reply(200, {"details": {"format": "gguf"}, "capabilities": ["completion", "tools", "vision"], "modified_at": NOW,
                            "model_info": {"general.architecture": "llama", "llama.context_length": 8192}, "from": self.name})

    async def embed(self, x):
        if not self.find(x.json().get("model")):
            return await x.reply(404, self.model_not_found(x.json().get("model")))
        await x.reply(200, {"model": x.json()["model"], "embeddings": [[1.0, 0.0]], "total_duration": 1})

    async def pull(self, x):
        asked = x.json()
        name = asked.get("model") or asked.get("name")
        self.changes.append((x.path, name))
        if asked.get("stream") is False:
            self.add(name if ":" in name else name + ":latest")
            return await x.reply(200, {"status": "success"})
        await x.begin_stream("application/x-ndjson")
        if name.startswith("missing"):
            await x.chunk(json.dumps({"error": "pull model manifest: file does not exist"}).encode() + b"\n")
            return await x.end_stream()
        for i in range(4):
            await x.chunk(json.dumps({"status": "pulling 0123456789ab", "digest": "sha256:" + "0" * 64, "total": 4,
                                      "completed": i}).encode() + b"\n")
            await asyncio.sleep(self.pace)
        if name.startswith("broken"):
            x.cut()
        self.add(name if ":" in name else name + ":latest")
        await x.chunk(b'{"status":"success"}\n')
        await x.end_stream()

    async def create(self, x):
        asked = x.json()
        for digest in (asked.get("files") or {}).values():
            if digest not in self.blobs:
                return await x.reply(400, {"error": f"blob {digest} is not here"})
        self.changes.append((x.path, asked["model"]))
        self.add(asked["model"] if ":" in asked["model"] else asked["model"] + ":latest")
        await x.reply(200, b'{"status":"success"}\n', "application/x-ndjson")

    async def copy(self, x):
        asked = x.json()
        if not self.find(asked["source"]):
            return await x.reply(404, {"error": f'model "{asked["source"]}" not found'})
        self.changes.append((x.path, asked["destination"]))
        self.add(asked["destination"] + ("" if ":" in asked["destination"] else ":latest"))
        await x.reply(200)

    async def delete(self, x):
        name = x.json().get("model") or x.json().get("name")
        found = self.find(name)
        if not found:
            return await x.reply(404, self.model_not_found(name))
        self.changes.append((x.path, found))
        del self.models[found]
        await x.reply(200)

    async def blob(self, x):
        digest = x.path.rpartition("/")[2]
        if x.method == "HEAD":
            return await x.reply(200 if digest in self.blobs else 404)
        if "sha256:" + hashlib.sha256(x.body).hexdigest() != digest:
            return await x.reply(400, {"error": "digest mismatch"})
        self.blobs[digest] = len(x.body)
        await x.reply(201)

    # ---- generations

    def prompt_of(self, asked):
        if "prompt" in asked:
            return asked["prompt"]
        content = (asked.get("messages") or asked.get("input"))
        content = content if isinstance(content, str) else content[-1]["content"] if content else ""
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    async def generate(self, x):
        asked = x.json()
        wire = Wire(x.path, asked)
        found = re.search(r"id=(\S+) words=(\d+)", self.prompt_of(asked) or "")
        name = self.find(asked.get("model"))
        if not name:
            text = f"model '{asked.get('model')}' not found"
            return await x.reply(404, wire.error(text))
        if not found:
            self.loaded[name] = {**self.models[name], "expires_at": "2318-01-01T00:00:00Z", "size_vram": 1000}
            return await x.reply(200, {"model": asked["model"], "created_at": NOW, "response": "", "done": True,
                                       "done_reason": "load"})
        request, n = found[1], int(found[2])
        fault = self.fault(self, request, x.path) if self.fault else None
        if fault in ("429", "503"):
            return await x.reply(int(fault), wire.error("server busy, please try again."), headers=["Retry-After: 0"])
        if fault == "500":
            return await x.reply(500, wire.error("the runner has crashed"))
        mine = self.ledger.begin(request, self.name)
        watch = asyncio.ensure_future(x.reader.read(1))  # its end: the other side has left
        talk = asyncio.ensure_future(self.talk(x, wire, words(request, n, self.name), fault))
        how = "cancelled"
        try:
            await asyncio.wait({watch, talk}, return_when=asyncio.FIRST_COMPLETED)
            if talk.done():
                how = talk.result()
            else:
                raise Gone
        finally:
            self.ledger.end(request, mine, how)
            talk.cancel()
            if not watch.done():
                watch.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, Gone):
                await talk
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await watch

    async def talk(self, x, wire, said, fault):
        """completed: all words were computed and sent."""
        if fault == "close":
            x.cut()
        if fault == "hang":
            await x.hang()
        if not wire.streams:
            return await self.say_whole(x, wire, said, fault)
        first, middle, last = wire.events(said)
        await x.begin_stream(wire.kind)
        if fault == "error":
            await x.chunk(wire.error_event("out of memory"))
            await x.end_stream()
            return "failed"
        if fault == "garbage":
            await x.chunk(b"<html>oops</html>\n\n")
            await x.end_stream()
            return "failed"
        if fault == "half":
            await x.chunk((first + middle)[0][:9])
            x.cut()
        events = first + middle + ([] if fault == "no-end" else last)
        for i, event in enumerate(events):
            if fault and fault.startswith("late") and i == len(first) + 2:
                if fault == "late-error":
                    await x.chunk(wire.error_event("out of memory"))
                    await x.end_stream()
                    return "failed"
                if fault == "late-silence":
                    await x.hang()
                if fault == "late-half":
                    await x.chunk(event[:9])
                x.cut()
            if fault == "drip":
                await x.chunk(event[:7], piece=1)
                await x.chunk(event[7:], piece=3)
            else:
                await x.chunk(event)
            if self.pace:
                await asyncio.sleep(self.pace)
        await x.end_stream()
        return "failed" if fault == "no-end" else "completed"

    async def say_whole(self, x, wire, said, fault):
        if self.pace:
            await asyncio.sleep(self.pace * len(said))
        if fault == "error":
            await x.reply(200, wire.error("out of memory"))
        elif fault == "garbage":
            await x.reply(200, b"<html>oops</html>")
        elif fault in ("half", "half-body") or (fault and fault.startswith("late") and fault != "late-silence"):
            data = json.dumps(wire.whole("".join(said))).encode()
            await x.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
                len(data), data[:len(data) // 2]))
            x.cut()
        elif fault == "late-silence":
            await x.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
            await x.hang()
        else:
            await x.reply(200, wire.whole("".join(said)), piece=9 if fault == "drip" else None)
            return "completed"
        return "failed"
