/* SentencePiece's Unigram, as XLM-RoBERTa and its descendants have it: every piece has a log-probability, and
 * text is normalised by a table that SentencePiece compiled (a trie of byte sequences), which tokenizer.json
 * keeps in base64. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "store/import_private.h"

#define CHARSMAP     "tokenizer.ggml.precompiled_charsmap"
#define CHARSMAP_MAX (16u << 20) /* bytes; XLM-RoBERTa's has 240,000 */

static void write_base64(lm_buf *b, const int32_t *bytes, uint32_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint32_t i = 0; i < n; i += 3) {
        uint32_t left = n - i, bits = (uint32_t)(bytes[i] & 0xff) << 16;
        if (left > 1) bits |= (uint32_t)(bytes[i + 1] & 0xff) << 8;
        if (left > 2) bits |= (uint32_t)(bytes[i + 2] & 0xff);
        lm_buf_char(b, digits[bits >> 18]);
        lm_buf_char(b, digits[bits >> 12 & 63]);
        lm_buf_char(b, left > 1 ? digits[bits >> 6 & 63] : '=');
        lm_buf_char(b, left > 2 ? digits[bits & 63] : '=');
    }
}

#define NORMALIZER "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\""

/* Ollama's snowflake-arctic-embed2 has the table in base64 already, a string for each letter. False: it is
 * written otherwise. */
static bool write_letters(lm_buf *b, const lm_gguf *g) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    lm_str *letters = NULL;
    uint32_t n = 0;
    bool ok = lm_gguf_strs(g, CHARSMAP, &letters, &n, NULL) == LM_OK && n > 0 && n % 4 == 0;
    for (uint32_t i = 0; i < n && ok; i++) ok = letters[i].len == 1 && memchr(digits, letters[i].ptr[0], 65);
    if (ok) lm_buf_text(b, NORMALIZER);
    for (uint32_t i = 0; i < n && ok; i++) lm_buf_char(b, letters[i].ptr[0]);
    if (ok) lm_buf_text(b, "\"},\n");
    free(letters);
    return ok;
}

static lm_status write_normalizer(lm_buf *b, const lm_gguf *g, lm_err *err) {
    int32_t *map = NULL; /* the file may call the bytes signed */
    uint32_t n = 0;
    if (write_letters(b, g)) return LM_OK;
    lm_status st = lm_gguf_i32s(g, CHARSMAP, &map, &n, err);
    if (st == LM_OK && n > CHARSMAP_MAX) st = lm_fail(err, LM_CORRUPT, CHARSMAP " has %u bytes", n);
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        if (map[i] < -128 || map[i] > 255)
            st = lm_fail(err, LM_CORRUPT, CHARSMAP " holds %d: not a byte", map[i]);
    }
    if (st == LM_OK && n) {
        lm_buf_text(b, NORMALIZER);
        write_base64(b, map, n);
        lm_buf_text(b, "\"},\n");
    } else if (st == LM_OK) {
        lm_buf_text(b, "\"normalizer\":null,\n");
    }
    free(map);
    return st;
}

/* As exactly as any reader can have it: a rounded score could turn a tie of two cuts. The shortest form would
 * be the same number and takes seconds for 250,000 pieces. */
static void write_score(lm_buf *b, float score) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", (double)score);
    for (char *p = text; *p; p++)
        if (*p == ',') *p = '.'; /* of a locale that the host program set */
    lm_buf_text(b, text);
}

/* A piece's place in the list is its id, so fillers stay in it, but not behind the last piece. */
static lm_status write_pieces(lm_buf *b, const lm_vocab *v, lm_err *err) {
    uint32_t n = v->n;
    while (n && lm_vocab_is_filler(v, n - 1)) n--;
    lm_buf_text(b, "\"vocab\":[");
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(v->scores[i]))
            return lm_fail(err, LM_CORRUPT, "the score of vocabulary piece %u is not a number", i);
        lm_buf_text(b, i ? ",\n[" : "\n[");
        lm_json_write_string(b, v->tokens[i]);
        lm_buf_char(b, ',');
        write_score(b, v->scores[i]);
        lm_buf_char(b, ']');
    }
    lm_buf_text(b, "]}}\n");
    return LM_OK;
}

static bool has_bytes(const lm_vocab *v) {
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->types[i] == LM_TOKEN_BYTE) return true;
    }
    return false;
}

lm_status lm_unigram_write(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    bool prefix = true, squeeze = true;
    v->add_bos = v->bos >= 0;
    v->add_eos = true;
    lm_status st = lm_tokenizer_read_adds(g, v, err);
    if (st == LM_OK) st = lm_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (st == LM_OK) st = lm_gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &squeeze, err);
    if (st == LM_OK && !v->scores) st = lm_fail(err, LM_CORRUPT, "the file has no tokenizer.ggml.scores");
    for (uint32_t i = 0; i < v->n && v->unk < 0; i++) {
        if (v->types[i] == LM_TOKEN_UNKNOWN) v->unk = (int32_t)i;
    }
    if (st == LM_OK && v->unk < 0)
        st = lm_fail(err, LM_CORRUPT, "the file has no tokenizer.ggml.unknown_token_id");
    if (st != LM_OK) return st;
    lm_tokenizer_write_added(b, v);
    st = write_normalizer(b, g, err);
    if (st != LM_OK) return st;
    const char *scheme = prefix ? "always" : "never";
    lm_buf_text(b, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    if (squeeze) lm_buf_text(b, "{\"type\":\"WhitespaceSplit\"},");
    lm_buf_printf(
        b,
        "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"%s\",\"split\":true}]},\n",
        scheme);
    lm_tokenizer_write_template(b, v, "null");
    lm_buf_printf(b,
                  "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"%s\","
                  "\"split\":true},\n",
                  scheme);
    lm_buf_printf(b, "\"model\":{\"type\":\"Unigram\",\"unk_id\":%d,\"byte_fallback\":%s,\n", v->unk,
                  has_bytes(v) ? "true" : "false");
    return write_pieces(b, v, err);
}
