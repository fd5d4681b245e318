/* model.h - a decoder-only transformer read from a model directory: config.json and *.safetensors in, logits out.
 *
 * Every family is a row of one description (norm placement, q/k norm, biases, rope kind, window, soft cap, gate,
 * experts) filled from config.json; the forward pass is written once over tensor.h and never asks which backend runs.
 *
 * Threads: as a device: one thread at a time, apart from lm_model_info and lm_model_estimate.
 */
#ifndef LM_MODEL_H
#define LM_MODEL_H

#include "base/base.h"
#include "tensor/tensor.h"

typedef struct lm_model lm_model;

typedef struct lm_model_info {
    char family[32];           /* config.json's model_type: "qwen2" */
    char quantization[16];     /* as Ollama words it: "4-bit" forms "Q4_G64"..., "F16", "BF16", "MXFP4", "NVFP4" */
    uint64_t n_params;         /* weights counted as numbers, not as packed words */
    uint64_t weight_bytes;
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim, n_vocab;
    uint32_t n_ctx_train;      /* max_position_embeddings, after scaling */
    uint64_t kv_bytes_per_token; /* in 16 bits */
    uint32_t n_experts;        /* 0: dense */
    uint32_t window;           /* 0: none */
} lm_model_info;

/* Reads only config.json and the safetensors headers. LM_NOT_FOUND, LM_CORRUPT, LM_UNSUPPORTED (names the model_type
 * and the ones that are known). */
lm_status lm_model_inspect(const char *dir, lm_model_info *out, lm_err *err) LM_CHECKED;

typedef struct lm_model_config {
    uint32_t n_threads;    /* 0: all */
    const char *features;  /* as lm_device_config.features */
    uint32_t n_ctx;        /* tokens of one sequence at most */
    uint32_t n_parallel;   /* sequences at a time */
    uint32_t max_batch;    /* rows of one step, 512 is usual */
    lm_kv_type kv_type;
} lm_model_config;

/* What loading this would take (weights + kv at n_ctx * n_parallel + step scratch), in bytes. Nothing is loaded. */
lm_status lm_model_estimate(const lm_backend *backend, const char *dir, const lm_model_config *config, uint64_t *bytes, lm_err *err) LM_CHECKED;

lm_status lm_model_open(lm_model **out, const lm_backend *backend, const char *dir, const lm_model_config *config, lm_err *err)
    LM_CHECKED;
void lm_model_close(lm_model *m); /* every sequence must be closed; NULL allowed */
const lm_model_info *lm_model_get_info(const lm_model *m);
const lm_backend *lm_model_backend(const lm_model *m);
lm_device *lm_model_device(const lm_model *m); /* for sequences: lm_model_backend(m)->seq_open(...) */

/* One step over a ragged batch. tokens: those of all slices, back to back. out_rows: n_out rows (indices into tokens)
 * whose logits are wanted. LM_OK: *logits is (n_out, n_vocab) f32, valid until the next call with this model, NULL when n_out is 0. On failure
 * no sequence has changed. Token ids are checked: LM_INVALID. */
lm_status lm_model_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens, const uint32_t *out_rows,
                        uint32_t n_out, const float **logits, lm_err *err) LM_CHECKED;

/* ---- computing ahead, where the backend chooses tokens itself (lm_model_computes_ahead) */

bool lm_model_computes_ahead(const lm_model *m);

/* Hands a step to the device and returns: as lm_model_step, but with the tokens of out_rows chosen there. A token may be
 * LM_FROM_BEFORE(k), row k's of the flight `before`. how: (n_out), or NULL when lm_model_pick follows. On LM_OK the
 * sequences are longer at once, though a failure may still come to light in lm_model_wait: they are lost then. */
lm_status lm_model_launch(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens, const uint32_t *out_rows,
                          uint32_t n_out, const lm_flight *before, const lm_pick *how, lm_flight **out, lm_err *err) LM_CHECKED;
lm_status lm_model_pick(lm_model *m, lm_flight *f, const lm_pick *how, lm_err *err) LM_CHECKED;
/* picked: (n_out), valid until the flight is freed. */
lm_status lm_model_wait(lm_model *m, lm_flight *f, lm_picked *picked, lm_err *err) LM_CHECKED;
void lm_model_flight_free(lm_model *m, lm_flight *f);

#endif
