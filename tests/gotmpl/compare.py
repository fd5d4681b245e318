#!/usr/bin/env python3
"""Go templates here against Go's own and Ollama's: compare.py PROBE REFERENCE TEMPLATES [--fuzz N] [--seed N]

PROBE is text-probe, REFERENCE the program of main.go, TEMPLATES a directory with Ollama's published *.gotmpl. Every case has to
give the same text, or the same error. With --write FILE, the cases of cases.py alone are written with the reference's answers,
for the unit test: tests/golden/text/go_templates.json.
"""
import argparse
import glob
import json
import os
import random
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cases

ADDRESS = re.compile(r"0xc[0-9a-f]{9}")


def ask(program, questions):
    text = "".join(json.dumps(q) + "\n" for q in questions)
    done = subprocess.run(program, input=text.encode(), stdout=subprocess.PIPE, check=True)
    lines = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    if len(lines) != len(questions):
        sys.exit(f"{program[0]} answered {len(lines)} of {len(questions)} questions; the next was {questions[len(lines)]}")
    return lines


def questions(templates):
    for source in cases.SOURCES + cases.MULTILINE:
        yield {"go": source, "data": cases.DATA}
    published = [open(path, encoding="utf-8", newline="").read() for path in sorted(glob.glob(templates + "/*.gotmpl"))]
    if len(published) < 20:
        sys.exit(f"{templates} holds {len(published)} templates; there should be 20 and more")
    for source in published + cases.TEMPLATES:
        for chat in cases.CHATS:
            yield {"go": source, **chat}


# ---- random templates: pieces that mostly fit

FIELDS = [".", ".s", ".a", ".m", ".n", ".i", ".t", ".m.j", ".m.j.z", ".l", ".missing", ".e", "$", "$.s", "$.a", ".u", ".big"]
FUNCTIONS = ["len", "not", "html", "js", "urlquery", "json", "print", "println", "printf", "index", "slice", "eq", "ne", "lt", "le", "gt",
             "ge", "and", "or", "call", "toTypeScriptType"]
LITERALS = ["1", "0", "-2", "2.5", '"k"', '"%v"', '"%s %d"', '"%5.2f|%-6v"', "true", "nil", "'x'", "`r`", "1e6", '"j"', "0x10", '"%q"', '"%+v %x"']


def operand(r, depth, names):
    pick = r.random()
    if pick < 0.45:
        return r.choice(FIELDS)
    if pick < 0.6:
        return r.choice(LITERALS)
    if pick < 0.7 and names:
        return r.choice(names)
    if pick < 0.95 and depth < 3:
        return "(" + pipe(r, depth + 1, names) + ")" + (r.choice(["", "", ".z", ".k"]))
    return r.choice(FUNCTIONS)


def command(r, depth, names):
    if r.random() < 0.5:
        return operand(r, depth, names)
    return " ".join([r.choice(FUNCTIONS)] + [operand(r, depth, names) for _ in range(r.randint(0, 3))])


def pipe(r, depth, names):
    return " | ".join(command(r, depth, names) for _ in range(r.choice([1, 1, 1, 2, 3])))


def body(r, depth, names):
    out = []
    names = list(names)
    for _ in range(r.randint(1, 4)):
        open_, close = r.choice(["{{ ", "{{- ", "{{"]), r.choice([" }}", " -}}", "}}"])
        kind = r.random()
        if kind < 0.3:
            out.append(r.choice(["text ", " \n", "x", "  y  ", "{", "}}", "\t"]))
        elif kind < 0.6:
            out.append(open_ + pipe(r, 0, names) + close)
        elif kind < 0.7:
            name = r.choice(["$x", "$y", "$z"])
            out.append(f"{open_}{name} {r.choice([':=', ':=', '='])} {pipe(r, 0, names)}{close}")
            names.append(name)
        elif depth < 3:
            word = r.choice(["if", "with", "range", "range $i, $v :=", "range $v :=", "with $w :="])
            inner = names + re.findall(r"\$\w", word)
            loop = r.choice(["", "", "{{ break }}", "{{ continue }}"]) if word.startswith("range") else ""
            other = r.choice(["", "{{ else }}" + body(r, depth + 1, inner)])
            out.append(f"{open_}{word} {pipe(r, 0, names)}{close}{body(r, depth + 1, inner)}{loop}{other}{open_}end{close}")
    source = "".join(out)
    if r.random() < 0.1 and source:  # broken ones
        at = r.randrange(len(source))
        source = source[:at] + r.choice(["", "{{", "}}", "(", "\"", "|", "$", ".", "\\", "-", "{{end}}"]) + source[at + r.randint(0, 2):]
    return source


def random_questions(n, seed):
    r = random.Random(seed)
    for _ in range(n):
        yield {"go": body(r, 0, []), "data": cases.DATA}


def write(path, reference):
    plain = cases.SOURCES + cases.MULTILINE
    asked = [{"go": source, "data": cases.DATA} for source in plain]
    asked += [{"go": source, **chat} for source in cases.TEMPLATES for chat in cases.CHATS]
    answers = ask([reference], asked)
    for one in answers:  # an address, and what nobody wants to be the same
        if "text" in one:
            one["text"] = ADDRESS.sub("0xc000000000", one["text"])
        elif one["error"].startswith("panic:"):
            one.clear()
    n = len(cases.CHATS)
    chats = [[source, answers[at:at + n]] for source, at in zip(cases.TEMPLATES, range(len(plain), len(answers), n))]
    parts = {"data": cases.DATA, "plain": list(zip(plain, answers)), "chats": cases.CHATS, "templates": chats}
    with open(path, "w", encoding="utf-8") as out:
        out.write(json.dumps(parts, separators=(",", ":")).replace('],["', '],\n["') + "\n")
    print(f"{len(answers)} answers in {path}")


def same(ours, theirs):
    if "error" in theirs:
        if theirs["error"].startswith("panic:"):
            return True  # nobody wants that
        # Of a long error our text has less of the node.
        return "error" in ours and (ours["error"] == theirs["error"] or len(theirs["error"]) > 300)
    return "text" in ours and ours["text"] == ADDRESS.sub("0xc000000000", theirs["text"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("probe")
    parser.add_argument("reference")
    parser.add_argument("templates")
    parser.add_argument("--fuzz", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--write")
    a = parser.parse_args()
    if a.write:
        return write(a.write, a.reference)
    asked = list(questions(a.templates)) + list(random_questions(a.fuzz, a.seed))
    ours, theirs = ask([a.probe], asked), ask([a.reference], asked)
    wrong = [(q, o, t) for q, o, t in zip(asked, ours, theirs) if not same(o, t)]
    for q, o, t in wrong[: a.show]:
        print(f"{json.dumps(q)[:600]}\n  here: {json.dumps(o)}\n  Go:   {json.dumps(t)}")
    print(f"{len(asked) - len(wrong)} of {len(asked)} the same; {sum('error' in t for t in theirs)} of them errors")
    return bool(wrong)


sys.exit(main())
