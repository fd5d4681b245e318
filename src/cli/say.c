#include "cli/say.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/term.h"
#include "cli/text.h"

#define MAX_TEXT (32u << 20)

const char *json_text(const json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

bool say_as_json(const cli_args *a) {
    return cli_has(a, "json") && cli_flag(a, "json");
}

int say_json(json_t *o) {
    char *text =
        json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(10)); /* 0.1 and not 0.10000000000000001 */
    json_decref(o);
    LM_ASSERT(text);
    term_write(lm_str_of(text));
    term_write(LM_STR("\n"));
    free(text);
    return CLI_OK;
}

static char *formatted(const char *format, va_list args) {
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) text = NULL;
    LM_ASSERT(text);
    return text;
}

void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *raw = formatted(format, args);
    va_end(args);
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    text_clean(&b, lm_str_of(raw), false);
    free(raw);
    say_buf(&b);
}

void say_buf(lm_buf *b) {
    term_write(lm_buf_view(b));
    lm_buf_release(b);
}

int say_failed(const cli_args *a, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *raw = formatted(format, args), clean[2400];
    va_end(args);
    text_clean_line(raw, clean, sizeof clean);
    free(raw);
    fprintf(stderr, "%s" CLI_PROGRAM ":%s %s\n", term_style(stderr, RED), term_style(stderr, PLAIN), clean);
    if (a && say_as_json(a)) say_json(json_pack("{s:s}", "error", clean));
    return code;
}

/* The name without its tag when the tag is the usual one, or when none was written. */
static char *comparable(const char *name, bool without_tag) {
    lm_str s = lm_str_of(name);
    const char *colon = strrchr(name, ':');
    if (colon && !strchr(colon, '/') && (without_tag || !strcmp(colon, ":latest")))
        s.len = (size_t)(colon - name);
    return lm_str_dup(s);
}

bool say_meant(wire *w, const char *model, char out[200]) {
    json_t *tags = NULL;
    lm_err err = {0};
    int status = w->status;
    if (wire_json(w, "GET", "/api/tags", NULL, &tags, &err) != LM_OK) tags = NULL;
    w->status = status;
    const json_t *models = json_object_get(tags, "models");
    size_t n = json_array_size(models), i;
    char **names = lm_alloc((n + 1) * sizeof *names);
    for (i = 0; i < n; i++)
        names[i] = comparable(json_text(json_array_get(models, i), "name"), !strchr(model, ':'));
    const char *near = cli_nearest(model, (const char *const *)names);
    for (i = 0; near && names[i] != near;) i++;
    if (near) {
        char *whole = comparable(json_text(json_array_get(models, i), "name"), false);
        text_clean_line(whole, out, 200);
        free(whole);
    }
    for (i = 0; i < n; i++) free(names[i]);
    free(names);
    json_decref(tags);
    return near != NULL;
}

int say_refused(const cli_args *a, wire *w, lm_status st, const lm_err *err, const char *model) {
    int code = wire_exit(w, st);
    if (code > CLI_SIGNAL) return code; /* who pressed Ctrl-C knows */
    if (term_broken()) return code; /* who does not read needs no answer; term_finish tells of a full disk */
    char meant[200];
    if (code == CLI_NO_SERVER)
        return say_failed(a, code, "the server at %s has gone: %s. Look at its log and start it again",
                          w->url, err->text);
    if (code != CLI_NO_MODEL || !model) return say_failed(a, code, "%s", err->text);
    if (say_meant(w, model, meant)) return say_failed(a, code, "%s. Did you mean %s?", err->text, meant);
    return say_failed(a, code,
                      "%s. " CLI_PROGRAM " list shows what is there, " CLI_PROGRAM " pull %s fetches it",
                      err->text, model);
}
