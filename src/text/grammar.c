/* Grammars behind text.h: thin, the work is in Rust. */
#include <stdlib.h>

#include "text/private.h"

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

lm_status lm_matcher_open(lm_matcher **out, const lm_grammar_factory *f, lm_str schema, lm_err *err) {
    char text[480] = "";
    lmr_matcher *rust = NULL;
    int code = lmr_matcher_open(&rust, f->rust, schema.ptr, schema.len, (lmr_err_text){text, sizeof text});
    if (code != LMR_OK) return lm_rust_status(code, text, err);
    lm_matcher *m = lm_alloc(sizeof *m);
    m->rust = rust;
    *out = m;
    return LM_OK;
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

bool lm_matcher_done(const lm_matcher *m) {
    return lmr_matcher_done(m->rust);
}
