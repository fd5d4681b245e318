/* pieces.h - what several wire formats write in the same way. */
#ifndef LM_API_PIECES_H
#define LM_API_PIECES_H

#include "engine/engine.h"

/* {"token","logprob","bytes"} of one token, with "top_logprobs" when wanted. */
void lm_write_logprobs(lm_buf *b, const lm_token_logprobs *p, bool top);

/* "call_" and eight of [a-z0-9]: ids need to differ, not to be secret. */
void lm_call_id(char out[16]);
/* prefix (at most 6 characters), "_" and 24 hex digits. */
void lm_hex_id(const char *prefix, char out[32]);

/* Where an answer consists of blocks, one of nothing but space, as between two calls, helps nobody, and
 * vendors refuse it when it is sent back. So space that a block would begin with waits for what follows. */
typedef struct lm_gap {
    lm_buf held;
    int kind; /* of the block that it would begin */
} lm_gap;
/* text would begin a block. True: with *text, which has what was held before it, one begins; the caller
 * clears held when it is written. False: it was nothing but space, and is held. */
bool lm_gap_pass(lm_gap *g, int kind, lm_str *text);

#endif
