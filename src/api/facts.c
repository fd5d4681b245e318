#include "api/facts.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/model.h"
#include "text/text.h"

#define CACHED               256
#define MAX_CONFIG           (8u << 20) /* bytes; per-layer quantisation of a large model takes some 100 KB */
#define MAX_TEMPLATE         (4u << 20)
#define MAX_TOKENIZER_CONFIG (32u << 20) /* with the added tokens of large vocabularies */

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

/* The template of a "chat_template" member: a text, or a list of named ones, of which "default" counts. */
static bool add_template(const json_t *object, lm_buf *out) {
    const json_t *t = json_object_get(object, "chat_template");
    if (json_is_array(t)) {
        const json_t *entry, *chosen = NULL;
        size_t i;
        json_array_foreach(t, i, entry) {
            const char *name = json_string_value(json_object_get(entry, "name"));
            if (!chosen || (name && !strcmp(name, "default"))) chosen = json_object_get(entry, "template");
        }
        t = chosen;
    }
    if (!json_is_string(t)) return false;
    lm_buf_add(out, json_string_value(t), json_string_length(t));
    return true;
}

void lm_facts_template(const char *dir, lm_buf *out) {
    char *path = lm_path_join(dir, "chat_template.jinja");
    lm_err err = {0};
    lm_status st = lm_file_read(path, MAX_TEMPLATE, out, &err);
    free(path);
    if (st == LM_OK) return;
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json"};
    for (int i = 0; i < 2; i++) {
        json_t *object = load(dir, files[i], MAX_TOKENIZER_CONFIG);
        bool found = add_template(object, out);
        json_decref(object);
        if (found) return;
    }
}

static bool holds(lm_str text, const char *word) {
    return text.ptr && memmem(text.ptr, text.len, word, strlen(word)) != NULL;
}

/* The vocabulary as text: a parse of 10 MB of JSON to find a token would make a list of models slow. Tokens
 * stand there in quotes; JSON may escape the brackets of none of them. */
static bool knows(lm_str vocabulary, const char *token) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", token);
    return holds(vocabulary, quoted);
}

static bool can_insert(lm_str vocabulary) {
    static const char *const needed[][3] = {
        {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},
        {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},
        {"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},
        {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"},
        {"[SUFFIX]", "[PREFIX]", "[PREFIX]"},
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (knows(vocabulary, needed[i][0]) && knows(vocabulary, needed[i][1]) &&
            knows(vocabulary, needed[i][2]))
            return true;
    }
    return false;
}

static bool template_thinks(const lm_template *t) {
    static const char *const words[] = {"<think>", "</think>", "[THINK]", "reasoning_content"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (holds(lm_template_source(t), words[i])) return true;
    return lm_template_uses(t, "enable_thinking") || lm_template_uses(t, "thinking");
}

/* What the template and the vocabulary can do: lm_text_open's rules (thinks, tools, inserts) without its
 * cost. */
static void read_text(const char *dir, lm_facts *f) {
    lm_err err = {0};
    lm_map map = {0};
    char *path = lm_path_join(dir, "tokenizer.json");
    lm_str vocabulary = {0};
    if (lm_map_open(&map, path, &err) == LM_OK)
        vocabulary = (lm_str){(const char *)map.data, (size_t)map.size};
    free(path);

    lm_buf source;
    lm_buf_init(&source, MAX_TEMPLATE);
    lm_facts_template(dir, &source);
    lm_template *t = NULL;
    if (source.len && lm_template_open(&t, lm_buf_view(&source), &err) != LM_OK) t = NULL;
    f->tools = t && (lm_template_uses(t, "tools") || lm_template_uses(t, "custom_tools"));
    f->thinking = t ? template_thinks(t) : knows(vocabulary, "<think>");
    if (knows(vocabulary, "<|channel|>") && knows(vocabulary, "<|message|>")) f->thinking = true;
    f->inserts = can_insert(vocabulary);
    lm_template_close(t);
    lm_buf_release(&source);
    lm_map_close(&map);
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
}

void lm_facts_get(lm_facts_cache *c, const lm_entry *model, lm_facts *out) {
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
    read_config(model->dir, &f);
    read_text(model->dir, &f);

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

json_t *lm_facts_model_info(const lm_entry *model, const lm_facts *f, bool verbose) {
    json_t *out = json_object();
    put(out, "general", "architecture", json_string(f->family));
    put(out, "general", "basename", basename_of(model->name));
    if (f->n_params) put(out, "general", "parameter_count", json_integer((json_int_t)f->n_params));
    if (f->quantization[0]) put(out, "general", "quantization", json_string(f->quantization));
    json_t *config = load(model->dir, "config.json", MAX_CONFIG);
    put_numbers(out, f->family, config);
    /* the trained context after scaling, where it is known */
    if (f->n_ctx) put(out, f->family, "context_length", json_integer(f->n_ctx));
    if (verbose && config) json_object_set(out, "config", config);
    json_decref(config);
    return out;
}
