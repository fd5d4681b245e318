#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* jansson recurses once a level up to 2048; a request that nests that deep wants the stack, not an answer. */
static bool too_deep(lm_str text) {
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > LM_JSON_DEPTH) return true;
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        }
    }
    return false;
}

lm_status lm_json_parse(lm_str text, json_t **out, lm_err *err) {
    json_error_t e;
    if (too_deep(text))
        return lm_fail(err, LM_INVALID, "JSON is nested deeper than %d levels", LM_JSON_DEPTH);
    json_t *value = json_loadb(text.ptr ? text.ptr : "", text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (!value) {
        lm_status st = json_error_code(&e) == json_error_out_of_memory ? LM_NO_MEMORY : LM_INVALID;
        return lm_fail(err, st, "line %d column %d: %s", e.line, e.column, e.text);
    }
    *out = value;
    return LM_OK;
}

lm_status lm_json_load(const char *path, size_t max_bytes, json_t **out, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, max_bytes);
    lm_status st = lm_file_read(path, max_bytes, &text, err);
    if (st == LM_OK) {
        st = lm_json_parse(lm_buf_view(&text), out, err);
        if (st == LM_INVALID) st = lm_fail_in(err, LM_CORRUPT, "%s", path);
    }
    lm_buf_release(&text);
    return st;
}

/* The member, or NULL when absent or null. */
static const json_t *member(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v) ? v : NULL;
}

lm_status lm_json_get_bool(const json_t *object, const char *key, bool *out, lm_err *err) {
    const json_t *v = member(object, key);
    if (!v) return LM_OK;
    if (!json_is_boolean(v)) return lm_fail(err, LM_INVALID, "%s must be true or false", key);
    *out = json_is_true(v);
    return LM_OK;
}

lm_status lm_json_get_int(const json_t *object, const char *key, int64_t *out, lm_err *err) {
    const json_t *v = member(object, key);
    if (!v) return LM_OK;
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return LM_OK;
    }
    double d = json_is_real(v) ? json_real_value(v) : NAN;
    if (!(fabs(d) < 9.0e15) || d != floor(d)) return lm_fail(err, LM_INVALID, "%s must be an integer", key);
    *out = (int64_t)d;
    return LM_OK;
}

lm_status lm_json_get_u32(const json_t *object, const char *key, uint32_t *out, lm_err *err) {
    int64_t v = *out;
    lm_status st = lm_json_get_int(object, key, &v, err);
    if (st != LM_OK) return st;
    if (v < 0 || v > UINT32_MAX)
        return lm_fail(err, LM_INVALID, "%s must be between 0 and %u", key, UINT32_MAX);
    *out = (uint32_t)v;
    return LM_OK;
}

lm_status lm_json_get_float(const json_t *object, const char *key, float *out, lm_err *err) {
    const json_t *v = member(object, key);
    if (!v) return LM_OK;
    float f = json_is_number(v) ? (float)json_number_value(v) : NAN;
    if (!isfinite(f)) return lm_fail(err, LM_INVALID, "%s must be a finite number", key);
    *out = f;
    return LM_OK;
}

lm_status lm_json_get_str(const json_t *object, const char *key, const char **out, lm_err *err) {
    const json_t *v = member(object, key);
    if (!v) return LM_OK;
    if (!json_is_string(v)) return lm_fail(err, LM_INVALID, "%s must be a string", key);
    if (strlen(json_string_value(v)) != json_string_length(v))
        return lm_fail(err, LM_INVALID, "%s must not hold a NUL character", key);
    *out = json_string_value(v);
    return LM_OK;
}

/* ---- writing */

static void write_escaped(lm_buf *b, unsigned char c) {
    switch (c) {
    case '"': lm_buf_text(b, "\\\""); break;
    case '\\': lm_buf_text(b, "\\\\"); break;
    case '\n': lm_buf_text(b, "\\n"); break;
    case '\r': lm_buf_text(b, "\\r"); break;
    case '\t': lm_buf_text(b, "\\t"); break;
    default: lm_buf_printf(b, "\\u%04x", c);
    }
}

/* Valid UTF-8 without the bytes that JSON escapes goes over in runs. */
static void write_valid(lm_buf *b, lm_str s) {
    size_t from = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c >= ' ' && c != '"' && c != '\\') continue;
        lm_buf_add(b, s.ptr + from, i - from);
        write_escaped(b, c);
        from = i + 1;
    }
    lm_buf_add(b, s.ptr + from, s.len - from);
}

