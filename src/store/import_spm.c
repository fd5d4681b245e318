/* A SentencePiece vocabulary keeps a score for each piece and no merges; tokenizer.json wants merges. Every
 * way to cut a piece into two others is a merge; they rank by the piece's score, then by the longer left
 * part, then by the longer right part, then by id: the order that transformers' converter gives them. */
#include "store/import_private.h"

#include <math.h>
#include <stdlib.h>

#include "base/json.h"

#define PIECE_MAX  512 /* bytes; the longest real ones have 93 */
#define MERGES_MAX (16u << 20)

typedef struct merge {
    float score;
    uint32_t left_chars, right_chars;
    int32_t piece, left, right;
} merge;

static int rank(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

static uint32_t chars(lm_str s) {
    uint32_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((uint8_t)s.ptr[i] & 0xc0) != 0x80;
    return n;
}

typedef struct merges {
    merge *items;
    uint32_t n, room;
} merges;

static lm_status add(merges *m, merge one, lm_err *err) {
    if (m->n == m->room) {
        uint32_t room = m->room ? 2 * m->room : 65536;
        if (room > MERGES_MAX)
            return lm_fail(err, LM_CORRUPT, "the vocabulary implies more than %u merges", MERGES_MAX);
        merge *grown = realloc(m->items, room * sizeof *grown);
        if (!grown) return lm_fail(err, LM_NO_MEMORY, "no memory for %u merges", room);
        m->items = grown;
        m->room = room;
    }
    m->items[m->n++] = one;
    return LM_OK;
}

static lm_status cuts_of(const lm_vocab *v, int32_t piece, merges *m, lm_err *err) {
    lm_str s = v->tokens[piece];
    if (s.len > PIECE_MAX) return lm_fail(err, LM_CORRUPT, "vocabulary piece %d has %zu bytes", piece, s.len);
    if (!isfinite(v->scores[piece]))
        return lm_fail(err, LM_CORRUPT, "the score of vocabulary piece %d is not a number", piece);
    for (size_t cut = 1; cut < s.len; cut++) {
        if (((uint8_t)s.ptr[cut] & 0xc0) == 0x80) continue; /* inside a character */
        lm_str l = {s.ptr, cut}, r = {s.ptr + cut, s.len - cut};
        int32_t left = lm_vocab_find(v, l);
        int32_t right = left < 0 || v->types[left] != LM_TOKEN_NORMAL ? -1 : lm_vocab_find(v, r);
        if (right < 0 || v->types[right] != LM_TOKEN_NORMAL) continue;
        lm_status st = add(m, (merge){v->scores[piece], chars(l), chars(r), piece, left, right}, err);
        if (st != LM_OK) return st;
    }
    return LM_OK;
}

lm_status lm_spm_merges(const lm_vocab *v, lm_buf *b, lm_err *err) {
    merges m = {NULL, 0, 0};
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < v->n && st == LM_OK; i++) {
        if (v->types[i] == LM_TOKEN_NORMAL) st = cuts_of(v, (int32_t)i, &m, err);
    }
    if (m.n) qsort(m.items, m.n, sizeof *m.items, rank);
    for (uint32_t i = 0; i < m.n && st == LM_OK; i++) {
        lm_buf_text(b, i ? ",\n[" : "\n[");
        lm_json_write_string(b, v->tokens[m.items[i].left]);
        lm_buf_char(b, ',');
        lm_json_write_string(b, v->tokens[m.items[i].right]);
        lm_buf_char(b, ']');
    }
    free(m.items);
    return st;
}
