#include "cli/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#define SECOND INT64_C(1000000000)

/* ---- characters */

size_t text_char(lm_str s, uint32_t *code) {
    const uint8_t *p = (const uint8_t *)s.ptr;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n > s.len || lm_utf8_valid((lm_str){s.ptr, n}, NULL) != n) {
        *code = 0xfffd;
        return 1;
    }
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3f);
    *code = c;
    return n;
}

uint32_t text_char_width(uint32_t code) {
    int n = wcwidth((wchar_t)code);
    return n > 0 ? (uint32_t)n : 0;
}

uint32_t text_width(lm_str s) {
    uint32_t width = 0, code;
    for (size_t i = 0; i < s.len; width += text_char_width(code))
        i += text_char((lm_str){s.ptr + i, s.len - i}, &code);
    return width;
}

void text_clean(lm_buf *out, lm_str s, bool one_line) {
    for (size_t i = 0; i < s.len;) {
        uint32_t code;
        size_t n = text_char((lm_str){s.ptr + i, s.len - i}, &code);
        if (code == 0xfffd)
            lm_buf_text(out, "\xef\xbf\xbd");
        else if (code == '\n' || code == '\t')
            lm_buf_char(out, one_line ? ' ' : (char)code);
        else if (code >= 0x20 && !(code >= 0x7f && code < 0xa0))
            lm_buf_add(out, s.ptr + i, n);
        i += n;
    }
}

void text_clean_line(const char *s, char *out, size_t room) {
    lm_buf b;
    lm_buf_init(&b, 3 * strlen(s) + 1);
    text_clean(&b, lm_str_of(s), true);
    size_t n = b.len < room - 1 ? b.len : room - 1;
    n = n ? lm_utf8_valid((lm_str){b.ptr, n}, NULL) : 0;
    if (n) memcpy(out, b.ptr, n);
    out[n] = '\0';
    lm_buf_release(&b);
}

/* ---- units */

void text_bytes(int64_t bytes, char out[16]) {
    static const char *const units[] = {"KB", "MB", "GB", "TB"};
    if (bytes < 1000) {
        snprintf(out, 16, "%lld B", (long long)(bytes < 0 ? 0 : bytes));
        return;
    }
    double v = (double)bytes / 1000;
    int unit = 0;
    while (v >= 1000 && unit < 3) v /= 1000, unit++;
    snprintf(out, 16, v >= 10 || v == floor(v) ? "%.0f %s" : "%.1f %s", v >= 10 ? floor(v) : v, units[unit]);
}

void text_count(uint64_t n, char out[16]) {
    double v = (double)n;
    if (v < 1e3)
        snprintf(out, 16, "%.0f", v);
    else if (v < 1e6)
        snprintf(out, 16, "%.0fK", v / 1e3);
    else if (v < 1e9)
        snprintf(out, 16, v < 1e8 ? "%.2fM" : "%.1fM", v / 1e6);
    else
        snprintf(out, 16, "%.1fB", v / 1e9);
}

void text_duration(int64_t ns, char out[32]) {
    double s = (double)ns / 1e9;
    if (ns < 1000)
        snprintf(out, 32, "%lldns", (long long)ns);
    else if (ns < 1000000)
        snprintf(out, 32, "%.6gµs", s * 1e6);
    else if (ns < SECOND)
        snprintf(out, 32, "%.6gms", s * 1e3);
    else if (s < 60)
        snprintf(out, 32, "%.6gs", s);
    else if (s < 3600)
        snprintf(out, 32, "%lldm%.4gs", (long long)(s / 60), fmod(s, 60));
    else
        snprintf(out, 32, "%lldh%lldm%.0fs", (long long)(s / 3600), (long long)fmod(s / 60, 60),
                 floor(fmod(s, 60)));
}

bool text_time(const char *rfc3339, int64_t *wall_ns) {
    struct tm t = {0};
    int n = 0, hours = 0, minutes = 0;
    if (!rfc3339 || sscanf(rfc3339, "%4d-%2d-%2dT%2d:%2d:%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday,
                           &t.tm_hour, &t.tm_min, &t.tm_sec, &n) != 6)
        return false;
    const char *zone = rfc3339 + n;
    if (*zone == '.') zone += 1 + strspn(zone + 1, "0123456789");
    if (strcmp(zone, "Z") &&
        ((*zone != '+' && *zone != '-') || sscanf(zone + 1, "%2d:%2d", &hours, &minutes) != 2))
        return false;
    if (t.tm_year > 2260 || t.tm_year < 0)
        return false; /* beyond what 64 bits of nanoseconds hold; year 1 is "never" */
    t.tm_year -= 1900;
    t.tm_mon -= 1;
    int64_t seconds = (int64_t)timegm(&t), off = (hours * 60 + minutes) * 60;
    seconds -= *zone == '-' ? -off : off;
    *wall_ns =
        (seconds < 0 ? 0 : seconds) * SECOND; /* before 1970 no model was made, and differences stay small */
    return true;
}

