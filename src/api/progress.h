/* progress.h - the answer of an endpoint that works for a while: one line of status after the other (NDJSON),
 * or the last one alone. What fails before the first line has its own HTTP status, what fails later is a last
 * line. */
#ifndef LM_API_PROGRESS_H
#define LM_API_PROGRESS_H

#include "api/private.h"

typedef struct ollama_progress {
    lm_call *call;
    bool stream;
    bool begun;          /* a line has gone out */
    const char *reading; /* of ollama_progress_bytes: what is being done */
    uint64_t shown_ns;   /* of its last line */
} ollama_progress;

void ollama_progress_status(ollama_progress *p, const char *status);
/* An lm_store_progress with ctx = ollama_progress: ten lines a second at most. False: the client has gone, or
 * the server is on its way out. */
bool ollama_progress_bytes(void *ctx, uint64_t done, uint64_t total);
/* A layer on its way: "pulling 0123456789ab", or as doing says. */
void ollama_progress_layer(ollama_progress *p, const char *doing, const char *digest, uint64_t total,
                           uint64_t completed);
/* The end: "success", or the error. */
void ollama_progress_end(ollama_progress *p, lm_status st, const char *text);
/* As Ollama's pull and push fail: 200 and a line that says so; 500 without stream. */
void ollama_progress_refuse(ollama_progress *p, const char *text);

/* ---- ollama_pull.c: what a pull and a push ask for */
typedef struct ollama_remote {
    char *model;
    bool insecure;
    ollama_progress progress;
} ollama_remote;
/* nameless: what is said where no model is named. False: the call has been answered. */
bool ollama_remote_read(lm_call *call, const char *type, const char *nameless, ollama_remote *out);
void ollama_remote_release(ollama_remote *r);
/* Fetches a model, and tells of it. */
lm_status ollama_pull_model(ollama_progress *p, const char *name, bool insecure, lm_err *err) LM_CHECKED;

#endif
