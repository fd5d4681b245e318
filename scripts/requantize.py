#!/usr/bin/env python3
"""Makes another quantised form of an MLX model directory, for comparing engines at equal bits.

    python scripts/requantize.py DIRECTORY OUT [--bits 4] [--group 64] [--dtype float16]

Every matrix that is quantised is dequantised in float32 and quantised again; everything else is taken over. Needs
mlx[cpu]. A second quantisation loses a little against one from the original weights: this is for measuring speed and
for tests, not for models to use.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

import mlx.core as mx


def requantize(source, out, bits, group, dtype):
    config = json.loads((source / "config.json").read_text())
    rule = config.get("quantization")
    if not rule:
        sys.exit(f"{source} is not quantised: use mlx_lm.convert -q")
    tensors = {}
    for file in sorted(source.glob("model*.safetensors")):
        tensors.update(mx.load(str(file)))
    result = {}
    for name, value in tensors.items():
        module, _, part = name.rpartition(".")
        if part in ("scales", "biases") and f"{module}.weight" in tensors:
            continue
        if part == "weight" and f"{module}.scales" in tensors:
            own = rule.get(module, rule)
            parts = [tensors[f"{module}.{p}"] for p in ("scales", "biases") if f"{module}.{p}" in tensors]
            parts = [p if p.dtype == mx.uint8 else p.astype(mx.float32) for p in parts]
            mode = own.get("mode", "affine")
            matrix = mx.dequantize(value, *parts, group_size=own["group_size"], bits=own["bits"], mode=mode)
            codes, scales, biases = mx.quantize(matrix.astype(mx.float32), group_size=group, bits=bits)
            result[name] = codes
            result[f"{module}.scales"] = scales.astype(dtype)
            result[f"{module}.biases"] = biases.astype(dtype)
            mx.eval(codes, scales, biases)
        else:
            result[name] = value
    config["quantization"] = {"group_size": group, "bits": bits, "mode": "affine"}
    for module, own in rule.items():
        if own is False:
            config["quantization"][module] = False
    config["quantization_config"] = config["quantization"]

    out.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith("model") and file.name != "config.json":
            shutil.copy(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config, indent=2))
    mx.save_safetensors(str(out / "model.safetensors"), result, metadata={"format": "mlx"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"{args.out} exists")
    mx.set_default_device(mx.cpu)
    temp = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    try:
        requantize(args.directory, temp, args.bits, args.group, getattr(mx, args.dtype))
        temp.rename(args.out)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


if __name__ == "__main__":
    main()
