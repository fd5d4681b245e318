/* Grammars behind text.h: thin, the work is in Rust. */
#include <stdlib.h>

#include "base/json.h"
#include "text/private.h"

#define MAX_SCHEMA ((size_t)64 << 20)

struct lm_grammar_factory {
    lmr_grammar *rust;
};

struct lm_matcher {
    lmr_matcher *rust;
};

lm_status lm_grammar_factory_open(lm_grammar_factory **out, const lm_text *t, uint32_t n_vocab, lm_err *err) {
    char text[400] = "";
    lmr_grammar *rust = NULL;
    int code = lmr_grammar_open(&rust, lm_tokenizer_rust(t->tokenizer), n_vocab, t->stop_ids, t->n_stop_ids,
                                (lmr_err_text){text, sizeof text});
    if (code != LMR_OK) return lm_rust_status(code, text, err);
    lm_grammar_factory *f = lm_alloc(sizeof *f);
    f->rust = rust;
    *out = f;
    return LM_OK;
}

void lm_grammar_factory_close(lm_grammar_factory *f) {
    if (!f) return;
    lmr_grammar_close(f->rust);
    free(f);
}

static lm_status wrap(lm_matcher **out, int code, lmr_matcher *rust, const char *text, lm_err *err) {
    if (code != LMR_OK) return lm_rust_status(code, text, err);
    lm_matcher *m = lm_alloc(sizeof *m);
    m->rust = rust;
    *out = m;
    return LM_OK;
}

/* A new text of the schema with its objects closed; empty as it was. */
static lm_status close_schema(lm_str schema, lm_buf *out, lm_err *err) {
    json_t *value = NULL;
    lm_buf_init(out, MAX_SCHEMA);
    if (!lm_str_trim(schema).len) return LM_OK;
    lm_status st = lm_json_parse(schema, &value, err);
    if (st != LM_OK) return lm_fail_in(err, st, "the schema is not JSON");
    lm_schema_close(value);
    lm_json_write_value(out, value);
    json_decref(value);
    return lm_buf_status(out, "the schema", err);
}

lm_status lm_matcher_open(lm_matcher **out, const lm_grammar_factory *f, lm_str schema, lm_err *err) {
    char text[480] = "";
    lmr_matcher *rust = NULL;
    lm_buf closed;
    lm_status st = close_schema(schema, &closed, err);
    if (st == LM_OK) {
        int code = lmr_matcher_open(&rust, f->rust, closed.ptr, closed.len, (lmr_err_text){text, sizeof text});
        st = wrap(out, code, rust, text, err);
    }
    lm_buf_release(&closed);
    return st;
}

lm_status lm_matcher_open_lark(lm_matcher **out, const lm_grammar_factory *f, lm_str grammar, lm_err *err) {
    char text[480] = "";
    lmr_matcher *rust = NULL;
    int code =
        lmr_matcher_open_lark(&rust, f->rust, grammar.ptr, grammar.len, (lmr_err_text){text, sizeof text});
    return wrap(out, code, rust, text, err);
}

void lm_matcher_close(lm_matcher *m) {
    if (!m) return;
    lmr_matcher_close(m->rust);
    free(m);
}

lm_status lm_matcher_mask(lm_matcher *m, uint32_t *mask, uint32_t n_words, lm_err *err) {
    char text[400] = "";
    return lm_rust_status(lmr_matcher_mask(m->rust, mask, n_words, (lmr_err_text){text, sizeof text}), text,
                          err);
}

lm_status lm_matcher_take(lm_matcher *m, int32_t id, lm_err *err) {
    char text[400] = "";
    return lm_rust_status(lmr_matcher_take(m->rust, id, (lmr_err_text){text, sizeof text}), text, err);
}

lm_status lm_matcher_take_within(lm_matcher *m, int32_t id, uint32_t left, bool *taken, uint32_t *ending,
                                 lm_err *err) {
    char text[400] = "";
    int code = lmr_matcher_take_within(m->rust, id, left, taken, ending, (lmr_err_text){text, sizeof text});
    return lm_rust_status(code, text, err);
}

uint32_t lm_matcher_ending(lm_matcher *m, uint32_t most) {
    return lmr_matcher_ending(m->rust, most);
}

lm_status lm_matcher_begin(lm_matcher *m, lm_str text, bool *fits, lm_err *err) {
    char words[400] = "";
    int code = lmr_matcher_reset(m->rust, (lmr_err_text){words, sizeof words});
    if (code == LMR_OK)
        code = lmr_matcher_feed(m->rust, text.ptr, text.len, fits, (lmr_err_text){words, sizeof words});
    return lm_rust_status(code, words, err);
}

bool lm_matcher_accepts(lm_matcher *m) {
    return lmr_matcher_accepts(m->rust);
}

bool lm_matcher_done(const lm_matcher *m) {
    return lmr_matcher_done(m->rust);
}
