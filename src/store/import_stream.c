/* The data of an import. Each tensor is cut into pieces of whole rows; threads take them in their order,
 * convert them in buffers of a fixed size and write each to its place, so that reading, converting and
 * writing overlap. The digest of the output follows behind: whoever has finished a piece goes on with it when
 * nobody else does. */
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "store/import_plan.h"

#define PIECE       (1u << 20)  /* elements converted at a time, a whole row at least */
#define DROP_EVERY  (32u << 20) /* bytes of source that may stay resident */
#define AHEAD       8           /* pieces that the system is told to read beforehand */
#define ONE_THREAD  (32u << 20) /* bytes of source that are not worth a second thread */
#define THREADS_MAX 8           /* more than any disk keeps up with */
#define HASH_PIECE  (1u << 20)
#define HASH_TURN   4 /* pieces, before a thread looks for other work */

/* One thread's buffers. */
typedef struct scratch {
    uint8_t *codes; /* a piece of codes or plain numbers */
    uint16_t *scales, *biases;
} scratch;

typedef struct digest {
    EVP_MD_CTX *sha; /* NULL: not wanted */
    pthread_mutex_t lock;
    uint8_t *piece;
    uint64_t at; /* bytes so far */
} digest;

typedef struct job {
    const lm_plan *plan;
    lm_writer *writer;
    uint64_t *first; /* of n + 1 items: how many pieces there are before it */
    uint64_t room;   /* elements that the buffers hold */
    scratch *scratch;
    _Atomic uint64_t next; /* piece that nobody has taken */
    _Atomic uint64_t done; /* bytes of the source */
    uint64_t total, dropped;
    digest hash;
    lm_store_progress *progress; /* of the caller's thread, thread 0 */
    void *ctx;
    atomic_bool stop;
    pthread_mutex_t lock; /* guards st and err: the first failure */
    lm_status st;
    lm_err err;
} job;

static void fail(job *j, lm_status st, const lm_err *err) {
    pthread_mutex_lock(&j->lock);
    if (j->st == LM_OK) {
        j->st = st;
        j->err = *err;
    }
    pthread_mutex_unlock(&j->lock);
    atomic_store(&j->stop, true);
}

/* ---- pieces */

static uint64_t rows_of_piece(const lm_item *it) {
    return it->width < PIECE ? PIECE / it->width : 1;
}

/* The item that piece k belongs to: the last one that begins at k or before. */
static const lm_item *item_of(const job *j, uint64_t k) {
    uint32_t low = 0, high = j->plan->n;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (j->first[mid] <= k)
            low = mid;
        else
            high = mid;
    }
    return &j->plan->items[low];
}

static const uint8_t *source_row(const lm_item *it, uint64_t r) {
    return it->source->data +
           (it->first + it->step * lm_family_row(it->heads, r, it->rows)) * lm_item_row_bytes(it);
}

static void read_ahead(const job *j, uint64_t k) {
    if (k >= j->first[j->plan->n]) return;
    const lm_item *it = item_of(j, k);
    uint64_t each = rows_of_piece(it), from = (k - j->first[it - j->plan->items]) * each;
    uint64_t n = it->rows - from < each ? it->rows - from : each;
    if (it->heads == 0 && it->step == 1) lm_map_ahead(source_row(it, from), n * lm_item_row_bytes(it));
}

static void copy_numbers(const lm_item *it, const uint8_t *src, uint64_t n, uint8_t *out) {
    if (it->source->type != LM_GGML_F32 || (it->form.dtype == LM_F32 && !it->minus_one)) {
        memcpy(out, src, n * lm_dtype_size(it->form.dtype));
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        float f;
        memcpy(&f, src + 4 * i, 4);
        if (it->minus_one) f -= 1.0f;
        uint16_t h = lm_f32_to_f16(f);
        if (it->form.dtype == LM_F32)
            memcpy(out + 4 * i, &f, 4);
        else
            memcpy(out + 2 * i, &h, 2);
    }
}

