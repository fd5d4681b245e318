/* A mixture of experts: every row is routed to top_k of them; the rows of one expert are multiplied together,
 * so that each expert's weights are read once per step. */
#include "device.h"

#include <math.h>
#include <string.h>

#define MAX_EXPERTS 1024

typedef struct route {
    uint32_t row;
    uint32_t expert;
    float weight;
    uint32_t place; /* its row among those sorted by expert */
} route;

/* The k largest of n logits, best first; ties go to the lower index. */
static void choose_top(const float *logits, uint32_t n, uint32_t k, uint32_t *index) {
    for (uint32_t i = 0; i < k; i++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < n; e++) {
            bool taken = false;
            for (uint32_t j = 0; j < i && !taken; j++) taken = index[j] == e;
            if (!taken && (best == UINT32_MAX || logits[e] > logits[best])) best = e;
        }
        index[i] = best;
    }
}

static void route_row(const lm_moe *m, const float *logits, uint32_t row, route *out) {
    uint32_t index[MAX_EXPERTS] = {0};
    choose_top(logits, m->n_experts, m->top_k, index);
    float top = logits[index[0]], all = 0, chosen = 0;
    if (m->softmax_first)
        for (uint32_t e = 0; e < m->n_experts; e++) all += expf(logits[e] - top);
    for (uint32_t i = 0; i < m->top_k; i++) chosen += expf(logits[index[i]] - top);
    float sum = m->softmax_first && !m->renorm ? all : chosen;
    for (uint32_t i = 0; i < m->top_k; i++)
        out[i] = (route){.row = row, .expert = index[i], .weight = expf(logits[index[i]] - top) / sum};
}

/* Gives every route its place and counts the rows of each expert. */
static void sort_routes(route *routes, uint32_t n, uint32_t n_experts, uint32_t *counts, uint32_t *firsts) {
    memset(counts, 0, n_experts * sizeof *counts);
    for (uint32_t i = 0; i < n; i++) counts[routes[i].expert]++;
    uint32_t at = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        firsts[e] = at;
        at += counts[e];
    }
    for (uint32_t i = 0; i < n; i++) routes[i].place = firsts[routes[i].expert]++;
    for (uint32_t e = 0; e < n_experts; e++) firsts[e] -= counts[e];
}

/* x's prepared rows in the order of the places. */
static uint8_t *gather_acts(lm_step *s, const lm_act *act, const route *routes, uint32_t n) {
    uint8_t *out = lm_step_take(s, n * act->stride);
    if (!out) return NULL;
    for (uint32_t i = 0; i < n; i++)
        memcpy(out + routes[i].place * act->stride, act->rows + routes[i].row * act->stride, act->stride);
    return out;
}

typedef struct mix {
    const lm_kernels *k;
    const route *routes;
    const lm_tensor *parts;
    lm_tensor *out;
    uint32_t top_k;
} mix;

static void mix_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const mix *m = arg;
    for (uint32_t r = row0; r < row1; r++) {
        float *out = m->out->data + r * m->out->stride;
        memset(out, 0, m->out->width * sizeof(float));
        for (uint32_t i = 0; i < m->top_k; i++) {
            const route *way = &m->routes[r * m->top_k + i];
            m->k->add_scaled(out, m->parts->data + way->place * m->parts->stride, way->weight, m->out->width);
        }
    }
}

static bool check_moe(lm_step *s, const lm_tensor *x, const lm_moe *m, const lm_product *glu) {
    if (m->n_experts == 0 || m->n_experts > MAX_EXPERTS || m->top_k == 0 || m->top_k > m->n_experts) {
        lm_step_fail(s, LM_UNSUPPORTED, "%u of %u experts per token; at most %d experts are known", m->top_k,
                     m->n_experts, MAX_EXPERTS);
        return false;
    }
    if (m->router->m.rows != m->n_experts || glu->w->m.n_experts != m->n_experts ||
        glu->up->m.n_experts != m->n_experts || m->experts.down->m.n_experts != m->n_experts ||
        glu->w->m.cols != x->width) {
        lm_step_fail(s, LM_INTERNAL, "a mixture whose router and weights disagree about %u experts",
                     m->n_experts);
        return false;
    }
    return true;
}

/* One product per expert that has rows. */
static uint32_t spread(const lm_product *like, uint32_t n_experts, const uint32_t *counts,
                       const uint32_t *firsts, lm_product *list) {
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        if (!counts[e]) continue;
        lm_product *p = &list[n++];
        *p = *like;
        p->expert = e;
        p->n_rows = counts[e];
        p->acts += firsts[e] * p->act_stride;
        if (p->up) p->up_acts += firsts[e] * p->up_act_stride;
        p->y += firsts[e] * p->y_stride;
    }
    return n;
}

/* The rows of a step by the experts that they go to. */
typedef struct dealt {
    lm_step *s;
    const lm_tensor *x;
    const route *routes;
    uint32_t n, n_experts; /* n: rows times top_k, one place each */
    const uint32_t *counts, *firsts;
    lm_product *list; /* (n_experts) */
} dealt;

/* Each place's row times its expert of the stack w: (n, rows of w). in: x, or what has a row for each place
 * already. */
