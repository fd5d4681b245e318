"""cmake --install, and uninstall: what is laid where, and that nothing but models is left."""
import os
import shutil
import subprocess

import pytest
from conftest import BUILD, PAGES, TOP, files, install, run

PROGRAMS = [page.stem for page in PAGES]
EXPECTED = sorted(
    [f"bin/{name}" for name in PROGRAMS]
    + [f"share/man/man1/{name}.1" for name in PROGRAMS]
    + [f"share/bash-completion/completions/{name}" for name in PROGRAMS]
    + [f"share/zsh/site-functions/_{name}" for name in PROGRAMS]
    + [f"share/fish/vendor_completions.d/{name}.fish" for name in PROGRAMS]
    + [f"share/mlx-ollama/{name}" for name in ("aliases.ini", "files", "model-names", "uninstall")]
    + [f"share/doc/mlx-ollama/{path.name}" for path in [*TOP.glob("docs/*.md"), TOP / "README.md", TOP / "LICENSE"]])
MODULE = "lib/mlx-ollama/mlx-ollama-mlx.so"

# What the programs make in a home, and what of it stays: always, without --purge.
HOME = {
    ".mlx-ollama/models/blobs/sha256-1": "always", ".mlx-ollama/models/org/repo/config.json": "always",
    ".mlx-ollama/models/.lock": "always", ".mlx-ollama/switch.ini": "unpurged", ".mlx-ollama/.hidden": "unpurged",
    ".config/mlx-ollama/router.ini": "unpurged", ".config/mlx-ollama/aliases.ini": "unpurged", ".config/other": "always",
}


def expected():
    return sorted([*EXPECTED, MODULE]) if (BUILD / "bin/mlx-ollama-mlx.so").exists() else EXPECTED


def fill_home(home):
    for name in HOME:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    return home


def uninstall(place, *arguments, code=0, destdir="", prefix="prefix", command=None):
    """Runs the uninstall below place, which is /mnt meanwhile, with a /tmp of its own: it looks for logs there.
    (what it says, what is left in that /tmp)"""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    command = command or f"/mnt/{prefix}/share/mlx-ollama/uninstall"
    script = f"""mount --bind {place} /mnt && mount -t tmpfs tmpfs /tmp || exit 99
for log in mlx-bridge.log mlx-bridge.log.old mlx-bridge-error.log mlx-bridge-error.log.old mlx-bridge.pid other.log; do echo x >/tmp/$log; done
ln -s /mnt/home/.config/other /tmp/mlx-bridge.pid.lock
{command} "$@"
code=$?
ls /tmp >/mnt/left
exit $code"""
    said = run("unshare", "-m", "sh", "-c", script, "sh", *arguments, code=code, env={"HOME": "/mnt/home", "DESTDIR": destdir})
    return said, set((place / "left").read_text().split())


@pytest.fixture
def place(tmp_path, installed):
    shutil.copytree(installed, tmp_path / "prefix", symlinks=True)
    (tmp_path / "home").mkdir()
    fill_home(tmp_path / "home")
    return tmp_path


def test_everything_is_laid(installed):
    assert files(installed) == expected()
    assert (installed / "share/mlx-ollama/files").read_text().split() == expected()


def test_programs_run_where_they_are_installed(installed, tmp_path):
    for name in PROGRAMS:
        assert run(installed / "bin" / name, "--version", env={"HOME": str(tmp_path)}).startswith(name)


def test_the_table_of_names_is_found_beside_the_programs(place):
    bridge, home = place / "prefix/bin/mlx-ollama-bridge", {"HOME": str(place / "none")}
    run(bridge, "list", env=home)
    (place / "prefix/share/mlx-ollama/aliases.ini").unlink()
    run(bridge, "list", env=home, code=1)


def test_nothing_links_to_the_build(installed):
    for name in PROGRAMS:
        linked = run("ldd", installed / "bin" / name)
        assert "not found" not in linked and str(BUILD) not in linked and str(TOP) not in linked


def test_uninstall_leaves_settings_and_models(place):
    said, left = uninstall(place)
    assert not (place / "prefix").exists()
    assert files(place / "home") == sorted(HOME)
    assert "/mnt/home/.mlx-ollama/models" in said
    assert left == {"other.log", "mlx-bridge.pid.lock"}, "logs go; links in /tmp are not followed, nor what others have there"


