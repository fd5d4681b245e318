"""Makes tests/golden/weights/quantised.safetensors: every quantised form as MLX itself writes and reads it.

Run with an interpreter that has mlx (mlx[cpu] is enough):  python tests/golden/make_weights.py
For each form NAME the file holds NAME.weight, NAME.scales, NAME.biases and NAME.expected, the f32 values that
mx.dequantize gives for f32 copies of scales and biases.
"""

import pathlib

import mlx.core as mx

OUT = pathlib.Path(__file__).parent / "weights" / "quantised.safetensors"
ROWS, COLS, EXPERTS = 2, 128, 3
DTYPES = {"f16": mx.float16, "bf16": mx.bfloat16, "f32": mx.float32}


def add(tensors, name, matrix, **spec):
    parts = mx.quantize(matrix, **spec)
    floats = [p if p.dtype == mx.uint8 else p.astype(mx.float32) for p in parts[1:]]
    tensors[f"{name}.weight"] = parts[0]
    for key, value in zip(("scales", "biases"), parts[1:]):
        tensors[f"{name}.{key}"] = value
    expected = mx.dequantize(parts[0], *floats, dtype=mx.float32, **spec)
    tensors[f"{name}.expected"] = expected.astype(mx.float32)


def main():
    mx.set_default_device(mx.cpu)
    mx.random.seed(7)
    tensors = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for label, dtype in DTYPES.items():
                matrix = mx.random.normal((ROWS, COLS)).astype(dtype)
                add(tensors, f"affine_{bits}_{group}_{label}", matrix, bits=bits, group_size=group)
    add(tensors, "mxfp4_4_32_u8", mx.random.normal((ROWS, COLS)), bits=4, group_size=32, mode="mxfp4")
    stack = mx.random.normal((EXPERTS, ROWS, COLS))
    add(tensors, "stack_5_64_f16", stack.astype(mx.float16), bits=5, group_size=64)
    add(tensors, "stackmx_4_32_u8", stack, bits=4, group_size=32, mode="mxfp4")
    for label, dtype in DTYPES.items():
        plain = mx.random.normal((ROWS, COLS)).astype(dtype)
        tensors[f"plain_{label}.weight"] = plain
        tensors[f"plain_{label}.expected"] = plain.astype(mx.float32)
    for label, spec in (("mxfp8_8_32", dict(bits=8, group_size=32)), ("nvfp4_4_16", dict(bits=4, group_size=16))):
        mode = label[:5]
        add(tensors, label + "_u8", mx.random.normal((ROWS, COLS)), mode=mode, **spec)
        add(tensors, f"stack{mode[:2]}" + label[5:] + "_u8", stack, mode=mode, **spec)
    OUT.parent.mkdir(exist_ok=True)
    mx.save_safetensors(str(OUT), tensors)


if __name__ == "__main__":
    main()
