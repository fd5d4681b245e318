"""create and push: over the bridge, over a router before it, over servers that fail, and beside what a real Ollama's client sends."""
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from doctor.standin import Handler, Server
from known.bridge import Bridge
from known.real_ollama import PROGRAM, needs_model, needs_program
from known.standin_hub import Hub
from known.test_adapters import write_mlx, write_peft
from router.router import Router

from .conftest import PATIENCE
from .standin import stand_in
from .test_faults import in_terminal

PARTS = """# a comment
TEMPLATE \"\"\"{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}<|user|>{{ .Prompt }}<|end|><|assistant|>\"\"\"
SYSTEM "You are <kind> & say \\o/.
Always."
PARAMETER temperature 0.7
PARAMETER top_k 30
PARAMETER stop <|user|>
PARAMETER stop "two words"
PARAMETER use_mmap true
LICENSE Do as you like.
LICENSE \"\"\"
But be "kind".
\"\"\"
MESSAGE user Grüße: 🙂
MESSAGE assistant "Hello."
REQUIRES 0.1.2
"""


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def recorder(have=(), cut=None, refuse=None, answer=b'{"status":"success"}\n'):
    """Takes blobs and creates; notes what came. have: digests that are there; cut: bytes of a blob after which the connection is; refuse:
    (status, error) for blobs; answer: of /api/create."""
    state = {"blobs": {}, "heads": [], "created": [], "other": []}

    class Recorder(Handler):
        seen = state

        def do_HEAD(self):
            digest = self.path.rpartition("/")[2]
            if self.path.startswith("/api/blobs/"):
                state["heads"].append(digest)
            known = not self.path.startswith("/api/blobs/") or digest in have or digest in state["blobs"]
            self.reply(b"", 200 if known else 404)

        def do_GET(self):
            self.reply({"version": "0.17.4", "models": []})

        def do_POST(self):
            if not self.path.startswith("/api/blobs/"):
                state["created" if self.path == "/api/create" else "other"].append(json.loads(self.body()))
                return self.reply(answer)
            if cut is not None:
                self.rfile.read(cut)
                return self.cut()
            data = self.blob()
            if refuse:
                return self.reply({"error": refuse[1]}, refuse[0])
            state["blobs"][self.path.rpartition("/")[2]] = data
            return self.reply(b"", 201)

        def blob(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.body()
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

    return Recorder


@pytest.fixture
def model(tiny_models, tmp_path):
    """A directory with a copy of a model, and its Modelfile beside it."""
    shutil.copytree(tiny_models / "tiny-hello", tmp_path / "files")
    (tmp_path / "Modelfile").write_text("FROM ./files\n" + PARTS)
    return tmp_path


@pytest.fixture(params=["bridge", "router"])
def place(request, tiny_models):
    """(URL, bridge): the bridge itself, or a router before it."""
    with Bridge(roots=[tiny_models]) as server:
        if request.param == "bridge":
            yield server.url, server
            return
        with Router({"mlx": server.url}) as router:
            router.wait_state("mlx", "up", "healthy")
            yield router.url, server


# ---- what is made

def test_a_directory_becomes_a_model_that_answers(place, cli_at, model):
    cli = cli_at(place[0])
    done = cli("create", "mine", "-f", model / "Modelfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("gathering model components: 100% of ") and lines[-1] == "success"
    assert any(line.startswith("uploading model.safetensors: 100% of ") for line in lines)
    shown = json.loads(cli("show", "mine", "--json").stdout)
    assert shown["system"] == "You are <kind> & say \\o/.\nAlways." and shown["template"].startswith("{{ if .System }}")
    assert "Do as you like." in shown["license"] and 'But be "kind".' in shown["license"]
    assert shown["messages"] == [{"role": "user", "content": "Grüße: 🙂"}, {"role": "assistant", "content": "Hello."}]
    assert sorted(re.findall(r"^(\w+)\s+(.*?)\s*$", shown["parameters"], re.M)) == [
        ("stop", '"<|user|>"'), ("stop", '"two words"'), ("temperature", "0.7"), ("top_k", "30"), ("use_mmap", "true")]
    assert cli("run", "mine", "hi").stdout == "Hello world! Grün 🙂\n"

    again = cli("create", "mine2", "-f", model / "Modelfile")  # all of it is there
    assert again.returncode == 0 and "uploading" not in again.stderr
    written = cli("show", "mine", "--modelfile").stdout
    assert cli("create", "mine3", "-f", "-", given=written).returncode == 0
    assert json.loads(cli("show", "mine3", "--json").stdout)["messages"] == shown["messages"]
    assert cli("rm", "mine", "mine2", "mine3").returncode == 0
    assert cli("show", "mine").returncode == 4


@needs_model
def test_a_gguf_file_becomes_a_model(place, cli_at, tmp_path):
    cli = cli_at(place[0])
    done = cli("create", "real", "-f", "-", given=f"FROM {os.environ['LM_E2E_GGUF']}\nPARAMETER num_predict 4\n")
    assert done.returncode == 0 and "uploading" in done.stderr, done.stderr
    assert cli("run", "real", "Hello").stdout.strip()
    assert json.loads(cli("show", "real", "--json").stdout)["details"]["family"] == "llama"


def test_a_model_becomes_another_one(place, cli_at, tmp_path):
    cli = cli_at(place[0])
    (tmp_path / "Modelfile").write_text("from tiny-hello\r\nSystem Be kind.\r\nPARAMETER stop world\r\n")
    done = cli("create", "kind", "--json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not done.stderr and events[-1] == {"status": "success"}
    assert json.loads(cli("show", "kind", "--json").stdout)["system"] == "Be kind."
    assert cli("run", "kind", "hi").stdout.strip() == "Hello"


@pytest.mark.parametrize("write", [write_peft, write_mlx])
def test_an_adapter_of_a_directory_is_taken(own_bridge, cli_at, tmp_path, write):
    cli = cli_at(own_bridge.url)
    write(tmp_path / "lora")
    done = cli("create", "tuned", "-f", "-", given="FROM tiny\nADAPTER lora\n", cwd=tmp_path)
    assert done.returncode == 0 and "converting adapter" in done.stderr, done.stderr
    assert "ADAPTER" in cli("show", "tuned", "--modelfile").stdout


def test_weights_are_quantized_as_asked(own_bridge, cli_at, model):
    cli = cli_at(own_bridge.url)
    done = cli("create", "small", "-q", "q8_0", cwd=model)
    assert done.returncode == 0 and "quantizing" in done.stderr, done.stderr
    assert json.loads(cli("show", "small", "--json").stdout)["details"]["quantization_level"].startswith("Q8")
    wrong = cli("create", "small2", "-q", "q99", cwd=model)
    assert wrong.returncode == 1 and "unsupported quantization type" in wrong.stderr
    assert cli("show", "small2").returncode == 4


def test_without_a_modelfile_it_is_the_directory(own_bridge, cli_at, model, tmp_path):
    cli = cli_at(own_bridge.url)
    assert cli("create", "plain", cwd=model / "files").returncode == 0
    assert cli("run", "plain", "hi").stdout.startswith("Hello world!")


def test_files_are_chosen_as_they_belong_together(cli_at, model, tmp_path):
    files = model / "files"
    pooling = files / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text("{}")
    for name in ("chat_template.jinja", "LICENSE", "README.md", "optimizer.bin", "other.safetensors", ".hidden.json"):
        (files / name).write_text(name)
    (files / "empty.json").write_text("")
    snapshot, blobs = tmp_path / "hub/models--a--b/snapshots/abc", tmp_path / "hub/models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in files.iterdir():
        if path.is_file():
            shutil.copy(path, blobs / path.name)
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    handler = recorder()
    with Server(handler) as server:
        cli = cli_at(server.url)
        for directory in (files, snapshot):
            assert cli("create", "m", "-f", "-", given=f"FROM {directory}\n").returncode == 0
    named, cached = (body["files"] for body in handler.seen["created"])
    flat = {"LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(named) == flat | {"1_Pooling/config.json"} and set(cached) == flat
    for name, digest in named.items():
        assert digest == digest_of((files / name).read_bytes()) and handler.seen["blobs"][digest] == (files / name).read_bytes()
    assert len(handler.seen["heads"]) == len(named) + len(cached)


def test_what_is_there_is_not_sent(cli_at, model):
    files = {p.name: digest_of(p.read_bytes()) for p in (model / "files").iterdir()}
    handler = recorder(have=[files["model.safetensors"]])
    with Server(handler) as server:
        done = cli_at(server.url)("create", "m", "--json", cwd=model)
    assert done.returncode == 0
    assert set(handler.seen["blobs"]) == set(files.values()) - {files["model.safetensors"]}
    events = [json.loads(line) for line in done.stdout.splitlines()]
    sent = {e["digest"] for e in events if e["status"].startswith("uploading ") and e["completed"] == e["total"]}
    assert sent == set(handler.seen["blobs"])


# ---- what is wrong

@pytest.mark.parametrize("text, status, why", [
    ("FROM tiny\nSYTSEM x\n", 2, 'line 2: "SYTSEM" is no command: did you mean SYSTEM?'),
    ("SYSTEM x\n", 2, "no FROM line"),
    ("FROM tiny\n\nPARAMETER top_k many\n", 2, 'line 3: top_k is a whole number, not "many"'),
    ("FROM tiny\nPARAMETER temprature 1\n", 2, "line 2: unknown parameter 'temprature': did you mean temperature?"),
    ('FROM tiny\nSYSTEM """x\n', 2, "line 2: the quotes that begin here do not end"),
    ("FROM tiny\nMESSAGE robot x\n", 2, "line 2: a MESSAGE is of system, user or assistant"),
    ("FROM tiny\nREQUIRES soon\n", 2, "line 2: REQUIRES is a version like 0.14.0"),
    ("FROM ./missing.gguf\n", 2, "line 1: there is no file ./missing.gguf"),
    ("FROM tiny\nADAPTER lora\n", 2, "line 2: there is no file lora"),
    ("FROM nothing\n", 2, "line 1: nothing has no model"),
    ('FROM ""\n', 2, "line 1: FROM names nothing"),
    ("FROM ./pointer.gguf\n", 2, "git lfs pull"),
])
def test_what_is_wrong_with_a_modelfile_is_said_with_its_line(cli, tmp_path, text, status, why):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    done = cli("create", "m", "-f", "-", given=text, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "") and why in done.stderr, done.stderr


def test_a_modelfile_that_is_not_there(cli, tmp_path):
    none = cli("create", "m", "--json", cwd=tmp_path)
    assert none.returncode == 2 and "FROM" in json.loads(none.stdout)["error"]
    named = cli("create", "m", "-f", "nowhere", cwd=tmp_path)
    assert named.returncode == 2 and "nowhere: there is no such file" in named.stderr
    assert "invalid model name" in cli("create", "a b", "-f", "nowhere").stderr


def test_a_link_that_leads_out_of_the_directory_is_not_followed(cli, model, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (model / "files/extra.json").symlink_to(tmp_path / "secret")
    done = cli("create", "m", cwd=model)
    assert done.returncode == 2 and "leads out of its directory" in done.stderr


def test_an_upload_that_is_cut_or_refused_says_so(cli_at, model):
    with Server(recorder(cut=1000)) as server:
        done = cli_at(server.url)("create", "m", cwd=model)
        assert done.returncode == 1 and "create it again" in done.stderr
    with Server(recorder(refuse=(507, "no space left on device"))) as server:
        done = cli_at(server.url)("create", "m", cwd=model)
        assert done.returncode == 1 and "no space left on device" in done.stderr and "upload of" in done.stderr
    assert cli_at("127.0.0.1:1")("create", "m", cwd=model).returncode == 5


@pytest.mark.parametrize("answer, status, why", [
    (b'{"status":"pulling manifest"}\n{"error":"pull model manifest: file does not exist"}\n', 4, "Is tiny-hello spelled as"),
    (b'{"status":"reading model"}\n', 1, "create it again"),
    (b'{"error":"unknown type"}\n', 1, "unknown type"),
])
def test_a_create_that_fails_says_so(cli_at, answer, status, why):
    with Server(recorder(answer=answer)) as server:
        done = cli_at(server.url)("create", "m", "-f", "-", given="FROM tiny-hello\n")
    assert done.returncode == status and why in done.stderr, done.stderr


def half_way(bridge):
    """A way to the bridge on which the first large blob stops in its middle until the client leaves."""
    state = {"stopped": threading.Event(), "left": threading.Event()}

    class HalfWay(Handler):
        seen = state

        def pass_on(self, body, stop=False):
            there = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
            there.putrequest(self.command, self.path)
            there.putheader("Content-Length", self.headers.get("Content-Length") or "0")
            there.endheaders()
            there.send(body)
            if stop:
                state["stopped"].set()
                while self.connection.recv(65536):
                    pass
                there.close()
                state["left"].set()
                self.close_connection = True
                return
            answer = there.getresponse()
            self.reply(answer.read(), answer.status)

        def do_HEAD(self):
            self.pass_on(b"")

        def do_GET(self):
            self.pass_on(b"")

        def do_POST(self):
            size = int(self.headers["Content-Length"])
            large = size > 100000
            self.pass_on(self.rfile.read(size // 2 if large else size), large)

    return HalfWay


def test_an_interrupted_upload_leaves_nothing_half(own_bridge, cli_at, model):
    store = Path(own_bridge.home.name) / "own"
    handler = half_way(own_bridge)
    with Server(handler) as server:
        process = cli_at(server.url).start("create", "m", cwd=model, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert handler.seen["stopped"].wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (130, b"")
        assert handler.seen["left"].wait(PATIENCE)
    small = {digest_of(p.read_bytes()) for p in (model / "files").iterdir() if p.stat().st_size < 100000}
    end = time.monotonic() + PATIENCE
    while True:  # the bridge has to notice, too
        found = [p for p in store.rglob("*") if p.is_file() and p.stat().st_size > 100000]
        if not found:
            break
        assert time.monotonic() < end, found
        time.sleep(0.05)
    assert {p.name.replace("-", ":") for p in (store / "blobs").glob("sha256*")} <= small
    cli = cli_at(own_bridge.url)
    assert cli("show", "m").returncode == 4
    done = cli("create", "m", cwd=model)  # and it goes on
    assert done.returncode == 0 and cli("run", "m", "hi").stdout.startswith("Hello")


def open_for_writing(pipe, process):
    """When somebody reads it."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)
    raise AssertionError(process.communicate())


def test_an_interrupt_before_anything_is_sent(cli_at, tmp_path):
    """The Modelfile is a pipe into which nobody writes."""
    os.mkfifo(tmp_path / "pipe")
    handler = recorder()
    with Server(handler) as server:
        process = cli_at(server.url).start("create", "m", "-f", tmp_path / "pipe", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE)
        keep = open_for_writing(tmp_path / "pipe", process)
        try:
            end = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(signal.SIGINT)  # again: one that comes before the read does not end it
                time.sleep(0.1)
            assert process.communicate() == (b"", b"") and process.returncode == 130
        finally:
            os.close(keep)
    assert not handler.seen["heads"]


def test_a_terminal_sees_bars(cli_at, model):
    with Server(recorder()) as server:
        status, got = in_terminal(cli_at(server.url), "create", "m", "-f", model / "Modelfile", columns=90)
    assert status == 0 and "gathering model components: 100% ▕" in got and "uploading model.safetensors: 100%" in got


# ---- beside ollama's

@needs_program
@pytest.mark.parametrize("text, words", [
    ("FROM ./files\n" + PARTS, []), ("FROM ./files/model.safetensors\nFROM ./files/config.json\n", ["-q", "q4_K_M"]),
    ("from llama3.2:1b\nADAPTER files\nparameter temperature 0.123456789\nPARAMETER seed -1\nPARAMETER num_ctx 4096\nPARAMETER top_p .9\nPARAMETER min_p 1e-3\nPARAMETER repeat_penalty 1.0\n"
     "PARAMETER typical_p 0\nPARAMETER presence_penalty -0.5\nPARAMETER frequency_penalty 3.4e38\n",
     []),
    ('\ufeffFROM "llama3"\r\nSYSTEM   a  b \r\nSYSTEM """\r\nlast"""\r\nPARAMETER mirostat 1\r\nLICENSE ""\r\nMESSAGE user ""\r\nRENDERER r\nPARSER p', []),
    ("FROM a\nFROM b\nSYSTEM \"x\" y\nTEMPLATE z\"\nREQUIRES v1.2.3-rc1\n", []),
])
def test_a_request_is_the_one_that_ollama_sends(cli_at, model, text, words):
    (model / "Modelfile").write_text(text)
    handlers = [recorder(), recorder()]
    with Server(handlers[0]) as server:
        done = subprocess.run([PROGRAM, "create", "m", "-f", model / "Modelfile", *words], capture_output=True, text=True, check=False, timeout=PATIENCE,
                              env={**cli_at(None).env, "OLLAMA_HOST": server.url})
        assert done.returncode == 0, done.stderr
    with Server(handlers[1]) as server:
        done = cli_at(server.url)("create", "m", "-f", model / "Modelfile", *words)
        assert done.returncode == 0, done.stderr
    theirs, ours = (h.seen["created"] for h in handlers)
    assert theirs[0].pop("name") == ""  # an older word for "model", never filled in
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert handlers[0].seen["blobs"] == handlers[1].seen["blobs"]


# ---- push

@pytest.mark.parametrize("before", ["bridge", "router"])
def test_a_model_is_pushed_and_comes_back(tiny_models, cli_at, before):
    with Hub() as hub, Bridge(roots=[tiny_models], env=hub.env()) as server:
        name = f"{hub.host}/me/hello:v1"
        cli = cli_at(server.url)
        assert cli("cp", "tiny-hello", name).returncode == 0
        router = Router({"mlx": server.url}) if before == "router" else None
        try:
            cli = cli_at(router.url if router else server.url)
            done = cli("push", f"http://{name}", "--insecure")
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            lines = done.stderr.splitlines()
            assert lines[0] == "retrieving manifest" and lines[-1] == "success"
            assert any(re.fullmatch(r"pushing [0-9a-f]{12}: 100% of .*", line) for line in lines)
            again = cli("push", f"http://{name}", "--json")
            assert [json.loads(line) for line in again.stdout.splitlines()][-1] == {"status": "success"}
            cli("rm", name)
            assert cli("pull", f"http://{name}").returncode == 0
            assert cli("run", name, "hi").stdout.startswith("Hello")
        finally:
            if router:
                router.__exit__()


@pytest.mark.parametrize("pieces, status, why", [
    ([b'{"status":"retrieving manifest"}\n', b'{"error":"access denied"}\n'], 1, "cp mm YOU/NAME"),
    ([b'{"status":"retrieving manifest"}\n'], 1, "push it again"),
    ((404, {"error": "model 'mm' not found"}), 4, "Did you mean m?"),
    ((400, {"error": "insecure protocol http"}), 1, "insecure protocol http"),
])
def test_a_push_that_fails_says_so(cli_at, pieces, status, why):
    handler = stand_in(pull=pieces)
    with Server(handler) as server:
        done = cli_at(server.url)("push", "mm", "--insecure")
    assert done.returncode == status and why in done.stderr, done.stderr
    assert ("/api/push", {"model": "mm", "insecure": True}) in handler.seen["asked"]
