/* One GGUF model, of one file or of several, into one model directory. The directory grows beside its final
 * place under a name that listings pass over, locked, so that two imports of one model can't mix and what a
 * killed one left is cleared by the next. */
#include "store/import_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* dir without trailing slashes, cut into its parent and its last part. */
static lm_status split(const char *dir, char **parent, char **last, lm_err *err) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    size_t cut = n;
    while (cut > 0 && dir[cut - 1] != '/') cut--;
    lm_str name = {dir + cut, n - cut};
    if (name.len == 0 || lm_str_eq(name, LM_STR(".")) || lm_str_eq(name, LM_STR(".."))) {
        return lm_fail(err, LM_INVALID, "%s is not a place for a new directory", dir);
    }
    *parent = cut == 0 ? lm_strdup(".") : lm_str_dup((lm_str){dir, cut > 1 ? cut - 1 : 1});
    *last = lm_str_dup(name);
    return LM_OK;
}

/* Makes the temporary directory and locks it; *fd holds the lock. */
static lm_status take_place(const char *temp, int *fd, lm_err *err) {
    if (mkdir(temp, 0755) != 0 && errno != EEXIST) {
        return lm_fail(err, errno == ENOSPC ? LM_NO_SPACE : LM_IO, "create %s: %s", temp, strerror(errno));
    }
    int d = open(temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (d < 0) return lm_fail(err, LM_IO, "open %s: %s", temp, strerror(errno));
    if (flock(d, LOCK_EX | LOCK_NB) != 0) {
        close(d);
        return lm_fail(err, LM_BUSY, "another import into this place is running (%s)", temp);
    }
    *fd = d;
    return LM_OK;
}

/* Removes what an earlier, killed import left, file by file: the locked directory itself must stay. */
static lm_status clear_place(const char *temp, lm_err *err) {
    static const char *const names[] = {"model.safetensors",      "config.json",
                                        "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json",  "special_tokens_map.json",
                                        "chat_template.jinja",    "modules.json",
                                        "1_Pooling/config.json",  "1_Pooling"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = lm_path_join(temp, names[i]);
        int failed = remove(path) != 0 && errno != ENOENT ? errno : 0;
        free(path);
        if (failed) return lm_fail(err, LM_IO, "remove %s/%s: %s", temp, names[i], strerror(failed));
    }
    return LM_OK;
}

static lm_status sync_dir(const char *path, lm_err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    return failed ? lm_fail(err, LM_IO, "sync %s: %s", path, strerror(failed)) : LM_OK;
}

static lm_status fill(const lm_gguf *g, const char *dir, lm_store_progress *progress, void *ctx,
                      lm_err *err) {
    const lm_family *family = NULL;
    lm_plan *plan = NULL;
    char *weights = lm_path_join(dir, "model.safetensors");
    lm_status st = lm_family_of(g, &family, err);
    if (st == LM_OK) st = lm_plan_open(&plan, g, family, err);
    if (st == LM_OK)
        st = lm_import_config(g, family, plan, dir, err); /* the small files first: they fail soonest */
    if (st == LM_OK) st = lm_import_tokenizer(g, dir, err);
    if (st == LM_OK) st = lm_plan_write(plan, weights, progress, ctx, err);
    lm_plan_close(plan);
    free(weights);
    return st;
}

lm_status lm_import_gguf(const char *gguf, const char *dir, lm_store_progress *progress, void *ctx,
                         lm_err *err) {
    return lm_import_parts(&gguf, 1, dir, progress, ctx, err);
}

lm_status lm_import_parts(const char *const *files, uint32_t n, const char *dir, lm_store_progress *progress,
                          void *ctx, lm_err *err) {
    char *parent = NULL, *last = NULL, *temp = NULL;
    lm_gguf *g = NULL;
    struct stat info;
    int lock = -1;

    lm_status st = split(dir, &parent, &last, err);
    if (st != LM_OK) return st;
    if (lstat(dir, &info) == 0)
        st = lm_fail(err, LM_INVALID, "%s exists already: remove it or choose another name", dir);
    if (st == LM_OK) st = lm_gguf_open_parts(&g, files, n, err);
    if (st == LM_OK) st = lm_dir_make(parent, err);
    if (st != LM_OK) goto done;

    temp = lm_alloc(strlen(parent) + strlen(last) + 16);
    sprintf(temp, "%s/.importing-%s", parent, last);
    st = take_place(temp, &lock, err);
    if (st != LM_OK) goto done;
    st = clear_place(temp, err);
    if (st == LM_OK) {
        st = fill(g, temp, progress, ctx, err);
        if (st != LM_OK) lm_fail_in(err, st, "import %s", files[0]);
    }
    if (st == LM_OK) st = sync_dir(temp, err);
    if (st == LM_OK && rename(temp, dir) != 0)
        st = lm_fail(err, LM_IO, "rename %s to %s: %s", temp, dir, strerror(errno));
    if (st == LM_OK) {
        st = sync_dir(parent, err);
    } else {
        lm_status cleared = lm_dir_remove(temp, NULL); /* the first failure is the one to tell */
        (void)cleared;
    }
done:
    if (lock >= 0) close(lock);
    lm_gguf_close(g);
    free(temp);
    free(last);
    free(parent);
    return st;
}
