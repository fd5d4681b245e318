/* wire.h - asking a server in Ollama's wire, and finding one to ask. Private to the room.
 *
 * A request has no limit of time of its own (a model may load for minutes): Ctrl-C ends it (LM_CANCELLED). Answers are
 * bounded: 16 MiB whole, 8 MiB a line of a stream, 1 GiB the stream.
 */
#ifndef LM_CLI_WIRE_H
#define LM_CLI_WIRE_H

#include <jansson.h>

#include "base/base.h"
#include "cli/args.h"
#include "http/client.h"

#define WIRE_MAX_LINE (8u << 20)

typedef struct wire {
    lm_client *client;
    char url[512];
    char *auth; /* a header line, NULL: none */
    int status; /* of the last answer; 0: none came */
    /* About ten times a second while a request runs; NULL: not needed. Those that are no stream have a spinner without it. */
    void (*idle)(void *ctx);
    void *idle_ctx;
} wire;

/* url is without a slash at its end. api_key NULL: none. */
lm_status wire_open(wire *w, const char *url, const char *api_key, lm_err *err) LM_CHECKED;
void wire_close(wire *w); /* zeroed allowed */

/* One answer. Status 200 is LM_OK, others LM_NOT_FOUND (404), LM_INVALID (400), LM_DENIED (401, 403), LM_BUSY (429, 503),
 * LM_INTERNAL, with the server's words. Without an answer lm_client_ask's statuses, and w->status is 0.
 * out NULL: the body does not matter. The caller json_decref()s. */
lm_status wire_json(wire *w, const char *method, const char *path, const json_t *body, json_t **out,
                    lm_err *err) LM_CHECKED;
/* Each event of a stream. False ends it: LM_CANCELLED. An event that is an error ends it, with its words. */
typedef bool wire_event(void *ctx, const json_t *event);
lm_status wire_stream(wire *w, const char *path, const json_t *body, wire_event *event, void *ctx,
                      lm_err *err) LM_CHECKED;

/* POSTs bytes that are read as they go out: up to room bytes from `at` on into out, how many, 0 when they cannot be read any more
 * (LM_IO). It may be asked for the beginning again. Otherwise as wire_json. */
typedef size_t wire_read(void *ctx, uint64_t at, char *out, size_t room);
lm_status wire_upload(wire *w, const char *path, uint64_t bytes, wire_read *read, void *ctx,
                      lm_err *err) LM_CHECKED;

/* The exit that a failure means: no model, no server, interrupted, failed. */
int wire_exit(const wire *w, lm_status st);

/* ---- reach.c */

/* The server that this command is for: --host, else OLLAMA_HOST, else the first that answers of the running router, the
 * bridge, Ollama, as the router's configuration names them. The caller closes in any case.
 *   LM_INVALID    an address, or the configuration, is wrong
 *   LM_NOT_FOUND  nobody answers; the text says what to start
 *   LM_CANCELLED  Ctrl-C */
lm_status wire_find(const cli_args *a, wire *w, lm_err *err) LM_CHECKED;
/* The same. Returns an exit status, and has said why when it is not CLI_OK. */
int wire_reach(const cli_args *a, wire *w);
bool wire_router_runs(void); /* at its configured address */

#endif
