/* given.c - listening sockets that somebody else has opened for us.
 *
 * systemd: LISTEN_FDS says how many there are, from file descriptor 3 on, and LISTEN_PID for whom. Source:
 * sd_listen_fds(3). launchd: launch_activate_socket(3).
 */
#include "http/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __APPLE__
#include <launch.h>
#endif

#define FIRST_FD 3

static lm_status of_environment(int *fd, lm_err *err) {
    const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
    bool ours = pid && n && strtoll(pid, NULL, 10) == getpid();
    bool one = ours && strcmp(n, "1") == 0;
    lm_status st = !ours ? lm_fail(err, LM_NOT_FOUND, "no socket is given")
                   : one ? LM_OK
                         : lm_fail(err, LM_INVALID, "LISTEN_FDS is \"%s\": one socket is expected", n);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (st == LM_OK) *fd = FIRST_FD;
    return st;
}

#ifdef __APPLE__
static lm_status of_launchd(const char *name, int *fd, lm_err *err) {
    int *fds = NULL;
    size_t n = 0;
    if (launch_activate_socket(name, &fds, &n)) return lm_fail(err, LM_NOT_FOUND, "no socket is given");
    lm_status st = LM_OK;
    if (n == 1)
        *fd = fds[0];
    else
        st = lm_fail(err, LM_INVALID, "launchd gives %zu sockets called %s: one is expected", n, name);
    free(fds);
    return st;
}
#endif

lm_status lm_listen_given(const char *name, int *fd, lm_err *err) {
    int got = -1;
    lm_status st = of_environment(&got, err);
#ifdef __APPLE__
    if (st == LM_NOT_FOUND) st = of_launchd(name, &got, err);
#else
    (void)name;
#endif
    if (st == LM_OK) *fd = got;
    return st;
}

lm_status lm_listen_address(int fd, char host[64], uint16_t *port, lm_err *err) {
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a, size = sizeof(int);
    int type = 0, listens = 1;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM ||
        getsockname(fd, (struct sockaddr *)&a, &len))
        return lm_fail(err, LM_INVALID, "file descriptor %d is no TCP socket", fd);
#ifdef SO_ACCEPTCONN
    size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size)) listens = 1; /* the system does not say */
#endif
    if (!listens || (a.ss_family != AF_INET && a.ss_family != AF_INET6))
        return lm_fail(err, LM_INVALID, "file descriptor %d is no listening TCP socket", fd);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a;
    bool six = a.ss_family == AF_INET6;
    inet_ntop(a.ss_family, six ? (const void *)&v6->sin6_addr : (const void *)&v4->sin_addr, host, 64);
    *port = ntohs(six ? v6->sin6_port : v4->sin_port);
    return LM_OK;
}
