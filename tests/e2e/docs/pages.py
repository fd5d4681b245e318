"""The pages' blocks of code, and what a comment above one says of its test.

    <!-- test: serves 11434 -->            it runs until the page's end, and listens there
    <!-- test: says TEXT -->               the output has TEXT
    <!-- test: exits with 3 -->            the status of its last command
    <!-- test: not run, needs macOS -->    it is read instead: our programs must know the commands and options. The text above
                                           the block must say so to readers, too (NEEDS)
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
PAGES = ["QUICKSTART", "GUIDE", "SUMMARY"]
RUN = ("sh", "python", "js")
DATA = ("ini", "yaml", "json")

# What a block may need that is not here, and the word by which a reader learns of it.
NEEDS = {"macOS": "macOS", "root": "root", "the internet": "internet", "a container engine": "container", "Homebrew": "Homebrew",
         "Ollama's own program": "ollama", "a login session of systemd": "systemd", "another program": "program",
         "a check of its own": "./check"}


@dataclass
class Block:
    page: str
    line: int
    language: str
    text: str
    before: str  # the text above it, as far as the last block
    serves: int = 0
    says: list = field(default_factory=list)
    code: int = 0
    needs: str = ""

    @property
    def id(self):
        return f"{self.page}-{self.line}"


def read(page):
    lines = (TOP / f"docs/{page}.md").read_text().splitlines()
    blocks, before, i = [], [], 0
    while i < len(lines):
        match = re.match(r"```(\w*)$", lines[i])
        if not match:
            before.append(lines[i])
            i += 1
            continue
        end = lines.index("```", i + 1)
        block = Block(page, i + 1, match[1], "\n".join(lines[i + 1:end]) + "\n", "\n".join(before))
        for note in re.findall(r"<!-- test: (.*?) -->", block.before):
            read_note(block, note)
        blocks.append(block)
        before, i = [], end + 1
    return blocks


def read_note(block, note):
    if match := re.fullmatch(r"serves (\d+)", note):
        block.serves = int(match[1])
    elif match := re.fullmatch(r"says (.*)", note):
        block.says.append(match[1])
    elif match := re.fullmatch(r"exits with (\d+)", note):
        block.code = int(match[1])
    elif (match := re.fullmatch(r"not run, (?:needs|has) (.*)", note)) and match[1] in NEEDS:
        block.needs = match[1]
    else:
        raise ValueError(f"{block.id}: unknown note {note!r}")
