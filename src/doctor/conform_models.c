/* conform_models.c - which models of a server the cases ask: the smallest that fits each question. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor/conform.h"
#include "names/names.h"

#define MAX_ASKED 40 /* models whose capabilities are asked one by one */

typedef struct candidate {
    const char *name;
    json_int_t size;
    bool completes, embeds, tools, thinks, inserts;
} candidate;

static bool has(const json_t *capabilities, const char *word) {
    const json_t *one;
    size_t i;
    json_array_foreach(capabilities, i,
                       one) if (json_is_string(one) && !strcmp(json_string_value(one), word)) return true;
    return false;
}

/* Those of the list itself, or of /api/show. */
static bool read_candidate(const wire *w, const json_t *m, candidate *out) {
    doctor_result ignored;
    json_t *shown = NULL;
    const json_t *capabilities = json_object_get(m, "capabilities");
    const char *name = json_string_value(json_object_get(m, "name"));
    if (!name || strlen(name) > 400) return false;
    if (!json_array_size(capabilities)) {
        json_t *body = json_pack("{s:s}", "model", name);
        shown = wire_json(w, "POST", "/api/show", body, &ignored);
        capabilities = json_object_get(shown, "capabilities");
        json_decref(body);
    }
    bool completes =
        has(capabilities, "completion") || !json_array_size(capabilities); /* old servers say none */
    *out = (candidate){name,
                       json_integer_value(json_object_get(m, "size")),
                       completes,
                       has(capabilities, "embedding"),
                       has(capabilities, "tools"),
                       has(capabilities, "thinking"),
                       has(capabilities, "insert")};
    json_decref(shown);
    return true;
}

static bool is_asked(const char *name, const char *asked) {
    size_t n = strlen(asked);
    return !strncmp(name, asked, n) && (!name[n] || !strcmp(name + n, ":latest"));
}

static void set(json_t *values, const char *key, const candidate *c) {
    if (!c) return;
    lm_name parsed;
    char full[700], full_key[64];
    json_object_set_new(values, key, json_string(c->name));
    if (lm_name_parse(lm_str_of(c->name), &parsed, NULL) != LM_OK) return;
    lm_name_full(&parsed, full);
    snprintf(full_key, sizeof full_key, "%s_full", key);
    json_object_set_new(values, full_key, json_string(full));
}

static void set_spellings(json_t *values, const candidate *c) {
    if (!c) return;
    char *upper = lm_strdup(c->name);
    for (char *p = upper; *p; p++) *p = (char)toupper((unsigned char)*p);
    json_object_set_new(values, "upper", json_string(upper));
    if (!strchr(upper, '/')) json_object_set_new(values, "segment", json_string(c->name));
    free(upper);
}

/* What the cases call what they make of it, and delete again. */
static void set_names(json_t *values, const candidate *c) {
    if (!c) return;
    json_object_set_new(values, "throwaway", json_string("doctor-throwaway"));
    json_object_set_new(values, "made", json_string("doctor-made"));
}

static bool fits_model(const candidate *c) {
    return c->completes;
}
static bool fits_embedder(const candidate *c) {
    return c->embeds && !c->completes;
}
static bool fits_no_tools(const candidate *c) {
    return c->completes && !c->tools;
}
static bool fits_no_think(const candidate *c) {
    return c->completes && !c->thinks;
}
static bool fits_no_insert(const candidate *c) {
    return c->completes && !c->inserts;
}

/* The one that is asked anyway, if it fits, else the smallest. */
static const candidate *choose(const candidate *all, size_t n, const candidate *first,
                               bool (*fits)(const candidate *)) {
    const candidate *best = NULL;
    if (first && fits(first)) return first;
    for (size_t i = 0; i < n; i++)
        if (fits(&all[i]) && (!best || all[i].size < best->size)) best = &all[i];
    return best;
}

/* The blob that is written, unless it is there since an earlier time. */
static void set_blob(const wire *w, json_t *values) {
    static const char digest[] =
        "sha256:72f4be89d6ebab1496e21e38bcd7c8ca0a68928af3081ad7dff87e772eb350c2"; /* "doctor" */
    doctor_result ignored;
    lm_answer a;
    char path[128];
    snprintf(path, sizeof path, "/api/blobs/%s", digest);
    if (!wire_ask(w, "HEAD", path, NULL, &a, &ignored)) return;
    if (a.status == 404) json_object_set_new(values, "new_blob", json_string(digest));
    lm_answer_release(&a);
}

json_t *conform_values(const wire *w, const char *model) {
    doctor_result ignored;
    json_t *values = json_pack("{s:s}", "missing", "no-such-model-of-the-doctor");
    json_t *tags = wire_json(w, "GET", "/api/tags", NULL, &ignored);
    const json_t *list = json_object_get(tags, "models"), *m, *asked = NULL;
    candidate all[MAX_ASKED];
    const candidate *first = NULL;
    size_t i, n = 0;
    json_array_foreach(list, i, m) {
        const char *name = json_string_value(json_object_get(m, "name"));
        if (model[0] && name && is_asked(name, model)) asked = m;
    }
    if (asked && read_candidate(w, asked, &all[0])) n = 1;
    json_array_foreach(list, i, m) if (m != asked && n < MAX_ASKED) n += read_candidate(w, m, &all[n]);
    if (asked && n) first = &all[0];
    if (!model[0]) first = choose(all, n, NULL, fits_model);
    set(values, "model", first);
    set_spellings(values, first);
    set_names(values, first);
    set(values, "embedder", choose(all, n, first, fits_embedder));
    set(values, "no_tools", choose(all, n, first, fits_no_tools));
    set(values, "no_think", choose(all, n, first, fits_no_think));
    set(values, "no_insert", choose(all, n, first, fits_no_insert));
    json_decref(tags);
    set_blob(w, values);
    return values;
}
