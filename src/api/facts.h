/* facts.h - what a model directory says about itself, for lists, /api/show and the checks before a request:
 * read from config.json, the headers of the weights and the tokenizer's files, without loading anything. */
#ifndef LM_API_FACTS_H
#define LM_API_FACTS_H

#include "base/json.h"
#include "model/model.h"
#include "store/store.h"
#include "text/text.h"

typedef struct lm_facts {
    char digest[65];         /* of the directory they were read from */
    char family[64];         /* "llama"; "unknown" when config.json cannot be read */
    char parameter_size[16]; /* "134.52M", "" when the weights cannot be read */
    char quantization[16];
    uint64_t n_params;
    uint32_t n_ctx, width; /* 0: not said */
    bool tools, thinking, inserts;
    bool gguf;              /* a file that has to be imported first */
    lm_pooling pooling;     /* of its embeddings, 0: it gives none */
    bool embeds;            /* it is meant as an embedder, and neither completes nor chats */
    lm_text_sampling sampling; /* what a request gets that does not say otherwise */
} lm_facts;

typedef struct lm_facts_cache lm_facts_cache; /* any thread */
lm_facts_cache *lm_facts_cache_open(void);
void lm_facts_cache_close(lm_facts_cache *c); /* NULL allowed */

/* Never fails: what cannot be read stays as the comments above say. */
void lm_facts_get(lm_facts_cache *c, const lm_entry *model, lm_facts *out);

/* As Ollama counts parameters: "7.6B", "134.52M". */
void lm_facts_human(uint64_t n, char out[16]);

/* Fails with "registry.ollama.ai/library/NAME:TAG does not support WHAT": Ollama names the model in full here. */
lm_status lm_facts_lack(const char *name, const char *what, lm_err *err) LM_CHECKED;

/* LM_INVALID: the model gives vectors only, and so no WHAT ("chat", "generate"). */
lm_status lm_facts_generates(const lm_facts *f, const char *name, const char *what, lm_err *err) LM_CHECKED;

/* "model_info" of /api/show, with GGUF's key names, a new reference. */
json_t *lm_facts_model_info(const lm_entry *model, const lm_facts *facts, bool verbose);

#endif
