/* Attention over the pages of keys and values, in two jobs of the pool.
 *
 * First, per row: norm and turn the heads of q and k, write k and v into their page. Then, per piece, a block
 * of one slice's queries meets the pages that it may see, page by page, with a running softmax (flash
 * attention, arXiv 2205.14135); the query heads that share a kv head go together, so that keys and values are
 * read once for all of them.
 *
 * The softmax runs within a segment of SEGMENT_PAGES pages, and the segments' results are joined one after
 * the other. When there are too few pieces for the threads (one sequence decodes, far into its context),
 * segments are dealt out and joined afterwards, in the same order: what a query gets depends neither on the
 * number of threads nor on the rest of the batch.
 */
#include "device.h"

#include <math.h>
#include <string.h>

#define BLOCK_QUERIES 96    /* tokens * heads of a block */
#define SMALL_WORK    60000 /* multiplications below which one thread is faster */
#define SEGMENT_PAGES 4     /* the fewest pages worth a piece of their own; a power of two */
#define MAX_GROUP     256   /* query heads of a kv head */

/* ---- turns ----------------------------------------------------------------------------------------------- */

static const float *turns_of(lm_step *s, const lm_rope *rope) {
    for (const lm_turns *t = s->turns; t; t = t->next)
        if (t->rope == rope) return t->cos_sin;
    lm_turns *t = lm_step_take_kept(s, sizeof *t);
    float *table = lm_step_take_kept(s, (size_t)s->n_rows * rope->n_dims * sizeof(float));
    if (!t || !table) return NULL;
    uint32_t half = rope->n_dims / 2;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        float *c = table + (size_t)r * rope->n_dims;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)s->rows[r].position * rope->inv_freq[i];
            c[i] = cosf(angle) * rope->mscale;
            c[half + i] = sinf(angle) * rope->mscale;
        }
    }
    *t = (lm_turns){.next = s->turns, .rope = rope, .cos_sin = table};
    s->turns = t;
    return table;
}

/* ---- first job: q, k and v of each row ------------------------------------------------------------------- */

typedef struct attention {
    lm_step *s;
    const lm_attention *a;
    lm_tensor *q, *k, *out;
    const lm_tensor *v;
    const float *turns; /* (n_rows, n_dims) or NULL */
    const float *sinks;
    uint32_t group;        /* query heads of a kv head */
    uint32_t block_tokens; /* of a query block */
    struct piece *pieces;
    uint32_t n_pieces;
    uint8_t *work; /* (n_threads, work_bytes) */
    size_t work_bytes;
} attention;

static void store(const lm_kernels *k, const float *x, uint32_t n, uint8_t *page, uint32_t token) {
    if (k->kv_f32)
        memcpy(page + (size_t)token * n * 4, x, (size_t)n * 4);
    else
        k->to_f16(x, n, (uint16_t *)(void *)page + (size_t)token * n);
}

static void turn_head(const attention *t, float *x, const lm_vector *norm, uint32_t row) {
    const lm_kernels *k = t->s->k;
    if (norm) k->rms_norm(x, norm->data, t->a->head_dim, t->a->norm_eps, x);
    if (t->turns)
        k->rope(x, t->a->rope->n_dims, t->a->rope->interleaved, t->turns + (size_t)row * t->a->rope->n_dims);
}

static void place_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const attention *t = arg;
    const lm_attention *a = t->a;
    const lm_kv *kv = &t->s->dev->kv;
    for (uint32_t r = row0; r < row1; r++) {
        float *q = t->q->data + r * t->q->stride, *k = t->k->data + r * t->k->stride;
        const float *v = t->v->data + r * t->v->stride;
        uint32_t position = t->s->rows[r].position;
        uint32_t page = t->s->slices[t->s->rows[r].slice].seq->pages[position / LM_KV_PAGE];
        for (uint32_t h = 0; h < a->n_heads; h++) turn_head(t, q + (size_t)h * a->head_dim, a->q_norm, r);
        for (uint32_t h = 0; h < a->n_kv_heads; h++) {
            turn_head(t, k + (size_t)h * a->head_dim, a->k_norm, r);
            store(t->s->k, k + (size_t)h * a->head_dim, a->head_dim, lm_kv_at(kv, page, a->layer, h, false),
                  position % LM_KV_PAGE);
            store(t->s->k, v + (size_t)h * a->head_dim, a->head_dim, lm_kv_at(kv, page, a->layer, h, true),
                  position % LM_KV_PAGE);
        }
    }
}

