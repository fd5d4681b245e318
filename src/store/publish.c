/* publish.c - the moment at which a model appears, or another takes its name: one rename. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/own.h"

/* Makes the directories above path and flushes each that is new. */
static lm_status make_parents(const char *own, const char *path, lm_err *err) {
    lm_status st = LM_OK;
    char *copy = lm_strdup(path);
    for (char *p = copy + strlen(own) + 1; st == LM_OK && (p = strchr(p, '/')); p++) {
        *p = '\0';
        bool made = mkdir(copy, 0755) == 0;
        if (!made && errno != EEXIST) st = lm_own_fail(err, "make directory", copy);
        if (made) {
            char *slash = strrchr(copy, '/');
            *slash = '\0';
            st = lm_own_sync_dir(copy, err);
            *slash = '/';
        }
        *p = '/';
    }
    free(copy);
    return st;
}

/* Written in OWN/work: what a killed process leaves there is no name of a model. */
static lm_status put_manifest(const char *own, lm_str text, const char *path, lm_err *err) {
    char *temp = NULL;
    lm_status st = make_parents(own, path, err);
    if (st == LM_OK) st = lm_own_temp(own, &temp, err);
    if (st == LM_OK) st = lm_file_write(temp, text, err);
    if (st == LM_OK && lm_path_is_file(path)) st = lm_own_retire(own, path, false, err);
    if (st == LM_OK && rename(temp, path) != 0) st = lm_own_fail(err, "rename to", path);
    if (st == LM_OK) {
        char *parent = lm_str_dup((lm_str){path, (size_t)(strrchr(path, '/') - path)});
        st = lm_own_sync_dir(parent, err);
        free(parent);
    } else if (temp) {
        unlink(temp);
    }
    free(temp);
    return st;
}

typedef struct plain {
    char dir[1024];
    bool found;
} plain;

static bool note_plain(void *ctx, const lm_name *name, const lm_entry *entry) {
    plain *p = ctx;
    (void)name;
    if (entry->managed) return true;
    memcpy(p->dir, entry->dir, sizeof p->dir);
    p->found = true;
    return false;
}

/* A plain directory of that name in the own store, from before there were manifests, is replaced as well. */
static lm_status drop_plain(lm_store *s, const lm_name *name, lm_err *err) {
    plain p = {0};
    lm_place_walk(&s->places[0], name, note_plain, &p);
    return p.found ? lm_own_remove_dir(s->places[0].dir, p.dir, err) : LM_OK;
}

lm_status lm_own_publish(lm_store *s, const lm_name *name, lm_str manifest, lm_err *err) {
    const char *own = s->places[0].dir;
    int lock = -1;
    lm_status st = lm_own_lock(own, &lock, err);
    if (st != LM_OK) return st;
    char *path = lm_manifest_path(own, name);
    st = put_manifest(own, manifest, path, err);
    if (st == LM_OK) st = drop_plain(s, name, err);
    free(path);
    close(lock);
    return st;
}
