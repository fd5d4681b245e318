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
    lm_delta *deltas;       /* of that layer, NULL: no adapter */
    uint64_t by_form[16];   /* parameters by storage form, to name the model's quantisation */
    lm_quant_spec forms[16];
    lm_dtype form_types[16];
    uint32_t n_forms;
    bool copies; /* the backend does, and reads no weight again */
    bool ours;   /* what is bound now is this rank's: handles are made, bytes counted */
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

static uint64_t bytes_of(const lm_matrix *w) {
    uint64_t rows = (uint64_t)w->n_experts * w->rows;
    if (w->quant.kind == LM_QUANT_NONE) return rows * w->row_bytes;
    uint64_t scales = rows * (w->cols / w->quant.group);
    return rows * w->row_bytes +
           scales * (w->quant.kind == LM_QUANT_AFFINE ? 2 * lm_dtype_size(w->dtype) : 1);
}

static bool list_room(binder *b, void **list, uint32_t n, uint32_t *room) {
    if (grow(list, n, room)) return true;
    b->st = lm_fail(b->err, LM_NO_MEMORY, "no memory for the list of weights");
    return false;
}

/* Memory that the model frees with everything else. False: none. */
static bool keep_cut(binder *b, void *memory) {
    lm_model *m = b->m;
    if (!memory) return true;
    if (!list_room(b, (void **)&m->cuts, m->n_cuts, &m->room_cuts)) {
        free(memory);
        return false;
    }
    m->cuts[m->n_cuts++] = memory;
    return true;
}

/* Of a bias (rows) or (n_experts, rows) the rows of the part. */
static bool cut_bias(binder *b, const lm_view *v, uint32_t n_experts, const lm_cut *part, lm_view *out) {
    uint64_t size = lm_dtype_size(v->dtype), rows = v->dims[v->n_dims - 1], n = part->n_rows;
    const char *from = (const char *)v->data + part->first_row * size;
    *out = *v;
    out->dims[v->n_dims - 1] = n;
    out->bytes = n_experts * n * size;
    out->data = from;
    if (n_experts == 1 || n == rows) return true;
    char *copy = malloc(out->bytes);
    if (!copy) {
        b->st = lm_fail(b->err, LM_NO_MEMORY, "no memory for %llu bytes of biases",
                        (unsigned long long)out->bytes);
        return false;
    }
    for (uint64_t e = 0; e < n_experts; e++) memcpy(copy + e * n * size, from + e * rows * size, n * size);
    out->data = copy;
    return keep_cut(b, copy);
}

static const lm_linear *make_linear(binder *b, const lm_matrix *w, const lm_view *bias) {
    lm_model *m = b->m;
    if (!list_room(b, (void **)&m->linears, m->n_linears, &m->room_linears)) return NULL;
    b->st = m->backend->linear(m->device, w, bias, &m->linears[m->n_linears], b->err);
    return b->st == LM_OK ? m->linears[m->n_linears++] : NULL;
}

/* part NULL: all of it. */
static const lm_linear *add_linear(binder *b, const lm_matrix *w, const lm_view *bias, const lm_cut *part) {
    lm_model *m = b->m;
    if (!b->ours) return NULL;
    m->share_bytes += part ? bytes_of(w) * part->n_rows / w->rows * part->n_cols / w->cols : bytes_of(w);
    if (!m->backend) return NULL;
    if (!part) return make_linear(b, w, bias);
    lm_matrix cut;
    lm_view some;
    void *memory = NULL;
    b->st = lm_matrix_cut(w, part, &cut, &memory, b->err);
    if (b->st != LM_OK || !keep_cut(b, memory)) return NULL;
    if (bias && !cut_bias(b, bias, w->n_experts, part, &some)) return NULL;
    const lm_linear *made = make_linear(b, &cut, bias ? &some : NULL);
    while (m->n_cuts && b->copies) free(m->cuts[--m->n_cuts]);
    return made;
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

/* A weight as the file has it: name.weight with whatever scales and bias stand beside it. */
typedef struct found {
    lm_matrix w;
    lm_view bias;
    bool has_bias;
} found;

static bool find_linear(binder *b, const char *name, uint32_t n_experts, uint32_t rows, uint32_t cols,
                        bool bias, found *out) {
    lm_quant_spec quant;
    if (b->st == LM_OK) b->st = lm_config_quant(&b->m->config, b->m->weights, name, cols, &quant, b->err);
    if (b->st == LM_OK)
        b->st = lm_weights_matrix(b->m->weights, name, quant, n_experts, rows, cols, &out->w, b->err);
    if (b->st == LM_NOT_FOUND) b->st = lm_fail_in(b->err, LM_CORRUPT, "incomplete model");
    if (b->st != LM_OK) return false;
    out->has_bias = find_bias(b, name, &out->w, bias, &out->bias);
    if (b->st != LM_OK) return false;
    uint64_t n = (uint64_t)out->w.rows * out->w.cols * out->w.n_experts;
    b->m->info.n_params += n;
    note_form(b, &out->w, n);
    return true;
}

static bool find_in_layer(binder *b, const char *part, uint32_t rows, uint32_t cols, bool bias, found *out) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return find_linear(b, name, 1, rows, cols, bias, out);
}

