#include "cli/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/parameter.h"
#include "cli/say.h"

void session_open(session *s, const char *model) {
    *s = (session){.model = lm_strdup(model),
                   .parent = lm_strdup(""),
                   .messages = json_array(),
                   .options = json_object()};
}

void session_close(session *s) {
    free(s->model);
    free(s->parent);
    free(s->system);
    json_decref(s->messages);
    json_decref(s->options);
    json_decref(s->format);
    json_decref(s->think);
    json_decref(s->keep_alive);
    *s = (session){0};
}

void session_learn(session *s, const json_t *shown) {
    s->sees = s->embeds = s->thinks = false;
    size_t i;
    json_t *word;
    json_array_foreach(json_object_get(shown, "capabilities"), i, word) {
        const char *c = json_string_value(word);
        if (!c) continue;
        s->sees |= !strcmp(c, "vision");
        s->embeds |= !strcmp(c, "embedding");
        s->thinks |= !strcmp(c, "thinking");
    }
    free(s->parent);
    s->parent = lm_strdup(json_text(json_object_get(shown, "details"), "parent_model"));
    if (s->think_said) return;
    json_decref(s->think);
    s->think = s->thinks ? json_true() : NULL;
}

void session_change_model(session *s, const char *model) {
    free(s->model);
    s->model = lm_strdup(model);
    json_array_clear(s->messages);
}

void session_clear(session *s) {
    json_array_clear(s->messages);
    if (s->system) session_say(s, "system", s->system, NULL);
}

void session_set_system(session *s, const char *text) {
    free(s->system);
    s->system = lm_strdup(text);
    size_t n = json_array_size(s->messages);
    /* One that was set a moment ago, and has had no say yet, is replaced. */
    if (n && !strcmp(json_text(json_array_get(s->messages, n - 1), "role"), "system"))
        json_array_remove(s->messages, n - 1);
    session_say(s, "system", text, NULL);
}

void session_say(session *s, const char *role, const char *text, json_t *images) {
    json_t *m = json_pack("{s:s, s:s}", "role", role, "content", text);
    LM_ASSERT(m);
    if (images) json_object_set_new(m, "images", images);
    json_array_append_new(s->messages, m);
}

/* ---- settings */

lm_status session_set_think(session *s, const char *word, lm_err *err) {
    static const char *const levels[] = {"low", "medium", "high", "max"};
    json_t *v = NULL;
    if (!word[0] || !strcmp(word, "true")) v = json_true();
    if (!strcmp(word, "false")) v = json_false();
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (!strcmp(word, levels[i])) v = json_string(word);
    if (!v)
        return lm_fail(err, LM_INVALID, "think is true, false, low, medium, high or max, not \"%.60s\"",
                       word);
    json_decref(s->think);
    s->think = v;
    s->think_said = true;
    return LM_OK;
}

lm_status session_set_format(session *s, const char *text, lm_err *err) {
    json_t *v = NULL;
    lm_str trimmed = lm_str_trim(lm_str_of(text));
    if (lm_str_eq(trimmed, LM_STR("json"))) {
        v = json_string("json");
    } else if (trimmed.len) {
        lm_err why = {0};
        if (lm_json_parse(trimmed, &v, &why) != LM_OK || !json_is_object(v)) {
            json_decref(v);
            return lm_fail(err, LM_INVALID, "a format is json, or a JSON schema in braces%s%s",
                           why.text[0] ? ": " : "", why.text);
        }
    }
    json_decref(s->format);
    s->format = v;
    return LM_OK;
}

lm_status session_set_keep_alive(session *s, const char *text, lm_err *err) {
    int64_t ns;
    json_t *v = NULL;
    char *end;
    errno = 0;
    long seconds = strtol(text, &end, 10);
    if (text[0] && !*end && !errno) {
        v = json_integer(seconds);
    } else {
        lm_status st = lm_duration_parse(lm_str_of(text), &ns, err);
        if (st != LM_OK) return lm_fail_in(err, st, "how long a model stays is like 5m, 1h30m, 0 or -1");
        v = json_string(text);
    }
    json_decref(s->keep_alive);
    s->keep_alive = v;
    return LM_OK;
}

lm_status session_set_option(session *s, const char *name, const char *const *values, uint32_t n,
                             lm_err *err) {
    json_t *v = NULL;
    lm_status st = parameter_read(name, values, n, &v, err);
    if (st == LM_OK) json_object_set_new(s->options, name, v);
    return st;
}

/* ---- requests */

static void put(json_t *o, const char *key, json_t *v) {
    if (v) json_object_set(o, key, v);
}

static json_t *request(const session *s) {
    json_t *o = json_pack("{s:s, s:b}", "model", s->model, "stream", 1);
    LM_ASSERT(o);
    put(o, "format", s->format);
    put(o, "think", s->think);
    put(o, "keep_alive", s->keep_alive);
    if (json_object_size(s->options)) put(o, "options", s->options);
    return o;
}

json_t *session_chat_request(const session *s) {
    json_t *o = request(s);
    put(o, "messages", s->messages);
    return o;
}

json_t *session_generate_request(const session *s, const char *prompt, json_t *images) {
    json_t *o = request(s);
    json_object_set_new(o, "prompt", json_string(prompt));
    if (s->system) json_object_set_new(o, "system", json_string(s->system));
    if (images) json_object_set_new(o, "images", images);
    return o;
}

json_t *session_save_request(const session *s, const char *name) {
    json_t *o =
        json_pack("{s:s, s:s, s:b}", "model", name, "from", s->parent[0] ? s->parent : s->model, "stream", 1);
    LM_ASSERT(o);
    if (s->system) json_object_set_new(o, "system", json_string(s->system));
    if (json_object_size(s->options)) put(o, "parameters", s->options);
    if (json_array_size(s->messages)) put(o, "messages", s->messages);
    return o;
}
