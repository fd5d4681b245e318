#include "base/base.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t read_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t lm_now_ns(void) {
    return (uint64_t)read_clock(CLOCK_MONOTONIC);
}

int64_t lm_wall_ns(void) {
    return read_clock(CLOCK_REALTIME);
}

void lm_time_rfc3339(int64_t wall_ns, char out[40]) {
    int64_t seconds = wall_ns / 1000000000, rest = wall_ns % 1000000000;
    if (rest < 0) {
        rest += 1000000000;
        seconds--;
    }
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest) {
        n += (size_t)snprintf(out + n, 40 - n, ".%09d", (int)rest);
        while (out[n - 1] == '0') n--;
    }
    snprintf(out + n, 40 - n, "Z");
}

/* ---- durations: Go's time.ParseDuration */

typedef struct unit {
    const char *name;
    double ns;
} unit;

static const unit units[] = {{"ns", 1},   {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"\xce\xbcs", 1e3},
                             {"ms", 1e6}, {"s", 1e9},  {"m", 60e9},        {"h", 3600e9}};

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Reads "12.5" at s and moves on; false when there is no digit at all. */
static bool read_number(lm_str *s, double *value) {
    double v = 0, place = 1;
    bool any = false;
    for (; s->len && is_digit(s->ptr[0]); s->ptr++, s->len--, any = true) v = v * 10 + (s->ptr[0] - '0');
    if (s->len && s->ptr[0] == '.') {
        s->ptr++;
        s->len--;
        for (; s->len && is_digit(s->ptr[0]); s->ptr++, s->len--, any = true)
            v += (s->ptr[0] - '0') * (place /= 10);
    }
    *value = v;
    return any;
}

lm_status lm_duration_parse(lm_str text, int64_t *ns, lm_err *err) {
    lm_str s = text;
    bool negative = false;
    double total = 0;
    if (s.len && (s.ptr[0] == '-' || s.ptr[0] == '+')) {
        negative = s.ptr[0] == '-';
        s.ptr++;
        s.len--;
    }
    if (lm_str_eq(s, LM_STR("0"))) {
        *ns = 0;
        return LM_OK;
    }
    if (!s.len)
        return lm_fail(err, LM_INVALID, "time: invalid duration \"" LM_STR_FMT "\"", LM_STR_ARG(text));
    while (s.len) {
        double value;
        if (!read_number(&s, &value))
            return lm_fail(err, LM_INVALID, "time: invalid duration \"" LM_STR_FMT "\"", LM_STR_ARG(text));
        lm_str name = {s.ptr, 0};
        while (name.len < s.len && s.ptr[name.len] != '.' && !is_digit(s.ptr[name.len])) name.len++;
        if (!name.len)
            return lm_fail(err, LM_INVALID, "time: missing unit in duration \"" LM_STR_FMT "\"",
                           LM_STR_ARG(text));
        const unit *u = NULL;
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (lm_str_eq(name, lm_str_of(units[i].name))) u = &units[i];
        if (!u)
            return lm_fail(err, LM_INVALID,
                           "time: unknown unit \"" LM_STR_FMT "\" in duration \"" LM_STR_FMT "\"",
                           LM_STR_ARG(name), LM_STR_ARG(text));
        total += value * u->ns;
        s.ptr += name.len;
        s.len -= name.len;
    }
    if (total >= 9.2e18) total = 9.2e18;
    *ns = negative ? -(int64_t)total : (int64_t)total;
    return LM_OK;
}
