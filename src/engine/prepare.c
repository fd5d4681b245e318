/* prepare.c - from a request to a sequence: render, tokenise, make it fit, open what the way back needs.
 *
 * A prompt that is too long: a chat loses its oldest messages, never the system ones nor the last, and never
 * the call that a tool's answer belongs to. What is still too long, and raw prompts, keep num_keep tokens and
 * the end.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/embed.h"

#define OUT_BYTES (64u << 20)

#define TOO_LONG_TRUNCATE "the input length exceeds the context length"
#define TOO_LONG_SHIFT                                                                                       \
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "    \
    "adjust the context length in settings, or use a model with a longer context length"

/* ---- rendering */

static lm_status dump(const json_t *value, char **out, lm_err *err) {
    *out = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    return *out ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory to write out the messages");
}

static bool has_role(const json_t *message, const char *role) {
    const char *is = json_string_value(json_object_get(message, "role"));
    return is && strcmp(is, role) == 0;
}

/* A tool's answer stays with the assistant's message that called it. */
static size_t block_start(const json_t *messages, size_t i) {
    if (i == 0 || !has_role(json_array_get(messages, i), "tool")) return i;
    size_t start = i;
    while (start > 0 && has_role(json_array_get(messages, start - 1), "tool")) start--;
    if (start == 0) return i;
    const json_t *caller = json_array_get(messages, start - 1);
    bool called = has_role(caller, "assistant") && json_array_size(json_object_get(caller, "tool_calls")) > 0;
    return called ? start - 1 : i;
}

/* System messages before `from` and everything from there on. */
static json_t *messages_from(const json_t *messages, size_t from) {
    json_t *some = json_array();
    for (size_t i = 0; some && i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        if (i < from && !has_role(m, "system")) continue;
        if (json_array_append(some, m) != 0) {
            json_decref(some);
            some = NULL;
        }
    }
    return some;
}

static lm_status render_chat(const lm_runner *r, const lm_request *q, size_t from, lm_buf *out, lm_err *err) {
    char *messages = NULL, *tools = NULL;
    json_t *some = messages_from(q->messages, from);
    lm_status st =
        some ? dump(some, &messages, err) : lm_fail(err, LM_NO_MEMORY, "no memory to render the messages");
    if (st == LM_OK && q->tools) st = dump(q->tools, &tools, err);
    if (st == LM_OK) {
        lm_buf_clear(out);
        lm_str level = lm_str_of(q->think_level);
        st = q->template ? lm_text_render_own(lm_str_of(q->template), lm_str_of(messages), (lm_str){0}, (lm_str){0},
                                              q->thinking, level, out, err)
                         : lm_text_render_chat(r->text, lm_str_of(messages), lm_str_of(tools), q->thinking, level,
                                               out, err);
    }
    if (st == LM_OK) st = lm_buf_status(out, "the rendered prompt", err);
    free(messages);
    free(tools);
    json_decref(some);
    return st;
}

/* ---- tokens */

static lm_status check_ids(const lm_runner *r, const int32_t *ids, uint32_t n, lm_status st,
                           const char *whose, lm_err *err) {
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= r->info.n_vocab) {
            return lm_fail(err, st, "%s holds token %d; the model has tokens 0 to %u", whose, ids[i],
                           r->info.n_vocab - 1);
        }
    }
    return LM_OK;
}

/* What the model will read: the caller's ids, then the prompt's. Jinja templates write the first token out
 * themselves, Go templates leave it to the tokenizer. */
static lm_status tokenise(const lm_runner *r, const lm_request *q, lm_str prompt, lm_tokens *out,
                          lm_err *err) {
    const lm_text *t = r->text;
    out->n = 0;
    bool templated = q->kind == LM_REQUEST_CHAT && t->chat && !q->template;
    lm_str bos = lm_str_of(t->bos);
    bool add_special = !templated && q->n_context == 0 && !(bos.len && lm_str_starts(prompt, bos));
    lm_status st = check_ids(r, q->context, q->n_context, LM_INVALID, "context", err);
    if (st == LM_OK && q->n_context) st = lm_tokens_add(out, q->context, q->n_context, err);
    if (st == LM_OK) st = lm_tokenizer_encode(t->tokenizer, prompt, add_special, out, err);
    if (st != LM_OK) return st;
    uint32_t at = q->n_context;
    if (at && out->n > at && t->bos_id >= 0 &&
        out->ids[at] == t->bos_id) { /* only once, at the very beginning */
        memmove(out->ids + at, out->ids + at + 1, (out->n - at - 1) * sizeof(*out->ids));
        out->n--;
    }
    if (out->n == 0 && t->bos_id >= 0) st = lm_tokens_add(out, &t->bos_id, 1, err);
    if (st == LM_OK && out->n == 0) st = lm_fail(err, LM_INVALID, "the prompt is empty");
    return st == LM_OK
               ? check_ids(r, out->ids + at, out->n - at, LM_CORRUPT, "the model's tokenizer.json", err)
               : st;
}

