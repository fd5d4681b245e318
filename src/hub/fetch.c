/* fetch.c - files into the store's partial files.
 *
 * A partial file has what came so far, from its beginning; its length is where the next request goes on. Its
 * key is the content's checksum, so that it serves whatever repository and mirror has that content.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hub/private.h"

#define MAX_REFUSAL 65536 /* bytes of the body of an answer that is not the file */

/* One request for the rest of a file. */
typedef struct part {
    lm_remote *f;
    const lm_origin *o;
    uint64_t at;
    lm_status st;
    lm_err err;
} part;

/* ---- partial files */

/* Who had the file before may have moved it into the store between our opening and our locking it. */
static bool still_there(int fd, const char *path) {
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

lm_status lm_hub_partial(lm_store *s, const lm_origin *o, const char *key, int *fd, char **path,
                         lm_err *err) {
    for (;;) {
        lm_status st = lm_store_partial(s, key, fd, path, err);
        if (st == LM_OK && still_there(*fd, *path)) {
            futimens(*fd, NULL); /* not left alone */
            return LM_OK;
        }
        if (st == LM_OK) {
            close(*fd);
            free(*path);
        } else if (st != LM_BUSY) {
            return st;
        }
        if (lm_hub_stopped(o)) return lm_fail(err, LM_CANCELLED, "cancelled");
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

static void key_of(const lm_remote *f, char key[LM_DIGEST_SIZE + 48]) {
    snprintf(key, LM_DIGEST_SIZE + 48, "%s%s", f->digest[0] ? f->digest : "git:", f->digest[0] ? "" : f->oid);
}

static lm_status open_part(lm_store *s, const lm_origin *o, lm_remote *f, lm_err *err) {
    struct stat st;
    char key[LM_DIGEST_SIZE + 48];
    key_of(f, key);
    int fd = -1;
    lm_status status = lm_hub_partial(s, o, key, &fd, &f->path, err);
    if (status != LM_OK) return status;
    f->fd = fd;
    if (fstat(fd, &st) != 0) return lm_fail(err, LM_IO, "look at %s: %s", f->path, strerror(errno));
    uint64_t size = (uint64_t)st.st_size;
    if (size > f->size && ftruncate(fd, 0) != 0)
        return lm_fail(err, LM_IO, "empty %s: %s", f->path, strerror(errno));
    atomic_store(&f->done, size > f->size ? 0 : size);
    return LM_OK;
}

/* ---- one request */

static bool stop_part(part *p, lm_status st) {
    p->st = st;
    return false;
}

static bool number(lm_str *s, uint64_t *out) {
    size_t n = 0;
    *out = 0;
    while (n < s->len && n < 18 && s->ptr[n] >= '0' && s->ptr[n] <= '9')
        *out = *out * 10 + (uint64_t)(s->ptr[n++] - '0');
    s->ptr += n;
    s->len -= n;
    return n > 0;
}

/* "bytes 5-99/100" */
static bool range_fits(lm_str v, uint64_t from, uint64_t size) {
    uint64_t first, last, all;
    if (!lm_str_starts(v, LM_STR("bytes "))) return false;
    v = (lm_str){v.ptr + 6, v.len - 6};
    if (!number(&v, &first) || !v.len || v.ptr[0] != '-') return false;
    v = (lm_str){v.ptr + 1, v.len - 1};
    if (!number(&v, &last) || !v.len || v.ptr[0] != '/') return false;
    v = (lm_str){v.ptr + 1, v.len - 1};
    bool known = number(&v, &all);
    return first == from && last < size && (!known || all == size);
}

static bool take_head(void *ctx, const lm_answer *a) {
    part *p = ctx;
    lm_remote *f = p->f;
    lm_str length = lm_answer_header(a, "Content-Length");
    uint64_t bytes = 0;
    if (a->status == 206) {
        if (range_fits(lm_answer_header(a, "Content-Range"), p->at, f->size)) return true;
        return stop_part(p, lm_fail(&p->err, LM_CORRUPT, "%s is not the %llu bytes that were announced",
                                    f->name, (unsigned long long)f->size));
    }
    if (a->status != 200) return stop_part(p, lm_hub_refused(p->o, f->url, a, &p->err));
    if (length.len && number(&length, &bytes) && bytes != f->size)
        return stop_part(p, lm_fail(&p->err, LM_CORRUPT, "%s has %llu bytes where %llu were announced",
                                    f->name, (unsigned long long)bytes, (unsigned long long)f->size));
    if (p->at && ftruncate(f->fd, 0) != 0) /* a server that knows no ranges begins again */
        return stop_part(p, lm_fail(&p->err, LM_IO, "empty %s: %s", f->path, strerror(errno)));
    p->at = 0;
    return true;
}

static bool take_bytes(void *ctx, lm_str piece) {
    part *p = ctx;
    lm_remote *f = p->f;
    if (piece.len > f->size - p->at)
        return stop_part(p, lm_fail(&p->err, LM_CORRUPT,
                                    "more came of %s than the %llu bytes that were announced", f->name,
                                    (unsigned long long)f->size));
    while (piece.len) {
        ssize_t n = pwrite(f->fd, piece.ptr, piece.len, (off_t)p->at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
            return stop_part(
                p, lm_fail(&p->err, full ? LM_NO_SPACE : LM_IO,
                           full ? "write %s: %s: free some space and pull again, it goes on from here"
                                : "write %s: %s",
                           f->path, strerror(errno)));
        }
        piece.ptr += n;
        piece.len -= (size_t)n;
        p->at += (uint64_t)n;
        atomic_store(&f->done, p->at);
    }
    return true;
}

static bool part_goes_on(void *ctx) {
    const part *p = ctx;
    return !lm_hub_stopped(p->o);
}

/* One attempt at what is missing. *again: it may work next time. */
static lm_status fetch_part(lm_client *c, const lm_origin *o, lm_remote *f, bool *again, uint64_t *wait_ms,
                            lm_err *err) {
    part p = {.f = f, .o = o, .at = atomic_load(&f->done)};
    lm_answer a;
    char range[64];
    const char *headers[] = {p.at ? range : NULL, NULL};
    snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)p.at);
    lm_ask ask = {.url = f->url,
                  .headers = headers,
                  .max_body = f->size + MAX_REFUSAL,
                  .on_head = take_head,
                  .on_body = take_bytes,
                  .on_wait = part_goes_on,
                  .ctx = &p};
    lm_status st = lm_hub_try(c, o, &ask, &a, again, wait_ms, err);
    if (p.st != LM_OK) {
        st = lm_fail(err, p.st, "%s", p.err.text);
        *again = false;
    } else if (st == LM_OK && a.status == 416 && p.at) { /* of another length there: from the beginning */
        *again = ftruncate(f->fd, 0) == 0;
        atomic_store(&f->done, 0);
        st = lm_fail(err, LM_CORRUPT, "%s has another size than was announced", f->name);
    } else if (st == LM_OK && a.status != 200 && a.status != 206) {
        st = lm_hub_refused(o, f->url, &a, err);
    } else if (st == LM_OK && atomic_load(&f->done) < f->size) {
        st = lm_fail(err, LM_IO, "%s ended after %llu of %llu bytes", f->name,
                     (unsigned long long)atomic_load(&f->done), (unsigned long long)f->size);
        *again = true;
    }
    lm_answer_release(&a);
    return st;
}

/* ---- one file */

static lm_status fetch_file(lm_client *c, const lm_origin *o, lm_remote *f, lm_err *err) {
    lm_status st = LM_OK;
    uint32_t attempt = 0;
    while (atomic_load(&f->done) < f->size) {
        bool again = false;
        uint64_t wait_ms = 0, before = atomic_load(&f->done);
        st = fetch_part(c, o, f, &again, &wait_ms, err);
        if (st == LM_OK) break;
        if (atomic_load(&f->done) > before) attempt = 0;
        if (!again || ++attempt == LM_HUB_ATTEMPTS) return st;
        if (!lm_hub_pause(o, attempt, wait_ms)) return lm_fail(err, LM_CANCELLED, "cancelled");
    }
    if (f->digest[0]) return LM_OK;
    char digest[LM_DIGEST_SIZE];
    st = lm_hub_hash(f->path, f->size, f->oid, digest, o, err);
    if (st == LM_CORRUPT) {
        unlink(f->path);
        return lm_fail_in(err, st, "%s", f->name);
    }
    if (st != LM_OK) return st;
    memcpy(f->digest, digest, sizeof digest);
    atomic_store(&f->hashed, true);
    return LM_OK;
}

static lm_status fetch_one(void *ctx, lm_client *c, const lm_origin *o, uint32_t i, lm_err *err) {
    lm_remote *f = (lm_remote *)ctx + i;
    return f->have || f->same ? LM_OK : fetch_file(c, o, f, err);
}

/* ---- all of them */

/* Room on the disk for what is missing, before any of it comes. */
static lm_status check_room(lm_store *s, const lm_remote *files, uint32_t n, lm_err *err) {
    lm_blob *b = NULL;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!files[i].have && !files[i].same) bytes += files[i].size - atomic_load(&files[i].done);
    lm_status st = lm_blob_open(&b, s, bytes, err);
    lm_blob_close(st == LM_OK ? b : NULL);
    return st;
}

