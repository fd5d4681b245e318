#include "model/split.h"

/* Where rank r's part of n things begins when they are dealt out evenly. */
static uint32_t begin_of(uint32_t n, uint32_t r, uint32_t size) {
    return (uint32_t)((uint64_t)n * r / size);
}

static lm_status plan_pipeline(const lm_config *c, const lm_world *w, lm_share *s, lm_err *err) {
    if (c->n_layers < w->size)
        return lm_fail(err, LM_UNSUPPORTED, "%u layers cannot be dealt out to %u ranks: use fewer ranks",
                       c->n_layers, w->size);
    uint32_t turn = w->size - 1 - w->rank; /* the last rank begins */
    s->first_layer = begin_of(c->n_layers, turn, w->size);
    s->n_layers = begin_of(c->n_layers, turn + 1, w->size) - s->first_layer;
    return LM_OK;
}

static lm_status plan_tensor(const lm_config *c, const lm_world *w, lm_share *s, lm_err *err) {
    uint32_t kv = c->n_kv_heads, group = c->n_heads / kv;
    if (c->family->flags & LM_FAM_WIDE_NORM)
        return lm_fail(err, LM_UNSUPPORTED,
                       "%s norms all heads together, they cannot be split: use --distributed-mode pipeline",
                       c->type);
    if (kv >= w->size) {
        s->first_kv_head = begin_of(kv, w->rank, w->size);
        s->n_kv_heads = begin_of(kv, w->rank + 1, w->size) - s->first_kv_head;
        s->first_head = s->first_kv_head * group;
        s->n_heads = s->n_kv_heads * group;
        return LM_OK;
    }
    uint32_t sharing = w->size / kv; /* ranks with the same key/value head */
    if (w->size % kv || group % sharing)
        return lm_fail(err, LM_UNSUPPORTED,
                       "%u heads over %u of keys and values cannot be dealt out to %u ranks: use "
                       "--distributed-mode pipeline, or "
                       "another number of ranks",
                       c->n_heads, kv, w->size);
    s->first_kv_head = w->rank / sharing;
    s->n_kv_heads = 1;
    s->n_heads = group / sharing;
    s->first_head = w->rank * s->n_heads;
    return LM_OK;
}

lm_status lm_share_plan(const lm_config *c, const lm_world *world, lm_split split, lm_share *out,
                        lm_err *err) {
    lm_share s = {.rank = world ? world->rank : 0,
                  .size = world ? world->size : 1,
                  .split = split,
                  .n_layers = c->n_layers,
                  .n_heads = c->n_heads,
                  .n_kv_heads = c->n_kv_heads};
    lm_status st = LM_OK;
    if (s.size > 1)
        st = split == LM_SPLIT_PIPELINE ? plan_pipeline(c, world, &s, err) : plan_tensor(c, world, &s, err);
    if (st == LM_OK) *out = s;
    return st;
}

lm_status lm_share_of(const lm_share *s, uint32_t all, uint32_t unit, const char *what, uint32_t *first,
                      uint32_t *n, lm_err *err) {
    uint32_t units = all / unit;
    if (all % unit || units < s->size)
        return lm_fail(err, LM_UNSUPPORTED,
                       "%s: %u columns in groups of %u cannot be dealt out to %u ranks: use "
                       "--distributed-mode pipeline, or fewer "
                       "ranks",
                       what, all, unit, s->size);
    *first = begin_of(units, s->rank, s->size) * unit;
    *n = begin_of(units, s->rank + 1, s->size) * unit - *first;
    return LM_OK;
}