static const lm_linear *linear_named(binder *b, const char *name, uint32_t n_experts, uint32_t rows,
                                     uint32_t cols, bool bias) {
    found f;
    if (!find_linear(b, name, n_experts, rows, cols, bias, &f)) return NULL;
    return add_linear(b, &f.w, f.has_bias ? &f.bias : NULL, NULL);
}

/* ---- a rank's part of a weight. Without others, or in a pipeline, that is all of it. */

/* Rows [first, first + n) of f. */
static const lm_linear *rows_of(binder *b, const found *f, uint32_t first, uint32_t n) {
    lm_cut part = {.first_row = first, .n_rows = n, .n_cols = f->w.cols};
    bool all = n == f->w.rows;
    if (b->st != LM_OK) return NULL;
    return add_linear(b, &f->w, f->has_bias ? &f->bias : NULL, all ? NULL : &part);
}

/* Columns likewise. Every rank's product is a part of the sum, and one of them brings the bias. */
static const lm_linear *columns_of(binder *b, const found *f, uint32_t first, uint32_t n) {
    lm_cut part = {.n_rows = f->w.rows, .first_col = first, .n_cols = n};
    bool all = n == f->w.cols, bias = f->has_bias && (all || b->m->share.rank == 0);
    if (b->st != LM_OK) return NULL;
    return add_linear(b, &f->w, bias ? &f->bias : NULL, all ? NULL : &part);
}

/* Which of the inner columns of an MLP are this rank's; `down` may be cut between its groups only. */
static bool inner_columns(binder *b, const found *down, const char *what, uint32_t *first, uint32_t *n) {
    const lm_matrix *w = &down->w;
    *first = 0;
    *n = w->cols;
    if (b->st != LM_OK) return false;
    if (!lm_share_tensor(&b->m->share)) return true;
    uint32_t unit = w->quant.kind == LM_QUANT_NONE ? 1 : w->quant.group;
    b->st = lm_share_of(&b->m->share, w->cols, unit, what, first, n, b->err);
    return b->st == LM_OK;
}

/* Of the n numbers of a vector [first, first + n_ours). */
static const lm_vector *vector_part(binder *b, const char *name, uint32_t n, uint32_t first, uint32_t n_ours,
                                    float offset) {
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
    if (!b->ours) return NULL;
    v.data = (const char *)v.data + (uint64_t)first * lm_dtype_size(v.dtype);
    v.dims[0] = n_ours;
    v.bytes = (uint64_t)n_ours * lm_dtype_size(v.dtype);
    m->share_bytes += v.bytes;
    if (!m->backend || !list_room(b, (void **)&m->vectors, m->n_vectors, &m->room_vectors)) return NULL;
    b->st = m->backend->vector(m->device, &v, offset, &m->vectors[m->n_vectors], b->err);
    return b->st == LM_OK ? m->vectors[m->n_vectors++] : NULL;
}

static const lm_vector *vector_named(binder *b, const char *name, uint32_t n, float offset) {
    return vector_part(b, name, n, 0, n, offset);
}

static const lm_vector *vector(binder *b, const char *part, uint32_t n, float offset) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return vector_named(b, name, n, offset);
}

