/* HEAD and POST /api/blobs/sha256:HEX: files come here before the create that names them. */
#include <stdlib.h>

#include "api/ollama.h"

#define PIECE (1u << 20) /* bytes taken at a time */

static lm_status read_digest(lm_call *call, char digest[LM_DIGEST_SIZE], lm_err *err) {
    lm_str path = lm_http_path(call->x), prefix = LM_STR("/api/blobs/");
    return lm_digest_parse((lm_str){path.ptr + prefix.len, path.len - prefix.len}, digest, err);
}

void ollama_blob_look(lm_call *call) {
    char digest[LM_DIGEST_SIZE];
    lm_err err = {0};
    lm_status st = read_digest(call, digest, &err);
    if (st == LM_OK && !lm_store_has_blob(call->api->config.store, digest))
        st = lm_fail(&err, LM_NOT_FOUND, "blob \"%s\" not found", digest);
    if (st == LM_OK)
        lm_reply_empty(call, 200);
    else
        ollama_error(call, st, err.text);
}

static lm_status receive(lm_call *call, lm_blob *blob, lm_err *err) {
    char *piece = lm_alloc(PIECE);
    lm_status st = LM_OK;
    for (size_t n = 1; st == LM_OK && n;) {
        st = lm_http_body_read(call->x, piece, PIECE, &n, err);
        if (st == LM_OK) st = lm_blob_write(blob, (lm_str){piece, n}, err);
    }
    free(piece);
    return st;
}

static void upload(lm_call *call, void *arg) {
    char *digest = arg;
    lm_blob *blob = NULL;
    lm_err err = {0};
    uint64_t length = lm_http_body_length(call->x);
    lm_status st = lm_blob_open(&blob, call->api->config.store, length == UINT64_MAX ? 0 : length, &err);
    if (st == LM_OK) st = receive(call, blob, &err);
    if (st == LM_OK) st = lm_blob_commit(blob, digest, &err);
    lm_blob_close(blob);
    if (st == LM_OK)
        lm_reply_empty(call, 201);
    else
        ollama_error(call, st, err.text);
    free(digest);
}

void ollama_blob_upload(lm_call *call) {
    char digest[LM_DIGEST_SIZE];
    lm_err err = {0};
    lm_status st = read_digest(call, digest, &err);
    if (st == LM_OK && lm_store_has_blob(call->api->config.store, digest)) {
        lm_reply_empty(call, 200);
        return;
    }
    char *copy = lm_strdup(digest);
    if (st == LM_OK) st = lm_call_detach(call, upload, copy, &err);
    if (st == LM_OK) return;
    free(copy);
    ollama_error(call, st, err.text);
}
