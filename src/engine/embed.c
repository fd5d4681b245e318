/* embed.c - steps that give vectors: parts of texts in, the states of their tokens out, pooled here.
 *
 * Every job in its turn puts its next text into the step, round and round until the rows are used up, so that
 * a long list keeps nobody waiting. What texts share at their beginning (an instruction, usually) is computed
 * once where only the last token's state is wanted; a mean needs every state.
 */
#include "engine/embed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"

#define MAX_PARTS  32 /* texts with keys and values of their own in one step */
#define MIN_SHARED 16 /* tokens worth sharing */

lm_status lm_embed_batch_init(lm_embed_batch *b, uint32_t room, lm_err *err) {
    *b = (lm_embed_batch){
        .parts = lm_try_alloc(room, sizeof(*b->parts)),
        .slices = lm_try_alloc(room, sizeof(*b->slices)),
        .tokens = lm_try_alloc(room, sizeof(*b->tokens)),
        .out_rows = lm_try_alloc(room, sizeof(*b->out_rows)),
        .room = room,
    };
    if (b->parts && b->slices && b->tokens && b->out_rows) return LM_OK;
    return lm_fail(err, LM_NO_MEMORY, "no memory for steps of %u rows", room);
}

void lm_embed_batch_release(lm_embed_batch *b) {
    free(b->parts);
    free(b->slices);
    free(b->tokens);
    free(b->out_rows);
    *b = (lm_embed_batch){0};
}

static uint32_t start_of(const lm_embedding *e, uint32_t input) {
    return input ? e->ends[input - 1] : 0;
}

static uint32_t length_of(const lm_embedding *e, uint32_t input) {
    return e->ends[input] - start_of(e, input);
}

/* ---- keys and values */

static bool drop_last(lm_core *c, lm_embedding *e) {
    lm_seq *kv = e->last;
    e->last = NULL;
    lm_model_seq_close(c->model, kv);
    return kv;
}

/* Somebody's keys and values that nobody needs at once; false: there are none. */
static bool give_up_some(lm_core *c, lm_embedding *e) {
    return lm_prefix_evict(&c->prefix) || drop_last(c, e);
}

/* What has been computed already of an input's beginning: of the text before, else of anything. */
static void find_shared(lm_core *c, lm_embedding *e, uint32_t input, lm_seq **kv, uint32_t *n_read) {
    int32_t *ids = e->ids + start_of(e, input);
    uint32_t most = length_of(e, input) - 1, n = 0;
    if (input == 0) {
        lm_sequence probe = {.tokens = ids, .n_tokens = most + 1};
        lm_prefix_find(&c->prefix, c->running, c->n_running, &probe);
        *kv = probe.kv;
        *n_read = probe.n_kv;
    } else if (e->last) {
        uint32_t before = length_of(e, e->next - 1);
        const int32_t *other = e->ids + start_of(e, e->next - 1);
        while (n < most && n < before && ids[n] == other[n]) n++;
        if (n >= MIN_SHARED && lm_model_seq_fork(c->model, e->last, n, kv, NULL) == LM_OK) *n_read = n;
    }
}

static lm_status open_kv(lm_core *c, lm_embedding *e, uint32_t input, lm_seq **kv, uint32_t *n_read,
                         lm_err *err) {
    lm_status st = lm_core_enter(c, err);
    if (st != LM_OK) return st;
    if (e->pooling == LM_POOL_LAST && !e->whole) find_shared(c, e, input, kv, n_read);
    while (!*kv && (st = lm_model_seq_open(c->model, kv, err)) != LM_OK)
        if (!give_up_some(c, e)) break;
    return lm_core_leave(c, st, err);
}

void lm_core_drop_embedding(lm_core *c, lm_sequence *q, bool keep) {
    lm_embedding *e = q->embedding;
    lm_embed_batch *b = &c->embed;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        lm_embed_part *p = &b->parts[i];
        if (p->q != q) continue;
        if (p->kv != e->kv) lm_model_seq_close(c->model, p->kv);
        p->q = NULL;
        p->kv = NULL;
    }
    lm_model_seq_close(c->model, e->kv);
    e->kv = NULL;
    if (keep && e->last) {
        uint32_t n = length_of(e, e->next - 1);
        lm_sequence probe = {
            .tokens = lm_try_alloc(n, sizeof *probe.tokens), .n_tokens = n, .n_kv = n, .kv = e->last};
        if (probe.tokens) {
            memcpy(probe.tokens, e->ids + start_of(e, e->next - 1), n * sizeof *probe.tokens);
            lm_prefix_keep(&c->prefix, &probe);
            free(probe.tokens);
            e->last = NULL;
        }
    }
    drop_last(c, e);
}