/* ---- second job: blocks of queries ----------------------------------------------------------------------- */

typedef struct piece {
    uint32_t slice, kv_head;
    uint32_t token, n_tokens; /* of the slice */
    uint32_t page0, page1;    /* pages of the sequence; only the first and last are not whole segments' */
    float *parts;             /* where its segments' states go, NULL when the piece is the whole block */
    uint32_t n_parts;         /* with the first piece of a divided block: of all its pieces, in order */
} piece;

/* Where a running softmax over some keys stands, per query: the maximum m (-inf: no key yet), the sum l, the
 * weighted values acc (head_dim), all relative to e^m. */
typedef struct state {
    float *m, *l, *acc;
} state;

/* A thread's memory for one block: queries, the state of the segment and of all so far, the kernel's scratch.
 */
typedef struct block {
    float *q, *scratch;
    state now, all;
} block;

static size_t round16(size_t floats) {
    return (floats + 15) / 16 * 16;
}

static size_t state_floats(uint32_t n_q, uint32_t head_dim) {
    return 2 * round16(n_q) + round16((size_t)n_q * head_dim);
}

static state state_at(float *memory, uint32_t n_q) {
    return (state){.m = memory, .l = memory + round16(n_q), .acc = memory + 2 * round16(n_q)};
}

static void clear(const state *s, uint32_t n_q, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_q; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc, 0, (size_t)n_q * head_dim * sizeof(float));
}

/* Joins the state of later keys to that of earlier ones. */
static void join(const state *all, const state *later, uint32_t n_q, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_q; i++) {
        float *to = all->acc + (size_t)i * head_dim;
        const float *from = later->acc + (size_t)i * head_dim;
        if (later->m[i] == -INFINITY) continue; /* the query sees none of these keys */
        float top = fmaxf(all->m[i], later->m[i]);
        float old = expf(all->m[i] - top), new = expf(later->m[i] - top); /* 0 and 1 for the first */
        if (isnan(later->m[i])) top = old = new = NAN;                    /* fmaxf would hide it */
        all->l[i] = all->l[i] * old + later->l[i] * new;
        for (uint32_t d = 0; d < head_dim; d++) to[d] = to[d] * old + from[d] * new;
        all->m[i] = top;
    }
}

static size_t block_floats(uint32_t n_q, uint32_t head_dim) {
    return round16((size_t)n_q * head_dim) + 2 * state_floats(n_q, head_dim) +
           round16(LM_ATTEND_SCRATCH(n_q, head_dim));
}

static block block_in(uint8_t *memory, uint32_t n_q, uint32_t head_dim) {
    block b = {.q = (float *)(void *)memory};
    float *states = b.q + round16((size_t)n_q * head_dim);
    b.now = state_at(states, n_q);
    b.all = state_at(states + state_floats(n_q, head_dim), n_q);
    b.scratch = states + 2 * state_floats(n_q, head_dim);
    return b;
}

/* The first key that the query at `position` sees. */
static uint32_t first_key(const lm_attention *a, uint32_t position) {
    return a->window && position + 1 > a->window ? position + 1 - a->window : 0;
}

/* The end of the keys that the query at `position` of a slice sees. */
static uint32_t end_key(const attention *t, uint32_t slice, uint32_t position) {
    const lm_slice *s = &t->s->slices[slice];
    return t->a->both_ways ? s->seq->len + s->n_tokens : position + 1;
}

