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

#include "base/json.h"

/* A tag counts when the template writes it or the vocabulary has a token for it. */
static const parser_tag think_tags[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
    {"<seed:think>", "</seed:think>"},
    {"<thinking>", "</thinking>"},
    {"Here is my thought process:", "Here is my response:"}, /* Granite 3.2 */
};

/* ---- pieces ----------------------------------------------------------------------------------------------- */

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
    if (len && p->wrap) { /* no call has followed */
        const char *wrap = p->wrap;
        p->wrap = NULL;
        parser_give(p, LM_PART_CONTENT, wrap, strlen(wrap));
    }
    if (len) p->sink(p->ctx, part, (lm_str){0}, (lm_str){text, len});
}

void parser_drop(lm_parser *p, size_t n) {
    memmove(p->held.ptr, p->held.ptr + n, p->held.len - n);
    p->held.len -= n;
}

bool parser_begins(lm_str text, const char *word, bool *more) {
    size_t n = strlen(word);
    *more = text.len < n && !memcmp(text.ptr, word, text.len);
    return text.len >= n && !memcmp(text.ptr, word, n);
}

bool parser_cut(lm_str *text, const char *word, lm_str *before) {
    char *at = text->len ? memmem(text->ptr, text->len, word, strlen(word)) : NULL;
    if (!at) return false;
    *before = (lm_str){text->ptr, (size_t)(at - text->ptr)};
    size_t n = before->len + strlen(word);
    *text = (lm_str){text->ptr + n, text->len - n};
    return true;
}

static lm_str parser_body(const lm_parser *p) {
    return (lm_str){p->held.ptr + p->skip, p->held.len - p->skip};
}

/* ---- steps: false when more text is needed ---------------------------------------------------------------- */

static bool step_start(lm_parser *p, bool last) {
    size_t blank = parser_blanks(p->held.ptr, p->held.len);
    const char *text = p->held.ptr + blank;
    size_t len = p->held.len - blank;
    bool more = false;
    if (!len && !last) return false;
    if (p->parse_thinking && !p->start_seen && len) {
        if (parser_begins((lm_str){text, len}, p->think.open, &more)) {
            parser_drop(p, blank + strlen(p->think.open));
            p->mode = MODE_THINKING;
            p->fresh = true;
            return true;
        }
        if (more && !last) return false;
    }
    p->start_seen = true;
    p->mode = p->tools && len && (text[0] == '{' || text[0] == '[') ? MODE_JSON : MODE_CONTENT;
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

/* Behind a call: true when something that belongs to it has been dropped, *more when it may come. */
static bool drop_tail(lm_parser *p, bool *more) {
    const parser_form *f = p->form;
    const char *fence = p->after_json && f && f->body & (BODY_FENCE | BODY_NAMED) ? "```" : "";
    const char *tails[] = {fence, p->after_json && f ? f->close : "", p->semicolon ? ";" : "",
                           p->tail ? f->tail : ""};
    lm_str text = lm_buf_view(&p->held);
    *more = false;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        bool may = false;
        if (tails[i][0] && parser_begins(text, tails[i], &may)) {
            parser_drop(p, strlen(tails[i]));
            if (i == 1) p->after_json = false;
            if (i == 2) p->semicolon = false;
            if (i == 3) p->tail = false;
            return true;
        }
        *more = *more || may;
    }
    return false;
}

static bool step_settle(lm_parser *p, bool last) {
    bool more = false;
    parser_drop(p, parser_blanks(p->held.ptr, p->held.len));
    if (!p->held.len) return false;
    if (drop_tail(p, &more)) return true;
    if (more && !last) return false;
    bool another = p->after_json && p->held.ptr[0] == '{';
    p->after_json = p->semicolon = p->tail = false;
    p->form = NULL;
    p->mode = another ? MODE_JSON : p->start_seen ? MODE_CONTENT : MODE_START;
    p->start_seen = true; /* one thinking block only */
    return true;
}