static lm_tensor *by_expert(dealt *d, const lm_tensor *in, const lm_linear *w) {
    const lm_act *act = d->s->failed ? NULL : lm_step_acts(d->s, in, w->act_kind);
    lm_tensor *y = act ? lm_step_tensor(d->s, d->n, w->m.rows) : NULL;
    const uint8_t *acts = !y ? NULL : in == d->x ? gather_acts(d->s, act, d->routes, d->n) : act->rows;
    if (!acts) return NULL;
    lm_product p = {
        .w = w, .n = w->m.rows, .acts = acts, .act_stride = act->stride, .y = y->data, .y_stride = y->stride};
    lm_run_products(d->s, d->list, spread(&p, d->n_experts, d->counts, d->firsts, d->list));
    return d->s->failed ? NULL : y;
}

/* The same with what an adapter adds; delta NULL: none. */
static lm_tensor *adapted(dealt *d, const lm_tensor *in, const lm_linear *w, const lm_delta *delta) {
    lm_tensor *y = by_expert(d, in, w);
    if (!y || !delta || !delta->a) return y;
    lm_tensor *small = by_expert(d, in, delta->a), *more = small ? by_expert(d, small, delta->b) : NULL;
    return more ? lm_op_add(d->s, y, more, delta->scale) : NULL;
}

/* act(gate) * up of each place: (n, ffn). */
static lm_tensor *hidden_of(dealt *d, const lm_moe *m, lm_product *glu) {
    lm_step *s = d->s;
    const lm_tensor *x = d->x;
    const lm_delta *deltas = m->deltas;
    if (deltas && (deltas[LM_MOE_GATE].a || deltas[LM_MOE_UP].a)) {
        lm_tensor *gate = adapted(d, x, m->experts.gate, &deltas[LM_MOE_GATE]);
        lm_tensor *up = gate ? adapted(d, x, m->experts.up, &deltas[LM_MOE_UP]) : NULL;
        return up ? lm_op_gated(s, gate, up, m->experts.act) : NULL;
    }
    const lm_act *act = lm_step_acts(s, x, glu->w->act_kind);
    const lm_act *up_act = act ? lm_step_acts(s, x, glu->up->act_kind) : NULL;
    lm_tensor *hidden = up_act ? lm_step_tensor(s, d->n, glu->n) : NULL;
    if (!hidden) return NULL;
    glu->acts = gather_acts(s, act, d->routes, d->n);
    glu->up_acts = up_act == act ? glu->acts : gather_acts(s, up_act, d->routes, d->n);
    if (s->failed) return NULL;
    glu->act_stride = act->stride;
    glu->up_act_stride = up_act->stride;
    glu->y = hidden->data;
    glu->y_stride = hidden->stride;
    lm_run_products(s, d->list, spread(glu, d->n_experts, d->counts, d->firsts, d->list));
    return s->failed ? NULL : hidden;
}

static lm_tensor *router_logits(lm_step *s, const lm_tensor *x, const lm_moe *m) {
    lm_tensor *logits = NULL, *small = NULL, *more = NULL;
    lm_op_linears(s, x, &m->router, 1, &logits);
    const lm_delta *delta = m->deltas ? &m->deltas[LM_MOE_ROUTER] : NULL;
    if (!delta || !delta->a) return logits;
    lm_op_linears(s, x, &delta->a, 1, &small);
    if (small) lm_op_linears(s, small, &delta->b, 1, &more);
    return more ? lm_op_add(s, logits, more, delta->scale) : NULL;
}

lm_tensor *lm_op_moe(lm_step *s, const lm_tensor *x, const lm_moe *m) {
    if (s->failed) return NULL;
    lm_product glu;
    if (!lm_glu_product(s, &m->experts, &glu) || !check_moe(s, x, m, &glu)) return NULL;
    /* before the mark: they serve whatever else reads x */
    const lm_act *act = lm_step_acts(s, x, glu.w->act_kind);
    const lm_act *up_act = act ? lm_step_acts(s, x, glu.up->act_kind) : NULL;
    for (int i = LM_MOE_GATE; m->deltas && up_act && i <= LM_MOE_UP; i++)
        if (m->deltas[i].a) up_act = lm_step_acts(s, x, m->deltas[i].a->act_kind);
    lm_tensor *out = up_act ? lm_step_tensor(s, x->n_rows, m->experts.down->m.rows) : NULL;
    if (!out || x->n_rows == 0) return out;

    lm_tensor *logits = router_logits(s, x, m);
    lm_arena_mark mark = lm_arena_mark_now(&s->dev->layer_arena);
    uint32_t n = x->n_rows * m->top_k;
    route *routes = lm_step_take(s, n * sizeof *routes);
    uint32_t *counts = lm_step_take(s, 2 * m->n_experts * sizeof *counts);
    lm_product *list = lm_step_take(s, m->n_experts * sizeof *list);
    if (s->failed) return NULL;
    uint32_t *firsts = counts + m->n_experts;
    for (uint32_t r = 0; r < x->n_rows; r++)
        route_row(m, logits->data + r * logits->stride, r, routes + (size_t)r * m->top_k);
    sort_routes(routes, n, m->n_experts, counts, firsts);

    dealt d = {s, x, routes, n, m->n_experts, counts, firsts, list};
    lm_tensor *hidden = hidden_of(&d, m, &glu);
    lm_tensor *parts =
        hidden ? adapted(&d, hidden, m->experts.down, m->deltas ? &m->deltas[LM_MOE_DOWN] : NULL) : NULL;
    if (!parts) return NULL;
    mix job = {s->k, routes, parts, out, m->top_k};
    lm_run_rows(s->dev, mix_rows, &job, x->n_rows, (size_t)out->width * m->top_k);
    lm_arena_back(&s->dev->layer_arena, mark);
    return out;
}