static int by_key(const void *a, const void *b) {
    char x[LM_DIGEST_SIZE + 48], y[LM_DIGEST_SIZE + 48];
    key_of(*(lm_remote *const *)a, x);
    key_of(*(lm_remote *const *)b, y);
    return strcmp(x, y);
}

/* In the order of their keys, so that two pulls which want the same files never wait for each other. */
static lm_status open_parts(lm_store *s, const lm_origin *o, lm_remote *files, uint32_t n, lm_err *err) {
    lm_remote **sorted = lm_alloc((n + 1) * sizeof *sorted), *before = NULL;
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < n; i++) sorted[i] = &files[i];
    qsort(sorted, n, sizeof *sorted, by_key);
    for (uint32_t i = 0; st == LM_OK && i < n; i++) {
        lm_remote *f = sorted[i];
        if (!f->have && before && !by_key(&f, &before)) f->same = before;
        if (!f->have && !f->same && f->digest[0]) f->have = lm_store_has_blob(s, f->digest);
        if (f->have || f->same)
            atomic_store(&f->done, f->size);
        else
            st = open_part(s, o, f, err);
        if (!f->have && !f->same) before = f;
    }
    free(sorted);
    return st;
}

lm_status lm_hub_fetch(lm_store *s, const lm_origin *o, lm_remote *files, uint32_t n, lm_err *err) {
    lm_status st = open_parts(s, o, files, n, err);
    if (st == LM_OK) st = check_room(s, files, n, err);
    if (st != LM_OK) return st;
    return lm_crew_run(o, files, n, fetch_one, files, err);
}
