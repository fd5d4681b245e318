"""Homebrew's formula: Ruby that parses, the packages that scripts/lib.sh needs, files that the installation has."""
import re
import shutil
import subprocess

import pytest
from conftest import TOP, run

MAKE = TOP / "packaging/make-formula"
SUM = "0" * 64
URL = "https://releases.invalid/mlx-ollama-9.9.tar.gz"


def formula(*arguments):
    return run(MAKE, *arguments)


@pytest.mark.parametrize("arguments", [[], ["--url", URL, "--sha256", SUM], ["--git", "https://git.invalid/x.git"]])
def test_it_is_ruby(arguments, tmp_path):
    if not shutil.which("ruby"):
        pytest.skip("no ruby")
    (tmp_path / "mlx-ollama.rb").write_text(formula(*arguments))
    done = subprocess.run(["ruby", "-wc", str(tmp_path / "mlx-ollama.rb")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Syntax OK\n", "")


def test_a_release_is_filled_in():
    text = formula("--url", URL, "--sha256", SUM)
    assert f'url "{URL}"' in text and f'sha256 "{SUM}"' in text and "@" not in re.sub(r"\w@\d", "", text)
    assert "head" not in text


def test_without_a_release_it_builds_this_clone():
    assert f'head "{TOP.as_uri()}", using: :git' in formula()


@pytest.mark.parametrize("arguments", [["--url", URL], ["--url", URL, "--sha256", "1234"], ["--git", 'https://x/" + `id`']])
def test_what_is_wrong_is_refused(arguments):
    run(MAKE, *arguments, code=2)


def test_it_depends_on_what_the_build_needs():
    """The third column of LM_NEEDS_BUILD is Homebrew's name."""
    needs = re.search(r"LM_NEEDS_BUILD='\n(.*?)'", (TOP / "scripts/lib.sh").read_text(), re.S)[1]
    wanted = {line.split()[2] for line in needs.splitlines()} - {"-"} | {"rust"}
    depends = {re.sub("^python@.*", "python", name) for name in re.findall(r'depends_on "([^"]+)"', formula())}
    assert depends == wanted


def test_what_it_removes_is_there(installed):
    for name in re.findall(r'rm share/"([^"]+)"', formula()):
        assert (installed / "share" / name).exists()
