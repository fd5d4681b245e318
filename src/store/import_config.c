/* config.json and generation_config.json out of GGUF metadata. Keys of the metadata start with the
 * architecture's name; facts that GGUF leaves to the architecture (llama.cpp has them in code) are written
 * out here, each with its source. */
#include "store/import_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

static bool is(const lm_meta *r, const char *model_type) {
    return strcmp(r->f->model_type, model_type) == 0;
}

/* ---- rope ------------------------------------------------------------------------------------------------ */

static float float_at(const lm_gguf_tensor *t, uint64_t i) {
    float f;
    memcpy(&f, t->data + 4 * i, 4);
    return f;
}

/* What Llama 3's scaling does to frequency i, as the converter wrote it into rope_freqs. */
static double llama3_factor(double base, uint32_t dim, uint32_t i, double factor, double low, double high,
                            double original) {
    double wavelength = 2 * M_PI * pow(base, 2.0 * i / dim);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    double smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
}

/* GGUF keeps the table that Llama 3's scaling gives, MLX the four numbers that it comes from. They are found
 * again and proven by computing the whole table: every published model uses low 1, high 4 and an original
 * context of 8192; other powers of two are tried too. */
static json_t *llama3_scaling(lm_meta *r, const lm_gguf_tensor *t, double base, uint32_t dim) {
    if (t->type != LM_GGML_F32 || t->dims[0] != dim / 2) {
        r->st =
            lm_fail(r->err, LM_CORRUPT, "rope_freqs.weight has %llu values of type %s, expected %u of F32",
                    (unsigned long long)t->dims[0], lm_ggml_name(t->type), dim / 2);
        return NULL;
    }
    double factor = lm_meta_decimal((double)float_at(t, dim / 2 - 1));
    for (double original = 1024; original <= 1 << 20; original *= 2) {
        bool same = factor >= 1;
        for (uint32_t i = 0; i < dim / 2 && same; i++) {
            double want = llama3_factor(base, dim, i, factor, 1, 4, original);
            same = fabs((double)float_at(t, i) - want) <= 1e-4 * want;
        }
        if (same) {
            return json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", factor,
                             "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                             "original_max_position_embeddings", (int)original);
        }
    }
    r->st = lm_fail(r->err, LM_UNSUPPORTED, "rope_freqs.weight is not a table of Llama 3's rope scaling");
    return NULL;
}

static json_t *factors(lm_meta *r, const char *name, uint32_t dim) {
    const lm_gguf_tensor *t = lm_gguf_find(r->g, name);
    json_t *list = json_array();
    if (!t || t->type != LM_GGML_F32 || t->dims[0] != dim / 2) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s is missing or not %u values of F32", name, dim / 2);
        return list;
    }
    for (uint32_t i = 0; i < dim / 2; i++) {
        float f = float_at(t, i);
        if (!isfinite(f)) r->st = lm_fail(r->err, LM_CORRUPT, "%s holds values that are not finite", name);
        json_array_append_new(list, json_real(isfinite(f) ? lm_meta_decimal((double)f) : 1));
    }
    return list;
}

static json_t *longrope(lm_meta *r, uint32_t dim, uint32_t context) {
    uint32_t original = lm_meta_u32(r, "rope.scaling.original_context_length", 4096);
    lm_meta_set_u32(r, "original_max_position_embeddings", original);
    if (original == 0 || context < original) {
        r->st = lm_fail(r->err, LM_CORRUPT, "metadata %s.rope.scaling.original_context_length is %u",
                        r->f->arch, original);
    }
    return json_pack("{s:s, s:s, s:o, s:o}", "type", "longrope", "rope_type", "longrope", "long_factor",
                     factors(r, "rope_factors_long.weight", dim), "short_factor",
                     factors(r, "rope_factors_short.weight", dim));
}

