/* Products with weights: all weights that read one activation run as one job of the pool, cut into pieces of
 * rows of W that threads take as they come. */
#include "device.h"
#include "matmul.h"

#include <string.h>

/* A piece should be long against taking it (some ten ns) and short against the whole, so that threads end
 * together and one that has lost its core holds up little. */
#define PIECE_BYTES    65536      /* of weights, when they are read for few rows */
#define PIECE_PRODUCTS (1u << 20) /* multiplications, for many */
#define SMALL_PRODUCTS (1u << 15) /* below this the others are not woken: an adapter's for one row */

/* ---- running --------------------------------------------------------------------------------------------- */

typedef struct run {
    lm_step *s;
    const lm_product *list;
    uint32_t n;
    float *halves; /* (n_threads, 2 * half): gate and up of a piece, for gated products */
    size_t half;
} run;

/* Columns [c0, c1) of one product into y, whose column c0 is y[0] of each row. */
static void multiply(const lm_kernels *k, const lm_linear *w, uint32_t expert, uint32_t n0, uint32_t n1,
                     const uint8_t *acts, size_t act_stride, uint32_t n_rows, float *y, size_t y_stride,
                     void *scratch) {
    /* The kernel counts columns as rows of W, from 0. */
    float *origin = (float *)((uintptr_t)y - (uintptr_t)n0 * sizeof(float));
    (w->by_definition ? lm_matmul_reference : k->matmul)(&w->m, expert, acts, act_stride, n_rows, n0, n1,
                                                         origin, y_stride, scratch);
    if (!w->bias) return;
    const float *bias = w->bias + (size_t)expert * w->m.rows + n0;
    for (uint32_t r = 0; r < n_rows; r++) k->add_scaled(y + r * y_stride, bias, 1.0f, n1 - n0);
}

static void product_piece(void *arg, uint32_t chunk, uint32_t thread) {
    const run *r = arg;
    const lm_kernels *k = r->s->k;
    uint32_t lo = 0, hi = r->n - 1; /* the last product whose first piece is not behind this one */
    while (lo < hi) {
        uint32_t mid = (lo + hi + 1) / 2;
        if (r->list[mid].first_piece <= chunk)
            lo = mid;
        else
            hi = mid - 1;
    }
    const lm_product *p = &r->list[lo];
    uint32_t c0 = (chunk - p->first_piece) * p->piece;
    uint32_t c1 = p->n - c0 < p->piece ? p->n : c0 + p->piece;
    void *scratch = lm_thread_scratch(r->s->dev, thread);
    if (!p->up) {
        multiply(k, p->w, p->expert, p->first + c0, p->first + c1, p->acts, p->act_stride, p->n_rows,
                 p->y + c0, p->y_stride, scratch);
        return;
    }
    float *gate = r->halves + thread * 2 * r->half, *up = gate + r->half;
    multiply(k, p->w, p->expert, p->first + c0, p->first + c1, p->acts, p->act_stride, p->n_rows, gate,
             p->piece, scratch);
    multiply(k, p->up, p->expert, p->up_first + c0, p->up_first + c1, p->up_acts, p->up_act_stride, p->n_rows,
             up, p->piece, scratch);
    for (uint32_t i = 0; i < p->n_rows; i++)
        k->glu(p->act, gate + i * p->piece, up + i * p->piece, c1 - c0, p->y + i * p->y_stride + c0);
}

/* Rows of W per piece, the same for all products of the list: threads get runs of pieces, and equal pieces
 * make equal runs. */
static uint32_t piece_rows(const lm_step *s, const lm_product *list, uint32_t n) {
    uint32_t n_threads = s->dev->n_threads, step = s->k->matmul_step;
    uint64_t row_bytes = 1, work = 1, total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const lm_matrix *m = &list[i].w->m;
        if (m->row_bytes > row_bytes) row_bytes = m->row_bytes;
        if ((uint64_t)list[i].n_rows * m->cols > work) work = (uint64_t)list[i].n_rows * m->cols;
        total += list[i].n;
    }
    uint64_t most = PIECE_BYTES / row_bytes;
    if (most > PIECE_PRODUCTS / work) most = PIECE_PRODUCTS / work;
    if (most > total / (n_threads * 4)) most = total / (n_threads * 4); /* at least four for each thread */
    uint32_t longest = most < step ? step : (uint32_t)(most / step * step), best = longest;
    uint64_t best_run = UINT64_MAX;
    /* Somewhat shorter ones where they share out better: what counts is the longest run of a thread. */
    for (uint32_t rows = longest; rows >= step && rows * 2 >= longest && longest - rows < 8 * step;
         rows -= step) {
        uint64_t pieces = 0;
        for (uint32_t i = 0; i < n; i++) pieces += (list[i].n + rows - 1) / rows;
        uint64_t run_rows = (pieces + n_threads - 1) / n_threads * rows;
        if (run_rows >= best_run) continue;
        best_run = run_rows;
        best = rows;
    }
    return best;
}

