#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

static lm_status fail_errno(lm_err *err, const char *doing, const char *path) {
    int e = errno;
    lm_status st = e == ENOENT || e == ENOTDIR                ? LM_NOT_FOUND
                   : e == ENOSPC || e == EDQUOT || e == EFBIG ? LM_NO_SPACE
                   : e == ENOMEM                              ? LM_NO_MEMORY
                                                              : LM_IO;
    return lm_fail(err, st, "%s %s: %s", doing, path, strerror(e));
}

/* ---- mapped */

lm_status lm_map_open(lm_map *out, const char *path, lm_err *err) {
    lm_status st = LM_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(err, "open", path);
    if (fstat(fd, &info) != 0) {
        st = fail_errno(err, "stat", path);
    } else if (!S_ISREG(info.st_mode)) {
        st = lm_fail(err, LM_IO, "%s is not a regular file", path);
    } else if (info.st_size == 0) {
        *out = (lm_map){NULL, 0}; /* mmap refuses length 0; an empty file is the reader's to judge */
    } else {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            st = fail_errno(err, "map", path);
        else
            *out = (lm_map){data, (uint64_t)info.st_size};
    }
    close(fd);
    return st;
}

void lm_map_close(lm_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (lm_map){NULL, 0};
}

void lm_map_drop(const lm_map *map) {
    if (map->data) madvise((void *)(uintptr_t)map->data, map->size, MADV_DONTNEED);
}

void lm_map_ahead(const void *at, uint64_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)at / page * page;
    if (bytes) madvise((void *)from, (uintptr_t)at + bytes - from, MADV_WILLNEED);
}

/* ---- read and write whole */

lm_status lm_file_read(const char *path, size_t max_bytes, lm_buf *out, lm_err *err) {
    lm_status st = LM_OK;
    char piece[65536];
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us up */
    if (fd < 0) return fail_errno(err, "open", path);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return lm_fail(err, LM_IO, "%s is not a regular file", path);
    }
    for (size_t total = 0;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = fail_errno(err, "read", path);
        if (n <= 0) break;
        total += (size_t)n;
        if (total > max_bytes) {
            st = lm_fail(err, LM_TOO_LARGE, "%s is larger than %zu bytes", path, max_bytes);
            break;
        }
        lm_buf_add(out, piece, (size_t)n);
        if (out->failed) {
            st = lm_buf_status(out, path, err);
            break;
        }
    }
    close(fd);
    return st;
}

static lm_status write_all(int fd, lm_str bytes, const char *path, lm_err *err) {
    while (bytes.len) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(err, "write", path);
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return fsync(fd) == 0 ? LM_OK : fail_errno(err, "fsync", path);
}

/* The rename itself must survive a power cut. */
static void sync_parent(const char *path) {
    char *copy = lm_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd >= 0) {
        if (fsync(fd) != 0) (void)0; /* some file systems cannot; the data itself is safe */
        close(fd);
    }
    free(copy);
}

lm_status lm_file_write(const char *path, lm_str bytes, lm_err *err) {
    lm_buf temp;
    lm_buf_init(&temp, 8192);
    lm_buf_printf(&temp, "%s.tmp-XXXXXX", path);
    lm_status st = lm_buf_status(&temp, "path", err);
    int fd = st == LM_OK ? mkstemp(temp.ptr) : -1;
    if (st == LM_OK && fd < 0) st = fail_errno(err, "create", temp.ptr);
    if (fd >= 0) {
        fchmod(fd, 0644);
        st = write_all(fd, bytes, path, err);
        if (close(fd) != 0 && st == LM_OK) st = fail_errno(err, "close", path);
        if (st == LM_OK && rename(temp.ptr, path) != 0) st = fail_errno(err, "rename to", path);
        if (st != LM_OK)
            unlink(temp.ptr);
        else
            sync_parent(path);
    }
    lm_buf_release(&temp);
    return st;
}

/* ---- directories */

int lm_file_lock(const char *path, int how) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    while (fd >= 0 && flock(fd, how) != 0) {
        int why = errno;
        if (why == EINTR) continue;
        close(fd);
        errno = why;
        fd = -1;
    }
    return fd;
}

lm_status lm_dir_make(const char *path, lm_err *err) {
    lm_status st = LM_OK;
    char *copy = lm_strdup(path);
    for (char *p = copy + 1; st == LM_OK && copy[0]; p++) {
        if (*p != '/' && *p != '\0') continue;
        char end = *p;
        *p = '\0';
        if (mkdir(copy, 0755) != 0 && (errno != EEXIST || !lm_path_is_dir(copy)))
            st = fail_errno(err, "make directory", copy);
        *p = end;
        if (!end) break;
    }
    free(copy);
    return st;
}

/* Works on open directories (openat), so that a path swapped for a link meanwhile leads nowhere. */
static lm_status remove_below(int parent, const char *name, const char *shown, lm_err *err) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return LM_OK;
    if (errno != EISDIR && errno != EPERM) return fail_errno(err, "remove", shown);
    int fd = openat(parent, name, O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? LM_OK : fail_errno(err, "open", shown);
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return fail_errno(err, "open", shown);
    }
    lm_status st = LM_OK;
    for (struct dirent *e; st == LM_OK && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        st = remove_below(fd, e->d_name, shown, err);
    }
    closedir(dir);
    if (st == LM_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        st = fail_errno(err, "remove", shown);
    return st;
}

lm_status lm_dir_remove(const char *path, lm_err *err) {
    return remove_below(AT_FDCWD, path, path, err);
}

bool lm_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool lm_path_is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

char *lm_path_join(const char *dir, const char *name) {
    size_t n = strlen(dir), total = n + strlen(name) + 2;
    char *path = lm_alloc(total);
    snprintf(path, total, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    return path;
}

bool lm_program_path(char out[PATH_MAX]) {
#ifdef __APPLE__
    char raw[PATH_MAX];
    uint32_t size = sizeof raw;
    return _NSGetExecutablePath(raw, &size) == 0 && realpath(raw, out);
#else
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n <= 0) return false;
    out[n] = '\0';
    return true;
#endif
}

char *lm_path_home(const char *below) {
    const char *home = getenv("HOME");
    return lm_path_join(home && home[0] ? home : ".", below);
}

/* variable/mlx-ollama/file when the variable is set to a whole path, as the XDG rules have it. */
static char *path_of_ours(const char *variable, const char *else_below_home, const char *file) {
    const char *base = getenv(variable);
    char *dir = base && base[0] == '/' ? lm_path_join(base, "mlx-ollama") : lm_path_home(else_below_home);
    char *path = lm_path_join(dir, file);
    free(dir);
    return path;
}

char *lm_path_config(const char *file) {
    return path_of_ours("XDG_CONFIG_HOME", ".config/mlx-ollama", file);
}

char *lm_path_state(const char *file) {
    return path_of_ours("XDG_STATE_HOME", ".mlx-ollama", file);
}
