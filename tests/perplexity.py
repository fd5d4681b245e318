#!/usr/bin/env python3
"""Perplexity of model directories here and in mlx-lm (float32, CPU) over the same text; fails when they differ.

    perplexity.py --program build/release/bin/lm-perplexity [--limit 0.005] [--features NAME] MODEL_DIR...

Needs tokenizers, and mlx-lm 0.32.2 where mlx-lm's number is not known yet. The text is tests/data/perplexity.txt:
beginnings of public-domain novels, prose and C code of our own. mlx-lm's numbers for the real models are kept in
tests/data/perplexity.json, under a digest of ids and weights, because they take minutes; --record adds those of the
directories given, others are kept in --cache.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
TEXT, KNOWN = DATA / "perplexity.txt", DATA / "perplexity.json"


def multiply_with_numpy(nn, mx, np):
    """mlx's CPU wheel comes with the reference BLAS, at 2 GFLOP/s; numpy's does the same in float32, fifty times faster."""
    weights = {}

    def product(module, x):
        if id(module) not in weights:
            weights[id(module)] = np.array(module.weight).T
        y = np.array(x) @ weights[id(module)]
        return mx.array(y + np.array(module.bias) if "bias" in module else y)

    nn.Linear.__call__ = product
    nn.Embedding.as_linear = product


def reference(directory, ids, window):
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx_lm.utils import dequantize_model, load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    model = dequantize_model(model)  # the same numbers; plain products are many times faster on a CPU
    dequantize_model(model)
    mx.eval(model.parameters())
    multiply_with_numpy(nn, mx, np)
    total, count = 0.0, 0
    for at in range(0, len(ids) - 1, window):
        part = ids[at : at + window]
        if len(part) < 2:
            break
        logits = np.array(model(mx.array([part[:-1]]))[0], dtype=np.float64)
        top = logits.max(axis=-1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
        total += float((norm - logits[np.arange(len(part) - 1), part[1:]]).sum())
        count += len(part) - 1
    return math.exp(total / count), count


def windows(ids, window):
    """Whole windows from four beginnings, one after the other: each token is met in several contexts. How far rounding moves
    a perplexity depends on chance (0.15 % for 1,500 tokens of a small model); more contexts average that out."""
    cut = []
    for first in range(0, window, window // 4):
        cut += ids[first : first + (len(ids) - first) // window * window]
    return cut


def digest(ids, window, weights):
    total = hashlib.sha256(repr((ids, window)).encode())
    for path in weights:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                total.update(piece)
    return total.hexdigest()[:16]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--program", required=True)
    args.add_argument("--limit", type=float, default=0.005, help="largest relative difference")
    args.add_argument("--window", type=int, default=512)
    args.add_argument("--features")
    args.add_argument("--threads", default="0")
    args.add_argument("--cache", type=Path, help="a directory for ids and mlx-lm's numbers")
    args.add_argument("--record", action="store_true", help="run mlx-lm and keep its numbers in tests/data/perplexity.json")
    args.add_argument("models", nargs="+", type=Path)
    a = args.parse_args()
    cache = a.cache or Path(tempfile.mkdtemp(prefix="perplexity-"))
    cache.mkdir(parents=True, exist_ok=True)
    bad = 0
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    recorded = dict(known)
    for directory in a.models:
        from tokenizers import Tokenizer

        text = TEXT.read_text(encoding="utf-8")
        ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        ids = windows(ids, a.window)
        weights = sorted(directory.glob("*.safetensors"))
        key = f"{directory.name}-{digest(ids, a.window, weights)}"
        ids_file, cached = cache / f"{key}.ids", cache / f"{key}.json"
        ids_file.write_text(" ".join(map(str, ids)))
        if key not in known and cached.exists() and not a.record:
            known[key] = json.loads(cached.read_text())
        if key not in known or a.record:
            want, count = reference(directory, ids, a.window)
            known[key] = {"perplexity": want, "tokens": count}
            for other in [k for k in recorded if k.rpartition("-")[0] == directory.name]:
                del recorded[other]
            cached.write_text(json.dumps(known[key]))
        want = known[key]
        command = [a.program, "--model", str(directory), "--ids", str(ids_file), "--window", str(a.window)]
        command += ["--threads", a.threads] + (["--features", a.features] if a.features else [])
        got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if got["tokens"] != want["tokens"]:
            sys.exit(f"{directory}: {got['tokens']} tokens here, {want['tokens']} in mlx-lm")
        off = got["perplexity"] / want["perplexity"] - 1
        fine = abs(off) <= a.limit
        bad += not fine
        print(f"{directory.name}: {got['perplexity']:.4f} with {got['device']}, mlx-lm {want['perplexity']:.4f}: "
              f"{off:+.3%} {'ok' if fine else 'TOO FAR'}", flush=True)
        recorded[key] = want
    if a.record:
        KNOWN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    if bad:
        sys.exit(f"{bad} of {len(a.models)} models differ by more than {a.limit:.1%}")


if __name__ == "__main__":
    main()
