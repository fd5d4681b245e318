/* pump.h - many HTTP requests to other servers at once, on one thread (libcurl's multi interface).
 *
 * A flow is one request and its answer. Connections are kept and shared between flows. Redirects are not followed, and
 * proxies of the environment are not used for this machine's own addresses.
 *
 * Back-pressure: on_body may refuse a piece; the flow then stands still, and the sender with it (TCP), until
 * lm_flow_resume, when the same bytes are offered again, perhaps cut in another way.
 *
 * A POST (whatever is not GET or HEAD) is on the wire once: when a kept connection closes instead of answering, the flow
 * ends with LM_IO, and its owner decides.
 *
 * Limits: one for connecting, one for the first byte of the answer's head, one for silence afterwards; time while a
 * flow stands still does not count. None for the whole: answers may take as long as they come.
 *
 * Threads: lm_pump_start, lm_pump_later, lm_flow_* from any thread. All callbacks run on the pump's thread, one at a time,
 * and must not block. on_end runs exactly once for each started flow, nothing of it afterwards.
 */
#ifndef LM_HTTP_PUMP_H
#define LM_HTTP_PUMP_H

#include "http/client.h"

typedef struct lm_pump lm_pump;
typedef struct lm_flow lm_flow;

typedef struct lm_flow_ask {
    const char *method;         /* "GET", "HEAD", "POST", "DELETE" ... */
    const char *url;            /* http:// or https://; copied */
    const char *const *headers; /* "Name: value", ended by NULL; copied; NULL: none */
    lm_str body;                /* borrowed until on_end; JSON unless headers say another Content-Type */
    uint32_t connect_ms;        /* 0: 5 seconds */
    uint32_t first_ms;          /* from the request to the answer's head; 0: no limit */
    uint32_t silent_ms;         /* between bytes of its body; 0: no limit */
    /* The head is whole: status and headers (a->body is empty). May be NULL. false: the flow ends, LM_CANCELLED. */
    bool (*on_head)(void *ctx, const lm_answer *a);
    /* false: not now, offer it again after lm_flow_resume. NULL: bytes are dropped. */
    bool (*on_body)(void *ctx, lm_str piece);
    /* Statuses as lm_client_ask's: LM_OK after a whole answer of any HTTP status, LM_NOT_FOUND (refused, unknown host),
     * LM_TIMEOUT, LM_CANCELLED, LM_IO (broke), LM_CORRUPT, LM_DENIED, LM_INVALID. The text names no address. */
    void (*on_end)(void *ctx, lm_status st, const char *text);
    void *ctx;
} lm_flow_ask;

lm_status lm_pump_open(lm_pump **out, lm_err *err) LM_CHECKED;
/* Ends what runs (on_end with LM_CANCELLED, on the pump's thread) and waits for the thread. Flows must not be started any
 * more. NULL allowed. */
void lm_pump_close(lm_pump *p);

/* Never fails: what cannot be begun ends through on_end. The caller has a reference to give back. */
lm_flow *lm_pump_start(lm_pump *p, const lm_flow_ask *ask);
void lm_flow_resume(lm_flow *f);
void lm_flow_cancel(lm_flow *f); /* on_end comes soon, with LM_CANCELLED unless it had ended */
lm_flow *lm_flow_ref(lm_flow *f);
void lm_flow_unref(lm_flow *f); /* NULL allowed; the flow itself goes on */

/* Calls run(ctx) once on the pump's thread, delay_ms from now; at once when the pump closes. For retries and time limits. */
void lm_pump_later(lm_pump *p, uint32_t delay_ms, void (*run)(void *ctx), void *ctx);

#endif
