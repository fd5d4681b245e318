#!/usr/bin/env python3
"""Models of a few hundred kilobytes whose answers are known, for tests of everything around a model.

    tiny.py OUT_DIR      writes one model directory for each of MODELS

Each is a Llama of one layer whose attention and MLP add nothing, with one-hot embeddings: the next token depends on the
last one alone. A script says what follows what, so that a model says exactly its sentence; "tiny" has no script and
talks random letters without an end.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np

WIDTH, HEADS = 384, 6
END, USER, ASSISTANT, SYSTEM, TOOL = "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"
SPECIAL = [END, USER, ASSISTANT, SYSTEM, TOOL]

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}" + PLAIN
THINKING = PLAIN + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
ABLE = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}" + THINKING
LONG = "all work and no play " * 200
CALL = '\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n'

# name -> template, what it says after <|assistant|> (or after another token), more special tokens. A text is one token,
# bytes are one token each.
MODELS = {
    "tiny": dict(template=PLAIN, script=[]),
    "tiny-hello": dict(template=PLAIN, script=[[ASSISTANT, "Hello", " wor", "ld", "! ", "Gr", "ü".encode(), "n ", "🙂".encode(), END]]),
    "tiny-tool": dict(template=TOOLS, script=[[ASSISTANT, "<tool_call>", CALL, "</tool_call>", END]],
                      special=["<tool_call>", "</tool_call>"]),
    "tiny-think": dict(template=THINKING, special=["<think>", "</think>"],
                       script=[[ASSISTANT, "<think>", "\nhm, ", "well", "\n", "</think>", "\n\n", "Yes.", END]]),
    "tiny-fim": dict(template=PLAIN, special=["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
                     script=[["<|fim_middle|>", "return 1", END], [ASSISTANT, "fim", END]]),
    # begin a call in the form of their family, and then talk random letters, if nobody keeps them from it
    "tiny-caller": dict(template=TOOLS, special=["<tool_call>", "</tool_call>"],
                        script=[[ASSISTANT, "Well.", "<tool_call>"], ["</tool_call>", END]]),
    "tiny-caller-xml": dict(template=TOOLS + "{# <tool_call><function=f><parameter=x> #}",
                            script=[[ASSISTANT, "Well.", "<tool_call>"], ["</tool_call>", END]],
                            special=["<tool_call>", "</tool_call>"]),
    "tiny-caller-list": dict(template=TOOLS, special=["[TOOL_CALLS]"], script=[[ASSISTANT, "Well.", "[TOOL_CALLS]", " ["], ["]", END]]),
    "tiny-caller-bare": dict(template=TOOLS, special=["<|python_tag|>"], script=[[ASSISTANT, '{"', 'name"']]),
    # space around what it says, a call among it
    "tiny-spaced": dict(template=TOOLS, script=[[ASSISTANT, "\n", "  ", "Hi", " you.", "<tool_call>", CALL, "</tool_call>", "\n\n", END]],
                        special=["<tool_call>", "</tool_call>"]),
    # thinks, calls and fills gaps
    "tiny-able": dict(template=ABLE, special=["<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
                      script=[[ASSISTANT, "<think>", "\nso\n", "</think>", "Well.", "<tool_call>", CALL, "</tool_call>", END],
                              ["<|fim_middle|>", "return 1", END]]),
    # says the same long token without an end: few steps make many bytes
    "tiny-wordy": dict(template=PLAIN, script=[[ASSISTANT, LONG, LONG]]),
    # an embedder: its directory says so
    "tiny-embed": dict(template=PLAIN, script=[], pooling="mean_tokens"),
    # as "tiny", but its makers say how to sample and under which terms
    "tiny-tuned": dict(template=PLAIN, script=[], license="Do as you like.\n\nBut be kind.\n",
                       generation={"do_sample": True, "temperature": 0.0, "top_k": 20, "top_p": 0.95,
                                   "repetition_penalty": 1.0}),
}


def byte_letters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def vocabulary(model):
    letters = byte_letters()
    vocab = {letters[b]: b for b in range(256)}
    added = []
    spoken = [t for line in model["script"] for t in line if isinstance(t, str)]
    for text in [*SPECIAL, *model.get("special", []), *spoken]:
        if text not in (a["content"] for a in added):
            added.append({
                "id": 256 + len(added), "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": text in SPECIAL,
            })
    return vocab, added


def head(added, script):
    """The output matrix (vocabulary, WIDTH): row j, column i is how much token j wants to follow token i."""
    n = 256 + len(added)
    ids = {a["content"]: a["id"] for a in added}
    w = np.random.default_rng(7).normal(0, 1.5, (n, WIDTH)).astype(np.float32)
    w[:, n:] = 0
    w[:256] -= 6
    for byte in b"abcdefghijklmnopqrstuvwxyz ":
        w[byte] += 6
    w[256:] = -40
    for line in script:
        path = [i for t in line for i in ([ids[t]] if isinstance(t, str) else t)]
        for one, following in zip(path, path[1:]):
            w[following, one] = 200
    return w / np.float32(np.sqrt(WIDTH))  # what the last norm multiplies a one-hot by


def tensors(added, script):
    n = 256 + len(added)
    assert n <= WIDTH
    layer = "model.layers.0."
    zero = np.zeros((WIDTH, WIDTH), np.float32)
    one = np.ones(WIDTH, np.float32)
    return {
        "model.embed_tokens.weight": np.eye(n, WIDTH, dtype=np.float32),
        layer + "input_layernorm.weight": one,
        layer + "post_attention_layernorm.weight": one,
        **{layer + f"self_attn.{p}_proj.weight": zero for p in "qkvo"},
        **{layer + f"mlp.{p}_proj.weight": zero for p in ("gate", "up", "down")},
        "model.norm.weight": one,
        "lm_head.weight": head(added, script),
    }


def save_safetensors(path, arrays):
    header, at = {}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values()))


def write(directory, model):
    directory.mkdir(parents=True, exist_ok=True)
    vocab, added = vocabulary(model)
    end = next(a["id"] for a in added if a["content"] == END)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 1,
        "intermediate_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rms_norm_eps": 1e-6,
        "vocab_size": 256 + len(added), "max_position_embeddings": 32768, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "eos_token_id": end, "torch_dtype": "float32",
    }
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []},
    }
    settings = {"chat_template": model["template"], "eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 32768, "clean_up_tokenization_spaces": False}
    for name, value in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", settings)):
        (directory / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, indent=1))
    if "generation" in model:
        (directory / "generation_config.json").write_text(json.dumps(model["generation"]))
    if "pooling" in model:
        kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for i, (kind, path) in enumerate(kinds.items())]
        (directory / "modules.json").write_text(json.dumps(modules))
        (directory / "1_Pooling").mkdir(exist_ok=True)
        (directory / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{model['pooling']}": True}))
        (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    if "license" in model:
        (directory / "LICENSE.txt").write_text(model["license"])
        (directory / "LICENSE.pdf").write_bytes(b"%PDF\0\xff")  # no text: not shown
    save_safetensors(directory / "model.safetensors", tensors(added, model["script"]))


def write_all(out):
    for name, model in MODELS.items():
        write(Path(out) / name, model)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_all(sys.argv[1])
