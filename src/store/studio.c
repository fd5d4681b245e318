/* studio.c - GGUF files in LM Studio's folders: org/repo/FILE.gguf.
 *
 * Such a file goes by the name that Ollama has for it on the Hugging Face hub, org/repo:FORM; the form is
 * what its name ends with (Q4_K_M), else the file's name itself. Without a tag Q4_K_M is meant, else the
 * repository's only file. Parts of a model in several files and projectors are passed over.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/file.h"
#include "store/own.h"

#define MAX_FILES 256 /* of one repository */

/* "Q4_K_M", "F16" */
static bool is_form(const char *text) {
    static const char *const heads[] = {"Q", "IQ", "TQ", "F16", "F32", "BF16", "MXFP4"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t n = strlen(heads[i]);
        bool needs_digit = !isdigit((unsigned char)heads[i][n - 1]);
        if (!strncasecmp(text, heads[i], n) && (!needs_digit || isdigit((unsigned char)text[n]))) return true;
    }
    return false;
}

/* "Qwen3-4B-Q4_K_M" to "Q4_K_M": from the last '-' or '.', where what follows is a form. */
static const char *form_of(const char *stem) {
    const char *cut = strrchr(stem, '-'), *dot = strrchr(stem, '.');
    if (!cut || (dot && dot > cut)) cut = dot;
    return cut && is_form(cut + 1) ? cut + 1 : NULL;
}

#define PART "-00001-of-" /* before the number of parts in five digits */

/* Cuts "-00001-of-00003" off: 3. One part of others: 0. No part: 1. */
static uint32_t cut_parts(char *stem) {
    size_t n = strlen(stem), tail = strlen(PART) + 5;
    char *p = n > tail ? stem + n - tail : stem;
    if (n <= tail || p[0] != '-' || strspn(p + 1, "0123456789") != 5 || strncmp(p + 6, "-of-", 4) ||
        strspn(p + 10, "0123456789") != 5)
        return 1;
    uint32_t of = (uint32_t)strtoul(p + 10, NULL, 10);
    bool first = !strncmp(p, PART, strlen(PART));
    *p = '\0';
    return first ? of : 0;
}

/* The stem of a GGUF file that is a model, or the first part of one; the caller frees. */
static char *stem_of(const char *file, uint32_t *n_parts) {
    lm_str name = lm_str_of(file);
    if (!lm_str_ends(name, LM_STR(".gguf")) || name.ptr[0] == '.' || !strncasecmp(file, "mmproj", 6))
        return NULL;
    char *stem = lm_str_dup((lm_str){name.ptr, name.len - 5});
    *n_parts = cut_parts(stem);
    if (*n_parts) return stem;
    free(stem);
    return NULL;
}

typedef struct walk {
    const lm_place *place;
    const lm_name *want;
    lm_place_visit *visit;
    void *ctx;
    bool stop;
} walk;