static json_t *yarn(lm_meta *r, double factor) {
    json_t *s = json_pack(
        "{s:s, s:s, s:f, s:i}", "type", "yarn", "rope_type", "yarn", "factor", factor,
        "original_max_position_embeddings",
        (int)lm_meta_u32(r, "rope.scaling.original_context_length", lm_meta_u32(r, "context_length", 4096)));
    static const char *const betas[][3] = {
        {"beta_fast", "rope.scaling.yarn_beta_fast", "rope.scaling.beta_fast"},
        {"beta_slow", "rope.scaling.yarn_beta_slow", "rope.scaling.beta_slow"}};
    for (int i = 0; i < 2; i++) { /* llama.cpp's name, then Ollama's */
        double v = lm_meta_float(r, betas[i][1], lm_meta_float(r, betas[i][2], i ? 1.0 : 32.0));
        json_object_set_new(s, betas[i][0], json_real(v));
    }
    /* gpt-oss spreads the ramp over fractions of a dimension (its config.json says truncate: false) */
    if (is(r, "gpt_oss")) json_object_set_new(s, "truncate", json_false());
    return s;
}

static void read_rope(lm_meta *r, uint32_t dim, uint32_t context) {
    json_t *scaling = NULL;
    uint32_t layers = lm_meta_u32(r, "block_count", 0);
    /* Ollama's own Gemma 3 files leave both to the architecture: the 4B, 12B and 27B models stretch by 8. */
    double absent = is(r, "gemma3_text") ? 1000000.0 : 10000.0;
    bool stretched = is(r, "gemma3_text") && (layers == 34 || layers == 48 || layers == 62);
    double base = lm_meta_float(r, "rope.freq_base", lm_meta_float(r, "rope.global.freq_base", absent));
    double factor =
        lm_meta_float(r, "rope.scaling.factor", lm_meta_float(r, "rope.scale_linear", stretched ? 8.0 : 1.0));
    lm_str type = lm_meta_str(r, "rope.scaling.type");
    if (factor == 0) factor = 1; /* Ollama's converter writes what a config.json without scaling has */
    /* Ollama's own gpt-oss leaves the kind to the architecture */
    if (is(r, "gpt_oss") && type.len == 0 && factor != 1) type = LM_STR("yarn");
    if (r->st == LM_OK && (base <= 0 || factor <= 0))
        r->st = lm_fail(r->err, LM_CORRUPT, "impossible rope parameters in the metadata");
    if (r->st != LM_OK) return;
    lm_meta_set(r, "rope_theta", json_real(base));

    const lm_gguf_tensor *freqs = lm_gguf_find(r->g, "rope_freqs.weight");
    if (freqs) {
        scaling = llama3_scaling(r, freqs, base, dim);
    } else if (lm_gguf_find(r->g, "rope_factors_long.weight")) {
        scaling = longrope(r, dim, context);
    } else if (lm_str_eq(type, LM_STR("yarn"))) {
        scaling = yarn(r, factor);
    } else if (factor != 1.0 && (type.len == 0 || lm_str_eq(type, LM_STR("linear")))) {
        scaling = json_pack("{s:s, s:s, s:f}", "type", "linear", "rope_type", "linear", "factor", factor);
    } else if (type.len && !lm_str_eq(type, LM_STR("none")) && !lm_str_eq(type, LM_STR("linear"))) {
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "rope scaling of type " LM_STR_FMT " is not supported",
                        LM_STR_ARG(type));
    }
    lm_meta_set(r, "rope_scaling", scaling ? scaling : json_null());
}

/* ---- families -------------------------------------------------------------------------------------------- */

static void layer_types(lm_meta *r, uint32_t layers, uint32_t pattern) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < layers; i++) {
        json_array_append_new(list, json_string((i + 1) % pattern ? "sliding_attention" : "full_attention"));
    }
    lm_meta_set(r, "layer_types", list);
}

