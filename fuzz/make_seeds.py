#!/usr/bin/env python3
"""Makes the small files that the safetensors, GGUF and text fuzz targets start from: fuzz/corpus/{safetensors,adapter,
gguf,text,gotmpl,opening,places,events}.

    python3 fuzz/make_seeds.py

Needs nothing but Python. The files are committed; run this when the formats that are read grow.
"""

import hashlib
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def put(folder, name, data):
    (CORPUS / folder).mkdir(parents=True, exist_ok=True)
    (CORPUS / folder / name).write_bytes(data)


def safetensors(tensors):
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        n = sizes[dtype]
        for d in shape:
            n *= d
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(i % 251 for i in range(at))


def string(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def u32(key, v):
    return string(key) + struct.pack("<II", 4, v)


def f32(key, v):
    return string(key) + struct.pack("<If", 6, v)


def text(key, v):
    return string(key) + struct.pack("<I", 8) + string(v)


def array(key, kind, values):
    body = b"".join(string(v) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", v) for v in values)
    return string(key) + struct.pack("<IIQ", 9, kind, len(values)) + body


def gguf(keys, tensors):
    """tensors: (name, type, dims, bytes)"""
    table, data = b"", b""
    for name, kind, dims, content in tensors:
        data += bytes(-len(data) % 32)
        table += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        table += struct.pack("<IQ", kind, len(data))
        data += content
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
    return head + bytes(-len(head) % 32) + data


TOP = [("token_embd.weight", 8, [32, 4], bytes([0, 60] + [7] * 32) * 4), ("output_norm.weight", 0, [32], bytes(128))]


def model_keys(arch, vocab):
    return [text("general.architecture", arch), u32(f"{arch}.block_count", 1), u32(f"{arch}.context_length", 64),
            u32(f"{arch}.embedding_length", 32), u32(f"{arch}.feed_forward_length", 32),
            u32(f"{arch}.attention.head_count", 2), f32(f"{arch}.rope.freq_base", 10000.0), *vocab]


def model(arch, vocab, blocks=()):
    return gguf(model_keys(arch, vocab), TOP + list(blocks))


def adapters():
    """adapter_config.json, a NUL, the weights."""
    layer = "model.layers.0.self_attn."
    peft = {f"base_model.model.{layer}q_proj.lora_A.weight": ("F32", [2, 16]), f"base_model.model.{layer}q_proj.lora_B.weight": ("F32", [8, 2])}
    mlx = {f"{layer}v_proj.lora_a": ("F16", [16, 2]), f"{layer}v_proj.lora_b": ("F16", [2, 8])}
    kept = {"lm_head.lora_a": ("BF16", [1, 16]), "lm_head.lora_b": ("BF16", [8, 1]), "lm_head.scale": ("F32", [1])}
    put("adapter", "peft", b'{"peft_type":"LORA","r":2,"lora_alpha":4,"use_rslora":true,"alpha_pattern":{"q_proj":2,"^model":1}}\0' + safetensors(peft))
    put("adapter", "mlx", b'{"fine_tune_type":"lora","lora_parameters":{"rank":2,"scale":20.0}}\0' + safetensors(mlx))
    put("adapter", "kept", b"\0" + safetensors(kept))
    put("adapter", "refused", b'{"lora_alpha":4,"use_dora":true,"modules_to_save":["lm_head"]}\0' + safetensors(peft))
    keys = [text("general.type", "adapter"), text("general.architecture", "llama"), text("adapter.type", "lora"), f32("adapter.lora.alpha", 4)]
    tensors = [("blk.0.attn_q.weight.lora_a", 0, [4, 2], bytes(32)), ("blk.0.attn_q.weight.lora_b", 0, [2, 8], bytes(64)),
               ("output.weight.lora_a", 1, [4, 1], bytes(8)), ("output.weight.lora_b", 1, [1, 8], bytes(16))]
    put("adapter", "gguf", b"\0" + gguf(keys, tensors))


def image_layer(kind, text, name=None):
    """Of the blobs that places_fuzz.c puts into the store."""
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    kind = kind if "." in kind else f"application/vnd.ollama.image.{kind}"
    return {"mediaType": kind, "digest": digest, "size": len(text), **({"name": name} if name else {})}


def image(*layers):
    config = image_layer("application/vnd.docker.container.image.v1+json", "{}")
    return {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": config, "layers": list(layers)}


def place_seeds():
    gguf = image(image_layer("model", "GGUF"), image_layer("system", "be kind"))
    mlx = image(image_layer("tensor", "tensor", "a.weight"), image_layer("json", "{}", "config.json"))
    several = {"schemaVersion": 2, "mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": [{**gguf, "runner": "ollama"}, {**mlx, "runner": "mlx"}]}
    for name, value in ("gguf", gguf), ("mlx", mlx), ("list", several):
        put("places", name, json.dumps(value).encode())
    form = {"__metadata__": {"quant_type": "int4", "group_size": "32", "b.weight.quant_type": "int8"}}
    matrix = {f"{n}.weight{part}": {"dtype": "U32", "shape": [1, 8], "data_offsets": [0, 32]} for n in "ab" for part in ("", ".scale", ".bias")}
    text = json.dumps({**form, **matrix}).encode()
    put("places", "blob", struct.pack("<Q", len(text)) + text + bytes(32))


def convert():
    """config.json, a zero byte, model.safetensors."""
    def seed(name, config, tensors):
        put("convert", name, json.dumps(config).encode() + b"\0" + safetensors(tensors))

    e, o = "l.block_sparse_moe.experts.", "l.mlp.experts."
    seed("mixtral", {"model_type": "mixtral", "num_hidden_layers": 1},
         {f"{e}{i}.{w}.weight": ("BF16", [2, 32]) for i in range(2) for w in ("w1", "w2", "w3")})
    seed("gpt-oss", {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}},
         {o + "gate_up_proj_blocks": ("U8", [2, 4, 1, 16]), o + "gate_up_proj_scales": ("U8", [2, 4, 1]), o + "gate_up_proj_bias": ("BF16", [2, 4]),
          o + "down_proj_blocks": ("U8", [2, 2, 1, 16]), "l.self_attn.q_proj.weight": ("BF16", [2, 64])})
    seed("gemma3", {"model_type": "gemma3", "text_config": {"dtype": "float16", "num_hidden_layers": 8}, "vision_config": {}},
         {"model.language_model.layers.3.mlp.down_proj.weight": ("F32", [2, 64]), "vision_tower.x": ("F32", [1]), "lm_head.weight": ("F32", [2, 64])})
    seed("odd", {"model_type": "gemma3"}, {"model.language_model.l.experts.00.w1.weight": ("F16", [1, 32]), "lm_head.weight": ("F16", [1])})
    seed("quantised", {"quantization": {"bits": 4, "group_size": 32}}, {"m.weight": ("U32", [2, 4]), "m.scales": ("F16", [2, 1]), "m.biases": ("F16", [2, 1])})


def events():
    """The first byte: wire, and 4 for a name to put back; the second: where to cut."""
    def seed(name, wire, cut, text):
        put("events", name, bytes([wire, cut]) + text.encode())

    def sse(*events):
        return "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events)

    answer = [{"model": "org/tiny", "message": {"role": "assistant", "content": "a \"done\":true"}, "done": False},
              {"model": "org/tiny", "done": True}]
    seed("ollama", 4, 20, "".join(json.dumps(line) + "\n" for line in answer))
    seed("ollama-error", 0, 3, '{"response":"x"}\r\n\r\n{"error":"out of memory"}\n')
    seed("ollama-pull", 0, 40, '{"status":"pulling manifest"}\n{"status":"success"}\n')
    seed("ollama-escaped", 4, 9, '{"model":"org\\/tiny:latest","done":true}\n')
    seed("openai", 5, 30, ': ping\n\ndata: {"model":"org/tiny","choices":[]}\n\ndata: [DONE]\n\n')
    seed("openai-lines", 5, 11, 'id: 1\ndata: {"model":\ndata: "org/tiny"}\n\n')
    seed("openai-error", 1, 7, 'data: {"error":{"message":"no room"}}\r\n\r\n')
    seed("responses", 6, 60, sse(("response.created", {"type": "response.created", "response": {"model": "org/tiny"}}),
                                 ("response.completed", {"type": "response.completed"})))
    seed("responses-failed", 2, 15, sse(("x", {"type": "response.failed", "response": {"error": {"message": "broken"}}})))
    seed("anthropic", 7, 50, sse(("message_start", {"type": "message_start", "message": {"model": "org/tiny"}}),
                                 ("ping", {"type": "ping"}), ("message_stop", {"type": "message_stop"})))
    seed("anthropic-error", 3, 2, sse(("error", {"type": "error", "error": {"message": "Overloaded"}})))


def main():
    adapters()
    convert()
    events()
    put("safetensors", "plain", safetensors({"a.weight": ("F32", [2, 4]), "b": ("U8", [3])}))
    put("safetensors", "affine", safetensors({
        "q.weight": ("U32", [2, 8]), "q.scales": ("F16", [2, 2]), "q.biases": ("F16", [2, 2])}))
    put("safetensors", "experts", safetensors({"m.weight": ("U32", [2, 2, 4]), "m.scales": ("U8", [2, 2, 1])}))
    put("safetensors", "empty", safetensors({}))

    bpe = [text("tokenizer.ggml.model", "gpt2"), text("tokenizer.ggml.pre", "qwen2"),
           array("tokenizer.ggml.tokens", 8, ["a", "b", "ab", "<|im_end|>"]), array("tokenizer.ggml.token_type", 5, [1, 1, 1, 3]),
           array("tokenizer.ggml.merges", 8, ["a b"]), u32("tokenizer.ggml.eos_token_id", 3)]
    spm = [text("tokenizer.ggml.model", "llama"), array("tokenizer.ggml.tokens", 8, ["<unk>", "a", "b", "ab"]),
           array("tokenizer.ggml.scores", 6, [0.0, -1.0, -2.0, -3.0]), array("tokenizer.ggml.token_type", 5, [2, 1, 1, 1]),
           u32("tokenizer.ggml.unknown_token_id", 0)]
    put("gguf", "llama", model("llama", bpe, [("blk.0.attn_q.weight", 2, [32, 8], bytes([0, 60] + [9] * 16) * 8),
                                             ("blk.0.attn_q.bias", 0, [8], bytes(32)), ("blk.0.ffn_down.weight", 14, [256, 1], bytes(210)),
                                             ("rope_freqs.weight", 0, [8], struct.pack("<8f", *[1.0] * 8))]))
    put("gguf", "qwen2", model("qwen2", spm, [("blk.0.attn_k.weight", 12, [256, 1], bytes(144)),
                                             ("blk.0.ffn_up.weight", 7, [32, 1], bytes(24))]))
    put("gguf", "gemma3", model("gemma3", spm, [("blk.0.attn_norm.weight", 0, [32], bytes(128))]))
    experts = [u32("gpt-oss.expert_count", 2), u32("gpt-oss.expert_used_count", 1), text("gpt-oss.rope.scaling.type", "yarn"),
               f32("gpt-oss.rope.scaling.factor", 4.0)]
    put("gguf", "gpt-oss", model("gpt-oss", bpe + experts, [("blk.0.ffn_up_exps.weight", 39, [32, 1, 2], bytes([120] * 34)),
                                                          ("blk.0.attn_sinks.weight", 0, [2], bytes(8))]))
    put("gguf", "phi3", model("phi3", bpe + [u32("phi3.rope.scaling.original_context_length", 32)], [("rope_factors_long.weight", 0, [8], struct.pack("<8f", *[1.5] * 8)),
                                          ("rope_factors_short.weight", 0, [8], struct.pack("<8f", *[1.0] * 8)),
                                          ("blk.0.attn_qkv.weight", 1, [32, 1], bytes(64))]))

    wordpiece = [text("tokenizer.ggml.model", "bert"), array("tokenizer.ggml.tokens", 8, ["[UNK]", "[CLS]", "\u2581a", "b"]), u32("bert.pooling_type", 2)]
    unigram = [text("tokenizer.ggml.model", "t5"), array("tokenizer.ggml.tokens", 8, ["<s>", "<unk>", "\u2581a", "[PAD3]"]),
               array("tokenizer.ggml.scores", 6, [0.0, 0.0, -1.5, -9.0]), array("tokenizer.ggml.token_type", 5, [3, 2, 1, 5]),
               array("tokenizer.ggml.precompiled_charsmap", 5, [0, 255, -3, 7, 9]), u32("tokenizer.ggml.bos_token_id", 0)]
    table = [("position_embd.weight", 0, [32, 64], bytes(8192)), ("blk.0.attn_q.weight", 8, [32, 2], bytes([0, 60] + [7] * 32) * 2)]
    put("gguf", "bert", model("bert", wordpiece, table))
    put("gguf", "xlm-roberta", model("bert", unigram, [*table, ("token_types.weight", 0, [32, 1], bytes(128))]))
    put("gguf", "nomic-bert", model("nomic-bert", wordpiece, [("blk.0.attn_qkv.weight", 1, [32, 1], bytes(64))]))
    put("gguf", "gptoss", model("gptoss", bpe + [u32("gptoss.expert_count", 2), u32("gptoss.attention.key_length", 2), f32("gptoss.rope.scaling.factor", 4.0)],
                               [("blk.0.attn_qkv.weight", 8, [32, 12], bytes([0, 60] + [7] * 32) * 12), ("blk.0.attn_qkv.bias", 0, [12], bytes(48)),
                                ("blk.0.ffn_gate_up_exps.weight", 4, [32, 2, 2], bytes([120] * 68)), ("blk.0.attn_sinks", 0, [2], bytes(8))]))
    put("gguf", "mixtral", model("llama", spm + [u32("llama.expert_count", 2), u32("llama.expert_used_count", 1)],
                                 [(f"blk.0.ffn_up.{i}.weight", 2, [32, 1], bytes([0, 60] + [9] * 16)) for i in (1, 0)]))

    forms = {"q2k": (10, 256, 84), "q3k": (11, 256, 110), "q5k": (13, 256, 176), "q50": (6, 32, 22), "iq4nl": (20, 32, 18),
             "iq4xs": (23, 256, 136), "tq10": (34, 256, 54), "tq20": (35, 256, 66), "q40": (2, 32, 18), "q41": (3, 32, 20)}
    for name, (kind, length, size) in forms.items():
        put("gguf", name, model("qwen2", bpe, [("blk.0.ffn_up.weight", kind, [length, 1], bytes(7 * i % 61 for i in range(size)))]))
    dealt = [TOP[:1], [*TOP[1:], ("blk.0.ffn_down.weight", 14, [256, 1], bytes(210))]]
    parts = [gguf([*([] if no else model_keys("llama", bpe)), u32("split.no", no), u32("split.count", 2), u32("split.tensors.count", 3)],
                  tensors) for no, tensors in enumerate(dealt)]
    put("gguf", "parts", b"MANY\x01" + struct.pack("<H", len(parts[0])) + parts[0] + parts[1])
    put("gguf", "parts-swapped", b"MANY\x01" + struct.pack("<H", len(parts[1])) + parts[1] + parts[0])

    call = '{"name": "f", "arguments": {"a": [1, "</tool_call>"]}}'
    for name, which, flags, stop, answer in (
            ("plain", 0, 0, "stop", "caf\u00e9 \U0001f642 s\x02 sto"), ("broken", 0, 0, "", b"\xf0\x9f\x99 \xe2\x82\xff\x80"),
            ("think", 0, 1, "", "<think>\nhm </thi\n\n</think>\n\nyes </think>"), ("opened", 0, 3, "", "hm\n</think>\nyes"),
            ("call", 0, 5, "", f"<think>x</think>Sure.\n<tool_call>\n{call}\n</tool_call>\n<tool_call>no</tool_call> end"),
            ("bare", 0, 4, "", f"  {call}; {call}\nrest"), ("mistral", 1, 5, "", f"[THINK]a[/THINK][TOOL_CALLS][{call}]"),
            ("mistral-names", 1, 4, "", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{"b": 2}'),
            ("llama", 2, 4, "", '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g"}'),
            ("many", 3, 5, "", f"<seed:think>t</seed:think><|tool_call|>[{call}]<|/tool_call|><|tool_call_start|>[f(a=1)]<|tool_call_end|>"),
            ("coder", 4, 4, "", "ok\n<tool_call>\n<function=f>\n<parameter=s>\n1\n</parameter>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"),
            ("pairs", 4, 4, "", "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>1</arg_value>\n</tool_call>\n<function=g></function></tool_call>"),
            ("fences", 5, 4, "", f"Action: ```json\n[{call}]```\n```tool_code\nprint(f('a', n=[1, {{'b': None}}]))\n```"),
            ("command", 5, 4, "", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {}}]<|END_ACTION|>functools[{"name": "g"}]'),
            ("deepseek", 6, 4, "", "a<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>f\n"
             "```json\n{}\n```<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>"),
            ("kimi", 7, 4, "", "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"),
            ("harmony", 8, 5, "", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
             '<|constrain|>json<|message|>{"a":1}<|call|><|start|>assistant<|channel|>final<|message|>yes<|return|>'),
            ("harmony-left", 8, 1, "", "assistant says <|message|>x")):
        answer = answer if isinstance(answer, bytes) else answer.encode()
        put("text", name, bytes([which, flags, 7, len(stop)]) + stop.encode() + answer)

    for name, source in (
            ("legacy", "{{ if .System }}<s>{{ .System }}{{ end }}<u>{{ .Prompt }}<a>{{ .Response }}"),
            ("chat", "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}<{{ .Role }}>{{ .Content }}"
             "{{ range .ToolCalls }}{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ if not $last }}\n{{ end }}{{ end }}"),
            ("tools", "{{ if .Tools }}{{ range .Tools }}{{ json . }}{{ .Function.Parameters.Properties | toTypeScriptType }}{{ end }}{{ else }}x{{ end }}"),
            ("parts", '{{ define "a" }}{{ . | printf "%q %v" 1 }}{{ end }}{{ block "b" .Messages }}{{ with index . 0 }}{{ template "a" .Content }}{{ end }}{{ end }}'),
            ("loops", "{{ $x := 1 }}{{ range 3 }}{{ $x = . }}{{ if gt . 1 }}{{ break }}{{ else }}{{ continue }}{{ end }}{{ else }}e{{ end }}{{/* c */}}"),
            ("insert", "<P>{{ .Prompt }}<S>{{ .Suffix }}<M>\0[]")):
        put("gotmpl", name, source.encode())

    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = [{"id": 3, "content": "<think>", **added}, {"id": 4, "content": "<|im_end|>", **added}]
    bpe = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "byte_fallback": False}
    for name, tokenizer in (
            ("bpe", {"added_tokens": tokens, "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False,
             "trim_offsets": True, "use_regex": True}, "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True,
             "trim_offsets": True, "use_regex": True}, "model": bpe}),
            ("split", {"added_tokens": tokens, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"},
             "behavior": "Isolated", "invert": False}, "model": bpe}),
            ("unigram", {"added_tokens": [], "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
             "split": True}, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1.5]]}}),
            ("words", {"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}})):
        put("opening", name, b"\0" + json.dumps(tokenizer).encode())
    for name, source in (
            ("loop", "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{% if not loop.last %},{% endif %}{% endfor %}"),
            ("macro", "{%- macro f(x) -%}{{ x | tojson }}{%- endmacro -%}{{ f(messages[1].tool_calls) }}{{ raise_exception('no') if tools }}"),
            ("work", "{% set ns = namespace(n=0) %}{% for i in range(100) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ 'ab' * 10 }}")):
        put("opening", name, b"\1" + source.encode())
    put("opening", "config", b"\2" + b'{"bos_token":{"content":"a"},"eos_token":"<|im_end|>","chat_template":[{"name":"default","template":"x"}]}')
    put("opening", "generation", b"\3" + b'{"do_sample":true,"temperature":0.6,"top_k":20,"top_p":0.95,"eos_token_id":[2,1,-1]}')
    place_seeds()
    put("opening", "model", b"\4" + b'{"eos_token_id":2,"text_config":{"eos_token_id":[0]}}')


if __name__ == "__main__":
    main()
