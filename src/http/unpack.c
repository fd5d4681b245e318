/* Bodies that a client has compressed: zstd (RFC 8878), which OpenAI's command line tools use. */
#include <zstd.h>

#include "http/http.h"

#define MAX_WINDOW_LOG 23 /* 8 MiB of memory for the decoder, which RFC 8878 recommends to grant */

static lm_status unpack(ZSTD_DStream *z, lm_str packed, lm_buf *out, lm_err *err) {
    char piece[16384];
    ZSTD_inBuffer in = {packed.ptr, packed.len, 0};
    size_t left = 1, got;
    do {
        ZSTD_outBuffer to = {piece, sizeof piece, 0};
        left = ZSTD_decompressStream(z, &to, &in);
        if (ZSTD_isError(left))
            return lm_fail(err, LM_INVALID, "the request body is not valid zstd: %s",
                           ZSTD_getErrorName(left));
        lm_buf_add(out, piece, to.pos);
        if (out->failed)
            return lm_fail(err, LM_TOO_LARGE, "the request body is too large once it is unpacked");
        got = to.pos;
    } while (in.pos < in.size || (left && got == sizeof piece)); /* more input, or more of what it gave */
    return left == 0 ? LM_OK
                     : lm_fail(err, LM_INVALID, "the request body is not valid zstd: it ends too early");
}

lm_status lm_http_unpack(const lm_http *x, lm_buf *out, lm_str *body, lm_err *err) {
    lm_str encoding = lm_str_trim(lm_http_header(x, "Content-Encoding"));
    *body = lm_http_body(x);
    if (!encoding.len || lm_str_eq_nocase(encoding, LM_STR("identity"))) return LM_OK;
    if (!lm_str_eq_nocase(encoding, LM_STR("zstd")))
        return lm_fail(err, LM_INVALID,
                       "a body with Content-Encoding %.*s cannot be read: send it plain, or as zstd",
                       LM_STR_ARG(encoding));
    ZSTD_DStream *z = ZSTD_createDStream();
    if (!z) return lm_fail(err, LM_NO_MEMORY, "not enough memory to unpack the request body");
    (void)ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, MAX_WINDOW_LOG);
    lm_status st = unpack(z, *body, out, err);
    ZSTD_freeDStream(z);
    if (st == LM_OK) *body = lm_buf_view(out);
    return st;
}
