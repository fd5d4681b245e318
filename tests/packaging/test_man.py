"""What a program says with --help is in its man page, and so in its completions; and nothing else is."""
import re
import shutil

import pytest
from conftest import PAGES, manpage, run


OTHERS = {"test-mlx-integration": {"--backend"}}  # that --help mentions, as options of another program
UNSAID = {"mlx-server-startup": {"--help", "--version"}, "ollama-to-mlx-router": {"--version"}}  # that work as everywhere


def spelled(text):
    """Options as they are written in a text."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@pytest.fixture(scope="session")
def each(installed, program):
    """The help of each command that has one of its own."""
    whole = run(installed / "bin" / program.name, "--help")
    found = {c.name: run(installed / "bin" / program.name, c.name, "--help") for c in program.commands if c.name != "help"}
    return {name: text for name, text in found.items() if text != whole}


@pytest.fixture(scope="session")
def said(installed, program, each):
    return "\n".join([run(installed / "bin" / program.name, "--help"), *each.values()])


@pytest.fixture(scope="session")
def page(program):
    [page] = [p for p in PAGES if p.stem == program.name]
    return page.read_text()


def known(program):
    options = list(program.options)
    for command in program.commands:
        options += command.options
    return {name for option in options for name in option.names}


def test_options_are_those_of_help(program, said):
    long = {name for name in known(program) if name.startswith("--")}
    assert long - UNSAID.get(program.name, set()) == spelled(said) - OTHERS.get(program.name, set()), "packaging/man and --help differ"


def test_short_options_are_those_of_help(program, said):
    short = {name for name in known(program) if not name.startswith("--")}
    assert short == set(re.findall(r"(?<![\w-])-[a-zA-Z](?![\w-])", said))


def test_a_commands_options_are_those_of_its_help(program, each):
    for command in program.commands:
        if command.name in each:
            long = {name for option in manpage.offered(program, command) for name in option.names if name.startswith("--")}
            assert long | {"--help"} == spelled(each[command.name]) | {"--help"}, command.name


def test_commands_are_those_of_help(installed, program):
    """A line of the help that begins with a command: after the program's name, or indented before its explanation."""
    said = run(installed / "bin" / program.name, "--help")
    found = set(re.findall(rf"^(?:Usage:)? +{program.name} \[?([a-z][a-z-]+)(?=[\] \n])", said, re.M))
    found |= set(re.findall(r"^ {2}([a-z][a-z-]+)(?: \S+)*? {2,}\S", said, re.M))
    assert {c.name for c in program.commands} == found - {"options"}


def test_variables_are_those_of_help(program, said, page):
    variables = r"\b(?:MLX|OLLAMA|HF|SSL|NO|XDG|HTTP|HTTPS)_[A-Z_]+"
    missing = set(re.findall(variables, said)) - set(re.findall(variables, page))
    assert not missing


def test_exit_codes_are_those_of_help(program, said, page):
    codes = said[said.index("Exit codes:"):]
    section = page[page.index(".Sh EXIT STATUS"):].split(".Sh ")[1]
    for code in re.findall(r"(?:Exit codes:|,)\s*(\d+) ", codes):
        assert re.search(rf"\b{code}\b", section), f"exit code {code} of --help"


def test_the_page_is_clean(installed, program):
    path = installed / f"share/man/man1/{program.name}.1"
    if not shutil.which("mandoc"):
        pytest.skip("no mandoc")
    assert run("mandoc", "-Tlint", "-W", "warning", path) == ""
    assert program.text in " ".join(re.sub(".\x08", "", run("mandoc", "-Tascii", path)).split())
