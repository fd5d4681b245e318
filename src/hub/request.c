/* request.c - one request to a hub: where it is sent on to, what that place may know, and when it is worth
 * another attempt.
 *
 * The token goes to the hub's own origin and to no other, whoever it sends on to; from https it is never sent
 * on to plain http.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "hub/private.h"

#define MAX_HOPS     6
#define MAX_SIGNINGS 2 /* of one request: a token may have run out */
#define MAX_HEADERS  8
#define CONNECT_MS   15000
#define SILENT_MS    30000

bool lm_hub_stopped(const lm_origin *o) {
    if (o->stop && atomic_load(o->stop)) return true;
    return o->pull && o->pull->go_on && !o->pull->go_on(o->pull->ctx);
}

static bool goes_on(void *ctx) {
    return !lm_hub_stopped(ctx);
}

bool lm_hub_pause(const lm_origin *o, uint32_t attempt, uint64_t wait_ms) {
    uint64_t own = UINT64_C(250) << (attempt < 5 ? attempt - 1 : 4);
    uint64_t end = lm_now_ns() + (wait_ms > own ? wait_ms : own) * 1000000;
    while (lm_now_ns() < end) {
        if (lm_hub_stopped(o)) return false;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return !lm_hub_stopped(o);
}

static bool is_redirect(int status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* What goes away by itself. */
static bool may_pass(int status) {
    return status == 408 || status == 425 || status == 429 || status == 500 ||
           (status >= 502 && status <= 504);
}

lm_status lm_hub_ask(lm_client *c, const lm_origin *o, const lm_ask *ask, lm_answer *out, lm_err *err) {
    lm_ask a = *ask;
    if (!a.method) a.method = "GET";
    a.connect_ms = CONNECT_MS;
    if (!a.silent_ms) a.silent_ms = SILENT_MS;
    if (!a.on_wait) {
        LM_ASSERT(!a.send && !a.on_body && !a.on_head); /* ctx would be theirs */
        a.on_wait = goes_on;
        a.ctx = (void *)(uintptr_t)o;
    }
    return lm_client_ask(c, &a, out, err);
}

/* With what the address may know. *turn: which token that was. */
static lm_status once(lm_client *c, const lm_origin *o, const lm_ask *ask, const char *url, uint32_t *turn,
                      lm_answer *out, lm_err *err) {
    const char *headers[MAX_HEADERS + 3] = {LM_HUB_AGENT};
    uint32_t n = 1;
    for (uint32_t i = 0; ask->headers && ask->headers[i] && i < MAX_HEADERS; i++)
        headers[n++] = ask->headers[i];
    char *token = o->auth ? lm_auth_token(o->auth, turn) : o->token ? lm_strdup(o->token) : NULL;
    lm_buf bearer;
    lm_buf_init(&bearer, 32768);
    if (token && lm_url_same_origin(url, o->base)) {
        lm_buf_printf(&bearer, "Authorization: Bearer %s", token);
        headers[n++] = bearer.ptr;
    }
    lm_ask a = *ask;
    a.url = url;
    a.headers = headers;
    lm_status st = lm_hub_ask(c, o, &a, out, err);
    lm_buf_release(&bearer);
    free(token);
    return st;
}

/* What changes something goes where it is sent and nowhere else: who sends it follows by itself. */
static bool follows(const lm_ask *ask, const lm_answer *a) {
    bool looks = !ask->method || !strcmp(ask->method, "GET") || !strcmp(ask->method, "HEAD");
    return is_redirect(a->status) && looks;
}

static bool wants_name(const lm_origin *o, const char *url, const lm_answer *a) {
    return a->status == 401 && o->auth && lm_url_same_origin(url, o->base);
}

lm_status lm_hub_try(lm_client *c, const lm_origin *o, const lm_ask *ask, lm_answer *out, bool *again,
                     uint64_t *wait_ms, lm_err *err) {
    char *url = lm_strdup(ask->url);
    lm_status st = LM_OK;
    int hop = 0, signings = 0;
    *again = false;
    *wait_ms = 0;
    for (;;) {
        uint32_t turn = 0;
        st = once(c, o, ask, url, &turn, out, err);
        if (st == LM_OK && wants_name(o, url, out) && signings++ < MAX_SIGNINGS) {
            st = lm_auth_renew(c, o, out, turn, err);
        } else if (st == LM_OK && follows(ask, out)) {
            char *next = NULL;
            st = hop++ < MAX_HOPS
                     ? lm_url_join(url, lm_answer_header(out, "Location"), &next, err)
                     : lm_fail(err, LM_IO, "%s is sent on more than %d times", ask->url, MAX_HOPS);
            if (st == LM_OK) {
                free(url);
                url = next;
            }
        } else {
            break;
        }
        if (st != LM_OK) break;
        lm_answer_release(out);
    }
    free(url);
    /* Nobody there: not what LM_NOT_FOUND means to our callers. */
    if (st == LM_NOT_FOUND) st = lm_fail_in(err, LM_IO, "are you online?");
    if (st == LM_OK && may_pass(out->status)) {
        *wait_ms = UINT64_C(1000) * out->retry_after_s;
        *again = *wait_ms <= LM_HUB_MAX_WAIT;
    } else {
        *again = st == LM_IO || st == LM_TIMEOUT;
    }
    return st;
}

lm_status lm_hub_get(lm_client *c, const lm_origin *o, lm_ask *ask, lm_answer *out, lm_err *err) {
    for (uint32_t attempt = 1;; attempt++) {
        bool again = false;
        uint64_t wait_ms = 0;
        lm_status st = lm_hub_try(c, o, ask, out, &again, &wait_ms, err);
        if (!again || attempt == LM_HUB_ATTEMPTS) return st;
        lm_answer_release(out);
        if (!lm_hub_pause(o, attempt, wait_ms)) {
            *out = (lm_answer){0};
            return lm_fail(err, LM_CANCELLED, "cancelled");
        }
    }
}

lm_status lm_hub_refused(const lm_origin *o, const char *url, const lm_answer *a, lm_err *err) {
    lm_str code = lm_answer_header(a, "X-Error-Code");
    if (a->status == 404 || lm_str_eq(code, LM_STR("RepoNotFound")) ||
        lm_str_eq(code, LM_STR("RevisionNotFound")))
        return lm_fail(err, LM_NOT_FOUND, LM_HUB_UNKNOWN);
    if (lm_str_eq(code, LM_STR("GatedRepo")))
        return lm_fail(
            err, LM_DENIED,
            "%s is gated: accept its licence on its page at the hub, and set HF_TOKEN to a token of that "
            "account",
            url);
    if (a->status == 401 || a->status == 403)
        return lm_fail(err, LM_DENIED, "%s: %s (%d): set HF_TOKEN to a token that may read it", url,
                       o->token ? "the token was refused" : "it does not exist, or is not for everybody",
                       a->status);
    if (a->status == 429)
        return lm_fail(err, LM_BUSY, "%s: too many requests (429): try again later; what came is kept", url);
    return lm_fail(err, LM_IO, "%s answers %d: try again later; what came is kept", url, a->status);
}

/* ---- what an answer says */

/* A text of theirs as part of one of ours: letters that print, not too many. */
static void add_plain(lm_buf *out, const char *text) {
    for (size_t n = 0; *text && n < 200; text++, n++)
        lm_buf_char(out, (unsigned char)*text < 32 || *text == 127 ? ' ' : *text);
}

void lm_hub_said(const lm_answer *a, lm_buf *out) {
    json_t *root = NULL;
    lm_str header = lm_answer_header(a, "X-Error-Message");
    if (header.len) {
        char *text = lm_str_dup(header);
        add_plain(out, text);
        free(text);
        return;
    }
    if (lm_json_parse(lm_buf_view(&a->body), &root, NULL) != LM_OK) return;
    const json_t *first = json_array_get(json_object_get(root, "errors"), 0);
    const json_t *texts[] = {json_object_get(root, "error"), json_object_get(root, "message"),
                             json_object_get(first, "message"), json_object_get(first, "code"), first};
    for (size_t i = 0; i < sizeof texts / sizeof *texts && !out->len; i++)
        if (json_string_value(texts[i])) add_plain(out, json_string_value(texts[i]));
    json_decref(root);
}

lm_status lm_hub_not_taken(const lm_origin *o, const char *url, const lm_answer *a, lm_err *err) {
    lm_buf b;
    lm_buf_init(&b, 1024);
    lm_hub_said(a, &b);
    const char *said = b.len ? b.ptr : "nothing more is said";
    lm_status st;
    if (a->status == 401 || a->status == 403)
        st = lm_fail(
            err, LM_DENIED, "%s takes nothing from you (%d): %s: %s", url, a->status, said,
            o->auth ? "push to a namespace of your own, and see that your key (~/.ollama/id_ed25519.pub) "
                      "is known to the account"
                    : "set HF_TOKEN to a token that may write there");
    else if (a->status == 429)
        st = lm_fail(err, LM_BUSY, "%s: too many requests (429): try again later; what arrived is kept", url);
    else if (a->status == 413 || a->status == 507)
        st = lm_fail(err, LM_TOO_LARGE, "%s has no room for it (%d): %s", url, a->status, said);
    else
        st = lm_fail(err, a->status == 404 ? LM_NOT_FOUND : LM_IO, "%s answers %d: %s", url, a->status, said);
    lm_buf_release(&b);
    return st;
}
