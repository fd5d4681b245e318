#!/usr/bin/env python3
"""Real models over MLX: the server's greedy tokens against mlx-lm's, and what they take in memory.

    mlx_models.py --program build/release/bin/mlx-ollama-bridge DIR...

For each model directory mlx-lm computes a greedy continuation of a few prompts in float32 on the CPU; a server with
--backend mlx --device cpu must choose the same tokens, also where it shares a prompt's beginning with an earlier one. Where
mlx-lm's two best tokens are so close that rounding decides, a prompt's comparison ends. With keys and values in 8 bits most
tokens must be the same, in 4 bits some. Ends with "mlx_models: N passed, N failed".
"""
import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
]
TOKENS = 12
CLOSE = 2e-4  # of the largest logit
SAME = {"f16": 1.0, "q8_0": 0.8, "q4_0": 0.3}  # of the tokens before the first that differs; exact for f16

counts = [0, 0]


def check(name, good, why=""):
    counts[not good] += 1
    print(f"{'ok' if good else 'FAILED'}: {name}{'' if good else ': ' + str(why)}", flush=True)


# ---- mlx-lm


def expected(directory):
    """[the text after each token of a continuation, as far as rounding can't change it], for each prompt"""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import dequantize_model, load

    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(directory))
    model.set_dtype(mx.float32)
    model = dequantize_model(model)  # MLX's quantised products are slow on the CPU
    out = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        cache, sure, said, row = make_prompt_cache(model), None, [], ids
        for i in range(TOKENS):
            logits = model(mx.array([row]), cache=cache)[0, -1]
            order = mx.argsort(-logits)[:2].tolist()
            lead = (logits[order[0]] - logits[order[1]]).item() / mx.abs(logits).max().item()
            if lead < CLOSE and sure is None:
                sure = i
            said.append(order[0])
            row = [order[0]]
            if order[0] in tokenizer.eos_token_ids:
                break
        said = said[:sure]
        out.append([tokenizer.decode(said[:i + 1], skip_special_tokens=True) for i in range(len(said))])
    return out


# ---- the server


class Server:
    def __init__(self, program, root, *options):
        self.home = tempfile.TemporaryDirectory(prefix="mlx-ollama-")
        self.log = Path(self.home.name) / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [program, "--port", "0", "--models", self.home.name + "/own", "--root", str(root), "--backend", "mlx",
                 "--device", "cpu", *options], stderr=log, stdout=log, env={"HOME": self.home.name})
        end = time.monotonic() + 60
        while "msg=listening" not in self.log.read_text():
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.05)
        self.port = self.log.read_text().split("msg=listening")[1].split("port=")[1].split()[0]

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=600) as answer:
            return json.load(answer)

    def memory(self, field):
        """Bytes of a line of /proc/PID/status, None where there is none."""
        status = Path(f"/proc/{self.process.pid}/status")
        for line in status.read_text().splitlines() if status.exists() else []:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        return None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.home.cleanup()
        return code


def ask(server, model, prompt):
    return server.call("/api/generate", {
        "model": model, "prompt": prompt, "raw": True, "stream": False,
        "options": {"temperature": 0, "num_predict": TOKENS, "num_ctx": 256, "repeat_penalty": 1.0}})["response"]


def compare(server, model, cases, kind, rounds):
    other, all_same, n_all = [], 0, 0
    for _ in range(rounds):  # the second time the prompt is cached
        for prompt, texts in zip(PROMPTS, cases):
            got = ask(server, model, prompt)
            # A text may end within a character, which the server keeps back.
            same = sum(got.startswith(t.rstrip("\ufffd")) for t in texts)
            all_same += same
            n_all += len(texts)
            if same < len(texts):
                other.append(f"{prompt[:20]!r}: {same} of {len(texts)} tokens, {got!r}, mlx-lm {texts[-1]!r}")
    check(f"{model} {kind}: {all_same} of {n_all} greedy tokens as mlx-lm's", n_all and all_same >= SAME[kind] * n_all,
          "; ".join(other))


def check_memory(server, directory, model, before):
    """The weights are in memory once: as MLX's copy, or as the mapped file."""
    loaded = server.call("/api/ps")["models"][0]
    check(f"{model}: /api/ps has its size, none of it on a GPU", loaded["size"] > 0 and loaded["size_vram"] == 0, loaded)
    weights = sum(f.stat().st_size for f in directory.glob("*.safetensors"))
    anonymous, mapped = server.memory("RssAnon"), server.memory("RssFile")
    if anonymous is not None:
        taken = anonymous - before[0] + mapped - before[1]
        check(f"{model}: {taken >> 20} MiB in memory for {weights >> 20} MiB of weights", taken < 1.7 * weights + (200 << 20),
              f"{anonymous >> 20} MiB, of files {mapped >> 20} MiB")
    server.call("/api/generate", {"model": model, "keep_alive": 0})
    end = time.monotonic() + 30
    while server.call("/api/ps")["models"] and time.monotonic() < end:
        time.sleep(0.05)
    if anonymous is not None:
        while server.memory("RssAnon") > before[0] + (64 << 20) and time.monotonic() < end:
            time.sleep(0.05)  # threads end after the model has left the list
        left = server.memory("RssAnon") - before[0]
        check(f"{model}: {left >> 20} MiB left after it has gone", left < 64 << 20, left)


def check_model(program, directory, kinds, rounds):
    model = directory.name
    cases = expected(directory)
    for kind in kinds:
        server = Server(program, directory.parent, "--kv-cache-type", kind)
        before = server.memory("RssAnon"), server.memory("RssFile")
        try:
            compare(server, model, cases, kind, rounds if kind == "f16" else 1)
            if kind == "f16":
                check_memory(server, directory, model, before)
        finally:
            code = server.stop()
        check(f"{model} {kind}: the server ends with 0", code == 0, code)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--program", required=True)
    args.add_argument("dirs", nargs="+", type=Path)
    a = args.parse_args()
    for i, directory in enumerate(a.dirs):
        # Types of keys and values, and cached prompts, over the first, which is the small one.
        check_model(a.program, directory.resolve(), ["f16"] if i else ["f16", "q8_0", "q4_0"], 1 if i else 2)
    print(f"mlx_models: {counts[0]} passed, {counts[1]} failed")
    return counts[1] > 0 or counts[0] == 0


if __name__ == "__main__":
    sys.exit(main())
