"""Stores of other programs, made of the tiny models: Ollama's (MLX models in tensors, GGUF models) and LM Studio's."""
import hashlib
import json
import struct
from pathlib import Path

import gguf
import numpy as np

from . import tiny

IMAGE = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.ollama.manifest.list.v2+json"

# ---- files


def safetensors(arrays, metadata=None):
    """As Ollama writes a blob: the header padded to 8 bytes, by name."""
    kinds = {"float32": "F32", "float16": "F16", "uint32": "U32", "uint8": "U8"}
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, a in sorted(arrays.items()):
        header[name] = {"dtype": kinds[a.dtype.name], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, a in sorted(arrays.items()))


def quantise(w, bits, group):
    """MLX's affine form: codes, scales, biases."""
    g = w.reshape(w.shape[0], -1, group)
    low, high = g.min(-1, keepdims=True), g.max(-1, keepdims=True)
    scale = np.where(high > low, (high - low) / (2**bits - 1), 1).astype(np.float32)
    codes = np.rint((g - low) / scale).astype(np.uint32).reshape(w.shape[0], -1, 32 // bits)
    packed = (codes << (np.arange(32 // bits, dtype=np.uint32) * bits)).sum(-1).astype(np.uint32)
    return packed, scale[..., 0], low[..., 0].astype(np.float32)


NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def tiny_gguf(path, model, name="tiny"):
    """A tiny model as llama.cpp's converter would write it; its bytes."""
    vocab, added = tiny.vocabulary(model)
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_file_type(0)
    w.add_block_count(1)
    w.add_context_length(32768)
    w.add_embedding_length(tiny.WIDTH)
    w.add_feed_forward_length(tiny.WIDTH)
    w.add_head_count(tiny.HEADS)
    w.add_head_count_kv(tiny.HEADS)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(tiny.WIDTH // tiny.HEADS)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    # One token more: such a vocabulary has at least one merge.
    w.add_token_list([*vocab, *(a["content"] for a in added), "zq"])
    w.add_token_types([1] * 256 + [3 if a["special"] else 4 for a in added] + [1])
    w.add_token_merges(["z q"])
    w.add_eos_token_id(next(a["id"] for a in added if a["content"] == tiny.END))
    w.add_add_bos_token(False)
    w.add_chat_template(model["template"])
    for tensor, a in tiny.tensors(added, model["script"]).items():
        stem, layer = tensor.removesuffix(".weight"), ""
        if stem.startswith("model.layers.0."):
            stem, layer = stem.removeprefix("model.layers.0."), "blk.0."
        if stem in ("model.embed_tokens", "lm_head"):
            a = np.vstack([a, np.full((1, tiny.WIDTH), -40 if stem == "lm_head" else 0, np.float32)])
        w.add_tensor(f"{layer}{NAMES[stem]}.weight", a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return Path(path).read_bytes()


def tiny_adapter(path):
    """A LoRA adapter for a tiny model that changes nothing: its second factor is zero."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", 4.0)
    w.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((2, tiny.WIDTH), np.float32))
    w.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((tiny.WIDTH, 2), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return Path(path).read_bytes()


# ---- Ollama's store


class Ollama:
    def __init__(self, path):
        self.path = Path(path)
        (self.path / "blobs").mkdir(parents=True)
        (self.path / "manifests").mkdir()

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def blob_path(self, layer):
        return self.path / "blobs" / layer["digest"].replace(":", "-")

    def layer(self, kind, data, name=None):
        data = data if isinstance(data, bytes) else data.encode()
        return {"mediaType": IMAGE + kind, **self.blob(data), **({"name": name} if name else {})}

    def manifest_path(self, name, below="manifests"):
        host, namespace = "registry.ollama.ai", "library"
        name, tag = name.rsplit(":", 1) if ":" in name.rsplit("/", 1)[-1] else (name, "latest")
        parts = name.split("/")
        if len(parts) == 3:
            host = parts.pop(0)
        if len(parts) == 2:
            namespace = parts.pop(0)
        path = self.path / below / host / namespace / parts[0] / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def manifest(self, config, layers):
        return {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG, **self.blob(json.dumps(config).encode())}, "layers": layers}

    def write(self, name, manifest):
        self.manifest_path(name).write_text(json.dumps(manifest))
        return manifest

    def gguf_model(self, name, data, *more, **config):
        config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "1.5M", "file_type": "F32", **config}
        return self.write(name, self.manifest(config, [self.layer("model", data), *more]))

    def mlx_layers(self, directory, quantised=False):
        """The model of a directory as `ollama create --experimental` stores it."""
        layers = []
        raw = (Path(directory) / "model.safetensors").read_bytes()
        n = struct.unpack("<Q", raw[:8])[0]
        for name, t in json.loads(raw[8 : 8 + n]).items():
            begin, end = t["data_offsets"]
            a = np.frombuffer(raw[8 + n + begin : 8 + n + end], np.float32).reshape(t["shape"])
            blob = safetensors({name: a})
            if quantised and a.ndim == 2 and "embed" not in name:
                bits, group, kind = (4, 32, "int4") if "mlp" in name and "down" not in name else (8, 64, "int8")
                codes, scales, biases = quantise(a, bits, group)
                blob = safetensors({name: codes, f"{name}.scale": scales, f"{name}.bias": biases},
                                   {"quant_type": kind, "group_size": str(group)})
            layers.append(self.layer("tensor", blob, name))
        for path in sorted(Path(directory).glob("*.json")):
            layers.append(self.layer("json", path.read_bytes(), path.name))
        return layers

    def mlx_manifest(self, directory, *more, quantised=False):
        config = {"model_format": "safetensors", "capabilities": ["completion"], "requires": "0.14.0"}
        return self.manifest(config, [*self.mlx_layers(directory, quantised), *more])

    def mlx(self, name, directory, *more, quantised=False):
        return self.write(name, self.mlx_manifest(directory, *more, quantised=quantised))
