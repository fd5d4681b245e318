/* Adapters as PEFT and mlx-lm write them.
 *
 * PEFT (huggingface.co/docs/peft, LoraConfig): base_model.model.MODULE.lora_A.weight (rank, columns) and
 * .lora_B.weight (rows, rank), of strength lora_alpha / rank, or / sqrt(rank) with use_rslora; alpha_pattern
 * names modules of another lora_alpha. mlx-lm: MODULE.lora_a (columns, rank) and .lora_b (rank, rows), of
 * strength lora_parameters.scale. The form that is kept (MODULE.scale beside them) is read, too: /api/show
 * names it. */
#include <math.h>
#include <string.h>

#include "store/adapter_private.h"

typedef struct reading {
    lm_loras *out;
    const json_t *config; /* NULL: none */
    lm_err *err;
} reading;

/* ---- adapter_config.json: what would mean another computation is refused by its name */

static lm_status refuse(reading *r, const char *what) {
    return lm_fail(r->err, LM_UNSUPPORTED,
                   "adapter_config.json: %s: merge the adapter into the model instead", what);
}

static const char *text_of(const json_t *config, const char *key) {
    const char *text = json_string_value(json_object_get(config, key));
    return text ? text : "";
}

static bool is_set(const json_t *v) {
    if (json_is_array(v)) return json_array_size(v) > 0;
    if (json_is_object(v)) return json_object_size(v) > 0;
    return v && !json_is_null(v) && !json_is_false(v);
}

static lm_status check_config(reading *r) {
    static const char *const others[] = {"use_dora",          "modules_to_save", "layer_replication",
                                         "use_qalora",        "lora_bias",       "alora_invocation_tokens",
                                         "target_parameters", "arrow_config",    "trainable_token_indices"};
    /* Other beginnings change the base's own weights before training starts. */
    static const char *const starts[] = {"", "gaussian", "eva", "orthogonal"};
    const json_t *c = r->config;
    char what[120];
    if (!json_is_object(c)) return lm_fail(r->err, LM_CORRUPT, "adapter_config.json holds no JSON object");
    const char *peft = text_of(c, "peft_type"), *tune = text_of(c, "fine_tune_type"),
               *start = text_of(c, "init_lora_weights"), *bias = text_of(c, "bias");
    if ((peft[0] && strcmp(peft, "LORA")) || (tune[0] && strcmp(tune, "lora"))) {
        snprintf(what, sizeof what, "\"%.40s\" adapters are not supported, only LoRA", peft[0] ? peft : tune);
        return refuse(r, what);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (!is_set(json_object_get(c, others[i]))) continue;
        snprintf(what, sizeof what, "%s%s is not supported", others[i], i ? "" : " (DoRA)");
        return refuse(r, what);
    }
    if (bias[0] && strcmp(bias, "none")) return refuse(r, "trained biases are not supported");
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (!strcmp(start, starts[i])) return LM_OK;
    snprintf(what, sizeof what, "init_lora_weights \"%.40s\" is not supported", start);
    return refuse(r, what);
}

/* Whether PEFT would take `module` for one that `pattern` means. Its patterns are regular expressions; here
 * they are names, from the beginning ("^model.layers.0") or as the last parts ("self_attn.q_proj"). */
