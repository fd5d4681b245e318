#!/usr/bin/env python3
"""Tiny models as their makers publish them, and what mlx_lm.convert makes of them.

    make_convert.py OUT_DIR             writes one model directory per case, hf-NAME (needs numpy only)
    make_convert.py OUT_DIR --record    then runs mlx-lm on each and rewrites convert/expected.json (0.32.2, MLX 0.32.4)
    make_convert.py OUT_DIR --check PROGRAM
                                        then converts each with PROGRAM, golden.convert of a build, and holds every tensor
                                        against mlx-lm's; mlx-lm loads the result

expected.json has one sha256 for each case and form: over one line for each tensor, "NAME TYPE [SHAPE] sha256-of-its-bytes",
ordered by name.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import make_models as models

HERE = Path(__file__).resolve().parent / "convert"
AS_IS = "as it is"
# What each name of docs/CONVERT.md is for mlx-lm.
FORMS = {
    AS_IS: None,
    "F16": dict(dtype="float16"),
    "BF16": dict(dtype="bfloat16"),
    "4bit": dict(q_bits=4, q_group_size=64),
    "q8_0": dict(q_bits=8, q_group_size=64),
    "3bit": dict(q_bits=3, q_group_size=64),
    "6bit": dict(q_bits=6, q_group_size=64),
    "mxfp4": dict(q_mode="mxfp4"),
    "mxfp8": dict(q_mode="mxfp8"),
    "nvfp4": dict(q_mode="nvfp4"),
    "q4_K_M": dict(q_bits=4, q_group_size=64, recipe="mixed_4_6"),
}
OWN_RULES = ("granite", "qwen3_moe", "gpt_oss")  # their quant_predicate comes before a recipe here, mlx-lm drops it


# ---- the makers' form


def numpy_of(kind, shape, raw):
    return np.frombuffer(raw, dtype={"F32": np.uint32}.get(kind, np.uint16)).reshape(shape)


def experts_apart(w, stack, single, projs):
    for name in [n for n in w.tensors if stack in n]:
        kind, shape, raw = w.tensors.pop(name)
        before, after = name.split(stack)
        for e, x in enumerate(numpy_of(kind, shape, raw)):
            proj, suffix = after.split(".", 1)
            w.tensors[f"{before}{single}{e}.{projs.get(proj, proj)}.{suffix}"] = (kind, shape[1:], x.tobytes())


def gpt_oss_packed(w, config):
    """The experts of a model in MXFP4, gate and up row by row."""
    for name in [n for n in w.tensors if ".experts.gate_proj." in n or ".experts.down_proj." in n]:
        kind, shape, raw = w.tensors.pop(name)
        stem, suffix = name.rsplit(".", 1)
        size = {"U32": np.uint32, "U8": np.uint8}.get(kind, np.uint16)
        x = np.frombuffer(raw, dtype=size).reshape(shape)
        if "gate_proj" in name:
            _, _, up = w.tensors.pop(name.replace("gate_proj", "up_proj"))
            x = np.stack([x, np.frombuffer(up, dtype=size).reshape(shape)], 2 if len(shape) == 3 else -1)
            x = x.reshape(shape[0], 2 * shape[1], *shape[2:])
        stem = stem.replace("gate_proj", "gate_up_proj")
        if suffix == "weight":
            x = np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape[:2], -1, 16)
        w.tensors[stem + {"weight": "_blocks", "scales": "_scales", "bias": "_bias"}[suffix]] = (
            "U8" if suffix != "bias" else kind, list(x.shape), x.tobytes())
    config.pop("quantization")
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def extra(w, name, shape=(3, 5), dtype="F32"):
    w.put(name, models.uniform(name, w.seed, shape), dtype)


def cases():
    every = {c["name"]: c for c in models.all_cases()}

    def case(name, **config):
        c = every[name]
        made = models.build(c)
        top = dict(c["config"], **config)
        made.config = {k: v for k, v in top.items() if v is not None}
        return made

    out = {}
    for name in ("qwen3-f32", "phi3-long", "gemma2-f32", "gemma3-text", "smollm3-f32", "granite-f32", "olmo2-f32",
                 "mistral-window"):
        out[name] = case(name)
    out["llama-f32"] = case("llama-f32", torch_dtype="bfloat16")  # rows that are no whole groups
    extra(out["llama-f32"], "model.layers.1.self_attn.rotary_emb.inv_freq", (9,))
    out["llama-f16"] = case("llama-f16")
    extra(out["llama-f16"], "lm_head.weight", (160, 128), "F16")  # tied, and there all the same
    out["qwen2-f32"] = case("qwen2-f32", torch_dtype="float16")
    out["mixtral-f16"] = case("mixtral-f16")
    experts_apart(out["mixtral-f16"], "switch_mlp.", "experts.", dict(gate_proj="w1", down_proj="w2", up_proj="w3"))
    out["qwen3-moe-f32"] = case("qwen3-moe-f32", torch_dtype="bfloat16")
    experts_apart(out["qwen3-moe-f32"], "switch_mlp.", "experts.", {})
    every["gpt-oss-hf"] = dict(every["gpt-oss-mxfp4"], quant=lambda n: models.MXFP4 if ".experts." in n else None)
    out["gpt-oss-hf"] = case("gpt-oss-hf")
    gpt_oss_packed(out["gpt-oss-hf"], out["gpt-oss-hf"].config)
    out["gemma3-nested"] = case("gemma3-nested", vision_config=dict(hidden_size=4))
    extra(out["gemma3-nested"], "vision_tower.patch.weight", (2, 3, 4, 4))
    extra(out["gemma3-nested"], "multi_modal_projector.norm.weight", (7,))
    return {f"hf-{k}": v for k, v in out.items()}


def forms_of(made):
    skip = ("q4_K_M",) if made.config["model_type"] in OWN_RULES else ()
    if "quantization_config" in made.config:
        skip += ("F16", "BF16")
    if made.config.get("hidden_size") == 80:
        skip += ("nvfp4",)  # mx.quantize wants a multiple of 32 numbers in all
    return [f for f in FORMS if f not in skip]


# ---- what mlx_lm.convert makes of them


def convert_with_mlx(source, out, form):
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    mx.set_default_device(mx.cpu)
    model, config = load_model(source, lazy=True)
    how = dict(FORMS[form] or {})
    dtype = how.pop("dtype", None) or config.get("torch_dtype") or config.get("text_config", {}).get("dtype")
    if dtype:  # as mlx_lm.convert.convert does; none of these families has a cast_predicate
        kind = getattr(mx, dtype)
        model.update(tree_map_with_path(
            lambda _, v: v.astype(kind) if mx.issubdtype(v.dtype, mx.floating) else v, model.parameters()))
    if how:
        recipe = how.pop("recipe", None)
        predicate = recipe and mixed_quant_predicate_builder(recipe, model, 64)
        model, config = quantize_model(model, config, how.get("q_group_size"), how.get("q_bits"),
                                       how.get("q_mode", "affine"), quant_predicate=predicate)
    save_model(out, model)
    save_config(config, out / "config.json")


def lines_of(directory):
    found = []
    for file in sorted(directory.glob("model*.safetensors")):
        data = file.read_bytes()
        n = int.from_bytes(data[:8], "little")
        for name, t in json.loads(data[8 : 8 + n]).items():
            if name != "__metadata__":
                first, end = (8 + n + o for o in t["data_offsets"])
                found.append(f"{name} {t['dtype']} {t['shape']} {hashlib.sha256(data[first:end]).hexdigest()}")
    return sorted(found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--check", metavar="PROGRAM")
    args = parser.parse_args()
    expected, wrong = {}, 0
    for name, made in cases().items():
        made.save(args.out / name)
        for form in forms_of(made) if args.record or args.check else ():
            with tempfile.TemporaryDirectory() as temp:
                theirs, ours = Path(temp) / "theirs", Path(temp) / "ours"
                convert_with_mlx(args.out / name, theirs, form)
                lines = lines_of(theirs)
                expected[f"{name} {form}"] = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
                if not args.check:
                    continue
                from mlx_lm.utils import load_model

                subprocess.run([args.check, args.out / name, ours, form], check=True)
                differ = sorted(set(lines) ^ set(lines_of(ours)))
                wrong += bool(differ)
                print(f"{name} {form}: {len(lines)} tensors, {len(differ) // 2} differ", *differ[:6], sep="\n  ")
                load_model(ours)
    if args.record:
        HERE.mkdir(exist_ok=True)
        (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
