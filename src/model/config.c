/* config.json → lm_config. Written after mlx-lm's ModelArgs and Hugging Face's configuration classes. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* ---- shape */

static void read_shape(lm_config *c, lm_reader *r) {
    const lm_defaults *d = &c->family->absent;
    c->width = lm_read_u32(r, "hidden_size", 8, LM_MAX_WIDTH, d->width);
    c->n_layers = lm_read_u32(r, "num_hidden_layers", 1, LM_MAX_LAYERS, d->n_layers);
    c->ffn = lm_read_u32(r, "intermediate_size", 1, LM_MAX_FFN, d->ffn);
    c->n_heads = lm_read_u32(r, "num_attention_heads", 1, LM_MAX_HEADS, d->n_heads);
    c->n_kv_heads =
        lm_read_u32(r, "num_key_value_heads", 1, LM_MAX_HEADS, d->n_kv_heads ? d->n_kv_heads : c->n_heads);
    c->n_vocab = lm_read_u32(r, "vocab_size", 1, LM_MAX_VOCAB, d->n_vocab);
    c->n_ctx_train = lm_read_u32(r, "max_position_embeddings", 1, LM_MAX_CONTEXT, d->n_ctx);
    c->norm_eps = (float)lm_read_number(r, "rms_norm_eps", 0, 1, d->norm_eps > 0 ? d->norm_eps : (double)NAN);
    if (r->st != LM_OK) return;

    uint32_t per_head = d->head_dim ? d->head_dim : c->width / c->n_heads;
    c->head_dim = lm_read_u32(r, "head_dim", 2, LM_MAX_HEAD_DIM, per_head);
    if (r->st != LM_OK) return;
    if (c->n_heads % c->n_kv_heads)
        r->st = lm_fail(r->err, LM_CORRUPT, "%u attention heads can't share %u key/value heads", c->n_heads,
                        c->n_kv_heads);
    else if (c->head_dim < 2 || c->head_dim > LM_MAX_HEAD_DIM || c->head_dim % 2)
        r->st = lm_fail(r->err, LM_CORRUPT, "a head of %u elements: it must be even, 2 to %d", c->head_dim,
                        LM_MAX_HEAD_DIM);
}

static void read_scales(lm_config *c, lm_reader *r) {
    c->attention_scale = 1 / sqrtf((float)c->head_dim);
    c->residual_scale = c->logit_scale = c->embed_scale = 1;
    float root = sqrtf((float)c->width);
    if (c->family->embed == LM_EMBED_SQRT) c->embed_scale = root;
    if (c->family->embed == LM_EMBED_SQRT_BF16) c->embed_scale = lm_bf16_to_f32(lm_f32_to_bf16(root));
    c->attention_bias = lm_read_bool(r, "attention_bias", false);
    c->mlp_bias = lm_read_bool(r, "mlp_bias", false);

    const json_t *tied = json_object_get(r->o, "tie_word_embeddings");
    if (!tied) tied = json_object_get(c->root, "tie_word_embeddings");
    c->tied = c->family->flags & LM_FAM_TIED ? 1 : json_is_boolean(tied) ? json_is_true(tied) : -1;
}

/* ---- positions */

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* rope_theta and rope_scaling, or both below rope_parameters (transformers 5), there perhaps by kind of
 * layer. */
static void read_rope(lm_config *c, lm_reader *r) {
    lm_rope_spec *rope = &c->ropes[LM_ROPE_GLOBAL];
    const json_t *both = lm_read_object(r, "rope_parameters");
    const json_t *full = both ? json_object_get(both, "full_attention") : NULL;
    if (json_is_object(full)) both = full;
    const json_t *scaling = lm_read_object(r, "rope_scaling");
    if (!scaling) scaling = both;

    rope->base = lm_read_number(r, "rope_theta", 1, 1e12, 0);
    lm_reader nested = {.o = both ? both : r->o, .err = r->err, .st = r->st};
    if (rope->base == 0)
        rope->base = lm_read_number(&nested, "rope_theta", 1, 1e12, c->family->absent.rope_base);
    double part = lm_read_number(&nested, "partial_rotary_factor", 0, 1, 1);
    if (scaling && !strcmp(text_of(scaling, "rope_type"), "proportional"))
        part = 1; /* it means something else there */
    r->st = nested.st;
    rope->interleaved = lm_read_bool(r, "rope_traditional", false);
    part = lm_read_number(r, "partial_rotary_factor", 0, 1, part);
    rope->n_dims = (uint32_t)(part * c->head_dim) & ~1u;
    rope->n_ctx = c->n_ctx_train;
    uint32_t old = lm_read_u32(r, "original_max_position_embeddings", 2, LM_MAX_CONTEXT, 4096);
    if (r->st != LM_OK) return;
    if (rope->n_dims < 2) {
        r->st = lm_fail(r->err, LM_CORRUPT, "partial_rotary_factor leaves nothing to turn");
        return;
    }
    r->st = lm_rope_read(rope, scaling, old, r->err);
    if (r->st != LM_OK) return;

    /* max_position_embeddings may be the context before stretching. */
    double stretched = c->n_ctx_train;
    if (rope->kind == LM_ROPE_YARN) stretched = fmax(stretched, rope->factor * rope->n_ctx_old);
    if (rope->kind == LM_ROPE_DYNAMIC) stretched *= fmax(rope->factor, 1);
    c->n_ctx_train = (uint32_t)fmin(stretched, LM_MAX_CONTEXT);
}

