#include "cli/images.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define MAX_IMAGE  (100u << 20)
#define MAX_IMAGES 16
#define MAX_PATH   4096

/* Bytes of s up to the end of a suffix that a picture has, from `from` on; 0: none comes on this line. */
static size_t next_end(lm_str s, size_t from) {
    static const char *const suffixes[] = {".jpg", ".jpeg", ".png", ".webp"};
    for (size_t i = from; i < s.len && s.ptr[i] != '\n' && i < MAX_PATH; i++) {
        if (s.ptr[i] != '.') continue;
        for (size_t k = 0; k < sizeof suffixes / sizeof *suffixes; k++) {
            size_t n = strlen(suffixes[k]);
            if (s.len - i < n || !lm_str_eq_nocase((lm_str){s.ptr + i, n}, lm_str_of(suffixes[k]))) continue;
            char behind = i + n < s.len ? s.ptr[i + n] : ' ';
            bool letter = (behind >= '0' && behind <= '9') || (behind >= 'A' && behind <= 'Z') ||
                          (behind >= 'a' && behind <= 'z') || behind == '_';
            if (!letter) return i + n;
        }
    }
    return 0;
}

static bool begins_path(lm_str s) {
    return lm_str_starts(s, LM_STR("/")) || lm_str_starts(s, LM_STR("./")) ||
           lm_str_starts(s, LM_STR("../")) || lm_str_starts(s, LM_STR("~/"));
}

/* The file that was meant: without escapes, ~ as the home directory. */
static char *file_of(lm_str path) {
    char *plain = lm_alloc(path.len + 1);
    size_t n = 0;
    for (size_t i = 0; i < path.len; i++) {
        if (path.ptr[i] == '\\' && i + 1 < path.len) i++;
        plain[n++] = path.ptr[i];
    }
    if (strncmp(plain, "~/", 2)) return plain;
    char *file = lm_path_home(plain + 2);
    free(plain);
    return file;
}

/* Bytes of the path of a file that s begins with; 0: it begins with none. */
static size_t find_path(lm_str s, char **file) {
    if (!begins_path(s)) return 0;
    for (size_t n = next_end(s, 0); n; n = next_end(s, n)) {
        *file = file_of((lm_str){s.ptr, n});
        if (lm_path_is_file(*file)) return n;
        free(*file);
    }
    *file = NULL;
    return 0;
}

static bool is_picture(lm_str b) {
    return lm_str_starts(b, LM_STR("\xff\xd8\xff")) || lm_str_starts(b, LM_STR("\x89PNG\r\n\x1a\n")) ||
           (b.len > 12 && lm_str_starts(b, LM_STR("RIFF")) && !memcmp(b.ptr + 8, "WEBP", 4));
}

static lm_status read_picture(const char *file, json_t *images, lm_err *err) {
    lm_buf raw, text;
    lm_buf_init(&raw, MAX_IMAGE + 1);
    lm_buf_init(&text, MAX_IMAGE / 3 * 4 + 16);
    lm_status st = lm_file_read(file, MAX_IMAGE, &raw, err);
    if (st == LM_OK && !is_picture(lm_buf_view(&raw)))
        st = lm_fail(err, LM_INVALID, "%s is no JPEG, PNG or WebP picture", file);
    if (st == LM_OK) lm_buf_base64(&text, lm_buf_view(&raw));
    if (st == LM_OK) st = lm_buf_status(&text, file, err);
    if (st == LM_OK) json_array_append_new(images, json_stringn(text.ptr, text.len));
    lm_buf_release(&raw);
    lm_buf_release(&text);
    return st;
}

lm_status images_take(const char *text, char **rest, json_t **images, lm_err *err) {
    lm_str s = lm_str_of(text);
    lm_buf kept;
    lm_buf_init(&kept, s.len + 1);
    json_t *found = json_array();
    lm_status st = LM_OK;
    for (size_t i = 0; i < s.len && st == LM_OK;) {
        char *file = NULL;
        char quote = i && (s.ptr[i - 1] == '\'' || s.ptr[i - 1] == '"') ? s.ptr[i - 1] : 0;
        size_t n = json_array_size(found) < MAX_IMAGES ? find_path((lm_str){s.ptr + i, s.len - i}, &file) : 0;
        if (n) {
            st = read_picture(file, found, err);
            if (st == LM_OK) fprintf(stderr, "Added image '%s'\n", file);
            free(file);
            i += n;
            if (quote && i < s.len && s.ptr[i] == quote) {
                kept.len--; /* both quotes go with the path */
                i++;
            }
        } else {
            lm_buf_char(&kept, s.ptr[i++]);
        }
    }
    if (st == LM_OK) {
        bool any = json_array_size(found) > 0;
        *rest = lm_str_dup(any ? lm_str_trim(lm_buf_view(&kept)) : s);
        *images = any ? json_incref(found) : NULL;
    }
    json_decref(found);
    lm_buf_release(&kept);
    return st;
}
