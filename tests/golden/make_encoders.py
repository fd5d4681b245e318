"""Tiny encoders and what numpy computes with them: make_models.py makes them beside its own.

Weights come from the same formula as there. The expected states (embedding_reference.py, in float64) of a text's middle
and last token, and their mean, lie in encoders/expected.safetensors.
"""
import json
import sys
from pathlib import Path

import numpy as np
from make_models import PROMPT, Weights, affine, prompt_of

HERE = Path(__file__).resolve().parent / "encoders"
sys.path.insert(0, str(HERE.parents[1]))


def bert(kind="bert", **more):
    return dict(model_type=kind, hidden_size=128, num_hidden_layers=3, intermediate_size=256, num_attention_heads=4,
                vocab_size=160, max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu",
                pad_token_id=0) | more


SMALL = dict(hidden_size=90, intermediate_size=106, num_attention_heads=5, vocab_size=131)
DISTIL = dict(model_type="distilbert", dim=96, n_layers=2, hidden_dim=160, n_heads=4, vocab_size=140,
              max_position_embeddings=64, activation="gelu", pad_token_id=0)
NOMIC = dict(model_type="nomic_bert", n_embd=128, n_layer=3, n_inner=192, n_head=4, vocab_size=150, n_positions=128,
             max_trained_positions=64, type_vocab_size=2, layer_norm_epsilon=1e-12, activation_function="swiglu",
             rotary_emb_base=1000, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, prenorm=False)
CASES = [  # name, config, type, what stands before the tensors' names, quantisation
    ("bert-f32", bert(**SMALL), "F32", "", None),
    ("bert-f16", bert(hidden_act="gelu_new"), "F16", "bert.", None),
    ("bert-bf16", bert(num_hidden_layers=2), "BF16", "", None),
    ("bert-q4", bert(), "BF16", "", affine(4, 64, token_type_embeddings=False)),
    ("bert-q8", bert(), "F16", "model.", affine(8, 32, word_embeddings=dict(bits=6, group_size=64))),
    ("roberta-f32", bert("roberta", type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5), "F32", "roberta.", None),
    ("xlm-roberta-bf16", bert("xlm-roberta", type_vocab_size=1, pad_token_id=1, hidden_act="silu"), "BF16", "", None),
    ("distilbert-f32", DISTIL, "F32", "distilbert.", None),
    ("nomic-f32", NOMIC, "F32", "", None),
    ("nomic-q8", NOMIC, "BF16", "", affine(8, 64, token_type_embeddings=False)),
]


def build(name, config, dtype, prefix, specs):
    from embedding_reference import NAMES

    def pick(path):
        for suffix, spec in specs.items():
            if suffix and path.endswith(suffix):
                return spec or None
        return specs[""]

    config = dict(config)
    w = Weights(dict(dtype=dtype, seed=0, quant=pick if specs else None, config=config))
    nomic = config["model_type"] == "nomic_bert"
    width = config.get("hidden_size") or config.get("dim") or config["n_embd"]
    ffn = config.get("intermediate_size") or config.get("hidden_dim") or config["n_inner"]
    names = NAMES.get(config["model_type"], NAMES["bert"])
    made = []

    def matrix(path, *shape, **more):
        made.append(path)
        w.matrix(path, *shape, **more)

    def norm(path):
        w.vector(path + ".weight", width, 1.0, 0.3)
        w.vector(path + ".bias", width, 0.0, 0.2)

    e = prefix + "embeddings."
    matrix(e + "word_embeddings", config["vocab_size"], width)
    if not nomic:
        matrix(e + "position_embeddings", config["max_position_embeddings"], width)
    if "type_vocab_size" in config:
        matrix(e + "token_type_embeddings", config["type_vocab_size"], width)
    norm(prefix + "emb_ln" if nomic else e + "LayerNorm")
    for i in range(config.get("num_hidden_layers") or config.get("n_layers") or config["n_layer"]):
        p = f"{prefix}{names['layer']}{i}."
        if nomic:
            matrix(p + names["qkv"], 3 * width, width, 1.6)
            matrix(p + names["gate"], ffn, width)
        else:
            for part in "qk":
                matrix(p + names[part], width, width, 1.8, bias=True)
            matrix(p + names["v"], width, width, bias=True)
        matrix(p + names["o"], width, width, bias=not nomic)
        norm(p + names["norm1"])
        matrix(p + names["up"], ffn, width, bias=not nomic)
        matrix(p + names["down"], width, ffn, bias=not nomic)
        norm(p + names["norm2"])
    if specs:
        quant = dict(specs[""])
        for path in made:
            if pick(path) != specs[""]:
                quant[path] = pick(path) or False
        config["quantization"] = quant
    w.config.update(config)
    return w


def build_all(out):
    for case in CASES:
        build(*case).save(out / case[0])


def reference(out, name):
    from embedding_reference import Encoder

    encoder = Encoder(out / name)
    tokens = prompt_of(name, encoder.config["vocab_size"])
    states = encoder.states(tokens)
    return tokens, np.stack([states[PROMPT // 2], states[-1], states.mean(0)]).astype(np.float32)


def record(out):
    w = Weights(dict(dtype="F32", seed=0, quant=None, config={}))
    for name, *_ in CASES:
        tokens, states = reference(out, name)
        print(f"{name}: largest number {np.abs(states).max():.2f}", flush=True)
        w.tensors[name + ".tokens"] = ("I32", [len(tokens)], np.array(tokens, dtype=np.int32).tobytes())
        w.tensors[name + ".states"] = ("F32", list(states.shape), states.tobytes())
    w.save(out / "expected-encoders")
    HERE.mkdir(exist_ok=True)
    (HERE / "expected.safetensors").write_bytes((out / "expected-encoders" / "model.safetensors").read_bytes())


def verify(out):
    from embedding_reference import read_safetensors

    known = read_safetensors(HERE / "expected.safetensors")
    for name, *_ in CASES:
        _, states = reference(out, name)
        off = float(np.abs(states - known[name + ".states"]).max())
        print(f"{name}: states within {off:.1e}", flush=True)
        if off > 1e-6:
            sys.exit(f"{name} differs from what is committed")
