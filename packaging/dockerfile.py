"""The Dockerfile as data: stages with their steps, as Docker reads them, for what this project's file uses of the language."""
import json
import re
import shlex
from dataclasses import dataclass, field

KNOWN = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}


@dataclass
class Step:
    word: str
    text: str
    line: int


@dataclass
class Stage:
    image: str
    name: str
    steps: list = field(default_factory=list)

    def all(self, word):
        return [step for step in self.steps if step.word == word]


def read(text):
    """Stages. ValueError for what is not known: it would not be checked."""
    stages, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start or number
        pending += line.rstrip()
        if pending.endswith("\\"):
            pending = pending[:-1] + "\n"
            continue
        word, _, rest = pending.strip().partition(" ")
        if word not in KNOWN:
            raise ValueError(f"line {start}: {word} is not known here")
        if word == "FROM":
            match = re.fullmatch(r"(\S+)(?: AS (\S+))?", rest.strip())
            stages.append(Stage(match[1], match[2] or str(len(stages))))
        else:
            stages[-1].steps.append(Step(word, rest.strip(), start))
        pending, start = "", 0
    if pending:
        raise ValueError(f"line {start}: the last line goes on")
    return stages


def words(text):
    """The exec form."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise ValueError(f"{text} is not the exec form")
    return found


def pairs(text):
    return dict(word.split("=", 1) for word in shlex.split(text))


def copy(text):
    """(stage or None, sources, destination)"""
    parts = shlex.split(text)
    stage = parts.pop(0).split("=", 1)[1] if parts[0].startswith("--from=") else None
    return stage, parts[:-1], parts[-1]


def health(text):
    """(options, command)"""
    before, _, command = text.partition("CMD ")
    return dict(re.findall(r"--([a-z-]+)=(\S+)", before)), words(command)
