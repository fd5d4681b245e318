"""Every family that comes as GGUF, there and back: a tiny model is written as llama.cpp's converter would, imported, and
must compute what it did: decoders in mlx-lm, encoders in numpy.

    python tests/check_round_trip.py MLX_OLLAMA_IMPORT [NAME...]

Needs gguf, numpy, mlx[cpu], mlx-lm. check_families.py asks llama.cpp instead, where it is at hand.
"""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "golden")]
import embedding_reference as reference  # noqa: E402
import encoder_gguf  # noqa: E402
import make_encoders  # noqa: E402
import make_models as make  # noqa: E402

PERMUTED = {"llama", "mistral", "mixtral", "granite", "smollm3"}
ARCH = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss"}
BLOCK = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv",
    "self_attn.sinks": "attn_sinks", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
} | {f"{stack}.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")
     for stack in ("block_sparse_moe.switch_mlp", "mlp.switch_mlp", "mlp.experts")}
AROUND = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
          "post_feedforward_layernorm": "post_ffw_norm"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def cases():
    """What GGUF can say of each family: it leaves Gemma's scale of queries and SmolLM3's layers to the architecture."""
    b, third = make.base, dict(make.GEMMA3, query_pre_attn_scalar=32.0)
    return {
        "llama": make.small("llama"), "llama-tied": b("llama", tie_word_embeddings=True),
        "llama-bias": b("llama", attention_bias=True, mlp_bias=True),
        "llama-llama3": b("llama", rope_scaling=dict(make.LLAMA3, original_max_position_embeddings=1024), head_dim=48),
        "llama-linear": b("llama", rope_scaling=dict(type="linear", factor=4.0)),
        "llama-yarn": b("llama", rope_scaling=make.YARN), "mistral": b("mistral", sliding_window=11),
        "qwen2": b("qwen2", tie_word_embeddings=True), "qwen3": b("qwen3", head_dim=48, rope_theta=1e6),
        "phi3": b("phi3", partial_rotary_factor=0.75, rope_scaling=make.LONG, original_max_position_embeddings=64),
        "phi3-window": b("phi3", sliding_window=9), "gemma2": b("gemma2", **dict(make.GEMMA2, query_pre_attn_scalar=32.0)),
        "gemma3": b("gemma3_text", **third), "smollm3": b("smollm3", num_hidden_layers=4, tie_word_embeddings=True),
        "granite": b("granite", tie_word_embeddings=True, **make.GRANITE), "olmo2": b("olmo2"),
        "mixtral": b("mixtral", **make.MIXTRAL),
        "qwen3moe": b("qwen3_moe", **dict(make.QWEN3_MOE, decoder_sparse_step=1)), "gpt-oss": b("gpt_oss", **make.GPT_OSS),
    }


