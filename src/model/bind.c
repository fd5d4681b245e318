/* From names in safetensors files to the backend's handles.
 *
 * Names are those of mlx-lm's modules, which for nearly all families are Hugging Face's own. Tensors that
 * nothing asks for (vision towers, precomputed rotary tables) are left alone: a mapped page that is not read
 * costs nothing. */
#include "model/graph.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256 };

typedef struct binder {
    lm_model *m;
    lm_err *err;
    lm_status st;           /* the first failure; later calls do nothing */
    const char *prefix;     /* "model." in front of layers.N, or "language_model.model." */
    char layer[NAME_BYTES]; /* "model.layers.3" */
    uint64_t by_form[16];   /* parameters by storage form, to name the model's quantisation */
    lm_quant_spec forms[16];
    lm_dtype form_types[16];
    uint32_t n_forms;
} binder;

LM_PRINTF(2, 3) static void name_of(char out[NAME_BYTES], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(out, NAME_BYTES, format,
              args); /* longer names than ours don't exist: nothing is found by them */
    va_end(args);
}

/* ---- handles */

static bool grow(void **list, uint32_t n, uint32_t *room) {
    if (n < *room) return true;
    uint32_t more = *room ? *room * 2 : 256;
    void *bigger = realloc(*list, (size_t)more * sizeof(void *));
    if (!bigger) return false;
    *list = bigger;
    *room = more;
    return true;
}

static void note_form(binder *b, const lm_matrix *w, uint64_t n) {
    uint32_t i = 0;
    lm_dtype type = w->quant.kind == LM_QUANT_NONE ? w->dtype : LM_U32;
    while (i < b->n_forms && (b->form_types[i] != type || memcmp(&b->forms[i], &w->quant, sizeof w->quant)))
        i++;
    if (i == sizeof b->forms / sizeof *b->forms) return; /* more forms than that have no main one anyway */
    if (i == b->n_forms) b->n_forms++;
    b->forms[i] = w->quant;
    b->form_types[i] = type;
    b->by_form[i] += n;
}

static const lm_linear *add_linear(binder *b, const lm_matrix *w, const lm_view *bias) {
    lm_model *m = b->m;
    uint64_t n = (uint64_t)w->rows * w->cols * w->n_experts;
    m->info.n_params += n;
    note_form(b, w, n);
    if (!m->backend) return NULL;
    if (!grow((void **)&m->linears, m->n_linears, &m->room_linears)) {
        b->st = lm_fail(b->err, LM_NO_MEMORY, "no memory for the list of weights");
        return NULL;
    }
    b->st = m->backend->linear(m->device, w, bias, &m->linears[m->n_linears], b->err);
    return b->st == LM_OK ? m->linears[m->n_linears++] : NULL;
}

static bool has(binder *b, const char *name, const char *part) {
    char full[NAME_BYTES];
    lm_view v;
    name_of(full, "%s%s", name, part);
    return lm_weights_find(b->m->weights, full, &v);
}

/* The bias of a matrix: (rows), or (n_experts, rows). False when it isn't there. */
static bool find_bias(binder *b, const char *name, const lm_matrix *w, bool required, lm_view *out) {
    char full[NAME_BYTES];
    name_of(full, "%s.bias", name);
    if (!lm_weights_find(b->m->weights, full, out)) {
        if (required) b->st = lm_fail(b->err, LM_CORRUPT, "tensor %s is missing", full);
        return false;
    }
    bool flat = out->n_dims == 1 && w->n_experts == 1 && out->dims[0] == w->rows;
    bool stack = out->n_dims == 2 && out->dims[0] == w->n_experts && out->dims[1] == w->rows;
    if (!flat && !stack) {
        b->st = lm_fail(b->err, LM_CORRUPT, "tensor %s doesn't hold %u numbers for each of %u", full, w->rows,
                        w->n_experts);
        return false;
    }
    b->m->info.n_params += (uint64_t)w->rows * w->n_experts;
    return true;
}

/* name.weight with whatever scales and bias stand beside it. */
static const lm_linear *linear_named(binder *b, const char *name, uint32_t n_experts, uint32_t rows,
                                     uint32_t cols, bool bias) {
    lm_quant_spec quant;
    lm_matrix w;
    lm_view v;
    if (b->st == LM_OK) b->st = lm_config_quant(&b->m->config, b->m->weights, name, cols, &quant, b->err);
    if (b->st == LM_OK)
        b->st = lm_weights_matrix(b->m->weights, name, quant, n_experts, rows, cols, &w, b->err);
    if (b->st == LM_NOT_FOUND) b->st = lm_fail_in(b->err, LM_CORRUPT, "incomplete model");
    if (b->st != LM_OK) return NULL;
    bool there = find_bias(b, name, &w, bias, &v);
    return b->st == LM_OK ? add_linear(b, &w, there ? &v : NULL) : NULL;
}

static const lm_linear *linear(binder *b, const char *part, uint32_t rows, uint32_t cols, bool bias) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return linear_named(b, name, 1, rows, cols, bias);
}