static bool matches(const char *pattern, lm_str module, bool *known) {
    lm_str p = lm_str_of(pattern);
    *known = strspn(pattern + (pattern[0] == '^'),
                    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
             strlen(pattern) - (pattern[0] == '^');
    if (pattern[0] == '^') return lm_str_starts(module, (lm_str){p.ptr + 1, p.len - 1});
    if (!lm_str_ends(module, p)) return false;
    return module.len == p.len || module.ptr[module.len - p.len - 1] == '.';
}

/* lora_alpha of one module. */
static lm_status alpha_of(reading *r, lm_str module, double *out) {
    const char *key;
    json_t *v, *patterns = json_object_get(r->config, "alpha_pattern");
    lm_str peft = LM_STR("base_model.model.");
    if (lm_str_starts(module, peft)) module = (lm_str){module.ptr + peft.len, module.len - peft.len};
    const json_t *alpha = json_object_get(r->config, "lora_alpha");
    json_object_foreach(patterns, key, v) {
        bool known = false, is = matches(key, module, &known);
        if (!known) return refuse(r, "an alpha_pattern that is more than a name is not supported");
        if (!is) continue;
        alpha = v;
        break;
    }
    if (!json_is_number(alpha))
        return lm_fail(r->err, LM_CORRUPT, "adapter_config.json has no number lora_alpha");
    *out = json_number_value(alpha);
    return LM_OK;
}

/* ---- tensors */

static lm_status set_scale(reading *r, lm_lora *p, double scale) {
    if (!isfinite((float)scale))
        return lm_fail(r->err, LM_CORRUPT, "the adapter's scale is not a finite number");
    p->scale = (float)scale;
    p->scaled = true;
    return LM_OK;
}

static lm_status put_peft(reading *r, const char *tensor, lm_str module, bool a, const lm_view *v) {
    lm_lora *p = NULL;
    double alpha = 0;
    lm_status st = lm_lora_of(r->out, module, &p, r->err);
    if (st == LM_OK) st = lm_lora_put(a ? &p->a : &p->b, tensor, v, false, r->err);
    if (st == LM_OK && !r->config)
        st = lm_fail(r->err, LM_INVALID, "adapter_config.json is missing: it says how strong the adapter is");
    if (st == LM_OK) st = alpha_of(r, module, &alpha);
    if (st != LM_OK || !a) return st;
    double rank = p->a.rows ? (double)p->a.rows : 1;
    return set_scale(r, p, alpha / (is_set(json_object_get(r->config, "use_rslora")) ? sqrt(rank) : rank));
}

static lm_status put_mlx(reading *r, const char *tensor, lm_str module, bool a, const lm_view *v) {
    lm_lora *p = NULL;
    const json_t *scale = json_object_get(json_object_get(r->config, "lora_parameters"), "scale");
    lm_status st = lm_lora_of(r->out, module, &p, r->err);
    if (st == LM_OK) st = lm_lora_put(a ? &p->a : &p->b, tensor, v, r->config != NULL, r->err);
    if (st != LM_OK || !r->config) return st; /* ours says it in a tensor */
    if (!json_is_number(scale))
        return lm_fail(r->err, LM_CORRUPT, "adapter_config.json has no number lora_parameters.scale");
    return set_scale(r, p, json_number_value(scale));
}

static lm_status put_scale(reading *r, lm_str module, const lm_view *v) {
    lm_lora *p = NULL;
    float scale = NAN;
    lm_status st = lm_lora_of(r->out, module, &p, r->err);
    if (v->dtype == LM_F32 && v->bytes == sizeof scale) memcpy(&scale, v->data, sizeof scale);
    return st == LM_OK ? set_scale(r, p, (double)scale) : st;
}

static bool cut(lm_str name, const char *suffix, lm_str *module) {
    lm_str s = lm_str_of(suffix);
    if (!lm_str_ends(name, s)) return false;
    *module = (lm_str){name.ptr, name.len - s.len};
    return true;
}

static lm_status put_tensor(reading *r, const char *tensor, const lm_view *v) {
    lm_str name = lm_str_of(tensor), module;
    if (cut(name, ".lora_A.weight", &module) || cut(name, ".lora_A.default.weight", &module))
        return put_peft(r, tensor, module, true, v);
    if (cut(name, ".lora_B.weight", &module) || cut(name, ".lora_B.default.weight", &module))
        return put_peft(r, tensor, module, false, v);
    if (cut(name, ".lora_a", &module)) return put_mlx(r, tensor, module, true, v);
    if (cut(name, ".lora_b", &module)) return put_mlx(r, tensor, module, false, v);
    if (!r->config && cut(name, ".scale", &module)) return put_scale(r, module, v);
    bool dora = strstr(tensor, "lora_magnitude_vector") || cut(name, ".m", &module);
    return lm_fail(r->err, LM_UNSUPPORTED, "the adapter holds %.200s%s: merge it into the model instead",
                   tensor, dora ? ", which is DoRA's and not supported" : ", which is no part of LoRA");
}

lm_status lm_loras_safetensors(lm_loras *out, const lm_weights *w, const json_t *config, lm_err *err) {
    reading r = {.out = out, .config = config, .err = err};
    lm_status st = config ? check_config(&r) : LM_OK;
    for (uint32_t i = 0; i < lm_weights_count(w) && st == LM_OK; i++) {
        lm_view v;
        const char *name = lm_weights_name(w, i, &v);
        st = put_tensor(&r, name, &v);
    }
    if (st == LM_OK && !config && out->n && !out->items[0].scaled)
        st = lm_fail(err, LM_INVALID, "adapter_config.json is missing: it says how strong the adapter is");
    return st;
}
