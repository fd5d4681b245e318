/* adapter.h (private to model/) - what fine tuning has added to a model, from DIR/adapter (model.h says its
 * form).
 *
 * The base's weights stay as they are, quantised and mapped: an adapted product is y = x Wᵀ + scale * (x Aᵀ)
 * Bᵀ with A (rank, cols) and B (rows, rank), two small products more (LoRA: arXiv 2106.09685). */
#ifndef LM_MODEL_ADAPTER_H
#define LM_MODEL_ADAPTER_H

#include "weights/weights.h"

typedef struct lm_adapter lm_adapter;

/* *out is NULL where dir holds none. LM_CORRUPT. */
lm_status lm_adapter_open(lm_adapter **out, const char *dir, lm_err *err) LM_CHECKED;
void lm_adapter_close(lm_adapter *a);           /* NULL allowed */
uint32_t lm_adapter_rank(const lm_adapter *a);  /* the largest of its matrices' */
uint64_t lm_adapter_bytes(const lm_adapter *a); /* of its tensors; of NULL: 0 */

/* What it says of one matrix; views of the file. */
typedef struct lm_adapter_pair {
    lm_matrix a, b;
    float scale;
} lm_adapter_pair;

/* Of the matrix `name` ("layers.3.self_attn.q_proj", "lm_head") of the model, as w has it (a stack has
 * stacks). *there: it says something. LM_CORRUPT: what doesn't fit. a may be NULL. */
lm_status lm_adapter_find(lm_adapter *a, const char *name, const lm_matrix *w, lm_adapter_pair *out,
                          bool *there, lm_err *err) LM_CHECKED;
/* LM_UNSUPPORTED: names a tensor that no matrix has asked for. a may be NULL. */
lm_status lm_adapter_used_up(const lm_adapter *a, lm_err *err) LM_CHECKED;

#endif
