/* Values of the metadata below the architecture's name, on their way into config.json. */
#include <stdio.h>
#include <stdlib.h>

#include "store/import_private.h"

static void full_key(const lm_meta *m, const char *key, char out[128]) {
    snprintf(out, 128, "%s.%s", m->f->arch, key);
}

/* 1e-05, not 9.999999747378752e-06. */
double lm_meta_decimal(double v) {
    char text[64];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v) break;
    }
    return strtod(text, NULL);
}

bool lm_meta_has(const lm_meta *m, const char *key) {
    char full[128];
    full_key(m, key, full);
    return lm_gguf_has(m->g, full);
}

uint32_t lm_meta_u32(lm_meta *m, const char *key, uint32_t absent) {
    char full[128];
    uint32_t v = absent;
    full_key(m, key, full);
    if (m->st == LM_OK) m->st = lm_gguf_u32(m->g, full, &v, m->err);
    return v;
}

double lm_meta_float(lm_meta *m, const char *key, double absent) {
    char full[128];
    double v = absent;
    full_key(m, key, full);
    if (m->st == LM_OK) m->st = lm_gguf_float(m->g, full, &v, m->err);
    return v == absent ? v : lm_meta_decimal(v);
}

bool lm_meta_bool(lm_meta *m, const char *key, bool absent) {
    char full[128];
    bool v = absent;
    full_key(m, key, full);
    if (m->st == LM_OK) m->st = lm_gguf_bool(m->g, full, &v, m->err);
    return v;
}

lm_str lm_meta_str(lm_meta *m, const char *key) {
    char full[128];
    lm_str v = {NULL, 0};
    full_key(m, key, full);
    if (m->st == LM_OK) m->st = lm_gguf_str(m->g, full, &v, m->err);
    return v;
}

void lm_meta_set(lm_meta *m, const char *name, json_t *value) {
    json_object_set_new(m->config, name, value);
}

uint32_t lm_meta_set_u32(lm_meta *m, const char *name, uint32_t value) {
    lm_meta_set(m, name, json_integer(value));
    return value;
}

uint32_t lm_meta_require(lm_meta *m, const char *name, const char *key, uint32_t most) {
    uint32_t v = lm_meta_u32(m, key, 0);
    if (m->st == LM_OK && (v == 0 || v > most)) {
        m->st = lm_fail(m->err, LM_CORRUPT, "metadata %s.%s is %s", m->f->arch, key,
                        v ? "impossibly large" : "missing or 0");
    }
    return lm_meta_set_u32(m, name, v);
}
