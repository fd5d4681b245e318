#!/usr/bin/env python3
"""Makes tests/golden/text: tiny tokenizers with the ids that `tokenizers` gives for a set of texts, and prompts as
transformers' own jinja2 environment renders them.

    python3 tests/golden/make_text.py [--out DIR]

Needs tokenizers, transformers and jinja2. The result is deterministic but for what those versions change.
"""

import argparse
import collections
import json
import math
import pathlib
import re

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

import text_templates


CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A small model answers a question about the weather in Paris and in Berlin.",
    "She sells sea shells by the sea shore; the shells she sells are surely sea shells.",
    "def main():\n    for i in range(10):\n        print(i, i * i)\n\nif __name__ == '__main__':\n    main()\n",
    "int main(void) {\n\tfor (int i = 0; i < 10; i++) printf(\"%d\\n\", i);\n\treturn 0;\n}\n",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "Der Hund läuft über die Straße, während die Vögel zwitschern. Größe, Übermut, Maß.",
    "Le garçon a mangé une pêche à côté de l'église; c'était très bon, n'est-ce pas ?",
    "你好，世界！今天的天气怎么样？我们一起去公园吧。",
    "これは小さなテストです。日本語の文章も必要です。",
    "Привет, мир! Как дела сегодня?",
    "Numbers: 1 22 333 4444 55555, 3.14159, 1e-9, 0xdeadbeef, 2026-11-23.",
    "Don't, won't, can't, it's, I'm, we've, they'll, you'd. DON'T!",
]

TEXTS = CORPUS + [
    "",
    " ",
    "   leading and trailing   ",
    "\n\n\n",
    "tabs\tand\r\nCRLF\r\n",
    "a",
    "emoji: 😀 👩‍👩‍👧 🇩🇪 ✨ and text after",
    "combining: e\u0301 vs é, a\u0308 vs ä",
    "zero width: a\u200bb\u200dc, bidi: \u202eabc, nul-free",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "text with <think>thoughts</think> and <tool_call>{}</tool_call> inside",
    "<|im_start|><|im_start|> <|im_end|>x",
    "\u2581 a literal lower one eighth block",
    "supercalifragilisticexpialidocious" * 4,
    "word " * 50,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 and ﬁ ligature, ½, Ⅷ, ① and ㎏",
    "mixed中文andEnglish，标点。",
]

QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_suffix|>",
                "<|fim_middle|>"]


def byte_level():
    """As Qwen's: NFC, a split pattern, byte-level BPE, chat tokens special and think tags not."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=480, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens(CHAT_TOKENS)
    t.add_tokens([AddedToken(s, normalized=False) for s in PLAIN_TOKENS])
    return t


def byte_fallback():
    """As Llama 2's and Mistral's: SentencePiece BPE, spaces as U+2581, unknown characters as bytes, BOS added."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # words, in training only
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator(CORPUS[:8], trainers.BpeTrainer(
        vocab_size=640, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, max_token_length=12))
    # The trainer registers the byte tokens as special; they are ordinary members of the vocabulary.
    d = json.loads(t.to_str())
    d["pre_tokenizer"] = None
    d["added_tokens"] = [a for a in d["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(d))
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    t.add_special_tokens(["[INST]", "[/INST]", "[TOOL_CALLS]"])
    return t


def word_end():
    """As CLIP's and GPT-1's: lower case, words that end in </w>, unknown characters one by one, merges as strings.
    Trained here: with a prefix and a suffix the trainer's result differs from run to run."""
    words = collections.Counter(w for text in CORPUS[:3] for w in re.findall("[a-z]+|[^a-z ]", text.lower()))
    split = {w: [("##" if i else "") + c + ("</w>" if i == len(w) - 1 else "") for i, c in enumerate(w)] for w in words}
    vocab, merges = sorted({piece for pieces in split.values() for piece in pieces}), []
    for _ in range(80):
        pairs = collections.Counter()
        for w, pieces in split.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += words[w]
        (left, right), _ = min(pairs.items(), key=lambda p: (-p[1], p[0]))
        merges.append(f"{left} {right}")
        vocab.append(left + right.removeprefix("##"))
        for w, pieces in split.items():
            for i in reversed(range(len(pieces) - 1)):
                if pieces[i:i + 2] == [left, right]:
                    pieces[i:i + 2] = [vocab[-1]]
    vocab = ["<unk>"] + list(dict.fromkeys(vocab))
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="##"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.BPEDecoder("</w>")
    d = json.loads(t.to_str())
    d["model"]["vocab"] = {piece: i for i, piece in enumerate(vocab)}
    d["model"]["merges"] = merges
    return json.dumps(d)


def whole_words():
    """As Llama 3's: byte-level BPE in which a word that is a token is taken whole, whatever the merges say."""
    t = byte_level()
    d = json.loads(t.to_str())
    d["model"]["ignore_merges"] = True
    last = max(list(d["model"]["vocab"].values()) + [a["id"] for a in d["added_tokens"]])
    for i, word in enumerate(["\u0120surely", "\u0120parking", "\u0120weather", "Numbers"]):
        d["model"]["vocab"].setdefault(word, last + 1 + i)
    return json.dumps(d)


def metaspace():
    """A Unigram model with metaspace, as T5's and older SentencePiece conversions. Its pieces are counted here: the
    trainer's result differs from run to run."""
    counts = collections.Counter()
    for text in CORPUS:
        for word in text.split():
            word = "\u2581" + word
            counts.update(word[i:j] for i in range(len(word)) for j in range(i + 1, min(i + 7, len(word) + 1)))
    pieces = sorted((p for p, n in counts.items() if len(p) == 1 or n >= 3), key=lambda p: (-counts[p], p))
    vocab = [("<unk>", 0.0), ("</s>", 0.0)]
    vocab += [(p, round(math.log(counts[p] * len(p) ** 2 / 4000), 4)) for p in pieces]
    t = Tokenizer(models.Unigram(vocab, unk_id=0))
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.add_special_tokens(["<unk>", "</s>"])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return t


def make_tokenizer(out, name, t):
    where = out / name
    where.mkdir(parents=True, exist_ok=True)
    text = t if isinstance(t, str) else t.to_str()
    (where / "tokenizer.json").write_text(json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")),
                                          encoding="utf-8")
    t = Tokenizer.from_file(str(where / "tokenizer.json"))
    lines = []
    for text in TEXTS:
        ids = t.encode(text, add_special_tokens=False).ids
        full = t.encode(text, add_special_tokens=True).ids
        lines.append(json.dumps({
            "text": text, "ids": ids, "special": full,
            "decoded": t.decode(full, skip_special_tokens=False), "shown": t.decode(full, skip_special_tokens=True),
        }, ensure_ascii=False, separators=(",", ":")))
    (where / "cases.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "text")
    out = p.parse_args().out
    make_tokenizer(out, "byte_level", byte_level())
    make_tokenizer(out, "byte_fallback", byte_fallback())
    make_tokenizer(out, "metaspace", metaspace())
    make_tokenizer(out, "word_end", word_end())
    make_tokenizer(out, "whole_words", whole_words())
    text_templates.make(out)


if __name__ == "__main__":
    main()