/* Adds up the sizes of a model's parts; its age is that of the last one. */
static bool look_at_parts(const char *dir, const char *stem, uint32_t n_parts, lm_entry *e) {
    struct stat st;
    for (uint32_t i = 1; i <= n_parts; i++) {
        lm_buf name;
        lm_buf_init(&name, 4096);
        lm_buf_printf(&name, "%s/%s", dir, stem);
        if (n_parts > 1) lm_buf_printf(&name, "-%05u-of-%05u", i, n_parts);
        lm_buf_text(&name, ".gguf");
        bool ok = !name.failed && stat(name.ptr, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
        lm_buf_release(&name);
        if (!ok) return false;
        e->size += (uint64_t)st.st_size;
        if (lm_file_time_ns(&st) > e->modified_ns) e->modified_ns = lm_file_time_ns(&st);
    }
    return true;
}

static bool entry_of(const char *dir, const char *file, const lm_name *name, lm_entry *out) {
    lm_entry e = {.gguf = true};
    lm_buf text;
    int n = snprintf(e.file, sizeof e.file, "%s/%s", dir, file);
    if (n < 0 || (size_t)n >= sizeof e.file || strlen(dir) >= sizeof e.dir) return false;
    uint32_t n_parts = 0;
    char *stem = stem_of(file, &n_parts);
    bool whole = stem && look_at_parts(dir, stem, n_parts, &e);
    free(stem);
    if (!whole) return false;
    strcpy(e.dir, dir);
    lm_buf_init(&text, 4096);
    lm_buf_printf(&text, "%s\n%llu %lld\n", e.file, (unsigned long long)e.size, (long long)e.modified_ns);
    lm_blob_hex(lm_buf_view(&text), e.digest);
    lm_buf_release(&text);
    lm_name_short(name, e.name);
    if (is_form(name->tag)) snprintf(e.quantization, sizeof e.quantization, "%.15s", name->tag);
    *out = e;
    return true;
}

/* The files of one repository, sorted, so that all see the same. */
static uint32_t list_files(const char *dir, char *files[MAX_FILES]) {
    DIR *d = opendir(dir);
    uint32_t n = 0;
    for (struct dirent *e; d && n < MAX_FILES && (e = readdir(d));) {
        uint32_t n_parts;
        char *stem = stem_of(e->d_name, &n_parts);
        if (stem) files[n++] = lm_strdup(e->d_name);
        free(stem);
    }
    if (d) closedir(d);
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && strcmp(files[k - 1], files[k]) > 0; k--) {
            char *swap = files[k];
            files[k] = files[k - 1];
            files[k - 1] = swap;
        }
    return n;
}

/* The tag of a file: false when its name gives none. */
static bool tag_of(const char *file, char out[84]) {
    uint32_t n_parts;
    char *stem = stem_of(file, &n_parts);
    const char *form = form_of(stem);
    bool ok = lm_name_part(form ? form : stem, false, out);
    free(stem);
    return ok;
}

/* Is this the file that is meant without a tag? */
static bool is_usual(const char *tag, uint32_t n_files) {
    return n_files == 1 || !strcasecmp(tag, "Q4_K_M");
}

static void visit_repo(walk *w, const char *dir, lm_name name) {
    char *files[MAX_FILES];
    uint32_t n = list_files(dir, files);
    bool latest = w->want && !strcasecmp(w->want->tag, LM_DEFAULT_TAG);
    for (uint32_t i = 0; i < n; i++) {
        lm_entry e;
        bool ok = !w->stop && tag_of(files[i], name.tag);
        if (ok && w->want) ok = !strcasecmp(name.tag, w->want->tag) || (latest && is_usual(name.tag, n));
        if (ok && entry_of(dir, files[i], &name, &e)) w->stop = !w->visit(w->ctx, &name, &e);
        free(files[i]);
    }
}

static void walk_dir(walk *w, const char *dir, const char *org) {
    DIR *d = opendir(dir);
    uint32_t seen = 0;
    for (struct dirent *e; d && !w->stop && seen < LM_MAX_ENTRIES && (e = readdir(d)); seen++) {
        bool maybe = e->d_type == DT_DIR || e->d_type == DT_LNK || e->d_type == DT_UNKNOWN;
        lm_name name = {LM_DEFAULT_HOST, "", "", ""};
        if (e->d_name[0] == '.' || !maybe) continue;
        bool ok = lm_name_part(org ? org : e->d_name, true, name.ns);
        if (ok && org) ok = lm_name_part(e->d_name, false, name.model);
        if (!ok || (w->want && strcasecmp(name.ns, w->want->ns))) continue;
        if (org && w->want && strcasecmp(name.model, w->want->model)) continue;
        char *path = lm_path_join(dir, e->d_name);
        if (org)
            visit_repo(w, path, name);
        else
            walk_dir(w, path, e->d_name);
        free(path);
    }
    if (d) closedir(d);
}

void lm_studio_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx) {
    walk w = {.place = place, .want = want, .visit = visit, .ctx = ctx};
    if (want && strcasecmp(want->host, LM_DEFAULT_HOST)) return;
    walk_dir(&w, place->dir, NULL);
}
