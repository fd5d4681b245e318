/* The three endpoints for vectors: the checks in Ollama's order, then the engine, then one JSON document. */
#include "api/embed.h"

#include <stdlib.h>

#include "api/openai.h"

typedef struct embed_run {
    lm_call *call;
    embed_form form;
    bool base64;
    uint64_t submitted_ns;
    char *model; /* as JSON, with quotes */
} embed_run;

static embed_run *run_new(lm_call *call, const embed_request *r) {
    lm_buf name;
    lm_buf_init(&name, MAX_ANSWER);
    lm_json_write_string(&name, lm_str_of(r->ask.model));
    embed_run *run = lm_alloc(sizeof *run);
    *run = (embed_run){.call = lm_call_ref(call),
                       .form = r->form,
                       .base64 = r->base64,
                       .submitted_ns = lm_now_ns(),
                       .model = lm_buf_take(&name)};
    return run;
}

static void run_free(embed_run *run) {
    lm_call_unref(run->call);
    free(run->model);
    free(run);
}

static void reply_error(lm_call *call, embed_form form, lm_status st, const char *text) {
    if (form == EMBED_OPENAI)
        openai_error(call, st, text);
    else
        ollama_error(call, st, text);
}

/* ---- the answer */

static void write_floats(lm_buf *b, const float *v, uint32_t n) {
    lm_buf_char(b, '[');
    for (uint32_t i = 0; i < n; i++) {
        if (i) lm_buf_char(b, ',');
        lm_json_write_float(b, v[i]);
    }
    lm_buf_char(b, ']');
}

/* As Go writes a float64 that was a float: all its digits. */
static void write_doubles(lm_buf *b, const float *v, uint32_t n) {
    lm_buf_char(b, '[');
    for (uint32_t i = 0; i < n; i++) {
        if (i) lm_buf_char(b, ',');
        lm_json_write_double(b, (double)v[i]);
    }
    lm_buf_char(b, ']');
}

/* n floats, little-endian, in base64. Source: RFC 4648 section 4. */
static void write_base64(lm_buf *b, const float *v, uint32_t n) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = (size_t)n * 4;
    uint32_t group = 0;
    lm_buf_char(b, '"');
    for (size_t i = 0; i < bytes; i++) {
        union {
            float number;
            uint32_t bits;
        } of = {.number = v[i / 4]};
        group = group << 8 | (of.bits >> (8 * (i % 4)) & 0xff);
        if (i % 3 != 2 && i + 1 < bytes) continue;
        uint32_t have = (uint32_t)(i % 3) + 1; /* bytes in this group */
        group <<= 8 * (3 - have);
        char four[4] = {letters[group >> 18 & 63], letters[group >> 12 & 63], letters[group >> 6 & 63],
                        letters[group & 63]};
        for (uint32_t k = have + 1; k < 4; k++) four[k] = '=';
        lm_buf_add(b, four, 4);
        group = 0;
    }
    lm_buf_char(b, '"');
}

