"""Tokenizers made from GGUF vocabularies, against the ids that transformers gives.

    python tests/check_tokenizers.py MLX_OLLAMA_IMPORT DIRECTORY

DIRECTORY holds llama.cpp's test vocabularies: NAME.gguf with NAME.gguf.inp (texts) and NAME.gguf.out (ids from
transformers), as its source packages carry them in models/. Vocabularies of kinds that the importer does not know must be
refused with a message; all others must give every id. XLM-RoBERTa's (Unigram) comes without texts there: it is held against
the tokenizer that transformers makes of the same pieces, and against SentencePiece itself.

Needs gguf, sentencepiece, tokenizers, transformers.
"""

import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

REFUSED = {"gemma-4"}  # neither byte-level nor scored


SEPARATOR = "\n__ggml_vocab_test__\n"


def random_texts(n):
    rng = random.Random(1)
    ranges = [(32, 127), (0xA0, 0x17F), (0x400, 0x4FF), (0x600, 0x6FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]
    odd = [0x20, 0x3000, 0x200B, 0xAD, 9, 10, 0xFB01, 0xFF21, 0x301]

    def letter():
        return chr(rng.choice([rng.randrange(*rng.choice(ranges)), rng.choice(odd)]))

    return ["".join(letter() for _ in range(rng.randrange(1, 30))) for _ in range(n)]


def sentencepiece_of(field):
    """What SentencePiece makes of text with the same pieces: ids as XLM-RoBERTa counts them."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        model.pieces.add(piece=piece, score=0, type=kind)
    tokens = field("tokens")
    for piece, score, kind in zip(tokens, field("scores"), field("token_type")):
        if kind == 1:
            model.pieces.add(piece=piece, score=score, type=1)
    model.trainer_spec.model_type = 1
    model.normalizer_spec.precompiled_charsmap = bytes(field("precompiled_charsmap"))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    ids = {piece: i for i, piece in enumerate(tokens)}
    return lambda text: [ids[p] if p in ids else 3 for p in processor.encode(text, out_type=str)]


def check_unigram(tool, directory):
    import gguf
    from transformers import XLMRobertaTokenizer

    vocab = directory / "ggml-vocab-nomic-bert-moe.gguf"
    reader = gguf.GGUFReader(vocab)

    def field(name):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    kept = [(t, s) for t, s in zip(field("tokens"), field("scores"))]
    table = bytes(field("precompiled_charsmap"))
    theirs = XLMRobertaTokenizer(vocab=kept, _spm_precompiled_charsmap=table)
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([tool, "--tokenizer", str(vocab), out], check=True, capture_output=True)
        ours = Tokenizer.from_file(f"{out}/tokenizer.json")
    written = [t for f in sorted(directory.glob("*.inp")) for t in f.read_bytes().decode("utf-8").split(SEPARATOR)]
    failed = 0
    for text in [*written, *random_texts(2000)]:
        got, want = ours.encode(text).ids, theirs.encode(text)
        if got != want:
            failed += 1
            print("   ", repr(text)[:70], "\n      got ", got[:20], "\n      want", want[:20])
    spm = sentencepiece_of(field)
    # Of random letters transformers itself drops a combining mark here and there, so written texts alone.
    other = [t for t in written if ours.encode(t, add_special_tokens=False).ids != spm(t)]
    print(f"XLM-RoBERTa      {len(written) + 2000 - failed} of {len(written) + 2000} texts as transformers has them,",
          f"{len(written) - len(other)} of {len(written)} as SentencePiece")
    for text in other[:3]:
        print("   ", repr(text)[:100])
    return failed + len(other)


def main():
    tool, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    failed = check_unigram(tool, directory)
    for inputs in sorted(directory.glob("ggml-vocab-*.gguf.inp")):
        vocab = inputs.with_suffix("")
        name = vocab.stem.removeprefix("ggml-vocab-")
        with tempfile.TemporaryDirectory() as out:
            run = subprocess.run([tool, "--tokenizer", str(vocab), out], capture_output=True, text=True)
            if run.returncode:
                print(f"{name:16} {'refused' if name in REFUSED else 'FAILED'}: {run.stderr.strip()}")
                failed += name not in REFUSED
                continue
            tokenizer = Tokenizer.from_file(f"{out}/tokenizer.json")
        texts = inputs.read_bytes().decode("utf-8").split(SEPARATOR)
        wanted = vocab.with_name(vocab.name + ".out").read_text().splitlines()
        wrong = 0
        for text, line in zip(texts, wanted):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if ids != [int(i) for i in line.split()]:
                wrong += 1
                if wrong == 1:
                    print("   ", repr(text)[:70], "\n      got ", ids[:20], "\n      want", line.split()[:20])
        print(f"{name:16} {len(texts) - wrong} of {len(texts)} texts")
        failed += wrong != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
