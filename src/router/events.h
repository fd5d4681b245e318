/* events.h - a stream of bytes from a backend, cut into whole events of its wire, and what each of them says. Private to the
 * room.
 *
 * Ollama's wire is NDJSON, one object a line: answers, and the status lines of pull, push and create. The others are SSE: lines
 * up to an empty one, of which the "data:" ones count; comments are pings. Line ends become "\n" on the way.
 *
 *     wire        error                               end
 *     Ollama      "error"                             "done": true, "status": "success"
 *     OpenAI      "error"                             [DONE]
 *     Responses   type error, response.failed         type response.completed, response.incomplete, [DONE]
 *     Anthropic   type error                          type message_stop
 *
 * Source: docs/api.md of Ollama, the API references of OpenAI and Anthropic; WHATWG HTML section 9.2 for SSE.
 *
 * Cheap, as it runs for every token: one pass over the members of the outermost object. Only a stream's first good event and errors
 * are parsed.
 *
 * Threads: a reader belongs to one thread at a time.
 */
#ifndef LM_ROUTER_EVENTS_H
#define LM_ROUTER_EVENTS_H

#include "base/lines.h"
#include "router/facts.h"

#define EVENT_MAX (8u << 20) /* bytes of one event */

typedef enum event_kind {
    EVENT_NOISE,   /* says nothing: a ping, a comment */
    EVENT_GOOD,    /* part of the answer */
    EVENT_ERROR,   /* text says which */
    EVENT_GARBAGE, /* nothing of this wire */
} event_kind;

typedef struct event {
    event_kind kind;
    bool end;       /* good, and the last one */
    lm_str bytes;   /* whole, with its line ends, "model" put back; borrowed until the callback returns */
    char text[256]; /* of an error, as far as it fits */
} event;

typedef struct events {
    router_wire wire;
    const char *echo_from, *echo_to;
    lm_lines lines;
    lm_buf raw;   /* SSE: the current event's lines */
    lm_buf data;  /* SSE: what its data lines say */
    lm_buf other; /* SSE: its other lines */
    lm_buf out;   /* an event whose model was replaced */
    bool has_data;
    bool checked; /* the first good event was parsed */
    bool (*take)(void *ctx, const event *e);
    void *ctx;
} events;

/* In events that name the model echo_from (":latest" or not, letters as they like), it becomes echo_to. Either NULL: as it is.
 * Borrowed. */
void events_init(events *e, router_wire wire, const char *echo_from, const char *echo_to);
void events_release(events *e);
/* Calls take for every event that is whole now; false ends it. LM_CANCELLED: take said so. LM_TOO_LARGE: longer
 * than EVENT_MAX. */
lm_status events_feed(events *e, lm_str piece, bool (*take)(void *ctx, const event *e), void *ctx,
                      lm_err *err) LM_CHECKED;

/* The same of an answer that came whole, as JSON. bytes: body itself, or out when the model was put back. partly: only its
 * beginning is here, so nothing is said about what it is. */
void events_whole(router_wire wire, lm_str body, bool partly, const char *echo_from, const char *echo_to,
                  lm_buf *out, event *said);

#endif
