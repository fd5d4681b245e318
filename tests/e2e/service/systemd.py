"""A systemd that runs, in namespaces and control groups of its own: a user's manager, and a machine's. It is this machine's own program,
which has not booted here, perhaps. Where it may not have all that (no root, no control groups), there is none."""
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from .conftest import OTHER_USER, PATIENCE, Machine, until

SYSTEMD = Path("/lib/systemd/systemd")
# Before anything else: systemd takes the groups that it finds itself in for its own.
GROUPS = """
for group in $CONTROL_GROUPS; do mkdir -p "$group" && echo $$ >"$group/cgroup.procs" || exit 1; done
"""
# A user's manager starts only where it believes that the machine was booted with systemd.
USER = GROUPS + """
exec unshare --mount --fork --kill-child sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec /lib/systemd/systemd --user'
"""
# A machine's manager has this machine's files under a layer of its own, and none of its units.
SYSTEM = GROUPS + """
exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child sh -ec '
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$RUN"
    cd "$RUN"
    mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
    cd root
    mount -t proc proc proc
    mount --rbind /sys sys
    umount -R sys/fs/cgroup
    for dir in sys/fs/cgroup run tmp; do mount -t tmpfs tmpfs $dir; done
    chmod 1777 tmp
    mount --rbind /dev dev
    for dir in lib/systemd/system/*.wants etc/systemd/system/*.wants; do
        for unit in $dir/*; do ln -sfn /dev/null etc/systemd/system/${unit##*/}; done
    done
    rm -f etc/fstab
    printf "[Unit]\\nDescription=nothing else\\n" >etc/systemd/system/bare.target
    chroot . useradd --create-home tester
    cp "$PROGRAM" usr/local/bin/
    exec chroot . env -i container=test PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin HOME=/root \
        /lib/systemd/systemd --system --unit=bare.target'
"""


def hierarchies():
    """Where it wants a group of its own: one unified hierarchy, or one for each controller (cpuset's takes nobody as it is)."""
    mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(where) for where, kind, options in mounts
            if kind in ("cgroup", "cgroup2") and "cpuset" not in options and os.access(where, os.W_OK)]


class Systemd(Machine):
    """Whatever it starts ends with it."""

    def __init__(self, service, script, up):
        super().__init__(service)
        self.run = Path(tempfile.mkdtemp(prefix="lm-systemd-"))  # short: sockets' paths are
        self.groups = [h / f"lm-test-{os.getpid()}" for h in hierarchies()]
        self.words = service.dir / "systemd.log"
        service.env["XDG_RUNTIME_DIR"] = str(self.run)
        mine = {"CONTROL_GROUPS": " ".join(map(str, self.groups)), "RUN": str(self.run), "PROGRAM": service.program,
                "SYSTEMD_LOG_TARGET": "console"}
        with open(self.words, "w", encoding="utf-8") as words:
            self.manager = subprocess.Popen(["sh", "-c", script], env={**service.env, **mine}, stdin=subprocess.DEVNULL, stdout=words,
                                            stderr=words)
        try:
            until("systemd's manager", lambda: self.manager.poll() is not None or not self.ask(up, code=None).returncode)
        except BaseException:
            self.end()
            raise

    def ask(self, *words, code=0):
        done = self.there(*self.systemctl, *words)
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def show(self, what, unit="service"):
        return self.ask("show", "--value", "-p", what, f"mlx-ollama-bridge.{unit}").stdout.strip()

    def end(self):
        self.manager.kill()
        self.manager.wait()
        for group in self.groups:
            until("the group is empty", lambda group=group: not self.clear(group))
        shutil.rmtree(self.run, ignore_errors=True)

    def clear(self, group):
        """The processes that are left."""
        if not group.exists():
            return []
        left = [int(pid) for path in group.rglob("cgroup.procs") for pid in path.read_text().split()]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            for path in sorted((p for p in group.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                path.rmdir()
            group.rmdir()
        return left


class UserSystemd(Systemd):
    systemctl = ("systemctl", "--user")

    def __init__(self, service):
        super().__init__(service, USER, "show-environment")

    def tune(self, **settings):
        """As people change a unit that is not theirs."""
        there = self.units / "mlx-ollama-bridge.service.d"
        there.mkdir(parents=True)
        (there / "tuned.conf").write_text("[Service]\n" + "".join(f"{k}={v}\n" for k, v in settings.items()))


class SystemSystemd(Systemd):
    """Commands, files and processes in it are its own; the network is this machine's."""
    systemctl = ("systemctl",)

    def __init__(self, service):
        super().__init__(service, SYSTEM, "list-units")
        self.program = "/usr/local/bin/mlx-server-startup"

    def there(self, *command, text=None):
        pid = self.manager.pid
        inner = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0]
        enter = ["nsenter", "-t", inner, "-m", "-p", "-u", "-i", "-C", "-r", "-w", "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin",
                 "HOME=/root", *(f"{k}={v}" for k, v in OTHER_USER.items())]
        return subprocess.run([*enter, *map(str, command)], input=text or "", capture_output=True, text=True, timeout=PATIENCE, check=False)

    def put(self, path, text, mode="644", owner="root"):
        done = self.there("sh", "-ec", 'mkdir -p "${0%/*}"; cat >"$0"; chmod "$1" "$0"; chown -R "$2" "$3"', path, mode, owner,
                          path if owner == "root" else "/home/" + owner, text=text)
        assert not done.returncode, done.stderr


def begin(kind, service):
    if os.geteuid() or not SYSTEMD.exists() or not shutil.which("systemctl") or not hierarchies():
        pytest.skip("no systemd may be run here")
    it = kind(service)
    if it.manager.poll() is not None:
        words = it.words.read_text()
        it.end()
        pytest.skip(f"no systemd may be run here: {words[-300:]}")
    return it
