#include "api/facts.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/gguf_facts.h"
#include "base/file.h"
#include "text/text.h"

#define CACHED     256
#define MAX_CONFIG (8u << 20) /* bytes; per-layer quantisation of a large model takes some 100 KB */

struct lm_facts_cache {
    pthread_mutex_t lock; /* guards the rest */
    lm_facts entries[CACHED];
    uint32_t n, next; /* next: the one to replace when full */
};

lm_facts_cache *lm_facts_cache_open(void) {
    lm_facts_cache *c = lm_alloc(sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void lm_facts_cache_close(lm_facts_cache *c) {
    if (!c) return;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void lm_facts_human(uint64_t n, char out[16]) {
    double b = (double)n / 1e9, m = (double)n / 1e6;
    if (n >= 1000000000u)
        snprintf(out, 16, b == floor(b) ? "%.0fB" : "%.1fB", b);
    else if (n >= 1000000u)
        snprintf(out, 16, m == floor(m) ? "%.0fM" : "%.2fM", m);
    else if (n >= 1000u)
        snprintf(out, 16, "%.0fK", (double)n / 1e3);
    else
        snprintf(out, 16, "%u", (unsigned)n);
}

/* ---- files of the directory; each absent or broken one simply says nothing */

static json_t *load(const char *dir, const char *name, size_t max) {
    char *path = lm_path_join(dir, name);
    json_t *value = NULL;
    lm_err err = {0};
    lm_status st = lm_json_load(path, max, &value, &err);
    free(path);
    if (st != LM_OK) return NULL;
    if (json_is_object(value)) return value;
    json_decref(value);
    return NULL;
}

static void read_text(const char *dir, lm_facts *f) {
    lm_err err = {0};
    lm_text_facts text = {0};
    f->sampling = (lm_text_sampling){NAN, NAN, NAN, NAN, NAN, NAN};
    if (lm_text_facts_read(&text, dir, &err) != LM_OK) return;
    f->tools = text.tools;
    f->thinking = text.thinks;
    f->inserts = text.inserts;
    f->sampling = text.sampling;
    lm_text_facts_release(&text);
}

static void read_config(const char *dir, lm_facts *f) {
    json_t *config = load(dir, "config.json", MAX_CONFIG);
    const char *family = json_string_value(json_object_get(config, "model_type"));
    snprintf(f->family, sizeof f->family, "%s", family ? family : "unknown");
    json_decref(config);

    lm_model_info info = {0};
    lm_err err = {0};
    if (lm_model_inspect(dir, &info, &err) != LM_OK) return;
    f->n_params = info.n_params;
    lm_facts_human(info.n_params, f->parameter_size);
    snprintf(f->quantization, sizeof f->quantization, "%s", info.quantization);
    f->n_ctx = info.n_ctx_train;
    f->width = info.width;
    if (info.embedding.problem[0]) return;
    f->embeds = info.embedding.said;
    f->pooling = info.embedding.pooling;
}

void lm_facts_get(lm_facts_cache *c, const lm_entry *model, lm_facts *out) {
    if (model->gguf && lm_gguf_facts_known(model)) {
        lm_facts brief = {0};
        memcpy(brief.digest, model->digest, sizeof brief.digest);
        lm_gguf_facts_brief(model, &brief);
        *out = brief;
        return;
    }
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->n; i++) {
        if (strcmp(c->entries[i].digest, model->digest)) continue;
        *out = c->entries[i];
        pthread_mutex_unlock(&c->lock);
        return;
    }
    pthread_mutex_unlock(&c->lock);

    lm_facts f = {0};
    memcpy(f.digest, model->digest, sizeof f.digest);
    if (model->gguf) {
        lm_gguf_facts_read(model, &f);
    } else {
        read_config(model->dir, &f);
        read_text(model->dir, &f);
    }

    pthread_mutex_lock(&c->lock);
    uint32_t at = c->n < CACHED ? c->n++ : c->next++ % CACHED;
    c->entries[at] = f;
    pthread_mutex_unlock(&c->lock);
    *out = f;
}

/* ---- model_info */

static void put(json_t *out, const char *prefix, const char *key, json_t *value) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", prefix, key);
    if (value) json_object_set_new(out, name, value);
}

/* config.json's name and GGUF's name of the same number */
static const struct {
    const char *from, *to;
} same_numbers[] = {
    {"num_hidden_layers", "block_count"},
    {"max_position_embeddings", "context_length"},
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv"},
    {"head_dim", "attention.key_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
    {"rope_theta", "rope.freq_base"},
    {"vocab_size", "vocab_size"},
    {"sliding_window", "attention.sliding_window"},
    {"num_local_experts", "expert_count"},
    {"num_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"layer_norm_eps", "attention.layer_norm_epsilon"},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon"},
    /* DistilBERT's and Nomic's words */
    {"n_layers", "block_count"},
    {"n_layer", "block_count"},
    {"dim", "embedding_length"},
    {"n_embd", "embedding_length"},
    {"hidden_dim", "feed_forward_length"},
    {"n_inner", "feed_forward_length"},
    {"n_heads", "attention.head_count"},
    {"n_head", "attention.head_count"},
};

static void put_numbers(json_t *out, const char *family, const json_t *config) {
    const json_t *text = json_object_get(config, "text_config"); /* of models that also see */
    for (size_t i = 0; i < sizeof same_numbers / sizeof *same_numbers; i++) {
        json_t *v = json_object_get(config, same_numbers[i].from);
        if (!json_is_number(v)) v = json_object_get(text, same_numbers[i].from);
        if (json_is_number(v)) put(out, family, same_numbers[i].to, json_copy(v));
    }
}

/* "HuggingFaceTB/SmolLM2-135M" and "smollm2:135m" alike without what stands around the model's own name */
static json_t *basename_of(const char *name) {
    const char *slash = strrchr(name, '/');
    if (slash) name = slash + 1;
    return json_stringn(name, strcspn(name, ":"));
}

/* The same from the file itself, which has them under these names. */
static void put_keys(json_t *out, const lm_entry *model, const char *family) {
    lm_gguf *g = NULL;
    char key[160];
    if (lm_gguf_open(&g, model->file, NULL) != LM_OK) return;
    for (size_t i = 0; i < sizeof same_numbers / sizeof *same_numbers; i++) {
        snprintf(key, sizeof key, "%s.%s", family, same_numbers[i].to);
        lm_gguf_facts_number(g, key, out);
    }
    lm_gguf_facts_number(g, "general.file_type", out);
    lm_gguf_close(g);
}

json_t *lm_facts_model_info(const lm_entry *model, const lm_facts *f, bool verbose) {
    json_t *out = json_object();
    put(out, "general", "architecture", json_string(f->family));
    put(out, "general", "basename", basename_of(model->name));
    if (f->n_params) put(out, "general", "parameter_count", json_integer((json_int_t)f->n_params));
    if (f->quantization[0]) put(out, "general", "quantization", json_string(f->quantization));
    if (model->gguf) {
        put_keys(out, model, f->family);
        return out;
    }
    json_t *config = load(model->dir, "config.json", MAX_CONFIG);
    put_numbers(out, f->family, config);
    /* the trained context after scaling, where it is known */
    if (f->n_ctx) put(out, f->family, "context_length", json_integer(f->n_ctx));
    if (f->embeds) put(out, f->family, "pooling_type", json_integer(f->pooling));
    if (verbose && config) json_object_set(out, "config", config);
    json_decref(config);
    return out;
}

lm_status lm_facts_generates(const lm_facts *f, const char *name, const char *what, lm_err *err) {
    return f->embeds ? lm_fail(err, LM_INVALID, "\"%.300s\" does not support %s", name, what) : LM_OK;
}

lm_status lm_facts_lack(const char *name, const char *what, lm_err *err) {
    lm_name parsed;
    char full[700];
    if (lm_name_parse(lm_str_of(name), &parsed, NULL) != LM_OK)
        snprintf(full, sizeof full, "%s", name);
    else
        lm_name_full(&parsed, full);
    return lm_fail(err, LM_INVALID, "%s does not support %s", full, what);
}
