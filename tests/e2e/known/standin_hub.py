"""A hub, a CDN and an Ollama registry on loopback, which can be wrong in one thing at a time.

    with Hub() as hub:
        hub.repo("org/name", directory)
        hub.faults["model.safetensors"] = [drop(after=1000), status(503, retry_after=1)]   # one for each request
"""
import gzip
import hashlib
import json
import os
import select
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .standin_uploads import Uploads

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096  # bytes from which a file is kept by LFS


def drop(after):
    return {"drop": after}


def status(code, retry_after=None, error=None):
    return {"status": code, "retry_after": retry_after, "error": error}


def chunked():
    """Without a length."""
    return {"chunked": True}


def zipped():
    """gzip'd, although nobody asked for that."""
    return {"zipped": True}


def other():
    """Another content of the same length, as of a file that was replaced."""
    return {"other": True}


def slow(piece, wait):
    return {"slow": (piece, wait)}


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients that are killed are part of the tests."""


class Hub(Uploads):
    def __init__(self, token=None, redirect=False, compressed=False, ranges=True, tls=None):
        """tls: (certificate, key) of 127.0.0.1, files"""
        super().__init__()
        self.token, self.redirect, self.compressed, self.ranges = token, redirect, compressed, ranges
        self.repos, self.manifests, self.blobs = {}, {}, {}
        self.faults, self.requests, self.sent, self.lies = {}, [], {}, {}
        self.taken, self.slowness = 0, 0  # bytes of bodies; seconds for each 64 KB of them
        self.lock = threading.Lock()
        self.servers = [Server(("127.0.0.1", 0), self._handler(cdn)) for cdn in (False, True)]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            for s in self.servers:
                s.socket = context.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https" if tls else "http"
        for s in self.servers:
            threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True).start()
        self.url, self.cdn = (f"{scheme}://127.0.0.1:{s.server_address[1]}" for s in self.servers)
        self.host = f"127.0.0.1:{self.servers[0].server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.servers:
            s.shutdown()
            s.server_close()

    def env(self, **more):
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", **more}

    # ---- what there is

    def repo(self, name, directory):
        self.repos[name] = {str(p.relative_to(directory)): p.read_bytes() for p in Path(directory).rglob("*") if p.is_file()}

    def model(self, name, layers, names=()):
        """layers: [(media type, bytes)]"""
        found = []
        for kind, data in layers:
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            self.blobs[digest] = data
            found.append({"mediaType": kind, "digest": digest, "size": len(data)})
            if names:
                found[-1]["name"] = names[len(found) - 1]
        config = b"{}"
        digest = "sha256:" + hashlib.sha256(config).hexdigest()
        self.blobs[digest] = config
        self.manifests[name] = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest, "size": len(config)},
            "layers": found}).encode()
        self.owned[name.split(":")[0]] = {digest, *(f["digest"] for f in found)}

    def files(self, name, directory):
        """A model in files, as a push of ours sends it."""
        kind = "application/vnd.{}.image.{}"
        files = [p for p in sorted(Path(directory).iterdir()) if p.is_file()]
        self.model(name, [(kind.format("ollama", "json") if p.suffix == ".json" else kind.format("mlx-ollama", "file"), p.read_bytes())
                          for p in files], names=[p.name for p in files])

    def listing(self, repo):
        files = []
        for name, data in self.repos[repo].items():
            entry = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if len(data) >= LARGE:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entry.update(self.lies.get(name, {}))
            files.append(entry)
        return json.dumps({"id": repo, "sha": COMMIT, "siblings": files + self.lies.get("extra", [])}).encode()

    # ---- requests

    def of(self, file, cdn=None):
        return [r for r in self.requests if r["path"].endswith(file) and (cdn is None or r["cdn"] == cdn)]

    def _handler(hub, cdn):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def finish(self):
                """What was answered before it had come is taken in all the same: else the answer may be lost with the connection."""
                super().finish()
                try:
                    self.connection.shutdown(socket.SHUT_WR)
                    self.connection.settimeout(2)
                    while select.select([self.connection.fileno()], [], [], 2)[0] and os.read(self.connection.fileno(), 1 << 16):
                        pass
                except (OSError, ValueError):
                    pass

            def simple(self, code, body=b"", close=False, **headers):
                self.send_response(code)
                if close:
                    self.close_connection = True
                    headers["Connection"] = "close"
                for k, v in headers.items():
                    self.send_header(k.replace("_", "-"), v)
                if code != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                return True

            def refuse(self, fault):
                """Without a look at what was to come."""
                more = {"Retry-After": str(fault["retry_after"])} if fault["retry_after"] is not None else {}
                if fault["error"]:
                    more["X-Error-Message"] = fault["error"]
                return self.simple(fault["status"], b"{}", close=True, **more)

            def body(self, most=None):
                n = int(self.headers.get("Content-Length") or 0)
                left, pieces = n if most is None else min(n, most), []
                while left:
                    piece = self.rfile.read(min(left, 1 << 16))
                    if not piece:
                        raise ConnectionError("the client has gone")
                    left -= len(piece)
                    pieces.append(piece)
                    with hub.lock:
                        hub.taken += len(piece)
                    time.sleep(hub.slowness)
                return b"".join(pieces)

            def hang_up(self):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return True

            def lost(self, fault):
                return self.hang_up() if fault.get("lose") else None

            def write(self):
                url = urlsplit(self.path)
                parts = unquote(url.path).strip("/").split("/")
                hub.requests.append({"path": unquote(url.path), "cdn": cdn, "method": self.command,
                                     "token": self.headers.get("Authorization")})
                if parts[0] == "part":
                    return hub.take_part(self, parts)
                return hub.registry(self, url, parts) if parts[0] == "v2" else hub.write(self, url, parts)

            do_POST = do_PUT = do_PATCH = do_HEAD = write

            def file(self, name, data):
                with hub.lock:
                    todo = hub.faults.get(name, [])
                    fault = todo.pop(0) if todo else {}
                if fault.get("status"):
                    more = {"Retry-After": str(fault["retry_after"])} if fault["retry_after"] is not None else {}
                    if fault["error"]:
                        more["X-Error-Code"] = fault["error"]
                    return self.simple(fault["status"], b"no", **more)
                if fault.get("other"):
                    data = bytes(b ^ 1 for b in data)
                if fault.get("zipped"):
                    return self.simple(200, gzip.compress(data), Content_Encoding="gzip")
                if fault.get("chunked"):
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for i in range(0, len(data), 100000):
                        part = data[i:i + 100000]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    return self.wfile.write(b"0\r\n\r\n")
                start, given = 0, self.headers.get("Range")
                if given and hub.ranges:
                    start = int(given.removeprefix("bytes=").split("-")[0])
                    if start >= len(data):
                        return self.simple(416)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                rest = data[start:]
                if "drop" in fault:
                    rest = rest[:fault["drop"]]
                piece, wait = fault.get("slow", (1 << 16, 0))
                for i in range(0, len(rest), piece):
                    part = rest[i:i + piece]
                    try:
                        self.wfile.write(part)
                    except OSError:
                        self.close_connection = True
                        return
                    with hub.lock:
                        hub.sent[name] = hub.sent.get(name, 0) + len(part)
                    time.sleep(wait)
                if "drop" in fault:
                    self.close_connection = True
                    self.wfile.flush()
                    self.connection.close()

            def do_GET(self):
                url = urlsplit(self.path)
                path = unquote(url.path)
                hub.requests.append({"path": path, "cdn": cdn, "method": "GET", "range": self.headers.get("Range"),
                                     "token": self.headers.get("Authorization")})
                parts = path.strip("/").split("/")
                if parts[0] == "token":
                    return hub.give_token(self, url)
                if parts[0] == "v2":
                    if "uploads" in parts:
                        return hub.registry(self, url, parts)
                    if hub.lacks_token(self, "/".join(parts[1:-2])):
                        return None
                    if parts[-2] == "manifests":
                        body = hub.manifests.get("/".join(parts[1:-2]) + ":" + parts[-1])
                        return self.simple(200, body) if body else self.simple(404, b"{}")
                    return self.file(parts[-1], hub.blobs[parts[-1]])
                if hub.token and not cdn and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.simple(401, b"{}")
                if parts[:2] == ["api", "models"]:
                    repo, revision = "/".join(parts[2:4]), parts[5]
                    todo = hub.faults.get("listing", [])
                    fault = todo.pop(0) if todo else None
                    if fault and "drop" in fault:
                        self.send_response(200)
                        self.send_header("Content-Length", "100000")
                        self.end_headers()
                        self.wfile.write(hub.listing(repo)[:fault["drop"]])
                        return self.hang_up()
                    if fault and "cut" in fault:
                        return self.simple(200, hub.listing(repo)[:fault["cut"]])
                    if fault:
                        return self.simple(fault["status"], b"{}", **({"Retry-After": str(fault["retry_after"])} if fault["retry_after"] is not None else {}),
                                           **({"X-Error-Code": fault["error"]} if fault["error"] else {}))
                    if repo not in hub.repos or revision not in ("main", COMMIT, "v1"):
                        return self.simple(404, b"{}", X_Error_Code="RepoNotFound")
                    body = hub.listing(repo)
                    if hub.compressed and "gzip" in self.headers.get("Accept-Encoding", ""):
                        return self.simple(200, gzip.compress(body), Content_Encoding="gzip")
                    return self.simple(200, body)
                if hub.redirect and not cdn:
                    return self.simple(302, b"Found. " * 500, Location=hub.cdn + self.path)
                assert parts[2:4] == ["resolve", COMMIT], path
                name = "/".join(parts[4:])
                return self.file(name, hub.repos["/".join(parts[:2])][name])

        return Handler
