/* run.c - run and chat: one answer, or a conversation. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/answer.h"
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/images.h"
#include "cli/say.h"
#include "cli/term.h"

#define MAX_INPUT (64u << 20)

/* ---- the model */

/* A yes or no of somebody at the keyboard; Enter is yes. */
static bool agreed(void) {
    char line[64] = "";
    if (!fgets(line, sizeof line, stdin)) return false;
    lm_str s = lm_str_trim(lm_str_of(line));
    return !s.len || lm_str_eq_nocase(s, LM_STR("y")) || lm_str_eq_nocase(s, LM_STR("yes"));
}

/* Whether a model that is not there shall be pulled. Scripts expect it, as ollama does it; people may have mistyped. */
static bool shall_pull(wire *w, const char *model) {
    if (!term_is(stdin) || !term_is(stderr)) return true;
    char meant[200];
    bool near = say_meant(w, model, meant);
    fprintf(stderr, "%s is not here%s%s%s. Pull it? [Y/n] ", model, near ? " (did you mean " : "",
            near ? meant : "", near ? "?)" : "");
    fflush(stderr);
    return agreed();
}

int find_model(const cli_args *a, wire *w, const char *model, bool insecure, json_t **shown) {
    lm_err err = {0};
    json_t *body = json_pack("{s:s}", "model", model);
    lm_status st = wire_json(w, "POST", "/api/show", body, shown, &err);
    if (st == LM_NOT_FOUND && w->status == 404) {
        int code = CLI_NO_MODEL;
        if (shall_pull(w, model)) code = pull_model(a, w, model, insecure, false);
        if (code == CLI_OK)
            st = wire_json(w, "POST", "/api/show", body, shown, &err);
        else {
            json_decref(body);
            return term_signal() ? CLI_SIGNAL + term_signal() : code;
        }
    }
    json_decref(body);
    return st == LM_OK ? CLI_OK : say_refused(a, w, st, &err, model);
}

lm_status load_model(wire *w, const session *s, lm_err *err) {
    if (s->embeds) return LM_OK; /* it has no answers to get ready for */
    json_t *body = json_pack("{s:s, s:b}", "model", s->model, "stream", 0);
    if (s->keep_alive) json_object_set(body, "keep_alive", s->keep_alive);
    if (s->think) json_object_set(body, "think", s->think);
    if (json_object_size(s->options)) json_object_set(body, "options", s->options);
    lm_status st = wire_json(w, "POST", "/api/generate", body, NULL, err);
    json_decref(body);
    return st;
}

/* ---- one answer */

static int say_answer_json(const answer *got, bool hide_thinking) {
    json_t *o = json_deep_copy(got->last);
    json_object_set_new(o, "response", json_string(got->text.ptr ? got->text.ptr : ""));
    if (got->thinking.len && !hide_thinking)
        json_object_set_new(o, "thinking", json_string(got->thinking.ptr));
    if (got->calls) json_object_set(o, "tool_calls", got->calls);
    json_object_del(o, "context"); /* numbers for the server alone */
    return say_json(o);
}

static int run_once(const cli_args *a, wire *w, session *s, const char *prompt) {
    lm_err err = {0};
    json_t *images = NULL;
    char *rest = NULL;
    if (s->sees && images_take(prompt, &rest, &images, &err) != LM_OK)
        return say_failed(a, CLI_FAILED, "%s", err.text);
    answer got = {.quiet = say_as_json(a), .wrap_words = s->wrap_words, .hide_thinking = s->hide_thinking};
    answer_start(&got);
    w->idle = answer_idle;
    w->idle_ctx = &got;
    json_t *body = session_generate_request(s, rest ? rest : prompt, images);
    free(rest);
    lm_status st = wire_stream(w, "/api/generate", body, answer_event, &got, &err);
    json_decref(body);
    w->idle = NULL;
    st = answer_finish(&got, st, &err);
    int code = CLI_OK;
    if (st != LM_OK)
        code = say_refused(a, w, st, &err, s->model);
    else if (got.quiet)
        code = say_answer_json(&got, s->hide_thinking);
    else if (s->verbose)
        answer_say_timings(&got);
    answer_release(&got);
    return code;
}

/* ---- vectors */

static int run_embed(const cli_args *a, wire *w, const session *s, const char *prompt) {
    if (!prompt[0])
        return say_failed(a, CLI_USAGE, "%s makes vectors of texts: " CLI_PROGRAM " run %s \"your text\"",
                          s->model, s->model);
    const char *dimensions = cli_value(a, "dimensions"), *truncate = cli_value(a, "truncate");
    json_t *body = json_pack("{s:s, s:s}", "model", s->model, "input", prompt), *o = NULL;
    if (s->keep_alive) json_object_set(body, "keep_alive", s->keep_alive);
    if (truncate) json_object_set_new(body, "truncate", json_boolean(!truncate[0]));
    if (dimensions) json_object_set_new(body, "dimensions", json_integer(strtol(dimensions, NULL, 10)));
    lm_err err = {0};
    lm_status st = wire_json(w, "POST", "/api/embed", body, &o, &err);
    json_decref(body);
    if (st != LM_OK) return say_refused(a, w, st, &err, s->model);
    const json_t *first = json_array_get(json_object_get(o, "embeddings"), 0);
    int code = CLI_OK;
    if (!json_is_array(first)) {
        code = say_failed(a, CLI_FAILED, "the server answered without a vector");
    } else if (say_as_json(a)) {
        say_json(json_incref(o));
    } else {
        lm_buf b;
        lm_buf_init(&b, MAX_INPUT);
        lm_json_write_value(&b, first);
        lm_buf_char(&b, '\n');
        say_buf(&b);
    }
    json_decref(o);
    return code;
}