/* One row to place `fill` of the piece in the buffers. */
static lm_status convert(const scratch *s, const lm_item *it, const uint8_t *src, uint64_t fill,
                         lm_err *err) {
    lm_quant_spec q = it->form.quant;
    if (q.kind == LM_QUANT_NONE) {
        copy_numbers(it, src, it->width, s->codes + fill * lm_dtype_size(it->form.dtype));
        return LM_OK;
    }
    void *scales = (uint8_t *)s->scales + fill / 32 * lm_dtype_size(it->form.dtype);
    if (lm_blocks_convert(it->source->type, src, it->width, s->codes + fill * q.bits / 8, scales,
                          s->biases + fill / 32))
        return LM_OK;
    return lm_fail(err, LM_CORRUPT,
                   "tensor " LM_STR_FMT " holds scales that are not finite or beyond f16: damaged?",
                   LM_STR_ARG(it->source->name));
}

/* n elements from the buffers to element `at` of the item. */
static lm_status put_piece(const job *j, const scratch *s, const lm_item *it, uint64_t at, uint64_t n,
                           lm_err *err) {
    lm_quant_spec q = it->form.quant;
    at += it->at;
    uint32_t size = lm_dtype_size(it->form.dtype);
    if (q.kind == LM_QUANT_NONE) return lm_writer_put(j->writer, it->out, at * size, s->codes, n * size, err);
    lm_status st = lm_writer_put(j->writer, it->out, at * q.bits / 8, s->codes, n * q.bits / 8, err);
    if (st == LM_OK)
        st = lm_writer_put(j->writer, it->out + 1, at / 32 * size, s->scales, n / 32 * size, err);
    if (st == LM_OK && q.kind == LM_QUANT_AFFINE) {
        st = lm_writer_put(j->writer, it->out + 2, at / 32 * size, s->biases, n / 32 * size, err);
    }
    return st;
}

static lm_status do_piece(job *j, const scratch *s, uint64_t k, lm_err *err) {
    const lm_item *it = item_of(j, k);
    uint64_t each = rows_of_piece(it), from = (k - j->first[it - j->plan->items]) * each;
    uint64_t n = it->rows - from < each ? it->rows - from : each;
    lm_status st = LM_OK;
    for (uint64_t r = 0; r < n && st == LM_OK; r++)
        st = convert(s, it, source_row(it, from + r), r * it->width, err);
    if (st == LM_OK) st = put_piece(j, s, it, from * it->width, n * it->width, err);
    if (st == LM_OK) atomic_fetch_add(&j->done, n * lm_item_row_bytes(it));
    return st;
}

/* ---- the digest */

static lm_status digest_open(digest *d, lm_err *err) {
    d->sha = EVP_MD_CTX_new();
    d->piece = lm_try_alloc(1, HASH_PIECE);
    if (!d->sha || !d->piece || !EVP_DigestInit_ex(d->sha, EVP_sha256(), NULL))
        return lm_fail(err, LM_INTERNAL, "sha256 is not available in this OpenSSL");
    return LM_OK;
}

/* Goes on for so many pieces, as far as the file is written, unless somebody else is at it. */
static lm_status digest_follow(job *j, uint64_t pieces, lm_err *err) {
    digest *d = &j->hash;
    lm_status st = LM_OK;
    if (!d->sha || pthread_mutex_trylock(&d->lock) != 0) return LM_OK;
    uint64_t end = lm_writer_front(j->writer);
    for (; pieces > 0 && st == LM_OK && d->at < end && !atomic_load(&j->stop); pieces--) {
        uint64_t n = end - d->at < HASH_PIECE ? end - d->at : HASH_PIECE;
        st = lm_writer_read(j->writer, d->at, d->piece, n, err);
        if (st == LM_OK && !EVP_DigestUpdate(d->sha, d->piece, n))
            st = lm_fail(err, LM_INTERNAL, "sha256 failed");
        d->at += n;
    }
    pthread_mutex_unlock(&d->lock);
    return st;
}

static lm_status digest_end(job *j, char out[LM_DIGEST_SIZE], lm_err *err) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    lm_status st = digest_follow(j, UINT64_MAX, err);
    if (st == LM_OK && !EVP_DigestFinal_ex(j->hash.sha, raw, NULL))
        st = lm_fail(err, LM_INTERNAL, "sha256 failed");
    if (st != LM_OK) return st;
    memcpy(out, "sha256:", 7);
    for (int i = 0; i < 32; i++) snprintf(out + 7 + 2 * i, 3, "%02x", raw[i]);
    return LM_OK;
}

/* ---- threads */

static lm_status report(job *j, lm_err *err) {
    uint64_t done = atomic_load(&j->done);
    if (done - j->dropped > DROP_EVERY) {
        lm_gguf_drop(j->plan->gguf);
        j->dropped = done;
    }
    if (j->progress && !j->progress(j->ctx, done, j->total))
        return lm_fail(err, LM_CANCELLED, "the import was cancelled");
    return LM_OK;
}

