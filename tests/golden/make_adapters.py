#!/usr/bin/env python3
"""LoRA adapters for some of the tiny models, and what mlx-lm computes with them: make_models.py makes them beside its own.

    make_adapters.py OUT_DIR --record    runs mlx-lm and rewrites adapters/expected.safetensors (OUT_DIR: make_models.py's)

Each adapter lies in OUT_DIR/adapters/MODEL in the forms that are read: mlx/ as mlx-lm has it, peft/ the same numbers as PEFT has
them (but for stacks of experts), and gguf/ as llama.cpp's convert_lora_to_gguf.py has them. A and B come from the formula
that the weights come from. The expected numbers are mlx-lm's with the first form, as in make_models.py.
"""
import argparse
import json
import struct
from pathlib import Path

import numpy as np
from make_models import GREEDY, MARGIN, PROMPT, Weights, all_cases, build, run_reference, uniform

HERE = Path(__file__).resolve().parent / "adapters"
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
FUSED = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
SWITCH = ["gate_proj", "up_proj", "down_proj"]
# model, its GGUF architecture, rank, scale, what is adapted, the type of A and B
CASES = [
    ("llama-f32", "llama", 3, 1.5, ATTENTION + MLP + ["lm_head"], "F32"),
    ("llama-q4-g32", "llama", 8, 2.0, ATTENTION + MLP, "F32"),
    ("llama-bf16", "llama", 4, 0.5, ["self_attn.q_proj", "self_attn.v_proj"], "F16"),
    ("mistral-q4", "llama", 8, 2.0, ["mlp.down_proj", "self_attn.k_proj"], "BF16"),
    ("qwen2-q4-g64", "qwen2", 16, 1.0, ATTENTION + MLP, "F16"),
    ("qwen3-q4", "qwen3", 8, 2.0, ATTENTION + ["mlp.up_proj"], "F32"),
    ("phi3-q4", "phi3", 8, 1.25, FUSED, "F32"),
    ("gemma2-f32", "gemma2", 4, 1.0, ATTENTION + MLP, "F32"),
    ("gemma3-text", "gemma3", 5, 2.0, ATTENTION + MLP, "BF16"),
    ("gemma3-nested", "gemma3", 8, 1.0, ATTENTION + MLP, "F16"),
    ("granite-q8", "granite", 8, 1.0, ATTENTION + MLP, "F16"),
    ("olmo2-q5", "olmo2", 8, 1.0, ATTENTION + MLP, "F32"),
    ("smollm3-f32", "smollm3", 6, 2.0, ATTENTION + MLP, "F32"),
    ("mixtral-f16", "llama", 3, 1.0, ["block_sparse_moe.switch_mlp." + p for p in SWITCH] + ["block_sparse_moe.gate"], "F32"),
    ("mixtral-q4", "llama", 8, 1.0, ATTENTION + ["block_sparse_moe.switch_mlp.down_proj"], "F32"),
    ("qwen3-moe-f32", "qwen3moe", 8, 1.0, ATTENTION + MLP, "F32"),
    ("gpt-oss-bf16", "gpt-oss", 8, 1.0, ATTENTION + ["mlp.experts." + p for p in SWITCH[:2]] + ["mlp.router"], "BF16"),
]
TO_GGUF = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    **{f"{block}.{p}_proj": f"ffn_{p}_exps" for block in ("block_sparse_moe.switch_mlp", "mlp.experts") for p in ("gate", "up", "down")},
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
}
PERMUTED = ("llama", "granite", "smollm3")
GGML = {"F32": 0, "F16": 1, "BF16": 30}


def text_config(c):
    return c["config"].get("text_config", c["config"])


def shapes(c):
    """name -> (rows, cols, experts) of every matrix, experts 0 where it is no stack"""
    found = {}

    class Listing(Weights):
        def matrix(self, name, rows, cols, gain=1.0, experts=0, bias=False):
            found[name] = (rows, cols, experts)

        def vector(self, *a):
            pass

    build(c, Listing)
    return found


def pairs(c, rank, parts, seed):
    """name -> A (rank, cols), B (rows, rank), of a stack with the experts in front"""
    out = {}
    for name, (rows, cols, experts) in shapes(c).items():
        if name.split("layers.")[-1].lstrip("0123456789").lstrip(".") not in parts:
            continue
        stack = (experts,) if experts else ()
        a = np.float32(np.sqrt(3.0 / cols)) * uniform(name + ".lora_a", seed, stack + (rank, cols))
        b = np.float32(0.4 * np.sqrt(3.0 / rank)) * uniform(name + ".lora_b", seed, stack + (rows, rank))
        out[name] = (a, b)
    return out


def save(path, tensors, dtype):
    """A scale is F32 whatever the others are."""
    w = Weights(dict(dtype=dtype, seed=0, quant=None, config={}))
    for name, x in tensors.items():
        w.put(name, x, "F32" if name.endswith(".scale") else None)
    w.save(path.parent / "made")
    (path.parent / "made" / "model.safetensors").rename(path)
    (path.parent / "made" / "config.json").unlink()
    (path.parent / "made").rmdir()


def save_kept(path, both, scale, dtype):
    """As the server keeps it in its store, and finds it beside a model's files."""
    tensors = {}
    for name, (a, b) in both.items():
        name = name[name.index("layers."):] if "layers." in name else name
        tensors |= {name + ".lora_a": a, name + ".lora_b": b, name + ".scale": np.array([scale])}
    save(path, tensors, dtype)


