/* ollama_create.h - the body of POST /api/create, read. */
#ifndef LM_API_OLLAMA_CREATE_H
#define LM_API_OLLAMA_CREATE_H

#include "api/ollama.h"

typedef struct ollama_create {
    json_t *body; /* what follows is borrowed from it */
    const char *model, *from, *template, *system, *requires;
    json_t *files;          /* name -> digest, or NULL */
    json_t *adapters;       /* the same, of one adapter */
    json_t *licenses;       /* owned: array of texts, empty when nothing was said */
    json_t *params;         /* owned: object; "stop" is a list in it */
    json_t *messages;       /* owned: array in Ollama's form */
    lm_conversion quantize; /* when it was asked for */
    bool quantizes;
    bool stream;
} ollama_create_request;

/* What can be told from the body alone, in Ollama's words where it has some. The caller releases *out after
 * LM_OK. */
lm_status ollama_create_read(lm_str body, ollama_create_request *out, lm_err *err) LM_CHECKED;
void ollama_create_release(ollama_create_request *r);

#endif
