"""Servers of several ranks on this machine, over MLX's ring on the loopback.

LM_GOLDEN_MODELS names the tiny models of tests/golden; they get a tokenizer here (one letter, one token). LM_DIST_REAL may name a
directory that holds a real model. LM_BUILD is the build directory, as for tests/e2e.
"""
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from known.bridge import Bridge  # noqa: E402

# dense, grouped heads, biases, experts, fused weights, sinks, soft caps, norms over all heads, quantised in several ways
FAMILIES = ["llama-f32", "llama-q8-g64", "llama-q4-g32", "llama-mxfp4", "llama-bf16", "qwen2-q4-g64", "qwen3-q4", "qwen3-moe-q4",
            "mixtral-q4", "gpt-oss-mxfp4", "gpt-oss-bf16", "phi3-q4", "gemma2-q6", "gemma3-q4", "granite-q8", "olmo2-f32", "smollm3-f32",
            "llama-mxfp8", "qwen2-nvfp4", "gpt-oss-mxfp8", "qwen3-moe-nvfp4"]
UNEVEN = ["uneven-f32", "uneven-q4", "uneven-fused", "uneven-experts", "uneven-biases"]
ADAPTED = ["adapted-" + name for name in UNEVEN]
MLX = ["--backend", "mlx", "--device", "cpu"]


def byte_letters():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def with_tokenizer(source, target, ends=True):
    """A model directory that speaks: ids 0..127 are ASCII, the rest are words of their own, the last one ends an answer."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    n = config.get("text_config", config).get("vocab_size") or config["vocab_size"]
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    letters = byte_letters()
    vocab = {letters[b]: b for b in range(128)}
    added = [{"id": i, "content": f"<{i}>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": False} for i in range(128, n)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []},
    }
    settings = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
                "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    if ends:
        settings["eos_token"] = f"<{n - 1}>"
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    (target / "tokenizer_config.json").write_text(json.dumps(settings))


def make_uneven(root):
    """Three key/value heads and an odd number of quantisation groups: no two ranks get as much as each other."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
    import make_adapters
    import make_models as golden

    odd = dict(hidden_size=192, num_attention_heads=6, num_key_value_heads=3, head_dim=32, intermediate_size=160)
    four = golden.affine(4, 32)
    golden.CASES.clear()
    golden.case("uneven-f32", golden.base("llama", **odd))
    golden.case("uneven-q4", golden.base("qwen2", **odd), "BF16", four)
    golden.case("uneven-fused", golden.base("phi3", **{**odd, "head_dim": None}), "F16", four)
    golden.case("uneven-experts", golden.base("mixtral", **odd, **golden.MIXTRAL), "F16", four)
    golden.case("uneven-biases", golden.base("gpt_oss", **{**golden.GPT_OSS, **odd}))
    for c in golden.CASES:
        c["seed"] = 1
        if c["specs"]:
            golden.set_quantization(c)
        golden.build(c).save(root / c["name"])
        adapted = root / ("adapted-" + c["name"])
        golden.build(c).save(adapted)
        make_adapters.save_kept(adapted / "adapter", make_adapters.pairs(c, 5, [*make_adapters.TO_GGUF, "lm_head"], 1), 1.5, "F32")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    golden = os.environ.get("LM_GOLDEN_MODELS")
    assert golden, "LM_GOLDEN_MODELS is not set: python3 tests/golden/make_models.py DIR"
    root = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        with_tokenizer(Path(golden) / name, root / name)
    with_tokenizer(Path(golden) / "smollm3-f32", root / "endless", ends=False)
    sources = tmp_path_factory.mktemp("uneven")
    make_uneven(sources)
    for name in UNEVEN + ADAPTED:
        with_tokenizer(sources / name, root / name)
    return root


def hostfile(path, size, address="127.0.0.1"):
    path.write_text(json.dumps([{"ssh": address, "ips": [address]} for _ in range(size)]))
    return str(path)


@pytest.fixture
def ranks(models, tmp_path):
    """ranks(size, *arguments): a server of that many ranks; 1: alone."""
    servers = []

    def make(size, *arguments, env=None):
        more = [] if size == 1 else ["--distributed", hostfile(tmp_path / f"hosts{size}.json", size)]
        servers.append(Bridge(*MLX, *more, *arguments, roots=[models], env=env))
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.__exit__()


def followers(server):
    """Process ids of the ranks that the server has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == server.process.pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def gone(pid):
    """True when the process has ended (a zombie that nobody has waited for has, too)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def ids(server, model, prompt="the quick brown fox", n=24, **options):
    body = {"model": model, "prompt": prompt, "stream": False,
            "options": {"temperature": 0, "num_predict": n, "num_ctx": 128, **options}}
    return server.json("POST", "/api/generate", body)["context"]