static void settle_after_call(lm_parser *p, bool json) {
    p->start_seen = true;
    p->after_json = p->semicolon = json;
    p->tail = p->form && p->form->tail;
    p->wrap = NULL;
    p->mode = MODE_SETTLE;
}

/* MODE_START has seen a bracket: either a whole call comes of it, or it is text after all. */
static bool step_json(lm_parser *p, bool last) {
    size_t blank = parser_blanks(p->held.ptr, p->held.len);
    lm_str text = {p->held.ptr + blank, p->held.len - blank};
    int64_t n = text.len > PARSER_MAX_CALL ? -1 : parser_json_call(text);
    if (n == 0 && !last) return false;
    if (n > 0 && parser_give_calls(p, NULL, (lm_str){text.ptr, (size_t)n})) {
        parser_drop(p, blank + (size_t)n);
        settle_after_call(p, true);
        return true;
    }
    p->mode = MODE_CONTENT;
    return true;
}

/* One of the tags around text or calls is at the front of held. */
static void take_out(lm_parser *p, const parser_form *f, bool closes) {
    const char *tag = closes ? f->close : f->open;
    if (f->body & BODY_WRAPS && closes && !p->in_wrap) {
        parser_give(p, LM_PART_CONTENT, tag, strlen(tag));
    } else if (f->body & BODY_WRAPS) {
        p->wrap = closes ? NULL : tag;
        p->in_wrap = false;
    }
    parser_drop(p, strlen(tag));
    if (f->body & BODY_WRAPS) {
        p->mode = MODE_SETTLE;
        p->start_seen = true;
    }
}

typedef struct hit {
    char *at; /* NULL: none */
    const parser_form *form;
    bool closes;
} hit;

static void look_for(const lm_parser *p, const parser_form *f, bool closes, hit *first, size_t *keep) {
    const char *tag = closes ? f->close : f->open;
    char *at = memmem(p->held.ptr, p->held.len, tag, strlen(tag));
    if (at && (!first->at || at < first->at)) *first = (hit){at, f, closes};
    size_t partial = parser_partial(p->held.ptr, p->held.len, tag);
    if (partial > *keep) *keep = partial;
}

static bool step_content(lm_parser *p, bool last) {
    hit first = {0};
    size_t keep = 0;
    for (uint32_t i = 0; i < p->n_forms; i++) {
        look_for(p, p->forms[i], false, &first, &keep);
        if (p->forms[i]->body & (BODY_WRAPS | BODY_DROPS)) look_for(p, p->forms[i], true, &first, &keep);
    }
    if (first.at) {
        size_t n = (size_t)(first.at - p->held.ptr);
        bool drops = first.form->body & BODY_DROPS;
        size_t shown = drops ? n : parser_trimmed(p->held.ptr, n);
        parser_give(p, LM_PART_CONTENT, p->held.ptr, shown);
        parser_drop(p, shown);
        if (first.form->body & (BODY_WRAPS | BODY_DROPS)) {
            parser_drop(p, n - shown);
            take_out(p, first.form, first.closes);
            return true;
        }
        p->form = first.form;
        p->skip = n - shown + strlen(p->form->open) - p->form->keep;
        p->mode = MODE_CALL;
        return true;
    }
    size_t n = p->held.len - (last ? 0 : keep);
    if (!last && p->n_forms) n = parser_trimmed(p->held.ptr, n);
    parser_give(p, LM_PART_CONTENT, p->held.ptr, n);
    parser_drop(p, n);
    return false;
}

/* What was taken for a call is none: its first n bytes are shown as they came, and calls looked for behind
 * them. */
static void show_call(lm_parser *p, size_t n) {
    parser_give(p, LM_PART_CONTENT, p->held.ptr, n);
    parser_drop(p, n);
    p->form = NULL;
    p->mode = MODE_CONTENT;
}

