/* sampler.c - the chain of filters. Candidates lie in w->a; a filter shortens the list or moves it through
 * w->b. */
#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

lm_status lm_scratch_init(lm_scratch *s, uint32_t n_vocab, lm_err *err) {
    *s = (lm_scratch){.n_vocab = n_vocab};
    s->row = lm_try_alloc(n_vocab, sizeof(float));
    s->a = lm_try_alloc(n_vocab, sizeof(lm_cand));
    s->b = lm_try_alloc(n_vocab, sizeof(lm_cand));
    s->maxima = lm_try_alloc(2 * ((size_t)n_vocab / LM_SELECT_BLOCK + 1), sizeof(float));
    s->counts = lm_try_alloc(n_vocab, sizeof(uint32_t));
    if (!s->row || !s->a || !s->b || !s->maxima || !s->counts) {
        lm_scratch_release(s);
        return lm_fail(err, LM_NO_MEMORY, "no memory to sample from %u tokens", n_vocab);
    }
    return LM_OK;
}

void lm_scratch_release(lm_scratch *s) {
    free(s->row);
    free(s->a);
    free(s->b);
    free(s->maxima);
    free(s->counts);
    *s = (lm_scratch){0};
}

/* SplitMix64's finaliser. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
 * OOPSLA 2014. */
static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double lm_sampler_uniform(uint64_t seed, uint64_t n) {
    uint64_t bits = mix64(mix64(seed + 0x9e3779b97f4a7c15u) + (n + 1) * 0x9e3779b97f4a7c15u);
    return (double)(bits >> 11) * 0x1p-53;
}

/* Finite logits have to stay finite, so that there is always one to choose. Far within these bounds a token
 * is already out of the question, or the only one. */
static float bounded_penalty(float v, float least) {
    const float most = 1e6f;
    if (isnan(v)) return least;
    return copysignf(fmaxf(least, fminf(fabsf(v), most)), v);
}

void lm_sampler_init(lm_sampler *s, const lm_options *o, uint32_t n_ctx) {
    *s = (lm_sampler){.o = *o};
    s->o.repeat_penalty = bounded_penalty(o->repeat_penalty, 1e-6f);
    s->o.presence_penalty = bounded_penalty(o->presence_penalty, 0);
    s->o.frequency_penalty = bounded_penalty(o->frequency_penalty, 0);
    s->seed = (uint64_t)o->seed;
    if (o->seed < 0 && getentropy(&s->seed, sizeof(s->seed)) != 0)
        s->seed = lm_now_ns() ^ (uint64_t)(uintptr_t)s;
    bool penalties = o->repeat_penalty != 1.0f || o->presence_penalty != 0.0f || o->frequency_penalty != 0.0f;
    if (penalties && o->repeat_last_n != 0)
        s->window = o->repeat_last_n < 0 ? n_ctx : (uint32_t)o->repeat_last_n;
}

static void apply_biases(const lm_sampler *s, lm_scratch *w) {
    for (uint32_t i = 0; i < s->n_biases; i++) {
        int32_t id = s->biases[i].id;
        if (id >= 0 && (uint32_t)id < w->n_vocab) w->row[id] += s->biases[i].add;
    }
}

/* Each token of the window once: its logit divided (or multiplied, when negative) by the repeat penalty,
 * minus frequency * count and presence. */
static void apply_penalties(const lm_sampler *s, lm_scratch *w, const int32_t *tokens, uint32_t n_tokens) {
    uint32_t n = n_tokens < s->window ? n_tokens : s->window;
    const int32_t *recent = tokens + (n_tokens - n);
    for (uint32_t i = 0; i < n; i++) {
        if (recent[i] >= 0 && (uint32_t)recent[i] < w->n_vocab) w->counts[recent[i]]++;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (recent[i] < 0 || (uint32_t)recent[i] >= w->n_vocab) continue;
        uint32_t count = w->counts[recent[i]];
        if (!count) continue;
        w->counts[recent[i]] = 0;
        float *x = &w->row[recent[i]];
        *x = *x <= 0 ? *x * s->o.repeat_penalty : *x / s->o.repeat_penalty;
        *x -= (float)count * s->o.frequency_penalty + s->o.presence_penalty;
    }
}

