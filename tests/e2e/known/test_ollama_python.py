"""The real Python client of Ollama against the bridge."""
import asyncio
import json

import ollama
import pytest

from .bridge import Bridge

HELLO = "Hello world! Grün 🙂"
ASK = [{"role": "user", "content": "?"}]


@pytest.fixture
def client(bridge):
    return ollama.Client(bridge.url)


def test_list_shows_every_model_with_its_tag(client):
    models = {m.model: m for m in client.list().models}
    assert {"tiny:latest", "tiny-hello:latest", "tiny-tool:latest"} <= set(models)
    hello = models["tiny-hello:latest"]
    assert len(hello.digest) == 64 and hello.size > 0 and hello.modified_at
    assert hello.details.format == "safetensors" and hello.details.family == "llama"


def test_show_reads_all_fields(client):
    shown = client.show("tiny-tool")
    assert shown.modelinfo["llama.context_length"] == 32768
    assert shown.capabilities == ["completion", "tools"]
    assert "tool" in shown.template and shown.details.quantization_level


def test_generate_at_once(client):
    answer = client.generate("tiny-hello", "hi")
    assert answer.response == HELLO and answer.done and answer.done_reason == "stop"
    assert answer.total_duration > 0 and answer.eval_count > 5 and answer.prompt_eval_count > 0
    assert answer.context


def test_generate_in_pieces(client):
    pieces = list(client.generate("tiny-hello", "hi", stream=True))
    assert "".join(p.response for p in pieces) == HELLO
    assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 3


def test_context_goes_back_in(client):
    first = client.generate("tiny-hello", "hi")
    second = client.generate("tiny-hello", "more", context=first.context)
    assert second.response == HELLO
    assert second.prompt_eval_count > first.prompt_eval_count


def test_chat_at_once_and_in_pieces(client):
    messages = [{"role": "user", "content": "hi"}]
    assert client.chat("tiny-hello", messages).message.content == HELLO
    pieces = list(client.chat("tiny-hello", messages, stream=True))
    assert "".join(p.message.content for p in pieces) == HELLO and pieces[-1].done


def test_tools_come_back_as_calls(client):
    def get_weather(city: str, days: int) -> str:
        """Weather.

        Args:
            city: where
            days: how many
        """
        return f"{city} {days}"

    answer = client.chat("tiny-tool", [{"role": "user", "content": "weather?"}], tools=[get_weather])
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert get_weather(**call.function.arguments) == "Paris 2"
    assert not answer.message.content
    # the result goes back in
    again = client.chat("tiny-tool", [{"role": "user", "content": "weather?"}, answer.message,
                                      {"role": "tool", "tool_name": "get_weather", "content": "sun"}])
    assert again.done


def test_thinking_is_apart(client):
    answer = client.chat("tiny-think", [{"role": "user", "content": "?"}], think=True)
    assert (answer.message.thinking, answer.message.content) == ("hm, well", "Yes.")
    pieces = list(client.chat("tiny-think", [{"role": "user", "content": "?"}], stream=True))
    assert "".join(p.message.thinking or "" for p in pieces) == "hm, well"
    assert "".join(p.message.content or "" for p in pieces) == "Yes."
    assert "think" not in client.chat("tiny-think", [{"role": "user", "content": "?"}], think=False).message.content


def test_format_is_kept(client):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "yes": {"type": "boolean"}},
              "required": ["n", "yes"], "additionalProperties": False}
    answer = client.chat("tiny", [{"role": "user", "content": "?"}], format=schema, options={"num_predict": 400, "seed": 5})
    value = json.loads(answer.message.content)
    assert set(value) == {"n", "yes"} and type(value["yes"]) is bool and 0 <= value["n"] <= 9


def test_generate_with_thinking_and_with_a_format(client):
    answer = client.generate("tiny-think", "?", think=True)
    assert (answer.thinking, answer.response) == ("hm, well", "Yes.")
    pieces = list(client.generate("tiny-think", "?", think=True, stream=True))
    assert "".join(p.thinking or "" for p in pieces) == "hm, well" and "".join(p.response for p in pieces) == "Yes."
    assert isinstance(json.loads(client.generate("tiny", "?", format="json", options={"num_predict": 400, "seed": 5}).response), dict)
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}
    pieces = client.generate("tiny", "?", format=schema, stream=True, options={"num_predict": 400, "seed": 5})
    assert set(json.loads("".join(p.response for p in pieces))) <= {"a", "b"}


def test_a_tool_call_in_a_stream_is_whole(client):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
    pieces = list(client.chat("tiny-spaced", [{"role": "user", "content": "?"}], tools=[tool], stream=True))
    (call,) = [c for p in pieces for c in p.message.tool_calls or []]
    assert call.function.arguments == {"city": "Paris", "days": 2}
    assert "".join(p.message.content or "" for p in pieces).strip() == "Hi you." and pieces[-1].done_reason == "stop"


def test_raw_prompts_and_suffixes(client):
    raw = client.generate("tiny-hello", "<|assistant|>", raw=True)
    assert raw.response == HELLO and raw.context is None
    assert client.generate("tiny-fim", "def f():", suffix="\n").response == "return 1"


def test_the_same_seed_gives_the_same_text(client):
    texts = {client.generate("tiny", "x", options={"seed": 11, "num_predict": 40}).response for _ in range(3)}
    assert len(texts) == 1
    other = client.generate("tiny", "x", options={"seed": 12, "num_predict": 40}).response
    assert other not in texts


