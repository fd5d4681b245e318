/* The tokenizer behind text.h: the Rust object plus its table of token bytes, which streams read without a
 * call across the border. */
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/private.h"

/* The largest in use (262k tokens, written out with merges) is 33 MB. */
#define MAX_TOKENIZER_BYTES (192u << 20)

struct lm_tokenizer {
    lmr_tok *rust;
    lmr_table table;  /* borrowed from rust */
    uint32_t longest; /* bytes of the longest token */
};

lm_status lm_rust_status(int code, const char *text, lm_err *err) {
    static const lm_status by_code[] = {LM_OK,          LM_INVALID,   LM_CORRUPT,
                                        LM_UNSUPPORTED, LM_TOO_LARGE, LM_INTERNAL};
    if (code == LMR_OK) return LM_OK;
    lm_status st = code > 0 && code <= LMR_PANIC ? by_code[code] : LM_INTERNAL;
    return lm_fail(err, st, "%s", text);
}

void lm_rust_to_buf(void *ctx, const uint8_t *bytes, size_t len) {
    lm_buf_add(ctx, bytes, len);
}

/* ---- token lists ------------------------------------------------------------------------------------------ */

void lm_tokens_release(lm_tokens *t) {
    free(t->ids);
    *t = (lm_tokens){0};
}

lm_status lm_tokens_add(lm_tokens *t, const int32_t *ids, uint32_t n, lm_err *err) {
    if (n > UINT32_MAX / 2 - t->n) return lm_fail(err, LM_NO_MEMORY, "too many tokens");
    if (t->n + n > t->room) {
        uint32_t room = t->room ? t->room : 64;
        while (room < t->n + n) room *= 2;
        int32_t *grown = realloc(t->ids, (size_t)room * sizeof *grown);
        if (!grown) return lm_fail(err, LM_NO_MEMORY, "no memory for %u tokens", room);
        t->ids = grown;
        t->room = room;
    }
    if (n) memcpy(t->ids + t->n, ids, n * sizeof *ids);
    t->n += n;
    return LM_OK;
}

/* ---- tokenizer -------------------------------------------------------------------------------------------- */

lm_status lm_tokenizer_open(lm_tokenizer **out, const char *dir, lm_err *err) {
    char text[400] = "";
    lm_map map = {0};
    lmr_tok *rust = NULL;
    char *path = lm_path_join(dir, "tokenizer.json");

    lm_status st = lm_map_open(&map, path, err);
    if (st != LM_OK) goto done;
    if (map.size > MAX_TOKENIZER_BYTES) {
        st = lm_fail(err, LM_CORRUPT, "%s is larger than %u MB", path, MAX_TOKENIZER_BYTES >> 20);
        goto done;
    }
    st =
        lm_rust_status(lmr_tok_open(&rust, map.data, map.size, (lmr_err_text){text, sizeof text}), text, err);
    if (st != LM_OK) {
        st = lm_fail_in(err, st, "%s", dir);
        goto done;
    }
    lm_tokenizer *t = lm_alloc(sizeof *t);
    t->rust = rust;
    t->table = lmr_tok_table(rust);
    for (uint32_t i = 0; i < t->table.n; i++) {
        uint32_t n = t->table.offsets[i + 1] - t->table.offsets[i];
        if (n > t->longest) t->longest = n;
    }
    *out = t;
done:
    lm_map_close(&map);
    free(path);
    return st;
}

void lm_tokenizer_close(lm_tokenizer *t) {
    if (!t) return;
    lmr_tok_close(t->rust);
    free(t);
}

/* Collects ids; the first failure is kept, since a sink cannot stop its caller. */
struct id_collector {
    lm_tokens *out;
    lm_err *err;
    lm_status st;
};

static void collect_ids(void *ctx, const uint32_t *ids, size_t n) {
    struct id_collector *c = ctx;
    if (c->st != LM_OK) return;
    if (n > UINT32_MAX / 2) {
        c->st = lm_fail(c->err, LM_NO_MEMORY, "too many tokens");
        return;
    }
    /* Ids are below 2^22, so they are the same number with a sign. */
    c->st = lm_tokens_add(c->out, (const int32_t *)ids, (uint32_t)n, c->err);
}

lm_status lm_tokenizer_encode(const lm_tokenizer *t, lm_str text, bool add_special, lm_tokens *out,
                              lm_err *err) {
    char message[400] = "";
    struct id_collector c = {out, err, LM_OK};
    int code = lmr_tok_encode(t->rust, text.ptr, text.len, add_special, collect_ids, &c,
                              (lmr_err_text){message, sizeof message});
    lm_status st = lm_rust_status(code, message, err);
    return st != LM_OK ? st : c.st;
}

lm_status lm_tokenizer_decode(const lm_tokenizer *t, const int32_t *ids, uint32_t n, bool skip_special,
                              lm_buf *out, lm_err *err) {
    char message[400] = "";
    int code = lmr_tok_decode(t->rust, ids, n, skip_special, lm_rust_to_buf, out,
                              (lmr_err_text){message, sizeof message});
    lm_status st = lm_rust_status(code, message, err);
    return st != LM_OK ? st : lm_buf_status(out, "decoded text", err);
}

lm_str lm_tokenizer_bytes(const lm_tokenizer *t, int32_t id) {
    if (id < 0 || (uint32_t)id >= t->table.n) return (lm_str){0};
    uint32_t from = t->table.offsets[id], to = t->table.offsets[id + 1];
    return (lm_str){(const char *)t->table.bytes + from, to - from};
}

bool lm_tokenizer_is_special(const lm_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->table.n && (t->table.flags[id] & LMR_TOKEN_SPECIAL);
}

bool lm_tokenizer_is_added(const lm_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->table.n && (t->table.flags[id] & LMR_TOKEN_ADDED);
}

int32_t lm_tokenizer_id(const lm_tokenizer *t, lm_str token) {
    return lmr_tok_id(t->rust, token.ptr, token.len);
}

uint32_t lm_tokenizer_size(const lm_tokenizer *t) {
    return t->table.n;
}

uint32_t lm_tokenizer_longest(const lm_tokenizer *t) {
    return t->longest;
}

const lmr_tok *lm_tokenizer_rust(const lm_tokenizer *t) {
    return t->rust;
}
