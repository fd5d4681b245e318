"""LangChain's Ollama classes (langchain-ollama) against the bridge. They always stream, whatever is asked of them."""
import asyncio

import ollama
import pytest
from pydantic import BaseModel, Field

from .bridge import Bridge

pytest.importorskip("langchain_ollama", reason="pip install -r tests/requirements.txt")
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage  # noqa: E402
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM  # noqa: E402

HELLO = "Hello world! Grün 🙂"
CALLED = {"city": "Paris", "days": 2}


class get_weather(BaseModel):
    """How the weather will be. The name is that of the tool that tiny-tool calls."""

    city: str = Field(description="where")
    days: int = Field(description="how many")


class Inner(BaseModel):
    grade: int = Field(ge=1, le=5)


class Verdict(BaseModel):
    """An answer with a reference in its schema."""

    yes: bool
    inner: Inner


@pytest.fixture
def chat(bridge):
    """chat(model, ...) is a ChatOllama that speaks to the bridge."""

    def make(model="tiny-hello", **more):
        return ChatOllama(model=model, base_url=bridge.url, **more)

    return make


def random_json(chat):
    return chat("tiny", seed=5, num_predict=400)


def test_invoke_gives_text_reason_and_counts(chat):
    answer = chat().invoke("hi")
    assert answer.content == HELLO
    assert answer.response_metadata["done_reason"] == "stop" and answer.response_metadata["model_name"] == "tiny-hello"
    counts = answer.usage_metadata
    assert counts["input_tokens"] > 0 and counts["output_tokens"] > 5
    assert counts["total_tokens"] == counts["input_tokens"] + counts["output_tokens"]


def test_invoke_without_a_stream(chat):
    assert chat().invoke("hi", stream=False).content == HELLO


def test_stream_gives_pieces_that_add_up(chat):
    pieces = list(chat().stream([SystemMessage("be kind"), HumanMessage("hi")]))
    assert len(pieces) > 3 and "".join(p.content for p in pieces) == HELLO
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert whole.usage_metadata["output_tokens"] > 5 and whole.response_metadata["done"] is True


def test_batch_and_async_calls_run_beside_each_other(chat, bridge):
    assert [a.content for a in chat().batch(["a", "b", "c", "d", "e"])] == [HELLO] * 5

    async def all_of_them():
        one, many = chat(), chat("tiny-think", reasoning=True)
        answers = await asyncio.gather(*(one.ainvoke(str(i)) for i in range(8)))
        assert [a.content for a in answers] == [HELLO] * 8
        pieces = [p async for p in many.astream("?")]
        assert "".join(p.content for p in pieces) == "Yes."
        assert "".join(p.additional_kwargs.get("reasoning_content", "") for p in pieces) == "hm, well"

    asyncio.run(all_of_them())
    bridge.wait_idle()


def test_stop_ends_an_answer_before_the_word(chat):
    assert chat().invoke("hi", stop=["rld"]).content == "Hello wo"
    assert chat(stop=["! "]).invoke("hi").content == "Hello world"


def test_options_of_every_age_are_accepted(chat):
    old = chat(mirostat=1, mirostat_eta=0.1, mirostat_tau=5.0, tfs_z=1.0, num_gpu=0, num_thread=1, repeat_last_n=8,
               repeat_penalty=1.1, temperature=0.1, top_k=3, top_p=0.9, num_ctx=512, keep_alive="5m", seed=1, num_predict=3)
    assert old.invoke("hi").response_metadata["eval_count"] == 3


def test_logprobs(chat):
    answer = chat(logprobs=True, top_logprobs=2).invoke("hi")
    tokens = answer.response_metadata["logprobs"]
    assert [t["token"] for t in tokens][:3] == ["Hello", " wor", "ld"] and len(tokens[0]["top_logprobs"]) == 2


# ---- tools


def test_bound_tools_are_called_and_results_go_back_in(chat):
    llm = chat("tiny-tool").bind_tools([get_weather], tool_choice="get_weather")
    answer = llm.invoke("weather?")
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", CALLED) and not answer.content
    again = llm.invoke([HumanMessage("weather?"), answer, ToolMessage("sun", tool_call_id=call["id"])])
    assert again.tool_calls[0]["args"] == CALLED


def test_tool_calls_in_a_stream(chat):
    pieces = list(chat("tiny-spaced").bind_tools([get_weather]).stream("weather?"))
    assert "".join(p.content for p in pieces).strip() == "Hi you."
    assert [c["args"] for p in pieces for c in p.tool_calls] == [CALLED]


def test_tools_of_a_model_without_them(chat):
    with pytest.raises(ollama.ResponseError, match="does not support tools") as caught:
        chat().bind_tools([get_weather]).invoke("weather?")
    assert caught.value.status_code == 400


# ---- structured output


def test_structured_output_by_function_calling(chat):
    llm = chat("tiny-tool").with_structured_output(get_weather, method="function_calling")
    assert llm.invoke("weather?") == get_weather(**CALLED)


def test_structured_output_by_schema(chat):
    value = random_json(chat).with_structured_output(Verdict, method="json_schema").invoke("?")
    assert isinstance(value, Verdict) and 1 <= value.inner.grade <= 5
    as_dict = random_json(chat).with_structured_output(Verdict.model_json_schema(), method="json_schema").invoke("?")
    assert Verdict.model_validate(as_dict) == value


