"""Who the ranks are, who may join, and ranks that somebody else starts: by hand, by mlx.launch, on two hosts."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from .conftest import MLX, gone, hostfile, ids
from .test_lost import within
from known.bridge import program

PATIENCE = 60
SECRET = "0123456789abcdef0123456789abcdef"


def clean_env(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_", "HF_", "XDG_"))}
    return {**kept, **more}


# ---- what is wrong with a hostfile


@pytest.mark.parametrize("text,words", [
    (None, "nowhere.json"),
    ("not json", "line 1"),
    ('[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}]', "one alone needs no --distributed"),
    ('[{"ssh": "a", "ips": ["127.0.0.1"], "rank": 1}, {"ssh": "b", "ips": ["127.0.0.1"]}]', "host 0 says that it is rank 1"),
    (json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 65), "names 65 hosts, 64 are possible"),
    ('[{"ssh": "a"}, {"ssh": "b"}]', 'rank 0 has no "ips"'),
    ('{"backend": "mpi", "hosts": [{"ssh": "a", "ips": ["127.0.0.1"]}, {"ssh": "b"}]}', "mlx.launch --backend mpi"),
    ('[{"ssh": "a", "ips": ["192.0.2.1"]}, {"ssh": "b", "ips": ["192.0.2.2"]}]', "cannot wait for the other ranks on 192.0.2.1"),
])
def test_a_bad_hostfile_is_an_error_at_once(tmp_path, text, words):
    path = tmp_path / ("hosts.json" if text else "nowhere.json")
    if text:
        path.write_text(text)
    done = subprocess.run([program(), "--port", "0", "--models", str(tmp_path), *MLX, "--distributed", str(path)], env=clean_env(),
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert words in done.stderr


def test_the_cpu_backend_computes_alone(tmp_path):
    done = subprocess.run([program(), "--port", "0", "--models", str(tmp_path), "--backend", "cpu", "--distributed",
                           hostfile(tmp_path / "two.json", 2)], env=clean_env(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "use --backend mlx" in done.stderr


def test_a_host_that_cannot_be_reached_is_named(tmp_path):
    """ssh says what it says; the server passes it on and ends."""
    path = tmp_path / "hosts.json"
    path.write_text('[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "no-such-host.invalid", "ips": ["192.0.2.1"]}]')
    done = subprocess.run([program(), "--port", "0", "--models", str(tmp_path), *MLX, "--distributed", str(path)], env=clean_env(),
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert re.search(r"rank 1 has ended already|cannot start rank 1 over ssh", done.stderr)


def test_a_model_that_needs_more_ranks_than_it_has_parts(ranks):
    server = ranks(4, "--distributed-mode", "tensor")
    refused = server.json("POST", "/api/generate", {"model": "olmo2-f32", "prompt": "x", "stream": False}, status=400)
    assert "norms all heads together" in refused["error"] and "--distributed-mode pipeline" in refused["error"]
    refused = server.json("POST", "/api/generate", {"model": "llama-f32", "prompt": "x", "stream": False}, status=400)
    assert "cannot be dealt out to 4 ranks" in refused["error"]
    assert ids(server, "smollm3-f32", n=2)


# ---- ranks that somebody else starts


def free_ports(n):
    """The first of n free ports in a row."""
    for _ in range(100):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            first = s.getsockname()[1]
        try:
            for port in range(first, first + n):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise AssertionError("no free ports")


class Rank:
    """A rank's process, started by hand. where: what stands before the command, ip netns exec for instance."""

    def __init__(self, tmp_path, rank, hosts, ring, port, root, *arguments, secret=SECRET, where=()):
        self.log_path = tmp_path / f"rank{rank}.log"
        hosts_path, ring_path = tmp_path / "hosts.json", tmp_path / "ring.json"
        hosts_path.write_text(json.dumps(hosts))
        ring_path.write_text(json.dumps(ring))
        env = clean_env(MLX_RANK=str(rank), MLX_HOSTFILE=str(ring_path), HOME=str(tmp_path))
        if secret:
            env["MLX_BRIDGE_SECRET"] = secret
        command = [*where, program(), "--port", "0", "--models", str(tmp_path / "own"), "--root", str(root), *MLX,
                   "--distributed", str(hosts_path), "--distributed-port", str(port + 1), *arguments]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def says(self, pattern):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.search(pattern, self.log())
            if found:
                return found
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"never {pattern}: {self.log()}")

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


