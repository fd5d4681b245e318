/* base.h - what every room stands on: status and error text, string views, capped buffers, log, clock.
 *
 * Errors: a function that can fail returns lm_status and takes an lm_err last (NULL allowed). Its outputs are
 * written only on LM_OK. The text says what is wrong and what the reader can do; it is made where the failure is
 * known and is never logged where it is returned.
 *
 * Memory: lm_alloc and friends are for small, bounded things and end the process when there is none. Whatever a
 * request, a file or a model sizes goes through malloc with a check, or lm_try_alloc, and answers LM_NO_MEMORY.
 *
 * Threads: everything here may be called from any thread; a buffer belongs to one thread at a time.
 */
#ifndef LM_BASE_H
#define LM_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define LM_CHECKED __attribute__((warn_unused_result))
#define LM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define LM_NORETURN __attribute__((noreturn))
#else
#define LM_CHECKED
#define LM_PRINTF(f, a)
#define LM_NORETURN
#endif

/* ---- status ---------------------------------------------------------------------------------------------- */

/* name, HTTP status, what the class means */
#define LM_STATUS_MAP(X)                                                                                     \
    X(LM_OK, 200, "ok")                                                                                      \
    X(LM_INVALID, 400, "the caller's input is wrong")                                                        \
    X(LM_DENIED, 403, "not allowed")                                                                         \
    X(LM_NOT_FOUND, 404, "no such thing")                                                                    \
    X(LM_TOO_LARGE, 413, "over a limit")                                                                     \
    X(LM_CANCELLED, 499, "the client has left")                                                              \
    X(LM_INTERNAL, 500, "a mistake of ours, or of a library")                                                \
    X(LM_IO, 500, "the system refused to read or write")                                                     \
    X(LM_CORRUPT, 500, "a file is truncated, damaged or not what it says it is")                             \
    X(LM_NO_MEMORY, 500, "not enough memory")                                                                \
    X(LM_UNSUPPORTED, 400, "a form that this version does not know")                                         \
    X(LM_BUSY, 503, "full at the moment, try again")                                                         \
    X(LM_TIMEOUT, 504, "took too long")                                                                      \
    X(LM_NO_SPACE, 507, "the disk is full")

typedef enum lm_status {
#define X(name, http, text) name,
    LM_STATUS_MAP(X)
#undef X
    LM_STATUS_COUNT
} lm_status;

typedef struct lm_err {
    lm_status status;
    char text[508]; /* NUL-terminated, cut if longer */
} lm_err;

const char *lm_status_name(lm_status st); /* "LM_BUSY" */
int lm_status_http(lm_status st);         /* 503 */

/* Writes status and text into err (NULL allowed) and returns st. */
lm_status lm_fail(lm_err *err, lm_status st, const char *format, ...) LM_PRINTF(3, 4);

/* Puts "context: " before the text that err holds and returns st, for callers that know more. */
lm_status lm_fail_in(lm_err *err, lm_status st, const char *format, ...) LM_PRINTF(3, 4);

/* For our own mistakes only, never for input. Stays on in release builds; not used inside kernels. */
#define LM_ASSERT(cond) ((cond) ? (void)0 : lm_bug(__FILE__, __LINE__, #cond))
LM_NORETURN void lm_bug(const char *file, int line, const char *what);

/* ---- memory ---------------------------------------------------------------------------------------------- */

void *lm_alloc(size_t size);                       /* zeroed; ends the process when there is none */
void *lm_realloc(void *old, size_t size);          /* the same rule */
char *lm_strdup(const char *s);                    /* the same rule */
void *lm_try_alloc(size_t count, size_t size);     /* zeroed, overflow-checked; NULL when there is none */

/* ---- views ----------------------------------------------------------------------------------------------- */

/* Borrowed bytes, not NUL-terminated. An empty view may have ptr NULL. */
typedef struct lm_str {
    const char *ptr;
    size_t len;
} lm_str;

#define LM_STR(literal) ((lm_str){"" literal, sizeof(literal) - 1})
#define LM_STR_FMT "%.*s"
#define LM_STR_ARG(s) (int)(s).len, (s).ptr ? (s).ptr : ""