/* ---- what an adapter adds to the matrix f, which this rank has a part of */

static bool find_pair(binder *b, const char *name, const found *f, lm_adapter_pair *out) {
    bool there = false;
    if (b->st != LM_OK) return false;
    b->st = lm_adapter_find(b->m->adapter, name, &f->w, out, &there, b->err);
    return b->st == LM_OK && there;
}

/* Rows [first, first + n) of y: all of A, and those rows of B. */
static void delta_rows(binder *b, const char *name, const found *f, uint32_t first, uint32_t n,
                       lm_delta *out) {
    lm_adapter_pair pair;
    if (!find_pair(b, name, f, &pair)) return;
    out->scale = pair.scale;
    out->a = rows_of(b, &(found){.w = pair.a}, 0, pair.a.rows);
    out->b = rows_of(b, &(found){.w = pair.b}, first, n);
}

/* Columns likewise of x: those of A, and all of B; every rank's product is a part of the sum. */
static void delta_columns(binder *b, const char *name, const found *f, uint32_t first, uint32_t n,
                          lm_delta *out) {
    lm_adapter_pair pair;
    if (!find_pair(b, name, f, &pair)) return;
    out->scale = pair.scale;
    out->a = columns_of(b, &(found){.w = pair.a}, first, n);
    out->b = columns_of(b, &(found){.w = pair.b}, 0, pair.b.cols);
}

typedef void delta_of(binder *b, const char *name, const found *f, uint32_t first, uint32_t n, lm_delta *out);

/* One of this layer's. */
static void layer_delta(binder *b, delta_of *kind, const char *part, const found *f, uint32_t first,
                        uint32_t n, int which) {
    char name[NAME_BYTES];
    if (!b->deltas) return;
    name_of(name, "%s.%s", b->layer + strlen(b->prefix), part);
    kind(b, name, f, first, n, &b->deltas[which]);
}

/* Of a whole name what comes after the layer's. */
static const char *below(const binder *b, const char *name) {
    return name + strlen(b->layer) + 1;
}

/* ---- a layer */

static float norm_offset(const lm_config *c) {
    return c->family->flags & LM_FAM_NORM_PLUS_1 ? 1.0f : 0.0f;
}

/* Whether no rank's heads end inside a quantisation group of o. */
static bool heads_fit(binder *b, const found *o) {
    const lm_model *m = b->m;
    if (!lm_share_tensor(&m->share) || o->w.quant.kind == LM_QUANT_NONE) return true;
    for (uint32_t r = 0; r < m->share.size && b->st == LM_OK; r++) {
        lm_share other;
        lm_world world = {.rank = r, .size = m->share.size};
        b->st = lm_share_plan(&m->config, &world, LM_SPLIT_TENSOR, &other, b->err);
        if (b->st == LM_OK && other.first_head * m->config.head_dim % o->w.quant.group)
            b->st = lm_fail(b->err, LM_UNSUPPORTED,
                            "rank %u's heads begin inside a quantisation group of %u: use --distributed-mode "
                            "pipeline, or "
                            "another number of ranks",
                            r, o->w.quant.group);
    }
    return b->st == LM_OK;
}

