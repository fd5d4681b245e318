/* Text that may be shown, split into thinking, content and tool calls.
 *
 * Everything runs through `held`. Each step looks at what is held and either gives a part of it away, changes
 * the mode, or says that more text is needed. What could still become a tag stays held; so does white space
 * that would be dropped should a tag follow it. At the end of the answer the same steps run with `last`, when
 * a partial tag is just text.
 */
#include "text/parser.h"

#include <stdlib.h>
#include <string.h>

/* A tag counts when the template writes it or the vocabulary has a token for it. */
static const parser_tag think_tags[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
    {"<seed:think>", "</seed:think>"},
    {"<thinking>", "</thinking>"},
};
static const parser_tag call_tags[] = {
    {"<tool_call>", "</tool_call>"},              /* Qwen, Hermes, Granite, GLM */
    {"<|tool_call|>", "<|/tool_call|>"},          /* Phi-4 */
    {"<|tool_call_start|>", "<|tool_call_end|>"}, /* LFM2 */
    {"[TOOL_CALLS]", ""},                         /* Mistral */
    {"<|python_tag|>", ""},                       /* Llama 3 */
};

/* ---- pieces -----------------------------------------------------------------------------------------------
 */

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

size_t parser_blanks(const char *text, size_t len) {
    size_t n = 0;
    while (n < len && is_blank(text[n])) n++;
    return n;
}

size_t parser_trimmed(const char *text, size_t len) {
    while (len && is_blank(text[len - 1])) len--;
    return len;
}

size_t parser_partial(const char *text, size_t len, const char *word) {
    size_t n = strlen(word);
    for (size_t k = n - 1 < len ? n - 1 : len; n && k; k--)
        if (!memcmp(text + len - k, word, k)) return k;
    return 0;
}

void parser_give(lm_parser *p, lm_part part, const char *text, size_t len) {
    if (len) p->sink(p->ctx, part, (lm_str){0}, (lm_str){text, len});
}

void parser_drop(lm_parser *p, size_t n) {
    memmove(p->held.ptr, p->held.ptr + n, p->held.len - n);
    p->held.len -= n;
}

/* True when text begins with word; *more when it is shorter and may still become it. */
static bool begins(const char *text, size_t len, const char *word, bool *more) {
    size_t n = strlen(word);
    *more = len < n && !memcmp(text, word, len);
    return len >= n && !memcmp(text, word, n);
}

/* ---- steps: false when more text is needed ----------------------------------------------------------------
 */

static bool step_start(lm_parser *p, bool last) {
    size_t blank = parser_blanks(p->held.ptr, p->held.len);
    const char *text = p->held.ptr + blank;
    size_t len = p->held.len - blank;
    bool more = false;
    if (!len && !last) return false;
    if (p->parse_thinking && !p->start_seen && len) {
        if (begins(text, len, p->think.open, &more)) {
            parser_drop(p, blank + strlen(p->think.open));
            p->mode = MODE_THINKING;
            p->fresh = true;
            return true;
        }
        if (more && !last) return false;
    }
    p->start_seen = true;
    p->mode = p->parse_tools && len && text[0] == '{' ? MODE_JSON : MODE_CONTENT;
    return true;
}

static bool step_thinking(lm_parser *p, bool last) {
    if (p->fresh) parser_drop(p, parser_blanks(p->held.ptr, p->held.len));
    if (!p->held.len) return false;
    p->fresh = false;
    char *end = memmem(p->held.ptr, p->held.len, p->think.close, strlen(p->think.close));
    if (end) {
        size_t n = (size_t)(end - p->held.ptr);
        parser_give(p, LM_PART_THINKING, p->held.ptr, parser_trimmed(p->held.ptr, n));
        parser_drop(p, n + strlen(p->think.close));
        p->mode = MODE_SETTLE;
        return true;
    }
    size_t keep = last ? 0 : parser_partial(p->held.ptr, p->held.len, p->think.close);
    size_t n = parser_trimmed(p->held.ptr, p->held.len - keep);
    parser_give(p, LM_PART_THINKING, p->held.ptr, n);
    parser_drop(p, last ? p->held.len : n);
    return false;
}

static bool step_settle(lm_parser *p) {
    parser_drop(p, parser_blanks(p->held.ptr, p->held.len));
    if (p->held.len && p->bare_call && p->held.ptr[0] == ';') {
        parser_drop(p, 1);
        p->bare_call = false;
        return true;
    }
    if (!p->held.len) return false;
    p->bare_call = false;
    p->mode = p->start_seen ? MODE_CONTENT : MODE_START;
    if (p->mode == MODE_START) p->start_seen = true; /* one thinking block only */
    return true;
}

/* MODE_START has seen "{": either a whole call comes of it, or it is text after all. */
static bool step_json(lm_parser *p, bool last) {
    size_t blank = parser_blanks(p->held.ptr, p->held.len);
    lm_str text = {p->held.ptr + blank, p->held.len - blank};
    int64_t n = text.len > PARSER_MAX_CALL ? -1 : parser_json_call(text);
    if (n == 0 && !last) return false;
    if (n > 0 && parser_give_calls(p, (lm_str){text.ptr, (size_t)n})) {
        parser_drop(p, blank + (size_t)n);
        p->start_seen = false;
        p->parse_thinking = false;
        p->bare_call = true;
        p->mode = MODE_SETTLE;
        return true;
    }
    p->mode = MODE_CONTENT;
    return true;
}

