/* lists.c - lists of models from several backends as one. */
#include "router/lists.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names/names.h"

#define MAX_MODELS 8192

const list_kind list_kinds[LIST_KINDS] = {
    {"/api/tags", "models", "name", "modified_at"},
    {"/api/ps", "models", "name", "expires_at"},
    {"/v1/models", "data", "id", "created"},
};

/* ---- times */

/* Digits at *at, which moves on; -1: none. */
static int64_t number(const char **at, int digits) {
    int64_t n = 0;
    for (int i = 0; i < digits; i++, (*at)++) {
        if (**at < '0' || **at > '9') return -1;
        n = n * 10 + (**at - '0');
    }
    return n;
}

/* Days since 1970 of a date of the Gregorian calendar, which has as many days each 400 years. */
static int64_t days_of(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, year = y - era * 400;
    int64_t day = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + year * 365 + year / 4 - year / 100 + day - 719468;
}

int64_t lists_time(const char *text) {
    const char *p = text;
    int64_t y = number(&p, 4), mo, d, h, mi, s;
    if (y < 0 || *p++ != '-' || (mo = number(&p, 2)) < 1 || mo > 12 || *p++ != '-' ||
        (d = number(&p, 2)) < 1 || d > 31)
        return INT64_MIN;
    if ((*p != 'T' && *p != 't' && *p != ' ') || !*p++ || (h = number(&p, 2)) < 0 || *p++ != ':' ||
        (mi = number(&p, 2)) < 0 || *p++ != ':' || (s = number(&p, 2)) < 0)
        return INT64_MIN;
    int64_t micros = 0, unit = 100000;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10) micros += (*p - '0') * unit;
    int64_t offset = 0;
    if (*p == '+' || *p == '-') {
        int64_t sign = *p++ == '-' ? -1 : 1, oh = number(&p, 2), om = -1;
        if (oh < 0 || *p++ != ':' || (om = number(&p, 2)) < 0) return INT64_MIN;
        offset = sign * (oh * 60 + om) * 60;
    }
    return ((days_of(y, mo, d) * 86400 + h * 3600 + mi * 60 + s) - offset) * 1000000 + micros;
}

static int64_t when_of(const json_t *item, const list_kind *kind) {
    const json_t *v = json_object_get(item, kind->when);
    if (json_is_integer(v)) return json_integer_value(v) < INT32_MIN ? INT64_MIN : json_integer_value(v);
    return json_is_string(v) ? lists_time(json_string_value(v)) : INT64_MIN;
}

/* ---- one list of many */

typedef struct entry {
    json_t *item; /* borrowed */
    char *key;    /* of its name: full, small letters */
    int64_t when;
    uint32_t backend, place; /* place: among all, so that equals keep their order */
} entry;

char *lists_key(const char *name) {
    lm_name n;
    char full[700];
    if (lm_name_parse(lm_str_of(name), &n, NULL) == LM_OK)
        lm_name_full(&n, full);
    else
        snprintf(full, sizeof full, "%s", name);
    for (char *p = full; *p; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p - 'A' + 'a');
    return lm_strdup(full);
}

static int by_key(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : x->place < y->place ? -1 : 1;
}

static int by_when(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->when != y->when) return x->when > y->when ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

/* Of those with one name, the one whose backend comes first when it is asked for. */
static const entry *preferred(const entry *e, uint32_t n, const char *name, lists_choose *chooses,
                              void *ctx) {
    if (n == 1) return e;
    uint32_t order[LM_ROUTER_MAX_BACKENDS];
    uint32_t n_order = chooses(ctx, json_string_value(json_object_get(e->item, name)), order);
    for (uint32_t o = 0; o < n_order; o++)
        for (uint32_t i = 0; i < n; i++)
            if (e[i].backend == order[o]) return &e[i];
    return e;
}

json_t *lists_merge(json_t *const *lists, uint32_t n_lists, size_t kind, lists_choose *chooses, void *ctx) {
    const list_kind *k = &list_kinds[kind];
    entry *all = lm_alloc(MAX_MODELS * sizeof *all);
    uint32_t n = 0, kept = 0;
    for (uint32_t b = 0; b < n_lists; b++) {
        size_t i;
        json_t *item;
        json_array_foreach(lists[b], i, item) {
            const char *name = json_string_value(json_object_get(item, k->name));
            if (!name || n == MAX_MODELS) continue;
            all[n] = (entry){
                .item = item, .key = lists_key(name), .when = when_of(item, k), .backend = b, .place = n};
            n++;
        }
    }
    qsort(all, n, sizeof *all, by_key);
    entry *out = lm_alloc((n ? n : 1) * sizeof *out);
    for (uint32_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && !strcmp(all[i].key, all[end].key);) end++;
        out[kept++] = *preferred(&all[i], end - i, k->name, chooses, ctx);
    }
    qsort(out, kept, sizeof *out, by_when);
    json_t *list = json_array();
    for (uint32_t i = 0; i < kept; i++) json_array_append(list, out[i].item);
    for (uint32_t i = 0; i < n; i++) free(all[i].key);
    free(all);
    free(out);
    return list;
}