static const lm_vector *vector_named(binder *b, const char *name, uint32_t n, float offset) {
    lm_model *m = b->m;
    lm_view v;
    if (b->st != LM_OK) return NULL;
    if (!lm_weights_find(m->weights, name, &v)) {
        b->st = lm_fail(b->err, LM_CORRUPT, "incomplete model: the weights hold no tensor %s", name);
        return NULL;
    }
    if (v.n_dims != 1 || v.dims[0] != n || (v.dtype != LM_F32 && v.dtype != LM_F16 && v.dtype != LM_BF16)) {
        b->st = lm_fail(b->err, LM_CORRUPT, "tensor %s must be %u floating-point numbers", name, n);
        return NULL;
    }
    m->info.n_params += n;
    if (!m->backend) return NULL;
    if (!grow((void **)&m->vectors, m->n_vectors, &m->room_vectors)) {
        b->st = lm_fail(b->err, LM_NO_MEMORY, "no memory for the list of weights");
        return NULL;
    }
    b->st = m->backend->vector(m->device, &v, offset, &m->vectors[m->n_vectors], b->err);
    return b->st == LM_OK ? m->vectors[m->n_vectors++] : NULL;
}

static const lm_vector *vector(binder *b, const char *part, uint32_t n, float offset) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return vector_named(b, name, n, offset);
}

/* ---- a layer */

static float norm_offset(const lm_config *c) {
    return c->family->flags & LM_FAM_NORM_PLUS_1 ? 1.0f : 0.0f;
}

static void bind_attention(binder *b, lm_layer *l, const lm_layer_spec *spec) {
    const lm_config *c = &b->m->config;
    uint32_t flags = c->family->flags;
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    bool bias = c->attention_bias || flags & LM_FAM_QKV_BIAS;
    /* attention_bias means all four in Llama; where q, k and v always have one, o has its own rule. */
    bool o_bias = flags & LM_FAM_QKV_BIAS ? flags & LM_FAM_O_BIAS : c->attention_bias;
    float offset = norm_offset(c);

    if (flags & LM_FAM_FUSED_QKV) {
        l->n_qkv = 1;
        l->qkv[0] = linear(b, "self_attn.qkv_proj", q + 2 * kv, c->width, bias);
    } else {
        l->n_qkv = 3;
        l->qkv[0] = linear(b, "self_attn.q_proj", q, c->width, bias);
        l->qkv[1] = linear(b, "self_attn.k_proj", kv, c->width, bias);
        l->qkv[2] = linear(b, "self_attn.v_proj", kv, c->width, bias);
    }
    l->o = linear(b, "self_attn.o_proj", c->width, q, o_bias);
    if (flags & LM_FAM_WIDE_NORM) {
        l->wide_q_norm = vector(b, "self_attn.q_norm.weight", q, offset);
        l->wide_k_norm = vector(b, "self_attn.k_norm.weight", kv, offset);
    }
    l->attention.n_heads = c->n_heads;
    l->attention.n_kv_heads = c->n_kv_heads;
    l->attention.head_dim = c->head_dim;
    l->attention.scale = c->attention_scale;
    l->attention.softcap = c->attention_cap;
    l->attention.norm_eps = c->norm_eps;
    l->attention.window = spec->window;
    l->attention.rope = spec->rope == LM_ROPE_NONE ? NULL : &b->m->ropes[spec->rope];
    if (flags & LM_FAM_HEAD_NORM) {
        l->attention.q_norm = vector(b, "self_attn.q_norm.weight", c->head_dim, offset);
        l->attention.k_norm = vector(b, "self_attn.k_norm.weight", c->head_dim, offset);
    }
    if (flags & LM_FAM_SINKS) l->attention.sinks = vector(b, "self_attn.sinks", c->n_heads, 0);
}

/* The same tensor names mean different places in different families: post_attention_layernorm stands before
 * the MLP in Llama, after attention in Gemma and OLMo. */
static void bind_norms(binder *b, lm_layer *l) {
    const lm_config *c = &b->m->config;
    uint32_t flags = c->family->flags;
    float offset = norm_offset(c);
    const char *post_attention = "post_attention_layernorm.weight";

    if (!(flags & LM_FAM_POST_NORM))
        l->before_attention = vector(b, "input_layernorm.weight", c->width, offset);
    if (flags & (LM_FAM_POST_NORM | LM_FAM_SANDWICH)) {
        l->after_attention = vector(b, post_attention, c->width, offset);
        l->after_mlp = vector(b, "post_feedforward_layernorm.weight", c->width, offset);
    } else {
        l->before_mlp = vector(b, post_attention, c->width, offset);
    }
    if (flags & LM_FAM_SANDWICH)
        l->before_mlp = vector(b, "pre_feedforward_layernorm.weight", c->width, offset);
}

