#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *lm_status_name(lm_status st) {
    static const char *const names[] = {
#define X(name, http, text) #name,
        LM_STATUS_MAP(X)
#undef X
    };
    return (unsigned)st < LM_STATUS_COUNT ? names[st] : "LM_?";
}

int lm_status_http(lm_status st) {
    static const int codes[] = {
#define X(name, http, text) http,
        LM_STATUS_MAP(X)
#undef X
    };
    return (unsigned)st < LM_STATUS_COUNT ? codes[st] : 500;
}

/* A cut must not leave half a character: the text goes into JSON. */
static void cut_at_character(char *text) {
    lm_str s = lm_str_of(text);
    bool bad = false;
    size_t whole = lm_utf8_valid(s, &bad);
    if (!bad && whole < s.len) text[whole] = '\0';
}

lm_status lm_fail(lm_err *err, lm_status st, const char *format, ...) {
    if (err) {
        char text[sizeof err->text]; /* the arguments may point into err->text */
        va_list args;
        va_start(args, format);
        int n = vsnprintf(text, sizeof text, format, args);
        va_end(args);
        if (n < 0) text[0] = '\0';
        if (n >= (int)sizeof text) cut_at_character(text);
        err->status = st;
        memcpy(err->text, text, sizeof text);
    }
    return st;
}

lm_status lm_fail_in(lm_err *err, lm_status st, const char *format, ...) {
    if (err) {
        char text[2 * sizeof err->text];
        va_list args;
        va_start(args, format);
        int n = vsnprintf(text, sizeof err->text, format, args);
        va_end(args);
        size_t at = n < 0 ? 0 : strlen(text);
        snprintf(text + at, sizeof text - at, ": %s", err->text);
        bool cut = strlen(text) >= sizeof err->text;
        text[sizeof err->text - 1] = '\0';
        if (cut) cut_at_character(text);
        err->status = st;
        memcpy(err->text, text, sizeof err->text);
    }
    return st;
}

void lm_bug(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: this must hold and does not: %s\n", file, line, what);
    abort();
}

static void *or_end(void *p, size_t size) {
    if (!p && size) {
        fprintf(stderr, "out of memory (%zu bytes)\n", size);
        abort();
    }
    return p;
}

void *lm_alloc(size_t size) {
    return or_end(calloc(1, size ? size : 1), size);
}

void *lm_realloc(void *old, size_t size) {
    return or_end(realloc(old, size ? size : 1), size);
}

char *lm_strdup(const char *s) {
    return lm_str_dup(lm_str_of(s));
}

void *lm_try_alloc(size_t count, size_t size) {
    return calloc(count ? count : 1, size ? size : 1);
}
