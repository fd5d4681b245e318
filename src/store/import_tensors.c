/* The plan lists every tensor that will be written, from the GGUF file's list alone: forms and shapes are
 * known before any data is read. import_stream.c follows it. */
#include "store/import_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_MAX     (1u << 24) /* elements of a row, so that a piece stays bounded */
#define TENSORS_MAX 65536
#define SINGLES_MAX 8192 /* experts that come one by one; the largest model of that time has 1344 */
static char *name_of(const char *module, const char *suffix) {
    char full[200];
    snprintf(full, sizeof full, "%s%s", module, suffix);
    return lm_strdup(full);
}

static void add_spec(lm_plan *p, char *name, lm_dtype dtype, uint32_t n_dims, const uint64_t *dims) {
    lm_tensor_spec *s = &p->specs[p->n_specs++];
    *s = (lm_tensor_spec){.name = name, .dtype = dtype, .n_dims = n_dims};
    memcpy(s->dims, dims, n_dims * sizeof *dims);
}

/* True when every number of an F32 vector is exact in f16: then half the bytes say the same, and MLX computes
 * in f16 instead of promoting everything that the vector meets to f32. */
static bool exact_in_f16(const lm_item *it) {
    for (uint64_t i = 0; i < it->source->dims[0]; i++) {
        float f;
        memcpy(&f, it->source->data + 4 * i, 4);
        if (it->minus_one) f -= 1.0f;
        if (lm_f16_to_f32(lm_f32_to_f16(f)) != f) return false;
    }
    return true;
}
/* Which of the source's rows the item takes; dims, outermost first, are the source's and become the item's.
 */
static lm_status choose_rows(const lm_plan *p, lm_item *it, const lm_target *target, uint64_t *dims,
                             uint32_t n_dims, lm_err *err) {
    const lm_gguf_tensor *t = it->source;
    bool vector = n_dims == 1 || (target->portion && strcmp(target->suffix, ".bias") == 0);
    uint64_t *side = vector ? &dims[n_dims - 1] : &dims[n_dims - 2]; /* what is cut */
    uint64_t q = (uint64_t)p->heads * p->head_dim, kv = (uint64_t)p->kv_heads * p->head_dim, all = *side;
    it->width = vector && (target->portion || it->heads) ? 1 : t->dims[0];
    it->step = 1;
    it->rows = t->bytes / lm_item_row_bytes(it);
    if (target->portion == LM_PORTION_ALL) return LM_OK;
    bool pairs = target->portion == LM_PORTION_EVEN || target->portion == LM_PORTION_ODD;
    bool known = q && kv && p->heads <= 65536 && p->kv_heads <= 65536 && p->head_dim <= 65536;
    if (pairs ? all % 2 : !known || all != q + 2 * kv || it->rows != all) {
        return lm_fail(err, LM_CORRUPT, "tensor " LM_STR_FMT " has %llu rows, which can't be parted",
                       LM_STR_ARG(t->name), (unsigned long long)all);
    }
    if (pairs) {
        it->first = target->portion == LM_PORTION_ODD;
        it->step = 2;
        it->rows /= 2;
        *side = all / 2;
    } else {
        it->first = target->portion == LM_PORTION_Q ? 0 : target->portion == LM_PORTION_K ? q : q + kv;
        it->rows = *side = target->portion == LM_PORTION_Q ? q : kv;
    }
    return LM_OK;
}

static void add_specs(lm_plan *p, lm_item *it, const lm_target *target, uint32_t n_dims,
                      const uint64_t *dims) {
    uint64_t own[4];
    it->out = p->n_specs;
    it->name = name_of(target->module, target->suffix);
    if (it->form.quant.kind == LM_QUANT_NONE) {
        add_spec(p, it->name, it->form.dtype, n_dims, dims);
        return;
    }
    memcpy(own, dims, n_dims * sizeof *dims);
    own[n_dims - 1] = dims[n_dims - 1] * it->form.quant.bits / 32;
    add_spec(p, it->name, LM_U32, n_dims, own);
    own[n_dims - 1] = dims[n_dims - 1] / 32;
    add_spec(p, name_of(target->module, ".scales"), it->form.dtype, n_dims, own);
    if (it->form.quant.kind == LM_QUANT_AFFINE) {
        add_spec(p, name_of(target->module, ".biases"), it->form.dtype, n_dims, own);
    }
}