lm_str lm_str_of(const char *s); /* NULL gives the empty view */
bool lm_str_eq(lm_str a, lm_str b);
bool lm_str_eq_nocase(lm_str a, lm_str b); /* ASCII letters only */
bool lm_str_starts(lm_str s, lm_str prefix);
bool lm_str_ends(lm_str s, lm_str suffix);
lm_str lm_str_trim(lm_str s); /* without ASCII white space at either end */
/* A whole number in decimal digits and nothing else, least to most; *out is untouched otherwise. */
bool lm_str_number(lm_str s, uint64_t least, uint64_t most, uint64_t *out);
char *lm_str_dup(lm_str s);   /* NUL-terminated copy, the caller frees */

/* Length of the longest prefix of s that is whole, valid UTF-8; *bad (NULL allowed) is true when the byte after it
 * can never be completed, false when s merely ends inside a character. Source: RFC 3629 section 4. */
size_t lm_utf8_valid(lm_str s, bool *bad);

/* ---- buffer ---------------------------------------------------------------------------------------------- */

/* A growing byte buffer with a hard cap, so that no input can exhaust memory. Always NUL-terminated after a write.
 * Overflowing the cap or running out of memory sets `failed` and leaves the content as it was: write a whole
 * document, then ask once with lm_buf_status. */
typedef struct lm_buf {
    char *ptr;
    size_t len;
    size_t room;
    size_t cap; /* bytes, the most that may ever be held */
    bool failed;
} lm_buf;

void lm_buf_init(lm_buf *b, size_t cap);
void lm_buf_release(lm_buf *b); /* frees; the buffer may be used again */
void lm_buf_clear(lm_buf *b);   /* length 0, memory kept, `failed` reset */
void lm_buf_add(lm_buf *b, const void *bytes, size_t len);
void lm_buf_str(lm_buf *b, lm_str s);
void lm_buf_text(lm_buf *b, const char *s);
void lm_buf_char(lm_buf *b, char c);
void lm_buf_printf(lm_buf *b, const char *format, ...) LM_PRINTF(2, 3);
void lm_buf_base64(lm_buf *b, lm_str raw); /* with padding at the end; pieces of 3 n bytes may be added one by one */
lm_str lm_buf_view(const lm_buf *b);                                    /* valid until the next write */
char *lm_buf_take(lm_buf *b);                                           /* the caller frees; the buffer is empty */
lm_status lm_buf_status(const lm_buf *b, const char *what, lm_err *err) /* LM_TOO_LARGE after an overflow */
    LM_CHECKED;

/* ---- clock ----------------------------------------------------------------------------------------------- */

uint64_t lm_now_ns(void);                             /* monotonic */
int64_t lm_wall_ns(void);                             /* since 1970, UTC */
void lm_time_rfc3339(int64_t wall_ns, char out[40]);  /* 2026-01-31T09:08:07.123456789Z, trailing zeros cut as Go does */
/* "300ms", "1h30m", "-1m": Go's time.ParseDuration. LM_INVALID with Go's own text otherwise. Saturates at ±292 years. */
lm_status lm_duration_parse(lm_str text, int64_t *ns, lm_err *err) LM_CHECKED;

/* ---- log ------------------------------------------------------------------------------------------------- */

/* Lines for the log, logfmt: time=... level=INFO msg="..." key=value. Main-level code logs; libraries return errors. */
typedef enum lm_level { LM_LOG_DEBUG, LM_LOG_INFO, LM_LOG_WARN, LM_LOG_ERROR } lm_level;
void lm_log_level(lm_level least);
/* fields is printf text of ready key=value pairs, may be NULL. Whole lines, one write(2) each, to stderr. */
void lm_log(lm_level level, const char *msg, const char *fields, ...) LM_PRINTF(3, 4);
/* The line itself, with its end, for logs that lie elsewhere; the level is not asked. */
void lm_log_line(lm_buf *out, lm_level level, const char *msg, const char *fields, va_list args);
/* Appends key="value" with quotes and escapes where they are needed. */
void lm_log_field(lm_buf *b, const char *key, lm_str value);

#endif
