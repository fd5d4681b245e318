/* raw_client.h - for tests: a client with no manners of its own, over a plain socket. */
#ifndef LM_HTTP_RAW_CLIENT_H
#define LM_HTTP_RAW_CLIENT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/test.h"

#define PATIENCE_MS 20000 /* for things that must happen; far more than they take on a loaded machine */

static inline int dial_port(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) fail_msg("cannot connect");
    return fd;
}

static inline void say(int fd, const char *bytes, size_t len) {
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) return; /* the server may have closed, which the test then sees in what it reads */
        bytes += n;
        len -= (size_t)n;
    }
}

static inline void say_text(int fd, const char *text) {
    say(fd, text, strlen(text));
}

/* Reads until `until` has been seen, or the end when NULL. */
static inline char *hear(int fd, const char *until) {
    lm_buf b;
    lm_buf_init(&b, 64 << 20);
    lm_buf_text(&b, "");
    while (!until || !strstr(b.ptr, until)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, PATIENCE_MS) <= 0) fail_msg("no answer, so far: %s", b.ptr);
        char chunk[4096];
        ssize_t n = recv(fd, chunk, sizeof chunk, 0);
        if (n <= 0) break;
        lm_buf_add(&b, chunk, (size_t)n);
    }
    return lm_buf_take(&b);
}

static inline void expect_text(char *heard, const char *words) {
    if (!strstr(heard, words)) fail_msg("'%s' is not in: %s", words, heard);
    free(heard);
}

static inline void wait_for(const atomic_uint *count, unsigned want) {
    for (int i = 0; i < PATIENCE_MS && atomic_load(count) < want; i++) usleep(1000);
    assert_int_equal(atomic_load(count), want);
}

#endif
