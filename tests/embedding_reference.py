"""BERT and what shares its graph in numpy, written down from the papers' formulas and Hugging Face's class definitions:
what the server's vectors are compared with. Everything in float64.
"""
import json
import math
from pathlib import Path

import numpy as np

TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U32": np.uint32, "U8": np.uint8}
NAMES = {  # of the tensors of a layer
    "bert": dict(layer="encoder.layer.", q="attention.self.query", k="attention.self.key", v="attention.self.value",
                 o="attention.output.dense", norm1="attention.output.LayerNorm", up="intermediate.dense",
                 down="output.dense", norm2="output.LayerNorm"),
    "distilbert": dict(layer="transformer.layer.", q="attention.q_lin", k="attention.k_lin", v="attention.v_lin",
                       o="attention.out_lin", norm1="sa_layer_norm", up="ffn.lin1", down="ffn.lin2",
                       norm2="output_layer_norm"),
    "nomic_bert": dict(layer="encoder.layers.", qkv="attn.Wqkv", o="attn.out_proj", norm1="norm1", gate="mlp.fc12",
                       up="mlp.fc11", down="mlp.fc2", norm2="norm2"),
}
erf = np.vectorize(math.erf, otypes=[np.float64])


def read_safetensors(path):
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    out = {}
    for name, t in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        first, last = (8 + size + at for at in t["data_offsets"])
        if t["dtype"] == "BF16":
            bits = np.frombuffer(raw[first:last], np.uint16).astype(np.uint32) << 16
            out[name] = bits.view(np.float32).reshape(t["shape"])
        else:
            out[name] = np.frombuffer(raw[first:last], TYPES[t["dtype"]]).reshape(t["shape"])
    return out


def unpacked(codes, bits):
    """MLX's packed codes, least significant bits first, (rows, words) -> (rows, numbers)."""
    stream = np.unpackbits(codes.view(np.uint8), axis=-1, bitorder="little")
    groups = stream.reshape(codes.shape[0], -1, bits).astype(np.float64)
    return groups @ (2.0 ** np.arange(bits))


class Encoder:
    def __init__(self, directory):
        directory = Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.kind = self.config["model_type"]
        self.tensors = {}
        for file in sorted(directory.glob("*.safetensors")):
            self.tensors.update(read_safetensors(file))
        self.prefix = next(n for n in self.tensors if n.endswith("embeddings.word_embeddings.weight")).split("embeddings.")[0]

    def get(self, name):
        """A matrix, dequantised where it has scales, or a vector."""
        name = self.prefix + name
        w = self.tensors[name]
        stem = name.removesuffix(".weight")
        if stem + ".scales" not in self.tensors:
            return w.astype(np.float64)
        scales = self.tensors[stem + ".scales"].astype(np.float64)
        biases = self.tensors[stem + ".biases"].astype(np.float64)
        quant = self.config["quantization"]
        quant = quant[stem] if isinstance(quant.get(stem), dict) else quant
        codes = unpacked(w, quant["bits"])
        each = codes.shape[1] // scales.shape[1]
        return codes * np.repeat(scales, each, 1) + np.repeat(biases, each, 1)

    def linear(self, x, name):
        y = x @ self.get(name + ".weight").T
        return y + self.get(name + ".bias") if self.prefix + name + ".bias" in self.tensors else y

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.get("layer_norm_eps", self.config.get("layer_norm_epsilon", 1e-12)))
        return x * self.get(name + ".weight") + self.get(name + ".bias")

    def turned(self, x):
        """(heads, tokens, dim): pairs (i, i + dim/2) turn by the position."""
        half = x.shape[-1] // 2
        angle = np.outer(np.arange(x.shape[1]), self.config["rotary_emb_base"] ** (-np.arange(half) / half))
        a, b, cos, sin = x[..., :half], x[..., half:], np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def states(self, ids):
        """(tokens, width) of the last layer."""
        c = self.config
        names = NAMES.get(self.kind, NAMES["bert"])
        nomic = self.kind == "nomic_bert"
        heads = c.get("num_attention_heads") or c.get("n_heads") or c["n_head"]
        first = c.get("pad_token_id", 1) + 1 if "roberta" in self.kind else 0
        act = c.get("hidden_act") or c.get("activation") or "gelu"
        x = self.get("embeddings.word_embeddings.weight")[ids]
        if not nomic:
            x = x + self.get("embeddings.position_embeddings.weight")[first : first + len(ids)]
        if self.kind != "distilbert":
            x = x + self.get("embeddings.token_type_embeddings.weight")[0]
        x = self.norm(x, "emb_ln" if nomic else "embeddings.LayerNorm")
        n, width = x.shape
        for i in range(c.get("num_hidden_layers") or c.get("n_layers") or c["n_layer"]):
            p = f"{names['layer']}{i}."
            parts = np.split(self.linear(x, p + names["qkv"]), 3, 1) if nomic else [self.linear(x, p + names[w]) for w in "qkv"]
            q, k, v = (part.reshape(n, heads, -1).transpose(1, 0, 2) for part in parts)
            if nomic:
                q, k = self.turned(q), self.turned(k)
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // heads)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            x = self.norm(x + self.linear(mixed.transpose(1, 0, 2).reshape(n, width), p + names["o"]), p + names["norm1"])
            h = self.linear(x, p + names["up"])
            if nomic:
                g = self.linear(x, p + names["gate"])
                h = h * g / (1 + np.exp(-g))
            elif act == "gelu":
                h = 0.5 * h * (1 + erf(h / math.sqrt(2)))
            elif act in ("gelu_new", "gelu_pytorch_tanh"):
                h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            else:
                h = h / (1 + np.exp(-h))
            x = self.norm(x + self.linear(h, p + names["down"]), p + names["norm2"])
        return x


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)
