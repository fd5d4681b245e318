/* files.c - the files of a model's directory, as they come into the store and leave it. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/clonefile.h>
#elif defined(__linux__)
#include <linux/fs.h>
#endif

#include "base/file.h"
#include "store/own.h"

#define MAX_FILES 4096

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Directories that belong to a model are numbered, as sentence-transformers does it: 1_Pooling, 2_Dense.
 * Others hold the same model once more in other forms (onnx, original). */
static bool is_numbered(const char *name) {
    size_t n = strspn(name, "0123456789");
    return n > 0 && name[n] == '_';
}

/* below: "" or "1_Pooling/". */
static lm_status list_dir(const char *dir, const char *below, lm_files *out, lm_err *err) {
    char *here = lm_path_join(dir, below);
    lm_status st = LM_OK;
    DIR *d = opendir(here);
    if (!d) st = lm_own_fail(err, "open", here);
    for (struct dirent *e; d && st == LM_OK && out->n < MAX_FILES && (e = readdir(d));) {
        struct stat info;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &info, 0) != 0) continue;
        bool deeper = S_ISDIR(info.st_mode) && !below[0] && is_numbered(e->d_name);
        if (!deeper && !S_ISREG(info.st_mode)) continue;
        char *name = lm_alloc(strlen(below) + strlen(e->d_name) + 2);
        sprintf(name, "%s%s%s", below, e->d_name, deeper ? "/" : "");
        if (deeper) {
            st = list_dir(dir, name, out, err);
            free(name);
            continue;
        }
        out->items = lm_realloc(out->items, (out->n + 1) * sizeof *out->items);
        out->items[out->n++] = name;
        out->bytes += (uint64_t)info.st_size;
    }
    if (d) closedir(d);
    free(here);
    return st;
}

lm_status lm_files_list(const char *dir, lm_files *out, lm_err *err) {
    lm_files f = {0};
    lm_status st = list_dir(dir, "", &f, err);
    if (st != LM_OK) {
        lm_files_release(&f);
        return st;
    }
    if (f.n) qsort(f.items, f.n, sizeof *f.items, by_text);
    *out = f;
    return LM_OK;
}

bool lm_file_is_converted(const char *name) {
    lm_str s = lm_str_of(name);
    return !strchr(name, '/') &&
           (lm_str_ends(s, LM_STR(".safetensors")) || lm_str_ends(s, LM_STR(".safetensors.index.json")) ||
            !strcmp(name, "config.json"));
}

void lm_files_release(lm_files *f) {
    for (uint32_t i = 0; i < f->n; i++) free(f->items[i]);
    free(f->items);
    *f = (lm_files){0};
}

bool lm_file_clone(int from, const char *path, int to, const char *temp) {
#if defined(__APPLE__)
    (void)from;
    (void)to;
    return unlink(temp) == 0 && clonefile(path, temp, 0) == 0;
#elif defined(FICLONE)
    (void)path;
    (void)temp;
    return ioctl(to, FICLONE, from) == 0;
#else
    (void)from, (void)path, (void)to, (void)temp;
    return false;
#endif
}
