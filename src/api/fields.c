#include "api/fields.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_REPAIRS (64u << 10) /* bytes that repairing a body may add */

lm_fields lm_fields_of(const json_t *object, const char *type) {
    return lm_fields_in(object, type, "");
}

lm_fields lm_fields_in(const json_t *object, const char *type, const char *path) {
    return (lm_fields){.object = object, .type = type, .path = path};
}

void lm_fields_fail(lm_fields *f, lm_status st, const char *format, ...) {
    if (f->st != LM_OK) return;
    char text[sizeof f->err.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    f->st = lm_fail(&f->err, st, "%s", text);
}

void lm_fields_adopt(lm_fields *f, const lm_fields *inner) {
    if (f->st != LM_OK || inner->st == LM_OK) return;
    f->st = inner->st;
    f->err = inner->err;
}

json_t *lm_field(const json_t *object, const char *name) {
    json_t *v = json_object_get(object, name);
    if (!v) {
        const char *key;
        json_t *other;
        json_object_foreach((json_t *)(uintptr_t)object, key, other) {
            if (!strcasecmp(key, name)) v = other;
        }
    }
    return v && !json_is_null(v) ? v : NULL;
}

static const char *go_kind(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "object";
    case JSON_ARRAY: return "array";
    case JSON_STRING: return "string";
    case JSON_INTEGER:
    case JSON_REAL: return "number";
    case JSON_NULL: return "null";
    default: return "bool";
    }
}

void lm_field_wrong(lm_fields *f, const char *name, const json_t *value, const char *go_type) {
    if (f->st != LM_OK) return;
    if (name[0]) {
        f->st =
            lm_fail(&f->err, LM_INVALID, "json: cannot unmarshal %s into Go struct field %s.%s%s of type %s",
                    go_kind(value), f->type, f->path, name, go_type);
    } else {
        f->st = lm_fail(&f->err, LM_INVALID, "json: cannot unmarshal %s into Go value of type %s",
                        go_kind(value), go_type);
    }
}

/* The field unless the reader has failed; a value that `is` does not accept is refused. */
static json_t *checked(lm_fields *f, const char *name, bool (*is)(const json_t *), const char *go_type) {
    json_t *v = f->st == LM_OK ? lm_field(f->object, name) : NULL;
    if (!v || is(v)) return v;
    lm_field_wrong(f, name, v, go_type);
    return NULL;
}

static bool is_bool(const json_t *v) {
    return json_is_boolean(v);
}

static bool is_string(const json_t *v) {
    return json_is_string(v);
}

static bool is_array(const json_t *v) {
    return json_is_array(v);
}

static bool is_object(const json_t *v) {
    return json_is_object(v);
}

/* Go takes 3.0 for an int neither; clients that compute numbers send it, so we do. */
static bool is_int(const json_t *v) {
    if (json_is_integer(v)) return true;
    double d = json_is_real(v) ? json_real_value(v) : NAN;
    return fabs(d) < 9.0e15 && d == floor(d);
}

void lm_field_bool(lm_fields *f, const char *name, bool *out) {
    const json_t *v = checked(f, name, is_bool, "bool");
    if (v) *out = json_is_true(v);
}

void lm_field_int(lm_fields *f, const char *name, int64_t *out) {
    const json_t *v = checked(f, name, is_int, "int");
    if (v) *out = json_is_integer(v) ? json_integer_value(v) : (int64_t)json_real_value(v);
}

static bool is_number(const json_t *v) {
    return json_is_number(v);
}

void lm_field_float(lm_fields *f, const char *name, double *out) {
    const json_t *v = checked(f, name, is_number, "float64");
    if (v) *out = json_number_value(v);
}

void lm_field_str(lm_fields *f, const char *name, const char **out, size_t *len) {
    const json_t *v = checked(f, name, is_string, "string");
    if (!v) return;
    if (!len && strlen(json_string_value(v)) != json_string_length(v)) {
        f->st = lm_fail(&f->err, LM_INVALID, "%s must not hold a NUL character", name);
        return;
    }
    *out = json_string_value(v);
    if (len) *len = json_string_length(v);
}

json_t *lm_field_array(lm_fields *f, const char *name, const char *go_type) {
    return checked(f, name, is_array, go_type);
}

json_t *lm_field_object(lm_fields *f, const char *name, const char *go_type) {
    return checked(f, name, is_object, go_type);
}

/* ---- broken characters */

