#include "cluster/frame.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: the program ignores SIGPIPE */
#endif

#define MAGIC   0x6b6e6c6du /* "mlnk" */
#define VERSION 1u

static void put_u32(uint8_t *to, uint32_t n) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(n >> 8 * i);
}

static uint32_t get_u32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

lm_status lm_frame_parse(lm_str bytes, size_t max, lm_frame *out, lm_err *err) {
    *out = (lm_frame){0};
    if (bytes.len < LM_FRAME_HEAD) return LM_OK;
    const uint8_t *head = (const uint8_t *)bytes.ptr;
    uint32_t n = get_u32(head);
    if (n > max) return lm_fail(err, LM_CORRUPT, "a frame of %u bytes, %zu are allowed", n, max);
    if (head[4] < LM_LINK_HELLO || head[4] > LM_LINK_BYE)
        return lm_fail(err, LM_CORRUPT, "a frame of kind %u", head[4]);
    if (bytes.len - LM_FRAME_HEAD < n) return LM_OK;
    *out = (lm_frame){
        .kind = head[4], .body = {bytes.ptr + LM_FRAME_HEAD, n}, .total = LM_FRAME_HEAD + (size_t)n};
    return LM_OK;
}

/* Until fd is ready or the time is over. */
static lm_status wait_for(int fd, short events, uint64_t deadline_ns, lm_err *err) {
    for (;;) {
        uint64_t now = lm_now_ns();
        if (now >= deadline_ns) return lm_fail(err, LM_TIMEOUT, "the other side is silent");
        struct pollfd p = {.fd = fd, .events = events};
        uint64_t ms = (deadline_ns - now) / 1000000 + 1;
        int n = poll(&p, 1, ms > 60000 ? 60000 : (int)ms);
        if (n > 0) return LM_OK;
        if (n < 0 && errno != EINTR) return lm_fail(err, LM_IO, "poll: %s", strerror(errno));
    }
}

static lm_status send_all(int fd, const uint8_t *from, size_t n, uint64_t deadline_ns, lm_err *err) {
    while (n) {
        ssize_t sent = send(fd, from, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            from += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            lm_status st = wait_for(fd, POLLOUT, deadline_ns, err);
            if (st != LM_OK) return st;
        } else if (errno != EINTR) {
            return lm_fail(err, LM_IO, "the connection broke: %s", strerror(errno));
        }
    }
    return LM_OK;
}

lm_status lm_frame_send(int fd, lm_frame_type kind, const void *body, size_t n, uint64_t deadline_ns,
                        lm_err *err) {
    uint8_t small[512];
    put_u32(small, (uint32_t)n);
    small[4] = (uint8_t)kind;
    if (n <= sizeof small - LM_FRAME_HEAD) { /* one packet */
        if (n) memcpy(small + LM_FRAME_HEAD, body, n);
        return send_all(fd, small, LM_FRAME_HEAD + n, deadline_ns, err);
    }
    lm_status st = send_all(fd, small, LM_FRAME_HEAD, deadline_ns, err);
    return st == LM_OK ? send_all(fd, body, n, deadline_ns, err) : st;
}

lm_status lm_frame_expect(int fd, lm_frame_type kind, void *body, size_t n, uint64_t deadline_ns,
                          lm_err *err) {
    uint8_t bytes[LM_FRAME_HEAD + LM_MAX_HANDSHAKE];
    size_t have = 0;
    LM_ASSERT(n <= LM_MAX_HANDSHAKE);
    while (have < LM_FRAME_HEAD + n) {
        lm_status st = wait_for(fd, POLLIN, deadline_ns, err);
        if (st != LM_OK) return st;
        ssize_t got = recv(fd, bytes + have, LM_FRAME_HEAD + n - have, 0);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0) return lm_fail(err, LM_IO, "the other side closed the connection");
        have += (size_t)got;
        /* As soon as it is known: whoever sends something else is not kept listening. */
        if (have >= LM_FRAME_HEAD && (get_u32(bytes) != n || bytes[4] != kind))
            return lm_fail(err, LM_INVALID, "what it says is not what one of our programs says");
    }
    if (n) memcpy(body, bytes + LM_FRAME_HEAD, n);
    return LM_OK;
}

/* ---- who knows the secret
 *
 * proof(side) = HMAC-SHA256(secret, side | nonce of rank 0 | nonce of the other | rank | size) */

