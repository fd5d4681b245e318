/* ready.h - which of many sockets have something to do: asking costs as much as there are answers, not as there are sockets
 * (poll looks at each of a thousand). epoll on Linux, kqueue on macOS. Private to the room.
 *
 * What is not taken is told again. A socket must be let go of before it is closed.
 *
 * Threads: one at a time.
 */
#ifndef LM_HTTP_READY_H
#define LM_HTTP_READY_H

#include <stdbool.h>
#include <stddef.h>

/* As libcurl's CURL_POLL_* and CURL_CSELECT_*. */
enum { READY_IN = 1, READY_OUT = 2, READY_ERROR = 4 };

typedef struct ready_socket {
    int fd;
    int what; /* READY_*; READY_IN also for an end */
} ready_socket;

/* A descriptor, to be closed with close(2); -1: errno says why. */
int lm_ready_open(void);
/* From now on for this, in place of what was before; 0: not any more. false: errno says why (the system's memory for it is used
 * up), and nothing is told of it. */
bool lm_ready_watch(int ready, int fd, int what);
/* Waits at most so long (-1: for ever) and fills out: how many, 0 for none. */
size_t lm_ready_wait(int ready, int ms, ready_socket *out, size_t room);

#endif