static void load_queries(const attention *t, const piece *p, uint32_t row, const block *b) {
    const lm_attention *a = t->a;
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        const float *q = t->q->data + (row + i) * t->q->stride + (size_t)p->kv_head * t->group * a->head_dim;
        float *to = b->q + (size_t)i * t->group * a->head_dim;
        for (uint32_t j = 0; j < t->group * a->head_dim; j++) to[j] = q[j] * a->scale;
    }
}

/* All queries of the piece against the keys of one page that they may see. */
static void meet_page(const attention *t, const piece *p, const block *b, uint32_t position, uint32_t index) {
    const lm_attention *a = t->a;
    const lm_kv *kv = &t->s->dev->kv;
    uint32_t page = t->s->slices[p->slice].seq->pages[index];
    const uint8_t *keys = lm_kv_at(kv, page, a->layer, p->kv_head, false);
    const uint8_t *values = lm_kv_at(kv, page, a->layer, p->kv_head, true);
    size_t token_bytes = (size_t)a->head_dim * kv->element;
    uint32_t key0 = index * LM_KV_PAGE, last = position + p->n_tokens - 1;
    uint32_t end = end_key(t, p->slice, position); /* what the first of them sees, all see */
    if (end > key0 + LM_KV_PAGE) end = key0 + LM_KV_PAGE;
    if ((end == key0 + LM_KV_PAGE || a->both_ways) && first_key(a, last) <= key0) {
        t->s->k->attend(b->q, p->n_tokens * t->group, keys, values, end - key0, a->head_dim, a->softcap,
                        b->now.m, b->now.l, b->now.acc, b->scratch);
        return;
    }
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        uint32_t lo = first_key(a, position + i), hi = position + i + 1;
        if (lo < key0) lo = key0;
        if (hi > key0 + LM_KV_PAGE) hi = key0 + LM_KV_PAGE;
        if (lo >= hi) continue;
        size_t skip = (lo - key0) * token_bytes;
        uint32_t q0 = i * t->group;
        t->s->k->attend(b->q + (size_t)q0 * a->head_dim, t->group, keys + skip, values + skip, hi - lo,
                        a->head_dim, a->softcap, b->now.m + q0, b->now.l + q0,
                        b->now.acc + (size_t)q0 * a->head_dim, b->scratch);
    }
}

/* acc / l into the output; a sink is one more logit of the softmax without a value. */
static void finish_head(const attention *t, uint32_t row, uint32_t head, float m, float l, const float *acc) {
    float factor = 1;
    if (t->sinks) {
        float top = m > t->sinks[head] ? m : t->sinks[head];
        factor = expf(m - top);
        l = l * factor + expf(t->sinks[head] - top);
    }
    factor /= l;
    float *out = t->out->data + row * t->out->stride + (size_t)head * t->a->head_dim;
    for (uint32_t d = 0; d < t->a->head_dim; d++) out[d] = acc[d] * factor;
}

static void finish(const attention *t, uint32_t row, const piece *p, const state *s) {
    for (uint32_t i = 0; i < p->n_tokens; i++)
        for (uint32_t h = 0; h < t->group; h++) {
            uint32_t q = i * t->group + h;
            finish_head(t, row + i, p->kv_head * t->group + h, s->m[q], s->l[q],
                        s->acc + (size_t)q * t->a->head_dim);
        }
}

/* The end of the segment that page i lies in, or of the piece. */
static uint32_t segment_end(const piece *p, uint32_t i) {
    uint32_t end = (i & ~(SEGMENT_PAGES - 1u)) + SEGMENT_PAGES;
    return end < p->page1 ? end : p->page1;
}

