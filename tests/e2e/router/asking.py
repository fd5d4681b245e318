"""A client of all three wires that believes nothing: it reads an answer byte by byte and says what it was."""
import asyncio
import json

from .standin_ollama import right_answer

ASKS = {  # name -> (path, streams)
    "generate": ("/api/generate", False), "generate-stream": ("/api/generate", True),
    "chat": ("/api/chat", False), "chat-stream": ("/api/chat", True),
    "openai": ("/v1/chat/completions", False), "openai-stream": ("/v1/chat/completions", True),
    "messages": ("/v1/messages", False), "messages-stream": ("/v1/messages", True),
    "responses": ("/v1/responses", False), "responses-stream": ("/v1/responses", True),
}


def body_of(kind, prompt, model="stand"):
    path, stream = ASKS[kind]
    body = {"model": model, "stream": stream}
    if path == "/api/generate":
        return {**body, "prompt": prompt}
    if path == "/v1/responses":
        return {**body, "input": prompt}
    return {**body, "messages": [{"role": "user", "content": prompt}], **({"max_tokens": 100} if "messages" in path else {})}


class Answer:
    """what: right (by: who), told (an error before any text), broken (an honest error in a stream), cut (the connection
    ended in the middle of the bytes), wrong (everything else; why says what)."""

    def __init__(self, what, why="", by=None, status=0, headers=None):
        self.what, self.why, self.by, self.status, self.headers = what, why, by, status, headers or {}

    def __repr__(self):
        return f"{self.what} {self.status} {self.why} {self.by}"


def text_of_whole(path, value):
    if path == "/api/generate":
        return value["response"]
    if path == "/api/chat":
        return value["message"]["content"]
    if path == "/v1/chat/completions":
        return value["choices"][0]["message"]["content"]
    return (value["content"] if path == "/v1/messages" else value["output"][0]["content"])[0]["text"]


def read_events(path, data):
    """(values, whether the last event is whole)"""
    if path.startswith("/api/"):
        lines = data.split(b"\n")
        return [json.loads(line) for line in lines[:-1] if line], not lines[-1]
    blocks = data.split(b"\n\n")
    values = []
    for block in blocks[:-1]:
        payload = b"".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if payload:
            values.append(payload if payload == b"[DONE]" else json.loads(payload))
    return values, not blocks[-1]


def judge_stream(path, data, request, n):
    values, whole = read_events(path, data)
    text, ended, error = "", False, None
    for v in values:
        if ended:
            return Answer("wrong", f"something after the end: {v}")
        if v == b"[DONE]":
            ended = True
        elif v.get("error") or v.get("type") in ("error", "response.failed"):
            error = v
        elif path == "/api/generate":
            text += v["response"]
            ended = v["done"]
        elif path == "/api/chat":
            text += v["message"]["content"]
            ended = v["done"]
        elif path == "/v1/chat/completions":
            text += v["choices"][0]["delta"].get("content", "")
        else:
            text += v["delta"].get("text", "") if v.get("type") == "content_block_delta" else ""
            text += v["delta"] if v.get("type") == "response.output_text.delta" else ""
            ended = v["type"] in ("message_stop", "response.completed")
        if error and v is not values[-1] and values[-1] != b"[DONE]":
            return Answer("wrong", f"something after an error: {values[-1]}")
    if error:
        return Answer("broken", str(error)[:200]) if not ended or path.startswith("/v1/chat") else Answer("wrong", "an end and an error")
    if not whole or not ended:
        return Answer("wrong", f"ended without an end or an error: {data[-100:]!r}")
    by = right_answer(text, request, n)
    return Answer("right", by=by) if by else Answer("wrong", f"text {text!r}")


class Client:
    """One connection at a time, kept as long as the router keeps it."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def connect(self):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    def drop(self):
        if self.writer:
            self.writer.transport.abort()
        self.writer = None

    async def send(self, path, body, headers=()):
        await self.connect()
        data = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
        self.writer.write("\r\n".join([*head, "", ""]).encode() + data)
        await self.writer.drain()

    async def head(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        return int(head[0].split()[1])

    async def piece(self):
        """The next chunk; b"" at the end."""
        size = int((await self.reader.readline()).split(b";")[0], 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        data = b""
        while piece := await self.piece():
            data += piece
        return data

    async def ask(self, kind, request, n=4, model="stand"):
        path, stream = ASKS[kind]
        await self.send(path, body_of(kind, f"id={request} words={n}", model))
        try:
            status = await self.head()
            data = await self.body()
        except (asyncio.IncompleteReadError, ConnectionError) as problem:
            self.drop()
            return Answer("cut", str(problem))
        if self.headers.get("connection", "").lower() == "close":
            self.drop()
        answer = self.judge(path, stream, status, data, request, n)
        answer.status, answer.headers = status, self.headers
        return answer

    def judge(self, path, stream, status, data, request, n):
        try:
            if status != 200:
                value = json.loads(data)
                said = value["error"] if path.startswith("/api/") else value["error"]["message"]
                return Answer("told", said) if isinstance(said, str) and said else Answer("wrong", f"{status} {data!r}")
            if stream and self.headers["content-type"].startswith(("application/x-ndjson", "text/event-stream")):
                return judge_stream(path, data, request, n)
            text = text_of_whole(path, json.loads(data))
            by = right_answer(text, request, n)
            return Answer("right", by=by) if by and not stream else Answer("wrong", f"{data!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            return Answer("wrong", f"{type(problem).__name__} {problem}: {status} {data[:300]!r}")
