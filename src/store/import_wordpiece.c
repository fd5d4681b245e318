/* BERT's WordPiece. GGUF keeps the tokens alone: a word's first piece has U+2581 before it, the others
 * nothing, where vocab.txt has nothing and "##"; what is in brackets is a token by itself in both. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "store/import_private.h"

static bool bracketed(lm_str s) {
    return s.len > 2 && s.ptr[0] == '[' && s.ptr[s.len - 1] == ']';
}

/* llama.cpp leaves control tokens as they are, Ollama's converter everything in brackets. */
static bool whole(const lm_vocab *v, uint32_t i) {
    return v->types[i] == LM_TOKEN_CONTROL || bracketed(v->tokens[i]) || lm_vocab_is_filler(v, i);
}

/* Tokens that every model of this kind has; files without token types, or with plain ones, mean them all the
 * same. */
static void mark_controls(lm_vocab *v) {
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (uint32_t i = 0; i < v->n; i++) {
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            if (lm_str_eq(v->tokens[i], lm_str_of(names[k]))) v->types[i] = LM_TOKEN_CONTROL;
        }
    }
}

lm_status lm_wordpiece_restore(lm_vocab *v, lm_err *err) {
    static const lm_str mark = {"\u2581", 3};
    size_t room = 1;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!whole(v, i) && !lm_str_starts(v->tokens[i], mark)) room += v->tokens[i].len + 2;
    }
    v->texts = lm_try_alloc(room, 1);
    if (!v->texts) return lm_fail(err, LM_NO_MEMORY, "no memory for %u tokens", v->n);
    char *at = v->texts;
    for (uint32_t i = 0; i < v->n; i++) {
        lm_str s = v->tokens[i];
        if (whole(v, i)) continue;
        if (lm_str_starts(s, mark)) {
            v->tokens[i] = (lm_str){s.ptr + mark.len, s.len - mark.len};
            continue;
        }
        memcpy(at, "##", 2);
        if (s.len) memcpy(at + 2, s.ptr, s.len);
        v->tokens[i] = (lm_str){at, s.len + 2};
        at += s.len + 2;
    }
    mark_controls(v);
    return LM_OK;
}

/* The file does not say whether text is put into lower case. A vocabulary that was learned from such text has
 * hardly a capital letter (one in Chinese may have some), any other has many: a third of bert-base-cased. */
static bool is_cased(const lm_vocab *v) {
    uint32_t latin = 0, capitals = 0; /* tokens with such a letter */
    for (uint32_t i = 0; i < v->n; i++) {
        lm_str s = v->tokens[i];
        bool any = false, capital = false;
        if (v->types[i] != LM_TOKEN_NORMAL || bracketed(s)) continue;
        for (size_t k = 0; k < s.len; k++) {
            capital = capital || (s.ptr[k] >= 'A' && s.ptr[k] <= 'Z');
            any = any || capital || (s.ptr[k] >= 'a' && s.ptr[k] <= 'z');
        }
        latin += any;
        capitals += capital;
    }
    return capitals > latin / 50;
}

static lm_status write_normalizer(lm_buf *b, const lm_gguf *g, const lm_vocab *v, lm_err *err) {
    static const char strip_key[] = "tokenizer.ggml.normalizer.strip_accents";
    bool lower = !is_cased(v), strip = false;
    lm_status st = lm_gguf_bool(g, "tokenizer.ggml.normalizer.lowercase", &lower, err);
    if (st == LM_OK) st = lm_gguf_bool(g, strip_key, &strip, err);
    lm_buf_printf(
        b,
        "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
        "\"strip_accents\":%s,\"lowercase\":%s},\n",
        !lm_gguf_has(g, strip_key) ? "null"
        : strip                    ? "true"
                                   : "false",
        lower ? "true" : "false");
    return st;
}

lm_status lm_wordpiece_write(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    v->add_bos = v->add_eos = true;
    lm_status st = lm_tokenizer_read_adds(g, v, err);
    if (st == LM_OK && v->unk < 0) st = lm_fail(err, LM_CORRUPT, "the vocabulary has no [UNK]");
    if (st != LM_OK) return st;
    /* llama.cpp and what converts for it mean [SEP] by another key than eos */
    st = lm_gguf_bool(g, "tokenizer.ggml.add_sep_token", &v->add_eos, err);
    if (st != LM_OK) return st;
    lm_tokenizer_write_added(b, v);
    st = write_normalizer(b, g, v, err);
    lm_buf_text(b, "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\n");
    lm_tokenizer_write_template(b, v, "null");
    lm_buf_text(b, "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},\n"
                   "\"model\":{\"type\":\"WordPiece\",\n");
    lm_tokenizer_write_vocab(b, v);
    lm_buf_text(b, "\"unk_token\":");
    lm_json_write_string(b, v->tokens[v->unk]);
    lm_buf_text(b, ",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100}}\n");
    return st;
}
