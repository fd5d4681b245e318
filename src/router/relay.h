/* relay.h - one request, sent to one backend after the other until one gives a first good event. Private to the room.
 *
 * Held back until then: status, headers and whatever came. What counts as good: of a stream its first whole event that is
 * no error (NDJSON line, SSE event), of anything else the whole answer (up to HOLD_MAX; more than that is let go as it comes), which
 * must be JSON, or empty.
 * Tried elsewhere: refused, timed out, broken, 429, 502, 503, 504, other 5xx, 404 of a model that another has, an error
 * inside a 200 stream, an answer that is no answer of this wire; only while no byte reached the client and the client
 * is there. Never after its cancel.
 * After the first byte: whole events only, so that a stream that dies ends with an honest error event of its wire, never
 * with half a line or a made-up end. A stream that ends without its own end (done, [DONE], message_stop, response.completed) has died.
 *
 * A client that leaves cancels upstream within 100 ms. A slow client stops its backend's stream, not the router.
 *
 * Of the exchange, lm_http_on_end and lm_http_on_room are the relay's.
 *
 * Threads: relay_start from a worker; everything else on the pump's thread. The server closes before the pump: each exchange
 * that ends tells the pump's thread so.
 */
#ifndef LM_ROUTER_RELAY_H
#define LM_ROUTER_RELAY_H

#include "http/pump.h"
#include "router/backends.h"

#define RELAY_HOLD_MAX (16u << 20) /* bytes of an answer that does not stream */
#define RELAY_BACKLOG  (24u << 20) /* max_backlog of the server: more than an event and what waits before it */

typedef struct relay_target {
    char url[2400];             /* with path and query */
    const char *const *headers; /* to send, besides what libcurl adds; borrowed until the attempt's end */
    lm_str body;                /* borrowed until the attempt's end */
    const char *echo_from,
        *echo_to; /* the value of "model" in every event is put back from one to the other; NULL: as it is. Borrowed */
    uint32_t connect_ms, first_ms, silent_ms;
} relay_target;

typedef struct relay_job {
    lm_http *x; /* the relay takes a reference of its own */
    router_wire wire;
    bool head; /* HEAD: no body */
    /* Each attempt's end, once, on the pump's thread: as soon as it is known, and before the client hears the last of it, so that its
     * next request finds what this one left behind. */
    void (*ended)(void *ctx, const attempt *how);
    /* The next one to try, on the pump's thread. false: nobody is left; the relay answers with the last error, or what `none` says when
     * there was none. true with *wait_ms (0 when called): nothing in out, call me again then (all are busy). */
    bool (*next)(void *ctx, relay_target *out, uint32_t *wait_ms);
    /* Before status and headers go out: the last moment for headers of our own. */
    void (*commit)(void *ctx, lm_http *x);
    /* Exactly once, at the very end, when the client has all, or has gone. Frees ctx. */
    void (*over)(void *ctx, bool gone);
    /* The error when nobody could be asked. */
    int none_status;
    char none_text[300];
    void *ctx;
} relay_job;

void relay_start(lm_pump *pump, const relay_job *job);

/* An error in the body form of a wire; for streams that have begun, the event with its line ends. */
void relay_error_body(router_wire wire, int status, const char *text, lm_buf *out);
void relay_error_event(router_wire wire, const char *text, lm_buf *out);

#endif