/* Gemma 3's layers: one of six sees everything, unless the file says otherwise (every so many, or each). */
static void gemma3_layers(lm_meta *r, uint32_t layers) {
    char key[128];
    int32_t *said = NULL;
    uint32_t n = 0;
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", r->f->arch);
    if (r->st == LM_OK) r->st = lm_gguf_i32s(r->g, key, &said, &n, r->err);
    if (r->st == LM_OK && n != 0 && n != layers && !(n == 1 && said[0] > 0)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "metadata %s has %u values for %u layers", key, n, layers);
    } else if (n == layers && n > 1) {
        json_t *list = json_array();
        for (uint32_t i = 0; i < n; i++)
            json_array_append_new(list, json_string(said[i] ? "sliding_attention" : "full_attention"));
        lm_meta_set(r, "layer_types", list);
    } else {
        uint32_t pattern = n == 1 ? (uint32_t)said[0] : 6;
        lm_meta_set_u32(r, "sliding_window_pattern", pattern);
        layer_types(r, layers, pattern);
    }
    free(said);
}

static void read_gemma(lm_meta *r, uint32_t layers, uint32_t width, uint32_t heads, uint32_t head_dim) {
    lm_meta_set(r, "hidden_activation", json_string("gelu_pytorch_tanh"));
    lm_meta_set(r, "hidden_act", json_string("gelu_pytorch_tanh"));
    lm_meta_set_u32(r, "sliding_window",
                    lm_meta_u32(r, "attention.sliding_window", is(r, "gemma2") ? 4096 : 1024));
    /* The 27B models alone (46 and 62 layers) scale queries by the width of a head's share, the others by its
     * size. */
    bool large = layers == (is(r, "gemma2") ? 46u : 62u);
    lm_meta_set_u32(r, "query_pre_attn_scalar", large ? width / heads : head_dim);
    if (is(r, "gemma2")) {
        lm_meta_set(r, "attn_logit_softcapping", json_real(lm_meta_float(r, "attn_logit_softcapping", 50.0)));
        lm_meta_set(r, "final_logit_softcapping",
                    json_real(lm_meta_float(r, "final_logit_softcapping", 30.0)));
        layer_types(r, layers, 2);
    } else {
        lm_meta_set(r, "rope_local_base_freq",
                    json_real(lm_meta_float(r, "rope.freq_base_swa",
                                            lm_meta_float(r, "rope.local.freq_base", 10000.0))));
        gemma3_layers(r, layers);
        /* Ollama's first files of the 1B model name a cap that it does not have. */
        if (lm_meta_float(r, "final_logit_softcapping", 0.0) > 0 && layers != 26 && r->st == LM_OK)
            r->st = lm_fail(r->err, LM_UNSUPPORTED, "a Gemma 3 with final_logit_softcapping is not known");
    }
}

/* Layers without experts, and how wide one is where the metadata has only the width of a dense layer. */
static void read_qwen3_moe(lm_meta *r, uint32_t layers) {
    json_t *dense = json_array();
    uint32_t width = 0;
    for (uint32_t i = 0; i < layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.ffn_up_exps.weight", i);
        const lm_gguf_tensor *t = lm_gguf_find(r->g, name);
        if (t)
            width = (uint32_t)t->dims[1];
        else
            json_array_append_new(dense, json_integer(i));
    }
    lm_meta_set(r, "mlp_only_layers", dense);
    lm_meta_set_u32(r, "moe_intermediate_size", lm_meta_u32(r, "expert_feed_forward_length", width));
    lm_meta_set_u32(r, "decoder_sparse_step", 1);
    lm_meta_set(r, "norm_topk_prob", json_boolean(lm_meta_bool(r, "norm_top_k_prob", true)));
}

static void read_experts(lm_meta *r, uint32_t layers) {
    bool qwen = is(r, "qwen3_moe");
    uint32_t n = lm_meta_require(r, qwen ? "num_experts" : "num_local_experts", "expert_count", 4096);
    lm_meta_require(r, "num_experts_per_tok", "expert_used_count", n);
    if (qwen) read_qwen3_moe(r, layers);
}

