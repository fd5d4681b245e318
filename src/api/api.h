/* api.h - wire formats: Ollama's, OpenAI's and Anthropic's HTTP APIs over the engine and the store.
 *
 * lm_api_handle takes every request of the server: Host and Origin rules first, then the route tables, then
 * one of the handlers below on the worker's thread. Inference goes to the engine with a sink that formats
 * events straight into the exchange; a client who leaves cancels its job.
 *
 * Threads: lm_api_handle from any number of workers at once.
 */
#ifndef LM_API_H
#define LM_API_H

#include "base/base.h"
#include "engine/engine.h"
#include "http/http.h"
#include "store/store.h"

typedef struct lm_api lm_api;
typedef struct lm_call lm_call; /* one request on its way through a handler */

typedef void lm_api_handler(lm_call *call);

typedef struct lm_route {
    const char *method; /* a HEAD without a row of its own is 405, as Ollama's */
    const char *path;   /* one that ends in "*" stands for all that go on there */
    lm_api_handler *handler;
} lm_route;

/* Ollama's native endpoints, ended by a row with path NULL. */
extern const lm_route lm_ollama_routes[];
/* OpenAI's: /v1/chat/completions, /v1/completions, /v1/responses, /v1/models. */
extern const lm_route lm_openai_routes[];
/* Anthropic's Messages API: POST /v1/messages, /v1/messages/count_tokens. */
extern const lm_route lm_anthropic_routes[];
/* GET /health, /openapi.yaml: this server's own. */
extern const lm_route lm_health_routes[];

/* What is known about a request when it is over, for one line of log. Views are valid in the call only. */
typedef struct lm_api_record {
    lm_str method, path, peer;
    int status;
    uint64_t ns; /* from the first byte of the head to the end of the answer */
    uint64_t bytes_out;
    bool gone;    /* the client left before the end */
    lm_str model; /* as the client wrote it; empty when no model was named */
    lm_str error; /* the text that the client got, empty after a success */
    uint32_t n_prompt, n_eval;
    uint64_t first_ns; /* to the first token; 0: none */
    uint64_t eval_ns;
} lm_api_record;

typedef struct lm_api_config {
    lm_engine *engine;
    lm_store *store;
    const char *ollama_version;    /* what /api/version reports to clients that compare it */
    const char *version;           /* ours */
    const char *devices;           /* what there is to compute on, as a JSON array for /health; NULL: [] */
    const lm_route *const *tables; /* looked through in order, ended by NULL */
    const char *host;    /* where the server listens, and */
    const char *origins; /* OLLAMA_ORIGINS or NULL: who may ask, as http/guard.h has it */
    void (*log)(void *ctx, const lm_api_record *record); /* may be NULL; on the http thread: must not block */
    void *log_ctx;
} lm_api_config;

/* Everything in config is borrowed until lm_api_close. */
lm_status lm_api_open(lm_api **out, const lm_api_config *config, lm_err *err) LM_CHECKED;
/* After the server is closed: no request may be running. NULL allowed. */
void lm_api_close(lm_api *api);

/* The way out: new inference is answered 503; running answers go on until lm_api_cancel_all ends them with an
 * error. */
void lm_api_refuse(lm_api *api);
void lm_api_cancel_all(lm_api *api);

/* lm_server_config.handle and .streams with ctx = lm_api. */
void lm_api_handle(void *api, lm_http *x);
bool lm_api_streams(void *api, const lm_http *x); /* uploads of blobs are as long as a disk is large */

#endif
