/* export.c - a model out of the store: a plain directory with files of its own.
 *
 * Clones where the file system can (they cost nothing, and a change of one does not reach the other), copies
 * elsewhere: never hard links, whose change would change the store's blobs. Weights that mlx-lm would not
 * load as they lie are converted. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/newdir.h"
#include "store/own.h"

#define PIECE     (4u << 20)
#define MAX_INDEX (64u << 20)

typedef struct export {
    const char *from, *to;
    uint64_t done, total;
    lm_store_progress *progress;
    void *ctx;
}
export;

static bool starts(const char *name, const char *prefix) {
    return !strncmp(name, prefix, strlen(prefix));
}

static bool is_weights(const char *name) {
    return lm_str_ends(lm_str_of(name), LM_STR(".safetensors")) && !strchr(name, '/');
}

static lm_status report(export *x, uint64_t bytes, lm_err *err) {
    x->done += bytes;
    if (x->done > x->total) x->done = x->total;
    if (x->progress && !x->progress(x->ctx, x->done, x->total))
        return lm_fail(err, LM_CANCELLED, "the export was cancelled");
    return LM_OK;
}

/* All that is still to come must fit: it is copied. */
static lm_status check_room(const export *x, lm_err *err) {
    struct statvfs fs;
    uint64_t left = x->total - x->done;
    if (statvfs(x->to, &fs) != 0 || left / fs.f_frsize < fs.f_bavail) return LM_OK;
    return lm_fail(
        err, LM_NO_SPACE,
        "the model needs %.1f MB more and the disk has %.1f MB free: make room or choose another place",
        (double)left / 1e6, (double)fs.f_bavail * (double)fs.f_frsize / 1e6);
}

static lm_status write_piece(int fd, const char *bytes, size_t n, const char *path, lm_err *err) {
    while (n) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return lm_own_fail(err, "write", path);
        bytes += done;
        n -= (size_t)done;
    }
    return LM_OK;
}

static lm_status copy_bytes(export *x, int from, int to, const char *path, lm_err *err) {
    char *piece = lm_alloc(PIECE);
    lm_status st = check_room(x, err);
    while (st == LM_OK) {
        ssize_t n = read(from, piece, PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = lm_own_fail(err, "read", path);
        if (n <= 0) break;
        st = write_piece(to, piece, (size_t)n, path, err);
        if (st == LM_OK) st = report(x, (uint64_t)n, err);
    }
    free(piece);
    return st;
}

static lm_status copy_open(export *x, int from, const char *source, const char *target, lm_err *err) {
    struct stat info;
    int to = open(target, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    lm_status st = LM_OK;
    if (to < 0) return lm_own_fail(err, "create", target);
    if (lm_file_clone(from, source, to, target)) {
        st = fstat(from, &info) == 0 ? report(x, (uint64_t)info.st_size, err)
                                     : lm_own_fail(err, "look at", source);
    } else {
        close(to); /* which may have gone in the attempt */
        to = open(target, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        st = to < 0 ? lm_own_fail(err, "create", target) : copy_bytes(x, from, to, target, err);
    }
    if (st == LM_OK && fsync(to) != 0) st = lm_own_fail(err, "sync", target);
    if (to >= 0) close(to);
    return st;
}

static lm_status copy_file(export *x, const char *name, lm_err *err) {
    char *source = lm_path_join(x->from, name), *target = lm_path_join(x->to, name);
    const char *slash = strrchr(target, '/');
    char *above = lm_str_dup((lm_str){target, (size_t)(slash - target)});
    lm_status st = lm_dir_make(above, err);
    int from = st == LM_OK ? open(source, O_RDONLY | O_CLOEXEC) : -1;
    if (st == LM_OK && from < 0) st = lm_own_fail(err, "open", source);
    if (st == LM_OK) st = copy_open(x, from, source, target, err);
    if (from >= 0) close(from);
    free(source);
    free(target);
    free(above);
    return st;
}

static bool converting(void *ctx, uint64_t done, uint64_t total) {
    export *x = ctx;
    (void)total;
    x->done = done < x->total ? done : x->total;
    return !x->progress || x->progress(x->ctx, x->done, x->total);
}

/* mlx-lm reads model*.safetensors, and only those; so what lies here must be all in such files. Ollama's MLX
 * models, which have a file for each tensor, may have such names, too, but others for what is in them. */
static bool names_are_mlx_lms(const export *x) {
    char *single = lm_path_join(x->from, "model.safetensors");
    char *path = lm_path_join(x->from, "model.safetensors.index.json");
    json_t *index = NULL, *file;
    const char *name;
    bool ok = lm_path_is_file(single);
    if (!ok && lm_json_load(path, MAX_INDEX, &index, NULL) == LM_OK) {
        ok = true;
        json_object_foreach(json_object_get(index, "weight_map"), name, file) {
            const char *s = json_string_value(file);
            ok = ok && s && starts(s, "model");
        }
    }
    json_decref(index);
    free(single);
    free(path);
    return ok;
}

/* What only mlx-lm knows (an architecture, a form) is not looked into. */
static lm_status must_convert(const export *x, bool *convert, lm_err *err) {
    lm_form_info is = {0};
    lm_status st = lm_convert_look(x->from, &is, err);
    if (st != LM_OK && st != LM_UNSUPPORTED) return st;
    *convert = st == LM_OK && (is.foreign || !names_are_mlx_lms(x));
    return LM_OK;
}

/* Beside weights that mlx-lm reads lie such that nobody does: the makers' own form of them
 * (consolidated.safetensors). */
static lm_status fill(export *x, lm_err *err) {
    lm_files f = {0};
    bool convert = false, known = names_are_mlx_lms(x);
    lm_status st = lm_files_list(x->from, &f, err);
    if (st != LM_OK) return st;
    x->total = f.bytes;
    st = must_convert(x, &convert, err);
    if (st == LM_OK && convert) st = lm_convert_dir(x->from, x->to, NULL, converting, x, err);
    for (uint32_t i = 0; i < f.n && st == LM_OK; i++) {
        const char *name = f.items[i];
        bool skip =
            convert ? lm_file_is_converted(name) : known && is_weights(name) && !starts(name, "model");
        if (!skip) st = copy_file(x, name, err);
    }
    lm_files_release(&f);
    x->done = x->total; /* what was left out is done, too */
    return st == LM_OK ? report(x, 0, err) : st;
}

lm_status lm_store_export(lm_store *s, const char *name, const char *dir, lm_store_progress *progress,
                          void *ctx, lm_err *err) {
    lm_entry model;
    lm_newdir place;
    lm_status st = lm_store_find(s, name, &model, err);
    if (st == LM_OK) st = lm_store_ready(s, &model, progress, ctx, err);
    if (st == LM_OK) st = lm_newdir_open(&place, dir, "exporting", err);
    if (st != LM_OK) return st;
    export x = {.from = model.dir, .to = place.temp, .progress = progress, .ctx = ctx};
    st = fill(&x, err);
    if (st == LM_OK) st = lm_newdir_commit(&place, err);
    lm_newdir_close(&place);
    return st;
}
