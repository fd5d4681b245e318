/* listing.c - the files of a repository, as the hub's API lists them, and which of them make a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/json.h"
#include "hub/private.h"

void lm_listing_release(lm_listing *l) {
    for (uint32_t i = 0; i < l->n; i++) {
        free(l->files[i].url);
        free(l->files[i].path);
        if (l->files[i].fd >= 0) close(l->files[i].fd);
    }
    free(l->files);
    *l = (lm_listing){0};
}

static const char *text_of(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    const char *text = json_string_value(v);
    return text && strlen(text) == json_string_length(v) ? text : "";
}

static bool is_hex(const char *s, size_t n) {
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

/* One part of a path: nothing hidden, nothing that a terminal or a shell would take for something else. */
static bool plain_name(const char *s, size_t n) {
    if (n == 0 || n > 200 || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 32 || c > 126 || strchr("/\\:*?\"<>|", c)) return false;
    }
    return true;
}

static bool starts(const char *s, const char *with) {
    return !strncasecmp(s, with, strlen(with));
}

static bool ends(const char *s, const char *with) {
    size_t n = strlen(s), k = strlen(with);
    return n >= k && !strcasecmp(s + n - k, with);
}

static bool is_gguf(const char *name) {
    return ends(name, ".gguf");
}

/* Pictures, scripts, other frameworks' weights and what hides are nobody's. */
static bool is_wanted_here(const char *name) {
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "vocab.txt",
                                        "merges.txt",
                                        "modules.json",
                                        "sentence_bert_config.json",
                                        "preprocessor_config.json",
                                        "chat_template.json",
                                        "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return ends(name, ".safetensors") || ends(name, ".jinja") || starts(name, "tokenizer") ||
           starts(name, "license") || is_gguf(name);
}

/* Two kinds of folders say something: those of sentence-transformers, "1_Pooling/config.json", and those that
 * hold a GGUF file, often in parts, "Q4_K_M/x-00001-of-00002.gguf". */
static bool is_wanted(const char *path) {
    const char *slash = strchr(path, '/');
    if (strlen(path) > 200) return false;
    if (!slash) return plain_name(path, strlen(path)) && is_wanted_here(path);
    if (!plain_name(path, (size_t)(slash - path))) return false;
    if (is_gguf(slash + 1)) return plain_name(slash + 1, strlen(slash + 1));
    return path[0] >= '0' && path[0] <= '9' && !strcmp(slash + 1, "config.json");
}

static lm_status read_size(const json_t *v, uint64_t *out, const char *name, lm_err *err) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        (uint64_t)json_integer_value(v) > LM_HUB_MAX_BYTES)
        return lm_fail(err, LM_CORRUPT, "the hub's listing has no size of %s", name);
    *out = (uint64_t)json_integer_value(v);
    return LM_OK;
}

/* {"rfilename":"model.safetensors","size":1,"blobId":"..","lfs":{"sha256":"..","size":1}} */
static lm_status read_file(const json_t *v, lm_remote *out, bool *wanted, lm_err *err) {
    const char *name = text_of(v, "rfilename");
    *wanted = is_wanted(name);
    if (!*wanted) return LM_OK;
    *out = (lm_remote){.fd = -1};
    strcpy(out->name, name);
    const json_t *lfs = json_object_get(v, "lfs");
    const char *sha256 = text_of(lfs, "sha256"), *oid = text_of(v, "blobId");
    lm_status st = read_size(json_object_get(json_is_object(lfs) ? lfs : v, "size"), &out->size, name, err);
    if (st == LM_OK && is_hex(sha256, 64)) {
        memcpy(out->digest, "sha256:", 7);
        strcpy(out->digest + 7, sha256);
    } else if (st == LM_OK && !json_is_object(lfs) && is_hex(oid, 40)) {
        strcpy(out->oid, oid);
    } else if (st == LM_OK) {
        st = lm_fail(err, LM_CORRUPT, "the hub's listing has no checksum of %s", name);
    }
    return st;
}

static bool listed_before(const lm_listing *l, const char *name) {
    for (uint32_t i = 0; i < l->n; i++)
        if (!strcasecmp(l->files[i].name, name)) return true;
    return false;
}

static lm_status read_files(const json_t *list, lm_listing *l, lm_err *err) {
    json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        lm_remote f;
        bool wanted = false;
        l->readme = l->readme || !strcmp(text_of(one, "rfilename"), "README.md");
        lm_status st = read_file(one, &f, &wanted, err);
        if (st != LM_OK) return st;
        if (!wanted) continue;
        if (listed_before(l, f.name)) return lm_fail(err, LM_CORRUPT, "the hub lists %s twice", f.name);
        if (l->n == LM_HUB_MAX_FILES)
            return lm_fail(err, LM_TOO_LARGE, "the repository has more than %d files", LM_HUB_MAX_FILES);
        l->files = lm_realloc(l->files, (l->n + 1) * sizeof *l->files);
        memcpy(&l->files[l->n++], &f, sizeof f);
    }
    return LM_OK;
}

