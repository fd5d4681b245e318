/* send.c - a piece of a file as the body of a request. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "hub/private.h"

#define MAX_ETAG  512
#define MAX_PARTS 16
#define MIN_PART  UINT64_C(100000000)
#define MAX_PART  UINT64_C(1000000000)

/* One request while it runs. */
typedef struct sending {
    lm_piece *p;
    const lm_origin *o;
    EVP_MD_CTX *md5;
    uint64_t summed; /* bytes of the piece, into md5 */
} sending;

static size_t give(void *ctx, uint64_t at, char *out, size_t room) {
    sending *s = ctx;
    lm_piece *p = s->p;
    ssize_t n;
    do n = pread(p->fd, out, room, (off_t)(p->from + at));
    while (n < 0 && errno == EINTR);
    if (n <= 0) return 0;
    /* From its beginning again, where a kept connection turned out to be closed. */
    if (s->md5 && at == 0 && s->summed && !EVP_DigestInit_ex(s->md5, EVP_md5(), NULL)) return 0;
    if (s->md5 && !EVP_DigestUpdate(s->md5, out, (size_t)n)) return 0;
    s->summed = at + (uint64_t)n;
    if (p->f) atomic_store(&p->f->done, p->from + s->summed);
    return (size_t)n;
}

static bool goes_on(void *ctx) {
    const sending *s = ctx;
    return !lm_hub_stopped(s->o);
}

lm_status lm_hub_no_md5(lm_err *err) {
    return lm_fail(err, LM_INTERNAL, "md5, which registries ask for, is not available in this OpenSSL");
}

lm_status lm_hub_send(lm_client *c, const lm_origin *o, const char *method, const char *url,
                      const char *const *headers, lm_piece *p, lm_answer *out, bool *again, uint64_t *wait_ms,
                      lm_err *err) {
    sending s = {.p = p, .o = o};
    unsigned int n = 0;
    if (p->md5) {
        s.md5 = EVP_MD_CTX_new();
        if (!s.md5 || !EVP_DigestInit_ex(s.md5, EVP_md5(), NULL)) {
            EVP_MD_CTX_free(s.md5);
            *out = (lm_answer){0};
            *again = false;
            return lm_hub_no_md5(err);
        }
    }
    lm_ask ask = {.method = method,
                  .url = url,
                  .headers = headers,
                  .send = p->size ? give : NULL,
                  .n_send = p->size,
                  .body = p->size ? (lm_str){0} : LM_STR(""),
                  .silent_ms = LM_HUB_PROCESS_MS,
                  .on_wait = goes_on,
                  .ctx = &s};
    lm_status st = lm_hub_try(c, o, &ask, out, again, wait_ms, err);
    if (s.md5 && !EVP_DigestFinal_ex(s.md5, p->md5, &n)) memset(p->md5, 0, 16);
    EVP_MD_CTX_free(s.md5);
    return st;
}

lm_status lm_hub_put(lm_client *c, const lm_origin *o, const char *url, const char *const *headers,
                     lm_piece *p, char **etag, lm_err *err) {
    for (uint32_t attempt = 1;; attempt++) {
        lm_answer a = {0};
        bool again = false;
        uint64_t wait_ms = 0;
        lm_status st = lm_hub_send(c, o, "PUT", url, headers, p, &a, &again, &wait_ms, err);
        if (st == LM_OK && a.status / 100 != 2) st = lm_hub_not_taken(o, url, &a, err);
        if (st == LM_OK && etag) {
            lm_str v = lm_answer_header(&a, "ETag");
            *etag = v.len && v.len < MAX_ETAG ? lm_str_dup(v) : NULL;
            if (!*etag) st = lm_fail(err, LM_CORRUPT, "%s does not say what it made of a part", url);
        }
        lm_answer_release(&a);
        if (st == LM_OK || !again || attempt == LM_HUB_ATTEMPTS) return st;
        if (!lm_hub_pause(o, attempt, wait_ms)) return lm_fail(err, LM_CANCELLED, "cancelled");
    }
}

lm_status lm_hub_source(const lm_remote *f, int *fd, lm_err *err) {
    *fd = open(f->path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? lm_fail(err, LM_IO, "open %s: %s", f->path, strerror(errno)) : LM_OK;
}

/* What is to go, in the form in which a crew works on it. */
void lm_hub_outgoing(const lm_content *part, lm_remote *out) {
    *out = (lm_remote){.fd = -1, .size = part->size, .path = lm_strdup(part->path)};
    snprintf(out->name, sizeof out->name, "%.200s", part->name);
    snprintf(out->type, sizeof out->type, "%s", part->type);
    memcpy(out->digest, part->digest, sizeof out->digest);
}

uint64_t lm_hub_part_size(uint64_t size) {
    const char *own = getenv("MLX_BRIDGE_PUSH_PART");
    uint64_t given = own ? strtoull(own, NULL, 10) : 0, part = size / MAX_PARTS;
    if (given >= 65536) return given;
    return part < MIN_PART ? MIN_PART : part > MAX_PART ? MAX_PART : part;
}
