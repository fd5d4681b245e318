#include "doctor/shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "doctor/wire.h"

#define MAX_SHOWN 200 /* bytes of a value in a difference */
#define MAX_DEPTH 64  /* of shapes, which are ours */

typedef struct comparing {
    shape_differs *differs;
    void *ctx;
    uint32_t n;
} comparing;

static void compare(comparing *c, const json_t *shape, const json_t *value, const char *where);

static char *show(const json_t *value) {
    if (!value) return lm_strdup("nothing");
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text && strlen(text) > MAX_SHOWN) strcpy(text + MAX_SHOWN - 3, "...");
    return text ? text : lm_strdup("what cannot be shown");
}

static void differ(comparing *c, const char *where, const char *expected, const json_t *got) {
    char *text = show(got);
    c->differs(c->ctx, where, expected, text);
    c->n++;
    free(text);
}

/* ---- kinds */

typedef struct kind_words {
    const char *name, *words;
} kind_words;

static const kind_words kinds[] = {
    {"str", "a text"},
    {"text", "a text that is not empty"},
    {"int", "an integer from 0"},
    {"count", "an integer from 1"},
    {"ns", "an integer above 0, nanoseconds"},
    {"num", "a number"},
    {"bool", "true or false"},
    {"any", "any value"},
    {"object", "an object"},
    {"array", "an array"},
    {"time", "a time like 2026-01-31T09:08:07.5+01:00"},
    {"utc", "a time like 2026-01-31T09:08:07.5Z"},
    {"digest", "64 hex digits"},
    {"tagged", "a model's name with its tag"},
};

/* "<str?>" without brackets and '?'; empty: it stands for itself. */
static lm_str kind_in(const json_t *shape, bool *optional) {
    lm_str s = lm_str_of(json_string_value(shape));
    *optional = false;
    if (s.len < 3 || s.ptr[0] != '<' || s.ptr[s.len - 1] != '>') return LM_STR("");
    s = (lm_str){s.ptr + 1, s.len - 2};
    if (s.ptr[s.len - 1] == '?') {
        s.len--;
        *optional = true;
    }
    return s;
}

/* The words behind "of ", "begins " or "has "; empty: it is another kind. */
static lm_str behind(lm_str kind, lm_str word) {
    if (!lm_str_starts(kind, word)) return LM_STR("");
    return (lm_str){kind.ptr + word.len, kind.len - word.len};
}

static bool is_one_of(const char *text, lm_str words) {
    while (text && words.len) {
        const char *blank = memchr(words.ptr, ' ', words.len);
        size_t n = blank ? (size_t)(blank - words.ptr) : words.len, used = blank ? n + 1 : n;
        if (lm_str_eq(lm_str_of(text), (lm_str){words.ptr, n})) return true;
        words = (lm_str){words.ptr + used, words.len - used};
    }
    return false;
}

static bool has_words(const char *text, lm_str words) {
    for (lm_str rest = lm_str_of(text); rest.len >= words.len; rest = (lm_str){rest.ptr + 1, rest.len - 1})
        if (lm_str_starts(rest, words)) return true;
    return false;
}