/* "\\uD83D": the code unit of an escape at the beginning of s, -1 when there is none. */
static int32_t escaped_unit(lm_str s) {
    if (s.len < 6 || s.ptr[0] != '\\' || s.ptr[1] != 'u') return -1;
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        if (!isxdigit((unsigned char)s.ptr[i])) return -1;
        int digit = isdigit((unsigned char)s.ptr[i]) ? s.ptr[i] - '0' : (s.ptr[i] | 32) - 'a' + 10;
        unit = unit * 16 + digit;
    }
    return unit;
}

/* How many bytes of the escape at s belong together; *lone: half of a pair that has no other half. */
static size_t escape_length(lm_str s, bool *lone) {
    int32_t unit = escaped_unit(s);
    *lone = false;
    if (unit < 0) return s.len < 2 ? s.len : 2;
    if (unit < 0xd800 || unit > 0xdfff) return 6;
    int32_t next = escaped_unit((lm_str){s.ptr + 6, s.len - 6});
    if (unit <= 0xdbff && next >= 0xdc00 && next <= 0xdfff) return 12;
    *lone = true;
    return 6;
}

/* A number as it stands, but one of more digits than an integer takes becomes a real one: a client's random
 * 64 bits may be its seed. */
static size_t repair_number(lm_str s, lm_buf *out) {
    size_t digits = 0, n;
    while (digits < s.len && isdigit((unsigned char)s.ptr[digits])) digits++;
    for (n = digits; n < s.len && s.ptr[n] && strchr("0123456789.eE+-", s.ptr[n]);) n++;
    lm_buf_add(out, s.ptr, n);
    if (n == digits && digits > 18) lm_buf_text(out, ".0");
    return n;
}

/* Clients cut texts in the middle of a character. As Go: bytes that are no UTF-8 and half a surrogate pair
 * become U+FFFD. */
static void repair(lm_str s, lm_buf *out) {
    bool in_string = false, lone;
    for (size_t n; s.len; s.ptr += n, s.len -= n) {
        char c = s.ptr[0];
        if (c == '\\') {
            n = escape_length(s, &lone);
            if (lone)
                lm_buf_text(out, "\\ufffd");
            else
                lm_buf_add(out, s.ptr, n);
        } else if (isdigit((unsigned char)c) && !in_string) {
            n = repair_number(s, out);
        } else if ((unsigned char)c < 0x80) {
            if (c == '"') in_string = !in_string;
            lm_buf_char(out, c);
            n = 1;
        } else {
            n = (unsigned char)c >= 0xf0 ? 4 : (unsigned char)c >= 0xe0 ? 3 : 2;
            if (n <= s.len && lm_utf8_valid((lm_str){s.ptr, n}, NULL) == n) {
                lm_buf_add(out, s.ptr, n);
            } else {
                lm_buf_text(out, "\xef\xbf\xbd");
                n = 1;
            }
        }
    }
}

/* Most bodies are sound, so only one that was refused is looked at again. What is refused twice keeps its
 * first text: that one is about the bytes that were sent. */
static lm_status parse(lm_str body, json_t **out, lm_err *err) {
    lm_err first = {0}, second;
    lm_status st = lm_json_parse(body, out, &first);
    if (st == LM_OK) return LM_OK;
    lm_buf sound;
    lm_buf_init(&sound, body.len + MAX_REPAIRS);
    if (st == LM_INVALID) repair(body, &sound);
    if (sound.len && !sound.failed && lm_json_parse(lm_buf_view(&sound), out, &second) == LM_OK) st = LM_OK;
    lm_buf_release(&sound);
    return st == LM_OK ? st : lm_fail(err, st, "%s", first.text);
}

lm_status lm_fields_parse(lm_str body, const char *type, json_t **out, lm_err *err) {
    if (lm_str_trim(body).len == 0) return lm_fail(err, LM_INVALID, "missing request body");
    json_t *value = NULL;
    lm_status st = parse(body, &value, err);
    if (st != LM_OK) return lm_fail_in(err, st, "invalid JSON in the request body");
    if (!json_is_object(value)) {
        /* Go leaves the struct as it is for a bare null. */
        if (json_is_null(value)) {
            json_decref(value);
            *out = json_object();
            return *out ? LM_OK : lm_fail(err, LM_NO_MEMORY, "not enough memory");
        }
        st = lm_fail(err, LM_INVALID, "json: cannot unmarshal %s into Go value of type api.%s",
                     go_kind(value), type);
        json_decref(value);
        return st;
    }
    *out = value;
    return LM_OK;
}