def permuted(x, heads):
    """The rows of q or k as the converter to GGUF orders them: the halves of each head become pairs."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def save_gguf(path, arch, alpha, c, both, dtype):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    keys = [text("general.type") + struct.pack("<I", 8) + text("adapter"),
            text("general.architecture") + struct.pack("<I", 8) + text(arch),
            text("adapter.type") + struct.pack("<I", 8) + text("lora"),
            text("adapter.lora.alpha") + struct.pack("<If", 6, alpha)]
    config = text_config(c)
    heads = config["num_attention_heads"]
    infos, data = [], b""
    for name, (a, b) in both.items():
        if name == "lm_head":
            base = "output"
        else:
            layer, part = name.removeprefix("language_model.").removeprefix("model.layers.").split(".", 1)
            base = f"blk.{layer}.{TO_GGUF[part]}"
            if arch in PERMUTED and part == "self_attn.q_proj":
                b = permuted(b, heads)
            elif arch in PERMUTED and part == "self_attn.k_proj":
                b = permuted(b, config.get("num_key_value_heads", heads))
        for suffix, x in ((".weight.lora_a", a), (".weight.lora_b", b)):
            w = Weights(dict(dtype=dtype, seed=0, quant=None, config={}))
            w.put("x", x)
            raw = w.tensors["x"][2]
            data += b"\0" * (-len(data) % 32)
            infos.append(text(base + suffix) + struct.pack(f"<I{x.ndim}QIQ", x.ndim, *x.shape[::-1], GGML[dtype], len(data)))
            data += raw
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def write(out, c, arch, rank, scale, parts, dtype, seed):
    for form in ("mlx", "peft", "gguf"):
        (out / form).mkdir(parents=True, exist_ok=True)
    both = pairs(c, rank, parts, seed)
    layers = text_config(c)["num_hidden_layers"]
    save(out / "mlx/adapters.safetensors",
         {f"{n}.lora_{k}": x.T if x.ndim == 2 else x for n, p in both.items() for k, x in zip("ab", p)}, dtype)
    (out / "mlx/adapter_config.json").write_text(json.dumps({
        "fine_tune_type": "lora", "num_layers": layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": parts}}))
    save_gguf(out / "gguf/adapter.gguf", arch, scale * rank, c, both, dtype)
    if any(a.ndim == 3 for a, _ in both.values()):
        return  # PEFT has no stacks of experts
    save(out / "peft/adapter_model.safetensors",
         {f"base_model.model.{n}.lora_{k}.weight": x for n, p in both.items() for k, x in zip("AB", p)}, dtype)
    (out / "peft/adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "use_rslora": False, "bias": "none", "use_dora": False,
        "target_modules": [p.split(".")[-1] for p in parts], "init_lora_weights": True, "modules_to_save": None}))


def chosen(cases):
    by_name = {c["name"]: c for c in cases}
    return [(by_name[name], *more) for name, *more in CASES if name in by_name]


def seeds():
    path = HERE / "seeds.json"
    return json.loads(path.read_text()) if path.exists() else {}


def build_all(out, cases):
    for c, *how in chosen(cases):
        write(out / "adapters" / c["name"], c, *how, seeds().get(c["name"], 0))


def reference(out, c):
    return run_reference(out / c["name"], c, out / "adapters" / c["name"] / "mlx")


def record(out, cases):
    HERE.mkdir(exist_ok=True)
    found, w = {}, Weights(dict(dtype="F32", seed=0, quant=None, config={}))
    for c, *how in chosen(cases):
        build(c).save(out / c["name"])
        for seed in range(40):
            write(out / "adapters" / c["name"], c, *how, seed)
            tokens, logits, _, lead = reference(out, c)
            if lead > MARGIN and np.isfinite(logits).all():
                break
        else:
            raise SystemExit(f"{c['name']}: no seed gives a clear continuation")
        plain = run_reference(out / c["name"], c)[1]
        print(f"{c['name']}: seed {seed}, lead {lead:.4f}, changes logits by {np.abs(logits - plain).max() / np.abs(plain).max():.2f}",
              flush=True)
        found[c["name"]] = seed
        w.tensors[c["name"] + ".tokens"] = ("I32", [PROMPT + GREEDY], np.array(tokens, dtype=np.int32).tobytes())
        w.tensors[c["name"] + ".logits"] = ("F32", list(logits.shape), logits.tobytes())
    (HERE / "seeds.json").write_text(json.dumps(found, indent=1) + "\n")
    w.save(out / "expected-adapters")
    (HERE / "expected.safetensors").write_bytes((out / "expected-adapters" / "model.safetensors").read_bytes())


def verify(out, cases):
    raw = (HERE / "expected.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    bad = 0
    for c, *_ in chosen(cases):
        def tensor(what, dtype):
            first, last = header[f"{c['name']}.{what}"]["data_offsets"]
            return np.frombuffer(raw[8 + size + first : 8 + size + last], dtype)

        tokens, logits, _, _ = reference(out, c)
        want = tensor("logits", np.float32).reshape(logits.shape)
        off = float(np.abs(logits - want).max() / np.abs(want).max())
        same = tokens == tensor("tokens", np.int32).tolist()
        bad += not (same and off < 1e-4)
        print(f"{c['name']} with an adapter: {'same' if same else 'OTHER'} tokens, numbers within {off:.1e}", flush=True)
    if bad:
        raise SystemExit(f"{bad} adapters differ from what is committed")


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--record", action="store_true", required=True)
    record(args.parse_args().out, all_cases())
