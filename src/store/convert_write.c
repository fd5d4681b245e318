/* convert_write.c - the data of a plan: pieces of whole rows are gathered, cast and quantised by several
 * threads, each its rows, and written by one. Files of at most 5 GB, as mlx-lm writes them, one
 * after the other: each has its full size on the disk before it is begun. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "store/convert.h"
#include "weights/quantize.h"
#include "weights/safetensors_write.h"

#define PIECE       (1u << 22)  /* numbers at a time; a row of a matrix that is quantised fits (MAX_COLS) */
#define ELEMENT_MAX 8           /* bytes */
#define DROP_EVERY  (64u << 20) /* bytes of source that may stay resident */
#define THREADS_MAX 4           /* more than a disk keeps busy */

typedef struct job {
    const lm_convert_plan *plan;
    lm_writer *writer;
    lm_pool *pool;
    uint8_t *gathered;        /* rows of the source that do not lie together: PIECE * ELEMENT_MAX */
    uint8_t *cast;            /* PIECE * 4 */
    uint8_t *codes;           /* PIECE */
    uint8_t *scales, *biases; /* PIECE / 16 * 4 */
    lm_store_progress *progress;
    void *ctx;
    uint64_t done, total, dropped; /* bytes of the source */

    /* the piece that the threads work on */
    const lm_convert_item *item;
    const uint8_t *from; /* its elements */
    uint64_t rows;
    uint32_t n_chunks;
    atomic_bool strange;
} job;

/* ---- sizes */

/* Tensors of an item in the file: one, or codes, scales and perhaps biases. */
static uint32_t specs_of(const lm_convert_item *it, lm_tensor_spec specs[3], char names[2][300]) {
    lm_tensor_spec s = {.name = it->name, .dtype = it->written, .n_dims = it->n_dims};
    memcpy(s.dims, it->dims, sizeof s.dims);
    specs[0] = s;
    uint64_t *last = it->n_dims ? &specs[0].dims[it->n_dims - 1] : NULL;
    if (it->quant.kind == LM_QUANT_NONE) {
        if (last && it->written != it->to) *last = *last * lm_dtype_size(it->to) / lm_dtype_size(it->written);
        return 1;
    }
    specs[0].dtype = LM_U32;
    *last = *last * it->quant.bits / 32;
    int stem = (int)strlen(it->name) - 7; /* ".weight" */
    snprintf(names[0], 300, "%.*s.scales", stem, it->name);
    snprintf(names[1], 300, "%.*s.biases", stem, it->name);
    s.dims[it->n_dims - 1] /= it->quant.group;
    s.dtype = lm_quant_is_float(it->quant.kind) ? LM_U8 : it->to;
    for (int i = 0; i < 2; i++) {
        specs[1 + i] = s;
        specs[1 + i].name = names[i];
    }
    return it->quant.kind == LM_QUANT_AFFINE ? 3 : 2;
}

static uint64_t written_bytes(const lm_convert_item *it) {
    uint64_t n = it->rows * it->cols, size = lm_dtype_size(it->to);
    if (it->quant.kind == LM_QUANT_NONE) return n * size;
    uint64_t groups = n / it->quant.group;
    return n * it->quant.bits / 8 + groups * (lm_quant_is_float(it->quant.kind) ? 1 : 2 * size);
}

/* Before anything is written: it all fits. */
static lm_status check_room(const lm_convert_plan *p, const char *dir, lm_err *err) {
    struct statvfs fs;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < p->n; i++) bytes += written_bytes(&p->items[i]);
    if (statvfs(dir, &fs) != 0) return lm_fail(err, LM_IO, "look at %s: %s", dir, strerror(errno));
    if (bytes / fs.f_frsize < fs.f_bavail) return LM_OK;
    return lm_fail(err, LM_NO_SPACE,
                   "the converted weights need %.1f MB and the disk has %.1f MB free: make room",
                   (double)bytes / 1e6, (double)fs.f_bavail * (double)fs.f_frsize / 1e6);
}

/* ---- a piece */

static const uint8_t *source_row(const lm_convert_item *it, uint64_t row, uint64_t row_bytes) {
    uint64_t at = row * it->step + it->phase, per_part = it->rows * it->step / it->n_parts;
    return (const uint8_t *)it->parts[at / per_part].data + at % per_part * row_bytes;
}

/* Where the rows from `first` on lie; n becomes smaller at the end of a part. */
static const uint8_t *rows_at(const job *j, const lm_convert_item *it, uint64_t first, uint64_t *n) {
    uint64_t row_bytes = it->cols * lm_dtype_size(it->from);
    if (it->step == 1) {
        uint64_t per_part = it->rows / it->n_parts, left = per_part - first % per_part;
        if (*n > left) *n = left;
        return source_row(it, first, row_bytes);
    }
    for (uint64_t r = 0; r < *n; r++)
        memcpy(j->gathered + r * row_bytes, source_row(it, first + r, row_bytes), row_bytes);
    return j->gathered;
}