static void bind_mlp(binder *b, lm_layer *l) {
    const lm_config *c = &b->m->config;
    l->mlp.act = c->family->act;
    if (c->family->flags & LM_FAM_FUSED_GATE_UP) {
        l->mlp.fused = linear(b, "mlp.gate_up_proj", 2 * c->ffn, c->width, c->mlp_bias);
    } else {
        l->mlp.gate = linear(b, "mlp.gate_proj", c->ffn, c->width, c->mlp_bias);
        l->mlp.up = linear(b, "mlp.up_proj", c->ffn, c->width, c->mlp_bias);
    }
    l->mlp.down = linear(b, "mlp.down_proj", c->width, c->ffn, c->mlp_bias);
}

static void bind_moe(binder *b, lm_layer *l) {
    const lm_config *c = &b->m->config;
    const lm_moe_names *n = c->family->moe;
    bool bias = c->family->flags & LM_FAM_EXPERT_BIAS;
    char name[NAME_BYTES];

    /* The original checkpoints keep experts apart, or gate and up row by row: a stack would be a copy. */
    name_of(name, "%s.%s.%s", b->layer, n->block, n->foreign);
    if (b->st == LM_OK && (has(b, name, "") || has(b, name, ".weight"))) {
        b->st =
            lm_fail(b->err, LM_UNSUPPORTED,
                    "the experts are stored one by one as %s; convert the model with mlx_lm.convert", name);
        return;
    }
    name_of(name, "%s.%s", n->block, n->router);
    l->is_moe = true;
    l->moe.n_experts = c->n_experts;
    l->moe.top_k = c->top_k;
    l->moe.softmax_first = n->softmax_first;
    l->moe.renorm = c->renorm;
    l->moe.experts.act = c->family->act;
    l->moe.router = linear(b, name, c->n_experts, c->width, bias);
    struct {
        const char *part;
        const lm_linear **to;
        uint32_t rows, cols;
    } parts[] = {
        {"gate_proj", &l->moe.experts.gate, c->expert_ffn, c->width},
        {"up_proj", &l->moe.experts.up, c->expert_ffn, c->width},
        {"down_proj", &l->moe.experts.down, c->width, c->expert_ffn},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        name_of(name, "%s.%s.%s.%s", b->layer, n->block, n->experts, parts[i].part);
        *parts[i].to = linear_named(b, name, c->n_experts, parts[i].rows, parts[i].cols, bias);
    }
}

/* ---- the whole */

static void find_prefix(binder *b) {
    static const char *const known[] = {"model.", "language_model.model.", "model.language_model.",
                                        "language_model.", ""};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        b->prefix = known[i];
        if (has(b, known[i], "embed_tokens.weight")) return;
    }
    b->st =
        lm_fail(b->err, LM_CORRUPT, "incomplete model: the weights hold no tensor model.embed_tokens.weight");
}

static void bind_head(binder *b) {
    lm_model *m = b->m;
    const lm_config *c = &m->config;
    const char *name = has(b, "lm_head", ".weight") ? "lm_head" : "language_model.lm_head";
    bool there = has(b, name, ".weight");

    if (c->tied == 1 || (c->tied == -1 && !there)) {
        m->head = m->embed;
        return;
    }
    m->head = linear_named(b, there ? name : "lm_head", 1, c->n_vocab, c->width, false);
}

/* "Q4_G64", "MXFP4", "NVFP4", "BF16": the form that most parameters have. */
static void name_quantisation(const binder *b) {
    uint32_t most = 0;
    for (uint32_t i = 1; i < b->n_forms; i++)
        if (b->by_form[i] > b->by_form[most]) most = i;
    char *out = b->m->info.quantization;
    size_t room = sizeof b->m->info.quantization;
    lm_quant_spec q = b->forms[most];
    if (lm_quant_is_float(q.kind)) {
        snprintf(out, room, "%s", lm_quant_mode(q.kind));
        for (char *p = out; *p; p++) *p = (char)toupper((unsigned char)*p);
    } else if (q.kind == LM_QUANT_AFFINE)
        snprintf(out, room, "Q%u_G%u", q.bits, q.group);
    else
        snprintf(out, room, "%s", lm_dtype_name(b->form_types[most]));
}

lm_status lm_model_bind(lm_model *m, lm_err *err) {
    const lm_config *c = &m->config;
    binder b = {.m = m, .err = err};
    char name[NAME_BYTES];

    find_prefix(&b);
    name_of(name, "%sembed_tokens", b.prefix);
    m->embed = linear_named(&b, name, 1, c->n_vocab, c->width, false);
    for (uint32_t i = 0; i < c->n_layers && b.st == LM_OK; i++) {
        lm_layer *l = &m->layers[i];
        name_of(b.layer, "%slayers.%u", b.prefix, i);
        l->attention.layer = i;
        bind_norms(&b, l);
        bind_attention(&b, l, &c->layers[i]);
        if (c->layers[i].moe)
            bind_moe(&b, l);
        else
            bind_mlp(&b, l);
    }
    name_of(name, "%snorm.weight", b.prefix);
    m->final_norm = vector_named(&b, name, c->width, norm_offset(c));
    if (b.st == LM_OK) bind_head(&b);
    if (b.st == LM_OK) name_quantisation(&b);
    return b.st;
}
