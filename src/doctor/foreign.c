#include "doctor/foreign.h"

#include <stdio.h>
#include <string.h>

#define BLANKS LM_STR(" \t\r")

bool foreign_line(lm_str *rest, lm_str *line, bool *whole) {
    if (!rest->len) return false;
    const char *end = memchr(rest->ptr, '\n', rest->len);
    size_t n = end ? (size_t)(end - rest->ptr) : rest->len, used = end ? n + 1 : n;
    if (whole) *whole = end != NULL;
    *line = (lm_str){rest->ptr, n};
    *rest = (lm_str){rest->ptr + used, rest->len - used};
    return true;
}

/* Up to the next blank. */
static lm_str first_word(lm_str s) {
    size_t n = 0;
    while (n < s.len && !memchr(BLANKS.ptr, s.ptr[n], BLANKS.len)) n++;
    return (lm_str){s.ptr, n};
}

/* Only what can be shown, cut to what fits. */
static void add_word(char *out, size_t room, lm_str word) {
    size_t at = strlen(out);
    if (at && at + 1 < room) out[at++] = ' ';
    for (size_t i = 0; i < word.len && at + 1 < room; i++)
        out[at++] = word.ptr[i] > 0x20 && word.ptr[i] < 0x7f ? word.ptr[i] : '?';
    out[at] = '\0';
}

bool foreign_version(lm_str text, const char *name, char out[64]) {
    lm_str line;
    if (!foreign_line(&text, &line, NULL) || !lm_str_starts(line, lm_str_of(name))) return false;
    size_t n = strlen(name);
    if (line.len < n + 2 || line.ptr[n] != ' ') return false;
    lm_str version = first_word((lm_str){line.ptr + n + 1, line.len - n - 1});
    if (!version.len || version.len >= 64) return false;
    out[0] = '\0';
    add_word(out, 64, version);
    return true;
}

uint32_t foreign_ldd_missing(lm_str text, char out[256]) {
    uint32_t n = 0;
    lm_str line;
    out[0] = '\0';
    while (foreign_line(&text, &line, NULL)) {
        line = lm_str_trim(line);
        if (!lm_str_ends(line, LM_STR("=> not found"))) continue;
        add_word(out, 256, first_word(line));
        n++;
    }
    return n;
}

uint32_t foreign_otool_missing(lm_str text, bool (*there)(const char *path), char out[256]) {
    uint32_t n = 0;
    lm_str line;
    out[0] = '\0';
    while (foreign_line(&text, &line, NULL)) {
        if (!line.len || line.ptr[0] != '\t') continue; /* the heading: the program's own name */
        lm_str path = first_word(lm_str_trim(line));
        char file[1024];
        if (!path.len || path.ptr[0] != '/' || path.len >= sizeof file) continue;
        if (lm_str_starts(path, LM_STR("/usr/lib/")) || lm_str_starts(path, LM_STR("/System/"))) continue;
        snprintf(file, sizeof file, "%.*s", (int)path.len, path.ptr);
        if (there(file)) continue;
        add_word(out, 256, path);
        n++;
    }
    return n;
}