static lm_status render_and_tokenise(const lm_runner *r, const lm_request *q, size_t from, lm_buf *prompt,
                                     lm_tokens *ids, lm_err *err) {
    lm_status st = LM_OK;
    if (q->kind == LM_REQUEST_CHAT) {
        st = render_chat(r, q, from, prompt, err);
    } else if (q->kind == LM_REQUEST_INSERT) {
        lm_buf_clear(prompt);
        lm_str before = lm_str_of(q->prompt), behind = lm_str_of(q->suffix);
        st = q->template ? lm_text_render_own(lm_str_of(q->template), (lm_str){0}, before, behind, q->thinking,
                                              lm_str_of(q->think_level), prompt, err)
                         : lm_text_render_insert(r->text, before, behind, prompt, err);
        if (st == LM_OK) st = lm_buf_status(prompt, "the rendered prompt", err);
    } else {
        lm_buf_clear(prompt);
        lm_buf_text(prompt, q->prompt ? q->prompt : "");
        st = lm_buf_status(prompt, "the prompt", err);
    }
    return st == LM_OK ? tokenise(r, q, lm_buf_view(prompt), ids, err) : st;
}

/* Drops as few messages as make the chat fit: the fewer are dropped the longer it is, so halving finds the
 * border. */
static lm_status drop_messages(const lm_runner *r, const lm_job *j, uint32_t limit, lm_buf *prompt,
                               lm_tokens *ids, lm_err *err) {
    const lm_request *q = j->request;
    size_t n = json_array_size(q->messages);
    if (n < 2) return LM_OK;
    size_t low = 1, high = n - 1; /* the last message always stays */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lm_job_cancelled(j)) return lm_fail(err, LM_CANCELLED, "request canceled");
        lm_status st = render_and_tokenise(r, q, block_start(q->messages, middle), prompt, ids, err);
        if (st != LM_OK) return st;
        if (ids->n <= limit) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return render_and_tokenise(r, q, block_start(q->messages, low), prompt, ids, err);
}

/* Tokens that a context shift leaves at the beginning, with room for it to make any. */
static uint32_t tokens_to_keep(const lm_runner *r, const lm_request *q, const lm_tokens *ids,
                               uint32_t limit) {
    uint32_t most = limit >= 8 ? limit - 4 : limit / 2;
    if (q->options.num_keep < 0) return ids->n < most ? ids->n : most;
    uint32_t keep = (uint32_t)q->options.num_keep;
    if (ids->n && r->text->bos_id >= 0 && ids->ids[0] == r->text->bos_id) keep++;
    return keep < most ? keep : most;
}

static lm_status fit(const lm_runner *r, const lm_job *j, uint32_t limit, lm_buf *prompt, lm_tokens *ids,
                     lm_err *err) {
    const lm_request *q = j->request;
    lm_status st = render_and_tokenise(r, q, 0, prompt, ids, err);
    if (st != LM_OK || ids->n <= limit) return st;
    if (!q->truncate) return lm_fail(err, LM_INVALID, TOO_LONG_TRUNCATE);
    if (q->kind == LM_REQUEST_CHAT) {
        st = drop_messages(r, j, limit, prompt, ids, err);
        if (st != LM_OK || ids->n <= limit) return st;
    }
    if (!q->shift) return lm_fail(err, LM_INVALID, TOO_LONG_SHIFT);
    uint32_t keep = tokens_to_keep(r, q, ids, limit), tail = limit - keep;
    memmove(ids->ids + keep, ids->ids + ids->n - tail, tail * sizeof(*ids->ids));
    ids->n = limit;
    return LM_OK;
}

/* ---- the way back */

static const char *const think_tags[] = {"<think>", "<thinking>", "<seed:think>", "[THINK]",
                                         "<|START_THINKING|>"};
static const char *const think_ends[] = {"</think>", "</thinking>", "</seed:think>", "[/THINK]",
                                         "<|END_THINKING|>"};
#define N_THINK_TAGS (sizeof(think_tags) / sizeof(*think_tags))

/* Some templates open the thinking block themselves. */
static bool ends_in_thinking(lm_str prompt) {
    lm_str s = lm_str_trim(prompt);
    for (size_t i = 0; i < N_THINK_TAGS; i++) {
        if (lm_str_ends(s, lm_str_of(think_tags[i]))) return true;
    }
    return false;
}

