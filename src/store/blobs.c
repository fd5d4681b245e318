/* blobs.c - content under its sha256: written, taken from a file, looked at.
 *
 * A blob is made in OWN/work, flushed, and renamed to its digest. A file of the user's is not copied where
 * that can be avoided: a clone first (btrfs, XFS, APFS), which later changes of the user's do not reach, then
 * a hard link, which costs as little, and a copy only across file systems.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/file.h"
#include "store/own.h"

#define PIECE (1u << 20) /* bytes read at a time */

/* ---- digests */

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

lm_status lm_digest_parse(lm_str text, char out[LM_DIGEST_SIZE], lm_err *err) {
    bool ok = text.len == LM_DIGEST_SIZE - 1 && !memcmp(text.ptr, "sha256", 6) &&
              (text.ptr[6] == ':' || text.ptr[6] == '-');
    for (size_t i = 7; ok && i < text.len; i++) ok = is_hex(text.ptr[i]);
    if (!ok) return lm_fail(err, LM_INVALID, "invalid digest format");
    memcpy(out, "sha256:", 7);
    for (size_t i = 7; i < text.len; i++) {
        char c = text.ptr[i];
        out[i] = c >= 'A' && c <= 'F' ? (char)(c + 32) : c;
    }
    out[text.len] = '\0';
    return LM_OK;
}

void lm_blob_raw_hex(const unsigned char raw[32], char out[65]) {
    for (int i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
}

void lm_blob_hex(lm_str text, char out[65]) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    int ok = EVP_Digest(text.ptr ? text.ptr : "", text.len, raw, NULL, EVP_sha256(), NULL);
    LM_ASSERT(ok == 1);
    lm_blob_raw_hex(raw, out);
}

char *lm_blob_path(const char *own, const char *digest) {
    char file[LM_DIGEST_SIZE];
    memcpy(file, digest, LM_DIGEST_SIZE);
    file[6] = '-';
    char *dir = lm_path_join(own, LM_OWN_BLOBS), *path = lm_path_join(dir, file);
    free(dir);
    return path;
}

bool lm_blob_look(const char *own, const char *digest, uint64_t *bytes) {
    struct stat st;
    char *path = lm_blob_path(own, digest);
    bool ok = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    free(path);
    if (ok) *bytes = (uint64_t)st.st_size;
    return ok;
}

/* The time of its last status change counts for a blob that no manifest names; setting the mode that it has
 * renews that one alone, so that a file which the user shares with us keeps its date. */
static void renew(const char *path) {
    struct stat st;
    if (stat(path, &st) == 0 && chmod(path, st.st_mode & 07777) != 0)
        return; /* not ours: it keeps its time */
}

bool lm_store_has_blob(lm_store *s, const char *digest) {
    uint64_t bytes;
    if (!lm_blob_look(s->places[0].dir, digest, &bytes)) return false;
    char *path = lm_blob_path(s->places[0].dir, digest);
    renew(path);
    free(path);
    return true;
}

bool lm_file_is_gguf(const char *path) {
    char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe has no beginning */
    bool is = fd >= 0 && read(fd, magic, sizeof magic) == sizeof magic && !memcmp(magic, "GGUF", 4);
    if (fd >= 0) close(fd);
    return is;
}

bool lm_store_blob_is_gguf(lm_store *s, const char *digest) {
    char *path = lm_blob_path(s->places[0].dir, digest);
    bool is = lm_file_is_gguf(path);
    free(path);
    return is;
}

/* ---- one that is written */

struct lm_blob {
    char *own, *temp;
    int users, fd;
    EVP_MD_CTX *sha;
};

static lm_status room_for(const char *own, uint64_t bytes, lm_err *err) {
    struct statvfs fs;
    if (statvfs(own, &fs) != 0) return LM_OK;
    uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes <= have) return LM_OK;
    return lm_fail(err, LM_NO_SPACE,
                   "%.1f GB are needed in %s, %.1f GB are free: free some space and try again",
                   (double)bytes / 1e9, own, (double)have / 1e9);
}

