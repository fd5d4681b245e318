#!/usr/bin/env python3
"""Tiny models of every family, and what mlx-lm computes with them (encoders: make_encoders.py, and numpy).

    make_models.py OUT_DIR              writes one model directory per case (needs numpy only)
    make_models.py OUT_DIR --record     then runs mlx-lm on each and rewrites models/expected.safetensors
    make_models.py OUT_DIR --verify     then runs mlx-lm on each and compares with what is committed

Weights come from a formula over the tensor's name and a seed, so that the directories need not be committed and are
the same everywhere; quantised ones are random codes with plausible scales, so that no quantiser takes part. The
expected numbers are mlx-lm's, in float32 on the CPU (0.32.2): logits of two positions of a prompt, the states that
the head reads there and their mean over the prompt (for embeddings), and the greedy continuation, whose best token always leads by more than MARGIN so that rounding can't change it (seeds.json holds
the seeds for which that is so).
"""

import argparse
import json
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent / "models"
PROMPT, GREEDY = 40, 12
MARGIN = 4e-3

# ---- numbers


def words(name, seed, count, width=8):
    """count pseudo-random unsigned integers: splitmix64 over a counter."""
    start = (zlib.crc32(name.encode()) << 32) + seed * 0x51ED270B
    x = np.arange(count, dtype=np.uint64) + np.uint64(start)
    with np.errstate(over="ignore"):
        x = x * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(32)).astype(np.uint32) if width == 4 else x


def uniform(name, seed, shape):
    """float32 in [-1, 1), exactly."""
    x = words(name, seed, int(np.prod(shape))) >> np.uint64(40)
    return (x.astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def stored(x, dtype):
    """(safetensors type, bytes)"""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if dtype == "F32":
        return dtype, x.tobytes()
    if dtype == "F16":
        return dtype, x.astype(np.float16).tobytes()
    bits = x.view(np.uint32)
    return "BF16", ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    ).tobytes()


# ---- a model's weights


