#include "base/lines.h"

#include <string.h>

void lm_lines_init(lm_lines *l, size_t max_line) {
    lm_buf_init(&l->part, max_line);
}

void lm_lines_release(lm_lines *l) {
    lm_buf_release(&l->part);
}

lm_status lm_lines_add(lm_lines *l, lm_str piece, bool (*line)(void *ctx, lm_str line), void *ctx,
                       lm_err *err) {
    while (piece.len) {
        const char *end = memchr(piece.ptr, '\n', piece.len);
        size_t n = end ? (size_t)(end - piece.ptr) : piece.len;
        lm_buf_add(&l->part, piece.ptr, n);
        if (l->part.failed)
            return lm_fail(err, LM_TOO_LARGE, "a line of the stream has no end: it is longer than %zu bytes",
                           l->part.cap);
        if (!end) break;
        piece.ptr += n + 1;
        piece.len -= n + 1;
        lm_str whole = lm_buf_view(&l->part);
        if (whole.len && whole.ptr[whole.len - 1] == '\r') whole.len--;
        bool goes_on = line(ctx, whole);
        lm_buf_clear(&l->part);
        if (!goes_on) return LM_CANCELLED;
    }
    return LM_OK;
}

lm_str lm_lines_rest(const lm_lines *l) {
    return lm_buf_view(&l->part);
}