def rope_keys(c, tensors, dim):
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind == "llama3":
        wave = 2 * math.pi * c["rope_theta"] ** (2 * np.arange(dim // 2) / dim)
        turns = scaling["original_max_position_embeddings"] / wave
        low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        part = np.clip((turns - low) / (high - low), 0, 1)
        tensors["rope_freqs.weight"] = (1 / ((1 - part) / factor + part)).astype(np.float32)
    elif kind == "longrope":
        for which in ("long", "short"):
            tensors[f"rope_factors_{which}.weight"] = np.array(scaling[f"{which}_factor"], np.float32)
        return {"rope.scaling.original_context_length": c["original_max_position_embeddings"]}
    elif kind:
        keys = {"rope.scaling.type": kind, "rope.scaling.factor": scaling["factor"]}
        if kind == "yarn":
            keys["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        return keys
    return {}


def keys_of(c, tensors):
    heads = c["num_attention_heads"]
    dim = c.get("head_dim") or c["hidden_size"] // heads
    turned = int(dim * c.get("partial_rotary_factor", 1))
    keys = {"block_count": c["num_hidden_layers"], "context_length": c["max_position_embeddings"],
            "embedding_length": c["hidden_size"], "feed_forward_length": c["intermediate_size"],
            "attention.head_count": heads, "attention.head_count_kv": c["num_key_value_heads"],
            "attention.key_length": dim, "rope.dimension_count": turned,
            "attention.layer_norm_rms_epsilon": c["rms_norm_eps"], "rope.freq_base": c["rope_theta"],
            **rope_keys(c, tensors, turned)}
    names = {"num_local_experts": "expert_count", "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
             "moe_intermediate_size": "expert_feed_forward_length", "attn_logit_softcapping": "attn_logit_softcapping",
             "final_logit_softcapping": "final_logit_softcapping", "sliding_window": "attention.sliding_window",
             "sliding_window_pattern": "attention.sliding_window_pattern", "rope_local_base_freq": "rope.freq_base_swa",
             "attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale",
             "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"}
    return keys | {to: c[name] for name, to in names.items() if c.get(name) is not None}


def tensors_of(directory, c):
    kind, out = c["model_type"], {}
    for name, a in reference.read_safetensors(directory / "model.safetensors").items():
        a = a.astype(np.float32)
        stem, _, suffix = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "weight")
        if stem in TOP:
            to = TOP[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            to = BLOCK.get(part)
            if kind.startswith("gemma") or kind == "olmo2":
                to = AROUND.get(part, to)
            if kind == "gpt_oss" and part == "post_attention_layernorm":
                to = "post_attention_norm"
            if kind in PERMUTED and to in ("attn_q", "attn_k"):
                heads = c["num_attention_heads" if to == "attn_q" else "num_key_value_heads"]
                a = a.reshape(heads, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)
            to = f"blk.{layer}.{to}"
        if kind.startswith("gemma") and to.endswith("norm"):
            a = a + 1
        out[f"{to}.{suffix}"] = a
    return out


def write_gguf(directory, path):
    c = json.loads((directory / "config.json").read_text())
    arch = ARCH.get(c["model_type"], c["model_type"])
    tensors = tensors_of(directory, c)
    w = gguf.GGUFWriter(str(path), arch)
    for key, value in keys_of(c, tensors).items():
        add = w.add_string if isinstance(value, str) else w.add_float32 if isinstance(value, float) else w.add_uint32
        add(f"{arch}.{key}", value)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(["a", "b", "ab"] + [f"w{i}" for i in range(c["vocab_size"] - 3)])
    w.add_token_merges(["a b"])
    for name, a in tensors.items():
        w.add_tensor(name, a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def imported(tool, path):
    directory = path.with_suffix("")
    run = subprocess.run([tool, str(path), str(directory)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return directory


def logits_of(directory, tokens):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([tokens]))[0])


def check_decoder(tool, name, config, temp):
    case = dict(name=name, config=config, dtype="F32", seed=0, quant=None)
    make.build(case).save(temp / "source")
    write_gguf(temp / "source", temp / "made.gguf")
    made = imported(tool, temp / "made.gguf")
    tokens = make.prompt_of(name, config["vocab_size"])
    want, got = (logits_of(d, tokens) for d in (temp / "source", made))
    kept = json.loads((made / "config.json").read_text())
    assert kept["model_type"] == config["model_type"], f"it became a {kept['model_type']}"
    # windows, which mlx-lm leaves out for some
    assert (kept.get("sliding_window") or None) == config.get("sliding_window"), "another sliding_window"
    return np.abs(got - want).max() / np.abs(want).max()


def check_encoder(tool, case, temp):
    make_encoders.build(*case).save(temp / "source")
    encoder_gguf.write(temp / "source", temp / "made.gguf")
    made = imported(tool, temp / "made.gguf")
    ids = [2, *(5 + i % 100 for i in range(30)), 3]
    want, got = (reference.Encoder(d).states(ids) for d in (temp / "source", made))
    return np.abs(got - want).max() / np.abs(want).max()


def main():
    tool, wanted = sys.argv[1], set(sys.argv[2:])
    encoders = {c[0].removesuffix("-f32"): c for c in make_encoders.CASES if c[0].endswith("-f32")}
    failed = 0
    for name, case in {**cases(), **encoders}.items():
        if wanted and name not in wanted:
            continue
        with tempfile.TemporaryDirectory() as temp:
            try:
                check = (check_encoder(tool, case, Path(temp)) if name in encoders else
                         check_decoder(tool, name, case, Path(temp)))
                good = check < 1e-5
                print(f"{name:14} {'ok' if good else 'FAILED'}: off by {check:.1e}")
            except (AssertionError, KeyError, TypeError, ValueError) as problem:
                good = False
                print(f"{name:14} FAILED: {problem}")
            failed += not good
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