static void attend_piece(void *arg, uint32_t chunk, uint32_t thread) {
    const attention *t = arg;
    const piece *p = &t->pieces[chunk];
    uint32_t n_q = p->n_tokens * t->group, dim = t->a->head_dim, row = t->s->first_row[p->slice] + p->token;
    block b = block_in(t->work + thread * t->work_bytes, n_q, dim);
    load_queries(t, p, row, &b);
    clear(&b.all, n_q, dim);
    float *part = p->parts;
    for (uint32_t i = p->page0; i < p->page1;) {
        if (part) b.now = state_at(part, n_q), part += state_floats(n_q, dim);
        clear(&b.now, n_q, dim);
        for (uint32_t end = segment_end(p, i); i < end; i++) meet_page(t, p, &b, t->s->rows[row].position, i);
        if (!part) join(&b.all, &b.now, n_q, dim);
    }
    if (!part) finish(t, row, p, &b.all);
}

/* Joins the parts of a divided block (one token's). */
static void join_parts(const attention *t, const piece *p) {
    uint32_t n_q = t->group, dim = t->a->head_dim, row = t->s->first_row[p->slice] + p->token;
    block b = block_in(t->work, n_q, dim);
    clear(&b.all, n_q, dim);
    for (uint32_t i = 0; i < p->n_parts; i++) {
        state part = state_at(p->parts + i * state_floats(n_q, dim), n_q);
        join(&b.all, &part, n_q, dim);
    }
    finish(t, row, p, &b.all);
}

/* ---- the op ---------------------------------------------------------------------------------------------- */

/* Pieces of one block of n_tokens from `token` on for every kv head; a single token's are cut into up to
 * `parts`. */
static bool cut_block(attention *t, uint32_t slice, uint32_t token, uint32_t n_tokens, uint32_t parts) {
    uint32_t len = t->s->slices[slice].seq->len + token;
    uint32_t page0 = first_key(t->a, len) / LM_KV_PAGE;
    uint32_t page1 = (end_key(t, slice, len + n_tokens - 1) - 1) / LM_KV_PAGE + 1;
    uint32_t segment0 = page0 / SEGMENT_PAGES, segments = (page1 - 1) / SEGMENT_PAGES + 1 - segment0;
    uint32_t split = n_tokens > 1 ? 1 : segments < parts ? segments : parts;
    size_t floats = state_floats(t->group, t->a->head_dim);
    float *states = NULL;
    if (split > 1) {
        states = lm_step_take(t->s, t->a->n_kv_heads * segments * floats * sizeof(float));
        if (!states) return false;
    }
    for (uint32_t h = 0; h < t->a->n_kv_heads; h++)
        for (uint32_t j = 0; j < split; j++) {
            uint32_t first = (uint32_t)((uint64_t)segments * j / split);
            uint32_t end = (uint32_t)((uint64_t)segments * (j + 1) / split);
            piece *p = &t->pieces[t->n_pieces++];
            *p = (piece){.slice = slice, .kv_head = h, .token = token, .n_tokens = n_tokens};
            p->page0 = j ? (segment0 + first) * SEGMENT_PAGES : page0;
            p->page1 = j + 1 < split ? (segment0 + end) * SEGMENT_PAGES : page1;
            if (split > 1) p->parts = states + ((size_t)h * segments + first) * floats;
            if (split > 1 && j == 0) p->n_parts = segments;
        }
    return true;
}

/* Pieces of the whole batch, at most `parts` of each block and head. */
static bool cut(attention *t, uint32_t parts) {
    lm_step *s = t->s;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_slices; i++)
        n += (s->slices[i].n_tokens + t->block_tokens - 1) / t->block_tokens * t->a->n_kv_heads * parts;
    t->pieces = lm_step_take(s, n * sizeof *t->pieces);
    if (s->failed) return false;
    t->n_pieces = 0;
    for (uint32_t i = 0; i < s->n_slices; i++) {
        /* The last blocks see most: they go first, so that the threads end together. */
        uint32_t blocks = (s->slices[i].n_tokens + t->block_tokens - 1) / t->block_tokens;
        for (uint32_t b = blocks; b-- > 0;) {
            uint32_t token = b * t->block_tokens, left = s->slices[i].n_tokens - token;
            if (!cut_block(t, i, token, left < t->block_tokens ? left : t->block_tokens, parts)) return false;
        }
    }
    return true;
}

