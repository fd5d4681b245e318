#!/usr/bin/env python3
"""Answers under a JSON schema, from a real small model at temperature 1: each has to be JSON, to validate, and to end within
num_predict; and each tool call that is forced upon the model has to parse and validate, too.

    structured.py --program build/release/bin/mlx-ollama-bridge [--number 500] [--seed 1] DIR

The schemas use every keyword that the grammar library has. num_predict is small, so that many answers are led to their
end. Ends with "structured: N passed, N failed".
"""
import argparse
import collections
import concurrent.futures
import json
import os
import sys
import time
from pathlib import Path

import jsonschema

sys.path.insert(0, str(Path(__file__).resolve().parent))

PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
          "required": ["name", "age"], "additionalProperties": False}
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
    "value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["value", "children"], "additionalProperties": False}}}
LIST = {"$ref": "#/$defs/cell", "$defs": {"cell": {"anyOf": [{"type": "null"}, {
    "type": "object", "properties": {"head": {"type": "string", "minLength": 1}, "tail": {"$ref": "#/$defs/cell"}},
    "required": ["head", "tail"], "additionalProperties": False}]}}}


def text(**rules):
    return {"type": "string", **rules}


def one(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# name -> (schema, num_predict)
SCHEMAS = {
    "any object": ({"type": "object"}, 40),
    "anything": ({}, 40),
    "person": (PERSON, 40),
    "optional properties": ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}, "c": PERSON},
                             "additionalProperties": False}, 40),
    "other properties": ({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"],
                          "additionalProperties": {"type": "boolean"}}, 40),
    "any other properties": ({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}, 40),
    "properties by pattern": ({"type": "object", "patternProperties": {"^n_[a-z]+$": {"type": "integer"}, "^s_[a-z]+$": {"type": "string"}},
                               "additionalProperties": False, "minProperties": 1}, 40),
    "number of properties": ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2, "maxProperties": 4}, 48),
    "list of strings": ({"type": "array", "items": {"type": "string"}, "minItems": 1}, 40),
    "list of few": ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 5}, 40),
    "list of many": ({"type": "array", "items": {"type": "integer"}, "minItems": 12}, 60),
    "tuple": ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}], "items": False, "minItems": 3}, 40),
    "tuple and more": ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "number"}}, 40),
    "lists in lists": ({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}, 40),
    "enum": ({"enum": ["red", "green", "blue", 7, None, {"a": [1, 2]}]}, 24),
    "enum in an object": (one(color={"enum": ["red", "green", "blue"]}, size={"enum": [1, 2, 3]}), 32),
    "const": (one(kind={"const": "cat"}, legs={"const": 4}, alive={"const": True}), 32),
    "anyOf": ({"anyOf": [PERSON, {"type": "array", "items": {"type": "integer"}}, {"type": "string"}]}, 40),
    "anyOf with a tag": ({"anyOf": [one(type={"const": "circle"}, r={"type": "number"}), one(type={"const": "box"}, w={"type": "number"},
                                                                                           h={"type": "number"})]}, 40),
    "oneOf": ({"oneOf": [one(a={"type": "integer"}), one(b={"type": "string"})]}, 40),
    "allOf": ({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}, 40),
    "types": ({"type": ["string", "integer", "null"]}, 24),
    "a type or null": (one(a={"type": ["string", "null"]}, b={"type": ["number", "null"]}), 40),
    "boolean": ({"type": "boolean"}, 8),
    "null": ({"type": "null"}, 8),
    "integer": ({"type": "integer"}, 16),
    "number": ({"type": "number"}, 16),
    "bounds": (one(a={"type": "integer", "minimum": -5, "maximum": 17}, b={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), 40),
    "lower bounds": (one(a={"type": "integer", "minimum": 1000}, b={"type": "integer", "exclusiveMinimum": -3}), 40),
    "multiples": (one(a={"type": "integer", "multipleOf": 7}, b={"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 100}), 40),
    "string": ({"type": "string"}, 24),
    "lengths": (one(a=text(minLength=3, maxLength=8), b=text(minLength=10), c=text(maxLength=4)), 60),
    "pattern": (one(code=text(pattern="^[A-Z]{2}-[0-9]{4}$"), word=text(pattern="^[a-z]+$")), 40),
    "pattern with a loop": (one(code=text(pattern="^(ab|cd)*ef$")), 40),
    "date and time": (one(at=text(format="date-time"), day=text(format="date"), hour=text(format="time")), 90),
    "addresses": (one(mail=text(format="email"), four=text(format="ipv4")), 60),
    "address of six": (one(six=text(format="ipv6")), 60),
    "uuid": (one(id=text(format="uuid")), 60),
    "definitions": ({"type": "object", "properties": {"from": {"$ref": "#/definitions/place"}, "to": {"$ref": "#/definitions/place"}},
                     "required": ["from", "to"], "additionalProperties": False, "definitions": {"place": one(city=text(), zip=text(pattern="^[0-9]{5}$"))}}, 72),
    "tree": (TREE, 60),
    "list of cells": (LIST, 48),
    "list of people": ({"type": "array", "items": PERSON, "minItems": 2}, 72),
    "nested": (one(a=one(b=one(c=one(d={"type": "array", "items": one(e={"type": "boolean"})})))), 60),
    "unicode": (one(**{"größe": {"type": "integer"}, "名前": {"type": "string"}}), 40),
    "escapes": (one(**{'a"b\\c': {"type": "string"}}), 40),
    "annotations": ({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "description": "D", "$comment": "C",
                     "type": "object", "properties": {"a": {"type": "integer", "default": 3, "examples": [1]}}, "required": ["a"],
                     "additionalProperties": False}, 24),
}
# The shortest document has more tokens than there may be.
TOO_LONG = (one(a={"type": "array", "items": text(minLength=20), "minItems": 10}), 30)
PROMPTS = ["Tell me about a person.", "What is the weather like in Paris?", "Write a story about a dog.", "List some fruits.",
           "Give me random data.", "2 + 2 ="]

passed = collections.Counter()
failed = []
lengths = collections.Counter()


def check(name, problem):
    if problem:
        failed.append(name)
        print(f"FAILED {name}: {problem}", flush=True)
    else:
        passed[name.split(" #")[0]] += 1


def problem_of(answer, schema, num_predict):
    if answer["eval_count"] > num_predict:
        return f"{answer['eval_count']} tokens, {num_predict} were allowed"
    if answer["done_reason"] != "stop":
        return f"ended by {answer['done_reason']}: {answer['response']!r}"
    try:
        value = json.loads(answer["response"])
        validator = jsonschema.Draft202012Validator
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(value)
    except (ValueError, jsonschema.ValidationError) as e:
        return f"{str(e).splitlines()[0]} in {answer['response']!r}"
    return None


def generate(server, model, i, seed):
    names = list(SCHEMAS)
    name = names[i % len(names)]
    schema, num_predict = SCHEMAS[name]
    body = {"model": model, "prompt": PROMPTS[i // len(names) % len(PROMPTS)], "format": schema, "stream": False,
            "options": {"temperature": 1, "seed": seed + i, "num_predict": num_predict, "top_k": 0, "top_p": 1, "num_ctx": 512}}
    status, _, raw = server.request("POST", "/api/generate", body)
    label = f"{name} #{i}"
    if status != 200:
        return check(label, raw[:300])
    answer = json.loads(raw)
    lengths["tokens"] += answer["eval_count"]
    lengths["near the end"] += answer["eval_count"] + 3 > num_predict
    check(label, problem_of(answer, schema, num_predict))


def too_long(server, model):
    schema, num_predict = TOO_LONG
    answer = server.json("POST", "/api/generate", {"model": model, "prompt": "Go.", "format": schema, "stream": False,
                                                   "options": {"num_predict": num_predict, "temperature": 1, "seed": 1}})
    check("what cannot end in time", None if answer["done_reason"] == "length" and answer["eval_count"] == num_predict else answer)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", required=True)
    arguments.add_argument("--number", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=0)
    arguments.add_argument("model", type=Path)
    given = arguments.parse_args()
    os.environ["LM_BUILD"] = str(Path(given.program).resolve().parents[1])
    from e2e.known.bridge import Bridge

    start = time.monotonic()
    options = ["--threads", str(given.threads)] if given.threads else []
    with Bridge(*options, roots=[given.model.resolve().parent]) as server:
        names = [m["name"] for m in server.json("GET", "/api/tags")["models"]]
        model = next(n for n in names if n.split(":")[0].split("/")[-1] == given.model.name)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(generate, server, model, i, given.seed) for i in range(given.number)]:
                done.result()
        too_long(server, model)
    print(f"{lengths['tokens']} tokens in {time.monotonic() - start:.0f} s, {lengths['near the end']} answers within 3 tokens of num_predict")
    print(f"structured: {sum(passed.values())} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