static void bind_attention(binder *b, lm_layer *l, const lm_layer_spec *spec) {
    const lm_config *c = &b->m->config;
    uint32_t flags = c->family->flags;
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    bool bias = c->attention_bias || flags & LM_FAM_QKV_BIAS;
    /* attention_bias means all four in Llama; where q, k and v always have one, o has its own rule. */
    bool o_bias = flags & LM_FAM_QKV_BIAS ? flags & LM_FAM_O_BIAS : c->attention_bias;
    float offset = norm_offset(c);

    const lm_share *s = &b->m->share;
    uint32_t q_first = s->first_head * c->head_dim, q_ours = s->n_heads * c->head_dim;
    uint32_t kv_first = s->first_kv_head * c->head_dim, kv_ours = s->n_kv_heads * c->head_dim;
    found f;

    if (flags & LM_FAM_FUSED_QKV) {
        if (find_in_layer(b, "self_attn.qkv_proj", q + 2 * kv, c->width, bias, &f)) {
            l->n_qkv = lm_share_tensor(s) ? 3 : 1;
            l->qkv[0] = rows_of(b, &f, q_first, l->n_qkv == 1 ? f.w.rows : q_ours);
            if (l->n_qkv == 3) l->qkv[1] = rows_of(b, &f, q + kv_first, kv_ours);
            if (l->n_qkv == 3) l->qkv[2] = rows_of(b, &f, q + kv + kv_first, kv_ours);
            const uint32_t firsts[3] = {q_first, q + kv_first, q + kv + kv_first};
            for (uint32_t i = 0; i < l->n_qkv; i++)
                layer_delta(b, delta_rows, "self_attn.qkv_proj", &f, firsts[i],
                            l->n_qkv == 1 ? f.w.rows
                            : i           ? kv_ours
                                          : q_ours,
                            LM_DELTA_Q + (int)i);
        }
    } else {
        static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
        l->n_qkv = 3;
        for (int i = 0; i < 3; i++) {
            uint32_t first = i ? kv_first : q_first, n = i ? kv_ours : q_ours;
            if (!find_in_layer(b, names[i], i ? kv : q, c->width, bias, &f)) continue;
            l->qkv[i] = rows_of(b, &f, first, n);
            layer_delta(b, delta_rows, names[i], &f, first, n, LM_DELTA_Q + i);
        }
    }
    if (find_in_layer(b, "self_attn.o_proj", c->width, q, o_bias, &f) && heads_fit(b, &f)) {
        l->o = columns_of(b, &f, q_first, q_ours);
        layer_delta(b, delta_columns, "self_attn.o_proj", &f, q_first, q_ours, LM_DELTA_O);
    }
    if (flags & LM_FAM_WIDE_NORM) {
        l->wide_q_norm = vector(b, "self_attn.q_norm.weight", q, offset);
        l->wide_k_norm = vector(b, "self_attn.k_norm.weight", kv, offset);
    }
    l->attention.n_heads = s->n_heads;
    l->attention.n_kv_heads = s->n_kv_heads;
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
    if (flags & LM_FAM_SINKS) {
        char name[NAME_BYTES];
        name_of(name, "%s.self_attn.sinks", b->layer);
        l->attention.sinks = vector_part(b, name, c->n_heads, s->first_head, s->n_heads, 0);
    }
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
    found f, down;
    uint32_t first = 0, n = 0;
    l->mlp.act = c->family->act;
    if (!find_in_layer(b, "mlp.down_proj", c->width, c->ffn, c->mlp_bias, &down) ||
        !inner_columns(b, &down, "the MLP", &first, &n))
        return;
    if (!(c->family->flags & LM_FAM_FUSED_GATE_UP)) {
        if (find_in_layer(b, "mlp.gate_proj", c->ffn, c->width, c->mlp_bias, &f)) {
            l->mlp.gate = rows_of(b, &f, first, n);
            layer_delta(b, delta_rows, "mlp.gate_proj", &f, first, n, LM_DELTA_GATE);
        }
        if (find_in_layer(b, "mlp.up_proj", c->ffn, c->width, c->mlp_bias, &f)) {
            l->mlp.up = rows_of(b, &f, first, n);
            layer_delta(b, delta_rows, "mlp.up_proj", &f, first, n, LM_DELTA_UP);
        }
    } else if (find_in_layer(b, "mlp.gate_up_proj", 2 * c->ffn, c->width, c->mlp_bias, &f)) {
        if (n == c->ffn) {
            l->mlp.fused = rows_of(b, &f, 0, 2 * n);
            layer_delta(b, delta_rows, "mlp.gate_up_proj", &f, 0, 2 * n, LM_DELTA_GATE);
        } else {
            l->mlp.gate = rows_of(b, &f, first, n);
            l->mlp.up = rows_of(b, &f, c->ffn + first, n);
            layer_delta(b, delta_rows, "mlp.gate_up_proj", &f, first, n, LM_DELTA_GATE);
            layer_delta(b, delta_rows, "mlp.gate_up_proj", &f, c->ffn + first, n, LM_DELTA_UP);
        }
    }
    l->mlp.down = columns_of(b, &down, first, n);
    layer_delta(b, delta_columns, "mlp.down_proj", &down, first, n, LM_DELTA_DOWN);
    for (int i = LM_DELTA_GATE; b->deltas && i <= LM_DELTA_DOWN; i++)
        l->mlp_adapted = l->mlp_adapted || b->deltas[i].a;
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
                    "the experts are stored as their makers do it (%s), which MLX does not run as it lies: create a model "
                    "from it (ollama create, with this one after FROM)",
                    name);
        return;
    }
    name_of(name, "%s.%s", n->block, n->router);
    l->is_moe = true;
    l->moe.n_experts = c->n_experts;
    l->moe.top_k = c->top_k;
    l->moe.softmax_first = n->softmax_first;
    l->moe.renorm = c->renorm;
    l->moe.experts.act = c->family->act;
    found f, down;
    uint32_t first = 0, n_ours = 0, ffn = c->expert_ffn;
    if (find_in_layer(b, name, c->n_experts, c->width, bias, &f))
        l->moe.router = rows_of(b, &f, 0, c->n_experts);
    layer_delta(b, delta_rows, name, &f, 0, c->n_experts, LM_DELTA_ROUTER);
    if (b->deltas) l->moe.deltas = &b->deltas[LM_DELTA_ROUTER];
    name_of(name, "%s.%s.%s.down_proj", b->layer, n->block, n->experts);
    if (!find_linear(b, name, c->n_experts, c->width, ffn, bias, &down) ||
        !inner_columns(b, &down, "the experts", &first, &n_ours))
        return;
    l->moe.experts.down = columns_of(b, &down, first, n_ours);
    layer_delta(b, delta_columns, below(b, name), &down, first, n_ours, LM_DELTA_DOWN);
    name_of(name, "%s.%s.%s.gate_proj", b->layer, n->block, n->experts);
    if (find_linear(b, name, c->n_experts, ffn, c->width, bias, &f))
        l->moe.experts.gate = rows_of(b, &f, first, n_ours);
    layer_delta(b, delta_rows, below(b, name), &f, first, n_ours, LM_DELTA_GATE);
    name_of(name, "%s.%s.%s.up_proj", b->layer, n->block, n->experts);
    if (find_linear(b, name, c->n_experts, ffn, c->width, bias, &f))
        l->moe.experts.up = rows_of(b, &f, first, n_ours);
    layer_delta(b, delta_rows, below(b, name), &f, first, n_ours, LM_DELTA_UP);
}

