/* files.c - files in a directory where others may write, locks and processes.
 *
 * In a shared /tmp somebody else may have made a file of our name before us: a symbolic link to what we would then
 * overwrite, a FIFO that holds us up, a file that only he can read. So nothing is followed, and what is opened is looked
 * at before it is used.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __APPLE__
#include <libproc.h>
#endif

#include "base/file.h"
#include "service/service.h"

#define REMEDY "remove it, or set `logs = state` in the configuration (mlx-server-startup config)"

static lm_status make_parent(const char *path, lm_err *err) {
    char *copy = lm_strdup(path);
    const char *dir = dirname(copy);
    lm_status st = lm_path_is_dir(dir) ? LM_OK : lm_dir_make(dir, err);
    free(copy);
    return st;
}

static lm_status refuse(const char *path, const char *what, lm_err *err) {
    return lm_fail(err, LM_DENIED, "%s %s: " REMEDY, path, what);
}

static lm_status look(int fd, const char *path, lm_err *err) {
    struct stat info;
    if (fstat(fd, &info)) return lm_fail(err, LM_IO, "stat %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return refuse(path, "is no regular file", err);
    if (info.st_uid != geteuid()) return refuse(path, "belongs to somebody else", err);
    if (info.st_nlink > 1) return refuse(path, "has a second name (a hard link)", err);
    if ((info.st_mode & 07777) != 0600 && fchmod(fd, 0600))
        return lm_fail(err, LM_IO, "chmod %s: %s", path, strerror(errno));
    return LM_OK;
}

lm_status service_open_ours(const char *path, int *fd, lm_err *err) {
    lm_status st = make_parent(path, err);
    if (st != LM_OK) return st;
    int got = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
    if (got < 0 && (errno == ELOOP || errno == EMLINK)) return refuse(path, "is a symbolic link", err);
    if (got < 0 && (errno == EACCES || errno == EPERM)) return refuse(path, "belongs to somebody else", err);
    if (got < 0 && errno == EISDIR) return refuse(path, "is a directory", err);
    if (got < 0)
        return lm_fail(err, errno == ENOSPC ? LM_NO_SPACE : LM_IO, "open %s: %s", path, strerror(errno));
    if ((st = look(got, path, err)) != LM_OK) {
        close(got);
        return st;
    }
    *fd = got;
    return LM_OK;
}

/* ---- the lock */

static struct flock whole_file(void) {
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

lm_status service_lock_holder(const char *path, pid_t *pid, bool *left, lm_err *err) {
    struct flock lock = whole_file();
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (left) *left = fd >= 0;
    if (fd < 0 && errno == ENOENT) {
        *pid = 0;
        return LM_OK;
    }
    if (fd < 0)
        return refuse(path, errno == ELOOP || errno == EMLINK ? "is a symbolic link" : "cannot be opened",
                      err);
    lm_status st = look(fd, path, err);
    if (st == LM_OK && fcntl(fd, F_GETLK, &lock))
        st = lm_fail(err, LM_IO, "lock of %s: %s", path, strerror(errno));
    close(fd);
    if (st != LM_OK) return st;
    *pid = lock.l_type == F_UNLCK ? 0 : lock.l_pid > 0 ? lock.l_pid : -1;
    return LM_OK;
}

/* The file that we have locked may have been removed by its last holder before we had the lock. */
static bool still_there(const char *path, int fd) {
    struct stat here, there;
    return !fstat(fd, &here) && !lstat(path, &there) && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

lm_status service_lock_take(const char *path, int *fd, pid_t *holder, lm_err *err) {
    for (int attempt = 0; attempt < 100; attempt++) {
        int got = -1;
        lm_status st = service_open_ours(path, &got, err);
        if (st != LM_OK) return st;
        struct flock lock = whole_file();
        if (fcntl(got, F_SETLK, &lock)) {
            struct flock who = whole_file();
            bool known = !fcntl(got, F_GETLK, &who) && who.l_type != F_UNLCK;
            close(got);
            if (!known) continue; /* it has just been given back */
            *holder = who.l_pid > 0 ? who.l_pid : -1;
            return lm_fail(err, LM_BUSY, "it is running already (process %d)", (int)*holder);
        }
        if (!still_there(path, got)) {
            close(got);
            continue;
        }
        char text[32];
        int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
        /* Without room for it the lock is what counts. */
        if (ftruncate(got, 0) || write(got, text, (size_t)n) != n) (void)0;
        *fd = got;
        return LM_OK;
    }
    return lm_fail(err, LM_BUSY, "the lock of %s changes hands all the time: try again", path);
}

void service_lock_give(const char *path, int fd) {
    if (still_there(path, fd)) unlink(path);
    close(fd);
}

/* ---- processes */

uint64_t service_process_began(pid_t pid) {
    if (pid <= 0) return 0;
#ifdef __APPLE__
    struct proc_bsdinfo info;
    if (proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != (int)sizeof info ||
        info.pbi_status == 5 /* SZOMB */)
        return 0;
    return info.pbi_start_tvsec * 1000000 + info.pbi_start_tvusec;
#else
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = '\0';
    /* "pid (name) state ...": a name may hold blanks and brackets. The beginning is field 22, the state field 3. */
    char *at = strrchr(text, ')');
    if (!at || strlen(at) < 4 || at[2] == 'Z' || at[2] == 'X') return 0;
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (!at) return 0;
        at++;
    }
    return strtoull(at, NULL, 10);
#endif
}
