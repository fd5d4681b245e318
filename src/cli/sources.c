#include "cli/sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/file.h"

#define MAX_FILES 10000
#define PIECE     (1u << 20)

/* ---- paths */

static char *home_of(const char *user) {
    const struct passwd *p = getpwnam(user);
    return p ? lm_strdup(p->pw_dir) : NULL;
}

char *sources_path(const char *value, const char *dir) {
    if (value[0] == '/') return lm_strdup(value);
    if (value[0] == '~' && (!value[1] || value[1] == '/')) return lm_path_home(value[1] ? value + 2 : "");
    if (value[0] == '~') {
        size_t n = strcspn(value, "/");
        char *user = lm_str_dup((lm_str){value + 1, n - 1}), *home = home_of(user);
        char *path = home ? lm_path_join(home, value + n + (value[n] == '/')) : NULL;
        free(home);
        free(user);
        if (path) return path;
    }
    return strcmp(dir, ".") ? lm_path_join(dir, value) : lm_strdup(value);
}

bool sources_is_path(const char *value) {
    static const char *const suffixes[] = {".gguf", ".safetensors", ".bin", ".pth"};
    if (value[0] == '/' || value[0] == '.' || value[0] == '~') return true;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (lm_str_ends(lm_str_of(value), lm_str_of(suffixes[i]))) return true;
    return false;
}

/* ---- one file */

/* What git checks out when git-lfs is not there, or a download of a file gets from the wrong address. */
static bool is_pointer(const char *path) {
    static const char begin[] = "version https://git-lfs";
    char head[sizeof begin] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t n = read(fd, head, sizeof begin - 1);
    close(fd);
    return n == (ssize_t)sizeof begin - 1 && !memcmp(head, begin, sizeof begin - 1);
}

static lm_status add_file(sources *s, const char *name, const char *path, lm_err *err) {
    struct stat is;
    if (stat(path, &is)) return lm_fail(err, LM_IO, "%s cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(is.st_mode)) return lm_fail(err, LM_INVALID, "%s is neither a file nor a directory", path);
    if (is_pointer(path))
        return lm_fail(err, LM_INVALID,
                       "%s is only git-lfs's pointer to the file: fetch it with git lfs pull", path);
    for (uint32_t i = 0; i < s->n; i++)
        if (!strcmp(s->files[i].name, name) && strcmp(s->files[i].path, path) != 0)
            return lm_fail(err, LM_INVALID, "%.200s and %.200s have the same name: leave one of them out",
                           s->files[i].path, path);
    if (s->n == MAX_FILES) return lm_fail(err, LM_TOO_LARGE, "more than %d files", MAX_FILES);
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 16;
        s->files = lm_realloc(s->files, s->room * sizeof *s->files);
    }
    s->files[s->n++] =
        (source){.name = lm_strdup(name), .path = lm_strdup(path), .bytes = (uint64_t)is.st_size};
    return LM_OK;
}

/* ---- a directory */

typedef struct names {
    char **items; /* n, sorted */
    uint32_t n, room;
} names;

