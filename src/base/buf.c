#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- views */

lm_str lm_str_of(const char *s) {
    return (lm_str){s, s ? strlen(s) : 0};
}

bool lm_str_eq(lm_str a, lm_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool lm_str_eq_nocase(lm_str a, lm_str b) {
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.ptr[i]) != lower(b.ptr[i])) return false;
    return true;
}

bool lm_str_starts(lm_str s, lm_str prefix) {
    return s.len >= prefix.len && lm_str_eq((lm_str){s.ptr, prefix.len}, prefix);
}

bool lm_str_ends(lm_str s, lm_str suffix) {
    return s.len >= suffix.len &&
           (suffix.len == 0 || lm_str_eq((lm_str){s.ptr + s.len - suffix.len, suffix.len}, suffix));
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

lm_str lm_str_trim(lm_str s) {
    while (s.len && is_space(s.ptr[0])) {
        s.ptr++;
        s.len--;
    }
    while (s.len && is_space(s.ptr[s.len - 1])) s.len--;
    return s;
}

bool lm_str_number(lm_str s, uint64_t least, uint64_t most, uint64_t *out) {
    uint64_t n = 0;
    if (!s.len) return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
        uint64_t digit = (uint64_t)(s.ptr[i] - '0');
        if (n > most / 10 || digit > most || n * 10 > most - digit) return false;
        n = n * 10 + digit;
    }
    if (n < least) return false;
    *out = n;
    return true;
}

char *lm_str_dup(lm_str s) {
    char *copy = lm_alloc(s.len + 1);
    if (s.len) memcpy(copy, s.ptr, s.len);
    return copy;
}

/* ---- buffer */

void lm_buf_init(lm_buf *b, size_t cap) {
    *b = (lm_buf){.cap = cap};
}

void lm_buf_release(lm_buf *b) {
    free(b->ptr);
    *b = (lm_buf){.cap = b->cap};
}

void lm_buf_clear(lm_buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->ptr) b->ptr[0] = '\0';
}

/* Room for more bytes and the NUL; doubles, so that a document costs few allocations. */
static bool make_room(lm_buf *b, size_t more) {
    if (b->failed) return false;
    if (more > b->cap - b->len || b->len > b->cap) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + more + 1;
    if (need <= b->room) return true;
    size_t room = b->room ? b->room : 128;
    while (room < need) room = room > SIZE_MAX / 2 ? need : room * 2;
    if (room > b->cap + 1 && need <= b->cap + 1) room = b->cap + 1;
    char *ptr = realloc(b->ptr, room);
    if (!ptr) {
        b->failed = true;
        return false;
    }
    b->ptr = ptr;
    b->room = room;
    return true;
}

void lm_buf_add(lm_buf *b, const void *bytes, size_t len) {
    if (!make_room(b, len)) return;
    if (len) memcpy(b->ptr + b->len, bytes, len);
    b->len += len;
    b->ptr[b->len] = '\0';
}

void lm_buf_str(lm_buf *b, lm_str s) {
    lm_buf_add(b, s.ptr, s.len);
}

void lm_buf_text(lm_buf *b, const char *s) {
    lm_buf_add(b, s, strlen(s));
}

void lm_buf_char(lm_buf *b, char c) {
    lm_buf_add(b, &c, 1);
}

void lm_buf_base64(lm_buf *b, lm_str raw) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = (const uint8_t *)raw.ptr;
    for (size_t i = 0; i < raw.len; i += 3) {
        size_t n = raw.len - i < 3 ? raw.len - i : 3;
        uint32_t bits = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);
        char four[4] = {letters[bits >> 18], letters[bits >> 12 & 63], n > 1 ? letters[bits >> 6 & 63] : '=',
                        n > 2 ? letters[bits & 63] : '='};
        lm_buf_add(b, four, sizeof four);
    }
}

void lm_buf_printf(lm_buf *b, const char *format, ...) {
    char small[256];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        lm_buf_add(b, small, (size_t)n);
    } else if (make_room(b, (size_t)n)) {
        vsnprintf(b->ptr + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

lm_str lm_buf_view(const lm_buf *b) {
    return (lm_str){b->ptr ? b->ptr : "", b->len};
}

char *lm_buf_take(lm_buf *b) {
    char *text = b->ptr ? b->ptr : lm_alloc(1);
    *b = (lm_buf){.cap = b->cap};
    return text;
}

lm_status lm_buf_status(const lm_buf *b, const char *what, lm_err *err) {
    if (!b->failed) return LM_OK;
    return lm_fail(err, LM_TOO_LARGE, "%s is larger than %zu bytes", what, b->cap);
}