def test_logprobs_line_up_with_the_text(client, bridge):
    answer = client.generate("tiny-hello", "x", logprobs=True, top_logprobs=3)
    assert [p.token for p in answer.logprobs][:4] == ["Hello", " wor", "ld", "! "]
    assert all(p.logprob <= 0 and len(p.top_logprobs) == 3 for p in answer.logprobs)
    # the client drops "bytes", which alone can carry parts of a character
    ask = {"model": "tiny-hello", "prompt": "x", "logprobs": True}
    whole = bridge.json("POST", "/api/generate", {**ask, "stream": False})
    pieces = [json.loads(line) for line in bridge.request("POST", "/api/generate", ask)[2].splitlines()]
    for logprobs in (whole["logprobs"], [p for piece in pieces for p in piece.get("logprobs", [])]):
        assert b"".join(bytes(p["bytes"]) for p in logprobs).decode().startswith(HELLO)


def test_errors_carry_status_and_text(client):
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("nothere", "hi")
    assert caught.value.status_code == 404 and caught.value.error == "model 'nothere' not found"
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat("nothere", [{"role": "user", "content": "x"}], stream=True))
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("nothere")
    assert caught.value.status_code == 404


@pytest.mark.parametrize("status, text, call", [
    (400, "does not support tools", lambda c: c.chat("tiny-hello", ASK, tools=[{"function": {"name": "f"}}])),
    (400, '"tiny-hello" does not support thinking', lambda c: c.chat("tiny-hello", ASK, think=True)),
    (400, "does not support vision", lambda c: c.generate("tiny-hello", "x", images=[b"hi"])),
    (400, "does not support insert", lambda c: c.generate("tiny-hello", "x", suffix="y")),
    (400, "missing unit in duration", lambda c: c.generate("tiny-hello", "x", keep_alive="300")),
    (400, "top_logprobs must be between 0 and 20", lambda c: c.generate("tiny-hello", "x", top_logprobs=21)),
    (500, 'option "num_ctx" must be of type integer', lambda c: c.generate("tiny-hello", "x", options={"num_ctx": "4k"})),
    (400, "invalid model name", lambda c: c.generate("a b", "x")),
    (400, 'name "a b" is invalid', lambda c: c.delete("a b")),
])
def test_refusals(client, status, text, call):
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert caught.value.status_code == status and text in caught.value.error
    assert client.chat("tiny-hello", ASK).message.content == HELLO


def test_a_stream_left_early_frees_its_place(client, bridge):
    stream = client.generate("tiny", "x", stream=True, options={"num_predict": 1000000})
    for _, piece in zip(range(5), stream):
        assert not piece.done
    stream.close()
    bridge.wait_idle()

    bridge.cancel(lambda: ollama.AsyncClient(bridge.url).chat("tiny", ASK, options={"num_predict": 1000000}))


def test_models_load_stay_and_unload(client):
    client.generate("tiny-hello", "", keep_alive="10m")
    (loaded,) = [m for m in client.ps().models if m.model == "tiny-hello:latest"]
    assert loaded.size > 0 and loaded.expires_at and len(loaded.digest) == 64 and loaded.context_length > 0
    client.generate("tiny-hello", "", keep_alive=-1)
    (loaded,) = [m for m in client.ps().models if m.model == "tiny-hello:latest"]
    assert loaded.expires_at.year > 2200
    assert client.generate("tiny-hello", "", keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize("status, text, call", [
    (404, 'model "nothere" not found', lambda c: c.copy("nothere", "x")),
    (400, 'destination "a b" is invalid', lambda c: c.copy("tiny", "a b")),
    (400, "neither 'from' or 'files' was specified", lambda c: c.create("x")),
    (400, "invalid digest format", lambda c: c.create("x", files={"a.gguf": "sha256:12"})),
    (400, "invalid model name", lambda c: c.create("a b", from_="tiny")),
    (400, "template error", lambda c: c.create("x", from_="tiny", template="{{ if }}")),
    (500, "HF_HUB_OFFLINE", lambda c: c.pull("nothere")),
    (500, "HF_HUB_OFFLINE", lambda c: c.push("tiny")),
])
def test_refusals_of_managing(client, status, text, call):
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert caught.value.status_code == status and text in caught.value.error
    assert "x:latest" not in [m.model for m in client.list().models]


def test_a_pull_that_fails_does_so_in_its_stream(client):
    with pytest.raises(ollama.ResponseError, match="HF_HUB_OFFLINE"):
        list(client.pull("nothere", stream=True))


def test_many_clients_at_once(bridge):
    async def one(client, i):
        model, want = (("tiny-hello", HELLO), ("tiny-think", "Yes."))[i % 2]
        text = ""
        async for piece in await client.chat(model, [{"role": "user", "content": f"{i}"}], stream=True):
            text += piece.message.content or ""
        assert text == want

    async def all_of_them():
        client = ollama.AsyncClient(bridge.url)
        await asyncio.gather(*(one(client, i) for i in range(40)))

    asyncio.run(all_of_them())
    bridge.wait_idle()


def test_a_real_model_answers_and_is_deleted(real_store):
    with Bridge(store=real_store) as server:
        client = ollama.Client(server.url)
        assert [m.model for m in client.list().models] == ["real:latest"]
        assert client.chat("real", [{"role": "user", "content": "Hello!"}], options={"num_predict": 8}).message.content
        # As a text that goes on, " Paris" leads by more than two nats: no way of rounding changes that.
        answer = client.generate("real", "The capital of France is", raw=True, options={"temperature": 0, "num_predict": 3})
        assert answer.response.startswith(" Paris")
        assert client.generate("real", "Count: 1, 2, 3,", raw=True, options={"temperature": 0, "num_predict": 8}).eval_count == 8
        client.delete("real")
        assert client.list().models == []
        assert not any(real_store.rglob("*.safetensors"))
