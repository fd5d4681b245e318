"""Vectors through the real clients. The tiny models' states are one-hot: a text's vector says what its last byte is."""
import socket
import threading

import numpy as np
import ollama
import openai
import pytest

from .bridge import Bridge

TEXTS = ["first", "a second, longer text", "x", "first"]


def one_hot(text):
    v = np.zeros(384)
    v[text.encode()[-1]] = 1
    return v


def test_ollama_embed(bridge):
    client = ollama.Client(bridge.url)
    answer = client.embed("tiny", TEXTS)
    assert answer.model == "tiny" and answer.prompt_eval_count == sum(map(len, TEXTS))
    assert answer.total_duration > 0 and answer.load_duration > 0
    assert np.allclose(answer.embeddings, [one_hot(t) for t in TEXTS])
    assert np.allclose(client.embed("tiny", "x", dimensions=130).embeddings, [one_hot("x")[:130]])
    assert client.embed("tiny", "").embeddings == []


def test_ollama_embeddings_is_not_normalised(bridge):
    client = ollama.Client(bridge.url)
    raw = np.array(client.embeddings("tiny", "x").embedding)
    assert raw[ord("x")] > 2 and np.allclose(raw / np.linalg.norm(raw), one_hot("x"))


def test_ollama_errors(bridge):
    client = ollama.Client(bridge.url)
    with pytest.raises(ollama.ResponseError, match='model "nothere" not found') as e:
        client.embed("nothere", "x")
    assert e.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="exceeds the context length") as e:
        client.embed("tiny", "x" * 20, truncate=False, options={"num_ctx": 8})
    assert e.value.status_code == 400
    assert client.embed("tiny", "x" * 20, options={"num_ctx": 8}).prompt_eval_count == 8


def test_openai_embeddings(bridge):
    with openai.OpenAI(base_url=bridge.url + "/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64
        assert [d.index for d in answer.data] == [0, 1, 2, 3] and answer.object == "list"
        assert np.allclose([d.embedding for d in answer.data], [one_hot(t) for t in TEXTS])
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS))
        floats = client.embeddings.create(model="tiny", input="x", encoding_format="float", dimensions=121)
        assert np.allclose(floats.data[0].embedding, one_hot("x")[:121])
        tokens = client.embeddings.create(model="tiny", input=[[104, 105], [120]])
        assert np.allclose([d.embedding for d in tokens.data], [one_hot("hi"), one_hot("x")])
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="tiny", input="x", dimensions=1000)
        with pytest.raises(openai.NotFoundError, match="nothere"):
            client.embeddings.create(model="nothere", input="x")


def test_a_long_list_and_an_answer_share_the_model(bridge):
    client = ollama.Client(bridge.url)
    texts = [f"text number {i}" for i in range(700)]
    said = []
    other = threading.Thread(target=lambda: said.append(client.generate("tiny", "x", options={"num_predict": 40})))
    other.start()
    vectors = client.embed("tiny", texts).embeddings
    other.join()
    assert said[0].eval_count == 40
    assert np.argmax(vectors, axis=1).tolist() == [t.encode()[-1] for t in texts]


def test_a_vector_does_not_depend_on_its_company(real_store):
    with Bridge(store=real_store) as server:
        client = ollama.Client(server.url)
        texts = ["A short one.", "The quick brown fox jumps over the lazy dog. " * 8, "Grün 🙂", "A short one, too."]
        together = client.embed("real", texts).embeddings
        alone = [client.embed("real", t).embeddings[0] for t in reversed(texts)][::-1]
        assert together == alone
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        similar = np.array(together) @ np.array(together).T
        assert similar[0, 3] > similar[0, 1] and similar[0, 3] > similar[0, 2]


def test_a_modelfiles_num_ctx_bounds_a_text(start):
    server = start()
    server.json("POST", "/api/create", {"model": "short", "from": "tiny", "parameters": {"num_ctx": 6}, "stream": False})
    assert server.json("POST", "/api/embed", {"model": "short", "input": "x" * 20})["prompt_eval_count"] == 6


def test_a_client_who_leaves_frees_the_place(start):
    server = start()
    server.json("POST", "/api/embed", {"model": "tiny", "input": "x"})
    body = '{"model":"tiny","input":["%s"]}' % '","'.join(["text " * 200] * 800)
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(f"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        server.wait_for("it runs", lambda h: h["running"] == 1)
    server.wait_for("it has ended", lambda h: h["running"] == 0 and h["cancelled"] == 1)
    assert len(server.json("POST", "/api/embed", {"model": "tiny", "input": "x"})["embeddings"]) == 1