/* Mistral comes as llama, and only its first version has a window. The third kind, with eyes, may scale
 * queries by their position, which no family here does. */
static void read_mistral(lm_meta *r) {
    uint32_t window = lm_meta_u32(r, "attention.sliding_window", 0);
    double scale =
        lm_meta_float(r, "rope.scaling_beta", lm_meta_float(r, "attention.temperature_scale", 0.0));
    if (r->st == LM_OK && scale != 0) {
        r->st = lm_fail(r->err, LM_UNSUPPORTED,
                        "a model that scales queries by position (%s) is not supported", r->f->arch);
    }
    if (window && is(r, "llama")) {
        lm_meta_set(r, "model_type", json_string("mistral"));
        lm_meta_set(r, "architectures", json_pack("[s]", "MistralForCausalLM"));
    }
    if (!is(r, "llama") || window) /* absent would be 4096 in Hugging Face's configuration */
        lm_meta_set(r, "sliding_window", window ? json_integer(window) : json_null());
}

static void read_family(lm_meta *r, uint32_t layers, uint32_t width, uint32_t heads, uint32_t head_dim) {
    if (!lm_meta_bool(r, "attention.causal", true) && r->st == LM_OK)
        r->st = lm_fail(r->err, LM_UNSUPPORTED,
                        "a decoder that reads both ways (%s.attention.causal) is not supported", r->f->arch);
    if (r->f->experts) read_experts(r, layers);
    if (is(r, "gemma2") || is(r, "gemma3_text")) read_gemma(r, layers, width, heads, head_dim);
    if (is(r, "smollm3"))
        lm_meta_set_u32(r, "no_rope_layer_interval", 4); /* every fourth layer has no rope */
    if (is(r, "granite")) {
        lm_meta_set(r, "attention_multiplier",
                    json_real(lm_meta_float(r, "attention.scale", 1 / sqrt(head_dim))));
        lm_meta_set(r, "embedding_multiplier", json_real(lm_meta_float(r, "embedding_scale", 1.0)));
        lm_meta_set(r, "residual_multiplier", json_real(lm_meta_float(r, "residual_scale", 1.0)));
        lm_meta_set(r, "logits_scaling", json_real(lm_meta_float(r, "logit_scale", 1.0)));
    }
    if (is(r, "phi3")) {
        uint32_t window = lm_meta_u32(r, "attention.sliding_window", 0);
        lm_meta_set(r, "partial_rotary_factor",
                    json_real((double)lm_meta_u32(r, "rope.dimension_count", head_dim) / head_dim));
        lm_meta_set(r, "sliding_window", window ? json_integer(window) : json_null());
    }
    if (is(r, "gpt_oss")) {
        lm_meta_set_u32(
            r, "intermediate_size",
            lm_meta_u32(r, "expert_feed_forward_length", lm_meta_u32(r, "feed_forward_length", 0)));
        lm_meta_set_u32(r, "sliding_window", lm_meta_u32(r, "attention.sliding_window", 128));
        lm_meta_set(r, "swiglu_limit", json_real(7.0));
        layer_types(r, layers, 2);
    }
    if (is(r, "llama") || is(r, "mistral")) read_mistral(r);
    if (is(r, "olmo2") && lm_meta_u32(r, "attention.sliding_window", 0) && r->st == LM_OK)
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "OLMo 3 (%s.attention.sliding_window) is not supported",
                        r->f->arch);
}