/* ---- layers */

static bool has_window(const lm_config *c, uint32_t layer, uint32_t pattern, uint32_t upper_from) {
    switch (c->family->window) {
    case LM_WINDOW_NONE: return false;
    case LM_WINDOW_ALL: return true;
    case LM_WINDOW_EVEN: return layer % 2 == 0;
    case LM_WINDOW_PATTERN: return (layer + 1) % pattern != 0;
    case LM_WINDOW_UPPER: return layer >= upper_from;
    }
    return false;
}

/* layer_types names each layer; true when it was there. */
static bool read_layer_types(lm_config *c, lm_reader *r, uint32_t window) {
    const json_t *types = json_object_get(r->o, "layer_types");
    if (!types || json_is_null(types)) return false;
    if (!json_is_array(types) || json_array_size(types) != c->n_layers) {
        r->st = lm_fail(r->err, LM_CORRUPT, "layer_types must be an array of %u names", c->n_layers);
        return true;
    }
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const char *name = json_string_value(json_array_get(types, i));
        if (name && !strcmp(name, "full_attention")) continue;
        if (!name || strcmp(name, "sliding_attention")) {
            r->st = lm_fail(r->err, LM_UNSUPPORTED,
                            "layer %u is of type \"%.40s\"; known are full_attention and sliding_attention",
                            i, name ? name : "");
            return true;
        }
        if (!window) {
            r->st = lm_fail(r->err, LM_CORRUPT, "layer %u has a window, but sliding_window is missing", i);
            return true;
        }
        c->layers[i].window = window;
    }
    return true;
}

static void read_layers(lm_config *c, lm_reader *r) {
    bool off = json_is_false(json_object_get(r->o, "use_sliding_window"));
    bool on = json_is_true(json_object_get(r->o, "use_sliding_window"));
    uint32_t window = lm_read_u32(r, "sliding_window", 0, LM_MAX_CONTEXT, 0);
    if (!window && json_object_get(r->o, "sliding_window") == NULL) window = c->family->absent.window;
    uint32_t pattern = lm_read_u32(r, "sliding_window_pattern", 1, LM_MAX_LAYERS, 6);
    uint32_t upper_from = lm_read_u32(r, "max_window_layers", 0, LM_MAX_CONTEXT, 0);
    if (r->st != LM_OK) return;

    c->layers = lm_try_alloc(c->n_layers, sizeof *c->layers);
    if (!c->layers) {
        r->st = lm_fail(r->err, LM_NO_MEMORY, "no memory for %u layers", c->n_layers);
        return;
    }
    bool ruled = !off && (c->family->window != LM_WINDOW_UPPER || on);
    if (!read_layer_types(c, r, window) && ruled && window)
        for (uint32_t i = 0; i < c->n_layers; i++)
            if (has_window(c, i, pattern, upper_from)) c->layers[i].window = window;
}

static void read_moe(lm_config *c, lm_reader *r) {
    const lm_moe_names *names = c->family->moe;
    if (!names || r->st != LM_OK) return;
    c->n_experts = lm_read_u32(r, names->n_experts, 2, LM_MAX_EXPERTS, 0);
    c->expert_ffn = names->ffn ? lm_read_u32(r, names->ffn, 1, LM_MAX_FFN, 0) : c->ffn;
    c->top_k = lm_read_u32(r, "num_experts_per_tok", 1, LM_MAX_EXPERTS, 0);
    if (r->st == LM_OK && c->top_k > c->n_experts)
        r->st = lm_fail(r->err, LM_CORRUPT, "num_experts_per_tok is %u, but there are %u experts", c->top_k,
                        c->n_experts);
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].moe = true;
}