static void names_release(names *l) {
    for (uint32_t i = 0; i < l->n; i++) free(l->items[i]);
    free(l->items);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static lm_status list_names(const char *dir, names *out, lm_err *err) {
    DIR *d = opendir(dir);
    if (!d) return lm_fail(err, LM_IO, "%s cannot be read: %s", dir, strerror(errno));
    names l = {0};
    lm_status st = LM_OK;
    for (const struct dirent *e; st == LM_OK && (e = readdir(d));) {
        lm_str name = lm_str_of(e->d_name);
        if (name.ptr[0] == '.' || lm_utf8_valid(name, NULL) != name.len) continue;
        if (l.n == l.room) {
            l.room = l.room ? 2 * l.room : 64;
            l.items = lm_realloc(l.items, l.room * sizeof *l.items);
        }
        l.items[l.n++] = lm_str_dup(name);
        if (l.n > MAX_FILES) st = lm_fail(err, LM_TOO_LARGE, "%s has more than %d files", dir, MAX_FILES);
    }
    closedir(d);
    if (st == LM_OK && l.n) qsort(l.items, l.n, sizeof *l.items, by_name);
    if (st == LM_OK)
        *out = l;
    else
        names_release(&l);
    return st;
}

static bool has_bytes(const char *path) {
    struct stat is;
    return stat(path, &is) == 0 && S_ISREG(is.st_mode) && is.st_size > 0;
}

static bool lies_in(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (path[n] == '/' || (n && dir[n - 1] == '/'));
}

/* Hugging Face's cache has REPO/snapshots/REVISION/file as a link to REPO/blobs/. */
static bool lies_in_cache(const char *path, const char *dir) {
    char blobs[PATH_MAX + 8];
    const char *last = strrchr(dir, '/');
    size_t n = last ? (size_t)(last - dir) : 0, k = strlen("/snapshots");
    if (n <= k || strncmp(dir + n - k, "/snapshots", k) != 0) return false;
    snprintf(blobs, sizeof blobs, "%.*s/blobs", (int)(n - k), dir);
    return lies_in(path, blobs);
}

/* Whoever made the directory shall not choose which other files of this machine are sent. */
static lm_status check_inside(const char *root, const char *path, lm_err *err) {
    char *is = realpath(path, NULL);
    bool inside = is && (lies_in(is, root) || lies_in_cache(is, root));
    lm_status st = inside ? LM_OK
                          : lm_fail(err, LM_INVALID,
                                    "%.200s is a link that leads out of its directory (to %.200s): put the "
                                    "file there itself",
                                    path, is ? is : "nowhere");
    free(is);
    return st;
}

typedef struct walk {
    sources *s;
    const char *root;   /* real path */
    const char *dir;    /* as it was named */
    const char *prefix; /* of names: "", or a directory within and '/' */
    names list;
} walk;

/* All names that match, but for those that are empty. *n: how many were added, may be NULL. */
static lm_status add_matching(walk *w, const char *pattern, uint32_t *n, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < w->list.n && st == LM_OK; i++) {
        if (fnmatch(pattern, w->list.items[i], 0)) continue;
        char *name = NULL, *path = lm_path_join(w->dir, w->list.items[i]);
        if (asprintf(&name, "%s%s", w->prefix, w->list.items[i]) < 0) name = NULL;
        LM_ASSERT(name);
        if (has_bytes(path)) {
            st = check_inside(w->root, path, err);
            if (st == LM_OK) st = add_file(w->s, name, path, err);
            if (n) ++*n;
        }
        free(name);
        free(path);
    }
    return st;
}

/* The JSON files of the directories in it: an encoder's pooling stands there. */
static lm_status add_below(const walk *above, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < above->list.n && st == LM_OK; i++) {
        struct stat is;
        char *dir = lm_path_join(above->dir, above->list.items[i]), *prefix = NULL;
        if (lstat(dir, &is) == 0 && S_ISDIR(is.st_mode)) {
            if (asprintf(&prefix, "%s/", above->list.items[i]) < 0) prefix = NULL;
            LM_ASSERT(prefix);
            walk w = {.s = above->s, .root = above->root, .dir = dir, .prefix = prefix};
            st = list_names(dir, &w.list, err);
            if (st == LM_OK) st = add_matching(&w, "*.json", NULL, err);
            names_release(&w.list);
            free(prefix);
        }
        free(dir);
    }
    return st;
}

