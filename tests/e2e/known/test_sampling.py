"""What a model's makers say about sampling holds until a request says otherwise."""
import pytest


def answer(bridge, model, **options):
    return bridge.json("POST", "/api/generate", {"model": model, "prompt": "x", "stream": False,
                                                 "options": {"num_predict": 24, **options}})["response"]


def test_makers_temperature_is_the_default(bridge):
    assert len({answer(bridge, "tiny-tuned", seed=seed) for seed in range(4)}) == 1
    assert len({answer(bridge, "tiny", seed=seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("model", ["tiny", "tiny-tuned"])
def test_a_request_has_the_last_word(bridge, model):
    assert len({answer(bridge, model, seed=seed, temperature=1.5) for seed in range(4)}) > 1
    assert len({answer(bridge, model, seed=seed, temperature=0) for seed in range(4)}) == 1


def test_unknown_options_are_ignored_with_one_line(bridge):
    before = len(bridge.log())
    answer(bridge, "tiny-hello", mirostat=2, **{"tfs z\n": "x"})
    lines = [line for line in bridge.log()[before:].splitlines() if "unknown options" in line]
    assert len(lines) == 1 and 'options="mirostat tfs z\\n"' in lines[0]
