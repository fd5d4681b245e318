#include "http/private.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- small parts */

pair *lm_pair_new(pair *next, const char *key, size_t key_len, const char *value, size_t value_len) {
    pair *p = lm_alloc(sizeof *p + key_len + value_len + 2);
    if (key_len) memcpy(p->bytes, key, key_len);
    if (value_len) memcpy(p->bytes + key_len + 1, value, value_len);
    p->key = (lm_str){p->bytes, key_len};
    p->value = (lm_str){p->bytes + key_len + 1, value_len};
    p->next = next;
    return p;
}

void lm_pair_free(pair *list) {
    while (list) {
        pair *next = list->next;
        free(list);
        list = next;
    }
}

const pair *lm_pair_find(const pair *list, const char *key, bool nocase) {
    lm_str k = lm_str_of(key);
    for (; list; list = list->next)
        if (nocase ? lm_str_eq_nocase(list->key, k) : lm_str_eq(list->key, k)) return list;
    return NULL;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

size_t lm_percent_decode(char *s, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '%' && i + 2 < len && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0) {
            s[n++] = (char)(hex(s[i + 1]) * 16 + hex(s[i + 2]));
            i += 2;
        } else {
            s[n++] = s[i];
        }
    }
    return n;
}

void lm_percent_encode(lm_buf *out, lm_str s, const char *plain) {
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            (c && strchr(plain, c)))
            lm_buf_char(out, (char)c);
        else
            lm_buf_add(out, (char[]){'%', digits[c >> 4], digits[c & 15]}, 3);
    }
}

static enum MHD_Result keep_header(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_len,
                                   const char *value, size_t value_len) {
    (void)kind;
    lm_http *x = ctx;
    x->headers = lm_pair_new(x->headers, key, key_len, value, value_len);
    return MHD_YES;
}

static enum MHD_Result keep_query(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_len,
                                  const char *value, size_t value_len) {
    (void)kind;
    lm_http *x = ctx;
    pair *p = lm_pair_new(x->query, key, key_len, value, value_len);
    p->key.len = lm_percent_decode(p->bytes, key_len);
    p->value.len = lm_percent_decode(p->bytes + key_len + 1, value_len);
    x->query = p;
    return MHD_YES;
}

/* A client behind a proxy setting sends the absolute form: http://host:port/path. */
static const char *path_of(const char *url) {
    if (strncmp(url, "http://", 7)) return url;
    const char *slash = strchr(url + 7, '/');
    return slash ? slash : "/";
}

lm_http *lm_exchange_new(lm_server *s, struct MHD_Connection *c, const char *url, const char *method) {
    lm_http *x = lm_alloc(sizeof *x);
    x->server = s;
    x->refs = 1;
    x->connection = c;
    x->started_ns = lm_now_ns();
    x->method = lm_strdup(method);
    x->head = !strcmp(method, "HEAD");
    x->path = lm_strdup(path_of(url));
    x->path_len = lm_percent_decode(x->path, strlen(x->path));
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->input, NULL);
    lm_buf_init(&x->out, (size_t)s->config.max_backlog);

    MHD_get_connection_values_n(c, MHD_HEADER_KIND, keep_header, x);
    MHD_get_connection_values_n(c, MHD_GET_ARGUMENT_KIND, keep_query, x);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    x->fd = info ? info->connect_fd : -1;
    info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr) {
        socklen_t len = info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                                 : sizeof(struct sockaddr_in);
        if (getnameinfo(info->client_addr, len, x->peer, sizeof x->peer, NULL, 0, NI_NUMERICHOST))
            x->peer[0] = '\0';
    }
    return x;
}

