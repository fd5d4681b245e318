#include "cli/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/lines.h"
#include "cli/progress.h"
#include "cli/term.h"
#include "cli/text.h"

#define CONNECT_MS  5000
#define MAX_STREAM  (UINT64_C(1) << 30)
#define MAX_REQUEST (UINT64_C(1) << 30) /* with pictures, and what was said before */

lm_status wire_open(wire *w, const char *url, const char *api_key, lm_err *err) {
    *w = (wire){0};
    snprintf(w->url, sizeof w->url, "%s", url);
    lm_status st = lm_client_open(&w->client, err);
    if (st == LM_OK && api_key && asprintf(&w->auth, "Authorization: Bearer %s", api_key) < 0) {
        w->auth = NULL;
        st = lm_fail(err, LM_NO_MEMORY, "no memory for a key");
    }
    return st;
}

void wire_close(wire *w) {
    lm_client_close(w->client);
    free(w->auth);
    *w = (wire){0};
}

/* ---- one request */

typedef struct asking {
    wire *w;
    lm_lines lines;
    wire_event *event; /* NULL: the answer is wanted whole */
    wire_read *read;   /* NULL: nothing is uploaded */
    uint64_t n_read;
    spinner wait; /* where nothing else shows that it goes on */
    void *ctx;
    lm_status st; /* of the stream */
    lm_err *err;
} asking;

static bool on_wait(void *ctx) {
    asking *k = ctx;
    if (k->w->idle)
        k->w->idle(k->w->idle_ctx);
    else if (!k->event)
        spinner_turn(&k->wait);
    return !term_signal() && !term_broken();
}

static lm_status refused(int status, const char *said, const char *path, lm_err *err) {
    lm_status st = LM_INTERNAL;
    if (status == 404) st = LM_NOT_FOUND;
    if (status == 400) st = LM_INVALID;
    if (status == 401 || status == 403) st = LM_DENIED;
    if (status == 429 || status == 503) st = LM_BUSY;
    char clean[400];
    text_clean_line(said, clean, sizeof clean);
    /* Words are for people; a page, or an object without an error, needs to be said what it is. */
    bool words = clean[0] && clean[0] != '{' && clean[0] != '<';
    if (words) return lm_fail(err, st, "%s", clean);
    if (clean[0]) return lm_fail(err, st, "the server answered %d to %s: %s", status, path, clean);
    return lm_fail(err, st, "the server answered %d to %s, without a word", status, path);
}

/* false ends the stream; k->st says whether it is for a fault. */
static bool take_line(void *ctx, lm_str line) {
    asking *k = ctx;
    if (!lm_str_trim(line).len) return true;
    json_t *o = NULL;
    lm_err why = {0};
    if (lm_json_parse(line, &o, &why) != LM_OK || !json_is_object(o)) {
        k->st = lm_fail(k->err, LM_CORRUPT,
                        "what came from %s is no stream of JSON objects: is another program there? (%s)",
                        k->w->url, why.text[0] ? why.text : "no object");
        json_decref(o);
        return false;
    }
    const json_t *error = json_object_get(o, "error");
    bool goes_on = false;
    if (error) {
        const char *said =
            json_string_value(json_is_object(error) ? json_object_get(error, "message") : error);
        int status = (int)json_integer_value(json_object_get(o, "status_code"));
        k->st = refused(status ? status : 500, said ? said : "an error without words", "a stream", k->err);
    } else {
        goes_on = k->event(k->ctx, o);
        if (!goes_on) k->st = LM_CANCELLED;
    }
    json_decref(o);
    return goes_on;
}

static bool on_body(void *ctx, lm_str piece) {
    asking *k = ctx;
    lm_status st = lm_lines_add(&k->lines, piece, take_line, k, k->err);
    if (st != LM_OK && st != LM_CANCELLED) k->st = st;
    return st == LM_OK && !term_signal() && !term_broken();
}

static size_t give_body(void *ctx, uint64_t at, char *out, size_t room) {
    asking *k = ctx;
    return k->read(k->ctx, at, out, room);
}

