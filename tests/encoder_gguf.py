"""Encoders as GGUF files, named and cut as llama.cpp's converter does it: for tests of the importer, which has to find the
way back. Needs gguf and numpy.

    write(directory, path, form="F32", pooling=1, layout="llama.cpp")

directory holds config.json, *.safetensors and perhaps tokenizer.json (WordPiece or Unigram). layout "ollama" is what
`ollama create` makes: no token types, every bracketed token left as it is.
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import embedding_reference as reference  # noqa: E402

BLOCK = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "qkv": "attn_qkv", "o": "attn_output", "norm1": "attn_output_norm",
         "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down", "norm2": "layer_output_norm"}
MARK = "\u2581"


def pick(config, *names):
    return next(config[n] for n in names if n in config)


def tensors_of(encoder):
    """[(GGUF name, float32 array)]"""
    kind, c = encoder.kind, encoder.config
    names = reference.NAMES.get(kind, reference.NAMES["bert"])
    out = [("token_embd.weight", "embeddings.word_embeddings.weight")]
    if kind != "nomic_bert":
        out.append(("position_embd.weight", "embeddings.position_embeddings.weight"))
    if kind != "distilbert":
        out.append(("token_types.weight", "embeddings.token_type_embeddings.weight"))
    norm = "emb_ln" if kind == "nomic_bert" else "embeddings.LayerNorm"
    out += [(f"token_embd_norm.{s}", f"{norm}.{s}") for s in ("weight", "bias")]
    for i in range(pick(c, "num_hidden_layers", "n_layers", "n_layer")):
        for part, to in BLOCK.items():
            for s in ("weight", "bias"):
                name = f"{names['layer']}{i}.{names[part]}.{s}" if part in names else ""
                if encoder.prefix + name in encoder.tensors:
                    out.append((f"blk.{i}.{to}.{s}", name))
    cut = c.get("pad_token_id", 1) + 1 if "roberta" in kind else 0
    arrays = [(to, encoder.get(name).astype(np.float32)) for to, name in out]
    return [(to, a[cut:] if to == "position_embd.weight" else a) for to, a in arrays]


def write_vocabulary(w, tokenizer, layout):
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda kv: kv[1])
    special = {t["content"] for t in tokenizer["added_tokens"]}
    tokens, types = [], []
    for token, _ in vocab:
        whole = token in special if layout == "llama.cpp" else token.startswith("[") and token.endswith("]")
        types.append(3 if token in special else 1)
        tokens.append(token if whole else token[2:] if token.startswith("##") else MARK + token)
    ids = dict(vocab)
    w.add_tokenizer_model("bert")
    w.add_token_list(tokens)
    w.add_unk_token_id(ids["[UNK]"])
    w.add_pad_token_id(ids["[PAD]"])
    if layout == "llama.cpp":
        w.add_tokenizer_pre("jina-v2-en")
        w.add_token_types(types)
        w.add_sep_token_id(ids["[SEP]"])
        w.add_uint32("tokenizer.ggml.cls_token_id", ids["[CLS]"])
        w.add_mask_token_id(ids["[MASK]"])
    else:
        w.add_token_scores([0.0] * len(tokens))
        w.add_token_types([1] * len(tokens))


def write_pieces(w, tokenizer):
    """XLM-RoBERTa's kind: SentencePiece's Unigram."""
    pieces = tokenizer["model"]["vocab"]
    special = {t["content"] for t in tokenizer["added_tokens"]}
    unknown = tokenizer["model"]["unk_id"]
    w.add_tokenizer_model("t5")
    w.add_tokenizer_pre("default")
    w.add_token_list([p for p, _ in pieces])
    w.add_token_scores([s for _, s in pieces])
    w.add_token_types([2 if i == unknown else 3 if p in special else 1 for i, (p, _) in enumerate(pieces)])
    w.add_add_space_prefix(True)
    w.add_remove_extra_whitespaces(True)
    for name, piece in (("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>")):
        getattr(w, f"add_{name}_token_id")([p for p, _ in pieces].index(piece))


def plain_vocabulary(w, n):
    """For models without words."""
    w.add_tokenizer_model("bert")
    w.add_token_list(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"{MARK}w{i}" for i in range(n - 5)])


def write(directory, path, form="F32", pooling=1, layout="llama.cpp"):
    encoder = reference.Encoder(directory)
    c, nomic = encoder.config, encoder.kind == "nomic_bert"
    arch = "nomic-bert" if nomic else "bert"
    tensors = tensors_of(encoder)
    w = gguf.GGUFWriter(str(path), arch)
    w.add_block_count(pick(c, "num_hidden_layers", "n_layers", "n_layer"))
    w.add_embedding_length(pick(c, "hidden_size", "dim", "n_embd"))
    w.add_feed_forward_length(pick(c, "intermediate_size", "hidden_dim", "n_inner"))
    w.add_head_count(pick(c, "num_attention_heads", "n_heads", "n_head"))
    w.add_layer_norm_eps(c.get("layer_norm_eps", c.get("layer_norm_epsilon", 1e-12)))
    w.add_context_length(c["max_trained_positions"] if nomic else len(dict(tensors)["position_embd.weight"]))
    if nomic:
        w.add_rope_freq_base(c["rotary_emb_base"])
    w.add_causal_attention(False)
    w.add_uint32(f"{arch}.pooling_type", pooling)
    w.add_token_type_count(c.get("type_vocab_size", 1))
    file = Path(directory) / "tokenizer.json"
    if file.exists():
        tokenizer = json.loads(file.read_text())
        if tokenizer["model"]["type"] == "Unigram":
            write_pieces(w, tokenizer)
        else:
            write_vocabulary(w, tokenizer, layout)
    else:
        plain_vocabulary(w, c["vocab_size"])
    kind = gguf.GGMLQuantizationType[form]
    for name, a in tensors:
        # converters keep vectors, positions and token types in F32
        small = a.ndim < 2 or name in ("position_embd.weight", "token_types.weight")
        if small or form == "F32":
            w.add_tensor(name, a)
        else:
            w.add_tensor(name, gguf.quants.quantize(a, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
