/* delete.c - everything that writes to the own store: making room for a model, removing one, unlinking one.
 *
 * OWN/.unlinked holds the names under which the user no longer wants to see a directory that is not ours: one
 * line each, "full name<tab>directory", '%' and control characters as %XX. Removing a line brings the name
 * back. OWN/.lock is locked while one of these functions works, between processes as well.
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
#include <unistd.h>

#include "base/file.h"
#include "store/private.h"

#define MAX_TOMBS (4u << 20) /* bytes */
#define TRASH     ".trash-"

/* ---- tombstones ------------------------------------------------------------------------------------------
 */

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

/* ---- the own store ---------------------------------------------------------------------------------------
 */

static lm_status lock_own(const char *own_dir, int *fd, lm_err *err) {
    lm_status st = lm_dir_make(own_dir, err);
    if (st != LM_OK) return st;
    char *path = lm_path_join(own_dir, ".lock");
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    while (*fd >= 0 && flock(*fd, LOCK_EX) != 0) {
        if (errno == EINTR) continue;
        close(*fd);
        *fd = -1;
    }
    if (*fd < 0) st = lm_fail(err, LM_IO, "%s: %s", path, strerror(errno));
    free(path);
    return st;
}

/* What a process that was killed in the middle of a delete has left. */
static void empty_trash(const char *own_dir) {
    DIR *d = opendir(own_dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!lm_str_starts(lm_str_of(e->d_name), LM_STR(TRASH))) continue;
        char *path = lm_path_join(own_dir, e->d_name);
        if (lm_dir_remove(path, NULL) != LM_OK) (void)0; /* the next delete tries again */
        free(path);
    }
    if (d) closedir(d);
}

/* Out of sight in one step, then gone: a reader sees the whole model or none. */
static lm_status remove_own(const char *own_dir, const char *dir, lm_err *err) {
    static atomic_uint count;
    char trash[64];
    snprintf(trash, sizeof trash, TRASH "%ld-%u", (long)getpid(), atomic_fetch_add(&count, 1));
    char *away = lm_path_join(own_dir, trash), *parent = lm_strdup(dir);
    size_t own_len = strlen(own_dir);
    lm_status st = LM_OK;

    if (rename(dir, away) != 0) {
        st = lm_fail(err, errno == ENOENT ? LM_NOT_FOUND : LM_IO, "remove %s: %s", dir, strerror(errno));
    } else {
        st = lm_dir_remove(away, err);
        for (char *slash; (slash = strrchr(parent, '/')) && (size_t)(slash - parent) > own_len;) {
            *slash = '\0';
            if (rmdir(parent) != 0) break; /* not empty: other tags live there */
        }
    }
    free(away);
    free(parent);
    return st;
}

lm_status lm_store_delete(lm_store *s, const char *text, lm_err *err) {
    const char *own = s->places[0].dir;
    lm_entry entry;
    lm_name name;
    int lock = -1;

    lm_status st = lm_store_find(s, text, &entry, err);
    if (st == LM_OK) st = lm_name_parse(lm_str_of(entry.name), &name, err);
    if (st == LM_OK) st = lock_own(own, &lock, err);
    if (st != LM_OK) return st;
    empty_trash(own);
    /* A name may be served from several places; afterwards it must be gone. Each turn takes one of them away.
     */
    bool any = false;
    for (uint32_t turn = 0; st == LM_OK && turn < 64 && lm_store_find_exact(s, &name, &entry); turn++) {
        lm_name shown;
        st = lm_name_parse(lm_str_of(entry.name), &shown, err);
        if (st == LM_OK)
            st = entry.owned ? remove_own(own, entry.dir, err) : add_tomb(own, &shown, entry.dir, err);
        any = true;
    }
    if (!any) st = lm_fail(err, LM_NOT_FOUND, "model '%s' not found", text); /* another process was faster */
    close(lock);
    return st;
}

/* The directory of `part` in dir, in the spelling that is there already. The caller frees. */
static char *spelled_as_stored(const char *dir, const char *part) {
    DIR *d = opendir(dir);
    char *path = NULL;
    for (struct dirent *e; d && !path && (e = readdir(d));) {
        if (strcasecmp(e->d_name, part) == 0) path = lm_path_join(dir, e->d_name);
    }
    if (d) closedir(d);
    return path ? path : lm_path_join(dir, part);
}

lm_status lm_store_place(lm_store *s, const char *text, char **dir, lm_err *err) {
    lm_name name;
    lm_status st = lm_name_parse(lm_str_of(text), &name, err);
    if (st != LM_OK) return st;

    int lock = -1;
    st = lock_own(s->places[0].dir, &lock, err);
    if (st != LM_OK) return st;
    const char *parts[] = {name.host, name.ns, name.model, name.tag};
    char *path = lm_strdup(s->places[0].dir);
    for (int i = 0; i < 4 && st == LM_OK; i++) {
        st = lm_dir_make(path, err);
        char *next = spelled_as_stored(path, parts[i]);
        free(path);
        path = next;
    }
    close(lock);
    if (st != LM_OK) {
        free(path);
        return st;
    }
    *dir = path;
    return LM_OK;
}
