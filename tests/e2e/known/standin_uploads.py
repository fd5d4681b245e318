"""The half of the stand-in hub that takes models: a registry's uploads and tokens, the hub's commits and large files.

    hub.faults["PATCH"] = [drop(1000), status(503, retry_after=1)]   # one for each such request
    hub.faults["commit"] = [lose()]                                  # it is done, but the answer gets lost
"""
import base64
import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import parse_qs

EMPTY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
SPKI = bytes.fromhex("302a300506032b6570032100")  # before the 32 bytes of a public key of ed25519


def lose():
    return {"lose": True}


def make_key(home):
    """~/.ollama/id_ed25519 as ssh-keygen writes it; the public half in base64, as the account knows it."""
    with tempfile.TemporaryDirectory() as tmp:
        der = Path(tmp) / "key"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-outform", "DER", "-out", der], check=True, capture_output=True)
        seed = der.read_bytes()[-32:]
        public = subprocess.run(["openssl", "pkey", "-inform", "DER", "-in", der, "-pubout", "-outform", "DER"], check=True,
                                capture_output=True).stdout[-32:]

    def text(data):
        return len(data).to_bytes(4, "big") + data

    blob = text(b"ssh-ed25519") + text(public)
    private = b"\1\2\3\4" * 2 + blob + text(seed + public) + text(b"a comment")
    private += bytes(range(1, 1 + -len(private) % 8))
    raw = b"openssh-key-v1\0" + text(b"none") * 2 + text(b"") + (1).to_bytes(4, "big") + text(blob) + text(private)
    lines = base64.b64encode(raw).decode()
    body = "\n".join(lines[i:i + 70] for i in range(0, len(lines), 70))
    path = Path(home) / ".ollama" / "id_ed25519"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
    return base64.b64encode(blob).decode()


def signed_by(public, text, signature):
    with tempfile.TemporaryDirectory() as tmp:
        key, message, sig = (Path(tmp) / n for n in ("key", "message", "sig"))
        key.write_bytes(SPKI + base64.b64decode(public)[-32:])
        message.write_bytes(text.encode())
        sig.write_bytes(base64.b64decode(signature))
        done = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", key, "-rawin", "-in", message,
                               "-sigfile", sig], capture_output=True)
        return done.returncode == 0


