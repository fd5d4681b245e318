/* pieces.h - what several wire formats write in the same way. */
#ifndef LM_API_PIECES_H
#define LM_API_PIECES_H

#include "engine/engine.h"

/* {"token","logprob","bytes"} of one token, with "top_logprobs" when wanted. */
void lm_write_logprobs(lm_buf *b, const lm_token_logprobs *p, bool top);

/* "call_" and eight of [a-z0-9]: ids need to differ, not to be secret. */
void lm_call_id(char out[16]);

#endif
