/* Adapters as llama.cpp's convert_lora_to_gguf.py writes them: general.type "adapter", adapter.type "lora",
 * adapter.lora.alpha, and TENSOR.lora_a (rank, columns), TENSOR.lora_b (rows, rank) for each adapted TENSOR
 * of the model's own file. Strength: alpha / rank, or 1 where alpha is 0. Where a family's q and k are
 * re-ordered, so are the rows of B. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "store/adapter_private.h"

static lm_status check_kind(const lm_gguf *g, lm_err *err) {
    static const struct {
        const char *key, *is;
    } wanted[] = {{"general.type", "adapter"}, {"adapter.type", "lora"}};
    for (int i = 0; i < 2; i++) {
        lm_str is = {NULL, 0};
        lm_status st = lm_gguf_str(g, wanted[i].key, &is, err);
        if (st != LM_OK) return st;
        if (!lm_str_eq(is, lm_str_of(wanted[i].is)))
            return lm_fail(err, LM_UNSUPPORTED, "the GGUF file is no LoRA adapter: its %s is \"%.*s\"",
                           wanted[i].key, is.len > 40 ? 40 : (int)is.len, is.ptr ? is.ptr : "");
    }
    if (lm_gguf_has(g, "adapter.alora.invocation_tokens"))
        return lm_fail(err, LM_UNSUPPORTED,
                       "an adapter that words of the prompt switch on (aLoRA) is not supported");
    return LM_OK;
}

static lm_status view_of(const lm_gguf_tensor *t, lm_view *out, lm_err *err) {
    lm_dtype type = t->type == LM_GGML_F16 ? LM_F16 : t->type == LM_GGML_BF16 ? LM_BF16 : LM_F32;
    if (t->type != LM_GGML_F32 && t->type != LM_GGML_F16 && t->type != LM_GGML_BF16)
        return lm_fail(err, LM_UNSUPPORTED,
                       "the adapter's " LM_STR_FMT " is of type %s: use an adapter in F16, BF16 or F32",
                       LM_STR_ARG(t->name), lm_ggml_name(t->type));
    *out =
        (lm_view){.dtype = type, .n_dims = t->n_dims > 2 ? t->n_dims : 2, .data = t->data, .bytes = t->bytes};
    for (uint32_t i = 0; i < out->n_dims; i++) out->dims[i] = t->dims[out->n_dims - 1 - i];
    return LM_OK;
}

static lm_status put_tensor(lm_loras *out, const lm_gguf_tensor *t, const lm_family *f,
                            const lm_model_info *base, lm_err *err) {
    lm_str name = t->name;
    bool a = lm_str_ends(name, LM_STR(".lora_a"));
    char tensor[256];
    lm_target target[LM_TARGETS];
    uint32_t n = 0;
    lm_lora *p = NULL;
    lm_view v;
    snprintf(tensor, sizeof tensor, LM_STR_FMT, LM_STR_ARG(name));
    if (!a && !lm_str_ends(name, LM_STR(".lora_b")))
        return lm_fail(err, LM_UNSUPPORTED, "the adapter holds %s, which is no part of LoRA", tensor);
    lm_status st = lm_family_targets(f, (lm_str){name.ptr, name.len - 7}, target, &n, err);
    if (st == LM_OK && (n != 1 || target->expert >= 0 || strcmp(target->suffix, ".weight")))
        st = lm_fail(err, LM_UNSUPPORTED, "the adapter changes %s, which can't be adapted here", tensor);
    if (st == LM_OK) st = lm_lora_of(out, lm_str_of(target->module), &p, err);
    if (st == LM_OK) st = view_of(t, &v, err);
    if (st == LM_OK) st = lm_lora_put(a ? &p->a : &p->b, tensor, &v, false, err);
    if (st == LM_OK && !a && f->permuted)
        p->b.heads = target->is_q ? base->n_heads : target->is_k ? base->n_kv_heads : 0;
    return st;
}

lm_status lm_loras_gguf(lm_loras *out, const lm_gguf *g, const lm_model_info *base, lm_err *err) {
    const lm_family *f = NULL;
    lm_str arch = {NULL, 0};
    double alpha = 0;
    lm_status st = check_kind(g, err);
    if (st == LM_OK) st = lm_gguf_str(g, "general.architecture", &arch, err);
    if (st == LM_OK) st = lm_family_for(arch, base->family, &f, err);
    if (st == LM_OK) st = lm_gguf_float(g, "adapter.lora.alpha", &alpha, err);
    for (uint32_t i = 0; i < lm_gguf_count(g) && st == LM_OK; i++)
        st = put_tensor(out, lm_gguf_tensor_at(g, i), f, base, err);
    for (uint32_t i = 0; i < out->n && st == LM_OK; i++) {
        lm_lora *p = &out->items[i];
        p->scale = alpha == 0 || !p->a.rows ? 1 : (float)(alpha / (double)p->a.rows);
        p->scaled = isfinite(p->scale);
    }
    return st;
}
