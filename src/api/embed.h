/* embed.h - requests for vectors: Ollama's POST /api/embed, its older /api/embeddings, and OpenAI's
 * /v1/embeddings. Each is read into one request to the engine, and answered when all vectors are there. */
#ifndef LM_API_EMBED_H
#define LM_API_EMBED_H

#include "api/ollama.h"

typedef enum embed_form { EMBED_OLLAMA, EMBED_LEGACY, EMBED_OPENAI } embed_form;

typedef struct embed_request {
    embed_form form;
    ollama_request ask; /* of it the model, the options and the request to the engine */
    bool base64;        /* OPENAI */
} embed_request;

/* LM_INVALID with the text for 400. *out is written only on LM_OK; the caller releases it. A request of no
 * inputs is one to load. */
lm_status embed_request_read(lm_str body, embed_form form, embed_request *out, lm_err *err) LM_CHECKED;
void embed_request_release(embed_request *r);

#endif