/* As many rows as the longest has, where all of it is soon done; else 0. */
static uint32_t whole_rows(const lm_step *s, const lm_product *list, uint32_t n) {
    uint32_t step = s->k->matmul_step, most = 0;
    uint64_t work = 0;
    for (uint32_t i = 0; i < n; i++) {
        work += (uint64_t)list[i].n * list[i].w->m.cols * list[i].n_rows * (list[i].up ? 2 : 1);
        if (list[i].n > most) most = list[i].n;
    }
    return work <= SMALL_PRODUCTS ? (most + step - 1) / step * step : 0;
}

void lm_run_products(lm_step *s, lm_product *list, uint32_t n) {
    if (s->failed || n == 0) return;
    run r = {.s = s, .list = list, .n = n};
    uint32_t pieces = 0, whole = whole_rows(s, list, n), rows = whole ? whole : piece_rows(s, list, n);
    for (uint32_t i = 0; i < n; i++) {
        lm_product *p = &list[i];
        p->piece = rows;
        p->n_pieces = (p->n + p->piece - 1) / p->piece;
        p->first_piece = pieces;
        pieces += p->n_pieces;
        size_t half = (size_t)p->n_rows * p->piece;
        if (p->up && half > r.half) r.half = half;
    }
    if (r.half) {
        r.half = (r.half + 15) / 16 * 16;
        r.halves = lm_step_take(s, s->dev->n_threads * 2 * r.half * sizeof(float));
        if (!r.halves) return;
    }
    if (!whole) lm_pool_run(s->dev->pool, product_piece, &r, pieces);
    for (uint32_t i = 0; whole && i < pieces; i++) product_piece(&r, i, 0);
}

/* ---- ops ------------------------------------------------------------------------------------------------- */

lm_tensor *lm_op_embed(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale) {
    if (s->failed) return NULL;
    lm_tensor *out = lm_step_tensor(s, n, table->m.cols);
    if (!out) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= table->m.rows) {
            lm_step_fail(s, LM_INVALID, "token %d; the model knows 0 to %u", tokens[i], table->m.rows - 1);
            return NULL;
        }
        float *row = out->data + i * out->stride;
        s->k->row(&table->m, 0, (uint32_t)tokens[i], row);
        if (scale != 1.0f)
            for (uint32_t j = 0; j < out->width; j++) row[j] *= scale;
    }
    return out;
}

static bool fits(lm_step *s, const lm_linear *w, uint32_t cols) {
    if (w->m.cols == cols) return true;
    lm_step_fail(s, LM_INTERNAL, "a weight of %u columns times rows of %u", w->m.cols, cols);
    return false;
}

#define MAX_LINEARS 8

void lm_op_linears(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out) {
    for (uint32_t i = 0; i < n; i++) out[i] = NULL;
    if (s->failed) return;
    if (n > MAX_LINEARS) {
        lm_step_fail(s, LM_INTERNAL, "%u weights share one input, at most %d may", n, MAX_LINEARS);
        return;
    }
    lm_product list[MAX_LINEARS];
    for (uint32_t i = 0; i < n; i++) {
        if (!fits(s, w[i], x->width)) return;
        const lm_act *act = lm_step_acts(s, x, w[i]->act_kind);
        out[i] = act ? lm_step_tensor(s, x->n_rows, w[i]->m.rows) : NULL;
        if (!out[i]) return;
        list[i] = (lm_product){.w = w[i],
                               .n = w[i]->m.rows,
                               .acts = act->rows,
                               .act_stride = act->stride,
                               .n_rows = x->n_rows,
                               .y = out[i]->data,
                               .y_stride = out[i]->stride};
    }
    if (x->n_rows) lm_run_products(s, list, n);
}

