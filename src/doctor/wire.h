/* wire.h - asking a server as its clients do, and saying what is wrong with an answer and what to do. Private
 * to the room.
 *
 * Functions that return bool or a pointer fill r when they return false or NULL: it has failed then, with a
 * remedy. */
#ifndef LM_DOCTOR_WIRE_H
#define LM_DOCTOR_WIRE_H

#include "doctor/doctor.h"

#define REMEDY_WIRE                                                                                          \
    "clients read this: the server does not keep to Ollama's wire format here; update it, or report it "     \
    "with "                                                                                                  \
    "the output of --json"

#define WIRE_MUTABLE(o) ((json_t *)(uintptr_t)(o)) /* jansson's iterators take no const, and change nothing */

typedef struct wire {
    lm_client *client;
    const char *url;
    uint32_t timeout_s; /* of silence */
    uint32_t total_s;   /* of the whole; 0: no limit */
    doctor_report *report;
} wire;

/* Whether the server at this address runs on this machine; its port then. */
bool wire_is_here(const char *url, uint16_t *port);

/* Whatever status comes is an answer; a is the caller's to release when it is true. body may be NULL. */
bool wire_ask(const wire *w, const char *method, const char *path, const json_t *body, lm_answer *a,
              doctor_result *r);
/* A failure for an answer with another status than was wanted. Returns false. */
bool wire_refused(const char *method, const char *path, const lm_answer *a, doctor_result *r);
/* Status 200, application/json, an object. The caller's to json_decref. */
json_t *wire_json(const wire *w, const char *method, const char *path, const json_t *body, doctor_result *r);
/* The same of an answer that is there already. */
json_t *wire_body(const char *method, const char *path, const lm_answer *a, doctor_result *r);

/* Whether an object has the fields that spec lists: "model:s done:b eval_count:i created_at:t details:o
 * models:a"; s text, b bool, i integer, n number, a array, o object, t a time as RFC 3339 has it; a '?'
 * behind: may be absent. */
bool wire_fields(const char *where, const json_t *object, const char *spec, doctor_result *r);

bool wire_is_time(const json_t *v); /* a text as RFC 3339 has times */

/* A streamed answer of /api/generate or /api/chat. */
typedef struct wire_stream {
    uint32_t n_events; /* before the last */
    lm_buf text;       /* of all events, thinking too */
    json_t *last;      /* the event with done: true */
    uint64_t first_ns; /* from the request to the first text; 0: there was none */
    uint64_t last_ns;  /* to the last event */
} wire_stream;

/* Holds it against the format: NDJSON, one object a line, done false until the last and true there, nothing
 * behind it, the model's name as it was asked for. s is the caller's to release when it is true. */
bool wire_stream_ask(const wire *w, const char *path, const json_t *body, wire_stream *s, doctor_result *r);
void wire_stream_release(wire_stream *s);

/* {"model", "stream", "keep_alive": "5m", "options": {"temperature": 0, "num_predict", "num_ctx": 4096}} and
 * prompt or, for chat, messages. */
json_t *wire_request(const char *model, bool chat, bool stream, const char *prompt, uint32_t num_predict);

/* Loads a model for five minutes by a request without a prompt. */
bool wire_load(const wire *w, const char *model, doctor_result *r);
/* Loads a model if it isn't, unloads it by keep_alive 0 and waits until /api/ps shows one less. */
bool wire_unload(const wire *w, const char *model, doctor_result *r);
/* How many models /api/ps shows; -1: r has failed. */
int wire_loaded(const wire *w, doctor_result *r);

#endif
