/* logs.c - the end of a log, and what comes, also across a rotation. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "service/service.h"

#define LOOK_US 100000
#define PIECE   65536

#define LAST_WORDS 10 /* lines */

/* Only what is ours: /tmp has other people's files. */
static int open_log(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -1;
    if (!fstat(fd, &info) && S_ISREG(info.st_mode) && (info.st_uid == geteuid() || geteuid() == 0)) return fd;
    close(fd);
    errno = EPERM;
    return -1;
}

static bool copy(int fd) {
    char piece[PIECE];
    ssize_t n;
    while ((n = read(fd, piece, sizeof piece)) > 0)
        if (fwrite(piece, 1, (size_t)n, stdout) != (size_t)n) return false;
    return fflush(stdout) == 0;
}

/* ---- the last words */

uint64_t service_log_size(const char *path) {
    struct stat info;
    return stat(path, &info) ? 0 : (uint64_t)info.st_size;
}

static void show_last_words(const char *path, uint64_t from) {
    int fd = open_log(path);
    if (fd < 0) return;
    uint64_t size = service_log_size(path);
    if (from > size) from = 0;
    if (size - from > 16384) from = size - 16384;
    char text[16385];
    ssize_t n = pread(fd, text, sizeof text - 1, (off_t)from);
    close(fd);
    if (n <= 0) return;
    text[n] = '\0';
    ssize_t at = n;
    for (int lines = 0; at > 0; at--)
        if (text[at - 1] == '\n' && at < n && ++lines == LAST_WORDS) break;
    fprintf(stderr, "the last words of %s:\n", path);
    for (char *line = text + at, *end; *line; line = end) {
        end = strchr(line, '\n');
        end = end ? end + 1 : line + strlen(line);
        fprintf(stderr, "    %.*s", (int)(end - line), line);
    }
    if (text[n - 1] != '\n') fputc('\n', stderr);
}

void service_say_last_words(const service_config *c, uint64_t from) {
    show_last_words(service_text(c, SET_ERROR_LOG), from);
    fprintf(stderr, "the log is %s, and %s\n", service_text(c, SET_ERROR_LOG), service_text(c, SET_LOG));
}

/* ---- reading */

/* Where the last n lines begin. */
static off_t tail_of(int fd, uint32_t n) {
    char piece[PIECE];
    off_t end = lseek(fd, 0, SEEK_END), at = end;
    uint32_t seen = 0;
    while (at > 0) {
        size_t len = at < PIECE ? (size_t)at : PIECE;
        ssize_t got = pread(fd, piece, len, at - (off_t)len);
        if (got != (ssize_t)len) return at;
        for (size_t i = len; i > 0; i--) {
            if (piece[i - 1] != '\n' || at - (off_t)len + (off_t)i == end) continue;
            if (++seen == n) return at - (off_t)len + (off_t)i;
        }
        at -= (off_t)len;
    }
    return 0;
}

static bool same_file(const char *path, int fd) {
    struct stat here, there;
    return !fstat(fd, &here) && !lstat(path, &there) && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

/* Until the reader goes away (or a signal ends us). */
static void follow(const char *path, int fd) {
    for (;;) {
        bool same = same_file(path, fd); /* before the reading: nothing comes into the old one afterwards */
        if (!copy(fd)) break;
        if (!same) {
            int next = open_log(path);
            if (next >= 0) {
                close(fd);
                fd = next;
                continue;
            }
        }
        usleep(LOOK_US);
    }
    close(fd);
}

int service_logs(service_config *c, const service_options *o, bool errors) {
    const char *path = service_text(c, errors ? SET_ERROR_LOG : SET_LOG);
    int fd = open_log(path);
    while (fd < 0 && errno == ENOENT && o->follow) {
        usleep(LOOK_US);
        fd = open_log(path);
    }
    if (fd < 0) {
        fprintf(stderr,
                errno == ENOENT
                    ? "mlx-server-startup: there is no %s yet: nothing was started with this configuration\n"
                    : "mlx-server-startup: %s cannot be read, or is not yours\n",
                path);
        return EXIT_FAILED;
    }
    lseek(fd, tail_of(fd, o->n_lines), SEEK_SET);
    if (o->follow) {
        follow(path, fd);
        return EXIT_DONE;
    }
    bool well = copy(fd);
    close(fd);
    return well ? EXIT_DONE : EXIT_FAILED;
}
