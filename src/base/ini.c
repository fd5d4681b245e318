#include "base/ini.h"

#include <string.h>

#include "base/file.h"

static lm_str take_line(lm_str *rest) {
    const char *end = memchr(rest->ptr, '\n', rest->len);
    size_t len = end ? (size_t)(end - rest->ptr) : rest->len;
    lm_str line = {rest->ptr, len};
    size_t used = end ? len + 1 : len;
    *rest = (lm_str){rest->ptr + used, rest->len - used};
    return lm_str_trim(line);
}

/* "a = b" in two; false without '=' or without a key. */
static bool take_pair(lm_str line, lm_str *key, lm_str *value) {
    const char *eq = memchr(line.ptr, '=', line.len);
    if (!eq) return false;
    *key = lm_str_trim((lm_str){line.ptr, (size_t)(eq - line.ptr)});
    *value = lm_str_trim((lm_str){eq + 1, line.len - (size_t)(eq - line.ptr) - 1});
    return key->len > 0;
}

static lm_status take(lm_str line, lm_str *section, lm_ini_line *take_it, void *ctx, lm_err *err) {
    lm_str key = {0}, value = {0};
    if (line.len == 0 || line.ptr[0] == '#' || line.ptr[0] == ';') return LM_OK;
    if (line.ptr[0] == '[') {
        if (line.ptr[line.len - 1] != ']') return lm_fail(err, LM_INVALID, "expected: [section]");
        *section = lm_str_trim((lm_str){line.ptr + 1, line.len - 2});
    } else if (!take_pair(line, &key, &value)) {
        return lm_fail(err, LM_INVALID, "expected: key = value");
    }
    return take_it(ctx, *section, key, value, err);
}

lm_status lm_ini_parse(const char *name, lm_str text, lm_ini_line *line, void *ctx, lm_err *err) {
    lm_status st = LM_OK;
    lm_str rest = text, section = {0};
    if (lm_str_starts(rest, LM_STR("\xef\xbb\xbf"))) rest = (lm_str){rest.ptr + 3, rest.len - 3};
    for (int number = 1; st == LM_OK && rest.len; number++) {
        st = take(take_line(&rest), &section, line, ctx, err);
        if (st != LM_OK) lm_fail_in(err, st, "%s line %d", name, number);
    }
    return st;
}

lm_status lm_ini_read(const char *path, size_t max_bytes, lm_ini_line *line, void *ctx, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, max_bytes + 1);
    lm_status st = lm_file_read(path, max_bytes, &text, err);
    if (st == LM_OK) st = lm_ini_parse(path, lm_buf_view(&text), line, ctx, err);
    lm_buf_release(&text);
    return st;
}
