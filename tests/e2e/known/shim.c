/* shim.c - stands between a program and the system, for tests of what nobody can wait for: the disk that is full, the
 * process that is killed, at one exact step; and for seeing whom it talks to. Preloaded; Linux.
 *
 * LM_SHIM_STATE names a file of four numbers, which the test maps and changes while the program runs:
 *
 *     steps       how many steps that change a disk there have been so far
 *     kill_at     the process kills itself before this one; 0: never
 *     full_from   from this one on, what needs room on a disk fails with ENOSPC; 0: never
 *     room        bytes that a disk says are free; 0: as it is
 *
 * LM_SHIM_CONNECTS names a file that gets a line for each address beside the loopback, and for each name that is looked up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

struct state {
    _Atomic uint64_t steps, kill_at, full_from, room;
};

static struct state none, *state = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LM_SHIM_STATE");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map != MAP_FAILED) state = map;
}

#define NEXT(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name))

/* One step; true: the disk is full. */
static int step(int needs_room) {
    uint64_t n = ++state->steps, full = state->full_from;
    if (n == state->kill_at) kill(getpid(), SIGKILL);
    if (!needs_room || !full || n < full) return 0;
    errno = ENOSPC;
    return 1;
}

static int is_file(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fd > 2;
}

/* ---- the disk */

#define OPEN(name)                                                                                           \
    int name(const char *path, int flags, ...) {                                                             \
        va_list more;                                                                                        \
        va_start(more, flags);                                                                               \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                                            \
        va_end(more);                                                                                        \
        if (flags & (O_CREAT | O_TRUNC) && step((flags & O_CREAT) && access(path, F_OK) != 0)) return -1;     \
        return NEXT(name)(path, flags, mode);                                                                \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *p, size_t n) {
    return is_file(fd) && step(1) ? -1 : NEXT(write)(fd, p, n);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    return is_file(fd) && step(1) ? -1 : NEXT(pwrite)(fd, p, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int n) {
    return is_file(fd) && step(1) ? -1 : NEXT(writev)(fd, v, n);
}

int fallocate(int fd, int mode, off_t at, off_t n) {
    if (step(1)) return -1;
    if (!state->room || (uint64_t)n <= state->room) return NEXT(fallocate)(fd, mode, at, n);
    errno = ENOSPC;
    return -1;
}

int ftruncate(int fd, off_t n) {
    return step(0) ? -1 : NEXT(ftruncate)(fd, n);
}

int fsync(int fd) {
    return step(0) ? -1 : NEXT(fsync)(fd);
}

int mkstemp(char *template) {
    return step(1) ? -1 : NEXT(mkstemp)(template);
}

int mkdir(const char *path, mode_t mode) {
    return access(path, F_OK) != 0 && step(1) ? -1 : NEXT(mkdir)(path, mode);
}

int link(const char *from, const char *to) {
    return step(1) ? -1 : NEXT(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    return step(1) ? -1 : NEXT(linkat)(a, from, b, to, flags);
}

int symlink(const char *to, const char *path) {
    return step(1) ? -1 : NEXT(symlink)(to, path);
}

int rename(const char *from, const char *to) {
    return step(0) ? -1 : NEXT(rename)(from, to);
}

int unlink(const char *path) {
    return step(0) ? -1 : NEXT(unlink)(path);
}

int unlinkat(int fd, const char *path, int flags) {
    return step(0) ? -1 : NEXT(unlinkat)(fd, path, flags);
}

int rmdir(const char *path) {
    return step(0) ? -1 : NEXT(rmdir)(path);
}

int statvfs(const char *path, struct statvfs *out) {
    int got = NEXT(statvfs)(path, out);
    if (got == 0 && state->room) out->f_bavail = out->f_bfree = state->room / out->f_frsize;
    return got;
}

int fstatvfs(int fd, struct statvfs *out) {
    int got = NEXT(fstatvfs)(fd, out);
    if (got == 0 && state->room) out->f_bavail = out->f_bfree = state->room / out->f_frsize;
    return got;
}

/* ---- the network */

static void note(const char *what) {
    const char *path = getenv("LM_SHIM_CONNECTS");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    char line[300];
    int n = snprintf(line, sizeof line, "%s\n", what);
    if (fd < 0) return;
    if (syscall(SYS_write, fd, line, n) != n) abort();
    syscall(SYS_close, fd);
}

static void look_at(const struct sockaddr *a) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!a) return;
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)a;
        if (ntohl(in->sin_addr.s_addr) >> 24 == 127) return;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    } else if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)a;
        if (IN6_IS_ADDR_LOOPBACK(&in->sin6_addr)) return;
        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
    } else {
        return;
    }
    note(text);
}

int connect(int fd, const struct sockaddr *a, socklen_t n) {
    look_at(a);
    return NEXT(connect)(fd, a, n);
}

ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *a, socklen_t k) {
    look_at(a);
    return NEXT(sendto)(fd, p, n, flags, a, k);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
    if (m->msg_name) look_at(m->msg_name);
    return NEXT(sendmsg)(fd, m, flags);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    struct in6_addr raw;
    int plain = !host || !strcmp(host, "localhost") || inet_pton(AF_INET, host, &raw) == 1 || inet_pton(AF_INET6, host, &raw) == 1;
    if (!plain) note(host);
    return NEXT(getaddrinfo)(host, service, hints, out);
}
