/* router.h - the proxy: one port in front of any number of servers that speak Ollama's wire (a real Ollama, the bridge).
 *
 * Configuration: an INI file (~/.config/mlx-ollama/router.ini). [router] holds the router's own settings, every other
 * section is a backend. Without a file there are two, "ollama" on 127.0.0.1:11434 and "mlx" on 127.0.0.1:11435.
 *
 *     [router]
 *     host = 127.0.0.1
 *     port = 11436
 *     [ollama]
 *     kind = ollama             ollama or mlx: what `switch` means by these words
 *     url = http://127.0.0.1:11434
 *
 * The sections "ollama" and "mlx" need no keys: what they do not say is as above. A file that names any backend names all
 * of them. docs/ROUTER.md lists the keys; config.c's table is where they come from.
 *
 * The order in which backends are preferred is the user's (`switch`), kept in a state file of its own so that no program
 * ever rewrites what people wrote.
 */
#ifndef LM_ROUTER_H
#define LM_ROUTER_H

#include <jansson.h>

#include "base/base.h"

#define LM_ROUTER_MAX_BACKENDS 16
#define LM_ROUTER_PORT         11436

typedef enum lm_backend_kind { LM_KIND_OLLAMA, LM_KIND_MLX } lm_backend_kind;

typedef struct lm_router_backend {
    char name[64]; /* the section's: [a-z0-9._-] */
    lm_backend_kind kind;
    char url[512];         /* without a slash at its end */
    char *api_key;         /* sent as a bearer token; NULL: none. Owned by the configuration */
    uint32_t max_requests; /* at a time; 0: no limit */
    uint32_t num_ctx;      /* pinned for all requests, so that clients cannot cause reloads; 0: as they say */
} lm_router_backend;

typedef struct lm_router_config {
    char host[256];
    uint16_t port;
    lm_router_backend backends[LM_ROUTER_MAX_BACKENDS];
    uint32_t n_backends;
    char *origins; /* further origins that browsers may call from, as OLLAMA_ORIGINS; NULL: none. Owned */
    bool hygiene;  /* volatile markers are taken out of prompts, tools are put in order */
    /* health */
    uint32_t check_ms, check_timeout_ms; /* between active checks of a backend; and how long one may take */
    uint32_t fall, rise;                 /* checks in a row until it is down, and up again */
    uint32_t breaker_failures; /* in a row, of one model on one backend, until it is not asked any more */
    uint32_t breaker_ms;       /* how long; then one request tries */
    /* limits of a request to a backend */
    uint32_t connect_ms;
    uint32_t first_ms;  /* until the head of an answer that streams: a model may have to be loaded; 0: no limit */
    uint32_t whole_ms;  /* the same of one that does not stream: its head comes when all is computed; 0: no limit */
    uint32_t silent_ms; /* between bytes of an answer; 0: no limit */
    uint32_t attempts; /* at most, all backends together */
    uint64_t max_body; /* bytes of a request */
    uint32_t
        max_wait_ms; /* how long a request may wait while all that could serve it are busy or restarting */
} lm_router_config;

/* path NULL: the user's file if there is one, else the defaults. Then the environment (MLX_ROUTER_HOST, MLX_ROUTER_PORT).
 * LM_INVALID names file and line. The caller releases, in any case. */
lm_status lm_router_config_read(const char *path, lm_router_config *out, lm_err *err) LM_CHECKED;
void lm_router_config_release(lm_router_config *c);
/* What holds now, defaults included. Both hide keys: JSON says whether there is one, the text (which is itself such a file)
 * has a comment in its place. The caller json_decref()s. */
json_t *lm_router_config_json(const lm_router_config *c);
void lm_router_config_text(const lm_router_config *c, lm_buf *out);

/* ---- order.c: whom the user prefers */

typedef enum lm_order { LM_ORDER_AUTO, LM_ORDER_OLLAMA, LM_ORDER_MLX } lm_order;
const char *lm_order_name(lm_order o); /* "auto" */
/* A word of the user's. LM_INVALID lists the words. */
lm_status lm_order_parse(lm_str word, lm_order *out, lm_err *err) LM_CHECKED;
/* Writes the state file atomically (a lock keeps two writers apart); model NULL: for all that have no order of their own.
 * A running router sees it within a second. */
lm_status lm_order_set(const char *model, lm_order order, lm_err *err) LM_CHECKED;
/* What stands there now for this model (NULL: in general). */
lm_status lm_order_get(const char *model, lm_order *out, lm_err *err) LM_CHECKED;

/* ---- serve.c */

/* Serves until SIGTERM or SIGINT, then drains; what the program's exit shall say: 0 ended as asked, 1 failed, 3 the
 * address cannot be listened on. Logs to stderr. SIGHUP reads the configuration again (a wrong one is logged and
 * the old one stays). */
int lm_router_serve(const lm_router_config *config, const char *config_path, bool verbose);

/* ---- status.c: for the command line, with or without a running router */

/* {"router": {url, running, version} , "order": "auto", "orders": {model: order}, "backends": [{name, kind, url, state, version,
 * latency_ms, error?, models: [{name, size, loaded, ...}]}]}: asked of the running router at its configured address, else
 * found out by asking the backends now. The caller json_decref()s. */
lm_status lm_router_status(const lm_router_config *config, json_t **out, lm_err *err) LM_CHECKED;
/* What would be done with a request for this model: {"model", "candidates": [{backend, model, ok, reason, score}], "chosen"}. body NULL: a plain
 * chat; one with "input" is of /api/embed, others of /api/chat. Asks the running router, else decides as it would. */
lm_status lm_router_explain(const lm_router_config *config, const char *model, const json_t *body,
                            json_t **out, lm_err *err) LM_CHECKED;
/* Measures each backend for each model (models NULL: all that more than one backend has) with a few short requests, and with
 * `choose` writes the order of each model. say is told what happens now, for progress. */
lm_status lm_router_bench(const lm_router_config *config, const char *const *models, bool choose,
                          void (*say)(void *ctx, const char *line), void *ctx, json_t **out,
                          lm_err *err) LM_CHECKED;

#endif
