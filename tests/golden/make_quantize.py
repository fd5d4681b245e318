#!/usr/bin/env python3
"""Makes tests/golden/quantize/model.safetensors: numbers, and every quantised form that MLX makes of them.

Run with an interpreter that has mlx (mlx[cpu] is enough):  python tests/golden/make_quantize.py
For each type TYPE (f32, f16, bf16) the file holds TYPE, a matrix, and for each form NAME of
it TYPE.NAME.weight, TYPE.NAME.scales and, of the affine ones, TYPE.NAME.biases.

    make_quantize.py --check PROGRAM    instead holds PROGRAM, weights.quantize_test of a build, against millions of numbers
"""

import argparse
import os
import pathlib
import subprocess
import tempfile

import mlx.core as mx
import numpy as np

OUT = pathlib.Path(__file__).parent / "quantize" / "model.safetensors"
COLS = 256
TYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
FORMS = {f"affine_{b}_{g}": dict(bits=b, group_size=g) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)}
FORMS |= {m: dict(mode=m) for m in ("mxfp4", "mxfp8", "nvfp4")}


def numbers(rows, seed):
    """Rows of several kinds: as weights are, and what rounds, saturates or vanishes."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    kinds = [
        lambda: normal(COLS) * 0.02,
        lambda: normal(COLS) * np.exp2(rng.integers(-14, 6, COLS)),
        lambda: np.round(normal(COLS) * 4) / 4,  # ties
        lambda: np.round(normal(COLS) * 16) / 64 * np.repeat(np.exp2(rng.integers(-6, 6, COLS // 16)), 16),
        lambda: np.where(rng.random(COLS) < 0.9, 0.0, normal(COLS)) * rng.choice([1.0, -1.0]),
        lambda: np.abs(normal(COLS)) + 1,  # all of one sign, far from zero
        lambda: -np.abs(normal(COLS)) - 3,
        lambda: np.repeat(normal(COLS // 32), 32) * np.repeat(rng.choice([0.0, -0.0, 1.0], COLS // 16), 16),
        lambda: normal(COLS) * 1e-6,
        lambda: normal(COLS) * 9000,
    ]
    return np.stack([kinds[i % len(kinds)]() for i in range(rows)]).astype(np.float32)


def tensors(rows, seed):
    out = {}
    for label, dtype in TYPES.items():
        out[label] = mx.array(numbers(rows, seed)).astype(dtype)
        for name, spec in FORMS.items():
            for part, value in zip(("weight", "scales", "biases"), mx.quantize(out[label], **spec)):
                out[f"{label}.{name}.{part}"] = value
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", metavar="PROGRAM")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if not args.check:
        mx.save_safetensors(str(OUT), tensors(10, 1))
        return
    for seed in range(2, 5):
        with tempfile.TemporaryDirectory() as directory:
            mx.save_safetensors(f"{directory}/model.safetensors", tensors(2000, seed))
            subprocess.run([args.check], env=os.environ | {"LM_GOLDEN_QUANTIZE": directory}, check=True)


if __name__ == "__main__":
    main()
