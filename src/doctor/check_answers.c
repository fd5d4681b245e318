#include "doctor/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_TOKENS 16

static const char prompt[] = "Count from one to ten in words.";

/* The event that ends an answer. */
static bool judge_done(const char *where, const json_t *o, doctor_result *r) {
    if (!wire_fields(where, o,
                     "model:s created_at:t done:b done_reason:s total_duration:i load_duration:i? "
                     "prompt_eval_count:i? "
                     "prompt_eval_duration:i? eval_count:i eval_duration:i",
                     r))
        return false;
    const char *why = json_string_value(json_object_get(o, "done_reason"));
    json_int_t n = json_integer_value(json_object_get(o, "eval_count"));
    json_int_t total = json_integer_value(json_object_get(o, "total_duration"));
    json_int_t eval = json_integer_value(json_object_get(o, "eval_duration"));
    if (!json_is_true(json_object_get(o, "done")))
        return doctor_failed(r, REMEDY_WIRE, "%s: done must be true at the end", where);
    if (strcmp(why, "stop") && strcmp(why, "length"))
        return doctor_failed(r, REMEDY_WIRE, "%s: done_reason is \"%s\", must be stop or length", where, why);
    if (n < 1 || n > N_TOKENS)
        return doctor_failed(r, REMEDY_WIRE, "%s: eval_count is %lld, num_predict was %d", where,
                             (long long)n, N_TOKENS);
    if (eval < 0 || total < eval || !total)
        return doctor_failed(r, REMEDY_WIRE,
                             "%s: total_duration is %lld ns, eval_duration %lld ns: they do not fit", where,
                             (long long)total, (long long)eval);
    return true;
}

static double rate(const json_t *o) {
    double ns = json_number_value(json_object_get(o, "eval_duration"));
    return ns > 0 ? json_number_value(json_object_get(o, "eval_count")) / ns * 1e9 : 0;
}

void check_generate(doctor *d, doctor_result *r) {
    static const char where[] = "POST /api/generate";
    json_t *body = wire_request(d->model, false, false, prompt, N_TOKENS);
    json_t *o = wire_json(&d->wire, "POST", "/api/generate", body, r);
    json_decref(body);
    if (o && wire_fields(where, o, "response:s context:a?", r) && judge_done(where, o, r)) {
        const char *model = json_string_value(json_object_get(o, "model"));
        if (strcmp(model, d->model))
            doctor_failed(r, REMEDY_WIRE, "%s: model is \"%s\", \"%s\" was asked for", where, model,
                          d->model);
        else
            doctor_passed(r, "%lld tokens, loaded in %.2f s",
                          (long long)json_integer_value(json_object_get(o, "eval_count")),
                          json_number_value(json_object_get(o, "load_duration")) / 1e9);
    }
    json_decref(o);
}

static void judge_stream(doctor *d, bool chat, doctor_result *r) {
    const char *path = chat ? "/api/chat" : "/api/generate",
               *where = chat ? "POST /api/chat" : "POST /api/generate";
    json_t *body = wire_request(d->model, chat, true, prompt, N_TOKENS);
    wire_stream s;
    bool ok = wire_stream_ask(&d->wire, path, body, &s, r);
    json_decref(body);
    if (!ok) return;
    const json_t *message = json_object_get(s.last, "message");
    const char *role = json_string_value(json_object_get(message, "role"));
    if (judge_done(where, s.last, r)) {
        if (chat && (!role || strcmp(role, "assistant")))
            doctor_failed(r, REMEDY_WIRE, "%s: the message's role must be assistant", where);
        else
            doctor_passed(r, "%u events, the first text after %.2f s, %.1f tokens/s", s.n_events + 1,
                          (double)s.first_ns / 1e9, rate(s.last));
    }
    wire_stream_release(&s);
}

void check_stream(doctor *d, doctor_result *r) {
    judge_stream(d, false, r);
}

void check_chat(doctor *d, doctor_result *r) {
    judge_stream(d, true, r);
}

/* ---- what a server may lack */

static bool is_absent(const lm_answer *a, doctor_result *r) {
    char said[200];
    lm_answer_error(a, said, sizeof said);
    bool lacks_model = a->status >= 400 && strstr(said, "does not support");
    if (a->status != 404 && a->status != 405 && a->status != 501 && !lacks_model) return false;
    doctor_skipped(r, "%s (%d%s%s)", lacks_model ? "not with this model" : "not offered by this server",
                   a->status, said[0] ? ": " : "", said);
    return true;
}

static bool judge_vectors(const json_t *o, doctor_result *r) {
    if (!wire_fields("POST /api/embed", o, "model:s embeddings:a total_duration:i?", r)) return false;
    const json_t *vectors = json_object_get(o, "embeddings"), *first = json_array_get(vectors, 0), *v;
    size_t i;
    double square = 0;
    json_array_foreach(first, i, v) square += json_number_value(v) * json_number_value(v);
    if (json_array_size(vectors) != 2 || !json_array_size(first) ||
        json_array_size(first) != json_array_size(json_array_get(vectors, 1)))
        return doctor_failed(r, REMEDY_WIRE,
                             "POST /api/embed: two texts must give two vectors of one length");
    if (!(fabs(square - 1) < 0.01))
        return doctor_failed(r, REMEDY_WIRE, "POST /api/embed: a vector's length is %.3f, must be 1",
                             sqrt(square));
    doctor_passed(r, "%zu dimensions", json_array_size(first));
    return true;
}

