"""Makes tests/golden/import/blocks.safetensors: blocks of every GGML type that the importer converts, and their values.

Run with an interpreter that has gguf, numpy and safetensors:  python tests/golden/make_blocks.py
For each TYPE: TYPE.blocks, the bytes (random codes under sensible scales), and TYPE.values, f32, as the gguf package
dequantises them.
"""

import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent / "import" / "blocks.safetensors"
ELEMENTS = 1024
# where the f16 numbers of a block lie: scales (positive or negative) at these byte offsets
F16_AT = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "MXFP4": [], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64]}


def main():
    rng = np.random.default_rng(11)
    tensors = {}
    for name, places in F16_AT.items():
        kind = gguf.GGMLQuantizationType[name]
        size, width = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ELEMENTS // size, width), dtype=np.uint8)
        for at in places:
            scales = rng.normal(0, 0.01, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            blocks[:, 0] = rng.integers(115, 130, len(blocks))
        if name == "Q6_K":  # some pairs of equal and of doubled scales, which the 8-bit form holds exactly
            blocks[0, 193] = blocks[0, 192]
            blocks[0, 194:196] = [20, 40]
        if name == "Q2_K":  # the same offset for both halves
            blocks[0, 0:4] = [0x37, 0x3A, 0x51, 0x5F]
        if name == "Q3_K":  # the largest product, -32 * -4, in the first group
            blocks[0, 96:108] = 0
            blocks[0, :32] = blocks[0, 32:64] = 0
        tensors[f"{name}.blocks"] = blocks.reshape(-1)
        tensors[f"{name}.values"] = dequantize(blocks.reshape(1, -1), kind).astype(np.float32).reshape(-1)
    OUT.parent.mkdir(exist_ok=True)
    save_file(tensors, str(OUT))


if __name__ == "__main__":
    main()
