"""Holds an imported model directory against its GGUF file and against mlx-lm.

    python tests/check_import.py FILE.gguf DIRECTORY [--no-generate]

Needs gguf, numpy, mlx[cpu], mlx-lm, transformers. Checks, with a failing assertion naming the tensor:
  - every matrix, dequantised by MLX, against the gguf package's own dequantisation: the error allowed follows from the
    form (none for those of EXACT, 2^-11 of the parts where a scale is a product, half a step of 8 bits for REGRIDDED);
  - the stored codes, bit for bit, for all forms that convert code by code: the package dequantises the same blocks under
    scales of one and offsets of nothing, which leaves the codes;
  - mlx_lm.load accepts the directory and generates.
"""

import argparse
import json
import pathlib

import gguf
import mlx.core as mx
import numpy as np
from gguf.quants import dequantize

EXACT = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q3_K", "IQ4_NL", "TQ1_0", "TQ2_0", "MXFP4"}
REGRIDDED = {"Q2_K", "Q6_K"}
ONE, NONE = b"\x00\x3c", b"\x00\x00"  # in f16
K_FACTORS = b"\x01" * 4 + b"\x00" * 4 + b"\x01" * 4
# What makes all scales of a block one: bytes and their places; then our code of the value v that is left: first + step * v.
BARE = {
    "Q4_0": ({0: ONE}, 8, 1), "Q4_1": ({0: ONE, 2: NONE}, 0, 1), "Q5_0": ({0: ONE}, 16, 1), "Q5_1": ({0: ONE, 2: NONE}, 0, 1),
    "Q8_0": ({0: ONE}, 128, 1), "Q4_K": ({0: ONE, 2: NONE, 4: K_FACTORS}, 0, 1), "Q5_K": ({0: ONE, 2: NONE, 4: K_FACTORS}, 0, 1),
    "Q3_K": ({108: ONE}, 128, -1),  # its factors of 16 elements are part of our codes
    "IQ4_NL": ({0: ONE}, 128, 1), "IQ4_XS": ({0: ONE, 2: b"\xaa" * 2, 4: b"\x11" * 4}, 128, 1),
    "TQ1_0": ({52: ONE}, 1, 1), "TQ2_0": ({64: ONE}, 1, 1),
}
PERMUTED = {"llama", "granite", "smollm3"}


def field(reader, key, default=None):
    found = reader.fields.get(key)
    return default if found is None else found.contents()


def unpermute(x, heads):
    """GGUF rows of one head are pairs (0, half), (1, half + 1), ...; HF has the two halves one after the other."""
    size = x.shape[0] // heads
    return x.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)


def names_of(directory):
    """GGUF tensor name -> MLX module, by asking the shapes is not enough: the common names, spelled out once more."""
    block = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    }
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

    def module(name):
        parts = name.split(".")
        return top[parts[0]] if parts[0] in top else f"model.layers.{parts[1]}.{block[parts[2]]}"

    return module


def codes_of(stored, bits):
    """The codes of rows that are one stream of bits each, lowest first."""
    rows = np.array(stored).view(np.uint8)
    if bits == 8:
        return rows
    if bits == 4:
        return np.stack([rows & 15, rows >> 4], axis=-1).reshape(len(rows), -1)
    stream = np.unpackbits(rows, axis=1, bitorder="little").reshape(len(rows), -1, bits)
    return np.packbits(stream, axis=-1, bitorder="little").reshape(len(rows), -1)


def bare_codes(data, kind):
    places, first, step = BARE[kind.name]
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]).copy()
    for at, those in places.items():
        blocks[:, at : at + len(those)] = np.frombuffer(those, dtype=np.uint8)
    return first + step * dequantize(blocks.reshape(data.shape), kind)


