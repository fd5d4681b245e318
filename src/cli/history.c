#include "cli/history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

#define MAX_FILE  (4u << 20)
#define MAX_ENTRY 8192
#define MANY      (2 * HISTORY_MAX) /* from here on the file is cut */

static int open_own(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat s;
    if (fd >= 0 && (fstat(fd, &s) || !S_ISREG(s.st_mode))) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

static bool write_all(int fd, lm_str s) {
    while (s.len) {
        ssize_t n = write(fd, s.ptr, s.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        s.ptr += n;
        s.len -= (size_t)n;
    }
    return true;
}

/* A new file in the place of the old one; if that fails, the old one stays. */
static void cut(const char *path, lm_str kept) {
    char *temp = NULL;
    if (asprintf(&temp, "%s.%ld", path, (long)getpid()) < 0) return;
    int fd = open_own(temp, O_WRONLY | O_CREAT | O_EXCL);
    bool ok = fd >= 0 && write_all(fd, kept);
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (!ok || rename(temp, path)) unlink(temp);
    free(temp);
}

void history_read(const char *path, void (*entry)(void *ctx, const char *line), void *ctx) {
    lm_buf b;
    lm_buf_init(&b, MAX_FILE + 1);
    if (lm_file_read(path, MAX_FILE, &b, NULL) != LM_OK) {
        lm_buf_release(&b);
        return;
    }
    uint32_t n = 0, seen = 0;
    for (size_t i = 0; i < b.len; i++) n += b.ptr[i] == '\n';
    size_t at = 0, kept = 0;
    while (at < b.len) {
        char *end = memchr(b.ptr + at, '\n', b.len - at);
        if (!end) break; /* half an entry: its writer was killed */
        lm_str line = {b.ptr + at, (size_t)(end - b.ptr) - at};
        bool taken = seen++ + HISTORY_MAX >= n;
        if (taken && !kept) kept = at;
        at = (size_t)(end - b.ptr) + 1;
        *end = '\0';
        if (taken && line.len && line.len <= MAX_ENTRY && lm_utf8_valid(line, NULL) == line.len)
            entry(ctx, line.ptr);
        *end = '\n';
    }
    if (n > MANY) cut(path, (lm_str){b.ptr + kept, at - kept});
    lm_buf_release(&b);
}

lm_status history_add(const char *path, const char *line, lm_err *err) {
    lm_str s = lm_str_of(line);
    if (!s.len || s.len > MAX_ENTRY || memchr(s.ptr, '\n', s.len)) return LM_OK;
    char *dir = lm_strdup(path), *slash = strrchr(dir, '/'), *entry = NULL;
    if (slash) *slash = '\0';
    lm_status st = slash ? lm_dir_make(dir, err) : LM_OK;
    free(dir);
    if (st != LM_OK) return st;
    int fd = open_own(path, O_WRONLY | O_APPEND | O_CREAT);
    int n = asprintf(&entry, "%s\n", line);
    /* One write: entries of two sessions do not mix. */
    if (fd < 0 || n < 0 || fchmod(fd, 0600) || !write_all(fd, (lm_str){entry, (size_t)n}))
        st = lm_fail(err, errno == ENOSPC ? LM_NO_SPACE : LM_IO, "the history %s cannot be written: %s", path,
                     strerror(errno));
    if (fd >= 0) close(fd);
    if (n >= 0) free(entry);
    return st;
}