/* ---- quantisation */

static lm_status read_spec(const json_t *o, lm_quant_spec *out, lm_err *err) {
    const json_t *mode = json_object_get(o, "mode");
    const char *name = mode && !json_is_null(mode) ? json_string_value(mode) : "affine";
    lm_reader r = {.o = o, .err = err};
    lm_quant_spec q = {.kind = LM_QUANT_AFFINE};

    while (q.kind < LM_QUANT_KINDS && name && strcmp(name, lm_quant_mode(q.kind))) q.kind++;
    if (!name || q.kind == LM_QUANT_KINDS) {
        return lm_fail(err, LM_UNSUPPORTED,
                       "quantisation mode \"%.40s\" is not known; known are affine, mxfp4, mxfp8 and nvfp4",
                       name ? name : "");
    }
    lm_quant_spec only = lm_quant_float_spec(q.kind);
    q.bits = lm_read_u32(&r, "bits", 1, 32, only.bits);
    q.group = lm_read_u32(&r, "group_size", 1, 65536, only.group);
    if (r.st != LM_OK) return lm_fail_in(err, r.st, "quantization");
    if (!lm_quant_known(q))
        return lm_fail(err, LM_UNSUPPORTED,
                       "%u bits in groups of %u (%s) are not supported; known are affine with 2, 3, 4, 5, 6 "
                       "and 8 bits in "
                       "groups of 32, 64 and 128, mxfp4 and mxfp8 in groups of 32, and nvfp4 in groups of 16",
                       q.bits, q.group, name);
    *out = q;
    return LM_OK;
}

static const json_t *quant_object(const json_t *root, const json_t *text, const char *key) {
    const json_t *v = json_object_get(root, key);
    if (!v || json_is_null(v)) v = json_object_get(text, key);
    return v && !json_is_null(v) ? v : NULL;
}

/* "quantization" is MLX's; "quantization_config" is its copy, or another tool's own form that MLX would
 * convert. */
static void read_quant(lm_config *c, lm_reader *r) {
    if (r->st != LM_OK) return;
    const json_t *q = quant_object(c->root, r->o, "quantization");
    if (!q) {
        q = quant_object(c->root, r->o, "quantization_config");
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        if (method && !strcmp(method, "mxfp4")) {
            /* the original gpt-oss: which tensors are packed, the file says */
            c->quant_default = lm_quant_float_spec(LM_QUANT_MXFP4);
            return;
        }
        if (method) {
            r->st = lm_fail(
                r->err, LM_UNSUPPORTED,
                "the weights are quantised by %.40s, which has no exact form for MLX: create from the unquantised "
                "release of the model, with quantize",
                method);
            return;
        }
    }
    if (!q) return;
    if (!json_is_object(q)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "quantization must be an object");
        return;
    }
    c->quant = q;
    r->st = read_spec(q, &c->quant_default, r->err);
}

/* Bits and group as the shapes say, which is how mlx-lm reads a matrix that "quantization" does not name. */
static lm_status infer(const lm_view *codes, const lm_view *scales, const char *path, uint32_t cols,
                       lm_quant_spec *out, lm_err *err) {
    uint64_t words = codes->n_dims ? codes->dims[codes->n_dims - 1] : 0;
    uint64_t groups = scales->n_dims ? scales->dims[scales->n_dims - 1] : 0;
    if (!groups || groups > cols || cols % groups || words > cols || words * 32 % cols)
        return lm_fail(err, LM_CORRUPT, "tensor %s: %llu words and %llu scales a row don't hold %u numbers",
                       path, (unsigned long long)words, (unsigned long long)groups, cols);
    out->bits = (uint32_t)(words * 32 / cols);
    out->group = (uint32_t)(cols / groups);
    out->kind = LM_QUANT_AFFINE;
    if (scales->dtype == LM_U8)
        out->kind = out->bits == 8 ? LM_QUANT_MXFP8 : out->group == 16 ? LM_QUANT_NVFP4 : LM_QUANT_MXFP4;
    return LM_OK;
}

