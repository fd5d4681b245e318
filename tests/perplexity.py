#!/usr/bin/env python3
"""Perplexity of model directories here and in mlx-lm (float32, CPU) over the same text; fails when they differ.

    perplexity.py --program build/release/bin/lm-perplexity [--limit 0.005] [--features NAME] MODEL_DIR...
    perplexity.py --program ... --gguf FILE.gguf [--limit 0.001] [--features reference] MODEL_DIR

With --gguf the model was imported from that file, and the reference is the file itself: its tensors as the gguf package dequantises
them, in mlx-lm's float32 model; ours (--limit) and mlx-lm's number of the imported directory (0.1 %) are both held against it.

Needs tokenizers, and mlx-lm 0.32.2 (with --gguf: gguf) where a number is not known yet. The text is tests/data/perplexity.txt:
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
EXACT = 0.001  # what the import itself may change, in the same float32 model
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


def imported_model(directory):
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model

    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return dequantize_model(model)  # the same numbers; plain products are many times faster on a CPU


def gguf_model(directory, file):
    """What the file says, with nothing of the importer's but config.json."""
    import gguf
    import mlx.core as mx
    import numpy as np
    from check_import import PERMUTED, field, names_of, unpermute
    from gguf.quants import dequantize
    from mlx_lm.utils import _get_classes

    config = json.loads((directory / "config.json").read_text())
    config.pop("quantization", None)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    reader, module_of, weights = gguf.GGUFReader(file), names_of(directory), {}
    arch = field(reader, "general.architecture")
    heads = {"attn_q": field(reader, f"{arch}.attention.head_count"), "attn_k": field(reader, f"{arch}.attention.head_count_kv")}
    for t in reader.tensors:
        values = dequantize(t.data, t.tensor_type).astype(np.float32)
        part = t.name.split(".")[2] if t.name.startswith("blk.") else ""
        if arch in PERMUTED and part in heads:
            values = unpermute(values, heads[part])
        if not t.name.startswith("rope_"):
            weights[f"{module_of(t.name)}.{t.name.rsplit('.', 1)[1]}"] = mx.array(values)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    model.load_weights(list(weights.items()))
    return model


def reference(make, ids, window):
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np

    mx.set_default_device(mx.cpu)
    model = make()
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
    return {"perplexity": math.exp(total / count), "tokens": count}


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
    args.add_argument("--gguf", type=Path, help="the file that the one model was imported from")
    args.add_argument("--windows", type=int, help="only the first so many windows, for slow kernels")
    args.add_argument("models", nargs="+", type=Path)
    a = args.parse_args()
    if a.gguf and len(a.models) > 1:
        args.error("--gguf goes with one model")
    cache = a.cache or Path(tempfile.mkdtemp(prefix="perplexity-"))
    cache.mkdir(parents=True, exist_ok=True)
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    recorded, used = dict(known), set()

    def look_up(name, key, make, ids):
        """A number of mlx-lm's: known, kept in the cache, or computed now."""
        cached = cache / f"{key}.json"
        if key not in known and cached.exists() and not a.record:
            known[key] = json.loads(cached.read_text())
        if key not in known or (a.record and key not in used):
            known[key] = reference(make, ids, a.window)
            for other in [k for k in recorded if k.rpartition("-")[0] == name and k not in used]:
                del recorded[other]
            cached.write_text(json.dumps(known[key]))
        used.add(key)
        recorded[key] = known[key]
        return known[key]

    bad = 0
    for directory in a.models:
        from tokenizers import Tokenizer

        text = TEXT.read_text(encoding="utf-8")
        ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        ids = windows(ids, a.window)[: a.windows * a.window if a.windows else None]
        name = f"{directory.name}-first-{a.windows}" if a.windows else directory.name
        key = f"{name}-{digest(ids, a.window, sorted(directory.glob('*.safetensors')))}"
        ids_file = cache / f"{key}.ids"
        ids_file.write_text(" ".join(map(str, ids)))
        theirs = look_up(name, key, lambda: imported_model(directory), ids)
        command = [a.program, "--model", str(directory), "--ids", str(ids_file), "--window", str(a.window)]
        command += ["--threads", a.threads] + (["--features", a.features] if a.features else [])
        got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        numbers, want, whose = [(got, f"with {got['device']}", a.limit)], theirs, "mlx-lm"
        if a.gguf:
            label = f"{name}-gguf"
            want = look_up(label, f"{label}-{digest(ids, a.window, [a.gguf])}", lambda: gguf_model(directory, a.gguf), ids)
            numbers, whose = [*numbers, (theirs, "with mlx-lm", EXACT)], a.gguf.name
        for number, engine, limit in numbers:
            if number["tokens"] != want["tokens"]:
                sys.exit(f"{directory}: {number['tokens']} tokens {engine}, {want['tokens']} in {whose}")
            off = number["perplexity"] / want["perplexity"] - 1
            fine = abs(off) <= limit
            bad += not fine
            print(f"{name}: {number['perplexity']:.4f} {engine}, {whose} {want['perplexity']:.4f}: "
                  f"{off:+.4%} {'ok' if fine else 'TOO FAR'}", flush=True)
    if a.record:
        KNOWN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    if bad:
        sys.exit(f"{bad} numbers are too far off")


if __name__ == "__main__":
    main()
