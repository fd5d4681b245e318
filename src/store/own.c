/* own.c - the places and the locks of the own store. */
#include "store/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"

bool lm_own_reserved(const char *file) {
    static const char *const names[] = {LM_OWN_BLOBS,   LM_OWN_MANIFESTS, LM_OWN_VIEWS,  LM_OWN_LINKED,
                                        LM_OWN_REMOVED, LM_OWN_WORK,      LM_OWN_PARTIAL};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], file) == 0) return true;
    return false;
}

static lm_status take(const char *own, const char *name, int how, int *out, lm_err *err) {
    lm_status st = lm_dir_make(own, err);
    if (st != LM_OK) return st;
    char *path = lm_path_join(own, name);
    int fd = lm_file_lock(path, how);
    if (fd < 0) st = lm_own_fail(err, "lock", path);
    free(path);
    if (st == LM_OK) *out = fd;
    return st;
}

lm_status lm_own_lock(const char *own, int *fd, lm_err *err) {
    return take(own, ".lock", LOCK_EX, fd, err);
}

lm_status lm_own_use(const char *own, int *fd, lm_err *err) {
    return take(own, ".users", LOCK_SH, fd, err);
}

bool lm_own_alone(const char *own, int *fd) {
    return take(own, ".users", LOCK_EX | LOCK_NB, fd, NULL) == LM_OK;
}

lm_status lm_own_temp(const char *own, char **path, lm_err *err) {
    static atomic_uint count;
    char name[64];
    char *dir = lm_path_join(own, LM_OWN_WORK);
    lm_status st = lm_dir_make(dir, err);
    snprintf(name, sizeof name, "%ld-%llx-%u", (long)getpid(), (unsigned long long)lm_wall_ns(),
             atomic_fetch_add(&count, 1));
    if (st == LM_OK) *path = lm_path_join(dir, name);
    free(dir);
    return st;
}

lm_status lm_own_fail(lm_err *err, const char *doing, const char *path) {
    int e = errno;
    if (e == ENOSPC || e == EDQUOT || e == EFBIG)
        return lm_fail(err, LM_NO_SPACE, "%s %s: %s: free some space and try again; nothing was changed",
                       doing, path, strerror(e));
    return lm_fail(err, e == ENOENT ? LM_NOT_FOUND : LM_IO, "%s %s: %s", doing, path, strerror(e));
}

lm_status lm_own_sync_dir(const char *dir, lm_err *err) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    lm_status st = fd < 0 ? lm_own_fail(err, "open", dir) : LM_OK;
    if (fd >= 0 && fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) st = lm_own_fail(err, "sync", dir);
    if (fd >= 0) close(fd);
    return st;
}
