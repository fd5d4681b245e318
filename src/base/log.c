#include "base/base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192

static _Atomic int least_level = LM_LOG_INFO;

void lm_log_level(lm_level least) {
    atomic_store(&least_level, (int)least);
}

static bool is_plain(lm_str s) {
    if (!s.len) return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f) return false;
    }
    return true;
}

/* Quotes what needs it and escapes control characters: a request must not be able to forge a line. */
static void add_value(lm_buf *b, lm_str s) {
    if (is_plain(s)) {
        lm_buf_str(b, s);
        return;
    }
    lm_buf_char(b, '"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\')
            lm_buf_printf(b, "\\%c", c);
        else if (c == '\n')
            lm_buf_text(b, "\\n");
        else if (c < ' ' || c == 0x7f)
            lm_buf_printf(b, "\\x%02x", c);
        else
            lm_buf_char(b, (char)c);
    }
    lm_buf_char(b, '"');
}

void lm_log_field(lm_buf *b, const char *key, lm_str value) {
    if (b->len) lm_buf_char(b, ' ');
    lm_buf_text(b, key);
    lm_buf_char(b, '=');
    add_value(b, value);
}

void lm_log_line(lm_buf *out, lm_level level, const char *msg, const char *fields, va_list args) {
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    char time[40];
    lm_time_rfc3339(lm_wall_ns(), time);
    lm_buf_printf(out, "time=%s level=%s", time, names[level]);
    lm_log_field(out, "msg", lm_str_of(msg));
    if (fields) {
        char text[LINE_MAX_BYTES / 2];
        vsnprintf(text, sizeof text, fields, args);
        lm_buf_char(out, ' ');
        lm_buf_text(out, text);
    }
    lm_buf_char(out, '\n');
}

void lm_log(lm_level level, const char *msg, const char *fields, ...) {
    if ((int)level < atomic_load(&least_level)) return;
    lm_buf b;
    lm_buf_init(&b, LINE_MAX_BYTES);
    va_list args;
    va_start(args, fields);
    lm_log_line(&b, level, msg, fields, args);
    va_end(args);
    /* One write, so that lines of several threads don't mix. A full or closed stderr is nobody's failure
     * here. */
    if (write(STDERR_FILENO, b.ptr, b.len) < 0) (void)0;
    lm_buf_release(&b);
}