static void apply_mask(lm_scratch *w, const uint32_t *mask) {
    for (uint32_t i = 0; i < w->n_vocab; i += 32) {
        uint32_t bits = mask[i / 32];
        if (bits == UINT32_MAX) continue;
        uint32_t end = w->n_vocab - i < 32 ? w->n_vocab - i : 32;
        for (uint32_t j = 0; j < end; j++) {
            if (!(bits >> j & 1)) w->row[i + j] = -INFINITY;
        }
    }
}

/* The row to search: the model's own when nothing changes it. */
static const float *prepare_row(const lm_sampler *s, lm_scratch *w, const float *logits,
                                const int32_t *tokens, uint32_t n_tokens, const uint32_t *mask) {
    if (!s->window && !mask && !s->n_biases) return logits;
    memcpy(w->row, logits, w->n_vocab * sizeof(float));
    apply_biases(s, w);
    if (s->window) apply_penalties(s, w, tokens, n_tokens);
    if (mask) apply_mask(w, mask);
    return w->row;
}

static float max_logit(const lm_cand *c, uint32_t n) {
    float m = c[0].logit;
    for (uint32_t i = 1; i < n; i++) m = c[i].logit > m ? c[i].logit : m;
    return m;
}

/* p of every candidate at this temperature; they sum to 1. */
static void softmax(lm_cand *c, uint32_t n, float temperature) {
    float max = max_logit(c, n);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        c[i].p = expf((c[i].logit - max) / temperature);
        sum += (double)c[i].p;
    }
    float scale = (float)(1.0 / sum);
    for (uint32_t i = 0; i < n; i++) c[i].p *= scale;
}

/* Locally typical sampling: the tokens whose surprise is nearest to the entropy, until p of the mass is
 * reached. Source: arXiv 2202.00666. The order afterwards is by typicality. */
static uint32_t typical(lm_scratch *w, uint32_t n, float p) {
    softmax(w->a, n, 1.0f);
    double entropy = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (w->a[i].p > 0) entropy -= (double)w->a[i].p * log((double)w->a[i].p);
    }
    for (uint32_t i = 0; i < n; i++) {
        w->a[i].key = w->a[i].p > 0 ? -(float)fabs(-log((double)w->a[i].p) - entropy) : -INFINITY;
    }
    lm_heap_make(w->a, n);
    uint32_t kept = 0;
    double sum = 0;
    while (n && (kept == 0 || !(sum > (double)p))) {
        w->b[kept] = lm_heap_pop(w->a, &n);
        sum += (double)w->b[kept++].p;
    }
    memcpy(w->a, w->b, kept * sizeof(lm_cand));
    return kept;
}

/* The most probable tokens until p of the mass is reached. Best first afterwards. */
static uint32_t nucleus(lm_scratch *w, uint32_t n, float p, bool sorted) {
    softmax(w->a, n, 1.0f);
    double sum = 0;
    uint32_t kept = 0;
    if (sorted) {
        do sum += (double)w->a[kept++].p;
        while (kept < n && sum < (double)p);
        return kept;
    }
    for (uint32_t i = 0; i < n; i++) w->a[i].key = w->a[i].logit;
    lm_heap_make(w->a, n);
    do {
        w->b[kept] = lm_heap_pop(w->a, &n);
        sum += (double)w->b[kept++].p;
    } while (n && sum < (double)p);
    memcpy(w->a, w->b, kept * sizeof(lm_cand));
    return kept;
}

/* Tokens at least min_p times as probable as the best one. */
static uint32_t at_least(lm_cand *c, uint32_t n, float min_p) {
    float least = max_logit(c, n) + logf(min_p < 1.0f ? min_p : 1.0f);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (c[i].logit >= least) c[kept++] = c[i];
    }
    return kept;
}

static lm_status no_numbers(bool masked, lm_err *err) {
    if (masked)
        return lm_fail(err, LM_INTERNAL,
                       "the output format allows no token that the model gives a finite score");
    return lm_fail(err, LM_INTERNAL,
                   "the model computed no finite numbers; its files may be damaged: pull or import it again");
}

