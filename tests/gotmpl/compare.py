#!/usr/bin/env python3
"""Go templates here against Go's own and Ollama's.

    compare.py --reference PROGRAM --write FILE
    compare.py --reference PROGRAM --probe PROGRAM [--golden FILE] [--fuzz N] [--seed N] PUBLISHED...

The reference is the program of main.go, the probe text-probe. PUBLISHED are *.gotmpl files, and the TypeScript file in which Hugging Face lists
what Ollama's library has. Every case has to give the same text, or the same error; what --write has written has to be what it would write
now. tests/golden/text/go_templates.json is for the unit test: the cases of cases.py, nothing that is somebody else's.
"""
import ast
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile

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


def published(path):
    text = open(path, encoding="utf-8", newline="").read()
    if not path.endswith(".ts"):
        return [text]
    strings = re.findall(r"""\btemplate:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", text)
    return [ast.literal_eval(one) for one in strings]


def questions(paths):
    sources = sorted({source for path in paths for source in published(path)})
    if len(sources) < 80:
        sys.exit(f"{len(sources)} published templates found; there should be 80 and more")
    for source in cases.SOURCES + cases.MULTILINE:
        yield {"go": source, "data": cases.DATA}
    for source in sources + cases.TEMPLATES:
        for chat in cases.CHATS:
            yield {"go": source, **chat}


# ---- random templates: pieces that mostly fit

ANYTHING = [".", ".s", ".a", ".m", ".n", ".i", ".t", ".m.j", ".m.j.z", ".l", ".missing", ".e", "$", "$.s", "$.a", ".u", ".big", "1", "0", "-2",
            "2.5", '"k"', "true", "nil", "'x'", "`r`", "1e6", "0x10"]
TEXTS = [".s", ".u", ".m.j.z", '"k"', '"j"', "`r`", ".empty", ".nl", "$.s"]
NUMBERS = ["0", "1", "2", "3", "(len .s)", "0x2"]
LISTS = [".a", ".l", ".s", ".e", "$.a", "(index .l 0)", ".u"]
FORMATS = ['"%v"', '"%s %d"', '"%5.2f|%-6v"', '"%q"', '"%+v %x"', '"%T"', '"%05d|%8s"', '"%[2]v %[1]v"', '"%c%U"', '"%*d"', '"%t%%"', '"%.3s"']
# name -> what each argument is made of; "..." is any number of the last
FUNCTIONS = {
    "len": [LISTS + [".m"]], "not": [ANYTHING], "html": [ANYTHING, "..."], "js": [TEXTS], "urlquery": [TEXTS], "json": [ANYTHING],
    "print": [ANYTHING, "..."], "println": [ANYTHING, "..."], "printf": [FORMATS, ANYTHING, "..."], "index": [LISTS + [".m"], NUMBERS + TEXTS],
    "slice": [LISTS, NUMBERS, NUMBERS], "eq": [TEXTS + NUMBERS, TEXTS, "..."], "ne": [ANYTHING, ANYTHING], "lt": [NUMBERS, NUMBERS],
    "le": [TEXTS, TEXTS], "gt": [NUMBERS, NUMBERS], "ge": [NUMBERS, NUMBERS], "and": [ANYTHING, "..."], "or": [ANYTHING, "..."],
    "call": [ANYTHING], "toTypeScriptType": [ANYTHING],
}


def operand(r, depth, names, kind):
    pick = r.random()
    if pick < 0.7:
        return r.choice(kind if r.random() < 0.95 else ANYTHING + FORMATS)
    if pick < 0.85 and names:
        return r.choice(names)
    if depth < 3:
        return "(" + pipe(r, depth + 1, names) + ")" + r.choice(["", "", "", ".z"])
    return r.choice(ANYTHING)


def command(r, depth, names, piped):
    if not piped and r.random() < 0.4:
        return operand(r, depth, names, ANYTHING)
    name = r.choice(list(FUNCTIONS))
    kinds = list(FUNCTIONS[name])
    if kinds[-1] == "...":
        kinds[-1:] = [kinds[-2]] * r.randint(0, 2)
    if piped:
        kinds.pop()
    if r.random() < 0.02:
        kinds.append(ANYTHING)
    return " ".join([name] + [operand(r, depth, names, kind) for kind in kinds])


def pipe(r, depth, names):
    return " | ".join(command(r, depth, names, i > 0) for i in range(r.choice([1, 1, 1, 1, 2, 3])))


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
            out.append(f"{open_}{name} {r.choice(['=', ':='] if name in names else [':='])} {pipe(r, 0, names)}{close}")
            names.append(name)
        elif depth < 3:
            word = r.choice(["if", "with", "range", "range $i, $v :=", "range $v :=", "with $w :="])
            inner = names + re.findall(r"\$\w", word)
            loop = r.choice(["", "", "{{ break }}", "{{ continue }}"]) if word.startswith("range") else ""
            other = r.choice(["", "{{ else }}" + body(r, depth + 1, inner)])
            out.append(f"{open_}{word} {pipe(r, 0, names)}{close}{body(r, depth + 1, inner)}{loop}{other}{open_}end{close}")
    source = "".join(out)
    if r.random() < 0.05 and source:  # broken ones
        at = r.randrange(len(source))
        source = source[:at] + r.choice(["", "{{", "}}", "(", "\"", "|", "$", ".", "\\", "-", "{{end}}"]) + source[at + r.randint(0, 2):]
    return source


def random_questions(n, seed):
    r = random.Random(seed)
    for _ in range(n):
        yield {"go": body(r, 0, []), "data": cases.DATA}


# Ollama from 0.14 on prints a tool, its function and its parameters as Go structs where they have no field named, which its published
# templates do not mean; here they are the JSON that they were before.
STRUCTS = ("{{ range .Tools }}{{ . }}\1{{ json . }}\2{{ .Function }}\1{{ json .Function }}\2{{ .Function.Parameters }}\1"
           "{{ json .Function.Parameters }}\2{{ end }}{{ if .Messages }}{{ end }}")


def ask_reference(program, asked):
    answers = ask([program], asked)
    with_tools = [i for i, q in enumerate(asked) if q.get("tools")]
    shown = ask([program], [{**asked[i], "go": STRUCTS} for i in with_tools])
    for i, one in zip(with_tools, shown):
        pairs = [pair.split("\1") for pair in one["text"].split("\2") if pair]
        for key in answers[i]:
            for struct, text in sorted(pairs, key=lambda pair: -len(pair[0])):
                answers[i][key] = answers[i][key].replace(struct, text)
    return answers


def write(path, reference):
    plain = cases.SOURCES + cases.MULTILINE
    asked = [{"go": source, "data": cases.DATA} for source in plain]
    asked += [{"go": source, **chat} for source in cases.TEMPLATES for chat in cases.CHATS]
    answers = ask_reference(reference, asked)
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
        # Of a long error our text has less.
        same_part = 150 if len(theirs["error"]) > 250 else None
        return ours.get("error", "")[:same_part] == theirs["error"][:same_part]
    return "text" in ours and ours["text"] == ADDRESS.sub("0xc000000000", theirs["text"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True)
    parser.add_argument("--probe")
    parser.add_argument("--golden")
    parser.add_argument("--write")
    parser.add_argument("--fuzz", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("published", nargs="*")
    a = parser.parse_args()
    if a.write:
        return write(a.write, a.reference)
    if a.golden:
        with tempfile.NamedTemporaryFile() as now:
            write(now.name, a.reference)
            if now.read() != open(a.golden, "rb").read():
                sys.exit(f"{a.golden} is not what the reference says; write it again with --write")
    asked = list(questions(a.published)) + list(random_questions(a.fuzz, a.seed))
    ours, theirs = ask([a.probe], asked), ask_reference(a.reference, asked)
    wrong = [(q, o, t) for q, o, t in zip(asked, ours, theirs) if not same(o, t)]
    for q, o, t in wrong[: a.show]:
        q = {key: value for key, value in q.items() if key != "data"}
        print(f"{json.dumps(q)[-900:]}\n  here: {json.dumps(o)[-900:]}\n  Go:   {json.dumps(t)[-900:]}")
    print(f"{sum('error' in t for t in theirs)} of {len(asked)} are errors there")
    print(f"gotmpl: {len(asked) - len(wrong)} passed, {len(wrong)} failed")
    return bool(wrong)


sys.exit(main())
