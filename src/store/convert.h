/* convert.h - a model directory's weights in another form: private to this room; store.h has what others ask
 * for, docs/CONVERT.md what becomes of what.
 *
 * Two steps. The plan (convert_plan.c) lists every tensor that will be written, from names and shapes alone:
 * what it is called for MLX, which tensors of the source it is made of, as which numbers or quantised form.
 * Nothing is read before it is whole, so what cannot be converted is refused at once. Then the data streams
 * through buffers of a fixed size, row blocks on several threads (convert_write.c).
 *
 * Names, shapes and forms come from files of strangers: every one is checked in the plan.
 */
#ifndef LM_STORE_CONVERT_H
#define LM_STORE_CONVERT_H

#include <jansson.h>

#include "store/store.h"
#include "weights/weights.h"

/* One tensor of the result: `rows` rows of `cols` numbers. The source is n_parts tensors of the same shape
 * and type one after the other (experts), of which every step-th row is taken, from row `phase` on (gate and
 * up that lie row by row). Rows are counted over all parts, as if they were one. */
typedef struct lm_convert_item {
    char *name;     /* owned */
    lm_view *parts; /* owned */
    uint32_t n_parts;
    uint32_t step, phase;
    uint64_t rows, cols; /* of the source's elements, taken rows only */
    lm_dtype from, to;   /* elements; the same: copied */
    lm_quant_spec quant; /* NONE: numbers of `to`; else rows of cols / group groups */
    lm_dtype written;    /* NONE: what the file calls it: `to`, but for packed words that were bytes */
    uint32_t n_dims;
    uint64_t dims[LM_MAX_DIMS]; /* of elements, before quantisation */
} lm_convert_item;

typedef struct lm_convert_plan {
    lm_weights *source; /* owned */
    json_t *config;     /* owned: config.json as it will be */
    lm_convert_item *items;
    uint32_t n;
    bool needed;        /* as they are the weights run neither here nor in mlx-lm */
    bool quantised;     /* by MLX, already */
    lm_dtype mostly;    /* what most numbers of the source are */
    uint64_t shard_max; /* bytes of a file of weights; one tensor may be more */
} lm_convert_plan;

/* how NULL: only what the form for MLX needs. LM_NOT_FOUND, LM_CORRUPT, LM_UNSUPPORTED. */
lm_status lm_convert_plan_open(lm_convert_plan **out, const char *dir, const lm_conversion *how,
                               lm_err *err) LM_CHECKED;
void lm_convert_plan_close(lm_convert_plan *p); /* NULL allowed */

/* The form of the matrix `name` (with .weight), kind NONE: it stays as it is. Fills the config's
 * "quantization". */
typedef struct lm_convert_rules {
    const lm_conversion *how;
    const char *type; /* model_type */
    uint32_t n_layers;
    bool every; /* "quantization" names every matrix, as where some are quantised otherwise already */
    json_t *quantization; /* borrowed from the config */
} lm_convert_rules;
lm_quant_spec lm_convert_rule(const lm_convert_rules *r, const char *name, uint64_t cols);
json_t *lm_convert_spec_json(lm_quant_spec q); /* as config.json has it; a new reference */

/* Writes model*.safetensors (an index when there are several) and config.json into the directory dir.
 * LM_CORRUPT: numbers that are not finite. LM_NO_SPACE, LM_IO, LM_CANCELLED. */
lm_status lm_convert_write(const lm_convert_plan *p, const char *dir, lm_store_progress *progress, void *ctx,
                           lm_err *err) LM_CHECKED;

#endif