def test_structured_output_by_json_mode(chat):
    raw = random_json(chat).with_structured_output(None, method="json_mode", include_raw=True).invoke("?")
    assert raw["parsing_error"] is None and isinstance(raw["parsed"], dict)


def test_structured_output_in_a_stream(chat):
    *_, last = random_json(chat).with_structured_output(Verdict.model_json_schema(), method="json_schema").stream("?")
    assert Verdict.model_validate(last)


def test_structured_output_begins_after_the_thinking(chat):
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"], "additionalProperties": False}
    raw = chat("tiny-think", reasoning=True, num_predict=200).with_structured_output(
        schema, method="json_schema", include_raw=True).invoke("?")
    assert set(raw["parsed"]) == {"n"} and raw["raw"].additional_kwargs["reasoning_content"] == "hm, well"


# ---- thinking


def test_reasoning_on_off_and_unset(chat):
    on = chat("tiny-think", reasoning=True).invoke("?")
    assert (on.content, on.additional_kwargs["reasoning_content"]) == ("Yes.", "hm, well")
    for other in (chat("tiny-think", reasoning=False), chat("tiny-think")):
        answer = other.invoke("?")
        assert "think" not in answer.content and "reasoning_content" not in answer.additional_kwargs
    # what was thought goes back in
    assert chat("tiny-think", reasoning=True).invoke([HumanMessage("?"), on, HumanMessage("!")]).content == "Yes."


def test_reasoning_on_a_model_that_does_not(chat):
    with pytest.raises(ollama.ResponseError, match='"tiny-hello" does not support thinking') as caught:
        chat(reasoning=True).invoke("?")
    assert caught.value.status_code == 400
    assert chat(reasoning=False).invoke("?").content == HELLO


# ---- errors and ends


def test_the_check_of_a_name_knows_it_with_and_without_its_tag(chat):
    for name in ("tiny-hello", "tiny-hello:latest"):
        assert chat(name, validate_model_on_init=True).invoke("hi").content == HELLO
    with pytest.raises(ValueError, match="Model `nothere` not found in Ollama"):
        chat("nothere", validate_model_on_init=True)


def test_unknown_models(chat):
    with pytest.raises(ollama.ResponseError, match="model 'nothere' not found") as caught:
        chat("nothere").invoke("hi")
    assert caught.value.status_code == 404


def test_an_image_for_a_model_without_eyes(chat):
    image = HumanMessage([{"type": "text", "text": "?"}, {"type": "image_url", "image_url": "data:image/png;base64,aGk="}])
    with pytest.raises(ollama.ResponseError, match="does not support vision") as caught:
        chat().invoke([image])
    assert caught.value.status_code == 400


def test_no_messages_are_a_load_and_no_answer(chat):
    with pytest.raises(ValueError, match="No data received from Ollama stream"):
        chat().invoke([])


def test_a_stream_left_early_frees_its_place(chat, bridge):
    endless = chat("tiny", num_predict=1000000)
    for _, piece in zip(range(5), stream := endless.stream("x")):
        assert isinstance(piece, AIMessage)
    stream.close()
    bridge.wait_idle()

    bridge.cancel(lambda: endless.ainvoke("x"))


# ---- completions


def test_the_completion_class(bridge):
    llm = OllamaLLM(model="tiny-hello", base_url=bridge.url)
    assert llm.invoke("hi") == HELLO
    assert "".join(llm.stream("hi", stop=["wor"])) == "Hello "
    assert asyncio.run(llm.ainvoke("hi")) == HELLO
    (result,) = llm.generate(["hi"]).generations
    assert result[0].generation_info["done_reason"] == "stop" and result[0].generation_info["eval_count"] > 5
    thought = OllamaLLM(model="tiny-think", base_url=bridge.url, reasoning=True, validate_model_on_init=True).generate(["?"])
    assert thought.generations[0][0].text == "Yes."
    # the class adds the pieces up itself
    assert thought.generations[0][0].generation_info["thinking"] == "hm, well"
    with pytest.raises(ollama.ResponseError, match="model 'nothere' not found"):
        OllamaLLM(model="nothere", base_url=bridge.url).invoke("hi")


def test_the_embeddings_class(bridge):
    embedder = OllamaEmbeddings(model="tiny", base_url=bridge.url, validate_model_on_init=True, num_ctx=64, mirostat=0)
    one, two = embedder.embed_documents(["a b", "c d"])
    # what tiny says of a text is its last byte
    assert one.index(max(one)) == ord("b") and two.index(max(two)) == ord("d")
    assert embedder.embed_query("a b") == one == asyncio.run(embedder.aembed_query("a b"))
    assert len(OllamaEmbeddings(model="tiny", base_url=bridge.url, dimensions=130).embed_query("x")) == 130
    assert len(embedder.embed_query("too long for 64 tokens " * 20)) == 384
    with pytest.raises(ollama.ResponseError, match="nothere") as caught:
        OllamaEmbeddings(model="nothere", base_url=bridge.url).embed_query("x")
    assert caught.value.status_code == 404


def test_a_real_model_in_a_chain(real_store):
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    with Bridge(store=real_store) as server:
        llm = ChatOllama(model="real", base_url=server.url, num_predict=8, temperature=0, validate_model_on_init=True)
        chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "Say {word}.")]) | llm | StrOutputParser()
        assert chain.invoke({"word": "hello"}).strip()
