/* delete.c - a name goes: a model of the own store is removed, one of another place unlinked.
 *
 * OWN/.unlinked holds the names under which the user no longer wants to see a directory that is not ours: one
 * line each, "full name<tab>directory", '%' and control characters as %XX. Removing a line brings the name
 * back. OWN/.lock is locked meanwhile, between processes as well.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "store/own.h"

#define MAX_TOMBS (4u << 20) /* bytes */

/* ---- tombstones ------------------------------------------------------------------------------------------ */

static void tomb_line(lm_buf *b, const lm_name *name, const char *dir) {
    char full[700];
    lm_name_full(name, full);
    for (char *p = full; *p; p++) *p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
    lm_buf_printf(b, "%s\t", full);
    for (const char *p = dir; *p; p++) {
        if ((unsigned char)*p < 32 || *p == '%')
            lm_buf_printf(b, "%%%02X", (unsigned)(unsigned char)*p);
        else
            lm_buf_char(b, *p);
    }
    lm_buf_char(b, '\n');
}

void lm_tombs_load(lm_tombs *t, const char *own_dir) {
    char *path = lm_path_join(own_dir, ".unlinked");
    lm_buf text;
    lm_buf_init(&text, MAX_TOMBS);
    lm_status st = lm_file_read(path, MAX_TOMBS - 1, &text, NULL);
    t->text = st == LM_OK && text.len ? lm_buf_take(&text) : NULL;
    lm_buf_release(&text);
    free(path);
}

void lm_tombs_release(lm_tombs *t) {
    free(t->text);
    t->text = NULL;
}

bool lm_tombs_has(const lm_tombs *t, const lm_name *name, const char *dir) {
    if (!t->text) return false;
    lm_buf line;
    lm_buf_init(&line, 8192);
    tomb_line(&line, name, dir);
    bool has = false;
    for (const char *p = t->text; !line.failed && p && !has; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
        has = strncmp(p, line.ptr, line.len) == 0;
    }
    lm_buf_release(&line);
    return has;
}

static lm_status add_tomb(const char *own_dir, const lm_name *name, const char *dir, lm_err *err) {
    char *path = lm_path_join(own_dir, ".unlinked");
    lm_buf text;
    lm_buf_init(&text, MAX_TOMBS);
    lm_status st = lm_file_read(path, MAX_TOMBS - 1, &text, err);
    if (st == LM_NOT_FOUND) st = LM_OK;
    if (st == LM_OK) {
        if (text.len && text.ptr[text.len - 1] != '\n') lm_buf_char(&text, '\n');
        tomb_line(&text, name, dir);
        st = lm_buf_status(&text, path, err);
    }
    if (st == LM_OK) st = lm_file_write(path, lm_buf_view(&text), err);
    lm_buf_release(&text);
    free(path);
    return st;
}

/* ---- the own store --------------------------------------------------------------------------------------- */

static void remove_empty_parents(const char *own, const char *path) {
    char *parent = lm_strdup(path);
    size_t own_len = strlen(own);
    for (char *slash; (slash = strrchr(parent, '/')) && (size_t)(slash - parent) > own_len;) {
        *slash = '\0';
        if (rmdir(parent) != 0) break; /* not empty: other tags live there */
    }
    free(parent);
}

/* Out of sight in one step, then gone: a reader sees the whole model or none. */
lm_status lm_own_remove_dir(const char *own, const char *dir, lm_err *err) {
    char *away = NULL;
    lm_status st = lm_own_temp(own, &away, err);
    if (st == LM_OK && rename(dir, away) != 0) st = lm_own_fail(err, "remove", dir);
    if (st == LM_OK) {
        st = lm_dir_remove(away, err);
        remove_empty_parents(own, dir);
    }
    free(away);
    return st;
}

/* A new path in OWN/removed, which exists. The caller frees. */
static lm_status removed_path(const char *own, char **path, lm_err *err) {
    static atomic_uint count;
    char name[64];
    char *dir = lm_path_join(own, LM_OWN_REMOVED);
    snprintf(name, sizeof name, "%ld-%llx-%u", (long)getpid(), (unsigned long long)lm_wall_ns(),
             atomic_fetch_add(&count, 1));
    lm_status st = lm_dir_make(dir, err);
    if (st == LM_OK) *path = lm_path_join(dir, name);
    free(dir);
    return st;
}

/* In OWN/removed until it has been pruned: who is killed in between has forgotten nothing. */
lm_status lm_own_retire(const char *own, const char *path, bool remove, lm_err *err) {
    char *noted = NULL;
    lm_status st = removed_path(own, &noted, err);
    if (st == LM_OK && (remove ? rename(path, noted) : link(path, noted)) != 0)
        st = lm_own_fail(err, remove ? "remove" : "link", path);
    if (st == LM_OK && remove) {
        char *parent = lm_str_dup((lm_str){path, (size_t)(strrchr(path, '/') - path)});
        st = lm_own_sync_dir(parent, err);
        free(parent);
        remove_empty_parents(own, path);
    }
    free(noted);
    return st;
}

void lm_own_note_removed(const char *own, lm_str manifest) {
    char *noted = NULL;
    if (removed_path(own, &noted, NULL) == LM_OK && lm_file_write(noted, manifest, NULL) != LM_OK)
        unlink(noted);
    free(noted);
}

/* A name may be served from several places; afterwards it must be gone. Each turn takes one of them away. */
static lm_status remove_all(lm_store *s, const lm_name *name, bool *any, lm_err *err) {
    const char *own = s->places[0].dir;
    lm_entry entry;
    lm_status st = LM_OK;
    for (uint32_t turn = 0; st == LM_OK && turn < 64; turn++) {
        char *manifest = lm_manifest_path(own, name); /* whole or not */
        bool there = lm_path_is_file(manifest);
        if (there) st = lm_own_retire(own, manifest, true, err);
        free(manifest);
        if (!there) {
            lm_name shown;
            if (!lm_store_find_exact(s, name, &entry) && !lm_store_find_gguf(s, name, &entry)) break;
            st = lm_name_parse(lm_str_of(entry.name), &shown, err);
            if (st == LM_OK)
                st = entry.owned ? lm_own_remove_dir(own, entry.dir, err)
                                 : add_tomb(own, &shown, entry.dir, err);
        }
        *any = true;
    }
    return st;
}

lm_status lm_store_delete(lm_store *s, const char *text, lm_err *err) {
    const char *own = s->places[0].dir;
    lm_entry entry;
    lm_name name;
    int lock = -1;
    bool any = false;

    lm_status st = lm_name_parse(lm_str_of(text), &name, err);
    if (st != LM_OK) return st;
    char *manifest = lm_manifest_path(own, &name);
    if (!lm_path_is_file(manifest)) { /* the name may be short for another */
        st = lm_store_find(s, text, &entry, err);
        if (st == LM_OK) st = lm_name_parse(lm_str_of(entry.name), &name, err);
    }
    free(manifest);
    if (st == LM_OK) st = lm_own_lock(own, &lock, err);
    if (st != LM_OK) return st;
    st = remove_all(s, &name, &any, err);
    if (st == LM_OK && !any)
        st = lm_fail(err, LM_NOT_FOUND, "model '%s' not found", text); /* another was faster */
    close(lock);
    lm_own_prune(own, time(NULL));
    return st;
}
