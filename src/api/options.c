#include "api/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STOPS 1024

typedef enum kind { INT, UINT, INT64, FLOAT, BOOL, STRINGS, LOAD_INT } kind;

typedef struct option {
    const char *key;
    kind kind;
    size_t offset; /* in lm_options */
} option;

/* LOAD_INT and BOOL: Ollama's load-time switches that mean nothing here, still checked for their type. */
static const option known[] = {
    {"num_predict", INT, offsetof(lm_options, num_predict)},
    {"num_ctx", UINT, offsetof(lm_options, num_ctx)},
    {"num_keep", INT, offsetof(lm_options, num_keep)},
    {"seed", INT64, offsetof(lm_options, seed)},
    {"temperature", FLOAT, offsetof(lm_options, temperature)},
    {"top_k", INT, offsetof(lm_options, top_k)},
    {"top_p", FLOAT, offsetof(lm_options, top_p)},
    {"min_p", FLOAT, offsetof(lm_options, min_p)},
    {"typical_p", FLOAT, offsetof(lm_options, typical_p)},
    {"repeat_last_n", INT, offsetof(lm_options, repeat_last_n)},
    {"repeat_penalty", FLOAT, offsetof(lm_options, repeat_penalty)},
    {"presence_penalty", FLOAT, offsetof(lm_options, presence_penalty)},
    {"frequency_penalty", FLOAT, offsetof(lm_options, frequency_penalty)},
    {"stop", STRINGS, 0},
    {"num_batch", LOAD_INT, 0},
    {"num_gpu", LOAD_INT, 0},
    {"main_gpu", LOAD_INT, 0},
    {"num_thread", LOAD_INT, 0},
    {"draft_num_predict", LOAD_INT, 0},
    {"use_mmap", BOOL, 0},
};

static const char *type_name(kind k) {
    switch (k) {
    case FLOAT: return "float32";
    case BOOL: return "boolean";
    case STRINGS: return "array";
    default: return "integer";
    }
}

static int64_t clamp(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

/* As Go: a number with a fraction is cut. Out of range values stop at the end of the range. */
static int64_t whole(const json_t *v) {
    if (json_is_integer(v)) return json_integer_value(v);
    double d = json_real_value(v);
    if (d >= 9.2e18) return INT64_MAX;
    if (d <= -9.2e18) return INT64_MIN;
    return (int64_t)d;
}

static float bounded_float(const json_t *v) {
    double d = json_number_value(v);
    return d > 3e38 ? 3e38f : d < -3e38 ? -3e38f : (float)d;
}

static lm_status read_stops(const json_t *list, lm_request *r, lm_err *err) {
    size_t n = json_array_size(list);
    if (n > MAX_STOPS)
        return lm_fail(err, LM_INVALID, "option \"stop\" holds %zu strings, at most %d are allowed", n,
                       MAX_STOPS);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(list, i);
        if (!json_is_string(s))
            return lm_fail(err, LM_INTERNAL, "option \"stop\" must be of an array of strings");
        if (strlen(json_string_value(s)) != json_string_length(s))
            return lm_fail(err, LM_INVALID, "option \"stop\" must not hold a NUL character");
    }
    for (uint32_t i = 0; i < r->n_stops; i++) free(r->stops[i]); /* a later say replaces an earlier one */
    free(r->stops);
    r->n_stops = 0;
    char **stops = lm_alloc((n + 1) * sizeof *stops);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s[0]) stops[r->n_stops++] = lm_strdup(s); /* an empty one would stop before the first token */
    }
    r->stops = stops;
    return LM_OK;
}

static lm_status read_option(const option *o, const json_t *v, lm_request *r, lm_err *err) {
    bool fits = o->kind == BOOL      ? json_is_boolean(v)
                : o->kind == STRINGS ? json_is_array(v)
                                     : json_is_number(v);
    if (!fits)
        return lm_fail(err, LM_INTERNAL, "option \"%s\" must be of type %s", o->key, type_name(o->kind));
    void *at = (char *)&r->options + o->offset;
    switch (o->kind) {
    case INT: *(int32_t *)at = (int32_t)clamp(whole(v), INT32_MIN, INT32_MAX); break;
    case UINT: *(uint32_t *)at = (uint32_t)clamp(whole(v), 0, UINT32_MAX); break;
    case INT64: *(int64_t *)at = whole(v); break;
    case FLOAT: *(float *)at = bounded_float(v); break;
    case STRINGS: return read_stops(v, r, err);
    case LOAD_INT:
    case BOOL: break;
    }
    return LM_OK;
}