/* ---- building a step */

static uint32_t want_rows(const lm_embedding *e, lm_embed_part *p, uint32_t n_read, lm_embed_batch *b) {
    uint32_t first = p->first_row, n = p->n_rows;
    if (e->pooling == LM_POOL_LAST) first += n - 1;
    if (e->pooling != LM_POOL_MEAN) n = e->pooling == LM_POOL_LAST ? p->ends : n_read == 0;
    for (uint32_t i = 0; i < n; i++) b->out_rows[b->n_out + i] = first + i;
    return n;
}

/* Puts a part of q's next text into the step, at most `left` rows; *added: how many. Not LM_OK: q must fail.
 */
static lm_status add_part(lm_core *c, lm_sequence *q, uint32_t left, uint32_t *added, lm_err *err) {
    lm_embedding *e = q->embedding;
    lm_embed_batch *b = &c->embed;
    uint32_t input = e->next + e->n_parts, n_read = 0;
    lm_seq *kv = NULL;
    *added = 0;
    e->full = e->full || input == e->n_inputs || b->n_parts == MAX_PARTS;
    /* The first may be longer than what a step should have, never than what it can have. */
    if (!e->full && e->whole) e->full = length_of(e, input) > (b->n_parts ? left : b->room);
    if (e->full) return LM_OK;
    if (!e->n_parts) {
        kv = e->kv;
        n_read = e->n_read;
    }
    bool fresh = !kv;
    lm_status st = kv ? LM_OK : open_kv(c, e, input, &kv, &n_read, err);
    uint32_t n = length_of(e, input) - n_read;
    if (n > left && !e->whole) n = left;
    while (st == LM_OK && (st = c->b->seq_reserve(kv, n, err)) == LM_BUSY)
        st = give_up_some(c, e) ? LM_OK : LM_BUSY;
    if (!e->n_parts) {
        e->kv = kv;
        e->n_read = n_read;
    }
    if (st != LM_OK) {
        if (kv != e->kv) lm_model_seq_close(c->model, kv);
        e->full = true;
        return st == LM_BUSY ? LM_OK : st;
    }

    lm_embed_part *p = &b->parts[b->n_parts];
    *p = (lm_embed_part){
        .q = q, .input = input, .first_row = b->n_rows, .n_rows = n, .first_out = b->n_out, .kv = kv};
    p->ends = n_read + n == length_of(e, input);
    p->n_out = want_rows(e, p, n_read, b);
    memcpy(b->tokens + b->n_rows, e->ids + start_of(e, input) + n_read, n * sizeof *b->tokens);
    b->slices[b->n_parts++] = (lm_slice){.seq = kv, .n_tokens = n};
    b->n_rows += n;
    b->n_out += p->n_out;
    if (fresh) q->n_cached += n_read;
    e->n_parts++;
    e->full = !p->ends;
    *added = n;
    return LM_OK;
}

/* Nothing of the step that was being built is computed. */
static void abandon(lm_core *c) {
    lm_embed_batch *b = &c->embed;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        lm_embed_part *p = &b->parts[i];
        if (p->q && p->kv != p->q->embedding->kv) lm_model_seq_close(c->model, p->kv);
    }
    b->n_parts = b->n_rows = b->n_out = 0;
}

/* False: one of the jobs had to fail, and nothing is built. */
static bool build(lm_core *c, uint32_t left) {
    lm_embed_batch *b = &c->embed;
    bool more = true;
    b->n_parts = b->n_rows = b->n_out = 0;
    b->turn++;
    for (uint32_t i = 0; i < c->n_running; i++) {
        lm_embedding *e = c->running[i]->embedding;
        if (!e) continue;
        e->n_parts = 0;
        e->full = false;
    }
    while (left && more) {
        more = false;
        for (uint32_t k = 0; k < c->n_running && left; k++) {
            lm_sequence *q = c->running[(b->turn + k) % c->n_running];
            uint32_t added = 0;
            lm_err err = {0};
            lm_status st = q->embedding ? add_part(c, q, left, &added, &err) : LM_OK;
            if (st != LM_OK) {
                abandon(c);
                lm_core_fail(c, q, false, st, err.text);
                return false;
            }
            left -= added < left ? added : left;
            more = more || added;
        }
    }
    return true;
}

