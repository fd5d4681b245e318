"""Tokenizers made from GGUF vocabularies, against the ids that transformers gives.

    python tests/check_tokenizers.py MLX_OLLAMA_IMPORT DIRECTORY

DIRECTORY holds llama.cpp's test vocabularies: NAME.gguf with NAME.gguf.inp (texts) and NAME.gguf.out (ids from
transformers), as its source packages carry them in models/. Needs the tokenizers package. Vocabularies of kinds that the
importer does not know must be refused with a message; all others must give every id.
"""

import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

REFUSED = {"bert-bge", "nomic-bert-moe", "gemma-4"}  # WordPiece, Unigram, and one that is neither byte-level nor scored


def main():
    tool, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    failed = 0
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
        texts = inputs.read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
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