static void convert_rows(void *arg, uint32_t chunk, uint32_t thread) {
    job *j = arg;
    const lm_convert_item *it = j->item;
    (void)thread;
    uint64_t first = j->rows * chunk / j->n_chunks * it->cols;
    uint64_t n = j->rows * (chunk + 1) / j->n_chunks * it->cols - first;
    uint64_t size = lm_dtype_size(it->to);
    const uint8_t *from = j->from + first * lm_dtype_size(it->from);
    bool ok = true;
    if (it->from != it->to) {
        ok = lm_numbers_cast(it->from, from, n, it->to, j->cast + first * size);
        from = j->cast + first * size;
    }
    if (ok && it->quant.kind != LM_QUANT_NONE) {
        uint64_t scale_size = lm_quant_is_float(it->quant.kind) ? 1 : size, group = first / it->quant.group;
        ok = lm_quantize(it->quant, it->to, from, n, j->codes + first * it->quant.bits / 8,
                         j->scales + group * scale_size, j->biases + group * size);
    }
    if (!ok) atomic_store(&j->strange, true);
}

static lm_status convert_piece(job *j, const lm_convert_item *it, uint64_t rows, lm_err *err) {
    j->item = it;
    j->rows = rows;
    j->n_chunks = rows < 4 * THREADS_MAX ? (uint32_t)rows : 4 * THREADS_MAX;
    atomic_store(&j->strange, false);
    lm_pool_run(j->pool, convert_rows, j, j->n_chunks);
    if (!atomic_load(&j->strange)) return LM_OK;
    if (it->quant.kind != LM_QUANT_NONE)
        return lm_fail(err, LM_CORRUPT, "tensor %s holds numbers that are not finite%s: damaged?", it->name,
                       it->from != it->to ? ", or too large for the type that config.json names" : "");
    return lm_fail(err, LM_INVALID, "tensor %s holds numbers that are too large for %s: choose bf16 or f32",
                   it->name, lm_dtype_name(it->to));
}

static lm_status put_piece(job *j, const lm_convert_item *it, uint32_t spec, uint64_t at, uint64_t n,
                           lm_err *err) {
    lm_quant_spec q = it->quant;
    uint64_t size = lm_dtype_size(it->to);
    if (q.kind == LM_QUANT_NONE)
        return lm_writer_put(j->writer, spec, at * size, it->from != it->to ? j->cast : j->from, n * size,
                             err);
    bool scaled = !lm_quant_is_float(q.kind);
    uint64_t scale_size = scaled ? size : 1;
    lm_status st = lm_writer_put(j->writer, spec, at * q.bits / 8, j->codes, n * q.bits / 8, err);
    if (st == LM_OK)
        st = lm_writer_put(j->writer, spec + 1, at / q.group * scale_size, j->scales,
                           n / q.group * scale_size, err);
    if (st == LM_OK && scaled)
        st = lm_writer_put(j->writer, spec + 2, at / q.group * size, j->biases, n / q.group * size, err);
    return st;
}

static lm_status report(job *j, uint64_t bytes, lm_err *err) {
    j->done += bytes;
    if (j->done - j->dropped > DROP_EVERY) {
        lm_weights_drop(j->plan->source);
        j->dropped = j->done;
    }
    if (j->progress && !j->progress(j->ctx, j->done, j->total))
        return lm_fail(err, LM_CANCELLED, "the conversion was cancelled");
    return LM_OK;
}

/* spec: of the item's first tensor in this file. */
static lm_status write_item(job *j, lm_convert_item it, uint32_t spec, lm_err *err) {
    bool plain = it.quant.kind == LM_QUANT_NONE;
    if (plain && it.step == 1) { /* rows mean nothing: any number of elements is a piece */
        it.rows *= it.cols;
        it.cols = it.rows ? 1 : 0;
    }
    lm_status st = LM_OK;
    uint64_t n = 0;
    for (uint64_t r = 0; r < it.rows && st == LM_OK; r += n) {
        n = PIECE / it.cols;
        if (n > it.rows - r) n = it.rows - r;
        j->from = rows_at(j, &it, r, &n);
        if (!plain || it.from != it.to) st = convert_piece(j, &it, n, err);
        if (st == LM_OK) st = put_piece(j, &it, spec, r * it.cols, n * it.cols, err);
        if (st == LM_OK) st = report(j, n * it.cols * lm_dtype_size(it.from), err);
    }
    return st;
}

/* ---- files */