static lm_status prove(const char *secret, char side, const uint8_t *zero, const uint8_t *other,
                       uint32_t rank, uint32_t size, uint8_t out[LM_PROOF], lm_err *err) {
    uint8_t text[1 + 2 * LM_NONCE + 8];
    unsigned n = 0;
    text[0] = (uint8_t)side;
    memcpy(text + 1, zero, LM_NONCE);
    memcpy(text + 1 + LM_NONCE, other, LM_NONCE);
    put_u32(text + 1 + 2 * LM_NONCE, rank);
    put_u32(text + 5 + 2 * LM_NONCE, size);
    if (!HMAC(EVP_sha256(), secret, (int)strlen(secret), text, sizeof text, out, &n) || n != LM_PROOF)
        return lm_fail(err, LM_INTERNAL, "libcrypto gives no HMAC-SHA256");
    return LM_OK;
}

static lm_status random_bytes(uint8_t *out, size_t n, lm_err *err) {
    return RAND_bytes(out, (int)n) == 1 ? LM_OK : lm_fail(err, LM_IO, "the system gives no random numbers");
}

lm_status lm_link_secret(char out[65], lm_err *err) {
    uint8_t raw[32];
    lm_status st = random_bytes(raw, sizeof raw, err);
    for (size_t i = 0; i < sizeof raw && st == LM_OK; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return st;
}

lm_status lm_handshake_accept(int fd, const char *secret, uint32_t size, uint32_t *rank, lm_err *err) {
    uint64_t end = lm_now_ns() + LM_LINK_PATIENCE_NS;
    uint8_t hello[12 + LM_NONCE], mine[LM_NONCE + LM_PROOF], proof[LM_PROOF], want[LM_PROOF], welcome[4];
    lm_status st = lm_frame_expect(fd, LM_LINK_HELLO, hello, sizeof hello, end, err);
    if (st != LM_OK) return st;
    uint32_t r = get_u32(hello + 8);
    if (get_u32(hello) != MAGIC || get_u32(hello + 4) != VERSION)
        return lm_fail(err, LM_INVALID, "it is not one of our programs, or another version");
    if (r == 0 || r >= size) return lm_fail(err, LM_INVALID, "it says that it is rank %u of %u", r, size);
    st = random_bytes(mine, LM_NONCE, err);
    if (st == LM_OK) st = prove(secret, '0', mine, hello + 12, r, size, mine + LM_NONCE, err);
    if (st == LM_OK) st = lm_frame_send(fd, LM_LINK_CHALLENGE, mine, sizeof mine, end, err);
    if (st == LM_OK) st = lm_frame_expect(fd, LM_LINK_PROOF, proof, sizeof proof, end, err);
    if (st == LM_OK) st = prove(secret, '1', mine, hello + 12, r, size, want, err);
    if (st != LM_OK) return st;
    if (CRYPTO_memcmp(proof, want, sizeof want))
        return lm_fail(err, LM_DENIED, "it does not know the secret");
    put_u32(welcome, size);
    st = lm_frame_send(fd, LM_LINK_WELCOME, welcome, sizeof welcome, end, err);
    if (st == LM_OK) *rank = r;
    return st;
}

lm_status lm_handshake_join(int fd, const char *secret, uint32_t rank, uint32_t size, lm_err *err) {
    uint64_t end = lm_now_ns() + LM_LINK_PATIENCE_NS;
    uint8_t hello[12 + LM_NONCE], zero[LM_NONCE + LM_PROOF], proof[LM_PROOF], welcome[4];
    put_u32(hello, MAGIC);
    put_u32(hello + 4, VERSION);
    put_u32(hello + 8, rank);
    lm_status st = random_bytes(hello + 12, LM_NONCE, err);
    if (st == LM_OK) st = lm_frame_send(fd, LM_LINK_HELLO, hello, sizeof hello, end, err);
    if (st == LM_OK) st = lm_frame_expect(fd, LM_LINK_CHALLENGE, zero, sizeof zero, end, err);
    if (st == LM_OK) st = prove(secret, '0', zero, hello + 12, rank, size, proof, err);
    if (st != LM_OK) return st;
    if (CRYPTO_memcmp(zero + LM_NONCE, proof, sizeof proof))
        return lm_fail(err, LM_DENIED, "rank 0 has another secret or another number of ranks");
    st = prove(secret, '1', zero, hello + 12, rank, size, proof, err);
    if (st == LM_OK) st = lm_frame_send(fd, LM_LINK_PROOF, proof, sizeof proof, end, err);
    if (st == LM_OK) st = lm_frame_expect(fd, LM_LINK_WELCOME, welcome, sizeof welcome, end, err);
    if (st == LM_OK && get_u32(welcome) != size)
        st = lm_fail(err, LM_INVALID, "rank 0 knows %u ranks", get_u32(welcome));
    return st;
}