lm_status lm_sampler_filter(const lm_sampler *s, lm_scratch *w, const float *logits, const int32_t *tokens,
                            uint32_t n_tokens, const uint32_t *mask, uint32_t *ret_n, lm_err *err) {
    const float *row = prepare_row(s, w, logits, tokens, n_tokens, mask);
    const lm_options *o = &s->o;
    bool cut = o->top_k > 0 && (uint32_t)o->top_k < w->n_vocab;
    uint32_t n = 0;
    if (cut) {
        n = lm_select_top(row, w->n_vocab, (uint32_t)o->top_k, w->a, w->b, w->maxima);
    } else {
        for (uint32_t i = 0; i < w->n_vocab; i++) {
            if (row[i] > -INFINITY) w->a[n++] = (lm_cand){.logit = row[i], .id = (int32_t)i};
        }
    }
    if (!n || !isfinite(max_logit(w->a, n))) return no_numbers(mask != NULL, err);
    bool sorted = cut;
    if (o->typical_p < 1.0f) {
        n = typical(w, n, o->typical_p);
        sorted = false;
    }
    if (o->top_p < 1.0f) n = nucleus(w, n, o->top_p, sorted);
    if (o->min_p > 0.0f) n = at_least(w->a, n, o->min_p);
    softmax(w->a, n, o->temperature);
    *ret_n = n;
    return LM_OK;
}

lm_status lm_sampler_pick(lm_sampler *s, lm_scratch *w, const float *logits, const int32_t *tokens,
                          uint32_t n_tokens, const uint32_t *mask, int32_t *id, lm_err *err) {
    if (!(s->o.temperature > 0.0f) || s->o.top_k == 1) {
        const float *row = prepare_row(s, w, logits, tokens, n_tokens, mask);
        int32_t best = lm_select_argmax(row, w->n_vocab);
        if (best < 0 || !isfinite(row[best])) return no_numbers(mask != NULL, err);
        *id = best;
        s->n_drawn++;
        return LM_OK;
    }
    uint32_t n = 0;
    lm_status st = lm_sampler_filter(s, w, logits, tokens, n_tokens, mask, &n, err);
    if (st != LM_OK) return st;
    *id = lm_sampler_draw(w, n, lm_sampler_uniform(s->seed, s->n_drawn++));
    return LM_OK;
}

int32_t lm_sampler_draw(const lm_scratch *w, uint32_t n, double u) {
    double sum = 0;
    uint32_t chosen = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!(w->a[i].p > 0)) continue;
        chosen = i; /* the last possible one, should the sum end a rounding below u */
        sum += (double)w->a[i].p;
        if (u < sum) break;
    }
    return w->a[chosen].id;
}

void lm_sampler_order(const lm_sampler *s, const int32_t *tokens, uint32_t n_tokens, const uint32_t *mask,
                      lm_pick *out) {
    const lm_options *o = &s->o;
    uint32_t n = n_tokens < s->window ? n_tokens : s->window;
    *out = (lm_pick){
        .temperature = o->temperature,
        .top_k = o->top_k,
        .top_p = o->top_p,
        .min_p = o->min_p,
        .typical_p = o->typical_p,
        .repeat_penalty = o->repeat_penalty,
        .presence_penalty = o->presence_penalty,
        .frequency_penalty = o->frequency_penalty,
        .recent = tokens + (n_tokens - n),
        .n_recent = n,
        .biases = s->biases,
        .n_biases = s->n_biases,
        .mask = mask,
        .uniform = (float)lm_sampler_uniform(s->seed, s->n_drawn),
    };
}

lm_status lm_sampler_check(const lm_picked *p, bool masked, lm_err *err) {
    return isfinite(p->best) ? LM_OK : no_numbers(masked, err);
}

void lm_sampler_logprobs(lm_scratch *w, const float *logits, uint32_t n_top, lm_picked *p) {
    LM_ASSERT(n_top <= LM_TOP_MOST);
    uint32_t n = lm_select_top(logits, w->n_vocab, n_top ? n_top : 1, w->a, w->b, w->maxima);
    p->top_ids = w->top_ids;
    p->top_logprobs = w->top_logprobs;
    p->n_top = n_top < n ? n_top : n;
    p->logprob = -INFINITY;
    if (!n || !isfinite(w->a[0].logit)) { /* pick has refused such a row already */
        p->n_top = 0;
        return;
    }
    double lse = lm_select_logsumexp(logits, w->n_vocab, w->a[0].logit);
    p->logprob = (float)((double)logits[p->id] - lse);
    for (uint32_t i = 0; i < p->n_top; i++) {
        w->top_ids[i] = w->a[i].id;
        w->top_logprobs[i] = (float)((double)w->a[i].logit - lse);
    }
}