static lm_status ask(asking *k, const char *method, const char *path, const json_t *body, lm_answer *a,
                     lm_err *err) {
    char url[1024];
    snprintf(url, sizeof url, "%s%s", k->w->url, path);
    lm_buf text;
    lm_buf_init(&text, MAX_REQUEST);
    if (body) lm_json_write_value(&text, body);
    lm_status st = lm_buf_status(&text, "the request", err);
    if (st != LM_OK) {
        *a = (lm_answer){0};
        lm_buf_release(&text);
        return st;
    }
    const char *headers[] = {k->read ? "Content-Type: application/octet-stream" : k->w->auth,
                             k->read ? k->w->auth : NULL, NULL};
    lm_ask q = {.method = method,
                .url = url,
                .headers = headers,
                .body = lm_buf_view(&text),
                .send = k->read ? give_body : NULL,
                .n_send = k->n_read,
                .connect_ms = CONNECT_MS,
                .max_body = k->event ? MAX_STREAM : 0,
                .on_wait = on_wait,
                .on_body = k->event ? on_body : NULL,
                .ctx = k};
    spinner_start(&k->wait);
    st = lm_client_ask(k->w->client, &q, a, err);
    spinner_stop(&k->wait);
    lm_buf_release(&text);
    k->w->status = a->status;
    if (st == LM_CANCELLED && term_signal()) lm_fail(err, st, "interrupted");
    return st;
}

static lm_status judge(const lm_answer *a, const char *path, lm_err *err) {
    if (a->status >= 200 && a->status < 300) return LM_OK;
    char said[400];
    lm_answer_error(a, said, sizeof said);
    return refused(a->status, said, path, err);
}

lm_status wire_json(wire *w, const char *method, const char *path, const json_t *body, json_t **out,
                    lm_err *err) {
    asking k = {.w = w, .err = err};
    lm_answer a;
    json_t *o = NULL;
    lm_status st = ask(&k, method, path, body, &a, err);
    if (st == LM_OK) st = judge(&a, path, err);
    if (st == LM_OK && out) {
        lm_err why = {0};
        if (lm_json_parse(lm_buf_view(&a.body), &o, &why) != LM_OK || !json_is_object(o)) {
            st = lm_fail(
                err, LM_CORRUPT,
                "%s answered %s with something that is no JSON object: is another program there? (%s)",
                w->url, path, why.text[0] ? why.text : "no object");
            json_decref(o);
        }
    }
    lm_answer_release(&a);
    if (st == LM_OK && out) *out = o;
    return st;
}

lm_status wire_upload(wire *w, const char *path, uint64_t bytes, wire_read *read, void *ctx, lm_err *err) {
    asking k = {.w = w, .read = read, .n_read = bytes, .ctx = ctx, .err = err};
    lm_answer a;
    lm_status st = ask(&k, "POST", path, NULL, &a, err);
    if (st == LM_OK) st = judge(&a, path, err);
    lm_answer_release(&a);
    return st;
}

lm_status wire_stream(wire *w, const char *path, const json_t *body, wire_event *event, void *ctx,
                      lm_err *err) {
    asking k = {.w = w, .event = event, .ctx = ctx, .err = err};
    lm_answer a;
    lm_err why = {0};
    lm_lines_init(&k.lines, WIRE_MAX_LINE);
    lm_status st = ask(&k, "POST", path, body, &a, &why);
    if (st == LM_OK) st = judge(&a, path, &why);
    /* A server that forgets the last line's end has still said what stands there. */
    if (st == LM_OK && lm_lines_rest(&k.lines).len && k.st == LM_OK) take_line(&k, lm_lines_rest(&k.lines));
    if (k.st != LM_OK)
        st = k.st; /* err has its words */
    else if (st != LM_OK && err)
        *err = why;
    lm_lines_release(&k.lines);
    lm_answer_release(&a);
    return st;
}

int wire_exit(const wire *w, lm_status st) {
    if (st == LM_OK) return CLI_OK;
    if (term_signal()) return CLI_SIGNAL + term_signal();
    if (st == LM_NOT_FOUND) return w->status ? CLI_NO_MODEL : CLI_NO_SERVER;
    return CLI_FAILED;
}