def test_purge_leaves_models_only(place):
    uninstall(place, "--purge")
    assert not (place / "prefix").exists()
    assert files(place / "home") == sorted(name for name, stays in HOME.items() if stays == "always")
    assert not (place / "home/.config/mlx-ollama").exists()


def test_purge_without_models_leaves_nothing(place):
    shutil.rmtree(place / "home/.mlx-ollama/models")
    said, _ = uninstall(place, "--purge")
    assert not (place / "home/.mlx-ollama").exists() and said == ""


def test_what_others_put_into_the_prefix_stays(place):
    (place / "prefix/share/doc/mlx-ollama/notes").write_text("mine")
    (place / "prefix/bin/other").write_text("mine")
    uninstall(place)
    assert files(place / "prefix") == ["bin/other", "share/doc/mlx-ollama/notes"]


def test_a_dry_run_changes_nothing(place):
    said, left = uninstall(place, "--dry-run", "--purge")
    assert files(place / "prefix") == expected() and files(place / "home") == sorted(HOME)
    assert "mlx-bridge.log" in left
    for name in ["prefix/bin/mlx-ollama-bridge", "home/.config/mlx-ollama", "home/.mlx-ollama/switch.ini"]:
        assert f"would remove /mnt/{name}" in said
    assert "would remove /mnt/home/.mlx-ollama/models" not in said


def test_only_what_is_the_users(place):
    uninstall(place, "--user", "--purge")
    assert files(place / "prefix") == expected()
    assert not (place / "home/.config/mlx-ollama").exists()


def test_a_package_is_left_to_its_manager(place):
    (place / "prefix/share/mlx-ollama/files").unlink()
    said, _ = uninstall(place)
    assert "apt-get purge mlx-ollama" in said and (place / "prefix/bin/mlx-ollama-bridge").exists()


@pytest.mark.parametrize("line", ["../home/.config/other", "/mnt/home/.config/other", "share/../../home/.config/other"])
def test_a_list_that_leads_elsewhere_is_not_followed(place, line):
    (place / "prefix/share/mlx-ollama/files").write_text(f"bin/mlx-ollama-bridge\n{line}\n")
    uninstall(place, code=1)
    assert (place / "home/.config/other").exists() and (place / "prefix/bin/mlx-ollama-bridge").exists()


def test_wrong_usage_does_nothing(place):
    uninstall(place, "--prune", code=2)
    assert files(place / "prefix") == expected()


def test_the_target_uninstalls_what_was_installed_last(tmp_path):
    """cmake --install with DESTDIR, then the build's target `uninstall` with the same."""
    fill_home(tmp_path / "home")
    install("/opt/mlx-ollama", env={"DESTDIR": str(tmp_path / "root")})
    assert files(tmp_path / "root/opt/mlx-ollama") == expected()
    # The namespace hides /tmp, where the build may be: the two files that the target needs come along.
    (tmp_path / "build").mkdir()
    for file in (BUILD / "install_manifest.txt", TOP / "packaging/uninstall.cmake"):
        shutil.copy(file, tmp_path / "build")
    uninstall(tmp_path, destdir="/mnt/root", command="cmake -DBUILD=/mnt/build -P /mnt/build/uninstall.cmake")
    assert not (tmp_path / "root/opt/mlx-ollama").exists()
    assert files(tmp_path / "home") == sorted(HOME)
    assert "uninstall.cmake" in run("ninja", "-t", "commands", "uninstall", cwd=BUILD) if (BUILD / "build.ninja").exists() else os.name


def test_usr_keeps_its_directories(tmp_path):
    """Below /usr, directories belong to everybody: only our own ones go."""
    place = tmp_path / "root"
    install("/usr/local", env={"DESTDIR": str(place)})
    (tmp_path / "home").mkdir()
    uninstall(tmp_path, command="mount --bind /mnt/root/usr /usr/games && /usr/games/local/share/mlx-ollama/uninstall")
    left = sorted(str(p.relative_to(place)) for p in place.rglob("*"))
    assert [p for p in left if "mlx" in p] == [] and "usr/local/bin" in left and "usr/local/share/man/man1" in left
