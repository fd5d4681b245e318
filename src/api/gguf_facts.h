/* gguf_facts.h - facts.h for models that are GGUF files of another store, before they are imported. */
#ifndef LM_API_GGUF_FACTS_H
#define LM_API_GGUF_FACTS_H

#include "api/facts.h"
#include "weights/gguf.h"

/* Whether the model's place has said enough for a list, so that nobody has to look into the file. */
bool lm_gguf_facts_known(const lm_entry *model);
void lm_gguf_facts_brief(const lm_entry *model, lm_facts *f); /* what the place says, and nothing else */
void lm_gguf_facts_read(const lm_entry *model,
                        lm_facts *f); /* with the file's header; what cannot be read is not said */
/* The number under this key, if the file has one, into out under the same key. */
void lm_gguf_facts_number(const lm_gguf *g, const char *key, json_t *out);

#endif
