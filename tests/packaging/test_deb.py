"""The Debian package: made, read by lintian, installed into a bare Debian, run there, and purged."""
import os
import re
import shutil
import subprocess

import pytest
from conftest import BUILD, PAGES, TOP, files, run

PROGRAMS = [page.stem for page in PAGES]
pytestmark = pytest.mark.skipif(not (shutil.which("cpack") and shutil.which("dpkg-shlibdeps")), reason="not a Debian machine")

# Each with its reason.
ACCEPTED = {
    "package-contains-upstream-installation-documentation": "docs/INSTALL.md says how to take it away, too",
    "initial-upload-closes-no-bugs": "it is not in Debian, where a bug would ask for it",
}


def control(deb, field):
    return run("dpkg-deb", "-f", deb, field).strip()


@pytest.fixture(scope="session")
def deb(tmp_path_factory):
    place = tmp_path_factory.mktemp("deb")
    env = {"DEBEMAIL": "packager@example.org", "DEBFULLNAME": "A Packager", "SOURCE_DATE_EPOCH": "1700000000"}
    run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", place, env=env)
    [deb] = place.glob("*.deb")
    return deb


def test_it_says_what_it_is(deb):
    assert control(deb, "Package") == "mlx-ollama"
    assert control(deb, "Maintainer") == "A Packager <packager@example.org>"
    version = re.search(r"project\(mlx-ollama VERSION (\S+)", (TOP / "CMakeLists.txt").read_text())[1]
    assert control(deb, "Version") == version
    assert control(deb, "Description").startswith("MLX-format models behind Ollama's API\n Serves ")


def test_libraries_are_linked_dynamically_and_named(deb):
    """libmicrohttpd is under the LGPL: whoever wants another one may put it there."""
    depends = control(deb, "Depends")
    for library in ["libc6", "libcurl4", "libjansson4", "libmicrohttpd12", "libssl3", "libzstd1"]:
        assert re.search(rf"\b{library}\b", depends), depends


def test_lintian_has_nothing_to_say(deb):
    if not shutil.which("lintian"):
        pytest.skip("no lintian")
    done = subprocess.run(["lintian", "--allow-root", "--pedantic", str(deb)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:", "P:") and line.split()[2] not in ACCEPTED]
    assert complaints == [] and done.returncode in (0, 1), done.stderr


def test_every_crate_is_in_the_copyright(deb, tmp_path):
    run("dpkg-deb", "-x", deb, tmp_path)
    text = (tmp_path / "usr/share/doc/mlx-ollama/copyright").read_text()
    for crate in ["tokenizers", "minijinja", "serde_json"]:
        assert re.search(rf"^Files: crates/{crate}-[0-9]", text, re.M), crate
    named = set(re.findall(r"^License: (.*)$", text, re.M))
    assert {part for line in named for part in line.split(" and ")} <= named, "every licence has its text"


@pytest.fixture(scope="session")
def debian(deb, tmp_path_factory):
    """A bare Debian with what the package depends on, but not the package."""
    if os.getuid() or not (shutil.which("debootstrap") or os.path.exists("/usr/sbin/debootstrap")):
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("debian") / "root"
    depends = [re.split(r"[ (|]", part.strip())[0] for part in control(deb, "Depends").split(",")]
    run(TOP / "packaging/chroot", root, *depends, patience=900)  # the first time it fetches
    yield root
    shutil.rmtree(root)


def inside(root, *command, code=0):
    env = {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return run("chroot", root, "env", "-i", *[f"{k}={v}" for k, v in env.items()], *command, code=code)


def test_it_installs_runs_and_goes(debian, deb):
    before = files(debian)
    shutil.copy(deb, debian / "root/package.deb")
    inside(debian, "dpkg", "-i", "/root/package.deb")
    for name in PROGRAMS:
        assert inside(debian, name, "--version").startswith(name)
    model = debian / "root/.mlx-ollama/models/tiny"
    model.mkdir(parents=True)
    (model / "kept").write_text("x")
    said = inside(debian, "/usr/share/mlx-ollama/uninstall", "--purge")
    assert "apt-get purge mlx-ollama" in said and (model / "kept").exists()
    inside(debian, "dpkg", "-P", "mlx-ollama")
    (debian / "root/package.deb").unlink()
    changed = {"var/lib/dpkg/status", "var/log/dpkg.log", "var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/dpkg/triggers/Lock"}
    left = set(files(debian)) - set(before) - changed
    assert left == {"root/.mlx-ollama/models/tiny/kept"}
    assert not list(debian.glob("usr/**/*mlx-ollama*"))
