"""Encoders that come as GGUF files: imported, they give the vectors of the directory that the file was made from."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import ollama
import pytest

from . import test_encoders as encoders
from .bridge import Bridge, program

gguf = pytest.importorskip("gguf")
import encoder_gguf  # noqa: E402  (test_encoders has put tests/ into the path)


def import_into(store, file, name):
    done = subprocess.run([program(), "import", str(file), name, "--models", str(store)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tiny_encoder_in_both_layouts_gives_its_own_vectors(tmp_path):
    store = tmp_path / "store"
    encoders.write_encoder(tmp_path / "tiny", "mean_tokens")
    for layout in ("llama.cpp", "ollama"):
        for pooling in (1, 2):
            file = tmp_path / f"{layout}-{pooling}.gguf"
            encoder_gguf.write(tmp_path / "tiny", file, pooling=pooling, layout=layout)
            import_into(store, file, f"{layout}-{pooling}")
    encoder = encoders.reference.Encoder(tmp_path / "tiny")
    with Bridge("--cpu-features", "reference", store=store) as server:
        client = ollama.Client(server.url)
        for layout in ("llama.cpp", "ollama"):
            assert client.show(f"{layout}-1").capabilities == ["embedding"]
            for text, words in filter(lambda case: case[0], encoders.TEXTS.items()):
                states = encoder.states(encoders.ids_of(words))
                for pooling, want in ((1, states.mean(0)), (2, states[0])):
                    answer = client.embed(f"{layout}-{pooling}", text)
                    assert answer.prompt_eval_count == len(words) + 2
                    assert np.abs(np.array(answer.embeddings[0]) - encoders.reference.unit(want)).max() < 1e-4


PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581hello", "\u2581world", "\u2581", "wor", "ld", "s", "!", "日本", "\u2581a"]


def test_xlm_roberta_s_pieces_and_positions_survive(tmp_path):
    """Its positions start after the padding's, which the converter cuts off; its text is cut by probabilities."""
    config = encoders.make_encoders.bert("xlm-roberta", type_vocab_size=1, pad_token_id=1, vocab_size=len(PIECES),
                                         max_position_embeddings=42, layer_norm_eps=1e-5)
    encoders.make_encoders.build("tiny", config, "F32", "", None).save(tmp_path / "tiny")
    tokenizer = {"added_tokens": [{"content": p} for p in PIECES[:4]],
                 "model": {"type": "Unigram", "unk_id": 3, "vocab": [[p, 0.0 if i < 4 else -1.0 - i / 10] for i, p in enumerate(PIECES)]}}
    (tmp_path / "tiny" / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder_gguf.write(tmp_path / "tiny", tmp_path / "xlm.gguf")
    import_into(tmp_path / "store", tmp_path / "xlm.gguf", "xlm")
    encoder = encoders.reference.Encoder(tmp_path / "tiny")
    texts = {"hello  worlds!\n": ["\u2581hello", "\u2581world", "s", "!"], "日本 a?": ["\u2581", "日本", "\u2581a", "<unk>"],
             "hello " * 38: ["\u2581hello"] * 38}
    with Bridge("--cpu-features", "reference", store=tmp_path / "store") as server:
        for text, pieces in texts.items():
            answer = ollama.Client(server.url).embed("xlm", text)
            assert answer.prompt_eval_count == len(pieces) + 2, text
            want = encoder.states([PIECES.index(p) for p in ["<s>", *pieces, "</s>"]]).mean(0)
            assert np.abs(np.array(answer.embeddings[0]) - encoders.reference.unit(want)).max() < 1e-4, text


@pytest.mark.parametrize("form", ["F16", "Q8_0"])
def test_all_minilm_as_gguf_gives_the_vectors_of_its_directory(tmp_path, form):
    directory = os.environ.get("LM_E2E_ENCODER")
    if not directory:
        pytest.skip("LM_E2E_ENCODER names no directory")
    encoder_gguf.write(directory, tmp_path / "mini.gguf", form)
    import_into(tmp_path / "store", tmp_path / "mini.gguf", "mini")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "original").symlink_to(Path(directory).resolve())
    with Bridge("--cpu-features", "reference", roots=[tmp_path / "roots"], store=tmp_path / "store") as server:
        client = ollama.Client(server.url)
        texts = [t for t in encoders.SENTENCES if len(t) < 200]
        got, want = (np.array(client.embed(m, texts).embeddings) for m in ("mini", "original"))
        least = (got * want).sum(1).min()
        print(f"{form}: cosine {least:.6f} at least")
        assert least > (0.99999 if form == "F16" else 0.999)
        assert [client.embed(m, texts).prompt_eval_count for m in ("mini", "original")] == [
            client.embed("original", texts).prompt_eval_count] * 2
