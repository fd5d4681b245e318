#include "weights/safetensors_write.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/json.h"
#include "weights/safetensors.h"

#define DATA_ALIGN  64
#define WRITE_EARLY (128u << 10) /* bytes of one piece from which the disk begins with it at once */

typedef struct place {
    uint64_t offset; /* in the file */
    uint64_t bytes;
    _Atomic uint64_t written; /* bytes received so far */
} place;

struct lm_writer {
    int fd;
    char *path;
    place *places; /* n, in the order of the specs */
    uint32_t n;
    uint64_t bytes;
    pthread_mutex_t lock; /* guards front */
    uint32_t *order;      /* n, by their offsets */
    uint32_t front;       /* so many of them are whole */
};

static lm_status sizes_of(const lm_tensor_spec *specs, uint32_t n, place *places, lm_err *err) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = lm_dtype_size(specs[i].dtype);
        LM_ASSERT(specs[i].n_dims <= LM_MAX_DIMS);
        for (uint32_t d = 0; d < specs[i].n_dims; d++) {
            if (__builtin_mul_overflow(bytes, specs[i].dims[d], &bytes)) bytes = UINT64_MAX;
            if (bytes > INT64_MAX) break;
        }
        if (bytes > INT64_MAX || __builtin_add_overflow(sum, bytes, &sum) || sum > INT64_MAX / 2) {
            return lm_fail(err, LM_INVALID, "tensor %s is impossibly large", specs[i].name);
        }
        places[i].bytes = bytes;
    }
    return LM_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static lm_status names_differ(const lm_tensor_spec *specs, uint32_t n, lm_err *err) {
    const char **names = lm_alloc((n + 1) * sizeof *names);
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < n; i++) names[i] = specs[i].name;
    qsort(names, n, sizeof *names, by_text);
    for (uint32_t i = 1; i < n && st == LM_OK; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            st = lm_fail(err, LM_INVALID, "two tensors are called %s", names[i]);
    }
    free(names);
    return st;
}

/* Offsets count from the start of the data here; the caller adds the header. */
static void lay_out(const lm_tensor_spec *specs, uint32_t n, place *places, uint32_t *order) {
    uint64_t at = 0;
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (places[i].bytes % DATA_ALIGN) continue;
        order[next++] = i;
        places[i].offset = at;
        at += places[i].bytes;
    }
    for (uint32_t size = 8; size;
         size /= 2) { /* the rest, wide elements first, so that each is aligned to its own */
        for (uint32_t i = 0; i < n; i++) {
            if (places[i].bytes % DATA_ALIGN == 0 || lm_dtype_size(specs[i].dtype) != size) continue;
            order[next++] = i;
            places[i].offset = at;
            at += places[i].bytes;
        }
    }
}

static void write_header(lm_buf *b, const lm_tensor_spec *specs, uint32_t n, const place *places) {
    lm_buf_text(b, "{\"__metadata__\":{\"format\":\"mlx\"}");
    for (uint32_t i = 0; i < n; i++) {
        lm_buf_char(b, ',');
        lm_json_write_string(b, lm_str_of(specs[i].name));
        lm_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", lm_dtype_name(specs[i].dtype));
        for (uint32_t d = 0; d < specs[i].n_dims; d++) {
            lm_buf_printf(b, d ? ",%llu" : "%llu", (unsigned long long)specs[i].dims[d]);
        }
        lm_buf_printf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)places[i].offset,
                      (unsigned long long)(places[i].offset + places[i].bytes));
    }
    lm_buf_char(b, '}');
    while ((8 + b->len) % DATA_ALIGN && !b->failed) lm_buf_char(b, ' ');
}

static lm_status fail_io(const lm_writer *w, int code, lm_err *err) {
    struct statvfs fs;
    if (code != ENOSPC && code != EDQUOT && code != EFBIG)
        return lm_fail(err, LM_IO, "write %s: %s", w->path, strerror(code));
    if (fstatvfs(w->fd, &fs) != 0) memset(&fs, 0, sizeof fs);
    return lm_fail(err, LM_NO_SPACE,
                   "%s needs %.1f MB and the disk has %.1f MB free: make room or choose another place",
                   w->path, (double)w->bytes / 1e6, (double)fs.f_bavail * (double)fs.f_frsize / 1e6);
}

static lm_status put_all(const lm_writer *w, uint64_t offset, const void *bytes, uint64_t n, lm_err *err) {
    const uint8_t *p = bytes;
    while (n) {
        ssize_t done = pwrite(w->fd, p, n < (1u << 30) ? n : 1u << 30, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return fail_io(w, done < 0 ? errno : ENOSPC, err);
        p += done;
        n -= (uint64_t)done;
        offset += (uint64_t)done;
    }
    return LM_OK;
}

/* Room on the disk before the work. Where a file system can't reserve, the free space is compared instead. */
static lm_status reserve(const lm_writer *w, lm_err *err) {
    struct statvfs fs;
#ifdef __linux__
    if (fallocate(w->fd, 0, 0, (off_t)w->bytes) == 0) return LM_OK;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) return fail_io(w, errno, err);
#endif
    if (fstatvfs(w->fd, &fs) == 0 && w->bytes / fs.f_frsize > fs.f_bavail) return fail_io(w, ENOSPC, err);
    if (ftruncate(w->fd, (off_t)w->bytes) != 0) return fail_io(w, errno, err);
    return LM_OK;
}