/* ---- what was asked */

/* All of stdin, when it is no terminal. */
static lm_status read_input(lm_buf *out, lm_err *err) {
    lm_status st = isatty(STDIN_FILENO) ? LM_OK : term_read(STDIN_FILENO, "the input", out, err);
    if (st == LM_OK && out->len &&
        (lm_utf8_valid(lm_buf_view(out), NULL) != out->len || memchr(out->ptr, 0, out->len)))
        st = lm_fail(err, LM_INVALID,
                     "the input is no UTF-8 text: convert it (iconv), or name a picture by its path");
    return st;
}

/* What comes by a pipe, and then the words of the command line, as in ollama. *given: there was any of it. */
static lm_status read_prompt(const cli_args *a, char **out, bool *given, lm_err *err) {
    lm_buf b;
    lm_buf_init(&b, MAX_INPUT);
    lm_status st = read_input(&b, err);
    for (uint32_t i = 1; i < a->n_operands && st == LM_OK; i++) {
        if (b.len) lm_buf_char(&b, ' ');
        lm_buf_text(&b, a->operand[i]);
    }
    if (st == LM_OK) st = lm_buf_status(&b, "the prompt", err);
    *given = b.len > 0;
    if (st == LM_OK) *out = b.len ? lm_buf_take(&b) : lm_strdup("");
    lm_buf_release(&b);
    return st;
}

static lm_status read_settings(const cli_args *a, session *s, lm_err *err) {
    const char *think = cli_value(a, "think"), *keep = cli_value(a, "keepalive"),
               *format = cli_value(a, "format");
    s->hide_thinking = cli_flag(a, "hidethinking");
    s->verbose = cli_flag(a, "verbose");
    s->wrap_words = !cli_flag(a, "nowordwrap");
    lm_status st = LM_OK;
    if (think) st = session_set_think(s, think, err);
    if (st == LM_OK && keep) st = session_set_keep_alive(s, keep, err);
    if (st == LM_OK && format) st = session_set_format(s, format, err);
    if (st == LM_OK && cli_value(a, "system")) session_set_system(s, cli_value(a, "system"));
    const char *n = cli_has(a, "dimensions") ? cli_value(a, "dimensions") : NULL;
    if (st == LM_OK && n &&
        (!n[0] || strlen(n) > 9 || strspn(n, "0123456789") != strlen(n) || !strtol(n, NULL, 10)))
        st = lm_fail(err, LM_INVALID, "--dimensions %s: it must be a number from 1", n);
    return st;
}

/* What was said when the model was saved. */
static void say_earlier(const session *s, const json_t *shown) {
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(shown, "messages"), i, m) {
        const char *role = json_text(m, "role");
        if (!strcmp(role, "user")) say(">>> %s\n", json_text(m, "content"));
        if (strcmp(role, "assistant")) continue;
        answer old = {.wrap_words = s->wrap_words};
        json_t *event = json_pack("{s:O}", "message", m);
        answer_start(&old);
        answer_event(&old, event);
        answer_end(&old);
        answer_release(&old);
        json_decref(event);
    }
}

static int converse(const cli_args *a, wire *w, session *s, const json_t *shown) {
    if (s->embeds)
        return say_failed(a, CLI_USAGE,
                          "%s makes vectors of texts and cannot chat: " CLI_PROGRAM " run %s \"your text\"",
                          s->model, s->model);
    lm_err err = {0};
    lm_status st = load_model(w, s, &err);
    if (st != LM_OK) return say_refused(a, w, st, &err, s->model);
    say_earlier(s, shown);
    return chat_run(a, w, s);
}

static int run_or_chat(const cli_args *a, bool chats, const char *prompt) {
    session s;
    wire w = {0};
    json_t *shown = NULL;
    lm_err err = {0};
    session_open(&s, a->operand[0]);
    int code = CLI_OK;
    if (read_settings(a, &s, &err) != LM_OK) code = say_failed(a, CLI_USAGE, "%s", err.text);
    if (code == CLI_OK) code = wire_reach(a, &w);
    if (code == CLI_OK) code = find_model(a, &w, s.model, cli_flag(a, "insecure"), &shown);
    if (code == CLI_OK) {
        session_learn(&s, shown);
        if (chats)
            code = converse(a, &w, &s, shown);
        else if (s.embeds)
            code = run_embed(a, &w, &s, prompt);
        else
            code = run_once(a, &w, &s, prompt);
    }
    json_decref(shown);
    session_close(&s);
    wire_close(&w);
    return code;
}

int command_run(const cli_args *a) {
    char *prompt = NULL;
    bool given = false;
    lm_err err = {0};
    lm_status st = read_prompt(a, &prompt, &given, &err);
    if (st == LM_CANCELLED) return CLI_SIGNAL + term_signal();
    if (st != LM_OK) return say_failed(a, CLI_FAILED, "%s", err.text);
    bool chats = !given && term_is(stdin) && term_is(stdout) && !say_as_json(a);
    int code = run_or_chat(a, chats, prompt);
    free(prompt);
    return code;
}

int command_chat(const cli_args *a) {
    return run_or_chat(a, true, "");
}