static lm_status add_weights(walk *w, lm_err *err) {
    /* Beside an adapter lie the ones that training has kept on its way. */
    static const char *const forms[] = {"model*.safetensors",   "consolidated*.safetensors",
                                        "adapters.safetensors", "adapter_model.safetensors",
                                        "*.safetensors",        "pytorch_model*.bin",
                                        "consolidated*.pth",    NULL};
    static const char *const beside[] = {"*.json",     "tokenizer.model", "*.tiktoken", "*.jinja",
                                         "merges.txt", "vocab.txt",       "LICENSE*",   NULL};
    uint32_t n = 0;
    lm_status st = LM_OK;
    for (size_t i = 0; forms[i] && !n && st == LM_OK; i++) st = add_matching(w, forms[i], &n, err);
    if (st == LM_OK && !n) {
        st = add_matching(w, "*.gguf", &n, err);
        if (st == LM_OK && !n)
            st = lm_fail(err, LM_INVALID, "%s has no model: neither *.safetensors nor *.gguf is there",
                         w->dir);
        return st;
    }
    for (size_t i = 0; beside[i] && st == LM_OK; i++) st = add_matching(w, beside[i], NULL, err);
    return st == LM_OK ? add_below(w, err) : st;
}

static lm_status add_directory(sources *s, const char *dir, lm_err *err) {
    char *root = realpath(dir, NULL);
    if (!root) return lm_fail(err, LM_IO, "%s cannot be read: %s", dir, strerror(errno));
    walk w = {.s = s, .root = root, .dir = dir, .prefix = ""};
    lm_status st = list_names(dir, &w.list, err);
    if (st == LM_OK) st = add_weights(&w, err);
    names_release(&w.list);
    free(root);
    return st;
}

lm_status sources_add(sources *s, const char *path, lm_err *err) {
    struct stat is;
    if (stat(path, &is)) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        if (absent) return lm_fail(err, LM_NOT_FOUND, "there is no file %s", path);
        return lm_fail(err, LM_IO, "%s cannot be read: %s", path, strerror(errno));
    }
    if (S_ISDIR(is.st_mode)) return add_directory(s, path, err);
    const char *slash = strrchr(path, '/');
    return add_file(s, slash ? slash + 1 : path, path, err);
}

void sources_release(sources *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->files[i].name);
        free(s->files[i].path);
    }
    free(s->files);
    *s = (sources){0};
}

/* ---- digests */

static lm_status read_through(const source *f, EVP_MD_CTX *sum, bool (*progress)(void *ctx, uint64_t done),
                              void *ctx, lm_err *err) {
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lm_fail(err, LM_IO, "%s cannot be read: %s", f->path, strerror(errno));
    char *piece = lm_alloc(PIECE);
    uint64_t done = 0;
    lm_status st = LM_OK;
    for (;;) {
        if (!progress(ctx, done)) {
            st = lm_fail(err, LM_CANCELLED, "interrupted");
            break;
        }
        ssize_t n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = lm_fail(err, LM_IO, "%s cannot be read: %s", f->path, strerror(errno));
        if (n > 0 && !EVP_DigestUpdate(sum, piece, (size_t)n))
            st = lm_fail(err, LM_INTERNAL, "sha256 failed");
        if (n <= 0 || st != LM_OK) break;
        done += (uint64_t)n;
    }
    if (st == LM_OK && done != f->bytes)
        st = lm_fail(err, LM_IO, "%s changes while it is read: wait until it is whole", f->path);
    free(piece);
    close(fd);
    return st;
}

lm_status source_hash(source *f, bool (*progress)(void *ctx, uint64_t done), void *ctx, lm_err *err) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    lm_status st = sum && EVP_DigestInit_ex(sum, EVP_sha256(), NULL)
                       ? LM_OK
                       : lm_fail(err, LM_INTERNAL, "sha256 is not available in this OpenSSL");
    if (st == LM_OK) st = read_through(f, sum, progress, ctx, err);
    if (st == LM_OK && !EVP_DigestFinal_ex(sum, raw, NULL)) st = lm_fail(err, LM_INTERNAL, "sha256 failed");
    if (st == LM_OK) {
        memcpy(f->digest, "sha256:", 7);
        for (size_t i = 0; i < 32; i++) snprintf(f->digest + 7 + 2 * i, 3, "%02x", raw[i]);
    }
    EVP_MD_CTX_free(sum);
    return st;
}
