#include "cli/answer.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/say.h"
#include "cli/term.h"
#include "cli/text.h"

void answer_start(answer *a) {
    lm_buf_init(&a->text, ANSWER_MAX);
    lm_buf_init(&a->thinking, ANSWER_MAX);
    a->terminal = term_is(stdout);
    spinner_start(&a->wait);
    if (a->quiet) a->wait.off = !term_is(stderr);
}

void answer_idle(void *ctx) {
    answer *a = ctx;
    spinner_turn(&a->wait);
}

static void show(answer *a, const char *text, FILE *to) {
    lm_buf clean, out;
    lm_buf_init(&clean, 3 * strlen(text) + 1);
    text_clean(&clean, lm_str_of(text), false);
    spinner_stop(&a->wait);
    if (to != stdout) {
        fputs(clean.len ? clean.ptr : "", to);
        lm_buf_release(&clean);
        return;
    }
    uint32_t columns = 0, lines;
    if (a->terminal && a->wrap_words) term_size(stdout, &columns, &lines);
    /* A word may be taken back and written again for each of its letters. */
    lm_buf_init(&out, ANSWER_MAX);
    wrap_text(&a->lines, lm_buf_view(&clean), columns, &out);
    term_write(lm_buf_view(&out));
    if (clean.len) a->end = clean.ptr[clean.len - 1];
    lm_buf_release(&clean);
    lm_buf_release(&out);
}

static void style(const answer *a, const char *sequence) {
    if (a->terminal) term_write(lm_str_of(term_style(stdout, sequence)));
}

static void show_thinking(answer *a, const char *text) {
    FILE *to = a->terminal ? stdout : stderr;
    if (!a->thinks) {
        style(a, DIM);
        show(a, "Thinking...\n", to);
        a->thinks = true;
    }
    show(a, text, to);
}

static void end_thinking(answer *a) {
    if (!a->thinks) return;
    FILE *to = a->terminal ? stdout : stderr;
    char last = a->thinking.len ? a->thinking.ptr[a->thinking.len - 1] : '\n';
    if (last != '\n') show(a, "\n", to);
    show(a, "...done thinking.\n", to);
    style(a, PLAIN);
    show(a, "\n", to);
    a->thinks = false;
    a->lines = (wrap){0};
}

static void show_calls(answer *a, const json_t *calls) {
    size_t i;
    json_t *call;
    json_array_foreach(calls, i, call) {
        const json_t *f = json_object_get(call, "function");
        lm_buf b;
        lm_buf_init(&b, ANSWER_MAX);
        lm_buf_printf(&b, "%sModel called a tool that nobody offers here: %s(",
                      a->end && a->end != '\n' ? "\n" : "", json_text(f, "name"));
        if (json_object_get(f, "arguments")) lm_json_write_value(&b, json_object_get(f, "arguments"));
        lm_buf_text(&b, ")\n");
        show(a, b.ptr, a->terminal ? stdout : stderr);
        lm_buf_release(&b);
    }
}

bool answer_event(void *ctx, const json_t *event) {
    answer *a = ctx;
    const json_t *message = json_object_get(event, "message"), *in = message ? message : event;
    const char *text = json_text(in, message ? "content" : "response"), *thinking = json_text(in, "thinking");
    const json_t *calls = json_object_get(in, "tool_calls");
    if (thinking[0]) {
        if (!a->quiet && !a->hide_thinking) show_thinking(a, thinking);
        lm_buf_text(&a->thinking, thinking);
    }
    bool answers = text[0] || json_array_size(calls);
    if (answers) end_thinking(a);
    if (text[0]) {
        lm_buf_text(&a->text, text);
        if (!a->quiet) show(a, text, stdout);
    }
    if (json_array_size(calls)) {
        if (!a->calls) a->calls = json_array();
        size_t i;
        json_t *call;
        json_array_foreach(calls, i, call) json_array_append(a->calls, call);
        if (!a->quiet) show_calls(a, calls);
    }
    if (json_is_true(json_object_get(event, "done"))) {
        json_decref(a->last);
        a->last = json_deep_copy(event);
    }
    return !a->text.failed && !a->thinking.failed;
}

void answer_end(answer *a) {
    end_thinking(a);
    spinner_stop(&a->wait);
    if (!a->quiet && a->end) {
        if (a->terminal)
            term_write(LM_STR("\n\n"));
        else if (a->end != '\n')
            term_write(LM_STR("\n"));
    }
}

lm_status answer_finish(answer *a, lm_status st, lm_err *err) {
    answer_end(a);
    if (a->text.failed || a->thinking.failed)
        return lm_fail(err, LM_TOO_LARGE, "the answer has no end: it is longer than %u MiB",
                       ANSWER_MAX >> 20);
    if (st == LM_OK && !a->last)
        return lm_fail(err, LM_IO,
                       "the server ended its answer without saying that it is whole: look at its log");
    return st;
}

void answer_release(answer *a) {
    lm_buf_release(&a->text);
    lm_buf_release(&a->thinking);
    json_decref(a->calls);
    json_decref(a->last);
    a->calls = a->last = NULL;
}

/* ---- figures */

static int64_t add_count(const json_t *o, const char *key, const char *label, lm_buf *out) {
    int64_t n = json_integer_value(json_object_get(o, key));
    if (n > 0) lm_buf_printf(out, "%-21s %lld token(s)\n", label, (long long)n);
    return n;
}

static int64_t add_time(const json_t *o, const char *key, const char *label, lm_buf *out) {
    int64_t ns = json_integer_value(json_object_get(o, key));
    char text[32];
    text_duration(ns, text);
    if (ns > 0) lm_buf_printf(out, "%-21s %s\n", label, text);
    return ns;
}

static void add_rate(int64_t n, int64_t ns, const char *label, lm_buf *out) {
    if (n > 0 && ns > 0) lm_buf_printf(out, "%-21s %.2f tokens/s\n", label, (double)n * 1e9 / (double)ns);
}

static void add_timings(const json_t *last, lm_buf *out) {
    add_time(last, "total_duration", "total duration:", out);
    add_time(last, "load_duration", "load duration:", out);
    int64_t n = add_count(last, "prompt_eval_count", "prompt eval count:", out);
    int64_t ns = add_time(last, "prompt_eval_duration", "prompt eval duration:", out);
    add_rate(n, ns, "prompt eval rate:", out);
    n = add_count(last, "eval_count", "eval count:", out);
    ns = add_time(last, "eval_duration", "eval duration:", out);
    add_rate(n, ns, "eval rate:", out);
}

void answer_say_timings(const answer *a) {
    lm_buf b;
    lm_buf_init(&b, 4096);
    add_timings(a->last, &b);
    fputs(b.len ? b.ptr : "", stderr);
    lm_buf_release(&b);
}
