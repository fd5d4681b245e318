/* import_plan.h - what is written where: made by import_tensors.c, followed by import_stream.c. */
#ifndef LM_STORE_IMPORT_PLAN_H
#define LM_STORE_IMPORT_PLAN_H

#include "store/import_private.h"

typedef struct lm_item {
    const lm_gguf_tensor *source;
    char *name; /* MLX name, with its suffix */
    char module[160];
    lm_form form;
    uint32_t heads; /* rows are put back into this many heads' order; 0: as they are */
    bool minus_one;
    bool single;    /* one expert of several, each a tensor of its own */
    uint64_t width; /* numbers that stay together: a row, or 1 where single ones are picked out of vectors */
    uint64_t first, step, rows; /* of the source's rows: first, first + step ..., so many */
    uint32_t out;               /* index of the first of its specs: weight (, scales, biases) */
    uint64_t at;                /* numbers of the output before these */
} lm_item;

struct lm_plan {
    const lm_gguf *gguf;
    lm_item *items;
    uint32_t n;
    lm_tensor_spec *specs; /* n_specs, at most three for an item */
    uint32_t n_specs;
    uint32_t heads, kv_heads, head_dim, experts; /* of the metadata */
    uint32_t singles;                            /* items of single experts */
};

/* Of the source, for one of the item's rows and for all of them. */
static inline uint64_t lm_item_row_bytes(const lm_item *it) {
    return it->source->row_bytes * it->width / it->source->dims[0];
}
static inline uint64_t lm_item_bytes(const lm_item *it) {
    return it->rows * lm_item_row_bytes(it);
}

#endif