static void human_span(int64_t ns, char out[32]) {
    int64_t s = ns / SECOND, minutes = s / 60, hours = (s + 1800) / 3600;
    if (s < 1)
        snprintf(out, 32, "Less than a second");
    else if (s == 1)
        snprintf(out, 32, "1 second");
    else if (s < 60)
        snprintf(out, 32, "%d seconds", (int)s);
    else if (minutes == 1)
        snprintf(out, 32, "About a minute");
    else if (minutes < 60)
        snprintf(out, 32, "%d minutes", (int)minutes);
    else if (hours == 1)
        snprintf(out, 32, "About an hour");
    else if (hours < 48)
        snprintf(out, 32, "%d hours", (int)hours);
    else if (hours < 24 * 7 * 2)
        snprintf(out, 32, "%d days", (int)(hours / 24));
    else if (hours < 24 * 30 * 2)
        snprintf(out, 32, "%d weeks", (int)(hours / 24 / 7));
    else if (hours < 24 * 365 * 2)
        snprintf(out, 32, "%d months", (int)(hours / 24 / 30));
    else
        snprintf(out, 32, "%d years", (int)(hours / 24 / 365));
}

void text_when(const char *rfc3339, int64_t now_ns, char out[48]) {
    int64_t at;
    int year = 0;
    char span[32];
    if (rfc3339 && sscanf(rfc3339, "%4d-", &year) == 1 && (year == 1 || year > 2260)) {
        snprintf(out, 48, "%s", year == 1 ? "Never" : "Forever");
    } else if (!text_time(rfc3339, &at)) {
        snprintf(out, 48, "Unknown");
    } else if (at / SECOND - now_ns / SECOND > INT64_C(20) * 365 * 86400) {
        snprintf(out, 48, "Forever");
    } else {
        human_span(at > now_ns ? at - now_ns : now_ns - at, span);
        snprintf(out, 48, "%s %s", span, at > now_ns ? "from now" : "ago");
    }
}

/* ---- tables */

void table_open(table *t, uint32_t n_columns) {
    LM_ASSERT(n_columns && n_columns <= TABLE_MAX_COLUMNS);
    *t = (table){.n_columns = n_columns};
}

void table_release(table *t) {
    for (uint32_t i = 0; i < t->n; i++) free(t->cells[i]);
    free(t->cells);
    free(t->styles);
    *t = (table){0};
}

void table_cell(table *t, const char *format, ...) {
    char *raw = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&raw, format, args) < 0) raw = NULL;
    va_end(args);
    LM_ASSERT(raw);
    lm_buf clean;
    lm_buf_init(&clean, 3 * strlen(raw) + 1);
    text_clean(&clean, lm_str_of(raw), true);
    free(raw);
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->cells = lm_realloc(t->cells, t->room * sizeof *t->cells);
        t->styles = lm_realloc(t->styles, t->room * sizeof *t->styles);
    }
    t->styles[t->n] = "";
    t->cells[t->n++] = clean.len ? lm_buf_take(&clean) : lm_strdup("");
    lm_buf_release(&clean);
}

void table_style(table *t, const char *sequence) {
    t->styles[t->n - 1] = sequence;
}

void table_print(const table *t, const char *before, lm_buf *out) {
    uint32_t width[TABLE_MAX_COLUMNS] = {0};
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t w = text_width(lm_str_of(t->cells[i]));
        if (w > width[i % t->n_columns]) width[i % t->n_columns] = w;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t column = i % t->n_columns;
        if (!column) lm_buf_text(out, before);
        lm_buf_printf(out, "%s%s%s", t->styles[i], t->cells[i], t->styles[i][0] ? "\033[0m" : "");
        if (column == t->n_columns - 1)
            lm_buf_char(out, '\n');
        else
            lm_buf_printf(out, "%*s", (int)(width[column] - text_width(lm_str_of(t->cells[i])) + 4), "");
    }
}