/* The single token that opens a thinking block, or closes it; -1 when the model has none. */
static int32_t think_token(const lm_text *t, const char *const *tags) {
    for (size_t i = 0; i < N_THINK_TAGS; i++) {
        int32_t id = lm_tokenizer_id(t->tokenizer, lm_str_of(tags[i]));
        if (id >= 0) return id;
    }
    return -1;
}

static lm_status open_mask(const lm_runner *r, lm_sequence *s, lm_err *err) {
    if (s->mask) return LM_OK;
    s->n_mask = (r->info.n_vocab + 31) / 32;
    s->mask = lm_try_alloc(s->n_mask, sizeof(*s->mask));
    return s->mask ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for a mask of %u tokens", r->info.n_vocab);
}

/* The token that closes a thinking block; -1: none. */
static int32_t closing_token(const lm_runner *r) {
    int32_t end = think_token(r->text, think_ends);
    return (uint32_t)end < r->info.n_vocab ? end : -1;
}

/* The thinking can be bounded where one token closes it. */
static lm_status open_budget(const lm_runner *r, const lm_request *q, lm_sequence *s, lm_err *err) {
    s->think_end = closing_token(r);
    if (s->think_end < 0) return LM_OK;
    s->think_budget = q->think_budget;
    return open_mask(r, s, err);
}

static void warn(const lm_runner *r, const char *what, const char *key, lm_str value) {
    lm_buf fields;
    lm_buf_init(&fields, 1 << 13);
    lm_log_field(&fields, "model", lm_str_of(r->name));
    lm_log_field(&fields, key, value);
    lm_log(LM_LOG_WARN, what, "%s", fields.ptr ? fields.ptr : "");
    lm_buf_release(&fields);
}

/* Calls are kept to the tools' schemas once the model has begun one. Tools without a grammar are no reason to fail. */
static lm_status open_calls(lm_runner *r, lm_sequence *s, const char *tools, lm_err *err) {
    lm_err why = {0};
    lm_buf loose;
    lm_buf_init(&loose, 1 << 12);
    lm_status st = LM_OK;
    if (!r->grammar) st = lm_grammar_factory_open(&r->grammar, r->text, r->info.n_vocab, &why);
    if (st == LM_OK) st = lm_matcher_open_calls(&s->matcher, r->grammar, r->text, lm_str_of(tools), &loose, &why);
    /* Some forms of calls have no grammar, which is no news. */
    if (st != LM_OK && st != LM_UNSUPPORTED)
        warn(r, "tool calls are not kept to their schemas", "why", lm_str_of(why.text));
    if (loose.len)
        warn(r, "schemas that cannot be enforced: the arguments of these tools are any object", "tools", lm_buf_view(&loose));
    lm_buf_release(&loose);
    if (st != LM_OK) return LM_OK;
    s->constraint = LM_CONSTRAINT_CALLS;
    return open_mask(r, s, err);
}

static lm_status open_constraint(lm_runner *r, const lm_request *q, lm_sequence *s, bool thinking, bool open,
                                 lm_err *err) {
    lm_status st = LM_OK;
    if (!r->grammar) st = lm_grammar_factory_open(&r->grammar, r->text, r->info.n_vocab, err);
    if (st == LM_OK) st = lm_matcher_open(&s->matcher, r->grammar, lm_str_of(q->schema), err);
    if (st != LM_OK) return st;
    st = open_mask(r, s, err);
    if (st != LM_OK) return st;
    s->constraint = LM_CONSTRAINT_ACTIVE;
    s->ending = lm_matcher_ending(s->matcher, s->max_new);
    if (!thinking) return LM_OK;
    s->think_id = think_token(r->text, think_tags);
    s->think_end = closing_token(r);
    if (open) {
        s->constraint = LM_CONSTRAINT_THINKING;
        s->was_thinking = true;
    } else if (s->think_id >= 0 && (uint32_t)s->think_id < r->info.n_vocab) {
        s->constraint = LM_CONSTRAINT_OFFERED;
    }
    return LM_OK;
}