class Weights:
    def __init__(self, case):
        self.dtype, self.seed, self.quant, self.config = case["dtype"], case["seed"], case["quant"], case["config"]
        self.tensors = {}  # name -> (type, shape, bytes)

    def put(self, name, x, dtype=None):
        kind, raw = stored(x, dtype or self.dtype)
        self.tensors[name] = (kind, list(x.shape), raw)

    def vector(self, name, n, middle, spread):
        self.put(name, middle + spread * uniform(name, self.seed, (n,)))

    def matrix(self, name, rows, cols, gain=1.0, experts=0, bias=False):
        lead = (experts,) if experts else ()
        spec = self.quant(name) if self.quant else None
        reach = np.float32(gain * np.sqrt(3.0 / cols))
        if spec is None:
            self.put(name + ".weight", reach * uniform(name, self.seed, lead + (rows, cols)))
        else:
            self.quantised(name, lead + (rows,), cols, spec, reach)
        if bias:
            self.put(name + ".bias", np.float32(0.2) * uniform(name + ".bias", self.seed, lead + (rows,)))

    def quantised(self, name, lead, cols, spec, reach):
        bits, group = spec["bits"], spec["group_size"]
        shape = lead + (cols * bits // 32,)
        codes = words(name, self.seed, int(np.prod(shape)), 4)
        if spec.get("mode") == "mxfp8":
            # E4M3 of ordinary size: exponents 4 to 7 (0.06 to 1.9), so that no code is NaN and a few don't count for all
            codes = codes & np.uint32(0x9F9F9F9F) | np.uint32(0x20202020)
        self.tensors[name + ".weight"] = ("U32", list(shape), codes.tobytes())
        shape = lead + (cols // group,)
        u = uniform(name + ".scales", self.seed, shape)
        if spec.get("mode") == "nvfp4":
            # E4M3 numbers around reach / 4
            numbers = np.array([m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10) for e in range(16) for m in range(8)])
            wanted = reach / 4 * (np.float32(0.5) + np.abs(u))
            codes = np.abs(wanted[..., None] - numbers[:127].astype(np.float32)).argmin(axis=-1)
            self.tensors[name + ".scales"] = ("U8", list(shape), codes.astype(np.uint8).tobytes())
            return
        if spec.get("mode") in ("mxfp4", "mxfp8"):
            most = 4 if spec["mode"] == "mxfp4" else 1
            exponents = np.round(np.log2(reach / most) + u * 1.4).astype(np.int32) + 127
            self.tensors[name + ".scales"] = ("U8", list(shape), exponents.astype(np.uint8).tobytes())
            return
        top = np.float32(2**bits - 1)
        scales = np.where(u > 0, 1, -1) * (reach * 2 / top) * (np.float32(0.75) + np.abs(u) / 2)
        shift = uniform(name + ".biases", self.seed, shape) * np.float32(0.1) * reach
        self.put(name + ".scales", scales)
        self.put(name + ".biases", -scales * top / 2 + shift)

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config, indent=1))
        header, at = {"__metadata__": {"format": "mlx"}}, 0
        for name, (kind, shape, raw) in self.tensors.items():
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(raw)]}
            at += len(raw)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(directory / "model.safetensors", "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for _, _, raw in self.tensors.values():
                f.write(raw)


def build(case, kind_of_weights=None):
    top = case["config"]
    c = top.get("text_config", top)
    kind = top["model_type"]
    w = (kind_of_weights or Weights)(case)
    width, ffn, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    kv = c.get("num_key_value_heads", heads)
    dim = c.get("head_dim") or width // heads
    vocab = top.get("vocab_size", c.get("vocab_size"))
    prefix = "language_model." if kind == "gemma3" else ""
    gemma = kind.startswith("gemma")
    middle = 0.0 if gemma else 1.0
    qkv_bias = c.get("attention_bias", False) or kind in ("qwen2", "gpt_oss")
    o_bias = kind == "gpt_oss" or (kind != "qwen2" and c.get("attention_bias", False))
    mlp_bias = c.get("mlp_bias", False)

    # A scaled embedding is a small one: otherwise a tied head only repeats the last token.
    w.matrix(prefix + "model.embed_tokens", vocab, width, gain={"granite": 0.1}.get(kind, 0.35 if gemma else 2.0))
    for i in range(c["num_hidden_layers"]):
        p = f"{prefix}model.layers.{i}."
        a = p + "self_attn."
        norms = ["post_attention_layernorm"]
        if kind != "olmo2":
            norms.append("input_layernorm")
        if gemma:
            norms.append("pre_feedforward_layernorm")
        if gemma or kind == "olmo2":
            norms.append("post_feedforward_layernorm")
        for n in norms:
            w.vector(p + n + ".weight", width, middle, 0.3)
        if kind == "phi3":
            w.matrix(a + "qkv_proj", (heads + 2 * kv) * dim, width, 1.5)
        else:
            w.matrix(a + "q_proj", heads * dim, width, 1.8, bias=qkv_bias)
            w.matrix(a + "k_proj", kv * dim, width, 1.8, bias=qkv_bias)
            w.matrix(a + "v_proj", kv * dim, width, bias=qkv_bias)
        w.matrix(a + "o_proj", width, heads * dim, bias=o_bias)
        if kind in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2"):
            wide = kind == "olmo2"
            w.vector(a + "q_norm.weight", heads * dim if wide else dim, middle + 0.5, 0.3)
            w.vector(a + "k_norm.weight", kv * dim if wide else dim, middle + 0.5, 0.3)
        if kind == "gpt_oss":
            w.vector(a + "sinks", heads, 0.5, 1.5)
        sparse = kind in ("mixtral", "gpt_oss")
        if kind == "qwen3_moe":
            sparse = (i + 1) % c["decoder_sparse_step"] == 0 and i not in c["mlp_only_layers"]
        if sparse:
            block = p + ("block_sparse_moe." if kind == "mixtral" else "mlp.")
            experts = c.get("num_local_experts") or c["num_experts"]
            inner = c.get("moe_intermediate_size", ffn)
            oss = kind == "gpt_oss"
            w.matrix(block + ("router" if oss else "gate"), experts, width, 2.0, bias=oss)
            stack = block + ("experts." if oss else "switch_mlp.")
            w.matrix(stack + "gate_proj", inner, width, experts=experts, bias=oss)
            w.matrix(stack + "up_proj", inner, width, experts=experts, bias=oss)
            w.matrix(stack + "down_proj", width, inner, experts=experts, bias=oss)
        elif kind == "phi3":
            w.matrix(p + "mlp.gate_up_proj", 2 * ffn, width)
            w.matrix(p + "mlp.down_proj", width, ffn)
        else:
            w.matrix(p + "mlp.gate_proj", ffn, width, bias=mlp_bias)
            w.matrix(p + "mlp.up_proj", ffn, width, bias=mlp_bias)
            w.matrix(p + "mlp.down_proj", width, ffn, bias=mlp_bias)
    w.vector(prefix + "model.norm.weight", width, middle, 0.3)
    tied = kind == "gemma2" or c.get("tie_word_embeddings", kind in ("gemma3", "gemma3_text"))
    if not tied:
        w.matrix(prefix + "lm_head", vocab, width, 2.0)
    return w


# ---- the cases


def base(kind, **more):
    c = {
        "model_type": kind,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 160,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    c.update(more)
    return {k: v for k, v in c.items() if v is not None}


def small(kind, **more):
    """Sizes that no vector width divides."""
    return base(kind, hidden_size=80, intermediate_size=104, num_attention_heads=5, num_key_value_heads=1,
                head_dim=18, vocab_size=131, **more)


ALTERNATE = ["sliding_attention", "full_attention", "sliding_attention"]
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=32.0, beta_slow=1.0)
LONG = dict(type="longrope", short_factor=[1.0] * 12, long_factor=[1.0 + 0.3 * i for i in range(12)])
GEMMA2 = dict(head_dim=32, query_pre_attn_scalar=24.0, attn_logit_softcapping=4.0, final_logit_softcapping=1.0,
              sliding_window=10, tie_word_embeddings=None, num_hidden_layers=4)
GEMMA3 = dict(head_dim=32, query_pre_attn_scalar=24.0, sliding_window=10, sliding_window_pattern=3,
              rope_theta=100000.0, rope_local_base_freq=1000.0, num_hidden_layers=4, tie_word_embeddings=None)
GRANITE = dict(embedding_multiplier=6.0, attention_multiplier=0.09, residual_multiplier=0.7, logits_scaling=5.0,
               attention_bias=False, mlp_bias=False)
MIXTRAL = dict(num_local_experts=6, num_experts_per_tok=2)
QWEN3_MOE = dict(head_dim=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64, decoder_sparse_step=2,
                 mlp_only_layers=[3], norm_topk_prob=True, num_hidden_layers=6)
GPT_OSS = dict(head_dim=32, num_local_experts=6, num_experts_per_tok=3, sliding_window=9, rope_theta=150000.0,
               num_hidden_layers=4, rope_scaling=YARN,
               layer_types=["sliding_attention", "full_attention"] * 2)

CASES = []


def case(name, config, dtype="F32", quant=None, windows=None):
    """quant: {"": default spec, "suffix of a name": spec or False}; windows: what mlx-lm leaves out, per layer."""
    pick = None
    if quant:
        named = {k: v for k, v in quant.items() if k}

        def pick(path):
            for suffix, spec in named.items():
                if path.endswith(suffix):
                    return spec or None
            return quant[""]

    CASES.append(dict(name=name, config=config, dtype=dtype, quant=pick, windows=windows, specs=quant))


def affine(bits, group, **named):
    return {"": dict(bits=bits, group_size=group), **named}


MXFP4 = dict(bits=4, group_size=32, mode="mxfp4")
MXFP8 = dict(bits=8, group_size=32, mode="mxfp8")
NVFP4 = dict(bits=4, group_size=16, mode="nvfp4")


def all_cases():
    case("llama-f32", small("llama"))
    case("llama-f16", base("llama", tie_word_embeddings=True), "F16")
    case("llama-bf16", base("llama", attention_bias=True, mlp_bias=True), "BF16")
    case("llama-llama3", base("llama", rope_scaling=LLAMA3, head_dim=48))
    case("llama-linear", base("llama", rope_scaling=dict(type="linear", factor=4.0), rope_traditional=True))
    case("llama-yarn", base("llama", rope_scaling=dict(YARN, mscale=1.3, mscale_all_dim=0.4)))
    case("llama-dynamic", base("llama", rope_scaling=dict(type="dynamic", factor=2.0)))
    case("llama-layers", base("llama", layer_types=ALTERNATE, sliding_window=7))
    case("mistral-window", base("mistral", sliding_window=11), "BF16", windows=[11] * 3)
    case("mistral-none", base("mistral", sliding_window=None, head_dim=16))
    case("qwen2-f32", base("qwen2", num_attention_heads=8, tie_word_embeddings=True, use_sliding_window=False,
                           sliding_window=4, max_window_layers=1, attention_bias=True))
    case("qwen2-upper", base("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1),
         windows=[0, 6, 6])
    case("qwen3-f32", base("qwen3", head_dim=48, rope_theta=1e6))
    case("qwen3-nested", base("qwen3", head_dim=32, rope_theta=None, tie_word_embeddings=True,
                              rope_parameters=dict(YARN, rope_theta=50000.0)), "BF16")
    case("phi3-long", base("phi3", partial_rotary_factor=0.75, rope_scaling=LONG,
                           original_max_position_embeddings=64), "BF16")
    case("phi3-window", base("phi3", sliding_window=9), windows=[9] * 3)
    case("gemma2-f32", base("gemma2", **GEMMA2), windows=[10, 0, 10, 0])
    case("gemma3-text", base("gemma3_text", **GEMMA3), "BF16")
    inner = base("gemma3_text", **dict(GEMMA3, rope_scaling=dict(rope_type="linear", factor=8.0)))
    case("gemma3-nested", dict(model_type="gemma3", vocab_size=160, text_config=inner))
    case("smollm3-f32", base("smollm3", no_rope_layers=[1, 0, 1], tie_word_embeddings=True))
    case("granite-f32", base("granite", tie_word_embeddings=True, **GRANITE))
    case("olmo2-f32", base("olmo2"))
    case("mixtral-f16", base("mixtral", **MIXTRAL), "F16")
    case("qwen3-moe-f32", base("qwen3_moe", **QWEN3_MOE))
    case("gpt-oss-bf16", base("gpt_oss", **GPT_OSS), "BF16")

    # every form of quantisation, on one family
    kinds = ["F16", "BF16", "F32"]
    for n, (bits, group) in enumerate((b, g) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)):
        kind, tied = ("qwen2", True) if n % 2 else ("llama", False)
        case(f"{kind}-q{bits}-g{group}", base(kind, tie_word_embeddings=tied, num_hidden_layers=2),
             kinds[n % 3], affine(bits, group))
    case("llama-mxfp4", base("llama", num_hidden_layers=2), "BF16", {"": MXFP4})
    # ... and some on every other
    mixed = affine(4, 64, **{"lm_head": False, "embed_tokens": dict(bits=8, group_size=32),
                             "1.mlp.down_proj": dict(bits=6, group_size=128), "v_proj": dict(bits=8, group_size=64)})
    case("llama-mixed", base("llama"), "F16", mixed)
    case("mistral-q4", base("mistral", sliding_window=None), "BF16", affine(4, 64))
    case("qwen3-q4", base("qwen3", head_dim=32, tie_word_embeddings=True), "BF16", affine(4, 64))
    case("phi3-q4", base("phi3"), "F16", affine(4, 64))
    case("gemma2-q6", base("gemma2", **dict(GEMMA2, sliding_window=4096)), "BF16", affine(6, 64))
    case("gemma3-q4", dict(model_type="gemma3", vocab_size=160, text_config=base("gemma3_text", **GEMMA3)), "BF16",
         affine(4, 64, **{"embed_tokens": dict(bits=6, group_size=64)}))
    case("smollm3-q3", base("smollm3", num_hidden_layers=4, tie_word_embeddings=True), "BF16", affine(3, 64))
    case("granite-q8", base("granite", tie_word_embeddings=True, **GRANITE), "BF16", affine(8, 32))
    case("olmo2-q5", base("olmo2"), "BF16", affine(5, 32))
    case("mixtral-q4", base("mixtral", **MIXTRAL), "F16", affine(4, 64))
    case("qwen3-moe-q4", base("qwen3_moe", **dict(QWEN3_MOE, norm_topk_prob=False)), "BF16",
         affine(4, 64, **{"mlp.gate": dict(bits=8, group_size=64)}))
    eight = dict(bits=8, group_size=64)
    case("gpt-oss-mxfp4", base("gpt_oss", **GPT_OSS), "BF16",
         {"": MXFP4, "router": eight, "embed_tokens": eight, "lm_head": eight, "q_proj": eight, "k_proj": eight,
          "v_proj": eight, "o_proj": eight})

    case("llama-mxfp8", base("llama", num_hidden_layers=2), "BF16", {"": MXFP8})
    case("qwen2-nvfp4", base("qwen2", num_hidden_layers=2, tie_word_embeddings=True), "BF16", {"": NVFP4})
    case("qwen3-moe-nvfp4", base("qwen3_moe", **QWEN3_MOE), "BF16", {"": NVFP4, "mlp.gate": eight})
    case("gpt-oss-mxfp8", base("gpt_oss", **GPT_OSS), "BF16", {"": MXFP8, "router": eight, "lm_head": False})

    seeds = json.loads((HERE / "seeds.json").read_text()) if (HERE / "seeds.json").exists() else {}
    for c in CASES:
        c["seed"] = seeds.get(c["name"], 0)
        if c["specs"]:
            set_quantization(c)
    return CASES


def set_quantization(c):
    """The "quantization" that mlx-lm would have written: a default, and by name what differs from it."""
    q = dict(c["specs"][""])
    top = c["config"]
    for name in list_matrices(c):
        spec = c["quant"](name)
        if spec != c["specs"][""]:
            q[name] = spec if spec else False
    top["quantization"] = q
    top["quantization_config"] = q


def list_matrices(c):
    names = []

    class Listing(Weights):
        def matrix(self, name, *a, **k):
            names.append(name)

        def vector(self, *a):
            pass

    build(c, Listing)
    return names


# ---- what mlx-lm makes of them


def prompt_of(name, vocab):
    return [int(t) for t in words("prompt " + name, 0, PROMPT) % np.uint64(vocab)]


def run_reference(directory, c, adapter=None):
    """adapter: a directory as mlx-lm writes it. (tokens, logits of two positions, states of them and the mean, smallest lead of the best token)"""
    import mlx.core as mx
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import KVCache, make_prompt_cache
    from mlx_lm.utils import load_adapters, load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(directory)
    if adapter:
        model = load_adapters(model, str(adapter))
    model.set_dtype(mx.float32)
    cache = None
    if c["windows"]:
        # mlx-lm knows no window for this family: the mask of each layer is replaced by the one it was trained with.
        class Windowed:
            use_sliding = False

            def __init__(self, layer, window):
                self.layer, self.window = layer, window

            def __call__(self, x, mask=None, cache=None):
                return self.layer(x, create_causal_mask(x.shape[1], cache.offset, self.window or None), cache)

        inner = model.model
        layers = inner["layers"]
        inner["layers"] = [Windowed(layer, n) for layer, n in zip(layers, c["windows"])]
        cache = [KVCache() for _ in layers]
    top = c["config"]
    tokens = prompt_of(c["name"], top.get("vocab_size") or top["text_config"]["vocab_size"])
    inner = model.language_model.model if hasattr(model, "language_model") else model.model
    fresh = [KVCache() for _ in cache] if cache else make_prompt_cache(model)
    states = np.array(inner(mx.array([tokens]), cache=fresh)[0], dtype=np.float32)
    states = np.stack([states[PROMPT // 2], states[-1], states.astype(np.float64).mean(0).astype(np.float32)])
    cache = cache or make_prompt_cache(model)
    logits = np.array(model(mx.array([tokens]), cache=cache)[0], dtype=np.float32)
    kept = np.stack([logits[PROMPT // 2], logits[-1]])
    lead, row = np.inf, logits[-1]
    for _ in range(GREEDY):
        order = np.argsort(row)
        lead = min(lead, float(row[order[-1]] - row[order[-2]]) / float(np.abs(row).max()))
        tokens.append(int(order[-1]))
        row = np.array(model(mx.array([[tokens[-1]]]), cache=cache)[0, -1], dtype=np.float32)
    return tokens, kept, states, lead


def record(out, cases):
    seeds, tensors = {}, {}
    for c in cases:
        for seed in range(c["seed"], c["seed"] + 40):
            c["seed"] = seed
            build(c).save(out / c["name"])
            tokens, logits, states, lead = run_reference(out / c["name"], c)
            if lead > MARGIN and np.isfinite(logits).all() and len(set(tokens[PROMPT:])) > 2:
                break
        else:
            sys.exit(f"{c['name']}: no seed gives a clear continuation")
        print(f"{c['name']}: seed {seed}, lead {lead:.4f}, largest logit {np.abs(logits).max():.2f}", flush=True)
        if seed:
            seeds[c["name"]] = seed
        tensors[c["name"] + ".tokens"] = ("I32", [len(tokens)], np.array(tokens, dtype=np.int32).tobytes())
        tensors[c["name"] + ".logits"] = ("F32", list(logits.shape), logits.tobytes())
        tensors[c["name"] + ".states"] = ("F32", list(states.shape), states.tobytes())
    (HERE / "seeds.json").write_text(json.dumps(seeds, indent=1) + "\n")
    w = Weights(dict(dtype="F32", seed=0, quant=None, config={}))
    w.tensors = tensors
    w.save(out / "expected")
    (HERE / "expected.safetensors").write_bytes((out / "expected" / "model.safetensors").read_bytes())


def verify(out, cases):
    raw = (HERE / "expected.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])

    def tensor(name, dtype):
        first, last = header[name]["data_offsets"]
        return np.frombuffer(raw[8 + size + first : 8 + size + last], dtype).reshape(header[name]["shape"])

    bad = 0
    for c in cases:
        tokens, logits, states, _ = run_reference(out / c["name"], c)
        off = 0.0
        for what, got in (("logits", logits), ("states", states)):
            want = tensor(f"{c['name']}.{what}", np.float32)
            off = max(off, float(np.abs(got - want).max() / np.abs(want).max()))
        same = tokens == tensor(c["name"] + ".tokens", np.int32).tolist()
        bad += not (same and off < 1e-4)
        print(f"{c['name']}: {'same' if same else 'OTHER'} tokens, numbers within {off:.1e}", flush=True)
    if bad:
        sys.exit(f"{bad} cases differ from what is committed")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--record", action="store_true")
    args.add_argument("--verify", action="store_true")
    args.add_argument("--only", default="", help="cases whose name starts so (not with --record)")
    a = args.parse_args()
    import make_adapters
    import make_encoders

    cases = [c for c in all_cases() if c["name"].startswith(a.only)]
    make_encoders.build_all(a.out)
    if a.record:
        make_encoders.record(a.out)
        record(a.out, cases)
        make_adapters.record(a.out, cases)
        return
    for c in cases:
        build(c).save(a.out / c["name"])
    make_adapters.build_all(a.out, cases)
    print(f"{len(cases)} models in {a.out}")
    if a.verify:
        make_encoders.verify(a.out)
        verify(a.out, cases)
        make_adapters.verify(a.out, cases)


if __name__ == "__main__":
    main()