/* The first that came makes room for all; the others must be like it. */
static lm_status place_single(lm_plan *p, lm_item *it, const lm_target *target, uint64_t *dims, lm_err *err) {
    const lm_gguf_tensor *t = it->source;
    if (++p->singles > SINGLES_MAX || p->experts > SINGLES_MAX || (uint32_t)target->expert >= p->experts ||
        t->n_dims != 2 || strcmp(target->suffix, ".weight") != 0) {
        return lm_fail(err, LM_CORRUPT, "tensor " LM_STR_FMT " is none of the %u experts of its layer",
                       LM_STR_ARG(t->name), p->experts);
    }
    it->single = true;
    it->at = (uint64_t)target->expert * dims[0] * dims[1];
    for (lm_item *other = p->items; other < it; other++) {
        if (!other->single || strcmp(other->module, it->module) != 0) continue;
        if (memcmp(other->source->dims, t->dims, sizeof t->dims) != 0 || other->source->type != t->type) {
            return lm_fail(err, LM_UNSUPPORTED,
                           "the experts " LM_STR_FMT " and " LM_STR_FMT " differ in shape or type",
                           LM_STR_ARG(other->source->name), LM_STR_ARG(t->name));
        }
        it->out = other->out;
        it->name = other->name;
        return LM_OK;
    }
    uint64_t stacked[3] = {p->experts, dims[0], dims[1]};
    add_specs(p, it, target, 3, stacked);
    return LM_OK;
}

static lm_status plan_item(lm_plan *p, lm_item *it, const lm_target *target, lm_err *err) {
    const lm_gguf_tensor *t = it->source;
    uint64_t dims[4];
    uint32_t n_dims = t->n_dims;
    while (n_dims > 2 && t->dims[n_dims - 1] == 1) n_dims--;
    for (uint32_t i = 0; i < n_dims; i++) dims[i] = t->dims[n_dims - 1 - i];
    if (n_dims > 3 || t->dims[0] > ROW_MAX) {
        return lm_fail(err, LM_UNSUPPORTED, "tensor " LM_STR_FMT ": shape not supported",
                       LM_STR_ARG(t->name));
    }
    if (!lm_form_of(t->type, &it->form)) {
        return lm_fail(err, LM_UNSUPPORTED,
                       "tensor " LM_STR_FMT
                       " is of type %s, which no MLX form holds: take this model in another form, such as "
                       "Q4_K_M, Q8_0 or IQ4_XS",
                       LM_STR_ARG(t->name), lm_ggml_name(t->type));
    }
    bool quantised = it->form.quant.kind != LM_QUANT_NONE;
    if (quantised && (n_dims < 2 || strcmp(target->suffix, ".weight") != 0)) {
        return lm_fail(err, LM_UNSUPPORTED, "tensor " LM_STR_FMT " is a quantised vector",
                       LM_STR_ARG(t->name));
    }
    if (it->heads && t->dims[n_dims - 1] % (2 * (uint64_t)it->heads)) {
        return lm_fail(err, LM_CORRUPT, "tensor " LM_STR_FMT " has %llu rows, which %u heads can't share",
                       LM_STR_ARG(t->name), (unsigned long long)t->dims[n_dims - 1], it->heads);
    }
    if (it->minus_one && t->type != LM_GGML_F32) {
        return lm_fail(err, LM_UNSUPPORTED, "tensor " LM_STR_FMT ": a norm of type %s", LM_STR_ARG(t->name),
                       lm_ggml_name(t->type));
    }
    if (t->type == LM_GGML_F32 && n_dims == 1 && exact_in_f16(it)) it->form.dtype = LM_F16;
    memcpy(it->module, target->module, sizeof it->module);
    lm_status st = choose_rows(p, it, target, dims, n_dims, err);
    if (st != LM_OK) return st;
    if (target->expert >= 0) return place_single(p, it, target, dims, err);
    add_specs(p, it, target, n_dims, dims);
    return LM_OK;
}

/* What tells heads and experts apart. Not every family needs each of them. */
static lm_status read_heads(lm_plan *p, const lm_family *f, lm_err *err) {
    char key[128];
    const struct {
        const char *key;
        uint32_t *out;
    } keys[] = {{"attention.head_count", &p->heads},
                {"attention.head_count_kv", &p->kv_heads},
                {"attention.key_length", &p->head_dim},
                {"expert_count", &p->experts}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(key, sizeof key, "%s.%s", f->arch, keys[i].key);
        lm_status st = lm_gguf_u32(p->gguf, key, keys[i].out, err);
        if (st != LM_OK) return st;
        if (i == 0) p->kv_heads = p->heads;
    }
    if (f->permuted && (p->heads == 0 || p->kv_heads == 0 || p->heads > 65536 || p->kv_heads > 65536)) {
        return lm_fail(err, LM_CORRUPT, "the metadata names no sensible number of attention heads");
    }
    return LM_OK;
}

static lm_status plan_tensor(lm_plan *p, const lm_family *f, const lm_gguf_tensor *t, lm_err *err) {
    lm_target targets[LM_TARGETS];
    uint32_t n = 0;
    lm_status st = lm_family_targets(f, t->name, targets, &n, err);
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        lm_item *it = &p->items[p->n++];
        it->source = t;
        if (f->permuted) it->heads = targets[i].is_q ? p->heads : targets[i].is_k ? p->kv_heads : 0;
        it->minus_one = targets[i].is_norm && f->norms_plus_one;
        st = plan_item(p, it, &targets[i], err);
    }
    return st;
}

