/* private.h - what the files of text/ know of each other and nobody else does. */
#ifndef LM_TEXT_PRIVATE_H
#define LM_TEXT_PRIVATE_H

#include "text/rust.h"
#include "text/text.h"

/* Bytes of the longest token: what one push can add to a stream at most. */
uint32_t lm_tokenizer_longest(const lm_tokenizer *t);
const lmr_tok *lm_tokenizer_rust(const lm_tokenizer *t);

#endif
