#include "doctor/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/lines.h"

#define MAX_EVENT (8u << 20) /* bytes of one line: what Ollama's own client takes */
#define MAX_TEXT  (16u << 20)
#define UNLOAD_S  20

bool wire_is_here(const char *url, uint16_t *port) {
    char host[256];
    lm_address_parse(url, 0, host, port);
    return !strncmp(host, "127.", 4) || !strcmp(host, "localhost") || !strcmp(host, "::1");
}

/* ---- one request */

typedef struct asking {
    const wire *w;
    wire_stream *stream; /* or NULL */
    const char *path, *model;
    doctor_result *r;
    json_int_t max_events;
    lm_lines lines;
    uint64_t started_ns;
    bool wrong; /* r says what */
} asking;

static bool on_wait(void *ctx) {
    asking *a = ctx;
    report_tick(a->w->report);
    return !process_interrupted();
}

static bool no_answer(lm_status st, const char *method, const char *path, const lm_err *err,
                      doctor_result *r) {
    const char *remedy;
    switch (st) {
    case LM_NOT_FOUND:
        remedy =
            "start it (mlx-ollama-bridge, or ollama serve), say where it is (--url URL), or let me start one "
            "(--start)";
        break;
    case LM_TIMEOUT:
        remedy =
            "the server hangs, or needs longer: look at its log, restart it, or give it time with --timeout "
            "SECONDS";
        break;
    case LM_IO:
        remedy = "the server has cut the connection, or died: look at its log and start it again";
        break;
    case LM_CORRUPT:
        remedy = "another program has this port: stop it, or name the right one with --url";
        break;
    case LM_INVALID: remedy = "name the server as http://host:port"; break;
    case LM_CANCELLED: remedy = "run it again"; break;
    default: remedy = REMEDY_WIRE; break;
    }
    return doctor_failed(r, remedy, "%s %s: %s", method, path, err->text);
}

static lm_status send_it(asking *k, const char *method, const char *path, const json_t *body, lm_answer *a,
                         bool (*on_body)(void *, lm_str), lm_err *err) {
    char url[1024];
    snprintf(url, sizeof url, "%s%s", k->w->url, path);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    lm_ask q = {.method = method,
                .url = url,
                .body = lm_str_of(text),
                .silent_ms = k->w->timeout_s * 1000,
                .total_ms = k->w->total_s * 1000,
                .on_wait = on_wait,
                .on_body = on_body,
                .ctx = k};
    k->started_ns = lm_now_ns();
    lm_status st = lm_client_ask(k->w->client, &q, a, err);
    free(text);
    return st;
}

bool wire_ask(const wire *w, const char *method, const char *path, const json_t *body, lm_answer *a,
              doctor_result *r) {
    asking k = {.w = w, .r = r};
    lm_err err = {0};
    lm_status st = send_it(&k, method, path, body, a, NULL, &err);
    if (st == LM_OK) return true;
    lm_answer_release(a);
    return no_answer(st, method, path, &err, r);
}

bool wire_refused(const char *method, const char *path, const lm_answer *a, doctor_result *r) {
    char said[200];
    lm_answer_error(a, said, sizeof said);
    const char *remedy = "look at the server's log: it has the cause";
    if (a->status == 403)
        remedy = "the server refuses this Host or Origin: ask it as 127.0.0.1, or see OLLAMA_ORIGINS";
    if (a->status == 404)
        remedy = "the server does not know this: update it, or is it another program? See --url";
    if (a->status == 404 && strstr(said, "not found"))
        remedy = "the model is not there: import or pull it, or choose another with --model";
    if (a->status == 400) remedy = "the server does not take what Ollama takes: update it";
    if (a->status == 503) remedy = "the server is busy: try again when it has less to do";
    if (a->status == 500 && strstr(said, "memory"))
        remedy = "free memory, or choose a smaller model with --model";
    return doctor_failed(r, remedy, "%s %s answered %d: %s", method, path, a->status,
                         said[0] ? said : "no text");
}

