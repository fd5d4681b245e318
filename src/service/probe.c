#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/service.h"

/* Every address means this machine's own here. */
static void to_loopback(struct sockaddr_storage *a) {
    if (a->ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)a;
        if (v4->sin_addr.s_addr == htonl(INADDR_ANY)) v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (a->ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)a;
        if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) v6->sin6_addr = in6addr_loopback;
    }
}

void service_probe_start(service_probe *p, int listen_fd, int64_t limit_ns) {
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    *p = (service_probe){.fd = -1, .until_ns = lm_now_ns() + (uint64_t)limit_ns};
    if (getsockname(listen_fd, (struct sockaddr *)&a, &len)) return;
    to_loopback(&a);
    p->fd = socket(a.ss_family, SOCK_STREAM, 0);
    if (p->fd < 0) return;
    (void)fcntl(p->fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(p->fd, F_SETFL, O_NONBLOCK);
    if (connect(p->fd, (struct sockaddr *)&a, len) && errno != EINPROGRESS) service_probe_stop(p);
}

short service_probe_events(const service_probe *p) {
    return p->sent ? POLLIN : POLLOUT;
}

void service_probe_stop(service_probe *p) {
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
}

static service_verdict end(service_probe *p, service_verdict v, char why[200], const char *text) {
    service_probe_stop(p);
    snprintf(why, 200, "%s", text);
    return v;
}

static service_verdict fails(service_probe *p, int error, char why[200]) {
    if (error == EAGAIN || error == EINTR || error == EINPROGRESS || error == ENOTCONN) return PROBE_RUNS;
    char text[200];
    snprintf(text, sizeof text, "GET /health: %s", strerror(error));
    return end(p, PROBE_ILL, why, text);
}

service_verdict service_probe_go_on(service_probe *p, char why[200]) {
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (p->fd < 0) return end(p, PROBE_ILL, why, "GET /health: no connection can be made");
    if (lm_now_ns() >= p->until_ns) return end(p, PROBE_ILL, why, "GET /health: no answer in time");
    if (!p->sent) {
        int error = 0;
        socklen_t len = sizeof error;
        if (!getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len) && error) return fails(p, error, why);
        if (send(p->fd, request, sizeof request - 1, 0) < 0) return fails(p, errno, why);
        p->sent = true;
    }
    while (p->n < sizeof p->answer - 1) {
        ssize_t n = recv(p->fd, p->answer + p->n, sizeof p->answer - 1 - p->n, 0);
        if (n < 0) return fails(p, errno, why);
        if (n == 0) return end(p, PROBE_ILL, why, "GET /health: the connection ended without an answer");
        p->n += (size_t)n;
    }
    /* "HTTP/1.1 200 OK" */
    if (!strncmp(p->answer, "HTTP/1.", 7) && !strncmp(p->answer + 8, " 200", 4))
        return end(p, PROBE_WELL, why, "");
    char text[200];
    snprintf(text, sizeof text, "GET /health answered \"%.15s\"", p->answer);
    return end(p, PROBE_ILL, why, text);
}