static void write_metric(lm_buf *b, const char *key, uint64_t value) {
    if (value) lm_buf_printf(b, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void write_ollama(lm_buf *b, const embed_run *run, const lm_event *e) {
    lm_buf_printf(b, "{\"model\":%s,\"embeddings\":[", run->model);
    for (uint32_t i = 0; i < e->n_vectors; i++) {
        if (i) lm_buf_char(b, ',');
        write_floats(b, e->vectors + (size_t)i * e->vector_width, e->vector_width);
    }
    lm_buf_char(b, ']');
    if (e->n_vectors) {
        uint64_t started = lm_http_started_ns(run->call->x);
        write_metric(b, "total_duration", lm_now_ns() - started);
        write_metric(b, "load_duration", e->metrics.load_ns + (run->submitted_ns - started));
        write_metric(b, "prompt_eval_count", e->metrics.n_prompt);
    }
    lm_buf_char(b, '}');
}

static void write_openai(lm_buf *b, const embed_run *run, const lm_event *e) {
    lm_buf_text(b, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < e->n_vectors; i++) {
        const float *v = e->vectors + (size_t)i * e->vector_width;
        lm_buf_text(b, i ? ",{\"object\":\"embedding\",\"embedding\":"
                         : "{\"object\":\"embedding\",\"embedding\":");
        if (run->base64)
            write_base64(b, v, e->vector_width);
        else
            write_floats(b, v, e->vector_width);
        lm_buf_printf(b, ",\"index\":%u}", i);
    }
    lm_buf_printf(b, "],\"model\":%s,\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}}", run->model,
                  e->metrics.n_prompt, e->metrics.n_prompt);
}

static void finish(embed_run *run, const lm_event *e) {
    lm_buf b;
    lm_buf_init(&b, MAX_ANSWER);
    if (run->form == EMBED_OLLAMA) {
        write_ollama(&b, run, e);
    } else if (run->form == EMBED_OPENAI) {
        write_openai(&b, run, e);
    } else {
        lm_buf_text(&b, "{\"embedding\":");
        write_doubles(&b, e->vectors, e->n_vectors ? e->vector_width : 0);
        lm_buf_char(&b, '}');
    }
    lm_err err = {0};
    if (lm_buf_status(&b, "the answer", &err) == LM_OK)
        lm_reply_json(run->call, 200, &b);
    else
        reply_error(run->call, run->form, LM_INVALID,
                    "the answer is too large: send the inputs in several requests");
    lm_buf_release(&b);
}

static void sink(void *ctx, const lm_event *e) {
    embed_run *run = ctx;
    if (e->kind == LM_EVENT_DONE) {
        lm_call_note_metrics(run->call, &e->metrics);
        finish(run, e);
    } else if (e->kind == LM_EVENT_ERROR) {
        lm_err err = {0};
        lm_fail(&err, e->status, "%.*s", LM_STR_ARG(e->text));
        /* Ollama's older endpoint has one status for whatever is wrong with a text. */
        bool own = run->form == EMBED_LEGACY && e->status == LM_INVALID;
        reply_error(run->call, run->form, own ? LM_INTERNAL : e->status, err.text);
    } else {
        return;
    }
    run_free(run);
}

/* ---- the request */

/* Ollama's texts, which differ from those of its other endpoints. */
static lm_status find_model(lm_call *call, const embed_request *r, lm_entry *model, lm_err *err) {
    const char *name = r->ask.model;
    lm_status st = name[0] ? lm_store_find(call->api->config.store, name, model, err) : LM_INVALID;
    if (st == LM_INVALID && r->form == EMBED_LEGACY) return lm_fail(err, LM_INVALID, "model is required");
    if (st == LM_INVALID) return lm_fail(err, LM_NOT_FOUND, "model '%.300s' not found", name);
    if (st == LM_NOT_FOUND) return lm_fail(err, st, "model \"%.300s\" not found, try pulling it first", name);
    return st;
}

static lm_status meet_model(lm_call *call, embed_request *r, const lm_entry *model, lm_err *err) {
    lm_facts facts;
    lm_facts_get(call->api->facts, model, &facts);
    const lm_request *q = r->ask.request;
    if (r->form == EMBED_OPENAI && facts.width && q->dimensions > facts.width)
        return lm_fail(err, LM_INVALID, "dimensions must not be above %u, which is all that \"%.300s\" has",
                       facts.width, r->ask.model);
    lm_status st = ollama_read_params(&r->ask, model, err);
    return st == LM_OK ? ollama_request_options(&r->ask, &facts.sampling, err) : st;
}

static lm_status start(lm_call *call, embed_request *r, const lm_entry *model, lm_err *err) {
    embed_run *run = run_new(call, r);
    lm_request *q = r->ask.request;
    r->ask.request = NULL; /* the engine's now, whatever comes of it */
    lm_status st = lm_call_submit(call, model, q, sink, run, err);
    if (st != LM_OK) run_free(run);
    return st;
}

static lm_api_handler *const handlers[] = {
    [EMBED_OLLAMA] = ollama_embed, [EMBED_LEGACY] = ollama_embeddings, [EMBED_OPENAI] = openai_embeddings};

static void embed(lm_call *call, embed_form form) {
    embed_request r = {0};
    lm_entry model;
    lm_err err = {0};
    bool later = false;
    lm_status st = lm_http_body_status(call->x, &err);
    if (st == LM_OK) st = embed_request_read(lm_http_body(call->x), form, &r, &err);
    if (st == LM_OK) {
        lm_call_note_model(call, r.ask.model);
        st = find_model(call, &r, &model, &err);
    }
    if (st == LM_OK) st = lm_call_ready(call, &model, handlers[form], &later, &err);
    if (later) {
        embed_request_release(&r);
        return;
    }
    lm_http_body_drop(call->x);
    if (st == LM_OK) st = meet_model(call, &r, &model, &err);
    if (st == LM_OK) st = start(call, &r, &model, &err);
    if (st != LM_OK) reply_error(call, form, st, err.text);
    embed_request_release(&r);
}

void ollama_embed(lm_call *call) {
    embed(call, EMBED_OLLAMA);
}

void ollama_embeddings(lm_call *call) {
    embed(call, EMBED_LEGACY);
}

void openai_embeddings(lm_call *call) {
    embed(call, EMBED_OPENAI);
}