json_t *wire_body(const char *method, const char *path, const lm_answer *a, doctor_result *r) {
    lm_err err = {0};
    json_t *o = NULL;
    if (a->status != 200)
        wire_refused(method, path, a, r);
    else if (strcmp(a->content_type, "application/json"))
        doctor_failed(r, REMEDY_WIRE, "%s %s: its Content-Type is \"%s\", must be application/json", method,
                      path, a->content_type);
    else if (lm_json_parse(lm_buf_view(&a->body), &o, &err) != LM_OK)
        doctor_failed(r, REMEDY_WIRE, "%s %s: what came is no JSON: %s", method, path, err.text);
    else if (!json_is_object(o)) {
        doctor_failed(r, REMEDY_WIRE, "%s %s: what came is no JSON object", method, path);
        json_decref(o);
        o = NULL;
    }
    return o;
}

json_t *wire_json(const wire *w, const char *method, const char *path, const json_t *body, doctor_result *r) {
    lm_answer a;
    if (!wire_ask(w, method, path, body, &a, r)) return NULL;
    json_t *o = wire_body(method, path, &a, r);
    lm_answer_release(&a);
    return o;
}

/* ---- fields */

bool wire_is_time(const json_t *v) {
    int y = 0, mo = 0, d = 0, h = 0, mi = 0, s = 0, n = 0;
    const char *t = json_string_value(v);
    if (!t || sscanf(t, "%4d-%2d-%2dT%2d:%2d:%2d%n", &y, &mo, &d, &h, &mi, &s, &n) != 6 || n != 19)
        return false;
    const char *zone = t + 19 + (t[19] == '.' ? 1 + strspn(t + 20, "0123456789") : 0);
    return !strcmp(zone, "Z") || ((zone[0] == '+' || zone[0] == '-') && strlen(zone) == 6 && zone[3] == ':');
}

static bool is_kind(const json_t *v, char kind) {
    switch (kind) {
    case 's': return json_is_string(v);
    case 'b': return json_is_boolean(v);
    case 'i': return json_is_integer(v);
    case 'n': return json_is_number(v);
    case 'a': return json_is_array(v);
    case 'o': return json_is_object(v);
    case 't': return wire_is_time(v);
    default: LM_ASSERT(!"a kind of field"); return false;
    }
}

static const char *kind_name(char kind) {
    switch (kind) {
    case 's': return "a string";
    case 'b': return "true or false";
    case 'i': return "an integer";
    case 'n': return "a number";
    case 'a': return "an array";
    case 'o': return "an object";
    default: return "a time (2026-01-31T09:08:07Z)";
    }
}

bool wire_fields(const char *where, const json_t *object, const char *spec, doctor_result *r) {
    if (!json_is_object(object))
        return doctor_failed(r, REMEDY_WIRE, "%s: what should be an object is none", where);
    while (*spec) {
        size_t n = strcspn(spec, " ");
        const char *colon = memchr(spec, ':', n);
        LM_ASSERT(colon && n < 64);
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(colon - spec), spec);
        bool optional = spec[n - 1] == '?';
        const json_t *v = json_object_get(object, key);
        if (!v && !optional) return doctor_failed(r, REMEDY_WIRE, "%s: the field %s is missing", where, key);
        if (v && !is_kind(v, colon[1]))
            return doctor_failed(r, REMEDY_WIRE, "%s: the field %s must be %s", where, key,
                                 kind_name(colon[1]));
        spec += n;
        spec += strspn(spec, " ");
    }
    return true;
}

/* ---- streams */

static void take_text(asking *k, const char *text) {
    if (!text || !text[0]) return;
    if (!k->stream->first_ns) k->stream->first_ns = lm_now_ns() - k->started_ns;
    lm_buf_text(&k->stream->text, text);
}