static void read_shape(lm_meta *r, const lm_plan *p) {
    const lm_gguf_tensor *embedding = lm_gguf_find(r->g, "token_embd.weight");
    uint32_t layers = lm_meta_require(r, "num_hidden_layers", "block_count", 4096);
    uint32_t width = lm_meta_require(r, "hidden_size", "embedding_length", 1 << 20);
    uint32_t heads = lm_meta_require(r, "num_attention_heads", "attention.head_count", 65536);
    uint32_t context = lm_meta_require(r, "max_position_embeddings", "context_length", UINT32_MAX);
    if (r->st != LM_OK) return;
    uint32_t kv_heads =
        lm_meta_set_u32(r, "num_key_value_heads", lm_meta_u32(r, "attention.head_count_kv", heads));
    if (!lm_meta_has(r, "feed_forward_length") && r->f->experts)
        lm_meta_set_u32(r, "intermediate_size", lm_meta_u32(r, "expert_feed_forward_length", 0));
    else
        lm_meta_require(r, "intermediate_size", "feed_forward_length", 1 << 24);
    uint32_t head_dim = lm_meta_u32(r, "attention.key_length", width / heads);
    if (r->st == LM_OK && (kv_heads == 0 || head_dim < 2 || head_dim > 65536 || head_dim % 2)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "metadata: %u key heads of size %u are impossible", kv_heads,
                        head_dim);
    }
    if (r->st == LM_OK && embedding->dims[0] != width) {
        r->st = lm_fail(r->err, LM_CORRUPT, "token_embd.weight is %llu wide, embedding_length says %u",
                        (unsigned long long)embedding->dims[0], width);
    }
    if (r->st != LM_OK) return;
    lm_meta_set_u32(r, "head_dim", head_dim);
    lm_meta_set_u32(r, "vocab_size", (uint32_t)embedding->dims[1]);
    lm_meta_set(
        r, "rms_norm_eps",
        json_real(lm_meta_float(r, "attention.layer_norm_rms_epsilon", r->f->norms_plus_one ? 1e-6 : 1e-5)));
    lm_meta_set(r, "hidden_act", json_string("silu"));
    lm_meta_set(r, "tie_word_embeddings", json_boolean(!lm_plan_has(p, "lm_head.weight")));
    lm_meta_set(r, "attention_bias", json_boolean(lm_plan_has(p, "model.layers.0.self_attn.q_proj.bias")));
    lm_meta_set(r, "mlp_bias", json_boolean(lm_plan_has(p, "model.layers.0.mlp.gate_proj.bias")));
    uint32_t rope_dim = lm_meta_u32(r, "rope.dimension_count", head_dim);
    if (r->st == LM_OK && rope_dim != head_dim && !is(r, "phi3")) {
        r->st =
            lm_fail(r->err, LM_UNSUPPORTED, "heads of %u elements of which %u turn (%s.rope.dimension_count)",
                    head_dim, rope_dim, r->f->arch);
    } else if (rope_dim < 2 || rope_dim > head_dim || rope_dim % 2) {
        r->st = lm_fail(r->err, LM_CORRUPT, "metadata %s.rope.dimension_count is %u", r->f->arch, rope_dim);
    }
    if (r->st == LM_OK) read_rope(r, rope_dim, context);
    if (r->st == LM_OK) read_family(r, layers, width, heads, head_dim);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

lm_status lm_import_json(const json_t *value, const char *dir, const char *name, lm_err *err) {
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text) return lm_fail(err, LM_NO_MEMORY, "no memory to write %s", name);
    char *path = lm_path_join(dir, name);
    lm_status st = lm_file_write(path, lm_str_of(text), err);
    free(path);
    free(text);
    return st;
}

static json_t *stops_json(const lm_vocab *v) {
    if (v->n_stops == 1) return json_integer(v->stops[0]);
    json_t *list = json_array();
    for (uint32_t i = 0; i < v->n_stops; i++) json_array_append_new(list, json_integer(v->stops[i]));
    return list;
}

static void set_ids(json_t *config, const lm_vocab *v) {
    if (v->bos >= 0) json_object_set_new(config, "bos_token_id", json_integer(v->bos));
    if (v->n_stops) json_object_set_new(config, "eos_token_id", stops_json(v));
    if (v->pad >= 0) json_object_set_new(config, "pad_token_id", json_integer(v->pad));
}