static bool is_hex64(const char *text) {
    return text && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static bool has_tag(const char *text) {
    const char *slash = text ? strrchr(text, '/') : NULL;
    const char *colon = text ? strchr(slash ? slash : text, ':') : NULL;
    return colon && colon[1] && colon > text;
}

static bool is_of_kind(const json_t *v, lm_str kind) {
    const char *text = json_string_value(v);
    if (behind(kind, LM_STR("of ")).len) return is_one_of(text, behind(kind, LM_STR("of ")));
    if (behind(kind, LM_STR("begins ")).len)
        return text && lm_str_starts(lm_str_of(text), behind(kind, LM_STR("begins ")));
    if (behind(kind, LM_STR("has ")).len) return has_words(text, behind(kind, LM_STR("has ")));
    if (lm_str_eq(kind, LM_STR("any"))) return v != NULL;
    if (lm_str_eq(kind, LM_STR("str"))) return text != NULL;
    if (lm_str_eq(kind, LM_STR("text"))) return text && text[0];
    if (lm_str_eq(kind, LM_STR("int"))) return json_is_integer(v) && json_integer_value(v) >= 0;
    if (lm_str_eq(kind, LM_STR("count")) || lm_str_eq(kind, LM_STR("ns")))
        return json_is_integer(v) && json_integer_value(v) > 0;
    if (lm_str_eq(kind, LM_STR("num"))) return json_is_number(v);
    if (lm_str_eq(kind, LM_STR("bool"))) return json_is_boolean(v);
    if (lm_str_eq(kind, LM_STR("object"))) return json_is_object(v);
    if (lm_str_eq(kind, LM_STR("array"))) return json_is_array(v);
    if (lm_str_eq(kind, LM_STR("time"))) return wire_is_time(v);
    if (lm_str_eq(kind, LM_STR("utc"))) return wire_is_time(v) && lm_str_ends(lm_str_of(text), LM_STR("Z"));
    if (lm_str_eq(kind, LM_STR("digest"))) return is_hex64(text);
    return has_tag(text); /* "tagged": shape_is_valid knows no others */
}

static void words_of(lm_str kind, char out[256]) {
    lm_str of = behind(kind, LM_STR("of ")), begins = behind(kind, LM_STR("begins ")),
           has = behind(kind, LM_STR("has "));
    if (has.len)
        snprintf(out, 256, "a text with " LM_STR_FMT, LM_STR_ARG(has));
    else if (of.len)
        snprintf(out, 256, "one of: " LM_STR_FMT, LM_STR_ARG(of));
    else if (begins.len)
        snprintf(out, 256, "a text that begins with " LM_STR_FMT, LM_STR_ARG(begins));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (lm_str_eq(kind, lm_str_of(kinds[i].name))) snprintf(out, 256, "%s", kinds[i].words);
}

static bool may_be_absent(const json_t *shape) {
    bool optional = false;
    return kind_in(shape, &optional).len && optional;
}

/* ---- objects and arrays */

#define ANY_ORDER "<any order>" /* a key of a shape, no value's */

static bool says_how(const char *key) {
    return !strcmp(key, "...") || !strcmp(key, ANY_ORDER);
}

/* Where a key stands among an object's keys; -1: nowhere. */
static int place_of(const json_t *object, const char *key) {
    int at = 0;
    for (void *i = json_object_iter(WIRE_MUTABLE(object)); i;
         i = json_object_iter_next(WIRE_MUTABLE(object), i), at++)
        if (!strcmp(json_object_iter_key(i), key)) return at;
    return -1;
}

static void compare_order(comparing *c, const json_t *shape, const json_t *value, const char *where) {
    const char *key, *before = NULL;
    json_t *one;
    int last = -1;
    json_object_foreach(WIRE_MUTABLE(shape), key, one) {
        int at = place_of(value, key);
        if (at < 0) continue;
        if (at < last) {
            char expected[256], got[256];
            snprintf(expected, sizeof expected, "%.100s behind %.100s", key, before);
            snprintf(got, sizeof got, "it stands before");
            c->differs(c->ctx, where, expected, got);
            c->n++;
            return;
        }
        last = at;
        before = key;
    }
}

static void compare_object(comparing *c, const json_t *shape, const json_t *value, const char *where) {
    const char *key;
    json_t *one;
    char below[512];
    if (!json_is_object(value)) {
        differ(c, where, "an object", value);
        return;
    }
    json_object_foreach(WIRE_MUTABLE(shape), key, one) {
        const json_t *v = json_object_get(value, key);
        if (says_how(key) || (!v && may_be_absent(one))) continue;
        snprintf(below, sizeof below, "%.300s.%.150s", where, key);
        compare(c, one, v, below);
    }
    if (json_object_get(shape, "...")) return;
    json_object_foreach(WIRE_MUTABLE(value), key, one) {
        if (json_object_get(shape, key)) continue;
        snprintf(below, sizeof below, "%.300s.%.150s", where, key);
        differ(c, below, "no such field", one);
    }
    if (!json_object_get(shape, ANY_ORDER)) compare_order(c, shape, value, where);
}

static bool is_more(const json_t *shape) {
    return json_is_string(shape) && !strcmp(json_string_value(shape), "...");
}

static void compare_array(comparing *c, const json_t *shape, const json_t *value, const char *where) {
    size_t n = json_array_size(shape), there = json_array_size(value);
    bool more = n == 2 && is_more(json_array_get(shape, 1));
    char words[64], below[512];
    snprintf(words, sizeof words, "an array of %zu values", n);
    if (!json_is_array(value) || (n == 1 && !there) || (n != 1 && !more && n != there)) {
        differ(c, where,
               more     ? "an array"
               : n == 1 ? "an array that is not empty"
               : n      ? words
                        : "an empty array",
               value);
        return;
    }
    uint32_t before = c->n;
    for (size_t i = 0; i < there && c->n == before; i++) {
        snprintf(below, sizeof below, "%.300s[%zu]", where, i);
        compare(c, json_array_get(shape, n == 1 || more ? 0 : i), json_array_get(value, i), below);
    }
}

/* {"<json>": SHAPE}: the shape within; NULL: it is another object. */
static const json_t *text_of_json(const json_t *shape) {
    return json_object_size(shape) == 1 ? json_object_get(shape, "<json>") : NULL;
}

static void compare_inner(comparing *c, const json_t *inner, const json_t *value, const char *where) {
    json_t *o = NULL;
    char below[512];
    if (!json_is_string(value) || lm_json_parse(lm_str_of(json_string_value(value)), &o, NULL) != LM_OK) {
        differ(c, where, "a text that is JSON", value);
        return;
    }
    snprintf(below, sizeof below, "%.400s (as JSON)", where);
    compare(c, inner, o, below);
    json_decref(o);
}

static void compare(comparing *c, const json_t *shape, const json_t *value, const char *where) {
    bool optional;
    lm_str kind = kind_in(shape, &optional);
    if (kind.len) {
        char words[256];
        words_of(kind, words);
        if (!is_of_kind(value, kind)) differ(c, where, words, value);
    } else if (text_of_json(shape)) {
        compare_inner(c, text_of_json(shape), value, where);
    } else if (json_is_object(shape)) {
        compare_object(c, shape, value, where);
    } else if (json_is_array(shape)) {
        compare_array(c, shape, value, where);
    } else if (!value || !json_equal(shape, value)) {
        char *text = show(shape);
        differ(c, where, text, value);
        free(text);
    }
}

uint32_t shape_compare(const json_t *shape, const json_t *value, const char *where, shape_differs *differs,
                       void *ctx) {
    comparing c = {differs, ctx, 0};
    compare(&c, shape, value, where);
    return c.n;
}

/* ---- the shapes themselves */

static bool knows_kind(lm_str kind) {
    if (behind(kind, LM_STR("of ")).len || behind(kind, LM_STR("begins ")).len ||
        behind(kind, LM_STR("has ")).len)
        return true;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (lm_str_eq(kind, lm_str_of(kinds[i].name))) return true;
    return false;
}

static bool is_valid(const json_t *shape, char out[200], int depth) {
    const json_t *one;
    const char *key;
    size_t i;
    bool optional;
    lm_str kind = kind_in(shape, &optional);
    if (depth > MAX_DEPTH || (kind.len && !knows_kind(kind))) {
        snprintf(out, 200, depth > MAX_DEPTH ? "too deep" : "no such kind: %.100s", json_string_value(shape));
        return false;
    }
    json_object_foreach(WIRE_MUTABLE(shape), key, one) if (!is_valid(one, out, depth + 1)) return false;
    json_array_foreach(shape, i, one) if (!is_valid(one, out, depth + 1)) return false;
    return true;
}

bool shape_is_valid(const json_t *shape, char out[200]) {
    return is_valid(shape, out, 0);
}

/* ---- names */

static const char name_letters[] = "abcdefghijklmnopqrstuvwxyz_";

static const json_t *value_of(const json_t *values, const char *name, size_t n, char out[64]) {
    snprintf(out, 64, "%.*s", (int)n, name);
    return n && n < 64 ? json_object_get(values, out) : NULL;
}

static json_t *fill_text(const char *text, const json_t *values, char out[64]) {
    if (text[0] == '$' && text[1] && strspn(text + 1, name_letters) == strlen(text + 1)) {
        const json_t *v = value_of(values, text + 1, strlen(text + 1), out);
        return json_deep_copy(v); /* of NULL: NULL */
    }
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    lm_buf_text(&b, "");
    while (*text) {
        size_t n = *text == '$' ? strspn(text + 1, name_letters) : 0;
        const json_t *v = n ? value_of(values, text + 1, n, out) : NULL;
        if (n && !json_is_string(v)) {
            lm_buf_release(&b);
            return NULL;
        }
        if (n)
            lm_buf_text(&b, json_string_value(v));
        else
            lm_buf_char(&b, *text);
        text += n + 1;
    }
    json_t *filled = json_string(b.ptr);
    lm_buf_release(&b);
    return filled;
}

json_t *shape_fill(const json_t *template, const json_t *values, char out[64]) {
    if (json_is_string(template)) return fill_text(json_string_value(template), values, out);
    if (!json_is_object(template) && !json_is_array(template)) return json_deep_copy(template);
    json_t *copy = json_is_object(template) ? json_object() : json_array();
    const json_t *one;
    const char *key;
    size_t i;
    bool ok = true;
    json_object_foreach(WIRE_MUTABLE(template), key, one) {
        json_t *filled = ok ? shape_fill(one, values, out) : NULL;
        ok = ok && filled && !json_object_set_new(copy, key, filled);
    }
    json_array_foreach(template, i, one) {
        json_t *filled = ok ? shape_fill(one, values, out) : NULL;
        ok = ok && filled && !json_array_append_new(copy, filled);
    }
    if (ok) return copy;
    json_decref(copy);
    return NULL;
}