def check_matrix(t, want, codes, stored, tensors, module, spec):
    """What MLX makes of a quantised matrix, and how far that is from what the file says."""
    name, kind = t.name, t.tensor_type.name
    scales = tensors.pop(f"{module}.scales")
    if spec["mode"] == "mxfp4":
        got = np.array(mx.dequantize(stored, scales, group_size=32, bits=4, mode="mxfp4").astype(mx.float32))
        assert np.array_equal(got, want), f"{name} ({kind}): values differ"
        return got, np.abs(got - want)
    scales = scales.astype(mx.float32)
    biases = tensors.pop(f"{module}.biases").astype(mx.float32)
    got = np.array(mx.dequantize(stored, scales, biases, group_size=spec["group_size"], bits=spec["bits"]))
    scales, biases = np.repeat(np.array(scales), 32, axis=1), np.repeat(np.array(biases), 32, axis=1)
    if kind in EXACT:
        bound = 0  # sums of two parts that f32 holds exactly
    elif kind in REGRIDDED:
        bound = 0.51 * np.abs(scales) + 1e-3 * np.abs(want)
    else:
        bound = 2.0**-10 * (np.abs(scales) * (2 ** spec["bits"] - 1) + np.abs(biases)) + 1e-12
    miss = np.abs(got - want)
    assert (miss <= bound).all(), f"{name} ({kind}): off by {miss.max()}"
    if codes is not None:
        assert np.array_equal(codes, codes_of(stored, spec["bits"])), f"{name} ({kind}): codes differ"
    return got, miss


def check_tensors(reader, directory):
    arch = field(reader, "general.architecture")
    heads = {"attn_q": field(reader, f"{arch}.attention.head_count"),
             "attn_k": field(reader, f"{arch}.attention.head_count_kv")}
    config = json.loads((directory / "config.json").read_text())
    rule = config.get("quantization")
    tensors = mx.load(str(directory / "model.safetensors"))
    module_of = names_of(directory)
    for t in reader.tensors:
        kind = t.tensor_type.name
        if t.name.startswith("rope_"):
            continue
        want = dequantize(t.data, t.tensor_type).astype(np.float32)
        codes = bare_codes(t.data, t.tensor_type) if kind in BARE else None
        part = t.name.split(".")[2] if t.name.startswith("blk.") else ""
        if arch in PERMUTED and part in heads:
            want = unpermute(want, heads[part])
            codes = codes if codes is None else unpermute(codes, heads[part])
        module, suffix = module_of(t.name), t.name.rsplit(".", 1)[1]
        stored = tensors.pop(f"{module}.{suffix}")
        if suffix == "bias" or f"{module}.scales" not in tensors:
            assert np.array_equal(np.array(stored.astype(mx.float32)), want), t.name
            continue
        spec = rule.get(module, rule)
        got, miss = check_matrix(t, want, codes, stored, tensors, module, spec)
        rms = np.sqrt((miss**2).mean()) / max(np.sqrt((want**2).mean()), 1e-30)
        if t.name.startswith("blk.0.") or not t.name.startswith("blk."):
            print(f"{t.name:28} {kind:5} -> {spec['bits']} bits, rms error {rms:.2e}")
    assert not tensors, f"tensors that the GGUF file does not have: {sorted(tensors)[:5]}"


def check_tokens(reader, directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    for i in list(range(0, len(tokens), 97)) + [i for i, kind in enumerate(types) if kind in (3, 4)]:
        if not tokens[i].startswith("[PAD"):  # rows that no token uses
            assert tokenizer.convert_tokens_to_ids(tokens[i]) == i, (i, tokens[i])
    for text in ("Hello, world! 12345", "naïve café ﬁ 北京 🙂\n\n\tx == y", "def f(x):\n        return x**2  # don't\r\n"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        # Vocabularies that normalise to NFC give the composed form back; these texts are composed already.
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text, (text, ids)
    print("tokenizer:", type(tokenizer).__name__, len(tokenizer), "tokens")


def check_generation(directory):
    from mlx.utils import tree_map
    from mlx_lm import generate, load

    model, tokenizer = load(str(directory))
    model.update(tree_map(lambda x: x.astype(mx.float32) if x.dtype == mx.float16 else x, model.parameters()))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    answer = generate(model, tokenizer, prompt, max_tokens=16)
    print("answer:", repr(answer))
    assert answer.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--no-generate", action="store_true")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    reader = gguf.GGUFReader(args.gguf)
    check_tensors(reader, args.directory)
    check_tokens(reader, args.directory)
    if not args.no_generate:
        check_generation(args.directory)
    print("ok")


if __name__ == "__main__":
    main()