static void exchange_free(lm_http *x) {
    lm_pair_free(x->headers);
    lm_pair_free(x->query);
    lm_pair_free(x->answer_headers);
    free(x->content_type);
    free(x->method);
    free(x->path);
    free(x->body);
    free(x->in);
    lm_buf_release(&x->out);
    pthread_cond_destroy(&x->input);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- references */

lm_http *lm_http_ref(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    LM_ASSERT(x->refs > 0);
    x->refs++;
    pthread_mutex_unlock(&x->lock);
    return x;
}

void lm_exchange_wake(lm_http *x) {
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
}

static size_t waiting(const lm_http *x) {
    return x->streaming && !x->gone && !x->over ? x->out.len - x->out_read : 0;
}

due lm_exchange_room(lm_http *x) {
    due d = {0};
    if (x->on_room && (x->gone || x->over || waiting(x) < x->room_below)) {
        d = (due){x->on_room, x->on_room_ctx};
        x->on_room = NULL;
    }
    return d;
}

void lm_exchange_tell(lm_http *x) {
    if (x->streamed) pthread_cond_broadcast(&x->input);
}

/* x->lock is held. A connection that is waiting for its socket is not ours to resume: closing both halves
 * makes libmicrohttpd see the end at once instead of after its idle timeout. */
static void cut(lm_http *x) {
    x->gone = true;
    lm_exchange_tell(x);
    if (!x->connection) return;
    if (!x->suspended) shutdown(x->fd, SHUT_RDWR);
    lm_exchange_wake(x);
}

static void answer(lm_http *x, int status, const char *content_type) {
    x->answered = true;
    x->status = status;
    if (content_type) x->content_type = lm_strdup(content_type);
}

void lm_http_unref(lm_http *x) {
    if (!x) return;
    pthread_mutex_lock(&x->lock);
    LM_ASSERT(x->refs > 0);
    uint32_t left = --x->refs;
    /* Only the server still knows this exchange: nobody is left who could answer or end it. */
    if (left == 1 && !x->over && x->handed) {
        if (!x->answered) {
            answer(x, 500, "application/json; charset=utf-8");
            lm_buf_text(&x->out, "{\"error\":\"the request was dropped without an answer\"}");
            x->ended = true;
            lm_exchange_wake(x);
        } else if (x->streaming && !x->ended) {
            cut(x);
        }
    }
    pthread_mutex_unlock(&x->lock);
    if (left == 0) exchange_free(x);
}

/* ---- the request */

lm_str lm_http_method(const lm_http *x) {
    return lm_str_of(x->method);
}

lm_str lm_http_path(const lm_http *x) {
    return (lm_str){x->path, x->path_len};
}

static lm_str value_of(const pair *p) {
    return p ? p->value : (lm_str){0};
}

lm_str lm_http_query(const lm_http *x, const char *key) {
    return value_of(lm_pair_find(x->query, key, false));
}

/* The list has the last one first. */
void lm_http_write_query(const lm_http *x, lm_buf *out) {
    size_t n = 0;
    for (const pair *p = x->query; p; p = p->next) n++;
    if (!n) return;
    const pair **all = lm_alloc(n * sizeof(const pair *));
    size_t at = n;
    for (const pair *p = x->query; p; p = p->next) all[--at] = p;
    for (size_t i = 0; i < n; i++) {
        if (i) lm_buf_char(out, '&');
        lm_percent_encode(out, all[i]->key, "-._~/:@");
        lm_buf_char(out, '=');
        lm_percent_encode(out, all[i]->value, "-._~/:@");
    }
    free(all);
}

lm_str lm_http_header(const lm_http *x, const char *name) {
    return value_of(lm_pair_find(x->headers, name, true));
}

lm_str lm_http_body(const lm_http *x) {
    return (lm_str){(const char *)x->body, x->body_len};
}

lm_status lm_http_body_status(const lm_http *x, lm_err *err) {
    switch (x->body_status) {
    case LM_OK: return LM_OK;
    case LM_TOO_LARGE:
        return lm_fail(err, LM_TOO_LARGE, "request body is larger than %llu bytes",
                       (unsigned long long)x->server->config.max_body);
    default:
        return lm_fail(err, x->body_status, "no memory for the request body, try again when others are done");
    }
}

void lm_http_body_drop(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    free(x->body);
    if (x->connection) atomic_fetch_sub(&x->server->bodies, x->body_room);
    x->body = NULL;
    x->body_len = x->body_room = 0;
    pthread_mutex_unlock(&x->lock);
}

uint64_t lm_announced(const lm_http *x, bool *waits) {
    const pair *length = lm_pair_find(x->headers, "Content-Length", true);
    *waits = lm_pair_find(x->headers, "Expect", true) != NULL;
    return length ? strtoull(length->value.ptr, NULL, 10) : UINT64_MAX;
}

uint64_t lm_http_body_length(const lm_http *x) {
    bool waits;
    return lm_announced(x, &waits);
}

lm_status lm_http_body_read(lm_http *x, void *bytes, size_t room, size_t *n, lm_err *err) {
    lm_status st = LM_OK;
    LM_ASSERT(x->streamed && room);
    pthread_mutex_lock(&x->lock);
    x->in_wanted = true;
    while (x->in_at == x->in_end && !x->in_done && !x->gone && !x->over) {
        lm_exchange_wake(x);
        pthread_cond_wait(&x->input, &x->lock);
    }
    size_t take = x->in_end - x->in_at;
    if (take == 0 && !x->in_done) {
        st = lm_fail(err, LM_CANCELLED, "the client left before the end of the body");
    } else {
        if (take > room) take = room;
        if (take) memcpy(bytes, x->in + x->in_at, take);
        x->in_at += take;
        *n = take;
    }
    pthread_mutex_unlock(&x->lock);
    return st;
}

lm_str lm_http_peer(const lm_http *x) {
    return lm_str_of(x->peer);
}

uint64_t lm_http_started_ns(const lm_http *x) {
    return x->started_ns;
}

/* ---- the answer */

void lm_http_set_header(lm_http *x, const char *name, const char *value) {
    pthread_mutex_lock(&x->lock);
    if (!x->answered && x->n_answer_headers < MAX_ANSWER_HEADERS) {
        x->answer_headers = lm_pair_new(x->answer_headers, name, strlen(name), value, strlen(value));
        x->n_answer_headers++;
    }
    pthread_mutex_unlock(&x->lock);
}

void lm_http_reply(lm_http *x, int status, const char *content_type, lm_str body) {
    pthread_mutex_lock(&x->lock);
    if (!x->answered) {
        answer(x, status, content_type);
        /* The cap is for streams; an answer that exists as a whole may be as large as it is. */
        x->out.cap = SIZE_MAX / 2;
        lm_buf_str(&x->out, body);
        if (x->out.failed) {
            lm_buf_release(&x->out);
            lm_buf_text(&x->out, "{\"error\":\"not enough memory for the answer\"}");
            x->status = 500;
        }
        x->ended = true;
        lm_exchange_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}

void lm_http_stream(lm_http *x, int status, const char *content_type) {
    pthread_mutex_lock(&x->lock);
    if (!x->answered) {
        answer(x, status, content_type);
        x->streaming = true;
    }
    pthread_mutex_unlock(&x->lock);
}

lm_status lm_http_write(lm_http *x, lm_str bytes) {
    lm_status st = LM_OK;
    pthread_mutex_lock(&x->lock);
    LM_ASSERT(x->streaming && !x->ended);
    if (x->gone || x->over) {
        st = LM_CANCELLED;
        goto done;
    }
    if (x->head || bytes.len == 0) goto done;
    /* Take the bytes that have been sent out of the way first, so that the buffer's size follows what waits.
     */
    if (x->out_read && x->out_read >= x->out.len / 2) {
        memmove(x->out.ptr, x->out.ptr + x->out_read, x->out.len - x->out_read);
        x->out.len -= x->out_read;
        x->out_read = 0;
    }
    lm_buf_str(&x->out, bytes);
    if (x->out.failed) {
        x->too_slow = true;
        cut(x);
        st = LM_TOO_LARGE;
        goto done;
    }
    lm_exchange_wake(x);
done:
    pthread_mutex_unlock(&x->lock);
    return st;
}

void lm_http_end(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    LM_ASSERT(x->streaming);
    x->ended = true;
    lm_exchange_wake(x);
    pthread_mutex_unlock(&x->lock);
}

void lm_http_cut(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    if (!x->over) cut(x);
    pthread_mutex_unlock(&x->lock);
}

void lm_http_on_end(lm_http *x, void (*cb)(void *ctx, bool gone), void *ctx) {
    pthread_mutex_lock(&x->lock);
    bool over = x->over, gone = x->gone;
    if (!over) {
        LM_ASSERT(!x->on_end);
        x->on_end = cb;
        x->on_end_ctx = ctx;
    }
    pthread_mutex_unlock(&x->lock);
    if (over) cb(ctx, gone);
}

size_t lm_http_waiting(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    size_t n = waiting(x);
    pthread_mutex_unlock(&x->lock);
    return n;
}

bool lm_http_on_room(lm_http *x, size_t below, void (*cb)(void *ctx), void *ctx) {
    pthread_mutex_lock(&x->lock);
    bool taken = !x->on_room;
    due d = {0};
    if (taken) {
        x->on_room = cb;
        x->on_room_ctx = ctx;
        x->room_below = below;
        d = lm_exchange_room(x);
    }
    pthread_mutex_unlock(&x->lock);
    if (d.run) d.run(d.ctx);
    return taken;
}

bool lm_http_gone(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

bool lm_http_too_slow(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    bool too_slow = x->too_slow;
    pthread_mutex_unlock(&x->lock);
    return too_slow;
}

int lm_http_status(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    int status = x->status;
    pthread_mutex_unlock(&x->lock);
    return status;
}

uint64_t lm_http_bytes_out(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    uint64_t n = x->bytes_out;
    pthread_mutex_unlock(&x->lock);
    return n;
}