lm_status lm_config_quant(const lm_config *c, const lm_weights *w, const char *path, uint32_t cols,
                          lm_quant_spec *out, lm_err *err) {
    const json_t *named = c->quant ? json_object_get(c->quant, path) : NULL;
    if (json_is_object(named)) {
        lm_status st = read_spec(named, out, err);
        return st == LM_OK ? st : lm_fail_in(err, st, "config.json: %s", path);
    }
    *out = (lm_quant_spec){0};
    if (json_is_false(named)) return LM_OK;

    char name[256];
    lm_view codes, scales;
    snprintf(name, sizeof name, "%s.scales", path);
    if (!lm_weights_find(w, name, &scales)) return LM_OK;
    snprintf(name, sizeof name, "%s.weight", path);
    if (!lm_weights_find(w, name, &codes)) return LM_OK; /* lm_weights_matrix says so */
    return infer(&codes, &scales, path, cols, out, err);
}

/* ---- the whole */

/* Decoders that were made encoders of (EmbeddingGemma, gte-Qwen2): read from left to right they would give
 * vectors of no meaning. */
static void refuse_both_ways(lm_reader *r) {
    const char *said = json_is_true(json_object_get(r->o, "use_bidirectional_attention"))
                           ? "use_bidirectional_attention"
                       : json_is_false(json_object_get(r->o, "is_causal")) ? "is_causal: false"
                                                                           : NULL;
    if (said)
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "a decoder that reads both ways (%s) is not supported", said);
}

static void read_all(lm_config *c, lm_reader *r) {
    if (c->family->encoder) {
        lm_encoder_read(c, r);
        read_quant(c, r);
        return;
    }
    refuse_both_ways(r);
    if (r->st != LM_OK) return;
    read_shape(c, r);
    if (r->st == LM_OK) read_scales(c, r);
    if (r->st == LM_OK) read_rope(c, r);
    if (r->st == LM_OK) read_layers(c, r);
    read_moe(c, r);
    if (r->st == LM_OK && c->family->extra) r->st = c->family->extra(c, r->o, r->err);
    read_quant(c, r);
    if (r->st != LM_OK) return;

    for (uint32_t i = 0; i < c->n_layers; i++) {
        if (!c->layers[i].window) continue;
        if (c->local_rope) c->layers[i].rope = LM_ROPE_LOCAL;
        if (!c->window) c->window = c->layers[i].window;
    }
}

/* Takes root over. */
static lm_status from_json(lm_config *out, json_t *root, lm_err *err) {
    lm_config c = {.root = root};
    const json_t *text =
        json_object_get(root, "text_config"); /* a model with eyes or ears keeps its own apart */
    const char *type = NULL;
    lm_status st = LM_OK;

    if (!json_is_object(root)) {
        st = lm_fail(err, LM_CORRUPT, "config.json must be an object");
        goto done;
    }
    type = json_string_value(json_object_get(root, "model_type"));
    if (!type) {
        st = lm_fail(err, LM_CORRUPT, "config.json: model_type is missing");
        goto done;
    }
    c.family = lm_family_find(type);
    if (!c.family) {
        st = lm_fail(err, LM_UNSUPPORTED, "model_type \"%.60s\" is not known; known are %s", type,
                     lm_family_names());
        goto done;
    }
    snprintf(c.type, sizeof c.type, "%s", type);
    lm_reader r = {.o = json_is_object(text) ? text : root, .err = err};
    read_all(&c, &r);
    st = r.st == LM_OK ? LM_OK : lm_fail_in(err, r.st, "config.json");
done:
    if (st == LM_OK)
        *out = c;
    else
        lm_config_release(&c);
    return st;
}

lm_status lm_config_load(lm_config *out, const char *dir, lm_err *err) {
    json_t *root = NULL;
    char *path = lm_path_join(dir, "config.json");
    lm_status st = lm_json_load(path, LM_MAX_CONFIG_BYTES, &root, err);
    free(path);
    if (st == LM_TOO_LARGE) st = lm_fail_in(err, LM_CORRUPT, "%s", dir);
    if (st != LM_OK) return st;
    st = from_json(out, root, err);
    return st == LM_OK ? st : lm_fail_in(err, st, "%s", dir);
}

lm_status lm_config_parse(lm_config *out, lm_str text, lm_err *err) {
    json_t *root = NULL;
    lm_status st = lm_json_parse(text, &root, err);
    if (st == LM_INVALID) return lm_fail_in(err, LM_CORRUPT, "config.json");
    return st == LM_OK ? from_json(out, root, err) : st;
}

void lm_config_release(lm_config *c) {
    free(c->layers);
    json_decref(c->root);
    *c = (lm_config){0};
}