/* Without .users: callers within this room hold it. */
static lm_status begin(lm_blob *b, const char *own, lm_err *err) {
    b->own = lm_strdup(own);
    b->fd = b->users = -1;
    b->sha = EVP_MD_CTX_new();
    if (!b->sha || !EVP_DigestInit_ex(b->sha, EVP_sha256(), NULL))
        return lm_fail(err, LM_INTERNAL, "sha256 is not available in this OpenSSL");
    lm_status st = lm_own_temp(own, &b->temp, err);
    if (st != LM_OK) return st;
    b->fd = open(b->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return b->fd < 0 ? lm_own_fail(err, "create", b->temp) : LM_OK;
}

lm_status lm_blob_open(lm_blob **out, lm_store *s, uint64_t bytes, lm_err *err) {
    const char *own = s->places[0].dir;
    lm_blob *b = lm_alloc(sizeof *b);
    int users = -1;
    lm_status st = lm_own_use(own, &users, err);
    if (st == LM_OK) st = begin(b, own, err);
    b->users = users;
    if (st == LM_OK) st = room_for(own, bytes, err);
    if (st != LM_OK) {
        lm_blob_close(b);
        return st;
    }
    *out = b;
    return LM_OK;
}

lm_status lm_blob_write(lm_blob *b, lm_str bytes, lm_err *err) {
    if (!EVP_DigestUpdate(b->sha, bytes.ptr ? bytes.ptr : "", bytes.len))
        return lm_fail(err, LM_INTERNAL, "sha256 failed");
    while (bytes.len) {
        ssize_t n = write(b->fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return lm_own_fail(err, "write", b->temp);
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return LM_OK;
}

/* Flushes what lies at temp and gives it its place; whoever was there before has the same bytes. */
static lm_status settle(const char *own, const char *temp, const char *digest, bool *existing, lm_err *err) {
    char *path = lm_blob_path(own, digest), *dir = lm_path_join(own, LM_OWN_BLOBS);
    uint64_t bytes;
    lm_status st = lm_dir_make(dir, err);
    *existing = lm_blob_look(own, digest, &bytes);
    if (st == LM_OK && *existing) {
        renew(path);
    } else if (st == LM_OK) {
        int fd = open(temp, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) != 0) st = lm_own_fail(err, "sync", temp);
        if (fd >= 0) close(fd);
        if (st == LM_OK && rename(temp, path) != 0) st = lm_own_fail(err, "rename to", path);
        if (st == LM_OK) st = lm_own_sync_dir(dir, err);
    }
    free(path);
    free(dir);
    return st;
}

static lm_status finish(EVP_MD_CTX *sha, char digest[LM_DIGEST_SIZE], lm_err *err) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    if (!EVP_DigestFinal_ex(sha, raw, NULL)) return lm_fail(err, LM_INTERNAL, "sha256 failed");
    memcpy(digest, "sha256:", 7);
    lm_blob_raw_hex(raw, digest + 7);
    return LM_OK;
}

lm_status lm_blob_commit(lm_blob *b, const char *want, lm_err *err) {
    char got[LM_DIGEST_SIZE];
    bool existing;
    lm_status st = finish(b->sha, got, err);
    if (st == LM_OK && strcmp(got, want))
        st = lm_fail(err, LM_INVALID, "digest mismatch, expected \"%s\", got \"%s\"", want, got);
    return st == LM_OK ? settle(b->own, b->temp, got, &existing, err) : st;
}

static void release(lm_blob *b) {
    if (b->fd >= 0) {
        close(b->fd);
        unlink(b->temp); /* gone already when it was committed */
    }
    EVP_MD_CTX_free(b->sha);
    free(b->temp);
    free(b->own);
}

void lm_blob_close(lm_blob *b) {
    if (!b) return;
    int users = b->users;
    release(b);
    if (users >= 0) close(users);
    free(b);
}

lm_status lm_blob_put(const char *own, lm_str text, char digest[LM_DIGEST_SIZE], bool *existing,
                      lm_err *err) {
    lm_blob b = {0};
    lm_status st = begin(&b, own, err);
    if (st == LM_OK) st = lm_blob_write(&b, text, err);
    if (st == LM_OK) st = finish(b.sha, digest, err);
    if (st == LM_OK) st = settle(own, b.temp, digest, existing, err);
    release(&b);
    return st;
}

/* ---- one that is taken from a file */

/* The target of a symbolic link, not the link. */
static bool link_file(const char *path, const char *temp) {
    if (unlink(temp) != 0 && errno != ENOENT) return false;
    return linkat(AT_FDCWD, path, AT_FDCWD, temp, AT_SYMLINK_FOLLOW) == 0;
}

/* Reads all of `from` into the digest and, where it has to be copied, into the blob. */
static lm_status read_through(lm_blob *b, int from, const char *path, uint64_t total, bool copy,
                              lm_store_progress *progress, void *ctx, lm_err *err) {
    uint8_t *piece = lm_alloc(PIECE);
    lm_status st = LM_OK;
    uint64_t done = 0;
#ifdef POSIX_FADV_SEQUENTIAL
    (void)posix_fadvise(from, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
    while (st == LM_OK && done <= total) { /* one that grows would have no end */
        ssize_t n = read(from, piece, PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = lm_own_fail(err, "read", path);
        if (n <= 0) break;
        done += (uint64_t)n;
        if (copy)
            st = lm_blob_write(b, (lm_str){(char *)piece, (size_t)n}, err);
        else if (!EVP_DigestUpdate(b->sha, piece, (size_t)n))
            st = lm_fail(err, LM_INTERNAL, "sha256 failed");
        if (st == LM_OK && progress && !progress(ctx, done, total))
            st = lm_fail(err, LM_CANCELLED, "cancelled");
    }
    if (st == LM_OK && done != total)
        st = lm_fail(err, LM_CORRUPT, "%s changed while it was read: try again when nobody writes to it",
                     path);
    free(piece);
    return st;
}

static bool same_file(const struct stat *a, const struct stat *b) {
#ifdef __APPLE__
    bool same_time = a->st_mtimespec.tv_sec == b->st_mtimespec.tv_sec &&
                     a->st_mtimespec.tv_nsec == b->st_mtimespec.tv_nsec;
#else
    bool same_time = a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
#endif
    return a->st_size == b->st_size && same_time;
}

static lm_status take_open(lm_blob *b, int from, const char *path, lm_take take, lm_store_progress *progress,
                           void *ctx, lm_err *err) {
    struct stat before, after;
    if (fstat(from, &before) != 0) return lm_own_fail(err, "look at", path);
    if (!S_ISREG(before.st_mode)) return lm_fail(err, LM_IO, "%s is not a regular file", path);
    bool copy =
        take == LM_TAKE_LINK && !lm_file_clone(from, path, b->fd, b->temp) && !link_file(path, b->temp);
    lm_status st = LM_OK;
    if (copy) { /* where linking failed the empty file may be gone */
        close(b->fd);
        b->fd = open(b->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        st =
            b->fd < 0 ? lm_own_fail(err, "create", b->temp) : room_for(b->own, (uint64_t)before.st_size, err);
    }
    if (st == LM_OK) st = read_through(b, from, path, (uint64_t)before.st_size, copy, progress, ctx, err);
    if (st == LM_OK && fstat(from, &after) != 0) st = lm_own_fail(err, "look at", path);
    if (st == LM_OK && !same_file(&before, &after))
        st = lm_fail(err, LM_CORRUPT, "%s changed while it was read: try again when nobody writes to it",
                     path);
    return st;
}

lm_status lm_blob_take(const char *own, const char *path, lm_take take, const char *want,
                       lm_store_progress *progress, void *ctx, char digest[LM_DIGEST_SIZE], bool *existing,
                       lm_err *err) {
    lm_blob b = {.fd = -1};
    char got[LM_DIGEST_SIZE];
    int from = open(path, O_RDONLY | O_CLOEXEC);
    lm_status st = from < 0 ? lm_own_fail(err, "open", path) : LM_OK;
    if (st == LM_OK) st = begin(&b, own, err);
    if (st == LM_OK) st = take_open(&b, from, path, take, progress, ctx, err);
    if (st == LM_OK) st = finish(b.sha, got, err);
    if (st == LM_OK && want && strcmp(got, want))
        st = lm_fail(err, LM_CORRUPT, "%s: digest mismatch, expected \"%s\", got \"%s\"", path, want, got);
    if (st == LM_OK) {
        st = take == LM_TAKE_MOVE ? lm_blob_keep(own, path, got, existing, err)
                                  : settle(own, b.temp, got, existing, err);
    }
    release(&b);
    if (from >= 0) close(from);
    if (st == LM_OK) memcpy(digest, got, sizeof got);
    return st;
}

lm_status lm_blob_keep(const char *own, const char *path, const char *digest, bool *existing, lm_err *err) {
    lm_status st = settle(own, path, digest, existing, err);
    if (st == LM_OK && *existing) unlink(path);
    return st;
}