static bool step_call(lm_parser *p, bool last) {
    lm_str body = parser_body(p);
    int64_t length = body.len > PARSER_MAX_CALL ? -1 : parser_call_length(p, body, last);
    if (length == 0) return false;
    if (length < 0) {
        show_call(p, p->skip + p->form->keep);
        return true;
    }
    size_t n = (size_t)length;
    bool json = p->form->body & (BODY_JSON | BODY_NAMED) && n && strchr("]}", body.ptr[n - 1]);
    bool more, closed = parser_begins((lm_str){body.ptr + n, body.len - n}, p->form->close, &more);
    if (!parser_give_calls(p, p->form, (lm_str){body.ptr, n})) {
        show_call(p, p->skip + n);
        return true;
    }
    p->in_wrap = true;
    parser_drop(p, p->skip + n + (closed && !json ? strlen(p->form->close) : 0));
    settle_after_call(p, json);
    return true;
}

static void run(lm_parser *p, bool last) {
    bool more = true;
    while (more && p->held.len) {
        switch (p->mode) {
        case MODE_START: more = step_start(p, last); break;
        case MODE_THINKING: more = step_thinking(p, last); break;
        case MODE_SETTLE: more = step_settle(p, last); break;
        case MODE_JSON: more = step_json(p, last); break;
        case MODE_CONTENT: more = step_content(p, last); break;
        case MODE_CALL: more = step_call(p, last); break;
        case MODE_CHANNEL:
        case MODE_MESSAGE: more = parser_step_harmony(p, last); break;
        }
    }
}

/* ---- the public part -------------------------------------------------------------------------------------- */

static bool knows(const lm_text *t, const char *tag) {
    return lm_text_template_says(t, tag) || lm_text_marker(t, tag) >= 0;
}

lm_status lm_parser_open(lm_parser **out, const lm_text *t, bool parse_thinking, bool thinking_open,
                         lm_str tools, lm_err *err) {
    json_t *known = NULL;
    lm_status st = tools.len ? lm_json_parse(tools, &known, err) : LM_OK;
    if (st != LM_OK) return lm_fail_in(err, st, "tools");
    lm_parser *p = lm_try_alloc(1, sizeof *p);
    if (!p) {
        json_decref(known);
        return lm_fail(err, LM_NO_MEMORY, "no memory for a parser");
    }
    if (t->parser && !strcmp(t->parser, "none")) {
        json_decref(known);
        known = NULL;
    }
    lm_buf_init(&p->held, 4 * PARSER_MAX_CALL);
    lm_buf_init(&p->made, 4 * PARSER_MAX_CALL);
    p->parse_thinking = parse_thinking || thinking_open;
    p->tools = known;
    p->harmony = t->channels;
    p->think = think_tags[0];
    for (size_t i = 0; i < sizeof think_tags / sizeof *think_tags; i++) {
        if (!knows(t, think_tags[i].open)) continue;
        p->think = think_tags[i];
        break;
    }
    parser_choose_forms(p, t);
    p->mode = p->harmony ? MODE_CHANNEL : thinking_open ? MODE_THINKING : MODE_START;
    p->fresh = thinking_open;
    *out = p;
    return LM_OK;
}

void lm_parser_close(lm_parser *p) {
    if (!p) return;
    lm_buf_release(&p->held);
    lm_buf_release(&p->made);
    json_decref(p->tools);
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
    if (p->wrap) {
        const char *wrap = p->wrap;
        p->wrap = NULL;
        parser_give(p, LM_PART_CONTENT, wrap, strlen(wrap));
    }
    lm_buf_clear(&p->held);
}

bool lm_parser_in_call(const lm_parser *p, lm_str *opening, lm_str *body) {
    *opening = (lm_str){0};
    *body = lm_buf_view(&p->held);
    if (p->mode == MODE_CALL) {
        *opening = lm_str_of(p->form->open);
        opening->len -= p->form->keep;
        *body = parser_body(p);
    } else if (p->mode == MODE_MESSAGE && p->part == LM_PART_TOOL_CALL) {
        *opening = lm_str_of(p->recipient);
    } else {
        return p->mode == MODE_JSON && p->bare && parser_json_begun(*body);
    }
    return true;
}

bool lm_parser_in_thinking(const lm_parser *p) {
    return p->mode == MODE_THINKING || (p->mode == MODE_MESSAGE && p->part == LM_PART_THINKING);
}
