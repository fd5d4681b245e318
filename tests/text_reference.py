#!/usr/bin/env python3
"""Holds a model directory's tokenizer and chat template against `tokenizers` and transformers.

    python3 tests/text_reference.py PROBE DIR [--text FILE ...] [--templates FOLDER]

PROBE is build/<preset>/bin/text-probe. Compares the ids of many texts (this repository's own files, and random ones),
what they decode to, at once and token by token, and the prompts that the model's template, and any others in FOLDER,
make of the conversations of tests/golden. Prints a line for each difference and ends with their number.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "golden"))

from tokenizers import Tokenizer  # noqa: E402
from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: E402

import make_text  # noqa: E402
import text_templates  # noqa: E402


class Probe:
    def __init__(self, program, folder):
        self.process = subprocess.Popen([program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the probe has ended: status %s" % self.process.wait())
        return json.loads(line)


def random_text(rng):
    ranges = [(32, 126), (0xa0, 0x24f), (0x370, 0x52f), (0x600, 0x6ff), (0x900, 0x97f), (0x2000, 0x206f), (0x3040, 0x30ff),
              (0x4e00, 0x4fff), (0x1f300, 0x1f64f), (0xe000, 0xe010), (0x1d400, 0x1d4ff)]
    out = []
    for _ in range(rng.randrange(1, 60)):
        low, high = ranges[0] if rng.random() < 0.5 else rng.choice(ranges)
        out.append(chr(rng.randrange(low, high + 1)))
        if rng.random() < 0.2:
            out.append(rng.choice([" ", "  ", "\n", "\t", "\r\n", "\n\n", " \n "]))
    return "".join(out)


def compare_tokenizer(probe, folder, texts):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    wrong = tokens = 0
    for text in texts:
        for special in (False, True):
            want = reference.encode(text, add_special_tokens=special).ids
            got = probe.ask(encode=text, special=special)
            tokens += len(want)
            if got.get("ids") != want:
                wrong += 1
                print("other ids:", repr(text[:80]), got.get("error", ""))
        for skip in (False, True):
            decoded = reference.decode(want, skip_special_tokens=skip)
            if probe.ask(decode=want, skip=skip).get("text") != decoded:
                wrong += 1
                print("decoded otherwise:", repr(text[:80]))
        whole = reference.decode(want, skip_special_tokens=False)
        streamed = probe.ask(stream=want).get("text")
        # SentencePiece decoders take away the first space, in the middle of a text it is there.
        if streamed not in (whole, " " + whole):
            wrong += 1
            print("streamed otherwise:", repr(text[:80]))
    print(f"tokenizer: {len(texts)} texts, {tokens} tokens, {wrong} differences")
    return wrong


def compare_template(probe, name, source):
    template = _compile_jinja_template(source)
    wrong = failed = 0
    for conversation in text_templates.CONVERSATIONS:
        context = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": None, **conversation}
        try:
            want = template.render(**context)
        except Exception:
            want = None
            failed += 1
        got = probe.ask(template=source, context=context)
        if want is None and "text" in got:
            print(f"{name}: rendered what Python refuses: {json.dumps(conversation)[:120]}")
        elif got.get("text") != want:
            wrong += 1
            print(f"{name}: rendered otherwise: {got.get('error', '')} {json.dumps(conversation)[:120]}")
    print(f"{name}: {len(text_templates.CONVERSATIONS)} conversations, {failed} refused by Python, {wrong} differences")
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("probe")
    p.add_argument("dir", type=pathlib.Path)
    p.add_argument("--text", type=pathlib.Path, nargs="*", default=[])
    p.add_argument("--templates", type=pathlib.Path)
    a = p.parse_args()
    probe = Probe(a.probe, str(a.dir))
    rng = random.Random(1)
    texts = list(make_text.TEXTS) + [random_text(rng) for _ in range(500)]
    files = list(a.text) or sorted(HERE.parent.glob("src/text/*.c"))
    texts += [f.read_text(encoding="utf-8", errors="replace") for f in files]
    wrong = compare_tokenizer(probe, a.dir, texts)
    own = a.dir / "chat_template.jinja"
    if own.exists():
        wrong += compare_template(probe, own.name, own.read_text(encoding="utf-8"))
    for path in sorted(a.templates.rglob("*.jinja")) if a.templates else []:
        wrong += compare_template(probe, path.name, path.read_text(encoding="utf-8"))
    print(wrong, "differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
