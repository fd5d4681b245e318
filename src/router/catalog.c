/* catalog.c - listings read. */
#include "router/catalog.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static const struct {
    const char *word;
    uint32_t bit;
} abilities[] = {{"completion", NEED_COMPLETION}, {"embedding", NEED_EMBEDDING}, {"tools", NEED_TOOLS},
                 {"vision", NEED_VISION},         {"thinking", NEED_THINKING},   {"insert", NEED_INSERT},
                 {"format", NEED_FORMAT}};
#define N_ABILITIES (sizeof abilities / sizeof *abilities)

void catalog_words(uint32_t bits, char out[120]) {
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < N_ABILITIES; i++)
        if (bits & abilities[i].bit)
            len += (size_t)snprintf(out + len, 120 - len, "%s%s", len ? ", " : "", abilities[i].word);
}

void catalog_key(const lm_name *name, char out[CATALOG_KEY]) {
    lm_name_full(name, out);
    for (char *p = out; *p; p++) *p = (char)tolower((unsigned char)*p);
}

/* A listing is an object whose "models" is an array; Go writes an empty one as null. */
static lm_status read_list(lm_str body, const char *what, json_t **root, json_t **models, lm_err *err) {
    lm_status st = body.len > CATALOG_MAX_BODY
                       ? lm_fail(err, LM_TOO_LARGE, "larger than %u bytes", CATALOG_MAX_BODY)
                       : lm_json_parse(body, root, err);
    if (st == LM_OK) {
        *models = json_object_get(*root, "models");
        if (json_is_object(*root) && (json_is_array(*models) || json_is_null(*models))) return LM_OK;
        json_decref(*root);
        *root = NULL;
        st = lm_fail(err, LM_CORRUPT, "no \"models\"");
    }
    return lm_fail_in(err, LM_CORRUPT, "%s answered no list of models", what);
}

static const char *text(const json_t *item, const char *key) {
    const char *s = json_string_value(json_object_get(item, key));
    return s ? s : "";
}

static uint32_t number(const json_t *item, const char *key) {
    json_int_t n = json_integer_value(json_object_get(item, key));
    return n > 0 && n <= UINT32_MAX ? (uint32_t)n : 0;
}

static bool read_abilities(const json_t *list, uint32_t *bits) {
    size_t i;
    json_t *word;
    if (!json_is_array(list)) return false;
    *bits = 0;
    json_array_foreach(list, i, word) {
        const char *s = json_string_value(word);
        for (size_t k = 0; s && k < N_ABILITIES; k++)
            if (!strcmp(s, abilities[k].word) && abilities[k].bit != NEED_FORMAT) *bits |= abilities[k].bit;
    }
    return true;
}

static void read_digest(const char *s, char out[65]) {
    if (!strncmp(s, "sha256:", 7)) s += 7;
    out[0] = '\0';
    if (strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64) snprintf(out, 65, "%s", s);
}

/* The name of an item, in "name" or "model". */
static bool item_name(const json_t *item, const char **shown, lm_name *name) {
    *shown = text(item, "name")[0] ? text(item, "name") : text(item, "model");
    return lm_name_parse(lm_str_of(*shown), name, NULL) == LM_OK;
}

static bool read_model(json_t *item, catalog_model *out) {
    const char *shown;
    lm_name name;
    char key[CATALOG_KEY];
    if (!json_is_object(item) || !item_name(item, &shown, &name)) return false;
    catalog_key(&name, key);
    const json_t *details = json_object_get(item, "details");
    json_int_t size = json_integer_value(json_object_get(item, "size"));
    *out = (catalog_model){.key = lm_strdup(key),
                           .shown = lm_strdup(shown),
                           .size = size > 0 ? (uint64_t)size : 0,
                           .n_ctx = number(details, "context_length"),
                           .item = json_incref(item)};
    snprintf(out->format, sizeof out->format, "%.31s", text(details, "format"));
    read_digest(text(item, "digest"), out->digest);
    out->able_known = read_abilities(json_object_get(item, "capabilities"), &out->able);
    return true;
}