void lm_json_write_string(lm_buf *b, lm_str s) {
    lm_buf_char(b, '"');
    while (s.len) {
        size_t n = lm_utf8_valid(s, NULL);
        write_valid(b, (lm_str){s.ptr, n});
        if (n < s.len) {
            lm_buf_text(b, "\xef\xbf\xbd");
            n++;
        }
        s.ptr += n;
        s.len -= n;
    }
    lm_buf_char(b, '"');
}

void lm_json_write_double(lm_buf *b, double v) {
    char text[40];
    if (!isfinite(v)) {
        lm_buf_text(b, "null");
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    /* A locale that the host program set may write a comma. */
    for (char *p = text; *p; p++)
        if (*p == ',') *p = '.';
    lm_buf_text(b, text);
}

/* v > 0 as 0.ddd or as d.ddde-05, n digits of m, the first one worth 10^e; zeros at the end are left out. */
static int write_digits(char *out, uint64_t m, int n, int e) {
    char digits[24];
    int at = 0, k = snprintf(digits, sizeof digits, "%llu", (unsigned long long)m);
    while (k > 1 && digits[k - 1] == '0') k--;
    LM_ASSERT(n <= 9);
    bool small = e < -5 || e > 8;
    int point = small ? 1 : e + 1; /* digits before the point, not above 0: zeros after it */
    if (point <= 0) {
        out[at++] = '0';
        out[at++] = '.';
        for (int i = point; i < 0; i++) out[at++] = '0';
    }
    for (int i = 0; i < k || i < point; i++) {
        if (i && i == point) out[at++] = '.';
        out[at++] = i < k ? digits[i] : '0';
    }
    if (small) at += snprintf(out + at, 8, "e%+03d", e);
    return at;
}

void lm_json_write_float(lm_buf *b, float v) {
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10,
                                  1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21};
    double x = fabs((double)v);
    char text[40];
    if (!(x >= 1e-11 && x < 1e9)) { /* 0, the rare, and what is no number: cut to what tells floats apart */
        snprintf(text, sizeof text, "%.8e", (double)v);
        lm_json_write_double(b, strtod(text, NULL));
        return;
    }
    int e = 8, n = 7, sign = v < 0;
    while (e >= 0 ? x < tens[e] : x * tens[-e] < 1) e--;
    uint64_t m = 0;
    for (; n <= 9; n++) {
        /* Powers of ten up to 22 are exact: what a reader makes of the digits is this quotient. */
        int shift = n - 1 - e;
        m = (uint64_t)llround(shift >= 0 ? x * tens[shift] : x / tens[-shift]);
        double back = shift >= 0 ? (double)m / tens[shift] : (double)m * tens[-shift];
        if ((float)back == (float)x) break;
    }
    if (n > 9) n = 9;
    double first = (double)m;
    if (first >= tens[n]) { /* rounded up to the next power of ten */
        m /= 10;
        e++;
    }
    if (sign) text[0] = '-';
    int len = sign + write_digits(text + sign, m, n, e);
    lm_buf_add(b, text, (size_t)len);
}

static void write_value(lm_buf *b, const json_t *value, void (*real)(lm_buf *b, double v)) {
    const char *key;
    json_t *v;
    size_t i;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        lm_buf_char(b, '{');
        bool first = true;
        json_object_foreach((json_t *)(uintptr_t)value, key, v) {
            if (!first) lm_buf_char(b, ',');
            first = false;
            lm_json_write_string(b, lm_str_of(key));
            lm_buf_char(b, ':');
            write_value(b, v, real);
        }
        lm_buf_char(b, '}');
        break;
    case JSON_ARRAY:
        lm_buf_char(b, '[');
        json_array_foreach(value, i, v) {
            if (i) lm_buf_char(b, ',');
            write_value(b, v, real);
        }
        lm_buf_char(b, ']');
        break;
    case JSON_STRING:
        lm_json_write_string(b, (lm_str){json_string_value(value), json_string_length(value)});
        break;
    case JSON_INTEGER: lm_buf_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: real(b, json_real_value(value)); break;
    case JSON_TRUE: lm_buf_text(b, "true"); break;
    case JSON_FALSE: lm_buf_text(b, "false"); break;
    case JSON_NULL: lm_buf_text(b, "null"); break;
    }
}

void lm_json_write_value(lm_buf *b, const json_t *value) {
    write_value(b, value, lm_json_write_double);
}

static void write_real(lm_buf *b, double v) {
    size_t from = b->len;
    lm_json_write_double(b, v);
    if (isfinite(v) && !b->failed && !strpbrk(b->ptr + from, ".e")) lm_buf_text(b, ".0");
}

void lm_json_write_same(lm_buf *b, const json_t *value) {
    write_value(b, value, write_real);
}
