#include "http/ready.h"

#include <errno.h>

enum { AT_ONCE = 256 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

#ifdef __linux__
#include <sys/epoll.h>

int lm_ready_open(void) {
    return epoll_create1(EPOLL_CLOEXEC);
}

bool lm_ready_watch(int ready, int fd, int what) {
    struct epoll_event e = {.data.fd = fd};
    if (!what) {
        (void)epoll_ctl(ready, EPOLL_CTL_DEL, fd, &e); /* fails when there was nothing to end */
        return true;
    }
    e.events = (what & READY_IN ? (uint32_t)EPOLLIN : 0) | (what & READY_OUT ? (uint32_t)EPOLLOUT : 0);
    if (!epoll_ctl(ready, EPOLL_CTL_MOD, fd, &e)) return true;
    return errno == ENOENT && !epoll_ctl(ready, EPOLL_CTL_ADD, fd, &e);
}

size_t lm_ready_wait(int ready, int ms, ready_socket *out, size_t room) {
    struct epoll_event list[AT_ONCE];
    int n = epoll_wait(ready, list, (int)least(room, AT_ONCE), ms);
    for (int i = 0; i < n; i++) {
        uint32_t e = list[i].events;
        out[i] = (ready_socket){list[i].data.fd, (e & (EPOLLIN | EPOLLHUP) ? READY_IN : 0) |
                                                     (e & EPOLLOUT ? READY_OUT : 0) |
                                                     (e & EPOLLERR ? READY_ERROR : 0)};
    }
    return n > 0 ? (size_t)n : 0;
}

#else
#include <fcntl.h>
#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

int lm_ready_open(void) {
    int fd = kqueue();
    if (fd >= 0) (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static bool change(int ready, int fd, short filter, bool wanted) {
    struct kevent e;
    EV_SET(&e, (uintptr_t)fd, filter, wanted ? EV_ADD : EV_DELETE, 0, 0, NULL);
    return kevent(ready, &e, 1, NULL, 0, NULL) >= 0 ||
           !wanted; /* ending fails when there was nothing to end */
}

bool lm_ready_watch(int ready, int fd, int what) {
    bool in = change(ready, fd, EVFILT_READ, what & READY_IN);
    return change(ready, fd, EVFILT_WRITE, what & READY_OUT) && in;
}

size_t lm_ready_wait(int ready, int ms, ready_socket *out, size_t room) {
    struct kevent list[AT_ONCE];
    struct timespec limit = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    int n = kevent(ready, NULL, 0, list, (int)least(room, AT_ONCE), ms < 0 ? NULL : &limit);
    for (int i = 0; i < n; i++)
        out[i] = (ready_socket){(int)list[i].ident, (list[i].filter == EVFILT_READ ? READY_IN : READY_OUT) |
                                                        (list[i].flags & EV_ERROR ? READY_ERROR : 0)};
    return n > 0 ? (size_t)n : 0;
}
#endif