static bool check(lm_step *s, const lm_attention *a, const lm_tensor *q, const lm_tensor *k,
                  const lm_tensor *v) {
    const lm_kv_shape *shape = &s->dev->kv.shape;
    const char *wrong = NULL;
    if (a->layer >= shape->n_layers || a->n_kv_heads != shape->n_kv_heads || a->head_dim != shape->head_dim)
        wrong = "the device's cache has another shape";
    else if (a->n_heads == 0 || a->n_heads % a->n_kv_heads || a->n_heads / a->n_kv_heads > MAX_GROUP)
        wrong = "the heads are no multiple of the kv heads";
    else if (q->n_rows != s->n_rows || k->n_rows != s->n_rows || v->n_rows != s->n_rows)
        wrong = "q, k and v are not the step's rows";
    else if (q->width != a->n_heads * a->head_dim || k->width != a->n_kv_heads * a->head_dim ||
             v->width != k->width)
        wrong = "q, k or v has another width";
    else if (a->rope && (a->rope->n_dims > a->head_dim || a->rope->n_dims % 2))
        wrong = "more elements turn than a head has";
    else if ((a->q_norm && a->q_norm->n != a->head_dim) || (a->k_norm && a->k_norm->n != a->head_dim))
        wrong = "the norm of q or k is not as wide as a head";
    else if (a->sinks && a->sinks->n != a->n_heads)
        wrong = "not one sink per head";
    else if (a->both_ways && a->window)
        wrong = "a window over tokens on both sides";
    if (wrong) lm_step_fail(s, LM_INTERNAL, "attention in layer %u: %s", a->layer, wrong);
    return !wrong;
}

lm_tensor *lm_op_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k,
                           const lm_tensor *v) {
    if (s->failed || !check(s, a, q, k, v)) return NULL;
    attention t = {.s = s, .a = a, .q = q, .k = k, .v = v, .group = a->n_heads / a->n_kv_heads};
    t.sinks = a->sinks ? a->sinks->data : NULL;
    if (a->rope && a->rope->n_dims) t.turns = turns_of(s, a->rope);
    t.out = lm_step_tensor(s, q->n_rows, q->width);
    if (s->failed) return NULL;
    lm_run_rows(s->dev, place_rows, &t, s->n_rows, (a->n_heads + 2 * a->n_kv_heads) * (size_t)a->head_dim);
    ++*q->version;
    ++*k->version;

    lm_arena_mark mark = lm_arena_mark_now(&s->dev->layer_arena);
    t.block_tokens = BLOCK_QUERIES / t.group ? BLOCK_QUERIES / t.group : 1;
    uint32_t n_q = t.block_tokens * t.group, n_threads = s->dev->n_threads;
    t.work_bytes = block_floats(n_q, a->head_dim) * sizeof(float);
    t.work = lm_step_take(s, n_threads * t.work_bytes);
    uint64_t work = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t position = s->rows[r].position;
        work += end_key(&t, s->rows[r].slice, position) - first_key(a, position);
    }
    work *= 2 * (uint64_t)a->n_heads * a->head_dim;
    bool alone = n_threads == 1 || work < SMALL_WORK;
    uint32_t parts = alone || s->n_slices * a->n_kv_heads >= 4 * n_threads
                         ? 1
                         : (4 * n_threads + s->n_slices * a->n_kv_heads - 1) / (s->n_slices * a->n_kv_heads);
    if (s->failed || !cut(&t, parts)) return NULL;
    if (alone)
        for (uint32_t i = 0; i < t.n_pieces; i++) attend_piece(&t, i, 0);
    else
        lm_pool_run(s->dev->pool, attend_piece, &t, t.n_pieces);
    for (uint32_t i = 0; i < t.n_pieces; i++)
        if (t.pieces[i].n_parts) join_parts(&t, &t.pieces[i]);
    lm_arena_back(&s->dev->layer_arena, mark);
    return t.out;
}
