/* lines.h - bytes as they come, cut into lines: NDJSON, whose pieces may hold any part of any number of lines.
 *
 * Threads: a cutter belongs to one thread at a time.
 */
#ifndef LM_LINES_H
#define LM_LINES_H

#include "base/base.h"

typedef struct lm_lines {
    lm_buf part; /* what has come of the current line */
} lm_lines;

void lm_lines_init(lm_lines *l, size_t max_line);
void lm_lines_release(lm_lines *l);
/* Hands on each line that is whole now, without its end; false ends it (LM_CANCELLED, without a text).
 * LM_TOO_LARGE: a line is longer than max_line. */
lm_status lm_lines_add(lm_lines *l, lm_str piece, bool (*line)(void *ctx, lm_str line), void *ctx,
                       lm_err *err) LM_CHECKED;
/* What has come behind the last line's end; valid until the next call. */
lm_str lm_lines_rest(const lm_lines *l);

#endif