static bool is_known(const char *key) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].key, key)) return true;
    return false;
}

/* Clients of other versions name what there no longer is, or is not yet: one line tells who wonders. */
static void note_unknown(const json_t *options) {
    lm_buf names, line;
    const char *key;
    json_t *v;
    lm_buf_init(&names, 512);
    json_object_foreach((json_t *)(uintptr_t)options, key, v) {
        if (!is_known(key)) lm_buf_printf(&names, "%s%s", names.len ? " " : "", key);
    }
    if (names.len) {
        lm_buf_init(&line, 4096);
        lm_log_field(&line, "options", lm_buf_view(&names));
        lm_log(LM_LOG_WARN, "unknown options are ignored", "%s", line.ptr ? line.ptr : "");
        lm_buf_release(&line);
    }
    lm_buf_release(&names);
}

lm_status lm_options_read(const json_t *options, lm_request *r, lm_err *err) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const json_t *v = json_object_get(options, known[i].key);
        if (!v || json_is_null(v)) continue;
        lm_status st = read_option(&known[i], v, r, err);
        if (st != LM_OK) return st;
    }
    note_unknown(options);
    /* Ollama's floor; 0 means that nobody said anything. */
    if (r->options.num_ctx > 0 && r->options.num_ctx < 4) r->options.num_ctx = 4;
    return LM_OK;
}

static void suggest(double value, float *out) {
    if (!isnan(value)) *out = (float)value;
}

void lm_options_suggest(const lm_text_sampling *makers, lm_options *o) {
    suggest(makers->temperature, &o->temperature);
    suggest(makers->top_p, &o->top_p);
    suggest(makers->min_p, &o->min_p);
    suggest(makers->typical_p, &o->typical_p);
    suggest(makers->repetition_penalty, &o->repeat_penalty);
    if (!isnan(makers->top_k)) o->top_k = (int32_t)makers->top_k;
}

lm_status lm_keep_alive_read(const json_t *value, int64_t *ns, lm_err *err) {
    if (!value) return LM_OK;
    if (json_is_number(value)) {
        double seconds = json_number_value(value);
        *ns = seconds < 0 ? -1 : seconds >= 9.2e9 ? INT64_MAX : (int64_t)(seconds * 1e9);
        return LM_OK;
    }
    if (!json_is_string(value))
        return lm_fail(err, LM_INVALID,
                       "Unsupported type: keep_alive must be a number of seconds or a duration like \"5m\"");
    int64_t parsed = 0;
    lm_str text = {json_string_value(value), json_string_length(value)};
    lm_status st = lm_duration_parse(text, &parsed, err);
    if (st != LM_OK) return st;
    *ns = parsed < 0 ? -1 : parsed;
    return LM_OK;
}

lm_status lm_think_read(const json_t *value, lm_request *r, lm_err *err) {
    if (!value) return LM_OK;
    if (json_is_boolean(value)) {
        r->thinking = json_is_true(value);
        return LM_OK;
    }
    static const char *const levels[] = {"low", "medium", "high", "max"};
    const char *text = json_string_value(value);
    for (size_t i = 0; text && i < 4; i++) {
        if (strcmp(text, levels[i])) continue;
        r->thinking = 1;
        strcpy(r->think_level, i == 3 ? "high" : levels[i]); /* the highest that templates know */
        return LM_OK;
    }
    if (!text)
        return lm_fail(
            err, LM_INVALID,
            "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)");
    return lm_fail(
        err, LM_INVALID,
        "invalid think value: \"%.80s\" (must be \"high\", \"medium\", \"low\", \"max\", true, or false)",
        text);
}

lm_status lm_format_read(const json_t *value, lm_request *r, lm_err *err) {
    if (!value) return LM_OK;
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        if (!text[0]) return LM_OK;
        if (!strcmp(text, "json")) {
            r->constrained = true;
            return LM_OK;
        }
    } else if (json_is_object(value)) {
        r->schema = json_dumps(value, JSON_COMPACT);
        if (!r->schema)
            return lm_fail(err, LM_INVALID, "invalid format: the schema cannot be written as JSON");
        r->constrained = true;
        return LM_OK;
    }
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    lm_status st =
        lm_fail(err, LM_INVALID, "invalid format: %.100s; expected \"json\" or a valid JSON Schema object",
                text ? text : "null");
    free(text);
    return st;
}
