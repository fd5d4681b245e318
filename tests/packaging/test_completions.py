"""Completions, in the shells themselves: bash's function, fish's `complete -C`, and keys typed into bash and zsh."""
import os
import pty
import re
import select
import shutil
import stat
import time

import pytest
from conftest import PATIENCE, TOP, manpage, run

SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]
NAMES = ["org/model-4bit:latest", "smollm2:135m", "smollm2:360m"]


@pytest.fixture(scope="session")
def world(installed, tmp_path_factory):
    """PATH with the programs, a directory with a file and a folder, and model-names that knows NAMES."""
    home = tmp_path_factory.mktemp("home")
    (home / "folder").mkdir()
    (home / "file.gguf").touch()
    prefix = tmp_path_factory.mktemp("named") / "prefix"
    shutil.copytree(installed, prefix)
    names = prefix / "share/mlx-ollama/model-names"
    names.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(NAMES) + "\n")
    env = {"HOME": str(home), "PATH": f"{prefix}/bin:{os.environ['PATH']}", "TERM": "dumb"}
    return home, prefix, env


def bash(world, line):
    home, prefix, env = world
    name = line.split()[0]
    script = f"""source {prefix}/share/bash-completion/completions/{name}
COMP_LINE=$1 COMP_POINT=${{#1}}
_{re.sub("[^a-z0-9]", "_", name)} {name}
[ ${{#COMPREPLY[@]}} -eq 0 ] || printf '%s\\n' "${{COMPREPLY[@]}}" """
    return sorted(run("bash", "--norc", "-c", script, "bash", line, env=env, cwd=home).splitlines())


def fish(world, line):
    home, prefix, env = world
    script = f"""set fish_complete_path {prefix}/share/fish/vendor_completions.d
complete -C $argv[1]"""
    found = run("fish", "--no-config", "-c", script, "--", line, env=env, cwd=home).splitlines()
    return sorted({word.split("\t")[0].removesuffix("=") for word in found})  # --think and --think=


ASK = {"bash": bash, "fish": fish}


@pytest.fixture(params=[shell for shell in SHELLS if shell in ASK])
def ask(request, world):
    return lambda line: ASK[request.param](world, line)


def offered(program, command=None):
    return sorted(name for option in manpage.offered(program, command) for name in option.names if name.startswith("--"))


def test_options_are_offered(program, ask):
    assert ask(f"{program.name} --") == offered(program)


def test_commands_and_their_options_are_offered(program, ask):
    if program.commands:
        assert set(ask(f"{program.name} ")) >= {c.name for c in program.commands}
    for command in program.commands:
        assert ask(f"{program.name} {command.name} --") == offered(program, command), command.name


def test_words_are_offered_as_values(program, ask):
    lines = [(program.name, option) for option in manpage.offered(program)]
    for command in program.commands:
        lines += [(f"{program.name} {command.name}", option) for option in command.options]
    for line, option in lines:
        if option.value and option.value.words:
            got = ask(f"{line} {option.names[-1]}{'=' if option.optional else ' '}")
            assert [word.split("=")[-1] for word in got] == sorted(option.value.words), f"{line} {option.names[-1]}"


def test_models_are_offered(program, ask):
    for command in program.commands:
        if command.arguments and command.arguments[0].kind == "model":
            got = ask(f"{program.name} {command.name} ")
            assert set(got) >= set(NAMES), command.name
            # bash's readline puts what follows the colon behind it
            assert ask(f"{program.name} {command.name} smollm2:3") in (["smollm2:360m"], ["360m"]), command.name
    for option in program.options:
        if option.value and option.value.kind == "model":
            assert ask(f"{program.name} {option.names[-1]} org") == ["org/model-4bit:latest"]


def test_files_and_directories_are_offered(ask):
    assert {"file.gguf"} <= {name.strip("./") for name in ask("mlx-ollama-bridge import fi")}
    assert {name.rstrip("/") for name in ask("mlx-ollama-bridge --models fo")} == {"folder"}
    assert ask("mlx-ollama-bridge --models fi") == []


