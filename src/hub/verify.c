/* verify.c - checksums of a file that was fetched: sha256, and the name that git gives to its content. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "hub/private.h"

#define PIECE (1u << 20)

static void to_hex(const unsigned char *raw, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
}

static lm_status read_all(int fd, const char *path, EVP_MD_CTX *sha256, EVP_MD_CTX *sha1, const lm_origin *o,
                          lm_err *err) {
    char *piece = lm_alloc(PIECE);
    lm_status st = LM_OK;
    for (uint32_t i = 0; st == LM_OK; i++) {
        ssize_t n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = lm_fail(err, LM_IO, "read %s: %s", path, strerror(errno));
        if (n <= 0) break;
        if (!EVP_DigestUpdate(sha256, piece, (size_t)n) || !EVP_DigestUpdate(sha1, piece, (size_t)n))
            st = lm_fail(err, LM_INTERNAL, "sha256 failed");
        if (st == LM_OK && i % 64 == 63 && lm_hub_stopped(o)) st = lm_fail(err, LM_CANCELLED, "cancelled");
    }
    free(piece);
    return st;
}

lm_status lm_hub_hash(const char *path, uint64_t size, const char *oid, char digest[LM_DIGEST_SIZE],
                      const lm_origin *o, lm_err *err) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    char head[64], hex[65];
    EVP_MD_CTX *sha256 = EVP_MD_CTX_new(), *sha1 = EVP_MD_CTX_new();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)size) + 1; /* with its NUL */
    lm_status st = LM_OK;
    if (fd < 0)
        st = lm_fail(err, LM_IO, "open %s: %s", path, strerror(errno));
    else if (!sha256 || !sha1 || !EVP_DigestInit_ex(sha256, EVP_sha256(), NULL) ||
             !EVP_DigestInit_ex(sha1, EVP_sha1(), NULL) || !EVP_DigestUpdate(sha1, head, (size_t)n))
        st = lm_fail(err, LM_INTERNAL, "sha256 or sha1 is not available in this OpenSSL");
    if (st == LM_OK) st = read_all(fd, path, sha256, sha1, o, err);
    if (st == LM_OK && oid[0]) {
        if (!EVP_DigestFinal_ex(sha1, raw, NULL)) st = lm_fail(err, LM_INTERNAL, "sha1 failed");
        to_hex(raw, 20, hex);
        if (st == LM_OK && strcmp(hex, oid))
            st = lm_fail(err, LM_CORRUPT, "digest mismatch, file must be downloaded again: want %s, got %s",
                         oid, hex);
    }
    if (st == LM_OK && !EVP_DigestFinal_ex(sha256, raw, NULL))
        st = lm_fail(err, LM_INTERNAL, "sha256 failed");
    if (st == LM_OK) {
        memcpy(digest, "sha256:", 7);
        to_hex(raw, 32, digest + 7);
    }
    if (fd >= 0) close(fd);
    EVP_MD_CTX_free(sha256);
    EVP_MD_CTX_free(sha1);
    return st;
}

void lm_hub_sha256(lm_str text, char hex[65]) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    int ok = EVP_Digest(text.ptr ? text.ptr : "", text.len, raw, NULL, EVP_sha256(), NULL);
    LM_ASSERT(ok == 1);
    to_hex(raw, 32, hex);
}
