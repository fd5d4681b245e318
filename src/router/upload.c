/* upload.c - blobs on their way to a backend: read from the client as fast as the backend takes them, on a thread of their own,
 * never as a whole in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/proxy.h"

#define SILENT_MS 300000 /* the backend computes a digest over all of it before it answers */
#define MAX_REPLY (1u << 20)

typedef struct upload {
    call *call;
    const lm_router_backend *backend;
    uint64_t sent;
    char url[1200];
} upload;

/* Only forward: what was read is gone. */
static size_t read_client(void *ctx, uint64_t at, char *out, size_t room) {
    upload *u = ctx;
    size_t n = 0;
    if (at != u->sent || lm_http_body_read(u->call->x, out, room, &n, NULL) != LM_OK) return LM_SEND_FAILED;
    u->sent += n;
    return n;
}

static bool still_there(void *ctx) {
    upload *u = ctx;
    return !lm_http_gone(u->call->x);
}

/* The address stays here. */
static void say_failure(upload *u, lm_status st) {
    char text[300];
    const char *how = st == LM_NOT_FOUND ? "is not there"
                      : st == LM_TIMEOUT ? "does not answer"
                                         : "broke off";
    snprintf(text, sizeof text, "%s %s while the blob was sent to it: try again", u->backend->name, how);
    call_reply_error(u->call, st == LM_NOT_FOUND ? 503 : 502, text);
}

static void send_on(upload *u) {
    call *c = u->call;
    const lm_router_config *config = backends_config(c->gen->backends);
    lm_client *client = NULL;
    lm_answer answer = {0};
    lm_err err = {0};
    target_headers(c, u->backend, false);
    uint32_t n = 0;
    while (c->headers[n]) n++;
    if (n < sizeof c->header_text / sizeof *c->header_text) {
        c->headers[n] = "Content-Type: application/octet-stream";
        c->headers[n + 1] = NULL;
    }
    lm_ask ask = {.method = "POST",
                  .url = u->url,
                  .headers = c->headers,
                  .send = read_client,
                  .n_send = lm_http_body_length(c->x),
                  .max_body = MAX_REPLY,
                  .connect_ms = config->connect_ms,
                  .silent_ms = SILENT_MS,
                  .on_wait = still_there,
                  .ctx = u};
    lm_status st = lm_client_open(&client, &err);
    if (st == LM_OK) st = lm_client_ask(client, &ask, &answer, &err);
    if (st != LM_OK) {
        say_failure(u, st);
    } else {
        lm_str path = lm_http_path(c->x);
        size_t head = strlen("/api/blobs/");
        if (answer.status < 300)
            blob_note(c->router, (lm_str){path.ptr + head, path.len - head}, u->backend->name);
        c->list[0] =
            (candidate){.backend = (uint32_t)(u->backend - config->backends), .reason = "takes new models"};
        c->n_list = 1;
        call_set_headers(c, &c->list[0]);
        lm_http_reply(c->x, answer.status, answer.content_type[0] ? answer.content_type : NULL,
                      lm_buf_view(&answer.body));
        call_close_at_end(c);
    }
    lm_answer_release(&answer);
    lm_client_close(client);
}

static void *run(void *arg) {
    upload *u = arg;
    router *r = u->call->router;
    send_on(u);
    free(u);
    pthread_mutex_lock(&r->lock);
    if (--r->n_uploads == 0) pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

void upload_handle(call *c, uint32_t backend) {
    router *r = c->router;
    upload *u = lm_alloc(sizeof *u);
    *u = (upload){.call = c, .backend = &backends_config(c->gen->backends)->backends[backend]};
    bool ok = target_url(u->backend, lm_http_path(c->x), u->url, sizeof u->url);
    pthread_mutex_lock(&r->lock);
    bool room = r->n_uploads < MAX_UPLOADS;
    if (ok && room) r->n_uploads++;
    pthread_mutex_unlock(&r->lock);
    if (!ok || !room) {
        free(u);
        if (ok)
            call_reply_error(c, 503, "as many uploads as there may be run already: try again");
        else
            call_reply_error(c, 400, "invalid digest format");
        return;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, u) == 0) {
        pthread_detach(thread);
        return;
    }
    free(u);
    pthread_mutex_lock(&r->lock);
    if (--r->n_uploads == 0) pthread_cond_broadcast(&r->idle);
    pthread_mutex_unlock(&r->lock);
    call_reply_error(c, 503, "the system's limit of threads is reached: try again");
}
