#include "http/private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static lm_status explain(const char *host, uint16_t port, int error, lm_err *err) {
    switch (error) {
    case EADDRINUSE:
        return lm_fail(
            err, LM_IO,
            "port %u on %s is in use by another program (a running Ollama, or another copy of this "
            "server): stop it, or choose another port (--port, or the setting `port`)",
            port, host);
    case EADDRNOTAVAIL:
        return lm_fail(err, LM_IO,
                       "%s is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all of them", host);
    case EACCES:
    case EPERM:
        return lm_fail(
            err, LM_IO,
            "no permission to listen on port %u: choose one above 1023 (--port, or the setting `port`)",
            port);
    default: return lm_fail(err, LM_IO, "cannot listen on %s port %u: %s", host, port, strerror(error));
    }
}

static int try_listen(const struct addrinfo *a) {
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    if (fd < 0) return -errno;
    int on = 1, off = 0;
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
                     sizeof on); /* a restart must not wait for TIME_WAIT */
    if (a->ai_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1024)) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

static uint16_t port_of(int fd) {
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len)) return 0;
    if (a.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

lm_status lm_listen(const char *host, uint16_t port, int *fd, uint16_t *bound, lm_err *err) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    /* Clients take "localhost" for 127.0.0.1 first; so do we. */
    bool localhost = lm_str_eq_nocase(lm_str_of(host), LM_STR("localhost"));
    struct addrinfo hints = {.ai_family = localhost ? AF_INET : AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int code = getaddrinfo(host, service, &hints, &list);
    if (code) {
        return lm_fail(err, LM_IO, "%s is no address that this machine knows (%s): use 127.0.0.1, or 0.0.0.0",
                       host, gai_strerror(code));
    }
    int error = EADDRNOTAVAIL, got = -1;
    for (const struct addrinfo *a = list; a && got < 0; a = a->ai_next) {
        got = try_listen(a);
        if (got < 0) error = -got;
    }
    freeaddrinfo(list);
    if (got < 0) return explain(host, port, error, err);
    *fd = got;
    *bound = port_of(got);
    return LM_OK;
}
