"""Vocabularies that packages carry, made into GGUF as llama.cpp's converter would, imported, and held against the library
that they were published for: tiktoken (o200k_base of gpt-oss, Tekken of Mistral) and SentencePiece (Mistral's first ones).

    python tests/check_published_tokenizers.py MLX_OLLAMA_IMPORT DIRECTORY

DIRECTORY holds, unpacked, the Python package mistral-common (mistral_common/data/...) and the npm package js-tiktoken
(package/dist/ranks/o200k_base.js), and perhaps texts (*.inp, as llama.cpp has them). Needs gguf, numpy, sentencepiece, tiktoken, tokenizers.
"""
import base64
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import sentencepiece
import tiktoken
from check_tokenizers import SEPARATOR, random_texts
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer

WRITTEN = [
    "", " ", "\n\n  \t x", "Hello, world!  It's 12345678 o'clock; I'LL go, we've gone.", "  leading and trailing  ",
    "def f(x: int) -> str:\n        return f'{x:>10}'  # don't\r\n\r\n\tpass\n", "naïve café ﬁ ÅÉ Ａ１２ ½ ²³",
    "北京市的天气很好。東京タワー 한국어 텍스트 ไทย العربية עברית हिन्दी తెలుగు", "🙂👨‍👩‍👧‍👦🇩🇪 ½€¥ ∑∫≈ — “quotes” …",
    "http://example.org/a_b?c=d&e=%20#f\\n C:\\path\\to //comment /* x */ a/b/c", "A" * 300, "ab " * 100, "\u200b\u00a0\u3000x",
    "CamelCaseWordsAndSHOUTING snake_case-kebab 3.14159e-10 0xDEADBEEF 1,000,000", "e\u0301 u\u0308ber a\u0300\u0301",
]


def letters():
    """GPT-2's letters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def merges_of(ranks):
    """The pairs that byte-pair encoding joined, in its order: a token is cut as the merges before it would have it."""
    out = []
    for token, rank in sorted(ranks.items(), key=lambda kv: kv[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 40))
            if ranks.get(parts[best] + parts[best + 1], 1 << 40) >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            out.append(parts)
    return out


def imported(tool, fill):
    with tempfile.TemporaryDirectory() as temp:
        path = pathlib.Path(temp) / "vocab.gguf"
        w = gguf.GGUFWriter(str(path), "llama")
        fill(w)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        subprocess.run([tool, "--tokenizer", str(path), temp], check=True, capture_output=True)
        return Tokenizer.from_file(f"{temp}/tokenizer.json")


def compare(name, texts, got, want):
    wrong = [t for t in texts if got(t) != want(t)]
    print(f"{name:24} {len(texts) - len(wrong)} of {len(texts)} texts")
    for t in wrong[:3]:
        print("   ", repr(t)[:80], "\n      got ", got(t)[:20], "\n      want", want(t)[:20])
    return len(wrong)


def check_ranks(tool, name, pre, pattern, ranks, first, texts):
    """first: the id of the token of rank 0; what is below are control tokens."""
    letter = letters()

    def word(token):
        return "".join(letter[b] for b in token)

    def fill(w):
        tokens = [f"<special_{i}>" for i in range(first)] + [word(t) for t, _ in sorted(ranks.items(), key=lambda kv: kv[1])]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list(tokens)
        w.add_token_types([3] * first + [1] * len(ranks))
        w.add_token_merges([" ".join(word(p) for p in pair) for pair in merges_of(ranks)])

    ours = imported(tool, fill)
    theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return compare(name, texts, lambda t: ours.encode(t, add_special_tokens=False).ids,
                   lambda t: [i + first for i in theirs.encode_ordinary(t)])


def check_o200k(tool, file, texts):
    text = file.read_text()
    d = json.loads(text[text.index("{") : text.rindex("}") + 1])
    ranks = {}
    for line in d["bpe_ranks"].split("\n"):
        _, start, *tokens = line.split(" ")
        ranks |= {base64.b64decode(t): int(start) + i for i, t in enumerate(tokens)}
    # ranks have a few holes; ids of a vocabulary don't matter here, their order does
    ranks = {t: i for i, (t, _) in enumerate(sorted(ranks.items(), key=lambda kv: kv[1]))}
    return check_ranks(tool, "o200k_base", "gpt-4o", d["pat_str"], ranks, 0, texts)


def check_tekken(tool, file, texts):
    d = json.loads(file.read_text())
    config = d["config"]
    kept = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"] for t in d["vocab"] if t["rank"] < kept}
    return check_ranks(tool, file.stem, "tekken", config["pattern"], ranks, config["default_num_special_tokens"], texts)


def check_sentencepiece(tool, file, texts):
    model = proto.ModelProto()
    model.ParseFromString(file.read_bytes())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    spec = model.normalizer_spec

    def fill(w):
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list([p.piece for p in model.pieces])
        w.add_token_scores([p.score for p in model.pieces])
        w.add_token_types([p.type for p in model.pieces])
        w.add_add_space_prefix(spec.add_dummy_prefix)

    ours = imported(tool, fill)
    assert not spec.remove_extra_whitespaces and not spec.precompiled_charsmap
    # what the library reads before text: words of control tokens are plain text to it alone
    plain = [t for t in texts if not any(p.piece in t for p in model.pieces if p.type in (2, 3, 4))]
    return compare(file.name[-20:], plain, lambda t: ours.encode(t, add_special_tokens=False).ids, theirs.encode)


def main():
    tool, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    data = directory / "mistral_common" / "data"
    texts = WRITTEN + random_texts(1000)
    texts += [t for f in directory.glob("*.inp") for t in f.read_text().split(SEPARATOR)]
    failed = check_o200k(tool, directory / "package" / "dist" / "ranks" / "o200k_base.js", texts)
    for file in sorted(data.glob("tekken_*.json")):
        failed += check_tekken(tool, file, texts)
    for file in sorted(data.glob("*.model.v*")):
        failed += check_sentencepiece(tool, file, [t for t in texts if t])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
