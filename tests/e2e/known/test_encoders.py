"""Encoders (BERT's kind) behind the API, against numpy: a tiny one with words that are known, and all-MiniLM-L6-v2."""
import json
import os
import sys
from pathlib import Path

import numpy as np
import ollama
import openai
import pytest

from .bridge import Bridge

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(TESTS / "golden")]
import embedding_reference as reference  # noqa: E402
import make_encoders  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "hello", "world", "##s", "##ly", "!", ",", "gr", "##un", "##e", "日", "本", *"abcdefgh"]
TEXTS = {  # and their tokens between [CLS] and [SEP]
    "Hello, worlds!": ["hello", ",", "world", "##s", "!"],
    "grüne  GRUN": ["gr", "##un", "##e", "gr", "##un"],
    "日本 worldly": ["日", "本", "world", "##ly"],
    "quite unknown": ["[UNK]", "[UNK]"],
    "": [],
}


def ids_of(words):
    return [WORDS.index(w) for w in ["[CLS]", *words, "[SEP]"]]


def write_encoder(directory, pooling, longest=None):
    config = make_encoders.bert(vocab_size=len(WORDS), max_position_embeddings=40)
    make_encoders.build("tiny", config, "F32", "", None).save(directory)
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}  # noqa: E731
    tokenizer = {
        "version": "1.0", "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, s in enumerate(SPECIAL)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")],
            "pair": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]"),
                     {"Sequence": {"id": "B", "type_id": 1}}, special("[SEP]")],
            "special_tokens": {s: {"id": s, "ids": [WORDS.index(s)], "tokens": [s]} for s in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(WORDS)}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    if longest:
        (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    for name, pooling, longest in (("mean", "mean_tokens", None), ("cls", "cls_token", 6), ("last", "lasttoken", None)):
        write_encoder(root / name, pooling, longest)
    with Bridge("--cpu-features", "reference", roots=[root]) as server:
        yield server, reference.Encoder(root / "mean")


def test_an_encoder_is_shown_as_what_it_is(encoders):
    server, _ = encoders
    client = ollama.Client(server.url)
    shown = client.show("mean")
    assert shown.capabilities == ["embedding"] and shown.details.family == "bert"
    assert shown.modelinfo["bert.pooling_type"] == 1 and shown.modelinfo["bert.embedding_length"] == 128
    assert client.show("cls").modelinfo["bert.pooling_type"] == 2
    assert {tuple(m["capabilities"]) for m in server.json("GET", "/api/tags")["models"]} == {("embedding",)}
    with pytest.raises(ollama.ResponseError, match='"mean" does not support chat'):
        client.chat("mean", [{"role": "user", "content": "x"}])
    with pytest.raises(ollama.ResponseError, match='"mean" does not support generate'):
        client.generate("mean", "x")


def test_words_are_pieces_between_cls_and_sep(encoders):
    server, numbers = encoders
    client = ollama.Client(server.url)
    states = [numbers.states(ids_of(words)) for words in TEXTS.values()]
    answer = client.embed("mean", list(TEXTS))
    assert answer.prompt_eval_count == sum(map(len, states))
    assert np.allclose(answer.embeddings, [reference.unit(s.mean(0)) for s in states], atol=1e-6)
    assert np.allclose(client.embed("last", list(TEXTS)).embeddings, [reference.unit(s[-1]) for s in states], atol=1e-6)
    first, raw = reference.unit(states[3][0]), client.embeddings("cls", "quite unknown").embedding
    assert np.allclose(client.embed("cls", "quite unknown").embeddings, [first], atol=1e-6)
    assert np.allclose(raw, states[3][0], atol=1e-5) and abs(np.linalg.norm(raw) - 1) > 0.1
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as other:
        got = other.embeddings.create(model="mean", input=[ids_of(w) for w in TEXTS.values()], dimensions=10)
        assert np.allclose([d.embedding for d in got.data], [reference.unit(s.mean(0)[:10]) for s in states], atol=1e-6)


def test_what_is_too_long_keeps_its_sep(encoders):
    server, numbers = encoders
    client = ollama.Client(server.url)
    cut = reference.unit(numbers.states(ids_of(["hello"] * 4))[0])
    assert np.allclose(client.embed("cls", "hello " * 5).embeddings, [cut], atol=1e-6)  # max_seq_length
    full = reference.unit(numbers.states(ids_of(["hello"] * 38)).mean(0))
    answer = client.embed("mean", "hello " * 1000, options={"num_ctx": 4096})  # positions
    assert answer.prompt_eval_count == 40 and np.allclose(answer.embeddings, [full], atol=1e-6)
    answer = client.embed("mean", "hello " * 1000, options={"num_ctx": 12})
    assert answer.prompt_eval_count == 12
    with pytest.raises(ollama.ResponseError, match="exceeds the context length"):
        client.embed("mean", ["hello", "hello " * 39], truncate=False)


def test_many_texts_of_many_lengths_are_each_alone(encoders):
    server, _ = encoders
    client = ollama.Client(server.url)
    texts = ["hello " * (i % 37) + "world" for i in range(300)]
    together = client.embed("mean", texts).embeddings
    assert together[37:74] == together[:37]
    assert [client.embed("mean", texts[i]).embeddings[0] for i in (0, 5, 36, 200)] == [together[i] for i in (0, 5, 36, 200)]
    server.wait_idle()


# ---- real weights


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    directory = os.environ.get("LM_E2E_ENCODER")
    if not directory:
        pytest.skip("LM_E2E_ENCODER names no directory")
    root = tmp_path_factory.mktemp("real")
    (root / "all-minilm").symlink_to(Path(directory).resolve())
    with Bridge(roots=[root]) as server:
        yield server, Path(directory)


SENTENCES = ["This is an example sentence", "Each sentence is converted", "Grün 🙂 naïve, 日本語!", "word " * 600,
             "A man is eating food.", "A man is eating a piece of bread.", "A cheetah chases its prey."]


def test_all_minilm_gives_what_it_is_known_for(minilm):
    tokenizers = pytest.importorskip("tokenizers")
    server, directory = minilm
    answer = ollama.Client(server.url).embed("all-minilm", SENTENCES)
    got = np.array(answer.embeddings)
    # The first numbers that sentence-transformers prints for these two, in the model's own description.
    assert np.allclose(got[0, :3], [0.0677, 0.0635, 0.0487], atol=2e-3)
    assert np.allclose(got[1, :3], [0.0864, 0.1028, 0.0054], atol=2e-3)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)  # max_seq_length
    ids = [e.ids for e in tokenizer.encode_batch(SENTENCES)]
    assert answer.prompt_eval_count == sum(map(len, ids))
    encoder = reference.Encoder(directory)
    want = np.array([reference.unit(encoder.states(i).mean(0)) for i in ids])
    assert np.abs(got - want).max() < 1e-3 and (got * want).sum(1).min() > 0.99999
    similar = got @ got.T
    assert similar[4, 5] > 0.6 > similar[4, 6]
    assert [ollama.Client(server.url).embed("all-minilm", s).embeddings[0] for s in SENTENCES] == answer.embeddings