static bool step_content(lm_parser *p, bool last) {
    char *first = NULL;
    size_t keep = 0;
    for (uint32_t i = 0; i < p->n_tags; i++) {
        const char *open = p->tags[i].open;
        char *at = memmem(p->held.ptr, p->held.len, open, strlen(open));
        if (at && (!first || at < first)) {
            first = at;
            p->call = &p->tags[i];
        }
        size_t partial = parser_partial(p->held.ptr, p->held.len, open);
        if (partial > keep) keep = partial;
    }
    if (first) {
        size_t n = (size_t)(first - p->held.ptr);
        parser_give(p, LM_PART_CONTENT, p->held.ptr, parser_trimmed(p->held.ptr, n));
        parser_drop(p, n + strlen(p->call->open));
        p->mode = MODE_CALL;
        return true;
    }
    size_t n = p->held.len - (last ? 0 : keep);
    if (!last && p->n_tags) n = parser_trimmed(p->held.ptr, n);
    parser_give(p, LM_PART_CONTENT, p->held.ptr, n);
    parser_drop(p, n);
    return false;
}

/* The end of the call's body, NULL when it is not there yet. A tag inside a JSON string is not the end. */
static char *end_of_call(const lm_parser *p) {
    const char *close = p->call->close;
    size_t n = strlen(close);
    char *from = p->held.ptr, *stop = p->held.ptr + p->held.len, *at;
    size_t blank = parser_blanks(p->held.ptr, p->held.len);
    bool json = p->held.len > blank && strchr("{[", p->held.ptr[blank]);
    for (; n && (at = memmem(from, (size_t)(stop - from), close, n)); from = at + n)
        if (!json || !parser_in_string(p->held.ptr, (size_t)(at - p->held.ptr))) return at;
    return NULL;
}

/* What was taken for a call is none: show it as it came. */
static void show_call(lm_parser *p, size_t n) {
    parser_give(p, LM_PART_CONTENT, p->call->open, strlen(p->call->open));
    parser_give(p, LM_PART_CONTENT, p->held.ptr, n);
    parser_drop(p, n);
    p->mode = MODE_CONTENT;
}

static bool step_call(lm_parser *p, bool last) {
    char *end = end_of_call(p);
    if (!end && !last) {
        if (p->held.len <= PARSER_MAX_CALL) return false;
        show_call(p, p->held.len);
        return true;
    }
    size_t n = end ? (size_t)(end - p->held.ptr) : p->held.len;
    size_t whole = end ? n + strlen(p->call->close) : n;
    if (parser_give_calls(p, (lm_str){p->held.ptr, n})) {
        parser_drop(p, whole);
        p->mode = MODE_SETTLE;
        return true;
    }
    show_call(p, whole);
    return true;
}

static void run(lm_parser *p, bool last) {
    bool more = true;
    while (more && p->held.len) {
        switch (p->mode) {
        case MODE_START: more = step_start(p, last); break;
        case MODE_THINKING: more = step_thinking(p, last); break;
        case MODE_SETTLE: more = step_settle(p); break;
        case MODE_JSON: more = step_json(p, last); break;
        case MODE_CONTENT: more = step_content(p, last); break;
        case MODE_CALL: more = step_call(p, last); break;
        case MODE_CHANNEL:
        case MODE_MESSAGE: more = parser_step_harmony(p, last); break;
        }
    }
}

/* ---- the public part --------------------------------------------------------------------------------------
 */

static bool knows(const lm_text *t, const char *tag) {
    return lm_text_template_says(t, tag) || lm_text_marker(t, tag) >= 0;
}

lm_status lm_parser_open(lm_parser **out, const lm_text *t, bool parse_thinking, bool thinking_open,
                         bool parse_tools, lm_err *err) {
    lm_parser *p = lm_try_alloc(1, sizeof *p);
    if (!p) return lm_fail(err, LM_NO_MEMORY, "no memory for a parser");
    lm_buf_init(&p->held, 4 * PARSER_MAX_CALL);
    lm_buf_init(&p->made, 4 * PARSER_MAX_CALL);
    p->parse_thinking = parse_thinking || thinking_open;
    p->parse_tools = parse_tools;
    p->harmony = t->channels;
    p->think = think_tags[0];
    for (size_t i = 0; i < sizeof think_tags / sizeof *think_tags; i++) {
        if (!knows(t, think_tags[i].open)) continue;
        p->think = think_tags[i];
        break;
    }
    for (size_t i = 0; parse_tools && i < sizeof call_tags / sizeof *call_tags; i++)
        if (knows(t, call_tags[i].open)) p->tags[p->n_tags++] = call_tags[i];
    if (parse_tools && !p->n_tags) p->tags[p->n_tags++] = call_tags[0]; /* what most models have learnt */
    p->mode = p->harmony ? MODE_CHANNEL : thinking_open ? MODE_THINKING : MODE_START;
    p->fresh = thinking_open;
    *out = p;
    return LM_OK;
}

void lm_parser_close(lm_parser *p) {
    if (!p) return;
    lm_buf_release(&p->held);
    lm_buf_release(&p->made);
    free(p);
}

void lm_parser_push(lm_parser *p, lm_str text, lm_parser_sink *sink, void *ctx) {
    if (!text.len) return;
    p->sink = sink;
    p->ctx = ctx;
    lm_buf_str(&p->held, text);
    if (p->held.failed) { /* more than any call may have, in one push: it is text */
        lm_buf_clear(&p->held);
        p->mode = MODE_CONTENT;
        parser_give(p, LM_PART_CONTENT, text.ptr, text.len);
        return;
    }
    run(p, false);
}

void lm_parser_finish(lm_parser *p, lm_parser_sink *sink, void *ctx) {
    p->sink = sink;
    p->ctx = ctx;
    run(p, true);
    lm_buf_clear(&p->held);
}

bool lm_parser_in_thinking(const lm_parser *p) {
    return p->mode == MODE_THINKING || (p->mode == MODE_MESSAGE && p->part == LM_PART_THINKING);
}
