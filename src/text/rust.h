/* rust.h - the C view of text/rust (staticlib lm_text_rs). Private to text/; everybody else uses text.h.
 *
 * Objects are opaque, immutable once open (a matcher excepted) and free to share between threads. Nothing
 * that Rust allocated is freed by C or the other way round: bytes and ids arrive through a sink during the
 * call. No function unwinds into C: a panic is the code LMR_PANIC.
 */
#ifndef LM_TEXT_RUST_H
#define LM_TEXT_RUST_H

#include "base/base.h"

enum { LMR_OK, LMR_INVALID, LMR_CORRUPT, LMR_UNSUPPORTED, LMR_TOO_LARGE, LMR_PANIC };

/* Where an error text goes: NUL-terminated, at most len bytes. */
typedef struct lmr_err_text {
    char *ptr;
    size_t len;
} lmr_err_text;

typedef void lmr_byte_sink(void *ctx, const uint8_t *bytes, size_t len);
typedef void lmr_id_sink(void *ctx, const uint32_t *ids, size_t n);

/* The status that a code stands for, with the text put into err. */
lm_status lm_rust_status(int code, const char *text, lm_err *err);
lmr_byte_sink lm_rust_to_buf; /* a sink whose ctx is an lm_buf */

/* ---- tokenizer (rust/src/tokenizer.rs) */
typedef struct lmr_tok lmr_tok;

enum { LMR_TOKEN_EXISTS = 1, LMR_TOKEN_SPECIAL = 2, LMR_TOKEN_ADDED = 4 };

/* What each token adds in the middle of a text: bytes[offsets[id] .. offsets[id + 1]). Lives as long as the
 * tokenizer. */
typedef struct lmr_table {
    const uint8_t *bytes;
    const uint32_t *offsets; /* n + 1 */
    const uint8_t *flags;    /* n, LMR_TOKEN_* */
    uint32_t n;
} lmr_table;

int lmr_tok_open(lmr_tok **out, const uint8_t *json, size_t len, lmr_err_text err);
void lmr_tok_close(lmr_tok *tok); /* NULL allowed */
lmr_table lmr_tok_table(const lmr_tok *tok);
int32_t lmr_tok_id(const lmr_tok *tok, const char *token, size_t len); /* -1: none */
int lmr_tok_encode(const lmr_tok *tok, const char *text, size_t len, bool add_special, lmr_id_sink *sink,
                   void *ctx, lmr_err_text err);
/* Negative and unknown ids are left out. */
int lmr_tok_decode(const lmr_tok *tok, const int32_t *ids, size_t n, bool skip_special, lmr_byte_sink *sink,
                   void *ctx, lmr_err_text err);

/* ---- chat template (rust/src/template.rs) */
typedef struct lmr_tmpl lmr_tmpl;

/* strftime of the local time: at most room bytes into out, returns how many; 0 when it cannot. */
typedef size_t lmr_clock(const char *format, char *out, size_t room);

int lmr_tmpl_open(lmr_tmpl **out, const char *source, size_t len, lmr_clock *clock, lmr_err_text err);
void lmr_tmpl_close(lmr_tmpl *tmpl); /* NULL allowed */
int lmr_tmpl_render(const lmr_tmpl *tmpl, const char *context, size_t len, lmr_byte_sink *sink, void *ctx,
                    lmr_err_text err);
bool lmr_tmpl_uses(const lmr_tmpl *tmpl, const char *name, size_t len);

/* ---- grammar (rust/src/grammar.rs) */
typedef struct lmr_grammar lmr_grammar;
typedef struct lmr_matcher lmr_matcher;

int lmr_grammar_open(lmr_grammar **out, const lmr_tok *tok, uint32_t n_vocab, const int32_t *stops,
                     size_t n_stops, lmr_err_text err);
void lmr_grammar_close(lmr_grammar *grammar); /* NULL allowed */
int lmr_matcher_open(lmr_matcher **out, const lmr_grammar *grammar, const char *schema, size_t len,
                     lmr_err_text err);
void lmr_matcher_close(lmr_matcher *matcher); /* NULL allowed */
int lmr_matcher_mask(lmr_matcher *matcher, uint32_t *mask, size_t n_words, lmr_err_text err);
/* A grammar in llguidance's dialect of Lark. */
int lmr_matcher_open_lark(lmr_matcher **out, const lmr_grammar *grammar, const char *text, size_t len,
                          lmr_err_text err);
int lmr_matcher_take(lmr_matcher *matcher, int32_t id, lmr_err_text err);
int lmr_matcher_take_within(lmr_matcher *matcher, int32_t id, uint32_t left, bool *taken, uint32_t *ending,
                            lmr_err_text err);
uint32_t lmr_matcher_ending(lmr_matcher *matcher, uint32_t most);
int lmr_matcher_reset(lmr_matcher *matcher, lmr_err_text err);
int lmr_matcher_feed(lmr_matcher *matcher, const char *text, size_t len, bool *fits, lmr_err_text err);
bool lmr_matcher_done(const lmr_matcher *matcher);
bool lmr_matcher_accepts(lmr_matcher *matcher);

#endif