/* One event; takes o over. */
static bool take_event(asking *k, json_t *o) {
    wire_stream *s = k->stream;
    const char *error = json_string_value(json_object_get(o, "error"));
    bool ok = false;
    if (error) {
        doctor_failed(k->r, "look at the server's log: it has the cause",
                      "POST %s: an error came in the middle of the answer: %s", k->path, error);
    } else if (s->last) {
        doctor_failed(k->r, REMEDY_WIRE, "POST %s: something came after the event that is done", k->path);
    } else if (s->n_events > k->max_events) {
        doctor_failed(
            k->r,
            "the server does not keep to num_predict: update it, or report it with the output of --json",
            "POST %s: the answer does not end: %u events so far", k->path, s->n_events);
    } else if (wire_fields(k->path, o, "model:s created_at:t done:b", k->r)) {
        const char *model = json_string_value(json_object_get(o, "model"));
        const json_t *message = json_object_get(o, "message"), *in = message ? message : o;
        ok = !strcmp(model, k->model);
        if (!ok)
            doctor_failed(k->r, REMEDY_WIRE, "POST %s: the event's model is \"%s\", \"%s\" was asked for",
                          k->path, model, k->model);
        if (ok && message) ok = wire_fields(k->path, message, "role:s content:s thinking:s?", k->r);
        if (ok && !message) ok = wire_fields(k->path, o, "response:s thinking:s?", k->r);
        if (ok) {
            take_text(k, json_string_value(json_object_get(in, "thinking")));
            take_text(k, json_string_value(json_object_get(in, message ? "content" : "response")));
            s->last_ns = lm_now_ns() - k->started_ns;
            if (json_is_true(json_object_get(o, "done")))
                s->last = json_incref(o);
            else
                s->n_events++;
        }
    }
    json_decref(o);
    return ok;
}

static bool take_line(void *ctx, lm_str line) {
    asking *k = ctx;
    json_t *o = NULL;
    lm_err err = {0};
    if (lm_json_parse(line, &o, &err) != LM_OK)
        return doctor_failed(k->r, REMEDY_WIRE, "POST %s: a line of the stream is no JSON (%s): %.*s",
                             k->path, err.text, (int)(line.len < 80 ? line.len : 80),
                             line.ptr ? line.ptr : "");
    return take_event(k, o);
}

static bool on_body(void *ctx, lm_str piece) {
    asking *k = ctx;
    lm_err err = {0};
    lm_status st = lm_lines_add(&k->lines, piece, take_line, k, &err);
    if (st == LM_TOO_LARGE) doctor_failed(k->r, REMEDY_WIRE, "POST %s: %s", k->path, err.text);
    k->wrong = st != LM_OK;
    report_tick(k->w->report);
    return !k->wrong && !process_interrupted();
}

static bool judge_stream(asking *k, lm_status st, const lm_answer *a, const lm_err *err) {
    const wire_stream *s = k->stream;
    if (k->wrong) return false;
    if (st == LM_IO && s->n_events)
        return doctor_failed(
            k->r, "the server, or what computes in it, died while it answered: look at its log",
            "POST %s: the answer broke off after %u events: %s", k->path, s->n_events, err->text);
    if (st != LM_OK) return no_answer(st, "POST", k->path, err, k->r);
    if (a->status != 200) return wire_refused("POST", k->path, a, k->r);
    if (strcmp(a->content_type, "application/x-ndjson"))
        return doctor_failed(k->r, REMEDY_WIRE,
                             "POST %s: a stream's Content-Type is \"%s\", must be application/x-ndjson",
                             k->path, a->content_type);
    if (lm_lines_rest(&k->lines).len)
        return doctor_failed(k->r, REMEDY_WIRE, "POST %s: the stream's last line has no end", k->path);
    if (!s->last)
        return doctor_failed(k->r, "the server gave up in the middle of its answer: look at its log",
                             "POST %s: the stream ended after %u events without one that is done", k->path,
                             s->n_events);
    return true;
}