static lm_status open_way_back(lm_runner *r, const lm_request *q, lm_sequence *s, lm_str prompt,
                               lm_err *err) {
    const lm_text *t = r->text;
    lm_str *stops = lm_try_alloc(q->n_stops ? q->n_stops : 1, sizeof(*stops));
    if (!stops) return lm_fail(err, LM_NO_MEMORY, "no memory for %u stop strings", q->n_stops);
    for (uint32_t i = 0; i < q->n_stops; i++) stops[i] = lm_str_of(q->stops[i]);
    lm_status st = lm_stream_open(&s->stream, t->tokenizer, stops, q->n_stops, err);
    free(stops);
    if (st != LM_OK) return st;

    /* A raw prompt comes with its own idea of a dialogue: its thinking is split off only when asked for. */
    bool thinking = t->thinks && (q->kind == LM_REQUEST_CHAT ? q->thinking != 0 : q->thinking > 0);
    bool tools = q->kind == LM_REQUEST_CHAT && json_array_size(q->tools) > 0;
    bool open = thinking && ends_in_thinking(prompt);
    bool parse = thinking || tools || ((t->channels || t->wraps) && q->kind == LM_REQUEST_CHAT);
    char *written = NULL;
    if (tools) st = dump(q->tools, &written, err);
    if (st == LM_OK && parse) st = lm_parser_open(&s->parser, t, thinking, open, lm_str_of(written), err);
    if (st == LM_OK && tools && !q->constrained) st = open_calls(r, s, written, err);
    free(written);
    if (st == LM_OK && q->constrained) st = open_constraint(r, q, s, thinking, open, err);
    if (st == LM_OK && thinking && q->think_budget) st = open_budget(r, q, s, err);
    return st;
}

/* ---- all together */

static void set_limits(lm_sequence *s, const lm_request *q) {
    uint64_t most = 10ull * s->limit;
    s->shift = q->shift;
    s->max_new = (uint32_t)(most < UINT32_MAX ? most : UINT32_MAX);
    if (q->options.num_predict >= 0 && (uint64_t)q->options.num_predict < most)
        s->max_new = (uint32_t)q->options.num_predict;
    if (q->options.num_predict == -2) s->shift = false; /* the full context is the end */
}

static lm_status make_sequence(lm_runner *r, lm_job *j, const lm_tokens *ids, uint32_t limit, lm_str prompt,
                               lm_sequence **out, lm_err *err) {
    const lm_request *q = j->request;
    lm_sequence *s = lm_try_alloc(1, sizeof(*s));
    if (!s) return lm_fail(err, LM_NO_MEMORY, "no memory for a request");
    s->job = j;
    s->text = r->text;
    s->think_end = -1;
    s->ending = LM_NO_ENDING;
    s->limit = limit;
    s->n_prompt = s->n_tokens = ids->n;
    s->n_keep = tokens_to_keep(r, q, ids, limit);
    s->logprobs = q->logprobs;
    s->n_top = q->logprobs ? (q->top_logprobs < LM_TOP_MOST ? q->top_logprobs : LM_TOP_MOST) : 0;
    set_limits(s, q);
    lm_buf_init(&s->out, OUT_BYTES);
    lm_sampler_init(&s->sampler, &q->options, limit);
    s->sampler.biases = q->biases;
    s->sampler.n_biases = q->n_biases;
    lm_status st = LM_OK;
    s->tokens = lm_try_alloc(limit, sizeof(*s->tokens));
    if (q->want_context) {
        s->context_room = ids->n + 1024;
        s->context = lm_try_alloc(s->context_room, sizeof(*s->context));
    }
    if (!s->tokens || (q->want_context && !s->context)) {
        st = lm_fail(err, LM_NO_MEMORY, "no memory for a sequence of %u tokens", limit);
    } else {
        memcpy(s->tokens, ids->ids, ids->n * sizeof(*ids->ids));
        if (s->context) {
            memcpy(s->context, ids->ids, ids->n * sizeof(*ids->ids));
            s->n_context = ids->n;
        }
        st = open_way_back(r, q, s, prompt, err);
    }
    if (st != LM_OK) {
        lm_sequence_free(s);
        return st;
    }
    *out = s;
    return LM_OK;
}

lm_status lm_prepare(lm_runner *r, lm_job *j, lm_sequence **out, lm_buf *prompt, lm_err *err) {
    lm_request *q = j->request;
    uint32_t limit = q->options.num_ctx ? q->options.num_ctx : r->engine->config.default_ctx;
    if (limit > r->n_ctx) limit = r->n_ctx;
    if (limit < 4) limit = 4;
    if (q->kind == LM_REQUEST_EMBED) return lm_prepare_embedding(r, j, limit, out, err);
    if (r->info.encoder) return lm_fail(err, LM_INVALID, "\"%s\" does not support generate", j->name);
    lm_tokens ids = {0};
    lm_status st = q->count_only ? render_and_tokenise(r, q, 0, prompt, &ids, err)
                                 : fit(r, j, limit, prompt, &ids, err);
    if (q->count_only) {
        j->metrics.n_prompt = ids.n;
        lm_buf_clear(prompt);
    }
    if (st == LM_OK && !q->render_only && !q->count_only) st = make_sequence(r, j, &ids, limit, lm_buf_view(prompt), out, err);
    lm_tokens_release(&ids);
    return st;
}