class Uploads:
    """What Hub needs for it, beside faults, requests and blobs."""

    def __init__(self):
        self.uploads = {}     # of a registry: id -> bytes so far
        self.sums = {}        # id -> md5 of each part as it arrived
        self.owned = {}       # "ns/model" -> digests that it has
        self.lfs = {}         # oid -> bytes
        self.parts = {}       # oid -> {number: bytes}
        self.commits = []     # (repo, revision, lines)
        self.keeps = True     # what arrived of a part that was cut off counts
        self.elsewhere = False  # parts of a blob are sent to the CDN
        self.chunk = 0        # of large files, bytes; 0: in one piece
        self.key = None       # the public key that a registry knows, "anybody", or None: no tokens at all
        self.tokens, self.nonces = set(), set()
        self.tokens_given = 0

    def fault(self, *names):
        with self.lock:
            for n in names:
                if self.faults.get(n):
                    return self.faults[n].pop(0)
        return {}

    # ---- a registry

    def give_token(self, handler, url):
        query = parse_qs(url.query)
        given = handler.headers.get("Authorization")
        if self.key == "anybody":
            if given:
                return handler.simple(400, b'{"error":"nobody signs here"}')
        else:
            public, _, signature = (given or "").partition(":")
            ok = public == self.key and signed_by(public, f"GET,{self.url}{handler.path},{EMPTY}", signature)
            if not ok or query["nonce"][0] in self.nonces:
                return handler.simple(401, b'{"error":"unknown key"}')
        self.nonces.add(query["nonce"][0])
        self.scopes = query["scope"]
        self.tokens_given += 1
        token = f"token-{self.tokens_given}"
        self.tokens.add(token)
        return handler.simple(200, json.dumps({"token": token}).encode())

    def lacks_token(self, handler, repo):
        """True: the answer is a 401."""
        given = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.key is None or given in self.tokens:
            return False
        realm = (self.cdn if self.key == "anybody" else self.url) + "/token"
        handler.simple(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}', close=True,
                       WWW_Authenticate=f'Bearer realm="{realm}",service="stand-in",scope="repository:{repo}:pull,push"')
        return True

    def registry(self, handler, url, parts):
        """POST, PATCH, PUT and HEAD below /v2; GET of an upload."""
        what = handler.command
        if parts[-2] == "manifests":
            repo, kind = "/".join(parts[1:-2]), "manifest"
        elif parts[-2] == "uploads" or parts[-1] == "uploads":
            repo, kind = "/".join(parts[1:parts.index("blobs")]), what
        else:
            repo, kind = "/".join(parts[1:-2]), what
        if self.lacks_token(handler, repo):
            return None
        fault = self.fault(kind)
        if fault.get("status"):
            return handler.refuse(fault)
        if what == "HEAD":
            return handler.simple(200 if parts[-1] in self.owned.get(repo, ()) else 404)
        if kind == "manifest":
            body = handler.body()
            named = [layer["digest"] for layer in [*json.loads(body)["layers"], json.loads(body)["config"]]]
            if not set(named) <= self.owned.get(repo, set()):
                return handler.simple(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"a blob is missing"}]}')
            self.manifests[f"{repo}:{parts[-1]}"] = body
            return handler.lost(fault) or handler.simple(201)
        if what == "POST":
            return self.begin_upload(handler, repo, parse_qs(url.query))
        return self.go_on_with_upload(handler, url, repo, parts[-1], fault)

    def begin_upload(self, handler, repo, query):
        handler.body()
        mount = query.get("mount", [None])[0]
        if mount in self.owned.get(query.get("from", [""])[0], ()):
            self.owned.setdefault(repo, set()).add(mount)
            return handler.simple(201)
        name = f"u{len(self.uploads)}"
        self.uploads[name], self.sums[name] = b"", []
        return handler.simple(202, Location=f"/v2/{repo}/blobs/uploads/{name}?state=0")

    def append(self, name, data):
        if data:
            self.uploads[name] += data
            self.sums[name].append(hashlib.md5(data).digest())

    def go_on_with_upload(self, handler, url, repo, name, fault):
        at = f"/v2/{repo}/blobs/uploads/{name}?state="
        if name not in self.uploads or fault.get("forget"):
            self.uploads.pop(name, None)
            handler.close_connection = True
            return handler.simple(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"upload unknown"}]}', close=True)
        have = self.uploads[name]
        if handler.command == "GET":
            return handler.simple(204, Location=at + str(len(have)), Range=f"0-{max(len(have) - 1, 0)}")
        if handler.command == "PATCH":
            first, last = (int(x) for x in handler.headers["Content-Range"].split("-"))
            if first != len(have):
                return handler.simple(416, close=True)
            if self.elsewhere:
                return handler.simple(307, close=True, Location=f"{self.cdn}/part/{name}/{first}",
                                      Docker_Upload_Location=at + str(last + 1))
            data = handler.body(fault.get("drop"))
            if "drop" in fault:
                if self.keeps:
                    self.append(name, data)
                return handler.hang_up()
            assert len(data) == last - first + 1
            self.append(name, data)
            return handler.lost(fault) or handler.simple(202, Location=at + str(last + 1), Range=f"0-{last}")
        handler.body()
        digest, etag = parse_qs(url.query)["digest"][0], parse_qs(url.query).get("etag")
        parts = self.sums[name]
        if etag and etag != [f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"]:
            return handler.simple(400, b'{"errors":[{"code":"ETAG","message":"these are not the parts that came"}]}')
        if hashlib.sha256(have).hexdigest() != digest.removeprefix("sha256:") or fault.get("damaged"):
            return handler.simple(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
        self.blobs[digest] = have
        self.etags = etag
        self.owned.setdefault(repo, set()).add(digest)
        return handler.lost(fault) or handler.simple(201)

    def take_part(self, handler, parts):
        """A part of a blob, at the CDN."""
        fault = self.fault("part")
        if fault.get("status"):
            return handler.refuse(fault)
        data = handler.body(fault.get("drop"))
        if "drop" in fault:
            return handler.hang_up()
        assert int(parts[2]) == len(self.uploads[parts[1]])
        self.append(parts[1], data)
        return handler.simple(201)

    # ---- the hub

    def has_large(self, oid):
        return oid in self.lfs or any(hashlib.sha256(d).hexdigest() == oid for files in self.repos.values() for d in files.values())

    def write(self, handler, url, parts):
        """POST and PUT of what is no registry's."""
        name = "lfs" if parts[0] == "lfs" else parts[-1] if parts[-1] in ("batch", "create") else parts[0] if parts[0] != "api" else parts[4]
        fault = self.fault(name)
        if fault.get("status"):
            return handler.refuse(fault)
        if parts[0] == "lfs":
            return self.take_large(handler, parts, fault)
        body = handler.body()
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return handler.simple(401, b'{"error":"Invalid credentials"}', X_Error_Message="Invalid credentials")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.repos:
                return handler.simple(409, b'{"error":"You already created this model repo"}')
            self.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs"}
            return handler.simple(200, json.dumps({"url": f"{self.url}/{repo}"}).encode())
        if parts[-1] == "batch":
            return self.place_large(handler, json.loads(body))
        if parts[0] == "complete":
            return self.complete_large(handler, parts[1], json.loads(body))
        if parts[0] == "verify":
            asked = json.loads(body)
            ok = len(self.lfs.get(asked["oid"], b"")) == asked["size"]
            return handler.simple(200 if ok else 404, b"{}")
        repo = "/".join(parts[2:4])
        if repo not in self.repos:
            return handler.simple(404, b'{"error":"Repository not found"}', X_Error_Code="RepoNotFound")
        if parts[4] == "branch":
            return handler.simple(200, b"{}")
        if parts[4] == "preupload":
            from .standin_hub import LARGE
            asked = json.loads(body)["files"]
            for f in asked:
                assert len(base64.b64decode(f["sample"])) == min(512, f["size"])
            return handler.simple(200, json.dumps({"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False} for f in asked]}).encode())
        assert parts[4] == "commit", parts
        return self.commit(handler, repo, parts[5], [json.loads(line) for line in body.splitlines()], fault)

    def place_large(self, handler, asked):
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        found = []
        for f in asked["objects"]:
            entry = {"oid": f["oid"], "size": f["size"]}
            if not self.has_large(f["oid"]):
                upload = {"href": f"{self.cdn}/lfs/{f['oid']}", "header": {"X-Signed": "yes", "Authorization": "of theirs"}}
                if self.chunk:
                    n = -(-f["size"] // self.chunk)
                    upload = {"href": f"{self.url}/complete/{f['oid']}",
                              "header": {"chunk_size": str(self.chunk), **{f"{i:05d}": f"{self.cdn}/lfs/{f['oid']}/{i}" for i in range(1, n + 1)}}}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/verify"}}
                entry.update(self.lies.get("batch", {}))
            found.append(entry)
        return handler.simple(200, json.dumps({"transfer": "multipart" if self.chunk else "basic", "objects": found}).encode())

    def take_large(self, handler, parts, fault):
        data = handler.body(fault.get("drop"))
        if "drop" in fault:
            return handler.hang_up()
        oid = parts[1]
        if len(parts) == 3:
            self.parts.setdefault(oid, {})[int(parts[2])] = data
            return handler.lost(fault) or handler.simple(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')
        assert handler.headers["X-Signed"] == "yes"
        if hashlib.sha256(data).hexdigest() != oid:
            return handler.simple(400, b'{"error":"checksum"}')
        self.lfs[oid] = data
        return handler.lost(fault) or handler.simple(200)

    def complete_large(self, handler, oid, asked):
        parts = self.parts[oid]
        for p in asked["parts"]:
            assert p["etag"] == f'"{hashlib.md5(parts[p["partNumber"]]).hexdigest()}"'
        data = b"".join(parts[p["partNumber"]] for p in asked["parts"])
        if hashlib.sha256(data).hexdigest() != oid:
            return handler.simple(400, b'{"error":"checksum"}')
        self.lfs[oid] = data
        return handler.simple(200, b"{}")

    def commit(self, handler, repo, revision, lines, fault):
        assert lines[0]["key"] == "header" and lines[0]["value"]["summary"]
        files = dict(self.repos[repo])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if not self.has_large(value["oid"]):
                    return handler.simple(400, b'{"error":"a large file is missing"}')
                old = {hashlib.sha256(d).hexdigest(): d for d in files.values()}
                files[value["path"]] = self.lfs.get(value["oid"]) or old[value["oid"]]
                assert len(files[value["path"]]) == value["size"]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        self.repos[repo] = files
        self.commits.append((repo, revision, lines))
        return handler.lost(fault) or handler.simple(200, b'{"success":true}')