lm_status lm_listing_parse(lm_str text, lm_listing *out, lm_err *err) {
    json_t *root = NULL;
    lm_listing l = {0};
    lm_status st = lm_json_parse(text, &root, err);
    if (st == LM_OK) {
        const char *commit = text_of(root, "sha");
        json_t *files = json_object_get(root, "siblings");
        if (!is_hex(commit, 40) || !json_is_array(files))
            st = lm_fail(err, LM_CORRUPT, "it names no commit or no files");
        else
            strcpy(l.commit, commit);
        if (st == LM_OK) st = read_files(files, &l, err);
    }
    json_decref(root);
    if (st != LM_OK) {
        lm_listing_release(&l);
        return lm_fail_in(err, st == LM_NO_MEMORY || st == LM_TOO_LARGE ? st : LM_CORRUPT,
                          "the hub's answer is not a listing of files");
    }
    *out = l;
    return LM_OK;
}

/* ---- choice */

static bool has(const lm_listing *l, bool (*is)(const char *name)) {
    for (uint32_t i = 0; i < l->n; i++)
        if (is(l->files[i].name)) return true;
    return false;
}

static bool is_config(const char *name) {
    return !strcmp(name, "config.json");
}

static bool is_weights(const char *name) {
    return ends(name, ".safetensors");
}

static bool holds(const char *name, const char *form) {
    size_t n = strlen(form);
    for (; *name; name++)
        if (!strncasecmp(name, form, n)) return true;
    return false;
}

static void keep(lm_listing *l, bool (*test)(const char *name, const char *arg), const char *arg) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n; i++)
        if (test(l->files[i].name, arg)) memmove(&l->files[n++], &l->files[i], sizeof *l->files);
    l->n = n;
}

static bool not_gguf(const char *name, const char *arg) {
    (void)arg;
    return !is_gguf(name);
}

static bool is_named(const char *name, const char *arg) {
    return !strcmp(name, arg);
}

static bool is_projector(const char *path) {
    const char *slash = strrchr(path, '/');
    return starts(slash ? slash + 1 : path, "mmproj");
}

static const char *find_gguf(const lm_listing *l, const char *form) {
    for (uint32_t i = 0; i < l->n; i++)
        if (is_gguf(l->files[i].name) && holds(l->files[i].name, form) && !is_projector(l->files[i].name))
            return l->files[i].name;
    return NULL;
}

#define PART_TAIL 20 /* "-00001-of-00003.gguf" */

/* Whether name is part *no (from 1) of *count; what comes before that is the same in all parts. */
static bool is_part(const char *name, unsigned *no, unsigned *count) {
    size_t n = strlen(name);
    char again[PART_TAIL + 1];
    if (n <= PART_TAIL || sscanf(name + n - PART_TAIL, "-%5u-of-%5u", no, count) != 2) return false;
    snprintf(again, sizeof again, "-%05u-of-%05u.gguf", *no % 100000, *count % 100000);
    return !strcasecmp(name + n - PART_TAIL, again);
}

static bool same_model(const char *name, const char *part) {
    unsigned no, count, a, b;
    size_t n = strlen(part);
    return strlen(name) == n && !strncmp(name, part, n - PART_TAIL) && is_part(name, &no, &count) &&
           is_part(part, &a, &b) && count == b;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const lm_remote *)a)->name, ((const lm_remote *)b)->name);
}

/* All parts of the model that one of them is named after, in their order. */
static lm_status keep_parts(lm_listing *l, const char *part, unsigned count, lm_err *err) {
    keep(l, same_model, part);
    qsort(l->files, l->n, sizeof *l->files, by_name);
    for (unsigned i = 0; i < count; i++) {
        unsigned no = 0, all;
        if (i < l->n && is_part(l->files[i].name, &no, &all) && no == i + 1) continue;
        return lm_fail(err, LM_CORRUPT, "%s is one of %u parts, and the repository has no part %u", part,
                       count, i + 1);
    }
    if (l->n != count)
        return lm_fail(err, LM_CORRUPT, "%s is one of %u parts, and the repository has more", part, count);
    return LM_OK;
}

lm_status lm_listing_choose(lm_listing *l, const char *tag, bool *gguf, lm_err *err) {
    *gguf = false;
    if (has(l, is_config) && has(l, is_weights)) {
        keep(l, not_gguf, NULL);
        return LM_OK;
    }
    bool any = !strcasecmp(tag, "latest");
    const char *name = find_gguf(l, any ? "Q4_K_M" : tag);
    if (!name && any) name = find_gguf(l, "");
    if (!name && has(l, is_gguf))
        return lm_fail(err, LM_NOT_FOUND, "the repository has no GGUF file of the form \"%s\"", tag);
    if (!name)
        return lm_fail(
            err, LM_UNSUPPORTED,
            "the repository has neither config.json with safetensors nor a GGUF file: it is no model "
            "that can be run");
    char copy[201];
    unsigned no, count;
    strcpy(copy, name);
    if (is_part(copy, &no, &count)) {
        lm_status st = keep_parts(l, copy, count, err);
        if (st != LM_OK) return st;
    } else {
        keep(l, is_named, copy);
    }
    *gguf = true;
    return LM_OK;
}
