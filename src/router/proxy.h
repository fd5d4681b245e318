/* proxy.h - what the files of the running proxy share: the router, its settings of the moment, one request on its way.
 * Private to the room.
 *
 * A generation is one reading of the configuration with all that is known of its backends. SIGHUP makes a new one; requests
 * end with the one that they began with, and the last one out lets the main thread close it.
 *
 * Threads: handlers run on workers of http/; relays, fans and what they call back on the pump's thread; uploads on a thread
 * each. A call belongs to one of them at a time.
 */
#ifndef LM_ROUTER_PROXY_H
#define LM_ROUTER_PROXY_H

#include <pthread.h>
#include <stdatomic.h>

#include "http/guard.h"
#include "http/http.h"
#include "http/pump.h"
#include "names/names.h"
#include "router/backends.h"
#include "router/facts.h"
#include "router/hygiene.h"
#include "router/metrics.h"
#include "router/relay.h"

#define TYPE_JSON       "application/json; charset=utf-8"
#define MAX_UPLOADS     16 /* at a time, a thread each */
#define MAX_BLOBS_KNOWN 256
#define MAX_ATTEMPT_LOG 16

typedef struct generation {
    backends *backends;
    lm_guard *guard;
    struct listings *listings; /* the last ones of each backend, merge.c */
    uint32_t refs;             /* router->lock; the router's own is one of them */
    struct generation *next;   /* of those that wait to be closed */
} generation;

/* Where the blob of an upload went, so that the create that names it goes there, too. */
typedef struct known_blob {
    char digest[80];
    char backend[64];
} known_blob;

typedef struct router {
    lm_server *server;
    lm_pump *pump;
    lm_aliases aliases;
    metrics metrics;
    const char *config_path;
    uint64_t id_seed;
    atomic_uint_fast64_t n_ids;
    atomic_uint n_calls; /* that are not closed; the server itself is the main thread's alone */
    atomic_bool refusing;

    pthread_mutex_t lock; /* guards the rest */
    generation *now, *retired;
    uint32_t n_uploads;
    pthread_cond_t idle; /* n_uploads is 0 */
    known_blob blobs[MAX_BLOBS_KNOWN];
    uint32_t next_blob;
} router;

typedef struct attempt_record {
    char backend[64];
    attempt how;
} attempt_record;

#define CALL_MAX_QUERY 1000 /* bytes of a query that is passed on */

/* One request, from the handler to its line in the log. */
typedef struct call {
    router *router;
    generation *gen;
    lm_http *x;
    char id[20];
    uint64_t began_ns;
    router_facts facts;
    hygiene_report hygiene;

    candidate *list; /* room for all backends; as they were to be tried at first */
    uint32_t n_list;

    /* ---- of pass.c */
    char query[CALL_MAX_QUERY + 2]; /* what goes behind the path: "?beta=true", or "" */
    candidate *round; /* behind list, with the same room */
    uint32_t n_round, at;
    uint32_t failed;  /* bits of backends that are not asked again */
    uint32_t retried; /* those that got their second attempt */
    uint32_t n_real;  /* attempts that began something somewhere */
    bool single;      /* one attempt at the one candidate, no accounts kept: writes */
    bool taken;
    bool just_ended; /* an attempt, and nothing has been tried since */
    attempt_end last_end;
    candidate current;
    lm_buf body;          /* for bodies that had to be changed */
    char body_model[700]; /* what body was made for, with */
    uint32_t body_num_ctx;
    bool body_made;
    char header_text[12][1024];
    const char *headers[13];
    uint64_t waited_ns, wait_began_ns;
    void (*after)(struct call *call); /* for writes: when it has been tried; may be NULL */

    attempt_record log[MAX_ATTEMPT_LOG];
    uint32_t n_log;
    uint64_t first_attempt_ns; /* since began_ns; 0: none */
    char error[256];
} call;

generation *generation_ref(router *r); /* the one of now */
void generation_unref(router *r, generation *g);

/* A call of its own for this request, which keeps the exchange. Writes its line and frees it: */
call *call_open(router *r, lm_http *x);
void call_close(call *c, bool gone);
/* For answers without a relay: the call closes when the exchange is over. */
void call_close_at_end(call *c);
void call_reply_json(call *c, int status, const char *type, const json_t *value);
void call_reply_error(call *c, int status, const char *text);
void call_set_headers(call *c, const candidate *k); /* X-Router-*; k NULL: nobody was asked */

/* ---- handle.c */
void router_handle(void *router, lm_http *x);
bool router_streams(void *router, const lm_http *x);

/* ---- pass.c: through the relay */
void pass_infer(call *c);                    /* with fall back, by the policy */
void pass_single(call *c, uint32_t backend); /* to this one, once */
void pass_first_ollama(call *c);

/* ---- merge.c */
void merge_handle(call *c);
struct listings *listings_open(void);
void listings_close(struct listings *l); /* NULL allowed */
void listings_forget(struct listings *l, uint32_t backend);

/* ---- writes.c, upload.c */
void writes_handle(call *c);
void upload_handle(call *c, uint32_t backend);
void blob_note(router *r, lm_str digest, const char *backend);
int blob_where(router *r, const lm_router_config *config, lm_str digest); /* -1: nobody knows */
void writes_over(call *c, uint32_t backend);                              /* something changed there */

/* ---- record.c */
void record_write(call *c, bool gone);

/* Keeps the query for whoever is asked. False: it is too long to be passed on. */
bool pass_read_query(call *c);
/* Its URL with this path, percent-encoded where it must be. False: too long. */
bool target_url(const lm_router_backend *b, lm_str path, char *out, size_t room);
/* Headers for a backend, from what the client sent: fills c->headers. body_changed: the client's packing does not hold. */
void target_headers(call *c, const lm_router_backend *b, bool body_changed);

#endif
