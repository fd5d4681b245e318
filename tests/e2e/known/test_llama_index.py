"""LlamaIndex's Ollama class (llama-index-llms-ollama) against the bridge. It asks /api/show for the length of the context."""
import asyncio
import json

import ollama
import pytest
from pydantic import BaseModel, Field

from .bridge import PATIENCE, Bridge

for package in ("llms", "embeddings"):
    pytest.importorskip(f"llama_index.{package}.ollama", reason="pip install -r tests/requirements.txt")
from llama_index.core.base.llms.types import ThinkingBlock, ToolCallBlock  # noqa: E402
from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.core.prompts import PromptTemplate  # noqa: E402
from llama_index.core.tools import FunctionTool  # noqa: E402
from llama_index.embeddings.ollama import OllamaEmbedding  # noqa: E402
from llama_index.llms.ollama import Ollama  # noqa: E402

HELLO = "Hello world! Grün 🙂"
CALLED = {"city": "Paris", "days": 2}
ASK = [ChatMessage(role="user", content="?")]


class Verdict(BaseModel):
    """An answer."""

    yes: bool
    grade: int = Field(ge=1, le=5)


def get_weather(city: str, days: int) -> str:
    """How the weather will be."""
    return f"{city} {days}"


WEATHER = FunctionTool.from_defaults(get_weather)


@pytest.fixture
def llm(bridge):
    """llm(model, ...) is an Ollama that speaks to the bridge."""

    def make(model="tiny-hello", **more):
        return Ollama(model=model, base_url=bridge.url, request_timeout=PATIENCE, **more)

    return make


def random_json(llm):
    return llm("tiny", additional_kwargs={"seed": 5, "num_predict": 400})


def blocks(message, kind):
    return [b for b in message.blocks if isinstance(b, kind)]


def test_the_context_is_what_the_model_can_hold(llm):
    assert llm().metadata.context_window == 32768


def test_complete_at_once_and_in_pieces(llm):
    assert llm().complete("hi").text == HELLO
    pieces = list(llm().stream_complete("hi"))
    assert "".join(p.delta for p in pieces) == HELLO and pieces[-1].text == HELLO


def test_chat_at_once_and_in_pieces(llm):
    messages = [ChatMessage(role="system", content="be kind"), ChatMessage(role="user", content="hi")]
    answer = llm(context_window=512).chat(messages)
    assert answer.message.content == HELLO and answer.message.role == "assistant"
    usage = answer.raw["usage"]
    assert usage["prompt_tokens"] > 0 and usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    pieces = list(llm(context_window=512).stream_chat(messages))
    assert "".join(p.delta for p in pieces) == HELLO and pieces[-1].message.content == HELLO
    assert pieces[-1].raw["usage"]["completion_tokens"] == usage["completion_tokens"]


def test_async_calls(llm, bridge):
    async def all_of_them():
        one = llm()
        assert [a.message.content for a in await asyncio.gather(*(one.achat(ASK) for _ in range(5)))] == [HELLO] * 5
        assert (await one.acomplete("hi")).text == HELLO
        assert "".join([p.delta async for p in await one.astream_chat(ASK)]) == HELLO

    asyncio.run(all_of_them())
    bridge.wait_idle()


def test_chat_with_tools(llm):
    tiny = llm("tiny-tool")
    answer = tiny.chat_with_tools([WEATHER], user_msg="weather?")
    (call,) = tiny.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", CALLED)
    assert WEATHER(**call.tool_kwargs).content == "Paris 2"
    # the result goes back in
    result = ChatMessage(role="tool", content="sun", additional_kwargs={"tool_call_id": call.tool_id})
    again = tiny.chat_with_tools([WEATHER], chat_history=[*ASK, answer.message, result])
    assert tiny.get_tool_calls_from_response(again)[0].tool_kwargs == CALLED
    assert tiny.predict_and_call([WEATHER], user_msg="weather?").response == "Paris 2"


