"""Every command in docs/QUICKSTART.md, GUIDE.md and SUMMARY.md, run as it is written, in the order of the page."""
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CACHE, build_dir

from . import machine as machines
from .pages import DATA, NEEDS, PAGES, RUN, TOP, read

PROGRAMS = ["mlx-ollama-bridge", "ollama-to-mlx-router", "mlx-server-startup", "test-mlx-integration"]
BLOCKS = [block for page in PAGES for block in read(page)]
NOT_RUN = 9  # blocks; each has its reason above it
COMMANDS = [block for block in BLOCKS if block.language in RUN]
RUNNING = [block for block in COMMANDS if not block.needs]
READING = [block for block in COMMANDS if block.needs]
# Programs of others that a block which is not run may name.
FOREIGN = {"brew", "docker", "ollama", "sudo", "loginctl", "launchctl", "systemctl", "apt-get", "pip", "npm", "claude", "codex", "./quickstart", "./check",
           "packaging/make-formula", "open-webui", "cpack", "dpkg", "log"}


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """machine(page): the machine of that page, as its blocks so far have left it."""
    if not machines.possible():
        pytest.skip("no namespaces here: Linux, as root")
    made = {}
    node = os.environ.get("LM_E2E_NODE")

    def of(page):
        if page not in made:
            for other in made.values():
                other.close()
            made[page] = machines.Machine(tmp_path_factory.mktemp(page) / "home", build_dir(), os.environ.get("LM_E2E_GGUF", CACHE / "models/smollm2.gguf"),
                                          CACHE / "models/smollm2-135m-4bit", Path(node).resolve() if node else None)
            if page != "QUICKSTART":  # which is about a machine without Ollama
                made[page].start(f"exec {sys.executable} {Path(__file__).with_name('ollama_here.py')} llama3.2:3b", 11434)
        return made[page]

    yield of
    for each in made.values():
        each.close()


def script(block):
    if block.language == "python":
        return "python3 - <<'END_OF_BLOCK'\n" + block.text + "END_OF_BLOCK"
    if block.language == "js":
        return "cat >block.mjs <<'END_OF_BLOCK'\n" + block.text + "END_OF_BLOCK\nnode block.mjs\nrm block.mjs"
    return block.text


@pytest.mark.parametrize("block", RUNNING, ids=lambda b: b.id)
def test_it_runs_as_written(block, machine):
    here = machine(block.page)
    if block.serves:
        here.start(script(block), block.serves)
        return
    code, said = here.run(script(block))
    assert code == block.code, f"{block.text}\n{said[-3000:]}"
    for text in block.says:
        assert text in said, f"{block.text}\n{said[-3000:]}"


# ---- what cannot run here is read

def commands(text):
    """Lists of words: each command of a block of shell, without variables before it."""
    joined = re.sub(r"\\\n", " ", re.sub(r"<<'?END'?\n.*?\nEND\n", "\n", text, flags=re.S))
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("sudo", "exec")):
            words.pop(0)
        if words:
            yield words


def known(program, words):
    """The options that --help of the program, and of the command that words begin with, name."""
    said = ""
    for arguments in (["--help"], [words[0], "--help"] if words and words[0].isalpha() else None):
        if arguments:
            said += subprocess.run([str(build_dir() / "bin" / program), *arguments], capture_output=True, text=True, check=False).stdout
    return said


@pytest.mark.parametrize("block", READING, ids=lambda b: b.id)
def test_what_is_not_run_is_at_least_known(block):
    assert NEEDS[block.needs].lower() in re.sub(r"<!--.*?-->", "", block.before).lower(), "readers must be told what it needs"
    found = list(commands(block.text))
    assert found
    for words in found:
        name = words[0]
        if name in PROGRAMS:
            said = known(name, words[1:])
            for word in words[1:]:
                if word.startswith("--") and word != "--":
                    assert word.split("=")[0] in said, f"{name} knows no {word}"
            if len(words) > 1 and not words[1].startswith("-"):
                assert re.search(rf"\b{re.escape(words[1])}\b", said), f"{name} knows no {words[1]}"
        else:
            assert name in FOREIGN, f"{name}: nobody's program"


def test_nothing_is_left_out():
    """A block is run, read or data; how many are only read is written here, so that none becomes so unseen."""
    assert all(block.language in (*RUN, *DATA) for block in BLOCKS), [b.id for b in BLOCKS if b.language not in (*RUN, *DATA)]
    assert len(RUNNING) + len(READING) == len(COMMANDS)
    assert len(READING) == NOT_RUN, [(b.id, b.needs) for b in READING]
    assert len(RUNNING) >= 2 * len(READING)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in DATA], ids=lambda b: b.id)
def test_data_can_be_read(block):
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    else:
        assert all(re.match(r"\s*$|[#;]|\[[\w.-]+\]$|[\w.:-]+ *=", line) for line in block.text.splitlines())


def test_the_table_of_names_is_the_one_that_is_installed():
    """The eight names, their repositories and nothing else."""
    table = (TOP / "share/aliases.ini").read_text()
    eight = re.search(r"# Eight names.*?\n((?:[^#\n].*\n){8})", table)[1]
    wanted = {line.split(" = ")[0]: line.split(" = ")[1].split(",")[0] for line in eight.splitlines()}
    for page in ("GUIDE", "SUMMARY"):
        rows = dict(re.findall(r"^\| `([^`]+)` \| `(mlx-community/[^`]+)` \|", (TOP / f"docs/{page}.md").read_text(), re.M))
        assert rows == wanted, page


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (TOP / f"docs/{page}.md").read_text()):
            assert link.startswith("https://") or (TOP / "docs" / link).exists(), f"{page}: {link}"
