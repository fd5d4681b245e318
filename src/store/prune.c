/* prune.c - what no manifest names goes.
 *
 * Nothing is removed while anybody has a draft or a blob open, and no blob while there is a manifest that
 * cannot be read: what it names is not known. A blob that only a removed manifest named goes at once; one
 * that no manifest ever named was uploaded for a create that is to come, and gets an hour.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "store/own.h"

#define GRACE_SECONDS   3600
#define PARTIAL_SECONDS (7 * 24 * 3600)

typedef struct digests {
    char (*items)[65]; /* hex */
    size_t n, room;
    bool unsure; /* something could not be read */
} digests;

static void add(digests *d, const char *hex) {
    if (d->n == d->room) {
        d->room = d->room ? d->room * 2 : 256;
        d->items = lm_realloc(d->items, d->room * sizeof *d->items);
    }
    memcpy(d->items[d->n++], hex, 65);
}

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

static bool has(const digests *d, const char *hex) {
    return d->n && bsearch(hex, d->items, d->n, sizeof *d->items, by_text);
}

typedef struct named {
    digests blobs, manifests;
    int64_t now;
} named;

static bool read_names(const char *path, named *to) {
    lm_buf text;
    lm_manifest m = {0};
    char hex[65];
    if (lm_manifest_load(path, &text, &m, NULL) != LM_OK) return false;
    lm_blob_hex(lm_buf_view(&text), hex);
    add(&to->manifests, hex);
    add(&to->blobs, m.config.digest + 7);
    for (uint32_t i = 0; i < m.n; i++) add(&to->blobs, m.layers[i].digest + 7);
    lm_manifest_release(&m);
    lm_buf_release(&text);
    return true;
}

static bool read_manifest(void *ctx, const lm_name *name, const char *path) {
    (void)name;
    named *to = ctx;
    if (!read_names(path, to)) to->blobs.unsure = true;
    return true;
}

static void sort(digests *d) {
    if (d->n) qsort(d->items, d->n, sizeof *d->items, by_text);
}

typedef void visit(const char *path, const char *file, const named *live, named *gone);

static void each(const char *own, const char *below, visit *f, const named *live, named *gone) {
    char *dir = lm_path_join(own, below);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = lm_path_join(dir, e->d_name);
        f(path, e->d_name, live, gone);
        free(path);
    }
    if (d) closedir(d);
    free(dir);
}

/* What was named by a manifest that is gone is not waiting for a create. */
static void read_removed(const char *path, const char *file, const named *live, named *gone) {
    (void)file;
    (void)live;
    (void)read_names(path, gone); /* one that cannot be read names nothing; its blobs get the hour */
}

static void forget_removed(const char *path, const char *file, const named *live, named *gone) {
    (void)file;
    (void)live;
    (void)gone;
    unlink(path);
}

static bool older(const char *path, bool changed, int64_t now, int64_t seconds) {
    struct stat st;
    return lstat(path, &st) == 0 && now - (changed ? st.st_ctime : st.st_mtime) > seconds;
}

static void look_at_blob(const char *path, const char *file, const named *live, named *gone) {
    char digest[LM_DIGEST_SIZE];
    if (lm_digest_parse(lm_str_of(file), digest, NULL) != LM_OK) return; /* not ours */
    const char *hex = digest + 7;
    if (!has(&live->blobs, hex) && (has(&gone->blobs, hex) || older(path, true, live->now, GRACE_SECONDS)))
        unlink(path);
}

static void look_at_view(const char *path, const char *file, const named *live, named *gone) {
    (void)gone;
    if (!has(&live->manifests, file) && lm_dir_remove(path, NULL) != LM_OK) return; /* next time */
}

/* Views of another store's models go when a link of theirs leads to nothing. */
static void look_at_linked(const char *path, const char *file, const named *live, named *gone) {
    struct stat st;
    bool broken = false;
    (void)file;
    (void)live;
    (void)gone;
    DIR *d = opendir(path);
    for (struct dirent *e; d && !broken && (e = readdir(d));)
        broken = fstatat(dirfd(d), e->d_name, &st, 0) != 0;
    if (d) closedir(d);
    if (broken && lm_dir_remove(path, NULL) != LM_OK) return; /* the same */
}

static void remove_work(const char *path, const char *file, const named *live, named *gone) {
    (void)file;
    (void)live;
    (void)gone;
    if (lm_dir_remove(path, NULL) != LM_OK) return; /* the same */
}

static void look_at_partial(const char *path, const char *file, const named *live, named *gone) {
    (void)file;
    (void)gone;
    if (older(path, false, live->now, PARTIAL_SECONDS)) unlink(path);
}

void lm_own_prune(const char *own, int64_t now) {
    int lock = -1, alone = -1;
    named live = {.now = now}, gone = {0};
    if (!lm_path_is_dir(own) || lm_own_lock(own, &lock, NULL) != LM_OK) return;
    if (lm_own_alone(own, &alone)) {
        each(own, LM_OWN_WORK, remove_work, &live, &gone);
        lm_manifests_walk(own, NULL, read_manifest, &live);
        each(own, LM_OWN_REMOVED, read_removed, &live, &gone);
        sort(&live.blobs);
        sort(&live.manifests);
        sort(&gone.blobs);
        if (!live.blobs.unsure) {
            each(own, LM_OWN_VIEWS, look_at_view, &live, &gone);
            each(own, LM_OWN_BLOBS, look_at_blob, &live, &gone);
            each(own, LM_OWN_REMOVED, forget_removed, &live, &gone);
        }
        each(own, LM_OWN_LINKED, look_at_linked, &live, &gone);
        each(own, LM_OWN_PARTIAL, look_at_partial, &live, &gone);
        close(alone);
    }
    close(lock);
    free(live.blobs.items);
    free(live.manifests.items);
    free(gone.blobs.items);
    free(gone.manifests.items);
}

void lm_store_prune(lm_store *s) {
    lm_own_prune(s->places[0].dir, time(NULL));
}