void check_embed(doctor *d, doctor_result *r) {
    json_t *body = json_pack("{s:s, s:[s, s]}", "model", d->model, "input", "one", "two");
    lm_answer a;
    if (wire_ask(&d->wire, "POST", "/api/embed", body, &a, r)) {
        if (!is_absent(&a, r)) {
            json_t *o = wire_body("POST", "/api/embed", &a, r);
            if (o) (void)judge_vectors(o, r);
            json_decref(o);
        }
        lm_answer_release(&a);
    }
    json_decref(body);
}

static void judge_completion(const json_t *o, doctor_result *r) {
    static const char where[] = "POST /v1/chat/completions";
    if (!wire_fields(where, o, "id:s object:s created:i model:s choices:a usage:o", r)) return;
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0),
                 *usage = json_object_get(o, "usage");
    const json_t *message = json_object_get(choice, "message");
    if (!wire_fields(where, choice, "index:i message:o finish_reason:s", r) ||
        !wire_fields(where, message, "role:s content:s?", r) ||
        !wire_fields(where, usage, "prompt_tokens:i completion_tokens:i total_tokens:i", r))
        return;
    doctor_passed(r, "%lld tokens",
                  (long long)json_integer_value(json_object_get(usage, "completion_tokens")));
}

void check_openai(doctor *d, doctor_result *r) {
    json_t *body = json_pack("{s:s, s:i, s:[{s:s, s:s}]}", "model", d->model, "max_tokens", N_TOKENS,
                             "messages", "role", "user", "content", prompt);
    lm_answer a;
    if (wire_ask(&d->wire, "POST", "/v1/chat/completions", body, &a, r)) {
        if (!is_absent(&a, r)) {
            json_t *o = wire_body("POST", "/v1/chat/completions", &a, r);
            if (o) judge_completion(o, r);
            json_decref(o);
        }
        lm_answer_release(&a);
    }
    json_decref(body);
}

/* ---- leaving */

typedef struct leaver {
    doctor *d;
    uint32_t n_bytes;
} leaver;

static bool leave(void *ctx, lm_str piece) {
    leaver *l = ctx;
    l->n_bytes += (uint32_t)piece.len;
    return memchr(piece.ptr, '\n', piece.len) == NULL;
}

static bool tick(void *ctx) {
    leaver *l = ctx;
    report_tick(&l->d->report);
    return !process_interrupted();
}

/* Leaves after the first event of a long answer. */
static bool leave_in_the_middle(doctor *d, doctor_result *r) {
    json_t *body =
        wire_request(d->model, false, true, "Write a very long story about a lighthouse keeper.", 4000);
    char *text = json_dumps(body, JSON_COMPACT), url[1024];
    snprintf(url, sizeof url, "%s/api/generate", d->url);
    leaver l = {.d = d};
    lm_ask q = {.method = "POST",
                .url = url,
                .body = lm_str_of(text),
                .silent_ms = d->wire.timeout_s * 1000,
                .on_body = leave,
                .on_wait = tick,
                .ctx = &l};
    lm_answer a;
    lm_err err = {0};
    lm_status st = lm_client_ask(d->wire.client, &q, &a, &err);
    bool ok = st == LM_CANCELLED && l.n_bytes;
    if (st == LM_OK && a.status != 200)
        wire_refused("POST", "/api/generate", &a, r);
    else if (!ok)
        doctor_failed(r, "look at the server's log: it has the cause",
                      "the answer to leave did not begin: %s", st == LM_OK ? "it was empty" : err.text);
    lm_answer_release(&a);
    free(text);
    json_decref(body);
    return ok;
}

/* Until the server's own counters say that the abandoned request does not run any more. */
static bool wait_until_quiet(doctor *d, json_int_t cancelled_before, doctor_result *r) {
    uint64_t end = lm_now_ns() + d->brief.timeout_s * UINT64_C(1000000000);
    for (;;) {
        json_t *o = wire_json(&d->brief, "GET", "/health", NULL, r);
        if (!o) return false;
        bool quiet = !json_integer_value(json_object_get(o, "running")) &&
                     !json_integer_value(json_object_get(o, "waiting"));
        bool counted = json_integer_value(json_object_get(o, "cancelled")) > cancelled_before;
        json_decref(o);
        if (quiet || counted) return true;
        if (lm_now_ns() > end)
            return doctor_failed(
                r, "each client that leaves costs a whole answer: report it with the server's log",
                "the request still runs %u s after its client left", d->brief.timeout_s);
        report_tick(&d->report);
        usleep(20000);
    }
}

void check_leaving(doctor *d, doctor_result *r) {
    json_int_t before = 0;
    if (d->ours) {
        json_t *o = wire_json(&d->brief, "GET", "/health", NULL, r);
        if (!o) return;
        before = json_integer_value(json_object_get(o, "cancelled"));
        json_decref(o);
    }
    if (!leave_in_the_middle(d, r)) return;
    if (d->ours && !wait_until_quiet(d, before, r)) return;
    json_t *body = wire_request(d->model, false, false, prompt, N_TOKENS);
    json_t *o = wire_json(&d->wire, "POST", "/api/generate", body, r);
    json_decref(body);
    if (o && judge_done("POST /api/generate, after a client left", o, r))
        doctor_passed(r, "%sthe next request is answered", d->ours ? "its request ends, and " : "");
    json_decref(o);
}

void check_unload(doctor *d, doctor_result *r) {
    if (wire_unload(&d->wire, d->model, r)) doctor_passed(r, "%s is gone from /api/ps", d->model);
}
