/* split.h (private to model/) - who holds what of a model that several processes compute together.
 *
 * Tensor: every rank has every layer, but only some heads and some of the MLP's inner columns: q, k, v, gate
 * and up are cut by rows, o and down by columns, and what those two give is summed over all ranks. Where
 * there are fewer key/value heads than ranks, several ranks hold the same one. Pipeline: every rank has some
 * layers, the first ones on the last rank, the last ones on rank 0, which chooses the tokens.
 */
#ifndef LM_MODEL_SPLIT_H
#define LM_MODEL_SPLIT_H

#include "model/config.h"
#include "model/model.h"

/* One rank's share. */
typedef struct lm_share {
    uint32_t rank, size; /* size 1: all of it */
    lm_split split;      /* not AUTO */
    uint32_t first_layer, n_layers;
    uint32_t first_head, n_heads, first_kv_head, n_kv_heads;
} lm_share;

/* LM_UNSUPPORTED: it cannot be split so, says why. world NULL: alone. split: TENSOR or PIPELINE. */
lm_status lm_share_plan(const lm_config *c, const lm_world *world, lm_split split, lm_share *out,
                        lm_err *err) LM_CHECKED;

/* This rank's part [*first, *first + *n) of `all` columns of `what`, in units that may not be cut. Every rank
 * gets one unit at least, else LM_UNSUPPORTED. */
lm_status lm_share_of(const lm_share *s, uint32_t all, uint32_t unit, const char *what, uint32_t *first,
                      uint32_t *n, lm_err *err) LM_CHECKED;

/* Whether this rank is one of several that hold parts of the same layers. */
static inline bool lm_share_tensor(const lm_share *s) {
    return s->size > 1 && s->split == LM_SPLIT_TENSOR;
}
static inline bool lm_share_has_layer(const lm_share *s, uint32_t layer) {
    return layer >= s->first_layer && layer - s->first_layer < s->n_layers;
}

#endif