def test_a_value_may_stand_behind_an_equals_sign(ask):
    assert [word.split("=")[-1] for word in ask("mlx-ollama-bridge --backend=c")] == ["cpu"]


# ---- keys

class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**env, "PS1": "READY> ", "LANG": "C.UTF-8"})
        self.seen = ""

    def until(self, what):
        end = time.monotonic() + PATIENCE
        while what not in self.seen:
            assert time.monotonic() < end, f"never {what!r}: {self.seen[-2000:]!r}"
            if select.select([self.fd], [], [], 1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(what)
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def completed(self, line):
        """The line after a tab: it is made the argument of an echo by keys that both shells know."""
        self.type(line + "\t")
        self.type("\x01echo 'BE''GIN' \x05 'EN''D'\r")
        self.until("BEGIN")
        words = self.until("END")
        self.until("READY> ")
        return words.strip()

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=[shell for shell in SHELLS if shell != "fish"])
def keys(request, world):
    home, prefix, env = world
    name = "mlx-ollama-bridge"
    if request.param == "bash":
        shell = Shell(["bash", "--norc", "--noprofile", "-i"], {**env, "INPUTRC": "/dev/null"})
        setup = f"bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; . {prefix}/share/bash-completion/completions/{name}"
    else:
        shell = Shell(["zsh", "-f", "-i"], env)
        setup = f"unsetopt beep prompt_cr; fpath=({prefix}/share/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; bindkey -e"
    shell.until("READY> ")
    shell.type(f"cd {home}; {setup}; echo SET''UP\r")
    shell.until("SETUP")
    shell.until("READY> ")
    yield shell
    shell.close()


@pytest.mark.parametrize("typed, whole", [
    ("mlx-ollama-bridge imp", "mlx-ollama-bridge import"),
    ("mlx-ollama-bridge --kv", "mlx-ollama-bridge --kv-cache-type"),
    ("mlx-ollama-bridge --import-gguf on", "mlx-ollama-bridge --import-gguf on-use"),
    ("mlx-ollama-bridge --import-gguf=on", "mlx-ollama-bridge --import-gguf=on-use"),
    ("mlx-ollama-bridge pull smollm2:3", "mlx-ollama-bridge pull smollm2:360m"),
    ("mlx-ollama-bridge pull org/", "mlx-ollama-bridge pull org/model-4bit:latest"),
    ("mlx-ollama-bridge import fi", "mlx-ollama-bridge import file.gguf"),
    ("mlx-ollama-bridge --models fo", "mlx-ollama-bridge --models folder"),
])
def test_keys_complete(keys, typed, whole):
    assert keys.completed(typed).rstrip("=/") == whole


# ---- names of models

def test_names_come_from_the_programs(tmp_path):
    """Whoever lists; hostile names and programs that hang change nothing."""
    place, bin_ = tmp_path / "share/mlx-ollama", tmp_path / "bin"
    place.mkdir(parents=True)
    bin_.mkdir()
    shutil.copy(TOP / "packaging/model-names", place)

    def put(name, text):
        (bin_ / name).write_text("#!/bin/sh\n" + text)
        (bin_ / name).chmod(stat.S_IRWXU)

    put("mlx-ollama-bridge", "printf 'NAME  ID\\nqwen3:8b  abc\\nllama3.2:1b  def\\n'\n")
    assert run(place / "model-names").split() == ["llama3.2:1b", "qwen3:8b"]
    put("ollama-to-mlx-router", """printf '%s' '{"models": [{"name": "a:1", "model":"x"},{"name":"b/c:2"},{"name":"$(touch x)"},{"name":"-o"}]}'\n""")
    assert run(place / "model-names").split() == ["a:1", "b/c:2"]
    put("ollama-to-mlx-router", "exec sleep 600\n")
    assert run(place / "model-names").split() == ["llama3.2:1b", "qwen3:8b"]
