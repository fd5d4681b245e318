"""No line is lost: across rotations, while a disk is full, and by whoever reads along."""
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest

from .conftest import PATIENCE, until


def text_of(path):
    """Empty between the two steps of a rotation."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def numbers(path):
    return [int(line.split()[0]) for line in text_of(path).splitlines() if re.match(r"\d+ a line", line)]


def expect_row(got, last):
    assert got == list(range(got[0], last + 1)), (got[0], got[-1], len(got))


def old(path):
    return path.with_name(path.name + ".old")


def test_rotation_loses_no_line(service):
    n = 250_000  # 16 MB in each
    service.fake("lines", environment__FAKE_LINES=n)
    service("start")
    for path in (service.log, service.errors):
        until(f"the last line in {path.name}", lambda p=path: f"\n{n - 1} a line" in text_of(p)[-200:])
        assert 9_900_000 < old(path).stat().st_size <= 10 << 20 and path.stat().st_size <= 10 << 20
        got = numbers(old(path)) + numbers(path)
        expect_row(got, n - 1)
        assert got[0] == 0
        assert path.stat().st_mode & 0o7777 == old(path).stat().st_mode & 0o7777 == 0o600


def test_many_rotations_keep_the_end_of_the_row(service):
    n = 20_000
    service.fake("lines", environment__FAKE_LINES=n, logs__rotate="64KB")
    service("start")
    for path in (service.log, service.errors):
        until(f"the last line in {path.name}", lambda p=path: f"\n{n - 1} a line" in text_of(p)[-200:])
        expect_row(numbers(old(path)) + numbers(path), n - 1)


def test_a_restart_of_the_bridge_loses_no_line_of_either(service):
    service.fake("trickle")
    service("start")
    until("lines", lambda: len(numbers(service.log)) > 10)
    service("restart")
    until("lines of the new one", lambda: numbers(service.log).count(5) == 2)
    got = numbers(service.log)
    at = got.index(0, 1)
    expect_row(got[:at], at - 1)
    expect_row(got[at:], got[-1])


def test_a_full_disk_stops_nothing_and_is_told(service):
    """RLIMIT_FSIZE stands for the disk: no file may grow beyond it, until it is raised."""
    service.fake("trickle")
    limit = 6000
    run = service.popen("run", stderr=subprocess.DEVNULL, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)))
    try:
        until("a full file", lambda: service.log.exists() and service.log.stat().st_size > limit - 100)
        bridge = service.status()["bridge"]
        end = numbers(service.log)[-1]
        until("health during it", lambda: service.get()[0] == 200)
        time.sleep(1)  # some lines that find no room
        assert service.log.stat().st_size <= limit
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until("room again", lambda: numbers(service.log)[-1] > end)
        text = service.log.read_text()
        missing = int(re.search(r"the disk was full: (\d+) lines", text)[1])
        got = numbers(service.log)
        at = got.index(end) + 1
        assert got[at] - end - 1 == missing, (got[at], end, missing)
        expect_row(got[:at], end)
        expect_row(got[at:], got[-1])
        assert service.status()["bridge"] == bridge and service.get()[0] == 200
    finally:
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB, where one can be had."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can make a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk):
    with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(512)):
            pass


def test_it_starts_and_stops_on_a_full_disk(small_disk, service):
    """Logs, PID file and notes find no room from the beginning."""
    service.log, service.errors, service.pid, service.state = (small_disk / n for n in ("out.log", "error.log", "pid", "state.json"))
    service.fake("trickle", logs__log=service.log, **{"logs__error-log": service.errors}, logs__pid=service.pid, logs__state=service.state)
    for path in (service.log, service.errors, service.pid):
        path.touch(mode=0o600)  # a directory's entries take room, too
    fill(small_disk)
    assert "is ready" in service("start").stdout
    assert service.get()[0] == 200
    service("status", code=4)  # who runs is known, how it is can't be noted
    (small_disk / "filler").unlink()
    until("lines", lambda: len(numbers(service.log)) > 10)
    assert re.search(r"the disk was full: \d+ lines", service.log.read_text())
    until("notes", lambda: service.status()["phase"] == "ready")
    fill(small_disk)
    assert "has stopped" in service("stop").stdout


def test_logs_shows_the_end_and_follows_across_a_rotation(service):
    n = 5000
    service.fake("lines start-slow", environment__FAKE_LINES=n, logs__rotate="64KB")
    with service.popen("logs", "-f", "-n", "0", stdout=subprocess.PIPE) as follow:
        service("start")
        got = []
        for line in follow.stdout:
            if re.match(r"\d+ a line of the bridge on its standard output", line):
                got.append(int(line.split()[0]))
                if got[-1] == n - 1:
                    break
        follow.kill()
    assert got[-1] == n - 1 and got == sorted(got)
    until("the last line", lambda: numbers(service.errors)[-1:] == [n - 1])
    assert service("error-logs", "-n", "3").stdout.splitlines() == service.errors.read_text().splitlines()[-3:]
    assert service("logs", "-n", "2").stdout.splitlines() == service.log.read_text().splitlines()[-2:]


def test_there_is_no_log_yet(service):
    assert "nothing was started" in service("logs", code=1).stderr


@pytest.mark.parametrize("which", ["log", "errors"])
def test_a_log_that_is_moved_away_begins_anew(service, which):
    service.fake("trickle")
    service("start")
    path = getattr(service, which)
    path.rename(path.with_name("moved"))
    if which == "errors":
        os.kill(service.status()["bridge"], signal.SIGKILL)  # something to tell
    until("a new log", path.exists)
