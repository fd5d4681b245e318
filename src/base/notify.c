#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static lm_status address_of(const char *text, struct sockaddr_un *out, socklen_t *len, lm_err *err) {
    size_t n = strlen(text);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((text[0] != '/' && text[0] != '@') || n < 2 || n >= sizeof out->sun_path)
        return lm_fail(err, LM_INVALID, "NOTIFY_SOCKET is \"%s\": it must be a socket's path, or @name",
                       text);
    memcpy(out->sun_path, text, n);
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (text[0] == '/'));
    if (text[0] == '@') out->sun_path[0] = '\0';
    return LM_OK;
}

lm_status lm_notify_send(const char *address, lm_str message, lm_err *err) {
    struct sockaddr_un to;
    socklen_t len = 0;
    lm_status st = address_of(address, &to, &len, err);
    if (st != LM_OK) return st;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) return lm_fail(err, LM_IO, "cannot make a socket: %s", strerror(errno));
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    ssize_t n = sendto(fd, message.ptr, message.len, MSG_DONTWAIT, (struct sockaddr *)&to, len);
    int error = errno;
    close(fd);
    if (n == (ssize_t)message.len) return LM_OK;
    return lm_fail(err, error == EAGAIN || error == ENOBUFS ? LM_BUSY : LM_IO, "cannot notify %s: %s",
                   address, strerror(error));
}

bool lm_notify_next(lm_str *message, lm_str *name, lm_str *value) {
    while (message->len) {
        const char *end = memchr(message->ptr, '\n', message->len);
        lm_str line = {message->ptr, end ? (size_t)(end - message->ptr) : message->len};
        size_t used = end ? line.len + 1 : line.len;
        *message = (lm_str){message->ptr + used, message->len - used};
        const char *eq = line.len ? memchr(line.ptr, '=', line.len) : NULL;
        if (!eq || eq == line.ptr) continue;
        *name = (lm_str){line.ptr, (size_t)(eq - line.ptr)};
        *value = (lm_str){eq + 1, line.len - name->len - 1};
        return true;
    }
    return false;
}

static bool number(const char *text, uint64_t *out) {
    if (!text || !text[0] || strlen(text) > 18 || strspn(text, "0123456789") != strlen(text)) return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

uint64_t lm_notify_watchdog_ns(void) {
    uint64_t usec = 0, pid = 0;
    const char *who = getenv("WATCHDOG_PID");
    if (!number(getenv("WATCHDOG_USEC"), &usec) || usec > UINT64_MAX / 1000) return 0;
    if (who && (!number(who, &pid) || pid != (uint64_t)getpid())) return 0;
    return usec * 1000;
}