/* ---- what a step gave */

static lm_status finish(const lm_embedding *e, uint32_t input, lm_err *err) {
    float *out = e->vectors + (size_t)input * e->dimensions;
    double n = e->pooling == LM_POOL_MEAN ? length_of(e, input) : 1, square = 0;
    for (uint32_t i = 0; i < e->dimensions; i++) {
        double v = e->sum[i] / n;
        if (!isfinite(v)) return lm_fail(err, LM_INTERNAL, "embedding contains NaN or Inf values");
        out[i] = (float)v;
        square += v * v;
    }
    double scale = e->normalize ? 1 / fmax(sqrt(square), 1e-12) : 1;
    for (uint32_t i = 0; i < e->dimensions; i++) out[i] = (float)(e->sum[i] / n * scale);
    return LM_OK;
}

/* states: of all rows that the step gave, or of those of p alone. */
static void take(lm_core *c, lm_embed_part *p, const float *states) {
    lm_sequence *q = p->q;
    lm_embedding *e = q->embedding;
    lm_err err = {0};
    for (uint32_t i = 0; i < p->n_out; i++)
        for (uint32_t k = 0; k < e->width; k++) e->sum[k] += (double)states[(size_t)i * e->width + k];
    e->kv = p->kv;
    e->n_read += p->n_rows;
    p->kv = NULL;
    p->q = NULL;
    if (!p->ends) return;

    lm_status st = finish(e, p->input, &err);
    memset(e->sum, 0, e->width * sizeof *e->sum);
    drop_last(c, e);
    if (e->pooling == LM_POOL_LAST && !e->whole)
        e->last = e->kv;
    else
        lm_model_seq_close(c->model, e->kv);
    e->kv = NULL;
    e->n_read = 0;
    e->next = p->input + 1;
    if (st != LM_OK)
        lm_core_fail(c, q, false, st, err.text);
    else if (e->next == e->n_inputs)
        lm_core_give_vectors(c, q);
}

/* n parts from the one at `first` on, in a step of their own. */
static lm_status compute(lm_core *c, uint32_t first, uint32_t n, const float **states, lm_err *err) {
    lm_embed_batch *b = &c->embed;
    const lm_embed_part *p = &b->parts[first];
    uint32_t rows = p->first_row, outs = p->first_out, n_out = 0;
    lm_status st = lm_core_enter(c, err);
    if (st != LM_OK) return st;
    for (uint32_t i = first; i < first + n; i++) {
        for (uint32_t k = 0; k < b->parts[i].n_out; k++) b->out_rows[outs + n_out + k] -= rows;
        n_out += b->parts[i].n_out;
    }
    st = lm_model_states(c->model, b->slices + first, n, b->tokens + rows, b->out_rows + outs, n_out, states,
                         err);
    return lm_core_leave(c, st, err);
}

/* A step has failed, which left all of them as they were: each alone, so that the others go on. */
static void run_alone(lm_core *c) {
    lm_embed_batch *b = &c->embed;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        lm_embed_part *p = &b->parts[i];
        const float *states = NULL;
        lm_err err = {0};
        if (!p->q) continue;
        lm_status st = compute(c, i, 1, &states, &err);
        if (st == LM_OK)
            take(c, p, states);
        else
            lm_core_fail(c, p->q, false, st, err.text);
    }
}

bool lm_core_embed(lm_core *c, bool shared) {
    lm_embed_batch *b = &c->embed;
    const float *states = NULL;
    lm_err err = {0};
    bool any = false;
    for (uint32_t i = 0; i < c->n_running; i++) any = any || c->running[i]->embedding;
    if (!any) return false;
    if (!build(c, lm_chunk_rows(c->row_ns, b->room, shared))) return true;
    if (!b->n_parts) return false;

    uint64_t start = lm_now_ns();
    lm_status st = compute(c, 0, b->n_parts, &states, &err);
    if (st == LM_OK) lm_core_note_time(c, start, b->n_rows);
    if (st != LM_OK && b->n_parts == 1) {
        lm_core_fail(c, b->parts[0].q, false, st, err.text);
    } else if (st != LM_OK) {
        run_alone(c);
    } else {
        for (uint32_t i = 0; i < b->n_parts; i++) {
            lm_embed_part *p = &b->parts[i];
            size_t width = p->q ? p->q->embedding->width : 0;
            if (p->q) take(c, p, states + p->first_out * width);
        }
    }
    b->n_parts = 0;
    return true;
}
