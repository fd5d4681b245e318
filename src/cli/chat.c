#include "cli/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/answer.h"
#include "cli/images.h"
#include "cli/say.h"
#include "cli/term.h"

/* ---- one turn */

/* What was not answered is not part of the conversation: the next message would stand beside it. */
static void take_back(session *s) {
    json_array_remove(s->messages, json_array_size(s->messages) - 1);
}

static void ask_model(chat *c) {
    session *s = c->s;
    answer a = {.wrap_words = s->wrap_words, .hide_thinking = s->hide_thinking};
    lm_err err = {0};
    answer_start(&a);
    c->w->idle = answer_idle;
    c->w->idle_ctx = &a;
    json_t *body = session_chat_request(s);
    lm_status st = wire_stream(c->w, "/api/chat", body, answer_event, &a, &err);
    json_decref(body);
    c->w->idle = NULL;
    st = answer_finish(&a, st, &err);
    if (st != LM_OK && st != LM_CANCELLED) say_refused(c->args, c->w, st, &err, s->model);
    if (a.text.len)
        session_say(s, "assistant", a.text.ptr, NULL);
    else if (st != LM_OK)
        take_back(s);
    if (st == LM_OK && s->verbose) {
        answer_say_timings(&a);
        if (a.terminal) fputc('\n', stderr);
    }
    answer_release(&a);
}

static void send_message(chat *c, const char *text) {
    json_t *images = NULL;
    char *rest = NULL;
    lm_err err = {0};
    if (lm_utf8_valid(lm_str_of(text), NULL) != strlen(text)) {
        say_failed(c->args, CLI_FAILED, "this is no UTF-8 text: set your terminal to UTF-8");
        return;
    }
    if (c->s->sees && images_take(text, &rest, &images, &err) != LM_OK) {
        say_failed(c->args, CLI_FAILED, "%s", err.text);
        return;
    }
    session_say(c->s, "user", rest ? rest : text, images);
    free(rest);
    ask_model(c);
}

/* ---- what is typed */

/* A message is whole. */
static void take_message(chat *c, const char *text) {
    if (c->sets_system) {
        c->sets_system = false;
        session_set_system(c->s, text);
        say("Set system message.\n");
    } else if (text[strspn(text, " \t\n")]) {
        send_message(c, text);
    }
}

static void on_interrupt(chat *c, const char *line) {
    if (!line[0] && !lines_waits(&c->typed)) say("Use Ctrl + d or /bye to leave.\n");
    lines_forget(&c->typed);
    c->sets_system = false;
}

static void on_editor(chat *c, const char *line) {
    char *text = NULL;
    lm_err err = {0};
    if (edit_outside(line, &text, &err) != LM_OK)
        say_failed(c->args, CLI_FAILED, "%s", err.text);
    else
        edit_prefill(c->e, text);
    free(text);
}

/* false: the user leaves. */
static bool take_line(chat *c, const char *line, bool more) {
    bool leave = false;
    char *message = NULL;
    if (!lines_waits(&c->typed) && !more && slash_run(c, line, &leave)) return !leave;
    if (!lines_take(&c->typed, line, more, &message)) return true;
    if (message)
        take_message(c, message);
    else
        say_failed(c->args, CLI_FAILED, "a message has at most 64 MiB");
    free(message);
    return true;
}

static void loop(chat *c) {
    for (bool goes_on = true; goes_on && !term_broken();) {
        char *line = NULL;
        edit_event e = edit_read(c->e, lines_waits(&c->typed) ? "... " : ">>> ", &line);
        switch (e) {
        case EDIT_END:
            if (term_is(stdout)) say("\n");
            goes_on = false;
            break;
        case EDIT_INTERRUPT: on_interrupt(c, line); break;
        case EDIT_EDITOR: on_editor(c, line); break;
        case EDIT_LINE:
        case EDIT_MORE: goes_on = take_line(c, line, e == EDIT_MORE); break;
        }
        free(line);
        term_forget(); /* Ctrl-C was for what this line has begun */
        goes_on = goes_on && !term_signal();
    }
}

static bool wants_no_history(void) {
    const char *no = getenv("OLLAMA_NOHISTORY");
    return no && no[0] && strcmp(no, "0") && strcmp(no, "false");
}

int chat_run(const cli_args *a, wire *w, session *s) {
    chat c = {.args = a, .w = w, .s = s};
    lm_err err = {0};
    char *history = lm_path_state("history");
    lm_status st = edit_open(&c.e, history, &err);
    free(history);
    if (st != LM_OK) return say_failed(a, CLI_FAILED, "%s", err.text);
    if (wants_no_history()) edit_keep_history(c.e, false);
    lines_open(&c.typed);
    if (term_is(stdout)) {
        term_write(lm_str_of(term_style(stdout, DIM)));
        say("%s at %s. Send a message (/? for help)\n", s->model, w->url);
        term_write(lm_str_of(term_style(stdout, PLAIN)));
    }
    loop(&c);
    lines_close(&c.typed);
    edit_close(c.e);
    return term_signal() ? CLI_SIGNAL + term_signal() : CLI_OK;
}