def test_chat_with_tools_in_a_stream(llm):
    *_, last = llm("tiny-spaced").stream_chat_with_tools([WEATHER], user_msg="weather?")
    assert last.message.content.strip() == "Hi you."
    assert [b.tool_kwargs for b in blocks(last.message, ToolCallBlock)] == [CALLED]


def test_structured_predict(llm):
    prompt = PromptTemplate("Is {what} good?")
    value = random_json(llm).structured_predict(Verdict, prompt, what="bread")
    assert isinstance(value, Verdict)
    *_, last = random_json(llm).stream_structured_predict(Verdict, prompt, what="bread")
    assert Verdict.model_validate(last.model_dump()) == value
    assert asyncio.run(random_json(llm).astructured_predict(Verdict, prompt, what="bread")) == value
    assert random_json(llm).as_structured_llm(Verdict).complete("?").raw == value


def test_json_mode(llm):
    text = llm("tiny", json_mode=True, additional_kwargs={"seed": 5, "num_predict": 400}).complete("?").text
    assert isinstance(json.loads(text), dict)


def test_thinking(llm):
    answer = llm("tiny-think", thinking=True).chat(ASK)
    assert answer.message.content == "Yes." and [b.content for b in blocks(answer.message, ThinkingBlock)] == ["hm, well"]
    pieces = list(llm("tiny-think", thinking=True).stream_chat(ASK))
    assert "".join(p.additional_kwargs["thinking_delta"] or "" for p in pieces) == "hm, well"
    assert pieces[-1].message.content == "Yes."
    # the thought goes back in; False becomes None here, which means yes
    assert llm("tiny-think", thinking=True).chat([*ASK, answer.message, *ASK]).message.content == "Yes."
    off = llm("tiny-think", thinking=False).chat(ASK)
    assert "think" not in off.message.content


def test_errors_carry_status_and_text(llm):
    cases = [
        (llm("nothere", context_window=512), 404, "model 'nothere' not found"),
        (llm("nothere"), 404, "model 'nothere:latest' not found"),  # from show
        (llm(thinking=True), 400, '"tiny-hello" does not support thinking'),
        (llm(additional_kwargs={"num_predict": "many"}), 500, 'option "num_predict" must be of type integer'),
    ]
    for client, status, text in cases:
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat(ASK)
        assert (caught.value.status_code, caught.value.error) == (status, text)
        with pytest.raises(ollama.ResponseError) as caught:
            list(client.stream_chat(ASK))
        assert (caught.value.status_code, caught.value.error) == (status, text)
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        llm().chat_with_tools([WEATHER], user_msg="?")


def test_a_stream_left_early_frees_its_place(llm, bridge):
    stream = llm("tiny", additional_kwargs={"num_predict": 1000000}).stream_chat(ASK)
    for _, piece in zip(range(5), stream):
        assert piece.delta is not None
    stream.close()
    bridge.wait_idle()


def test_embeddings(bridge):
    embedder = OllamaEmbedding("tiny", base_url=bridge.url, embed_batch_size=2, query_instruction="find:")
    vectors = embedder.get_text_embedding_batch(["a b", "c d", "e f"])
    # what tiny says of a text is its last byte
    assert [v.index(max(v)) for v in vectors] == [ord("b"), ord("d"), ord("f")]
    assert embedder.get_text_embedding("a b") == vectors[0]
    assert asyncio.run(embedder.aget_query_embedding("a b")) == vectors[0]
    with pytest.raises(ollama.ResponseError, match="nothere") as caught:
        OllamaEmbedding("nothere", base_url=bridge.url).get_text_embedding("x")
    assert caught.value.status_code == 404


def test_a_real_model_predicts_what_fits(real_store):
    with Bridge(store=real_store) as server:
        client = Ollama(model="real", base_url=server.url, request_timeout=PATIENCE, temperature=0, context_window=512,
                        additional_kwargs={"num_predict": 60})
        assert isinstance(client.structured_predict(Verdict, PromptTemplate("Is bread good?")), Verdict)
        assert client.complete("Say hello.").text.strip()
