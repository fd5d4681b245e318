/* Members of a JSON object within ranges; see config.h. */
#include "model/config.h"

#include <math.h>

static const json_t *member(lm_reader *r, const char *key) {
    const json_t *v = r->st == LM_OK ? json_object_get(r->o, key) : NULL;
    return v && !json_is_null(v) ? v : NULL;
}

uint32_t lm_read_u32(lm_reader *r, const char *key, uint32_t low, uint32_t high, uint32_t absent) {
    const json_t *v = member(r, key);
    if (!v) {
        if (r->st == LM_OK && low && !absent) r->st = lm_fail(r->err, LM_CORRUPT, "%s is missing", key);
        return absent;
    }
    int64_t n = 0;
    r->st = lm_json_get_int(r->o, key, &n, r->err);
    if (r->st != LM_OK) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s must be a whole number", key);
    } else if (n < low || n > high) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s is %lld, it must lie between %u and %u", key, (long long)n,
                        low, high);
    }
    return r->st == LM_OK ? (uint32_t)n : absent;
}

double lm_read_number(lm_reader *r, const char *key, double low, double high, double absent) {
    const json_t *v = member(r, key);
    if (!v) {
        if (r->st == LM_OK && isnan(absent)) r->st = lm_fail(r->err, LM_CORRUPT, "%s is missing", key);
        return absent;
    }
    if (!json_is_number(v)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s must be a number", key);
        return absent;
    }
    double d = json_number_value(v);
    if (!(d >= low && d <= high)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s is %g, it must lie between %g and %g", key, d, low, high);
        return absent;
    }
    return d;
}

bool lm_read_bool(lm_reader *r, const char *key, bool absent) {
    const json_t *v = member(r, key);
    if (!v) return absent;
    if (!json_is_boolean(v)) r->st = lm_fail(r->err, LM_CORRUPT, "%s must be true or false", key);
    return json_is_true(v);
}

const json_t *lm_read_object(lm_reader *r, const char *key) {
    const json_t *v = member(r, key);
    if (v && !json_is_object(v)) {
        r->st = lm_fail(r->err, LM_CORRUPT, "%s must be an object", key);
        return NULL;
    }
    return v;
}
