"""Anthropic's own Python client, unchanged, with a real model."""
from typing import Literal

import anthropic
import pydantic
import pytest

from conftest import MODEL, few

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"model": MODEL, "max_tokens": few(24), "extra_body": {"temperature": 0}}


@pytest.fixture
def client(bridge):
    with anthropic.Anthropic(base_url=bridge.url, api_key="none", max_retries=0, timeout=600) as c:
        yield c


def read_all(usage):
    return usage.input_tokens + usage.cache_read_input_tokens


def test_an_answer_streams_what_it_also_returns_whole(client):
    # Twice first: what is cached of a prompt changes the sizes of the steps, and with them how sums round.
    for _ in range(2):
        whole = client.messages.create(messages=CAPITAL, **GREEDY)
    with client.messages.stream(messages=CAPITAL, **GREEDY) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text != ""
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens <= few(24)


def test_what_is_counted_is_what_is_read(client, bridge):
    system = [{"type": "text", "text": "You answer in one short sentence."}]
    counted = client.messages.count_tokens(model=MODEL, system=system, messages=CAPITAL).input_tokens
    answer = client.messages.create(system=system, messages=CAPITAL, **GREEDY)
    native = bridge.json("POST", "/api/chat", {"model": MODEL, "stream": False, "options": {"num_predict": 1}, "messages": [
        {"role": "system", "content": system[0]["text"]}, *CAPITAL]})[1]
    assert counted == read_all(answer.usage) == native["prompt_eval_count"] > 20


def test_a_conversation_is_read_once(client):
    answer = client.messages.create(messages=CAPITAL, **GREEDY)
    more = [*CAPITAL, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "And of Italy?"}]
    again = client.messages.create(messages=more, **GREEDY)
    assert again.usage.cache_read_input_tokens >= read_all(answer.usage) - 1
    assert read_all(again.usage) > read_all(answer.usage) + answer.usage.output_tokens


def test_an_answer_that_is_begun_is_continued(client):
    begun = client.messages.create(**{**GREEDY, "max_tokens": 3}, messages=[
        *CAPITAL, {"role": "assistant", "content": "The capital of France is"}])
    assert begun.content[0].text.startswith(" Paris")


def test_a_stop_sequence_ends_an_answer_and_is_named(client):
    whole = client.messages.create(messages=CAPITAL, **GREEDY).content[0].text
    word = whole.split()[2]
    cut = client.messages.create(messages=CAPITAL, stop_sequences=["never", word], **GREEDY)
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert cut.content[0].text == whole[:whole.index(word)]


def test_a_schema_is_kept_by_a_model_that_was_not_made_for_it(client):
    class City(pydantic.BaseModel):
        large: bool
        size: Literal["small", "large"]  # this client leaves bounds of numbers out of what it sends

    for _ in range(3):
        parsed = client.messages.parse(model=MODEL, messages=CAPITAL, output_format=City, max_tokens=few(300))
        assert isinstance(parsed.parsed_output, City)


def test_tools_on_a_model_without_are_refused(client):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(messages=CAPITAL, tools=[{"name": "f", "input_schema": {"type": "object"}}], **GREEDY)
    assert caught.value.body["error"]["message"].endswith("does not support tools")