static void free_model(catalog_model *m) {
    free(m->key);
    free(m->shown);
    json_decref(m->item);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const catalog_model *)a)->key, ((const catalog_model *)b)->key);
}

/* A name that is listed twice is one model. */
static void drop_doubles(catalog *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        if (n && !strcmp(c->models[n - 1].key, c->models[i].key)) {
            free_model(&c->models[i]);
            c->n_passed_over++;
        } else {
            c->models[n++] = c->models[i];
        }
    }
    c->n = n;
}

lm_status catalog_read(catalog **out, lm_str tags, lm_err *err) {
    json_t *root = NULL, *models = NULL, *item;
    size_t i;
    lm_status st = read_list(tags, "/api/tags", &root, &models, err);
    if (st != LM_OK) return st;
    size_t n = json_array_size(models);
    catalog *c = lm_alloc(sizeof *c);
    if (n > CATALOG_MAX_MODELS) {
        c->n_passed_over = (uint32_t)(n - CATALOG_MAX_MODELS);
        n = CATALOG_MAX_MODELS;
    }
    c->models = lm_alloc((n + 1) * sizeof *c->models);
    json_array_foreach(models, i, item) {
        if (i == n) break;
        if (read_model(item, &c->models[c->n]))
            c->n++;
        else
            c->n_passed_over++;
    }
    qsort(c->models, c->n, sizeof *c->models, by_key);
    drop_doubles(c);
    json_decref(root);
    *out = c;
    return LM_OK;
}

static catalog_model *find(const catalog *c, const char *key) {
    catalog_model wanted = {.key = (char *)(uintptr_t)key}; /* only compared */
    return c && c->n ? bsearch(&wanted, c->models, c->n, sizeof *c->models, by_key) : NULL;
}

const catalog_model *catalog_find_key(const catalog *c, const char *key) {
    return find(c, key);
}

const catalog_model *catalog_find(const catalog *c, const lm_name *name) {
    char key[CATALOG_KEY];
    catalog_key(name, key);
    return find(c, key);
}

lm_status catalog_read_ps(catalog *c, lm_str ps, lm_err *err) {
    json_t *root = NULL, *models = NULL, *item;
    size_t i;
    lm_status st = read_list(ps, "/api/ps", &root, &models, err);
    if (st != LM_OK) return st;
    json_array_foreach(models, i, item) {
        const char *shown;
        lm_name name;
        char key[CATALOG_KEY];
        if (!json_is_object(item) || !item_name(item, &shown, &name)) continue;
        catalog_key(&name, key);
        catalog_model *m = find(c, key);
        if (!m) continue;
        m->loaded = true;
        m->n_ctx_loaded = number(item, "context_length");
        snprintf(m->expires, sizeof m->expires, "%.47s", text(item, "expires_at"));
    }
    json_decref(root);
    return LM_OK;
}

/* model_info has it as "ARCHITECTURE.context_length". */
static uint32_t context_length(const json_t *info) {
    char key[128];
    const char *family = text(info, "general.architecture");
    if (!family[0] || snprintf(key, sizeof key, "%s.context_length", family) >= (int)sizeof key) return 0;
    return number(info, key);
}

lm_status catalog_read_show(lm_str show, catalog_show *out, lm_err *err) {
    json_t *root = NULL;
    lm_status st = show.len > CATALOG_MAX_BODY
                       ? lm_fail(err, LM_TOO_LARGE, "larger than %u bytes", CATALOG_MAX_BODY)
                       : lm_json_parse(show, &root, err);
    if (st == LM_OK && !json_is_object(root)) st = lm_fail(err, LM_CORRUPT, "no object");
    if (st == LM_OK) {
        *out = (catalog_show){.n_ctx = context_length(json_object_get(root, "model_info"))};
        out->able_known = read_abilities(json_object_get(root, "capabilities"), &out->able);
    }
    json_decref(root);
    return st == LM_OK ? LM_OK : lm_fail_in(err, LM_CORRUPT, "/api/show answered no description");
}

void catalog_free(catalog *c) {
    if (!c) return;
    for (uint32_t i = 0; i < c->n; i++) free_model(&c->models[i]);
    free(c->models);
    free(c);
}