static lm_status write_shard(job *j, uint32_t first, uint32_t end, const char *path, lm_err *err) {
    const lm_convert_plan *p = j->plan;
    uint32_t n = 0, most = 3 * (end - first) + 1;
    lm_tensor_spec *specs = lm_try_alloc(most, sizeof *specs);
    char(*names)[2][300] = lm_try_alloc(end - first + 1, sizeof *names);
    lm_status st =
        specs && names ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for %u tensors", end - first);
    for (uint32_t i = first; i < end && st == LM_OK; i++)
        n += specs_of(&p->items[i], specs + n, names[i - first]);
    if (st == LM_OK) st = lm_writer_open(&j->writer, path, specs, n, err);
    bool open = st == LM_OK;
    n = 0;
    for (uint32_t i = first; i < end && st == LM_OK; i++) {
        lm_tensor_spec some[3];
        char some_names[2][300];
        st = write_item(j, p->items[i], n, err);
        n += specs_of(&p->items[i], some, some_names);
    }
    if (open && st == LM_OK)
        st = lm_writer_finish(j->writer, err);
    else if (open)
        lm_writer_abort(j->writer);
    free(specs);
    free(names);
    return st;
}

/* Where the shard that begins with item `first` ends. */
static uint32_t shard_end(const lm_convert_plan *p, uint32_t first) {
    uint64_t bytes = 0;
    uint32_t i = first;
    for (; i < p->n; i++) {
        uint64_t more = written_bytes(&p->items[i]);
        if (i > first && bytes + more > p->shard_max) break;
        bytes += more;
    }
    return i;
}

static lm_status write_json(const json_t *value, const char *dir, const char *name, lm_err *err) {
    char *path = lm_path_join(dir, name), *text = json_dumps(value, JSON_INDENT(4) | JSON_SORT_KEYS);
    lm_status st = text ? lm_file_write(path, lm_str_of(text), err)
                        : lm_fail(err, LM_NO_MEMORY, "no memory for %s", name);
    free(text);
    free(path);
    return st;
}

static void index_shard(const lm_convert_plan *p, uint32_t first, uint32_t end, const char *file,
                        json_t *map) {
    for (uint32_t i = first; i < end; i++) {
        lm_tensor_spec specs[3];
        char names[2][300];
        uint32_t n = specs_of(&p->items[i], specs, names);
        for (uint32_t k = 0; k < n; k++) json_object_set_new(map, specs[k].name, json_string(file));
    }
}

static lm_status write_shards(job *j, const char *dir, lm_err *err) {
    const lm_convert_plan *p = j->plan;
    uint32_t n_shards = 0;
    uint64_t bytes = 0;
    json_t *map = json_object();
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < p->n; i = shard_end(p, i)) n_shards++;
    for (uint32_t i = 0; i < p->n; i++) bytes += written_bytes(&p->items[i]);
    for (uint32_t i = 0, k = 1; i < p->n && st == LM_OK; k++) {
        char file[64] = "model.safetensors";
        uint32_t end = shard_end(p, i);
        if (n_shards > 1) snprintf(file, sizeof file, "model-%05u-of-%05u.safetensors", k, n_shards);
        char *path = lm_path_join(dir, file);
        st = write_shard(j, i, end, path, err);
        free(path);
        index_shard(p, i, end, file, map);
        i = end;
    }
    if (st == LM_OK && n_shards > 1) {
        json_t *index =
            json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
        st = write_json(index, dir, "model.safetensors.index.json", err);
        json_decref(index);
    }
    json_decref(map);
    return st;
}

static lm_status take_memory(job *j, lm_err *err) {
    uint32_t cores = lm_cpu_cores();
    j->gathered = lm_try_alloc(PIECE, ELEMENT_MAX);
    j->cast = lm_try_alloc(PIECE, 4);
    j->codes = lm_try_alloc(PIECE, 1);
    j->scales = lm_try_alloc(PIECE / 16, 4);
    j->biases = lm_try_alloc(PIECE / 16, 4);
    if (!j->gathered || !j->cast || !j->codes || !j->scales || !j->biases)
        return lm_fail(err, LM_NO_MEMORY, "no memory to convert weights");
    return lm_pool_open(&j->pool, cores < THREADS_MAX ? cores : THREADS_MAX, err);
}

lm_status lm_convert_write(const lm_convert_plan *p, const char *dir, lm_store_progress *progress, void *ctx,
                           lm_err *err) {
    job j = {.plan = p, .progress = progress, .ctx = ctx};
    for (uint32_t i = 0; i < p->n; i++)
        j.total += p->items[i].rows * p->items[i].cols * lm_dtype_size(p->items[i].from);
    lm_status st = check_room(p, dir, err);
    if (st == LM_OK) st = take_memory(&j, err);
    if (st == LM_OK) st = write_json(p->config, dir, "config.json", err);
    if (st == LM_OK) st = write_shards(&j, dir, err);
    lm_pool_close(j.pool);
    free(j.gathered);
    free(j.cast);
    free(j.codes);
    free(j.scales);
    free(j.biases);
    lm_weights_drop(p->source);
    return st;
}
