"""Ollama's own Python client, unchanged."""
import ollama
import pytest

from conftest import MODEL, few

GREEDY = {"temperature": 0, "num_predict": few(24), "seed": 1}


@pytest.fixture
def client(bridge):
    return ollama.Client(host=bridge.url)


def test_list_shows_the_model(client):
    models = client.list().models
    assert MODEL in [m.model for m in models]
    model = next(m for m in models if m.model == MODEL)
    assert len(model.digest) == 64 and int(model.digest, 16) >= 0
    assert model.size > 50_000_000
    assert model.details.family == "llama"
    assert model.modified_at.year > 2000


def test_show_has_model_info_and_capabilities(client):
    shown = client.show(MODEL)
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "completion" in shown.capabilities
    assert shown.details.quantization_level


def test_generate_streams_what_it_also_returns_whole(client):
    # Twice first: what is cached of a prompt changes the sizes of the steps, and with them how sums round.
    for _ in range(2):
        whole = client.generate(MODEL, "The capital of France is", options=GREEDY)
    pieces = list(client.generate(MODEL, "The capital of France is", options=GREEDY, stream=True))
    assert whole.response and whole.done
    assert "".join(p.response for p in pieces) == whole.response
    assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True]
    last = pieces[-1]
    assert last.eval_count == whole.eval_count and 0 < last.eval_count <= few(24)
    assert last.prompt_eval_count > 0 and last.total_duration > 0 and last.eval_duration > 0
    assert last.done_reason in ("stop", "length")


def test_a_conversation_carries_what_was_said(client):
    messages = [{"role": "user", "content": "My name is Ada. Say hello."}]
    first = client.chat(MODEL, messages, options=GREEDY)
    assert first.message.role == "assistant" and first.message.content
    messages += [first.message, {"role": "user", "content": "What is my name?"}]
    second = client.chat(MODEL, messages, options=GREEDY)
    assert second.message.content
    assert second.prompt_eval_count > first.prompt_eval_count + first.eval_count


def test_chat_streams(client):
    pieces = list(client.chat(MODEL, [{"role": "user", "content": "Count to five."}], options=GREEDY, stream=True))
    assert "".join(p.message.content for p in pieces)
    assert pieces[-1].done and all(not p.done for p in pieces[:-1])


def test_context_continues_an_answer(client):
    options = {**GREEDY, "num_predict": 8}
    first = client.generate(MODEL, "Count: one two three", options=options)
    assert len(first.context) > first.eval_count
    second = client.generate(MODEL, "go on", context=first.context, options=options)
    assert second.prompt_eval_count > first.prompt_eval_count


def test_the_same_seed_gives_the_same_answer(client):
    options = {"temperature": 1.2, "seed": 42, "num_predict": few(20)}
    client.generate(MODEL, "Once upon a time", raw=True, options=options)  # the same part is cached for all that follow
    answers = {client.generate(MODEL, "Once upon a time", raw=True, options=options).response for _ in range(3)}
    assert len(answers) == 1
    others = {client.generate(MODEL, "Once upon a time", raw=True, options={**options, "seed": s}).response
              for s in range(3)}
    assert len(others) > 1


def test_stop_strings_end_the_answer_and_are_not_shown(client):
    whole = client.generate(MODEL, "Repeat: alpha beta gamma", options=GREEDY).response
    words = whole.split()
    assert len(words) > 1
    cut = client.generate(MODEL, "Repeat: alpha beta gamma", options={**GREEDY, "stop": [words[1]]})
    assert cut.done_reason == "stop"
    assert cut.response == whole[:whole.index(words[1])]


def test_unknown_models_are_404_with_ollamas_text(client):
    with pytest.raises(ollama.ResponseError) as problem:
        client.chat("nosuch", [{"role": "user", "content": "x"}])
    assert problem.value.status_code == 404
    assert problem.value.error == "model 'nosuch' not found"


def test_ps_shows_what_is_loaded_and_keep_alive_0_unloads(client):
    client.generate(MODEL, "", keep_alive="10m")
    loaded = client.ps().models
    assert [m.model for m in loaded] == [MODEL]
    assert loaded[0].size > 0 and loaded[0].expires_at.year > 2000
    assert client.generate(MODEL, "", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_async_clients_run_at_the_same_time(bridge):
    import asyncio

    async def ask(n):
        answer = await ollama.AsyncClient(host=bridge.url).generate(
            MODEL, f"Tell me about the number {n}.", options=GREEDY)
        return answer.response

    async def all_of_them():
        return await asyncio.gather(*(ask(n) for n in range(4)))

    together = asyncio.run(all_of_them())
    alone = [asyncio.run(ask(n)) for n in range(4)]
    assert all(together)
    # Rows of a batch are summed in another order than alone: the beginning agrees, a late word may differ.
    assert sum(a.split()[:3] == b.split()[:3] for a, b in zip(together, alone)) >= 3
