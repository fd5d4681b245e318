#!/usr/bin/env python3
"""Runs the API cases of tests/api/*.json against a server: request in, expected answer out, with holes.

    run_api.py [--url URL] [FILE ...]      without --url the server of LM_BUILD is started with the tiny models

A case is {"name", "method" (POST), "path", "headers", "body" (JSON) or "raw" (text), "status" (200), "type", "head",
and one of "json", "text", "lines", "events"}. Holes in expected JSON: "<any>", "<str>", "<int>", "<ns>" (a positive integer),
"<time>", "<hex64>", "<call>", "<id>", "<msg>", "<req>", "<toolu>", "<float>". An object matches when its keys are the same; a key
"..." allows others. In "lines" (NDJSON) the text "..." stands for any number of repetitions of the line before it; so in
"events", which are the data of server-sent events (JSON, or text that is none); a name of an event has to be its data's
"type".
"""
import argparse
import json
import re
import sys
import urllib.parse
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "e2e" / "known"))

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
HOLES = {
    "<any>": lambda v: True,
    "<str>": lambda v: isinstance(v, str),
    "<int>": lambda v: type(v) is int,
    "<ns>": lambda v: type(v) is int and v > 0,
    "<float>": lambda v: type(v) in (int, float),
    "<time>": lambda v: isinstance(v, str) and TIME.fullmatch(v),
    "<hex64>": lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v),
    "<id>": lambda v: isinstance(v, str) and re.fullmatch("(chatcmpl|cmpl)-[0-9]+", v),
    **{f"<{kind}>": lambda v, kind=kind: isinstance(v, str) and re.fullmatch(kind + "_[0-9a-f]{24}", v)
       for kind in ("msg", "req", "toolu")},
    "<call>": lambda v: isinstance(v, str) and re.fullmatch("call_[a-z0-9]{8}", v),
}


def differs(want, got, where="answer"):
    """What is wrong, or None."""
    if isinstance(want, str) and want in HOLES:
        return None if HOLES[want](got) else f"{where} is {got!r}, no {want}"
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return f"{where} is {got!r}, no object"
        want = dict(want)
        more = want.pop("...", None)
        if set(want) - set(got) or (set(got) - set(want) and more is None):
            return f"{where} has the keys {sorted(got)}, wanted {sorted(want)}"
        return next((d for k in want if (d := differs(want[k], got[k], f"{where}.{k}"))), None)
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return f"{where} is {got!r}, wanted {want!r}"
        return next((d for i, (w, g) in enumerate(zip(want, got)) if (d := differs(w, g, f"{where}[{i}]"))), None)
    return None if type(want) is type(got) and want == got else f"{where} is {got!r}, wanted {want!r}"


def lines_differ(want, got):
    at = 0
    for i, line in enumerate(want):
        if line == "...":
            continue
        repeats = i + 1 < len(want) and want[i + 1] == "..."
        left = sum(1 for w in want[i + 1:] if w != "...")
        if at >= len(got):
            return f"only {len(got)} lines"
        wrong = differs(line, got[at], f"line {at}")
        if wrong:
            return wrong
        at += 1
        while repeats and at < len(got) - left and not differs(line, got[at]):
            at += 1
    return None if at == len(got) else f"line {at} is too many: {got[at]!r}"


def events(text):
    """The data of server-sent events."""
    found = []
    if not text.endswith("\n\n"):
        raise ValueError(f"the last event is cut: {text[-100:]!r}")
    for event in text.split("\n\n")[:-1]:
        name, data = None, None
        for line in event.split("\n"):
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data" and data is None:
                data = json.loads(value) if value[:1] == "{" else value
            else:
                raise ValueError(f"a line {line!r}")
        if name is not None and name != data["type"]:
            raise ValueError(f"event {name!r} of type {data['type']!r}")
        found.append(data)
    return found


def run(server, case):
    """None, or what is wrong."""
    body = case["raw"].encode("utf-8", "surrogatepass") if "raw" in case else case.get("body")
    status, headers, text = server.request(case.get("method", "POST"), case["path"], body, case.get("headers"))
    if status != case.get("status", 200):
        return f"status {status}, wanted {case.get('status', 200)}: {text[:300]!r}"
    if "type" in case and headers.get("Content-Type") != case["type"]:
        return f"Content-Type {headers.get('Content-Type')!r}, wanted {case['type']!r}"
    for name, value in case.get("head", {}).items():
        if headers.get(name) != value:
            return f"{name}: {headers.get(name)!r}, wanted {value!r}"
    try:
        if "text" in case:
            return None if text.decode() == case["text"] else f"text {text!r}"
        if "json" in case:
            return differs(case["json"], json.loads(text))
        if "lines" in case:
            return lines_differ(case["lines"], [json.loads(line) for line in text.decode().splitlines()])
        if "events" in case:
            return lines_differ(case["events"], events(text.decode()))
    except ValueError as problem:
        return f"{problem}: {text[:300]!r}"
    return None


def load(files=()):
    """All cases, as (file name, case)."""
    for path in sorted(files or (HERE / "api").glob("*.json")):
        for case in json.loads(Path(path).read_text()):
            yield Path(path).stem, case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("files", nargs="*")
    given = parser.parse_args()
    import tempfile

    import tiny
    from bridge import Bridge

    with tempfile.TemporaryDirectory() as root:
        if given.url:
            server = Bridge.__new__(Bridge)
            server.port = urllib.parse.urlsplit(given.url).port
            bad = check(server, given.files)
        else:
            tiny.write_all(root)
            with Bridge(roots=[root]) as server:
                bad = check(server, given.files)
    sys.exit(1 if bad else 0)


def check(server, files):
    good = bad = 0
    for file, case in load(files):
        wrong = run(server, case)
        good, bad = (good, bad + 1) if wrong else (good + 1, bad)
        if wrong:
            print(f"FAILED {file}: {case['name']}: {wrong}")
    print(f"{good} passed, {bad} failed")
    return bad


if __name__ == "__main__":
    main()
