/* private.h - what the files of text/ know of each other and nobody else does. */
#ifndef LM_TEXT_PRIVATE_H
#define LM_TEXT_PRIVATE_H

#include <jansson.h>

#include "text/rust.h"
#include "text/text.h"

/* Bytes of the longest token: what one push can add to a stream at most. */
uint32_t lm_tokenizer_longest(const lm_tokenizer *t);
const lmr_tok *lm_tokenizer_rust(const lm_tokenizer *t);
bool lm_tokenizer_is_added(const lm_tokenizer *t, int32_t id); /* listed under added_tokens */

/* The id of a token that stands for itself in the text: special, or at least added. -1: none. */
int32_t lm_text_marker(const lm_text *t, const char *token);
lm_status lm_text_write_context(const json_t *context, lm_buf *out, lm_err *err); /* for lm_template_render */
bool lm_text_can_insert(const lm_text *t);
/* Whether the chat template's source holds these words. */
bool lm_text_template_says(const lm_text *t, const char *words);

#endif