bool lm_glu_product(lm_step *s, const lm_mlp *m, lm_product *out) {
    *out = (lm_product){.w = m->gate, .up = m->up, .act = m->act};
    if (m->fused) {
        out->w = out->up = m->fused;
        out->n = m->fused->m.rows / 2;
        out->up_first = out->n;
        if (m->fused->m.rows % 2 || out->n % s->k->matmul_step) {
            lm_step_fail(s, LM_UNSUPPORTED,
                         "a fused gate and up of %u rows; half of it must be a multiple of %u",
                         m->fused->m.rows, s->k->matmul_step);
            return false;
        }
    } else {
        out->n = m->gate->m.rows;
        if (m->up->m.rows != out->n) {
            lm_step_fail(s, LM_INTERNAL, "a gate of %u rows and an up of %u", out->n, m->up->m.rows);
            return false;
        }
    }
    return fits(s, out->up, out->w->m.cols) && fits(s, m->down, out->n);
}

#define PIECE 1024 /* numbers */

static void activate_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const lm_product *p = arg;
    float ones[PIECE];
    for (uint32_t i = 0; i < PIECE; i++) ones[i] = 1;
    for (uint32_t r = row0; r < row1; r++)
        for (uint32_t i = 0, n; i < p->n; i += n) {
            float *y = p->y + r * p->y_stride + i;
            n = p->n - i < PIECE ? p->n - i : PIECE;
            p->w->dev->k->glu(p->act, y, ones, n, y);
        }
}

typedef struct gated_run {
    const lm_kernels *k;
    lm_tensor *gate;
    const lm_tensor *up;
    lm_glu act;
} gated_run;

static void gated_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const gated_run *g = arg;
    for (uint32_t r = row0; r < row1; r++) {
        float *gate = g->gate->data + r * g->gate->stride;
        g->k->glu(g->act, gate, g->up->data + r * g->up->stride, g->gate->width, gate);
    }
}

lm_tensor *lm_op_gated(lm_step *s, lm_tensor *gate, const lm_tensor *up, lm_glu act) {
    if (s->failed) return NULL;
    if (gate->n_rows != up->n_rows || gate->width != up->width) {
        lm_step_fail(s, LM_INTERNAL, "a gate of (%u, %u) and an up of (%u, %u)", gate->n_rows, gate->width,
                     up->n_rows, up->width);
        return NULL;
    }
    gated_run g = {s->k, gate, up, act};
    lm_run_rows(s->dev, gated_rows, &g, gate->n_rows, 4 * (size_t)gate->width);
    ++*gate->version;
    return gate;
}

/* Without a gate: act(x upᵀ) downᵀ. */
static lm_tensor *plain_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m) {
    lm_tensor *hidden = NULL, *out = NULL;
    lm_op_linears(s, x, &m->up, 1, &hidden);
    if (!hidden) return NULL;
    lm_product p = {
        .w = m->up, .n = hidden->width, .act = m->act, .y = hidden->data, .y_stride = hidden->stride};
    lm_run_rows(s->dev, activate_rows, &p, hidden->n_rows, 4 * (size_t)hidden->width);
    ++*hidden->version;
    lm_op_linears(s, hidden, &m->down, 1, &out);
    return out;
}

lm_tensor *lm_op_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m) {
    if (s->failed) return NULL;
    if (!m->gate && !m->fused) return plain_mlp(s, x, m);
    lm_product glu;
    if (!lm_glu_product(s, m, &glu) || !fits(s, glu.w, x->width)) return NULL;
    const lm_act *act = lm_step_acts(s, x, glu.w->act_kind);
    const lm_act *up_act = act ? lm_step_acts(s, x, glu.up->act_kind) : NULL;
    lm_tensor *out = up_act ? lm_step_tensor(s, x->n_rows, m->down->m.rows) : NULL;
    if (!out || x->n_rows == 0) return out;

    lm_arena_mark mark = lm_arena_mark_now(&s->dev->layer_arena);
    lm_tensor *hidden = lm_step_tensor(s, x->n_rows, glu.n);
    if (!hidden) return NULL;
    glu.acts = act->rows;
    glu.act_stride = act->stride;
    glu.up_acts = up_act->rows;
    glu.up_act_stride = up_act->stride;
    glu.n_rows = x->n_rows;
    glu.y = hidden->data;
    glu.y_stride = hidden->stride;
    lm_run_products(s, &glu, 1);

    act = s->failed ? NULL : lm_step_acts(s, hidden, m->down->act_kind);
    if (!act) return NULL;
    lm_product down = {.w = m->down,
                       .n = m->down->m.rows,
                       .acts = act->rows,
                       .act_stride = act->stride,
                       .n_rows = x->n_rows,
                       .y = out->data,
                       .y_stride = out->stride};
    lm_run_products(s, &down, 1);
    lm_arena_back(&s->dev->layer_arena, mark);
    return s->failed ? NULL : out;
}
