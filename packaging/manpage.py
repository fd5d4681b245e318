"""What a program's man page says of its commands and options, as data: for completions, and for the tests.

The pages in man/ are mdoc. Of them only the entries of the sections COMMANDS and OPTIONS matter here:

    .It Cm pull Ar model Oo Fl -insecure Oc      a command, its arguments, options of its own
    .It Fl v , Fl -verbose                       an option with two spellings
    .It Fl -port Ar n                            an option and what kind of value it takes
    .It Fl -backend Cm auto | cpu | mlx          an option and the words it takes
    .It Fl -think Ns Op = Cm low | high          an option whose value may be left out, and stands behind = else
    Fetch a model.                               the line after an entry: its short description, plain text

Kinds that are completed: model, file, directory. Every other kind is free text; the argument "options" of a command
stands for everything in OPTIONS.
"""
import re
import shlex
from dataclasses import dataclass, field

MACROS = {"Cm", "Fl", "Ar", "Op", "Oo", "Oc", "Ns", "No"}


@dataclass
class Value:
    """Of an option or an argument: words to choose from, or a kind."""
    kind: str = ""
    words: list = field(default_factory=list)


@dataclass
class Option:
    names: list  # with their dashes, the short ones first
    value: Value | None
    text: str
    optional: bool = False  # the value


@dataclass
class Command:
    name: str
    arguments: list  # of Value
    options: list  # of Option: whether it has a value; the rest is said in OPTIONS
    text: str


@dataclass
class Program:
    name: str
    text: str
    commands: list
    options: list


def groups(line):
    """The words after each Cm, Fl and Ar of an .It line: [("Cm", ["pull"]), ("Ar", ["model"]), ...]."""
    found = []
    for word in shlex.split(line):
        if word in ("Cm", "Fl", "Ar"):
            found.append((word, []))
        elif word == ",":
            found.append((",", [","]))
        elif word in MACROS or word == "...":
            continue
        elif found:
            found[-1][1].append(word)
    return [(macro, words) for macro, words in found if words]


def value_of(macro, words):
    if macro == "Cm":
        return Value(words=[w for w in words if w != "|"])
    return Value(kind=" ".join(words).lower())


def options_of(parts, text):
    """The options among the groups of a line. Spellings with a comma between them are one option."""
    options, names, joined = [], [], False
    for macro, words in parts:
        if macro == "Fl":
            optional = words[-1] == "="
            if names and not joined:
                options.append(Option(names, None, text))
                names = []
            names.append("-" + words[0])
            joined = False
        elif macro == ",":
            joined = True
        elif names:
            options.append(Option(names, value_of(macro, words), text, optional))
            names = []
    if names:
        options.append(Option(names, None, text))
    return options


def entry(line, text, where):
    """A Command or an Option of one .It line."""
    parts = groups(line)
    if where == "OPTIONS":
        [option] = options_of(parts, text)
        return option
    macro, words = parts[0]
    assert macro == "Cm" and len(words) == 1, f"a command begins with .It Cm NAME: {line}"
    first = next((i for i, part in enumerate(parts) if part[0] == "Fl"), len(parts))
    return Command(words[0], [value_of(*part) for part in parts[1:first]], options_of(parts[first:], ""), text)


def read(path):
    lines = path.read_text().splitlines()
    program = Program("", "", [], [])
    section = ""
    for i, line in enumerate(lines):
        if line.startswith(".Sh "):
            section = line[4:]
        elif line.startswith(".Nm ") and section == "NAME":
            program.name = line[4:]
        elif line.startswith(".Nd "):
            program.text = line[4:]
        elif line.startswith(".It ") and section in ("COMMANDS", "OPTIONS"):
            text = lines[i + 1]
            assert text and text[0] not in ".'", f"{path}: a line of plain text must follow: {line}"
            text = re.sub(r"\\&", "", text).rstrip(".")
            (program.commands if section == "COMMANDS" else program.options).append(entry(line[4:], text, section))
    assert program.name and program.options, f"{path} has no .Nm, or no options"
    described = {name: option for option in program.options for name in option.names}
    for command in program.commands:
        for option in command.options:
            known = described.get(option.names[-1])
            if known:
                option.names, option.text, option.optional = known.names, known.text, known.optional
                option.value = option.value and (known.value or option.value)
    return program


def offered(program, command=None):
    """The options that belong to a command: its own ones and --help, or all of OPTIONS if its entry says so. Without a
    command: all, unless every command has its own."""
    if command:
        whole = any(value.kind == "options" for value in command.arguments)
        return program.options if whole else command.options + [o for o in program.options if "--help" in o.names]
    if not program.commands or any(offered(program, c) is program.options for c in program.commands):
        return program.options
    return [o for o in program.options if o.names[-1] in ("--help", "--version")]
