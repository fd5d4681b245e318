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

lm_tensor *lm_op_moe(lm_step *s, const lm_tensor *x, const lm_moe *m) {
    if (s->failed) return NULL;
    lm_product glu;
    if (!lm_glu_product(s, &m->experts, &glu) || !check_moe(s, x, m, &glu)) return NULL;
    const lm_act *act = lm_step_acts(s, x, glu.w->act_kind);
    const lm_act *up_act = act ? lm_step_acts(s, x, glu.up->act_kind) : NULL;
    lm_tensor *out = up_act ? lm_step_tensor(s, x->n_rows, m->experts.down->m.rows) : NULL;
    if (!out || x->n_rows == 0) return out;

    lm_tensor *logits = NULL;
    lm_op_linears(s, x, &m->router, 1, &logits);
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

    lm_tensor *hidden = lm_step_tensor(s, n, glu.n);
    glu.acts = gather_acts(s, act, routes, n);
    glu.up_acts = up_act == act ? glu.acts : gather_acts(s, up_act, routes, n);
    if (s->failed) return NULL;
    glu.act_stride = act->stride;
    glu.up_act_stride = up_act->stride;
    glu.y = hidden->data;
    glu.y_stride = hidden->stride;
    lm_run_products(s, list, spread(&glu, m->n_experts, counts, firsts, list));

    const lm_act *hidden_act = s->failed ? NULL : lm_step_acts(s, hidden, m->experts.down->act_kind);
    lm_tensor *parts = hidden_act ? lm_step_tensor(s, n, out->width) : NULL;
    if (!parts) return NULL;
    lm_product down = {.w = m->experts.down,
                       .n = out->width,
                       .acts = hidden_act->rows,
                       .act_stride = hidden_act->stride,
                       .y = parts->data,
                       .y_stride = parts->stride};
    lm_run_products(s, list, spread(&down, m->n_experts, counts, firsts, list));
    if (s->failed) return NULL;
    mix job = {s->k, routes, parts, out, m->top_k};
    lm_run_rows(s->dev, mix_rows, &job, x->n_rows, (size_t)out->width * m->top_k);
    lm_arena_back(&s->dev->layer_arena, mark);
    return out;
}