/* What the makers recommend, where the converter took it over. */
static void set_sampling(lm_meta *r, json_t *generation) {
    static const char *const keys[][2] = {{"general.sampling.temp", "temperature"},
                                          {"general.sampling.top_k", "top_k"},
                                          {"general.sampling.top_p", "top_p"},
                                          {"general.sampling.min_p", "min_p"},
                                          {"general.sampling.penalty_repeat", "repetition_penalty"}};
    bool any = false, greedy = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && r->st == LM_OK; i++) {
        double v = 0;
        if (!lm_gguf_has(r->g, keys[i][0])) continue;
        r->st = lm_gguf_float(r->g, keys[i][0], &v, r->err);
        if (r->st == LM_OK && fabs(v) > 1e6)
            r->st = lm_fail(r->err, LM_CORRUPT, "metadata %s is %g", keys[i][0], v);
        if (r->st != LM_OK) return;
        v = lm_meta_decimal(v);
        json_object_set_new(generation, keys[i][1], i == 1 ? json_integer((json_int_t)v) : json_real(v));
        greedy = greedy || (i == 0 && v == 0);
        any = true;
    }
    if (any) json_object_set_new(generation, "do_sample", json_boolean(!greedy));
}

/* Of the numbers, and of scales: what mlx_lm.convert would cast to. */
static const char *dtype_of(const lm_gguf *g) {
    const lm_gguf_tensor *t = lm_gguf_find(g, "token_embd.weight");
    return t && t->type == LM_GGML_BF16 ? "bfloat16" : t && t->type == LM_GGML_F32 ? "float32" : "float16";
}

lm_status lm_import_config(const lm_gguf *g, const lm_family *f, const lm_plan *p, const char *dir,
                           lm_err *err) {
    lm_vocab vocab = {0};
    lm_meta r = {g, f, json_object(), LM_OK, err};
    const lm_gguf_tensor *words = lm_gguf_find(g, "token_embd.weight");
    json_t *generation = json_object();
    json_t *quantization = lm_plan_quantization(p);
    lm_meta_set(&r, "architectures", json_pack("[s]", f->class_name));
    lm_meta_set(&r, "model_type", json_string(f->model_type));
    lm_meta_set(&r, "torch_dtype", json_string(dtype_of(g)));
    if (f->encoder)
        lm_encoder_config(&r);
    else
        read_shape(&r, p);
    if (r.st == LM_OK) r.st = lm_vocab_open(&vocab, g, err);
    if (r.st == LM_OK && vocab.n > words->dims[1]) {
        r.st = lm_fail(err, LM_CORRUPT, "the vocabulary has %u tokens, token_embd.weight %llu rows", vocab.n,
                       (unsigned long long)words->dims[1]);
    }
    if (r.st != LM_OK) goto done;
    if (!f->encoder) set_ids(generation, &vocab);
    if (!f->encoder) set_sampling(&r, generation);
    if (!f->encoder) set_ids(r.config, &vocab);
    if (f->encoder && vocab.pad >= 0) lm_meta_set_u32(&r, "pad_token_id", (uint32_t)vocab.pad);
    if (quantization) {
        lm_meta_set(&r, "quantization", json_incref(quantization));
        lm_meta_set(&r, "quantization_config",
                    json_incref(quantization)); /* the older name, which some readers want */
    }
    if (r.st == LM_OK) r.st = lm_import_json(r.config, dir, "config.json", err);
    if (r.st == LM_OK && !f->encoder) r.st = lm_import_json(generation, dir, "generation_config.json", err);
    lm_encoder_pooling(&r, dir, (uint32_t)words->dims[0]);
done:
    lm_vocab_release(&vocab);
    json_decref(quantization);
    json_decref(generation);
    json_decref(r.config);
    return r.st;
}
