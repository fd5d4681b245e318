"""Every family of the GGUF importer on a tiny random model: llama.cpp reads the GGUF file, mlx-lm the imported directory
(of an encoder: numpy), and both must give the same log-probabilities (embeddings).

    python tests/check_families.py MLX_OLLAMA_IMPORT LLAMA_SERVER [FAMILY...]

Needs gguf, numpy, mlx[cpu], mlx-lm. Weights are F32, so that the two differ by rounding only.
"""

import json
import math
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import gguf
import mlx.core as mx
import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "golden"))
import encoder_gguf  # noqa: E402
import embedding_reference as reference  # noqa: E402
import make_encoders  # noqa: E402

WIDTH, HEADS, KV, SIZE, FF, EXPERTS, WORDS = 64, 4, 2, 32, 96, 4, 320
PROMPT = [5, 17, 200, 31, 99, 7, 7, 150, 60, 4, 33, 250, 18, 77, 101, 12, 64, 3, 91, 140]
STEPS = 4

COMMON = {"attn_norm": "norm", "ffn_norm": "norm", "q": "split", "ffn": "gated"}
FAMILIES = {
    "llama": dict(COMMON, layers=2, llama3=True),
    "llama-linear": dict(COMMON, arch="llama", layers=2, keys={"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    "mixtral": dict(COMMON, arch="llama", layers=2, ffn="experts"),
    "qwen2": dict(COMMON, layers=2, bias=True, tied=True),
    "qwen2-yarn": dict(COMMON, arch="qwen2", layers=2, bias=True, keys={
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}),
    "qwen3": dict(COMMON, layers=2, qk_norm=SIZE, size=True),
    "mistral3": dict(COMMON, layers=2, size=True),
    # The text model alone: with equal positions in all its parts their rope is the plain one.
    "qwen2vl": dict(COMMON, layers=2, bias=True, tied=True, keys={"rope.dimension_sections": [4, 2, 2, 0]}),
    "qwen3vl": dict(COMMON, layers=2, qk_norm=SIZE, size=True, keys={"rope.dimension_sections": [6, 5, 5, 0],
                                                                     "n_deepstack_layers": 0}),
    "qwen3moe": dict(COMMON, layers=2, qk_norm=SIZE, size=True, ffn="experts", expert_ff=True),
    "phi3": dict(COMMON, layers=2, q="fused", ffn="fused", longrope=True, context=8192),
    "gemma2": dict(COMMON, layers=4, tied=True, size=True, post=True, plus_one=True, keys={
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096}),
    "gemma3": dict(COMMON, layers=7, tied=True, size=True, post=True, plus_one=True, qk_norm=SIZE, keys={
        "attention.sliding_window": 8}),
    "smollm3": dict(COMMON, layers=4, tied=True),
    "granite": dict(COMMON, layers=2, tied=True, keys={
        "attention.scale": 0.2, "embedding_scale": 6.0, "residual_scale": 0.25, "logit_scale": 4.0}),
    "olmo2": dict(COMMON, layers=2, attn_norm=None, ffn_norm=None, post=True, qk_norm="all"),
    "gpt-oss": dict(COMMON, layers=2, bias="all", ffn="experts", expert_ff=True, expert_bias=True, sinks=True, size=True,
                    ffn_norm="post_attention_norm", keys={
                        "attention.sliding_window": 8, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                        "rope.scaling.original_context_length": 64}),
}


def rope_freqs(base, factor=8.0, low=1.0, high=4.0, original=8192):
    out = []
    for i in range(SIZE // 2):
        wave = 2 * math.pi * base ** (2 * i / SIZE)
        if wave < original / high:
            out.append(1.0)
        elif wave > original / low:
            out.append(factor)
        else:
            smooth = (original / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def write_keys(w, arch, f, without=()):
    base = 500000.0 if f.get("llama3") else 10000.0
    keys = {"block_count": f["layers"], "context_length": f.get("context", 512), "embedding_length": WIDTH,
            "feed_forward_length": FF, "attention.head_count": HEADS, "attention.head_count_kv": KV,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": base, "vocab_size": WORDS,
            "rope.dimension_count": SIZE if f.get("size") else WIDTH // HEADS}
    if f.get("size"):
        keys |= {"attention.key_length": SIZE, "attention.value_length": SIZE}
    if f["ffn"] == "experts":
        keys |= {"expert_count": EXPERTS, "expert_used_count": 2}
        if f.get("expert_ff"):
            keys["expert_feed_forward_length"] = FF
    if f.get("longrope"):
        keys |= {"rope.scaling.original_context_length": 4096, "attention.sliding_window": 0,
                 "rope.scaling.attn_factor": math.sqrt(1 + math.log(f["context"] / 4096) / math.log(4096))}
    for key, value in (keys | f.get("keys", {})).items():
        full = f"{arch}.{key}"
        if key in without:
            continue
        if isinstance(value, str):
            w.add_string(full, value)
        elif isinstance(value, list):
            w.add_array(full, value)
        elif isinstance(value, float):
            w.add_float32(full, value)
        else:
            w.add_uint32(full, value)
    # Plain words only: the server holds back what is not yet whole UTF-8, and its probabilities with it.
    tokens = ["a", "b", "ab"] + [f"w{i}" for i in range(254)] + ["<|end|>"] + [f"<extra{i}>" for i in range(WORDS - 258)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1] * 257 + [3] + [4] * (WORDS - 258))
    w.add_token_merges(["a b"])
    w.add_eos_token_id(257)
    w.add_bos_token_id(257)
    w.add_add_bos_token(False)


def make_tensors(f):
    """{name: array}"""
    out = {}
    rng = np.random.default_rng(f.get("seed", 3))
    size = SIZE if f.get("size") else WIDTH // HEADS

    def add(name, *shape, spread=None, mean=0.0):
        spread = spread or 1.5 / math.sqrt(shape[-1])
        out[name] = (mean + spread * rng.standard_normal(shape)).astype(np.float32)

    def norm(name, n):
        add(name, n, spread=0.3, mean=1.0)

    add("token_embd.weight", WORDS, WIDTH, spread=1.0)
    norm("output_norm.weight", WIDTH)
    if not f.get("tied"):
        add("output.weight", WORDS, WIDTH, spread=0.4)
    if f.get("llama3"):
        out["rope_freqs.weight"] = rope_freqs(500000.0)[: size // 2] if size == SIZE else llama3_for(size)
    if f.get("longrope"):
        for name in ("long", "short"):
            # one table for both: mlx-lm always takes the long one, llama.cpp chooses by the context
            out[f"rope_factors_{name}.weight"] = np.linspace(1, 3, size // 2).astype(np.float32)
    for i in range(f["layers"]):
        b = f"blk.{i}."
        if f["attn_norm"]:
            norm(b + "attn_norm.weight", WIDTH)
        if f["ffn_norm"]:
            norm(b + ("ffn_norm" if f["ffn_norm"] == "norm" else f["ffn_norm"]) + ".weight", WIDTH)
        if f.get("post"):
            norm(b + "post_attention_norm.weight", WIDTH)
            norm(b + "post_ffw_norm.weight", WIDTH)
        rows = {"q": HEADS * size, "k": KV * size, "v": KV * size}
        if f["q"] == "fused":
            add(b + "attn_qkv.weight", sum(rows.values()), WIDTH)
        else:
            for part, n in rows.items():
                add(b + f"attn_{part}.weight", n, WIDTH)
                if f.get("bias"):
                    add(b + f"attn_{part}.bias", n, spread=0.3)
        add(b + "attn_output.weight", WIDTH, HEADS * size)
        if f.get("bias") == "all":
            add(b + "attn_output.bias", WIDTH, spread=0.3)
        if f.get("qk_norm"):
            norm(b + "attn_q_norm.weight", size if f["qk_norm"] != "all" else HEADS * size)
            norm(b + "attn_k_norm.weight", size if f["qk_norm"] != "all" else KV * size)
        if f.get("sinks"):
            add(b + "attn_sinks.weight", HEADS, spread=1.0)
        if f["ffn"] == "experts":
            add(b + "ffn_gate_inp.weight", EXPERTS, WIDTH)
            for part, shape in {"gate": (FF, WIDTH), "up": (FF, WIDTH), "down": (WIDTH, FF)}.items():
                add(b + f"ffn_{part}_exps.weight", EXPERTS, *shape)
                if f.get("expert_bias"):
                    add(b + f"ffn_{part}_exps.bias", EXPERTS, shape[0], spread=0.3)
            if f.get("expert_bias"):
                add(b + "ffn_gate_inp.bias", EXPERTS, spread=0.3)
        elif f["ffn"] == "fused":
            add(b + "ffn_up.weight", 2 * FF, WIDTH)
            add(b + "ffn_down.weight", WIDTH, FF)
        else:
            for part, shape in {"gate": (FF, WIDTH), "up": (FF, WIDTH), "down": (WIDTH, FF)}.items():
                add(b + f"ffn_{part}.weight", *shape)
    return out


def llama3_for(size):
    global SIZE
    old, SIZE = SIZE, size
    table = rope_freqs(500000.0)
    SIZE = old
    return table


def one_by_one(tensors):
    """Mixtures as they were until 2024: a tensor for each expert."""
    out = {}
    for name, a in tensors.items():
        for i in range(EXPERTS if "_exps." in name else 0):
            out[name.replace("_exps.", f".{i}.")] = a[i]
        if "_exps." not in name:
            out[name] = a
    return out


def ollama_gptoss(tensors):
    """gpt-oss in Ollama's own layout."""
    out = {}
    for name, a in tensors.items():
        if name.endswith("attn_sinks.weight"):
            out[name.removesuffix(".weight")] = a
        elif ".attn_q." in name:
            parts = [tensors[name.replace("attn_q", f"attn_{p}")] for p in "qkv"]
            out[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
        elif "ffn_gate_exps" in name:
            both = np.stack([a, tensors[name.replace("gate", "up")]], 2)  # row 0 of the gate, row 0 of up, row 1 ...
            out[name.replace("gate", "gate_up")] = both.reshape(EXPERTS, -1, *a.shape[2:])
        elif ".attn_k." not in name and ".attn_v." not in name and "ffn_up_exps" not in name:
            out[name.replace("attn_output", "attn_out").replace("post_attention_norm", "ffn_norm")] = a
    return out


LAYOUTS = {  # name: the family, its architecture in this layout, what is done to its tensors, keys that are left out
    "mixtral-old": ("mixtral", "llama", one_by_one, ()),
    "gptoss": ("gpt-oss", "gptoss", ollama_gptoss, ("rope.scaling.type", "expert_feed_forward_length")),
}


def write_gguf(path, arch, f, layout=None, without=(), form=None):
    w = gguf.GGUFWriter(str(path), arch)
    write_keys(w, arch, f, without)
    for name, a in (layout or dict)(make_tensors(f)).items():
        if form and a.ndim > 1 and name.endswith(".weight") and a.shape[-1] % 32 == 0 and "_inp" not in name:
            kind = gguf.GGMLQuantizationType[form]
            w.add_tensor(name, gguf.quants.quantize(a, kind), raw_dtype=kind)
        else:
            w.add_tensor(name, a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def ask_llama_cpp(server, path, options, route, body):
    """The answer of llama.cpp's server, started for this one request."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = path.with_suffix(".log").open("wb")
    process = subprocess.Popen([server, "-m", str(path), "--port", str(port), "-np", "1", "-t", "1", "-fa", "off", "--no-warmup",
                                *options], stdout=log, stderr=log)
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(path.with_suffix(".log").read_text(errors="replace")[-1500:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        request = urllib.request.Request(f"http://127.0.0.1:{port}{route}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))
    finally:
        process.terminate()
        process.wait()
        log.close()


def llama_cpp(server, path):
    """[(id, {id: logprob})] for STEPS greedy steps."""
    body = {"prompt": PROMPT, "n_predict": STEPS, "temperature": 0, "n_probs": 20, "cache_prompt": False,
            "return_tokens": True, "ignore_eos": True}
    answer = ask_llama_cpp(server, path, ["-c", "256", "-ctk", "f32", "-ctv", "f32", "--swa-full"], "/completion", body)
    return [(p["id"], {t["id"]: t["logprob"] for t in p["top_logprobs"]}) for p in answer["completion_probabilities"]]


def compare(directory, steps):
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    tokens, worst = list(PROMPT), 0.0
    for i, (chosen, logprobs) in enumerate(steps):
        logits = model(mx.array([tokens]))[0, -1].astype(mx.float32)
        mine = np.array(logits - mx.logsumexp(logits))
        banned = mine.copy()
        banned[257] = -np.inf  # ignore_eos
        assert int(banned.argmax()) == chosen, f"step {i}: mlx-lm takes {banned.argmax()}, llama.cpp {chosen}"
        known = {t: v for t, v in logprobs.items() if t != 257 and v > -100}
        worst = max(worst, max(abs(mine[t] - v) for t, v in known.items()))
        tokens.append(chosen)
    return worst


ENCODERS = [case for case in make_encoders.CASES if case[0] in ("bert-f32", "roberta-f32", "distilbert-f32", "nomic-f32")]


def check_encoder(tool, server, case, temp):
    """The largest difference of an embedding's numbers: as numpy has it from what the file was made of, from what was
    imported, and as llama.cpp gives it."""
    source, path, directory = temp / "source", temp / "model.gguf", temp / "model"
    make_encoders.build(*case).save(source)
    encoder_gguf.write(source, path)
    run = subprocess.run([tool, str(path), str(directory)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    ids = [2, *(5 + i % 100 for i in PROMPT), 3]
    want, got = (reference.unit(reference.Encoder(d).states(ids).mean(0)) for d in (source, directory))
    assert np.abs(want - got).max() < 1e-6, f"imported, it gives another embedding: {np.abs(want - got).max()}"
    answer = ask_llama_cpp(server, path, ["--embedding", "-c", "64", "-ub", "64"], "/embedding", {"content": ids})
    return np.abs(reference.unit(np.array(answer[0]["embedding"][0])) - got).max()


def check_encoders(tool, server, wanted):
    failed = 0
    for case in ENCODERS:
        if case[0] not in wanted:
            continue
        with tempfile.TemporaryDirectory() as temp:
            try:
                worst = check_encoder(tool, server, case, pathlib.Path(temp))
                good = worst < 2e-3  # llama.cpp has gelu's tanh form, from a table
                print(f"{case[0]:14} {'ok' if good else 'FAILED'}: embeddings differ by {worst:.1e} at most")
            except (AssertionError, RuntimeError, ValueError, KeyError, TypeError) as problem:
                good = False
                print(f"{case[0]:14} FAILED: {problem}")
            failed += not good
    return failed


def check_layouts(tool, wanted):
    """Another layout of the same model gives the same directory, whatever the form."""
    failed = 0
    for name in [n for n in LAYOUTS if n in wanted]:
        family, arch, layout, without = LAYOUTS[name]
        f = FAMILIES[family]
        for form in (None, "Q8_0", "MXFP4" if family == "gpt-oss" else "Q4_1"):
            with tempfile.TemporaryDirectory() as temp:
                temp, got = pathlib.Path(temp), []
                write_gguf(temp / "a.gguf", f.get("arch", "llama" if family == "mixtral" else family), f, form=form)
                write_gguf(temp / "b.gguf", arch, f, layout, without, form)
                for file in ("a", "b"):
                    run = subprocess.run([tool, str(temp / f"{file}.gguf"), str(temp / file)], capture_output=True, text=True)
                    got.append(run.stderr if run.returncode else (mx.load(str(temp / file / "model.safetensors")),
                                                                  json.loads((temp / file / "config.json").read_text())))
                good = not any(isinstance(g, str) for g in got)
                if good:
                    (a, one), (b, other) = got
                    good = a.keys() == b.keys() and all(mx.array_equal(a[k], b[k]) for k in a) and one == other
                print(f"{name:14} {'ok' if good else 'FAILED'}: as the usual layout, in {form or 'F32'}", *[g for g in got if isinstance(g, str)])
                failed += not good
    return failed


def main():
    tool, server, wanted = sys.argv[1], sys.argv[2], sys.argv[3:] or [*FAMILIES, *(case[0] for case in ENCODERS), *LAYOUTS]
    mx.set_default_device(mx.cpu)
    failed = check_encoders(tool, server, wanted) + check_layouts(tool, wanted)
    for name in wanted:
        if name not in FAMILIES:
            continue
        f = FAMILIES[name]
        arch = f.get("arch", name if name != "mixtral" else "llama")
        with tempfile.TemporaryDirectory() as temp:
            path, directory = pathlib.Path(temp) / "model.gguf", pathlib.Path(temp) / "model"
            write_gguf(path, arch, f)
            run = subprocess.run([tool, str(path), str(directory)], capture_output=True, text=True)
            try:
                assert run.returncode == 0, run.stderr
                worst = compare(directory, llama_cpp(server, path))
                good = worst < 0.02
                print(f"{name:14} {'ok' if good else 'FAILED'}: log-probabilities differ by {worst:.1e} at most")
            except (AssertionError, RuntimeError, ValueError, KeyError, TypeError) as problem:
                good = False
                print(f"{name:14} FAILED: {problem}")
            failed += not good
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