LOCAL = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2


def speak(port, text):
    """Says something to the ranks' port; true when it is sent away without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s:
        s.sendall(text)
        try:
            return s.recv(1) == b""
        except ConnectionResetError:
            return True


def test_nobody_else_joins(models, tmp_path):
    first = free_ports(3)
    ring = [[f"127.0.0.1:{first + 1}"], [f"127.0.0.1:{first + 2}"]]
    zero = Rank(tmp_path, 0, LOCAL, ring, first, models)
    others = []
    try:
        end = time.monotonic() + PATIENCE
        while True:  # until it listens
            try:
                socket.create_connection(("127.0.0.1", first), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end and zero.process.poll() is None, zero.log()
                time.sleep(0.05)
        assert speak(first, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 1000)
        assert speak(first, b"\xff\xff\xff\xff\x01" + b"x" * 100)  # four gigabytes announced
        assert speak(first, b"\x10\x00\x00\x00\x06" + b"x" * 16)  # a frame that only rank 0 may send
        stranger = Rank(tmp_path, 1, LOCAL, ring, first, models, secret="another secret, of some length")
        others.append(stranger)
        assert stranger.process.wait(PATIENCE) == 1
        assert "rank 0 has another secret" in stranger.log()
        blind = Rank(tmp_path, 1, LOCAL, ring, first, models, secret=None)
        others.append(blind)
        assert blind.process.wait(PATIENCE) == 1
        assert "16 characters" in blind.log()
        assert zero.log().count("was refused") >= 4
        one = Rank(tmp_path, 1, LOCAL, ring, first, models)
        others.append(one)
        zero.says("msg=listening")
        with pytest.raises(OSError):  # nobody can join any more
            socket.create_connection(("127.0.0.1", first), timeout=5).close()
        assert zero.end() == 0
        assert one.process.wait(PATIENCE) == 0
    finally:
        for rank in [zero, *others]:
            if rank.process.poll() is None:
                rank.process.kill()
                rank.process.wait()


def test_ranks_without_a_secret_do_not_start(models, tmp_path):
    first = free_ports(3)
    zero = Rank(tmp_path, 0, LOCAL, [["127.0.0.1:1"], ["127.0.0.1:2"]], first, models, secret=None)
    assert zero.process.wait(PATIENCE) == 1
    assert "--env MLX_BRIDGE_SECRET=" in zero.log()


def launcher():
    """mlx.launch beside some Python that has MLX."""
    for python in (os.environ.get("LM_MLX_PYTHON"), sys.executable):
        if python:
            path = os.path.join(os.path.dirname(python), "mlx.launch")
            if os.path.exists(path):
                return path
    return shutil.which("mlx.launch")


def test_mlx_launch_starts_the_ranks(models, tmp_path):
    if not launcher():
        pytest.skip("no mlx.launch here")
    first = free_ports(3)
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps(LOCAL))
    log_path = tmp_path / "log"
    command = [launcher(), "--hostfile", str(hosts), "--backend", "ring", "--starting-port", str(first + 1), "--env",
               f"MLX_BRIDGE_SECRET={SECRET}", "--", program(), "--port", "0", "--models", str(tmp_path / "own"), "--root", str(models),
               *MLX, "--distributed", str(hosts), "--distributed-port", str(first + 1)]
    with open(log_path, "wb") as log:
        launch = subprocess.Popen(command, env=clean_env(HOME=str(tmp_path)), stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"msg=listening .*?port=(\d+)", log_path.read_text(errors="replace"))):
            assert time.monotonic() < end and launch.poll() is None, log_path.read_text(errors="replace")
            time.sleep(0.05)
        with urlopen(int(found[1]), "/health") as answer:
            assert json.loads(answer.read())["cluster"]["size"] == 2
        pids = own_programs(launch.pid)
        assert len(pids) == 2
    finally:
        for pid in own_programs(launch.pid):
            os.kill(pid, 15)
        launch.wait(PATIENCE)
    within("gone", lambda: all(gone(p) for p in pids))


def urlopen(port, path):
    from urllib.request import urlopen as get

    return get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)


def own_programs(parent):
    """Our servers below a process."""
    from pathlib import Path

    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
            fields = rest.split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = (int(fields[1]), name.split("(", 1)[1])
    found = []
    for pid, (above, name) in parents.items():
        while above in parents and above != parent:
            above = parents[above][0]
        if above == parent and name.startswith("mlx-ollama"):
            found.append(pid)
    return found


# ---- two hosts


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them: nothing but the addresses 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and ip(8)")
    tag = f"lm{os.getpid() % 100000}"
    names = [f"{tag}a", f"{tag}b"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this machine gives no network namespaces: {made.stderr.strip()}")
    try:
        def run(*command):
            subprocess.run(command, check=True, capture_output=True)

        run("ip", "netns", "add", names[1])
        run("ip", "link", "add", f"{tag}0", "netns", names[0], "type", "veth", "peer", "name", f"{tag}1", "netns", names[1])
        for i, name in enumerate(names):
            run("ip", "-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", f"{tag}{i}")
            run("ip", "-n", name, "link", "set", f"{tag}{i}", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names, f"{tag}1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ask(host, port, path, body=None):
    """From within that host: (status, text)."""
    code = ("import http.client, sys\n"
            f"c = http.client.HTTPConnection('127.0.0.1', {port}, timeout={PATIENCE})\n"
            f"c.request({'POST' if body else 'GET'!r}, {path!r}, {json.dumps(body)!r} if {bool(body)} else None)\n"
            "a = c.getresponse()\nprint(a.status)\nprint(a.read().decode())")
    done = subprocess.run(["ip", "netns", "exec", host, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, text = done.stdout.split("\n", 1)
    return int(status), text


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
def test_two_hosts(models, tmp_path, two_hosts, ranks, mode):
    names, cable = two_hosts
    want = ids(ranks(1), "smollm3-f32")
    hosts = [{"ssh": f"10.77.0.{i}", "ips": [f"10.77.0.{i}"]} for i in (1, 2)]
    ring = [["10.77.0.1:32323"], ["10.77.0.2:32324"]]
    started = []
    try:
        for i, name in enumerate(names):
            rank = Rank(tmp_path, i, hosts, ring, 32322, models, "--distributed-mode", mode, where=["ip", "netns", "exec", name])
            started.append(rank)
        port = started[0].says(r"msg=listening .*?port=(\d+)")[1]
        body = {"model": "smollm3-f32", "prompt": "the quick brown fox", "stream": False,
                "options": {"temperature": 0, "num_predict": 24, "num_ctx": 128}}
        status, text = ask(names[0], port, "/api/generate", body)
        assert status == 200 and json.loads(text)["context"] == want
        if mode == "pipeline":
            return
        # the cable is cut: no end of any connection is ever seen
        subprocess.run(["ip", "-n", names[1], "link", "set", cable, "down"], check=True, capture_output=True)
        status, text = ask(names[0], port, "/api/generate", {**body, "options": {"num_predict": 100000, "num_ctx": 64}})
        assert status == 503 and "rank 1 (10.77.0.2) was lost: it has been silent" in json.loads(text)["error"]
        status, text = ask(names[0], port, "/health")
        assert status == 503 and json.loads(text)["cluster"]["lost"] == [1]
        assert started[0].end() == 1
        assert started[1].process.wait(PATIENCE) == 1  # which has been alone, too
        assert "rank 0" in started[1].log()
    finally:
        for rank in started:
            if rank.process.poll() is None:
                rank.end()


SSH = """#!/bin/sh
# Stands for ssh: the other host is a network namespace, and its shell knows nothing of our environment.
echo "$@" >>{log}
while [ "$1" != -- ]; do shift; done
[ "$2" = far ] || {{ echo "ssh: unknown host $2" >&2; exit 255; }}
exec ip netns exec {namespace} env -i PATH="$PATH" HOME="$HOME" sh -c "$3"
"""


def test_the_others_are_started_over_ssh(models, tmp_path, two_hosts, ranks):
    names, _ = two_hosts
    want = ids(ranks(1), "smollm3-f32")
    ssh, argv, hosts = tmp_path / "bin" / "ssh", tmp_path / "argv", tmp_path / "hosts.json"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(log=argv, namespace=names[1]))
    ssh.chmod(0o755)
    odd = "it's \"quoted\" $HOME `id` \\ end"
    hosts.write_text(json.dumps({"envs": [f"LM_ODD={odd}"], "hosts": [{"ssh": "near", "ips": ["10.77.0.1"]}, {"ssh": "far", "ips": ["10.77.0.2"]}]}))
    log_path = tmp_path / "log"
    command = ["ip", "netns", "exec", names[0], program(), "--port", "0", "--models", str(tmp_path / "own"), "--root", str(models), *MLX,
               "--distributed", str(hosts)]
    env = clean_env(HOME=str(tmp_path), PATH=f"{ssh.parent}:{os.environ['PATH']}")
    with open(log_path, "wb") as log:
        zero = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"msg=listening .*?port=(\d+)", log_path.read_text(errors="replace"))):
            assert time.monotonic() < end and zero.poll() is None, log_path.read_text(errors="replace")
            time.sleep(0.05)
        assert "[rank 1] time=" in log_path.read_text()
        body = {"model": "smollm3-f32", "prompt": "the quick brown fox", "stream": False,
                "options": {"temperature": 0, "num_predict": 24, "num_ctx": 128}}
        status, text = ask(names[0], found[1], "/api/generate", body)
        assert status == 200 and json.loads(text)["context"] == want
        [far] = [pid for pid in own_programs(zero.pid)]
        with open(f"/proc/{far}/environ", "rb") as f:
            there = dict(item.split("=", 1) for item in f.read().decode().split("\0") if "=" in item)
        assert there["LM_ODD"] == odd and there["MLX_RANK"] == "1"
        secret = there["MLX_BRIDGE_SECRET"]
        assert len(secret) == 64
        # nobody who lists the processes sees it
        assert secret not in argv.read_text()
        with open(f"/proc/{far}/cmdline", "rb") as f:
            assert secret.encode() not in f.read()
        zero.terminate()
        assert zero.wait(PATIENCE) == 0
        within("gone", lambda: gone(far))
    finally:
        if zero.poll() is None:
            zero.kill()
            zero.wait()


def test_each_rank_looks_at_its_own_files(models, tmp_path, two_hosts):
    """Another model at the same path, or none: an error for that model, and everything goes on."""
    names, _ = two_hosts
    hosts = [{"ssh": f"10.77.0.{i}", "ips": [f"10.77.0.{i}"]} for i in (1, 2)]
    ring = [["10.77.0.1:32323"], ["10.77.0.2:32324"]]
    other, none = models / "smollm3-f32", tmp_path / "nothing"
    none.mkdir()
    mounts = f"mount --bind {other} {models}/mixtral-q4 && mount --bind {none} {models}/qwen3-q4 && exec \"$@\""
    where = [["ip", "netns", "exec", names[0]],
             ["ip", "netns", "exec", names[1], "unshare", "--mount", "sh", "-c", mounts, "sh"]]
    started = [Rank(tmp_path, i, hosts, ring, 32322, models, where=where[i]) for i in range(2)]
    try:
        port = started[0].says(r"msg=listening .*?port=(\d+)")[1]
        for name, words in [("mixtral-q4", "rank 1: .*holds another model than on rank 0"),
                            ("qwen3-q4", "rank 1: a model must lie at the same path on every host")]:
            status, text = ask(names[0], port, "/api/generate", {"model": name, "prompt": "x", "stream": False})
            assert status >= 400 and re.search(words, json.loads(text)["error"]), text
        status, text = ask(names[0], port, "/api/generate", {"model": "smollm3-f32", "prompt": "x", "stream": False,
                                                             "options": {"num_predict": 3}})
        assert status == 200
        assert started[0].end() == 0
        assert started[1].process.wait(PATIENCE) == 0
    finally:
        for rank in started:
            if rank.process.poll() is None:
                rank.end()