bool wire_stream_ask(const wire *w, const char *path, const json_t *body, wire_stream *s, doctor_result *r) {
    *s = (wire_stream){0};
    asking k = {.w = w, .stream = s, .path = path, .r = r};
    k.model = json_string_value(json_object_get(body, "model"));
    /* An event has a token or more; some servers send one more for each kind of text. */
    k.max_events =
        16 + 2 * json_integer_value(json_object_get(json_object_get(body, "options"), "num_predict"));
    lm_buf_init(&s->text, MAX_TEXT);
    lm_lines_init(&k.lines, MAX_EVENT);
    lm_answer a;
    lm_err err = {0};
    lm_status st = send_it(&k, "POST", path, body, &a, on_body, &err);
    bool ok = judge_stream(&k, st, &a, &err);
    lm_lines_release(&k.lines);
    lm_answer_release(&a);
    if (!ok) wire_stream_release(s);
    return ok;
}

void wire_stream_release(wire_stream *s) {
    lm_buf_release(&s->text);
    json_decref(s->last);
    s->last = NULL;
}

json_t *wire_request(const char *model, bool chat, bool stream, const char *prompt, uint32_t num_predict) {
    json_t *o =
        json_pack("{s:s, s:b, s:s, s:{s:i, s:i, s:i}}", "model", model, "stream", stream, "keep_alive", "5m",
                  "options", "temperature", 0, "num_predict", (int)num_predict, "num_ctx", 4096);
    if (chat)
        json_object_set_new(o, "messages", json_pack("[{s:s, s:s}]", "role", "user", "content", prompt));
    else
        json_object_set_new(o, "prompt", json_string(prompt));
    return o;
}

/* ---- loaded models */

int wire_loaded(const wire *w, doctor_result *r) {
    json_t *o = wire_json(w, "GET", "/api/ps", NULL, r);
    int n = -1;
    if (o && wire_fields("GET /api/ps", o, "models:a", r))
        n = (int)json_array_size(json_object_get(o, "models"));
    json_decref(o);
    return n;
}

/* A request without a prompt; its done_reason must be this. */
static bool load_or_unload(const wire *w, json_t *body, const char *want, doctor_result *r) {
    json_t *o = wire_json(w, "POST", "/api/generate", body, r);
    json_decref(body);
    if (!o) return false;
    const char *why = json_string_value(json_object_get(o, "done_reason"));
    bool ok = why && !strcmp(why, want);
    if (!ok)
        doctor_failed(r, REMEDY_WIRE,
                      "POST /api/generate without a prompt: done_reason is \"%s\", must be %s",
                      why ? why : "absent", want);
    json_decref(o);
    return ok;
}

bool wire_load(const wire *w, const char *model, doctor_result *r) {
    return load_or_unload(w, wire_request(model, false, false, "", 1), "load", r);
}

bool wire_unload(const wire *w, const char *model, doctor_result *r) {
    if (!wire_load(w, model, r)) return false;
    int before = wire_loaded(w, r);
    if (before < 0) return false;
    if (!before)
        return doctor_failed(r, REMEDY_WIRE,
                             "%s is not in /api/ps, although it has just been loaded for 5 minutes", model);
    if (!load_or_unload(w, json_pack("{s:s, s:i}", "model", model, "keep_alive", 0), "unload", r))
        return false;
    uint32_t patience_s = w->timeout_s < UNLOAD_S ? w->timeout_s : UNLOAD_S;
    uint64_t end = lm_now_ns() + patience_s * UINT64_C(1000000000);
    for (;;) {
        int now = wire_loaded(w, r);
        if (now < 0) return false;
        if (now < before) return true;
        if (lm_now_ns() > end)
            return doctor_failed(
                r, "another client may hold it: try again; if not, restart the server and look at its log",
                "%s is still in /api/ps %u s after keep_alive 0", model, patience_s);
        report_tick(w->report);
        usleep(20000);
    }
}