/* ---- an encoder: BERT's names, or what takes their place; nothing of it is shared out among ranks */

/* Where heads turn there are no biases, or only some. */
static const lm_linear *encoder_linear(binder *b, const char *part, uint32_t rows, uint32_t cols) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return linear_named(b, name, 1, rows, cols, !b->m->config.family->encoder->turns);
}

static void encoder_norm(binder *b, const char *part, const lm_vector **weight, const lm_vector **bias) {
    char name[NAME_BYTES];
    const char *dot = b->layer[0] ? "." : "";
    name_of(name, "%s%s%s.weight", b->layer, dot, part);
    *weight = vector_named(b, name, b->m->config.width, 0);
    name_of(name, "%s%s%s.bias", b->layer, dot, part);
    *bias = vector_named(b, name, b->m->config.width, 0);
}

static const lm_linear *encoder_table(binder *b, const char *part, uint32_t rows) {
    char name[NAME_BYTES];
    name_of(name, "%s.%s", b->layer, part);
    return linear_named(b, name, 1, rows, b->m->config.width, false);
}

static void bind_encoder(binder *b) {
    static const char *const known[] = {"", "bert.", "roberta.", "distilbert.", "model."};
    lm_model *m = b->m;
    const lm_config *c = &m->config;
    const lm_encoder_names *n = c->family->encoder;
    size_t p = 0;
    while (p < sizeof known / sizeof *known && !has(b, known[p], "embeddings.word_embeddings.weight")) p++;
    b->prefix = p < sizeof known / sizeof *known ? known[p] : "";
    b->ours = true;

    name_of(b->layer, "%sembeddings", b->prefix);
    m->embed = encoder_table(b, "word_embeddings", c->n_vocab);
    if (!n->turns) m->positions = encoder_table(b, "position_embeddings", c->n_ctx_train + c->first_position);
    if (n->types) m->types = encoder_table(b, "token_type_embeddings", c->n_types);
    name_of(b->layer, "%.*s", (int)strcspn(b->prefix, "."), b->prefix);
    encoder_norm(b, n->embed_norm, &m->embed_norm, &m->embed_norm_bias);
    for (uint32_t i = 0; i < c->n_layers && b->st == LM_OK; i++) {
        lm_layer *l = &m->layers[i];
        name_of(b->layer, "%s%s.%u", b->prefix, n->layer, i);
        l->n_qkv = n->qkv ? 1 : 3;
        l->qkv[0] = n->qkv ? encoder_linear(b, n->qkv, 3 * c->width, c->width)
                           : encoder_linear(b, n->q, c->width, c->width);
        if (!n->qkv) l->qkv[1] = encoder_linear(b, n->k, c->width, c->width);
        if (!n->qkv) l->qkv[2] = encoder_linear(b, n->v, c->width, c->width);
        l->o = encoder_linear(b, n->o, c->width, c->width);
        encoder_norm(b, n->attention_norm, &l->after_attention, &l->attention_bias);
        l->mlp = (lm_mlp){.act = c->act,
                          .gate = n->gate ? encoder_linear(b, n->gate, c->ffn, c->width) : NULL,
                          .up = encoder_linear(b, n->up, c->ffn, c->width),
                          .down = encoder_linear(b, n->down, c->width, c->ffn)};
        encoder_norm(b, n->mlp_norm, &l->after_mlp, &l->mlp_bias);
        /* Keys and values live no longer than their layer: one layer's place serves all. */
        l->attention = (lm_attention){.n_heads = c->n_heads,
                                      .n_kv_heads = c->n_heads,
                                      .head_dim = c->head_dim,
                                      .scale = c->attention_scale,
                                      .rope = n->turns ? &m->ropes[LM_ROPE_GLOBAL] : NULL,
                                      .both_ways = true};
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

    b->ours = m->share.rank == 0; /* which alone chooses tokens */
    found f = {.w = {.n_experts = 1, .rows = c->n_vocab, .cols = c->width}};
    if (c->tied == 1 || (c->tied == -1 && !there))
        m->head = m->embed;
    else if (find_linear(b, there ? name : "lm_head", 1, c->n_vocab, c->width, false, &f))
        m->head = add_linear(b, &f.w, f.has_bias ? &f.bias : NULL, NULL);
    delta_rows(b, "lm_head", &f, 0, c->n_vocab, &m->head_delta);
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
    lm_backend_info device = {0};
    if (m->backend) m->backend->info(&device);
    b.copies = device.copies_weights;
    if (c->family->encoder) {
        bind_encoder(&b);
        if (b.st == LM_OK) name_quantisation(&b);
        return b.st;
    }

    find_prefix(&b);
    name_of(name, "%sembed_tokens", b.prefix);
    bool tied = c->tied == 1 || (c->tied == -1 && !has(&b, "lm_head", ".weight") &&
                                 !has(&b, "language_model.lm_head", ".weight"));
    b.ours = m->share.first_layer == 0 || (tied && m->share.rank == 0);
    m->embed = linear_named(&b, name, 1, c->n_vocab, c->width, false);
    for (uint32_t i = 0; i < c->n_layers && b.st == LM_OK; i++) {
        lm_layer *l = &m->layers[i];
        name_of(b.layer, "%slayers.%u", b.prefix, i);
        b.ours = lm_share_has_layer(&m->share, i);
        l->attention.layer = b.ours ? i - m->share.first_layer : 0;
        if (m->deltas) l->deltas = b.deltas = &m->deltas[(size_t)i * LM_DELTAS];
        bind_norms(&b, l);
        bind_attention(&b, l, &c->layers[i]);
        if (c->layers[i].moe)
            bind_moe(&b, l);
        else
            bind_mlp(&b, l);
    }
    name_of(name, "%snorm.weight", b.prefix);
    b.ours = m->share.rank == 0;
    m->final_norm = vector_named(&b, name, c->width, norm_offset(c));
    if (b.st == LM_OK) bind_head(&b);
    if (b.st == LM_OK) b.st = lm_adapter_used_up(m->adapter, err);
    if (b.st == LM_OK) name_quantisation(&b);
    return b.st;
}