static int by_name(const void *a, const void *b) {
    const lm_tensor_spec *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Nothing is there twice (some tensors have two names in GGUF), and no expert is missing. */
static lm_status check_whole(const lm_plan *p, lm_err *err) {
    const lm_tensor_spec **sorted = lm_try_alloc(p->n_specs + 1, sizeof *sorted);
    lm_status st = sorted ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", p->n_specs);
    for (uint32_t i = 0; i < p->n_specs && sorted; i++) sorted[i] = &p->specs[i];
    if (sorted && p->n_specs) qsort(sorted, p->n_specs, sizeof *sorted, by_name);
    for (uint32_t i = 1; i < p->n_specs && st == LM_OK; i++) {
        if (strcmp(sorted[i]->name, sorted[i - 1]->name) == 0)
            st = lm_fail(err, LM_CORRUPT, "two tensors of the file are %s", sorted[i]->name);
    }
    free(sorted);
    uint16_t *there = lm_try_alloc(p->n_specs + 1, sizeof *there); /* single experts of each output */
    if (st == LM_OK && !there) st = lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", p->n_specs);
    for (uint32_t i = 0; i < p->n && st == LM_OK; i++) there[p->items[i].out] += p->items[i].single;
    for (uint32_t i = 0; i < p->n_specs && st == LM_OK; i++) {
        if (there[i] && there[i] != p->experts)
            st = lm_fail(err, LM_CORRUPT, "the file has %u of the %u experts of %s", there[i], p->experts,
                         p->specs[i].name);
    }
    free(there);
    return st;
}

lm_status lm_plan_open(lm_plan **out, const lm_gguf *g, const lm_family *f, lm_err *err) {
    lm_plan *p = lm_alloc(sizeof *p);
    uint32_t n = lm_gguf_count(g);
    p->gguf = g;
    p->items = lm_try_alloc(LM_TARGETS * (size_t)n + 1, sizeof *p->items);
    p->specs = lm_try_alloc(3 * LM_TARGETS * (size_t)n + 1, sizeof *p->specs);
    lm_status st = p->items && p->specs ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", n);
    if (st == LM_OK && n > TENSORS_MAX)
        st = lm_fail(err, LM_UNSUPPORTED, "%u tensors are more than any known model has", n);
    if (st == LM_OK) st = read_heads(p, f, err);
    for (uint32_t i = 0; i < n && st == LM_OK; i++) st = plan_tensor(p, f, lm_gguf_tensor_at(g, i), err);
    if (st == LM_OK) st = check_whole(p, err);
    if (st == LM_OK && !lm_gguf_find(g, "token_embd.weight")) {
        st = lm_fail(err, LM_CORRUPT, "the file holds no token_embd.weight: not a whole language model");
    }
    if (st != LM_OK) {
        lm_plan_close(p);
        return st;
    }
    *out = p;
    return LM_OK;
}

void lm_plan_close(lm_plan *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->n_specs; i++) free((char *)(uintptr_t)p->specs[i].name);
    free(p->items);
    free(p->specs);
    free(p);
}

bool lm_plan_has(const lm_plan *p, const char *name) {
    for (uint32_t i = 0; i < p->n_specs; i++) {
        if (strcmp(p->specs[i].name, name) == 0) return true;
    }
    return false;
}

/* ---- quantization of config.json */

static json_t *spec_json(lm_quant_spec q) {
    return json_pack("{s:i, s:i, s:s}", "group_size", (int)q.group, "bits", (int)q.bits, "mode",
                     q.kind == LM_QUANT_MXFP4 ? "mxfp4" : "affine");
}

static bool same_spec(lm_quant_spec a, lm_quant_spec b) {
    return a.kind == b.kind && a.bits == b.bits && a.group == b.group;
}

static bool is_matrix(const lm_item *it) {
    return it->source->n_dims >= 2 && lm_str_ends(lm_str_of(it->name), LM_STR(".weight"));
}

json_t *lm_plan_quantization(const lm_plan *p) {
    lm_quant_spec usual = {LM_QUANT_NONE, 0, 0};
    uint64_t sums[3][9] = {{0}}, most = 0; /* bytes by kind and bits; the group is always 32 */
    for (uint32_t i = 0; i < p->n; i++) {
        lm_quant_spec q = p->items[i].form.quant;
        if (q.kind == LM_QUANT_NONE) continue;
        sums[q.kind][q.bits] += lm_item_bytes(&p->items[i]);
        if (sums[q.kind][q.bits] > most) { /* the form of most bytes is the rule, others are named */
            most = sums[q.kind][q.bits];
            usual = q;
        }
    }
    if (most == 0) return NULL;
    json_t *root = spec_json(usual);
    for (uint32_t i = 0; i < p->n; i++) {
        const lm_item *it = &p->items[i];
        if (!is_matrix(it) || same_spec(it->form.quant, usual)) continue;
        json_object_set_new(root, it->module,
                            it->form.quant.kind == LM_QUANT_NONE ? json_false() : spec_json(it->form.quant));
    }
    return root;
}
