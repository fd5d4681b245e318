/* Texts to tokens, within what the model takes. A text that is too long loses its end, but not what the
 * tokenizer puts there: [SEP], or the token whose state is the embedding. */
#include <stdlib.h>
#include <string.h>

#include "engine/embed.h"

#define TOO_LONG  "the input length exceeds the context length"
#define NO_ROOM   "input after truncation exceeds maximum context length"
#define MAX_TOTAL (1u << 26) /* tokens of all inputs together, and numbers of all vectors */

void lm_embedding_free(lm_embedding *e) {
    if (!e) return;
    LM_ASSERT(!e->kv && !e->last);
    free(e->ids);
    free(e->ends);
    free(e->vectors);
    free(e->sum);
    free(e);
}

/* Where in `whole` the tokens `bare` lie, between what the post-processor adds. */
static uint32_t added_before(const lm_tokens *whole, const lm_tokens *bare) {
    for (uint32_t at = 0; bare->n && at + bare->n <= whole->n; at++)
        if (!memcmp(whole->ids + at, bare->ids, bare->n * sizeof *bare->ids)) return at;
    return 0;
}

/* Cuts ids, made of text with everything that the tokenizer adds, down to limit tokens. */
static lm_status cut(const lm_runner *r, lm_str text, uint32_t limit, lm_tokens *ids, lm_err *err) {
    lm_tokens bare = {0};
    lm_status st = lm_tokenizer_encode(r->text->tokenizer, text, false, &bare, err);
    if (st == LM_OK) {
        uint32_t added = ids->n > bare.n ? ids->n - bare.n : 0, before = added_before(ids, &bare);
        uint32_t after = added > before ? added - before : 0;
        if (added >= limit) {
            st = lm_fail(err, LM_INVALID, NO_ROOM);
        } else {
            memmove(ids->ids + limit - after, ids->ids + ids->n - after, after * sizeof *ids->ids);
            ids->n = limit;
        }
    }
    lm_tokens_release(&bare);
    return st;
}

static lm_status tokenise(const lm_runner *r, const lm_request *q, const lm_input *in, uint32_t limit,
                          lm_tokens *ids, lm_err *err) {
    lm_status st = LM_OK;
    ids->n = 0;
    if (in->text) {
        st = lm_tokenizer_encode(r->text->tokenizer, (lm_str){in->text, in->n}, true, ids, err);
        if (st == LM_OK && ids->n == 0 && r->text->bos_id >= 0)
            st = lm_tokens_add(ids, &r->text->bos_id, 1, err);
    } else if (in->n <= MAX_TOTAL) {
        st = lm_tokens_add(ids, in->ids, (uint32_t)in->n, err);
    } else {
        st = lm_fail(err, LM_INVALID, TOO_LONG);
    }
    if (st != LM_OK) return st;
    if (ids->n == 0)
        return lm_fail(err, LM_INVALID, "an input is empty: this model has no token for nothing");
    for (uint32_t i = 0; i < ids->n; i++)
        if (ids->ids[i] < 0 || (uint32_t)ids->ids[i] >= r->info.n_vocab)
            return lm_fail(
                err, in->text ? LM_CORRUPT : LM_INVALID, "%s holds token %d; the model has tokens 0 to %u",
                in->text ? "the model's tokenizer.json" : "input", ids->ids[i], r->info.n_vocab - 1);
    if (ids->n <= limit) return LM_OK;
    if (!q->truncate) return lm_fail(err, LM_INVALID, TOO_LONG);
    if (in->text) return cut(r, (lm_str){in->text, in->n}, limit, ids, err);
    ids->n = limit;
    return LM_OK;
}

static lm_status tokenise_all(const lm_runner *r, const lm_job *j, uint32_t limit, lm_embedding *e,
                              lm_err *err) {
    const lm_request *q = j->request;
    lm_tokens all = {0}, one = {0};
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < q->n_inputs && st == LM_OK; i++) {
        if (lm_job_cancelled(j)) st = lm_fail(err, LM_CANCELLED, "request canceled");
        if (st == LM_OK) st = tokenise(r, q, &q->inputs[i], limit, &one, err);
        if (st == LM_OK && (uint64_t)all.n + one.n > MAX_TOTAL)
            st = lm_fail(err, LM_INVALID,
                         "all inputs together have too many tokens: send them in several requests");
        if (st == LM_OK) st = lm_tokens_add(&all, one.ids, one.n, err);
        if (st == LM_OK) e->ends[i] = all.n;
    }
    lm_tokens_release(&one);
    e->ids = all.ids;
    return st;
}

static uint32_t least(uint32_t a, uint32_t b) {
    return b && b < a ? b : a;
}

lm_status lm_prepare_embedding(lm_runner *r, lm_job *j, uint32_t limit, lm_sequence **out, lm_err *err) {
    const lm_request *q = j->request;
    const lm_embedding_info *info = &r->info.embedding;
    if (info->problem[0])
        return lm_fail(err, LM_UNSUPPORTED, "\"%s\" does not support embeddings: %s", j->name, info->problem);
    LM_ASSERT(q->n_inputs > 0);

    lm_sequence *s = lm_try_alloc(1, sizeof *s);
    lm_embedding *e = lm_try_alloc(1, sizeof *e);
    if (s) s->embedding = e;
    lm_status st = s && e ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory for a request");
    if (st == LM_OK) {
        e->pooling = info->pooling;
        e->normalize = q->normalize;
        e->whole = r->info.encoder;
        e->width = r->info.width;
        e->dimensions = least(e->width, q->dimensions);
        e->n_inputs = q->n_inputs;
        if ((uint64_t)e->n_inputs * e->dimensions > MAX_TOTAL)
            st = lm_fail(err, LM_INVALID, "%u inputs are too many: send them in several requests",
                         e->n_inputs);
    }
    if (st == LM_OK) {
        e->ends = lm_try_alloc(e->n_inputs, sizeof *e->ends);
        e->vectors = lm_try_alloc((size_t)e->n_inputs * e->dimensions, sizeof *e->vectors);
        e->sum = lm_try_alloc(e->width, sizeof *e->sum);
        if (!e->ends || !e->vectors || !e->sum)
            st = lm_fail(err, LM_NO_MEMORY, "no memory for %u embeddings of %u numbers", e->n_inputs,
                         e->dimensions);
    }
    if (st == LM_OK) st = tokenise_all(r, j, least(limit, info->n_max), e, err);
    if (st != LM_OK) {
        if (!s) free(e);
        lm_sequence_free(s);
        return st;
    }
    s->job = j;
    s->text = r->text;
    s->n_prompt = e->ends[e->n_inputs - 1];
    *out = s;
    return LM_OK;
}
