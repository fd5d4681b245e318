"""Every GGML form that the importer knows, in a tiny model, against the gguf package and MLX: values, and codes bit for bit.

    python tests/check_forms.py IMPORTER

Needs gguf, numpy, mlx. Forms that the package can write are written by it, out of random numbers; of the others the bytes are
random under sensible scales, as in tests/golden/make_blocks.py.
"""

import pathlib
import subprocess
import sys
import tempfile

import gguf
import mlx.core as mx
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent / "golden"))
from check_import import EXACT, REGRIDDED, check_tensors
from make_blocks import F16_AT

ROWS, COLS = 24, 512
WRITTEN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]


def random_blocks(rng, kind):
    size, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLS // size, width), dtype=np.uint8)
    for at in F16_AT[kind.name]:
        blocks[:, at : at + 2] = rng.normal(0, 0.01, len(blocks)).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def write(path, rng):
    """One layer for each form."""
    out = gguf.GGUFWriter(path, "qwen2")
    out.add_block_count(len(F16_AT))
    out.add_context_length(128)
    out.add_embedding_length(COLS)
    out.add_feed_forward_length(ROWS)
    out.add_head_count(2)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([chr(97 + i) for i in range(ROWS - 1)] + ["ab"])
    out.add_token_types([1] * ROWS)
    out.add_token_merges(["a b"])
    out.add_tensor("token_embd.weight", rng.normal(0, 1, (ROWS, COLS)).astype(np.float16))
    for i, name in enumerate(F16_AT):
        kind = gguf.GGMLQuantizationType[name]
        numbers = rng.normal(0, 0.02, (ROWS, COLS)).astype(np.float32)
        data = gguf.quants.quantize(numbers, kind) if name in WRITTEN else random_blocks(rng, kind)
        out.add_tensor(f"blk.{i}.ffn_up.weight", data, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    mx.set_default_device(mx.cpu)
    print("exact:", *sorted(EXACT), "- on another grid:", *sorted(REGRIDDED))
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for seed in range(8):
            file, made = place / f"{seed}.gguf", place / str(seed)
            write(file, np.random.default_rng(seed))
            subprocess.run([sys.argv[1], file, made], check=True, stdout=subprocess.DEVNULL)
            check_tensors(gguf.GGUFReader(file), made)
    print("ok")


if __name__ == "__main__":
    main()
