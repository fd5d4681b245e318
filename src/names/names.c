/* names.c - model names: [host/][namespace/]model[:tag] */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "names/names.h"

/* Cuts the part after the last `at` off s. False when there is no `at`. */
static bool cut_last(lm_str *s, char at, lm_str *part) {
    for (size_t i = s->len; i-- > 0;) {
        if (s->ptr[i] != at) continue;
        *part = (lm_str){s->ptr + i + 1, s->len - i - 1};
        s->len = i;
        return true;
    }
    return false;
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Letters, digits, '_', '-', '.', and ':' in a host; a namespace has no '.'. The first one is a letter, digit
 * or '_', so a part is never "..", and never a hidden file. */
static bool take_part(lm_str s, const char *more, size_t max, char *out) {
    if (s.len == 0 || s.len > max || !is_word(s.ptr[0])) return false;
    for (size_t i = 0; i < s.len; i++) {
        if (!is_word(s.ptr[i]) && (s.ptr[i] == '\0' || !strchr(more, s.ptr[i]))) return false;
    }
    memcpy(out, s.ptr, s.len);
    out[s.len] = '\0';
    return true;
}

/* https://hf.co/org/repo is hf.co/org/repo. */
static lm_str without_scheme(lm_str s) {
    const lm_str schemes[] = {LM_STR("https://"), LM_STR("http://")};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        size_t n = schemes[i].len;
        if (s.len > n && lm_str_eq_nocase((lm_str){s.ptr, n}, schemes[i]))
            return (lm_str){s.ptr + n, s.len - n};
    }
    return s;
}

lm_status lm_name_parse(lm_str text, lm_name *out, lm_err *err) {
    lm_name n = {LM_DEFAULT_HOST, LM_DEFAULT_NS, "", LM_DEFAULT_TAG};
    lm_str rest = without_scheme(text), part;
    bool ok = true;

    /* A ':' before the last '/' is a port. */
    lm_str last = rest, before = rest;
    if (!cut_last(&before, '/', &last)) last = rest;
    if (last.len && memchr(last.ptr, ':', last.len)) {
        ok = cut_last(&rest, ':', &part) && take_part(part, "_-.", 80, n.tag);
    }
    bool more = cut_last(&rest, '/', &part);
    ok = ok && take_part(more ? part : rest, "_-.", 80, n.model);
    if (more) {
        more = cut_last(&rest, '/', &part);
        ok = ok && take_part(more ? part : rest, "_-", 80, n.ns);
    }
    if (more) ok = ok && take_part(rest, "_-.:", 350, n.host);
    if (!ok) return lm_fail(err, LM_INVALID, "invalid model name");
    *out = n;
    return LM_OK;
}

void lm_name_short(const lm_name *n, char out[700]) {
    bool host = strcasecmp(n->host, LM_DEFAULT_HOST) != 0;
    bool ns = host || strcasecmp(n->ns, LM_DEFAULT_NS) != 0;
    snprintf(out, 700, "%s%s%s%s%s:%s", host ? n->host : "", host ? "/" : "", ns ? n->ns : "", ns ? "/" : "",
             n->model, n->tag);
}

void lm_name_full(const lm_name *n, char out[700]) {
    snprintf(out, 700, "%s/%s/%s:%s", n->host, n->ns, n->model, n->tag);
}

bool lm_name_same(const lm_name *a, const lm_name *b) {
    return strcasecmp(a->model, b->model) == 0 && strcasecmp(a->tag, b->tag) == 0 &&
           strcasecmp(a->ns, b->ns) == 0 && strcasecmp(a->host, b->host) == 0;
}

bool lm_name_is_hub(const lm_name *n) {
    return strcasecmp(n->host, "hf.co") == 0 || strcasecmp(n->host, "huggingface.co") == 0;
}

bool lm_name_part(const char *file, bool namespace_part, char out[84]) {
    size_t len = 0;
    while (*file && !is_word(*file)) file++;
    for (; *file && len < 80; file++) {
        bool fine = is_word(*file) || *file == '-' || (*file == '.' && !namespace_part);
        out[len++] = fine ? *file : '-';
    }
    out[len] = '\0';
    return len > 0 && *file == '\0';
}
