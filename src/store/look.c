/* look.c - one directory: is a whole model there, how large, how old, and its digest.
 *
 * Whole means: config.json and at least one *.safetensors file, none of them an empty file or a link to
 * nothing, and of a set name-00001-of-00007.safetensors all seven. That is how an interrupted download shows.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/file.h"
#include "store/own.h"

#define MAX_FILES 4096 /* in one model directory; more is not a model */

typedef struct file {
    char *name;
    uint64_t size;
    int64_t mtime_ns;
} file;

typedef struct files {
    file *items;
    uint32_t n, room;
} files;

int64_t lm_file_time_ns(const struct stat *st) {
#ifdef __APPLE__
    return (int64_t)st->st_mtimespec.tv_sec * 1000000000 + st->st_mtimespec.tv_nsec;
#else
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
#endif
}

static void release(files *f) {
    for (uint32_t i = 0; i < f->n; i++) free(f->items[i].name);
    free(f->items);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const file *)a)->name, ((const file *)b)->name);
}

/* Shards of "x-00001-of-00007.safetensors": 7. Of any other name: 0. */
static uint32_t shards_of(lm_str name) {
    lm_str tail = LM_STR("-00001-of-00007.safetensors");
    uint32_t of = 0;
    if (name.len < tail.len) return 0;
    const char *p = name.ptr + name.len - tail.len;
    for (size_t i = 0; i < tail.len; i++) {
        bool digit = tail.ptr[i] >= '0' && tail.ptr[i] <= '9';
        if (digit ? p[i] < '0' || p[i] > '9' : p[i] != tail.ptr[i]) return 0;
    }
    for (int i = 10; i < 15; i++) of = of * 10 + (uint32_t)(p[i] - '0');
    return of;
}

/* Every weights file of a set is there when as many files say "of N" as N says. */
static bool sets_are_whole(const files *f) {
    for (uint32_t i = 0; i < f->n; i++) {
        uint32_t want = shards_of(lm_str_of(f->items[i].name)), have = 0;
        if (want == 0) continue;
        for (uint32_t k = 0; k < f->n; k++) have += shards_of(lm_str_of(f->items[k].name)) == want;
        if (have < want) return false;
    }
    return true;
}

/* The regular files of dir. False: not a directory that can be read, or more files than a model has. */
static bool list_files(const char *dir, files *f) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0) close(fd);
        return false;
    }
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));) {
        struct stat st;
        bool weights = lm_str_ends(lm_str_of(e->d_name), LM_STR(".safetensors"));
        if (e->d_name[0] == '.') continue;
        if (fstatat(dirfd(d), e->d_name, &st, 0) != 0) {
            ok = !weights; /* a link to a shard that never came */
            continue;
        }
        if (!S_ISREG(st.st_mode)) continue;
        ok = f->n < MAX_FILES && !(weights && st.st_size == 0);
        if (!ok) break;
        if (f->n == f->room) {
            f->room = f->room ? f->room * 2 : 16;
            f->items = lm_realloc(f->items, f->room * sizeof *f->items);
        }
        f->items[f->n++] = (file){lm_strdup(e->d_name), (uint64_t)st.st_size, lm_file_time_ns(&st)};
    }
    closedir(d);
    return ok;
}

static bool digest_of(const files *f, char out[65]) {
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    bool ok = sha && EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
    for (uint32_t i = 0; ok && i < f->n; i++) {
        char line[400];
        int n = snprintf(line, sizeof line, "%s\n%llu %lld\n", f->items[i].name,
                         (unsigned long long)f->items[i].size, (long long)f->items[i].mtime_ns);
        ok = n > 0 && (size_t)n < sizeof line && EVP_DigestUpdate(sha, line, (size_t)n);
    }
    ok = ok && EVP_DigestFinal_ex(sha, raw, &len) && len == 32;
    EVP_MD_CTX_free(sha);
    if (ok) lm_blob_raw_hex(raw, out);
    return ok;
}

bool lm_look(const char *dir, lm_entry *out) {
    files f = {0};
    lm_entry e = {0};
    bool config = false, weights = false;
    size_t dir_len = strlen(dir);

    bool ok = dir_len < sizeof e.dir && list_files(dir, &f);
    for (uint32_t i = 0; ok && i < f.n; i++) {
        config = config || strcmp(f.items[i].name, "config.json") == 0;
        weights = weights || lm_str_ends(lm_str_of(f.items[i].name), LM_STR(".safetensors"));
        e.size += f.items[i].size;
        if (f.items[i].mtime_ns > e.modified_ns) e.modified_ns = f.items[i].mtime_ns;
    }
    ok = ok && config && weights && sets_are_whole(&f);
    if (ok) {
        qsort(f.items, f.n, sizeof *f.items, by_name);
        memcpy(e.dir, dir, dir_len);
        ok = digest_of(&f, e.digest);
    }
    if (ok) *out = e;
    release(&f);
    return ok;
}

/* A revision as refs/main holds it: one path component. */
static bool is_revision(lm_str s) {
    if (s.len == 0 || s.len > 100 || s.ptr[0] == '.') return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c && strchr("._-", c))))
            return false;
    }
    return true;
}

static bool try_snapshot(const char *dir, lm_str revision, char out[1024], lm_entry *entry) {
    char path[1024];
    int n = snprintf(path, sizeof path, "%s/snapshots/%.*s", dir, (int)revision.len, revision.ptr);
    if (n < 0 || (size_t)n >= sizeof path || !lm_look(path, entry)) return false;
    memcpy(out, path, sizeof path);
    return true;
}

bool lm_look_hub(const char *dir, char out[1024]) {
    char path[1100];
    char found[1024];
    lm_entry entry;
    lm_buf ref;
    int64_t newest = INT64_MIN;

    snprintf(path, sizeof path, "%s/refs/main", dir);
    lm_buf_init(&ref, 256);
    bool ok = lm_file_read(path, 200, &ref, NULL) == LM_OK;
    lm_str revision = ok ? lm_str_trim(lm_buf_view(&ref)) : (lm_str){0};
    ok = is_revision(revision) && try_snapshot(dir, revision, out, &entry);
    lm_buf_release(&ref);
    if (ok) return true;

    snprintf(path, sizeof path, "%s/snapshots", dir);
    DIR *d = opendir(path);
    uint32_t seen = 0;
    for (struct dirent *e; d && seen < LM_MAX_ENTRIES && (e = readdir(d)); seen++) {
        if (!is_revision(lm_str_of(e->d_name)) || !try_snapshot(dir, lm_str_of(e->d_name), found, &entry))
            continue;
        if (entry.modified_ns <= newest) continue;
        newest = entry.modified_ns;
        memcpy(out, found, sizeof found);
    }
    if (d) closedir(d);
    return newest != INT64_MIN;
}
