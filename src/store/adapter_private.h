/* adapter_private.h - what the files that convert adapters share.
 *
 * An adapter is a list of pairs of matrices, views of the file that they come from; adapter_write.c puts them
 * into the one form that model.h describes. Where they come from: adapter_safetensors.c, adapter_gguf.c. */
#ifndef LM_STORE_ADAPTER_PRIVATE_H
#define LM_STORE_ADAPTER_PRIVATE_H

#include "model/model.h"
#include "store/import_private.h"

/* One matrix, or a stack of them, as a file has it: (n_experts, rows, cols), or (cols, rows) where `turned`.
 */
typedef struct lm_lora_half {
    const uint8_t *data; /* NULL: not seen yet */
    lm_dtype dtype;
    uint64_t rows, cols;
    uint64_t n_experts; /* 0: a plain matrix */
    bool turned;
    uint32_t heads; /* its rows are in the order that GGUF has them in (lm_family_row) */
} lm_lora_half;

typedef struct lm_lora {
    char name[200];    /* "layers.3.self_attn.q_proj" */
    lm_lora_half a, b; /* (rank, columns of W), (rows of W, rank) */
    float scale;
    bool scaled; /* scale is set */
} lm_lora;

typedef struct lm_loras {
    lm_lora *items;
    uint32_t n;
} lm_loras;

/* The entry of the matrix that a file calls `module`, made when it is new. LM_UNSUPPORTED: a module that is
 * none of a text model's layers. */
lm_status lm_lora_of(lm_loras *l, lm_str module, lm_lora **out, lm_err *err) LM_CHECKED;
/* *half is what the view says: (rows, cols), turned around where `turned`; with three dimensions it is a
 * stack, never turned. LM_UNSUPPORTED: no matrix of numbers. LM_CORRUPT: it is there twice. */
lm_status lm_lora_put(lm_lora_half *half, const char *tensor, const lm_view *v, bool turned,
                      lm_err *err) LM_CHECKED;
/* Whole pairs only, of sensible ranks: LM_CORRUPT names the matrix. */
lm_status lm_loras_check(const lm_loras *l, lm_err *err) LM_CHECKED;
lm_status lm_loras_write(const lm_loras *l, const char *path, lm_err *err) LM_CHECKED;
void lm_loras_release(lm_loras *l);

/* config NULL: there is none. The views live as long as w. */
lm_status lm_loras_safetensors(lm_loras *out, const lm_weights *w, const json_t *config,
                               lm_err *err) LM_CHECKED;
lm_status lm_loras_gguf(lm_loras *out, const lm_gguf *g, const lm_model_info *base, lm_err *err) LM_CHECKED;

#endif