static void work(void *arg, uint32_t chunk, uint32_t thread) {
    job *j = arg;
    uint64_t n = j->first[j->plan->n];
    (void)chunk;
    while (!atomic_load(&j->stop)) {
        uint64_t k = atomic_fetch_add(&j->next, 1);
        lm_err err = {0};
        if (k >= n) return;
        read_ahead(j, k + AHEAD);
        lm_status st = do_piece(j, &j->scratch[thread], k, &err);
        if (st == LM_OK && thread == 0) st = report(j, &err);
        if (st == LM_OK) st = digest_follow(j, HASH_TURN, &err);
        if (st != LM_OK) fail(j, st, &err);
    }
}

/* Where the pieces of each item begin, and how much room the longest row takes. */
static lm_status cut(job *j, lm_err *err) {
    const lm_plan *p = j->plan;
    j->room = PIECE;
    j->first = lm_try_alloc(p->n + 1, sizeof *j->first);
    if (!j->first) return lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", p->n);
    for (uint32_t i = 0; i < p->n; i++) {
        const lm_item *it = &p->items[i];
        uint64_t each = rows_of_piece(it);
        j->first[i + 1] = j->first[i] + (it->rows + each - 1) / each;
        j->total += lm_item_bytes(it);
        if (it->width > j->room) j->room = it->width;
    }
    return LM_OK;
}

static lm_status open_scratch(job *j, uint32_t n, lm_err *err) {
    j->scratch = lm_alloc(n * sizeof *j->scratch);
    for (uint32_t i = 0; i < n; i++) {
        scratch *s = &j->scratch[i];
        s->codes = lm_try_alloc(j->room, 4);
        s->scales = lm_try_alloc(j->room / 32 + 1, 2);
        s->biases = lm_try_alloc(j->room / 32 + 1, 2);
        if (!s->codes || !s->scales || !s->biases)
            return lm_fail(err, LM_NO_MEMORY, "no memory to convert rows of %llu numbers",
                           (unsigned long long)j->room);
    }
    return LM_OK;
}

static void close_scratch(job *j, uint32_t n) {
    for (uint32_t i = 0; j->scratch && i < n; i++) {
        free(j->scratch[i].codes);
        free(j->scratch[i].scales);
        free(j->scratch[i].biases);
    }
    free(j->scratch);
}

static lm_status run(job *j, uint32_t n_threads, lm_err *err) {
    lm_pool *pool = NULL;
    lm_status st = lm_pool_open(&pool, n_threads, err);
    if (st != LM_OK) return st;
    for (uint64_t k = 0; k < AHEAD; k++) read_ahead(j, k);
    lm_pool_run(pool, work, j, n_threads);
    lm_pool_close(pool);
    if (j->st == LM_OK) return report(j, err);
    return lm_fail(err, j->st, "%s", j->err.text);
}

lm_status lm_plan_write(const lm_plan *p, const char *path, lm_store_progress *progress, void *ctx,
                        char sha256[LM_DIGEST_SIZE], lm_err *err) {
    job j = {.plan = p, .progress = progress, .ctx = ctx};
    pthread_mutex_init(&j.lock, NULL);
    pthread_mutex_init(&j.hash.lock, NULL);
    lm_status st = cut(&j, err);
    uint32_t n = j.total <= ONE_THREAD ? 1 : lm_cpu_cores() < THREADS_MAX ? lm_cpu_cores() : THREADS_MAX;
    if (st == LM_OK && sha256) st = digest_open(&j.hash, err);
    if (st == LM_OK) st = open_scratch(&j, n, err);
    if (st == LM_OK) st = lm_writer_open(&j.writer, path, p->specs, p->n_specs, err);
    if (st == LM_OK) st = run(&j, n, err);
    if (st == LM_OK && sha256) st = digest_end(&j, sha256, err);
    lm_gguf_drop(p->gguf);
    if (st != LM_OK)
        lm_writer_abort(j.writer);
    else
        st = lm_writer_finish(j.writer, err);
    close_scratch(&j, n);
    free(j.first);
    free(j.hash.piece);
    EVP_MD_CTX_free(j.hash.sha);
    pthread_mutex_destroy(&j.hash.lock);
    pthread_mutex_destroy(&j.lock);
    return st;
}
