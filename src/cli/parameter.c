#include "cli/parameter.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"

typedef enum kind { WHOLE, REAL, TRUTH, WORDS } kind;

/* Source: Options and Runner in Ollama's api/types.go. */
static const struct {
    const char *name;
    kind kind;
} parameters[] = {
    {"num_ctx", WHOLE},       {"num_predict", WHOLE},     {"seed", WHOLE},
    {"temperature", REAL},    {"top_k", WHOLE},           {"top_p", REAL},
    {"min_p", REAL},          {"typical_p", REAL},        {"repeat_last_n", WHOLE},
    {"repeat_penalty", REAL}, {"presence_penalty", REAL}, {"frequency_penalty", REAL},
    {"stop", WORDS},          {"num_keep", WHOLE},        {"num_batch", WHOLE},
    {"num_gpu", WHOLE},       {"main_gpu", WHOLE},        {"num_thread", WHOLE},
    {"use_mmap", TRUTH},
};
#define N_PARAMETERS (sizeof parameters / sizeof *parameters)

/* Source: deprecatedParameters in its parser/parser.go. */
bool parameter_is_old(const char *name) {
    static const char *const old[] = {"penalize_newline", "low_vram",     "f16_kv",
                                      "logits_all",       "vocab_only",   "use_mlock",
                                      "mirostat",         "mirostat_tau", "mirostat_eta"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (!strcmp(name, old[i])) return true;
    return false;
}

/* Ollama keeps them as floats, and writes the shortest number that is the same one: 1 for 1.0. */
static json_t *of_float(float v) {
    if (v == floorf(v) && fabsf(v) < 1e15f) return json_integer((json_int_t)v);
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    return json_real(strtod(text, NULL));
}

static lm_status read_value(const char *name, kind k, const char *text, json_t **out, lm_err *err) {
    char *end;
    errno = 0;
    if (k == WHOLE) {
        long long v = strtoll(text, &end, 10);
        if (!text[0] || *end || errno)
            return lm_fail(err, LM_INVALID, "%s is a whole number, not \"%.60s\"", name, text);
        *out = json_integer(v);
    } else if (k == REAL) {
        float v = strtof(text, &end);
        if (!text[0] || *end || !isfinite(v))
            return lm_fail(err, LM_INVALID, "%s is a number, not \"%.60s\"", name, text);
        *out = of_float(v);
    } else {
        bool yes = !strcmp(text, "true") || !strcmp(text, "1"),
             no = !strcmp(text, "false") || !strcmp(text, "0");
        if (!yes && !no) return lm_fail(err, LM_INVALID, "%s is true or false, not \"%.60s\"", name, text);
        *out = json_boolean(yes);
    }
    return LM_OK;
}

lm_status parameter_read(const char *name, const char *const *words, uint32_t n, json_t **out, lm_err *err) {
    const char *names[N_PARAMETERS + 1] = {0};
    for (size_t i = 0; i < N_PARAMETERS; i++) {
        names[i] = parameters[i].name;
        if (strcmp(name, names[i])) continue;
        if (parameters[i].kind != WORDS) {
            if (n != 1) return lm_fail(err, LM_INVALID, "%s takes one value", name);
            return read_value(name, parameters[i].kind, words[0], out, err);
        }
        *out = json_array();
        for (uint32_t k = 0; k < n; k++) json_array_append_new(*out, json_string(words[k]));
        return LM_OK;
    }
    const char *near = cli_nearest(name, names);
    if (near) return lm_fail(err, LM_INVALID, "unknown parameter '%.60s': did you mean %s?", name, near);
    lm_buf all;
    lm_buf_init(&all, 1024);
    for (size_t i = 0; i < N_PARAMETERS; i++) lm_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    lm_status st = lm_fail(err, LM_INVALID, "unknown parameter '%.60s': one of %s", name, all.ptr);
    lm_buf_release(&all);
    return st;
}
