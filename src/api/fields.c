#include "api/fields.h"

#include <math.h>
#include <string.h>
#include <strings.h>

lm_fields lm_fields_of(const json_t *object, const char *type) {
    return (lm_fields){.object = object, .type = type};
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
    default: return "bool";
    }
}

void lm_field_wrong(lm_fields *f, const char *name, const json_t *value, const char *go_type) {
    if (f->st != LM_OK) return;
    if (name[0]) {
        f->st =
            lm_fail(&f->err, LM_INVALID, "json: cannot unmarshal %s into Go struct field %s.%s of type %s",
                    go_kind(value), f->type, name, go_type);
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

lm_status lm_fields_parse(lm_str body, const char *type, json_t **out, lm_err *err) {
    if (lm_str_trim(body).len == 0) return lm_fail(err, LM_INVALID, "missing request body");
    json_t *value = NULL;
    lm_status st = lm_json_parse(body, &value, err);
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
