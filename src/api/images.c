#include "api/images.h"

#include <string.h>

static bool is_letter(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

static size_t skip_line_ends(lm_str s, size_t i) {
    while (i < s.len && (s.ptr[i] == '\n' || s.ptr[i] == '\r')) i++;
    return i;
}

/* The padding at i behind so many letters of a group: where it is wrong, or s.len + 1. */
static size_t wrong_padding(lm_str s, size_t i, unsigned letters) {
    if (letters < 2) return i;
    size_t next = skip_line_ends(s, i + 1);
    if (letters == 2) {
        if (next == s.len) return s.len;
        if (s.ptr[next] != '=') return next - 1; /* as Go: the one before it */
        next = skip_line_ends(s, next + 1);
    }
    return next < s.len ? next : s.len + 1;
}

/* Where a decoder stops; s.len + 1: nowhere. */
static size_t wrong_at(lm_str s) {
    unsigned letters = 0; /* of a group of four */
    for (size_t i = skip_line_ends(s, 0); i < s.len; i = skip_line_ends(s, i + 1)) {
        if (is_letter(s.ptr[i]))
            letters = (letters + 1) % 4;
        else
            return s.ptr[i] == '=' ? wrong_padding(s, i, letters) : i;
    }
    return letters ? s.len - letters : s.len + 1;
}

lm_status lm_base64_check(lm_str text, lm_err *err) {
    size_t at = wrong_at(text);
    if (at > text.len) return LM_OK;
    return lm_fail(err, LM_INVALID, "illegal base64 data at input byte %zu", at);
}

bool lm_field_images(lm_fields *f) {
    json_t *list = lm_field_array(f, "images", "[]api.ImageData"), *one;
    size_t i;
    json_array_foreach(list, i, one) {
        lm_err err = {0};
        if (json_is_null(one)) continue;
        if (!json_is_string(one))
            lm_field_wrong(f, "images", one, "api.ImageData");
        else if (lm_base64_check((lm_str){json_string_value(one), json_string_length(one)}, &err) != LM_OK)
            lm_fields_fail(f, LM_INVALID, "%s", err.text);
    }
    return json_array_size(list) > 0;
}

/* What stands behind a prefix that Ollama knows; NULL: another one. */
static const char *data_of(const char *url) {
    static const char *const kinds[] = {"data:;base64,", "data:image/jpeg;base64,", "data:image/jpg;base64,",
                                        "data:image/png;base64,", "data:image/webp;base64,"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strncmp(url, kinds[i], strlen(kinds[i]))) return url + strlen(kinds[i]);
    return NULL;
}

bool lm_image_url_check(lm_fields *f, const char *url) {
    const char *data = data_of(url);
    if (!strncmp(url, "http://", 7) || !strncmp(url, "https://", 8))
        lm_fields_fail(f, LM_INVALID,
                       "image URLs are not currently supported, please use base64 encoded data instead");
    else if (!data || lm_base64_check(lm_str_of(data), NULL) != LM_OK)
        lm_fields_fail(f, LM_INVALID, "invalid image input");
    return f->st == LM_OK;
}
