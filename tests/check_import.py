"""Holds an imported model directory against its GGUF file and against mlx-lm.

    python tests/check_import.py FILE.gguf DIRECTORY [--no-generate]

Needs gguf, numpy, mlx[cpu], mlx-lm, transformers. Checks, with a failing assertion naming the tensor:
  - every matrix, dequantised by MLX, against the gguf package's own dequantisation: the error allowed follows from the
    form (exact for Q4_0..Q8_0, 2^-11 of the parts for K-quants, half a step of 8 bits for Q6_K);
  - codes recomputed from the GGUF values are the stored ones for the forms that convert code by code;
  - mlx_lm.load accepts the directory and generates.
"""

import argparse
import json
import pathlib

import gguf
import mlx.core as mx
import numpy as np
from gguf.quants import dequantize

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
        part = t.name.split(".")[2] if t.name.startswith("blk.") else ""
        if arch in PERMUTED and part in heads:
            want = unpermute(want, heads[part])
        module, suffix = module_of(t.name), t.name.rsplit(".", 1)[1]
        stored = tensors.pop(f"{module}.{suffix}")
        if suffix == "bias" or f"{module}.scales" not in tensors:
            assert np.array_equal(np.array(stored.astype(mx.float32)), want), t.name
            continue
        spec = rule.get(module, rule)
        scales = tensors.pop(f"{module}.scales").astype(mx.float32)
        biases = tensors.pop(f"{module}.biases").astype(mx.float32)
        got = np.array(mx.dequantize(stored, scales, biases, group_size=spec["group_size"], bits=spec["bits"]))
        scales, biases = np.array(scales), np.array(biases)
        steps = np.repeat(np.abs(scales), 32, axis=1)
        if kind.endswith("_0") or kind.endswith("_1"):
            bound = 1e-6 * (np.abs(want) + np.repeat(np.abs(biases), 32, axis=1))
        elif kind == "Q6_K":
            bound = 0.51 * steps + 1e-3 * np.abs(want)
        else:
            bound = 2.0**-10 * (steps * (2 ** spec["bits"] - 1) + np.repeat(np.abs(biases), 32, axis=1))
        miss = np.abs(got - want)
        assert (miss <= bound + 1e-12).all(), f"{t.name} ({kind}): off by {miss.max()}"
        if kind != "Q6_K":
            with np.errstate(divide="ignore", invalid="ignore"):
                codes = np.rint((want - np.repeat(biases, 32, axis=1)) / np.repeat(scales, 32, axis=1))
            mine = np.rint((got - np.repeat(biases, 32, axis=1)) / np.where(steps == 0, 1, np.repeat(scales, 32, axis=1)))
            assert (codes == mine)[steps > 0].all(), f"{t.name} ({kind}): codes differ"
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