lm_status lm_writer_open(lm_writer **out, const char *path, const lm_tensor_spec *specs, uint32_t n,
                         lm_err *err) {
    lm_writer *w = lm_alloc(sizeof *w);
    lm_buf header;
    uint8_t length[8];
    lm_buf_init(&header, LM_SAFETENSORS_HEADER_MAX);
    w->fd = -1;
    w->n = n;
    w->path = lm_strdup(path);
    w->places = lm_try_alloc(n + 1, sizeof *w->places);
    w->order = lm_try_alloc(n + 1, sizeof *w->order);
    pthread_mutex_init(&w->lock, NULL);
    lm_status st = w->places && w->order ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", n);
    if (st == LM_OK) st = names_differ(specs, n, err);
    if (st == LM_OK) st = sizes_of(specs, n, w->places, err);
    if (st != LM_OK) goto done;

    lay_out(specs, n, w->places, w->order);
    write_header(&header, specs, n, w->places);
    st = lm_buf_status(&header, "safetensors header", err);
    if (st != LM_OK) goto done;
    w->bytes = 8 + header.len;
    for (uint32_t i = 0; i < n; i++) {
        w->places[i].offset += 8 + header.len;
        w->bytes += w->places[i].bytes;
    }
    w->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        st = lm_fail(err, errno == ENOSPC ? LM_NO_SPACE : LM_IO, "create %s: %s", path, strerror(errno));
        goto done;
    }
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header.len >> 8 * i);
    st = reserve(w, err);
    if (st == LM_OK) st = put_all(w, 0, length, 8, err);
    if (st == LM_OK) st = put_all(w, 8, header.ptr, header.len, err);
done:
    lm_buf_release(&header);
    if (st != LM_OK) {
        lm_writer_abort(w);
        return st;
    }
    *out = w;
    return LM_OK;
}

uint64_t lm_writer_bytes(const lm_writer *w) {
    return w->bytes;
}

lm_status lm_writer_put(lm_writer *w, uint32_t i, uint64_t at, const void *bytes, uint64_t n, lm_err *err) {
    LM_ASSERT(i < w->n);
    place *p = &w->places[i];
    if (at > p->bytes || n > p->bytes - at) {
        return lm_fail(err, LM_INVALID, "%s: %llu bytes at %llu lie past the end of tensor %u", w->path,
                       (unsigned long long)n, (unsigned long long)at, i);
    }
    lm_status st = put_all(w, p->offset + at, bytes, n, err);
#ifdef __linux__
    /* Else all of it would wait for the flush at the end, while the disk has nothing to do now. */
    if (st == LM_OK && n >= WRITE_EARLY)
        (void)sync_file_range(w->fd, (off_t)(p->offset + at), (off_t)n, SYNC_FILE_RANGE_WRITE);
#endif
    if (st == LM_OK) atomic_fetch_add(&p->written, n);
    return st;
}

uint64_t lm_writer_front(lm_writer *w) {
    pthread_mutex_lock(&w->lock);
    while (w->front < w->n &&
           atomic_load(&w->places[w->order[w->front]].written) == w->places[w->order[w->front]].bytes)
        w->front++;
    uint64_t bytes = w->front < w->n ? w->places[w->order[w->front]].offset : w->bytes;
    pthread_mutex_unlock(&w->lock);
    return bytes;
}

lm_status lm_writer_read(const lm_writer *w, uint64_t at, void *bytes, uint64_t n, lm_err *err) {
    uint8_t *to = bytes;
    while (n) {
        ssize_t got = pread(w->fd, to, n < (1u << 30) ? n : 1u << 30, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return lm_fail(err, LM_IO, "read %s: %s", w->path, strerror(errno));
        if (got == 0) return lm_fail(err, LM_CORRUPT, "%s became shorter while it was written", w->path);
        to += got;
        at += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return LM_OK;
}

static void writer_free(lm_writer *w) {
    pthread_mutex_destroy(&w->lock);
    free(w->places);
    free(w->order);
    free(w->path);
    free(w);
}

lm_status lm_writer_finish(lm_writer *w, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < w->n && st == LM_OK; i++) {
        uint64_t written = atomic_load(&w->places[i].written);
        if (written != w->places[i].bytes) {
            st = lm_fail(err, LM_INTERNAL, "%s: tensor %u got %llu of its %llu bytes", w->path, i,
                         (unsigned long long)written, (unsigned long long)w->places[i].bytes);
        }
    }
    if (st == LM_OK && fsync(w->fd) != 0) st = fail_io(w, errno, err);
    if (st != LM_OK) {
        lm_writer_abort(w);
        return st;
    }
    close(w->fd);
    writer_free(w);
    return LM_OK;
}

void lm_writer_abort(lm_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->path);
    }
    writer_free(w);
}
