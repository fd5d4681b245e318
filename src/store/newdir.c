#include "store/newdir.h"

#include <dirent.h>
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
static lm_status take_place(const char *temp, const char *verb, int *fd, lm_err *err) {
    if (mkdir(temp, 0755) != 0 && errno != EEXIST) {
        return lm_fail(err, errno == ENOSPC ? LM_NO_SPACE : LM_IO, "create %s: %s", temp, strerror(errno));
    }
    int d = open(temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (d < 0) return lm_fail(err, LM_IO, "open %s: %s", temp, strerror(errno));
    if (flock(d, LOCK_EX | LOCK_NB) != 0) {
        close(d);
        return lm_fail(err, LM_BUSY, "somebody else is %s to this place (%s)", verb, temp);
    }
    *fd = d;
    return LM_OK;
}

/* Removes what a killed one left, part by part: the locked directory itself must stay. */
static lm_status clear_place(const char *temp, lm_err *err) {
    lm_status st = LM_OK;
    DIR *d = opendir(temp);
    if (!d) return lm_fail(err, LM_IO, "open %s: %s", temp, strerror(errno));
    for (struct dirent *e; st == LM_OK && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = lm_path_join(temp, e->d_name);
        st = lm_dir_remove(path, err);
        free(path);
    }
    closedir(d);
    return st;
}

static lm_status sync_dir(const char *path, lm_err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    return failed ? lm_fail(err, LM_IO, "sync %s: %s", path, strerror(failed)) : LM_OK;
}

static void release(lm_newdir *d) {
    if (d->lock >= 0) close(d->lock);
    free(d->temp);
    free(d->dir);
    free(d->parent);
    *d = (lm_newdir){.lock = -1};
}

lm_status lm_newdir_open(lm_newdir *out, const char *dir, const char *verb, lm_err *err) {
    lm_newdir d = {.lock = -1};
    char *last = NULL;
    struct stat info;
    lm_status st = split(dir, &d.parent, &last, err);
    if (st != LM_OK) return st;
    d.dir = lm_strdup(dir);
    while (strlen(d.dir) > 1 && d.dir[strlen(d.dir) - 1] == '/') d.dir[strlen(d.dir) - 1] = '\0';
    if (lstat(d.dir, &info) == 0)
        st = lm_fail(err, LM_INVALID, "%s exists already: remove it or choose another name", dir);
    if (st == LM_OK) st = lm_dir_make(d.parent, err);
    if (st == LM_OK) {
        d.temp = lm_alloc(strlen(d.parent) + strlen(verb) + strlen(last) + 5);
        sprintf(d.temp, "%s/.%s-%s", d.parent, verb, last);
        st = take_place(d.temp, verb, &d.lock, err);
    }
    if (st == LM_OK) st = clear_place(d.temp, err);
    free(last);
    if (st != LM_OK) {
        release(&d);
        return st;
    }
    *out = d;
    return LM_OK;
}

lm_status lm_newdir_commit(lm_newdir *d, lm_err *err) {
    lm_status st = sync_dir(d->temp, err);
    if (st == LM_OK && rename(d->temp, d->dir) != 0)
        st = lm_fail(err, LM_IO, "rename %s to %s: %s", d->temp, d->dir, strerror(errno));
    if (st != LM_OK) return st;
    free(d->temp);
    d->temp = NULL;
    return sync_dir(d->parent, err);
}

void lm_newdir_close(lm_newdir *d) {
    if (d->temp && lm_dir_remove(d->temp, NULL) != LM_OK) (void)0; /* the next one clears it */
    release(d);
}
