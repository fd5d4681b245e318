/* model.h - a transformer read from a model directory: config.json and *.safetensors in, logits or states out.
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

/* What fine tuning has added to the model, beside its weights in its directory: a safetensors file that holds, for each adapted
 * matrix NAME (rows, cols), NAME.lora_a (rank, cols), NAME.lora_b (rows, rank) in f32, f16 or bf16 and NAME.scale (1) f32, meaning
 * y = x Wᵀ + scale * (x Aᵀ) Bᵀ. NAME is "layers.3.self_attn.q_proj" or "lm_head", whatever the weights have before it. */
#define LM_ADAPTER_FILE "adapter"

/* How the states of a text's tokens become its embedding, with llama.cpp's numbers (GGUF's pooling_type). */
typedef enum lm_pooling {
    LM_POOL_MEAN = 1,
    LM_POOL_CLS = 2,  /* the first token's */
    LM_POOL_LAST = 3, /* the last token's */
} lm_pooling;

/* What a directory says of its model as an embedder: modules.json and the files that it names, as sentence-transformers
 * writes them. A decoder that says nothing gives its last token's state, as with Ollama; an encoder the mean, as with
 * sentence-transformers. */
typedef struct lm_embedding_info {
    lm_pooling pooling;
    bool said;          /* the directory has such files: it is meant as an embedder */
    uint32_t n_max;     /* tokens of a text at most, 0: not said */
    char problem[240];  /* why there can be no embeddings, "" */
} lm_embedding_info;

typedef struct lm_model_info {
    char family[32];           /* config.json's model_type: "qwen2" */
    char quantization[16];     /* as Ollama words it: "4-bit" forms "Q4_G64"..., "F16", "BF16", "MXFP4", "NVFP4" */
    uint64_t n_params;         /* weights counted as numbers, not as packed words */
    uint64_t weight_bytes;
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim, n_vocab;
    uint32_t n_ctx_train;      /* max_position_embeddings, after scaling */
    uint64_t kv_bytes_per_token; /* in 16 bits */
    bool encoder;              /* BERT's kind: gives states, no tokens; a text is one slice of one step */
    uint32_t n_experts;        /* 0: dense */
    uint32_t window;           /* 0: none */
    lm_embedding_info embedding;
} lm_model_info;

/* Reads only config.json and the safetensors headers. LM_NOT_FOUND, LM_CORRUPT, LM_UNSUPPORTED (names the model_type
 * and the ones that are known). */
lm_status lm_model_inspect(const char *dir, lm_model_info *out, lm_err *err) LM_CHECKED;

/* ---- one of several processes that hold parts of a model (see split.h) */

typedef enum lm_split { LM_SPLIT_AUTO, LM_SPLIT_TENSOR, LM_SPLIT_PIPELINE } lm_split;

/* How what rank 0 does with its model reaches the others, which do the same with theirs (lm_follower_do). */
typedef struct lm_mirror {
    void *ctx;
    /* Sends a frame to every other rank; in order, without waiting. */
    lm_status (*tell)(void *ctx, const void *frame, size_t n, lm_err *err);
    /* Waits until every other rank has answered the last frame; the first failure of one is the result. */
    lm_status (*answers)(void *ctx, lm_err *err);
    /* Rank 0 could not do what it has told the others: the ranks are out of step for good. */
    void (*broken)(void *ctx, const char *why);
} lm_mirror;

typedef struct lm_world {
    uint32_t rank, size;
    lm_split split;          /* AUTO: tensor where the model can be split so */
    const lm_mirror *mirror; /* of rank 0; the others have none */
} lm_world;

typedef struct lm_model_config {
    uint32_t n_threads;    /* 0: all */
    const char *features;  /* as lm_device_config.features */
    uint32_t n_ctx;        /* tokens of one sequence at most */
    uint32_t n_parallel;   /* sequences at a time */
    uint32_t max_batch;    /* rows of one step, 512 is usual; an encoder has n_ctx at least */
    lm_kv_type kv_type;
    const lm_world *world; /* NULL: alone; outlives the model */
} lm_model_config;

/* What loading this would take here, in bytes. Nothing is loaded. */
typedef struct lm_model_need {
    uint64_t weights; /* this rank's share */
    uint64_t kv;      /* keys and values at n_ctx * n_parallel */
    uint64_t scratch; /* of a step */
} lm_model_need;
lm_status lm_model_need_of(const lm_backend *backend, const char *dir, const lm_model_config *config, lm_model_need *out, lm_err *err)
    LM_CHECKED;
/* All of it. */
lm_status lm_model_estimate(const lm_backend *backend, const char *dir, const lm_model_config *config, uint64_t *bytes, lm_err *err) LM_CHECKED;

lm_status lm_model_open(lm_model **out, const lm_backend *backend, const char *dir, const lm_model_config *config, lm_err *err)
    LM_CHECKED;
void lm_model_close(lm_model *m); /* every sequence must be closed; NULL allowed */
const lm_model_info *lm_model_get_info(const lm_model *m);
const lm_backend *lm_model_backend(const lm_model *m);
lm_device *lm_model_device(const lm_model *m);
lm_split lm_model_split(const lm_model *m); /* TENSOR or PIPELINE; means nothing to a model that is alone */

void lm_model_idle(lm_model *m); /* nothing runs now: every rank's backend tidies up */

/* ---- sequences: as the backend's calls of these names, on every rank. seq_reserve and seq_len are the backend's own. */

lm_status lm_model_seq_open(lm_model *m, lm_seq **out, lm_err *err) LM_CHECKED;
void lm_model_seq_close(lm_model *m, lm_seq *seq); /* NULL allowed */
void lm_model_seq_trim(lm_model *m, lm_seq *seq, uint32_t n_tokens);
lm_status lm_model_seq_fork(lm_model *m, lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) LM_CHECKED;

/* One step over a ragged batch. tokens: those of all slices, back to back. out_rows: n_out rows (indices into tokens)
 * whose logits are wanted. LM_OK: *logits is (n_out, n_vocab) f32, valid until the next call with this model, NULL when n_out is 0. On failure
 * no sequence has changed. Token ids are checked: LM_INVALID. */
lm_status lm_model_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens, const uint32_t *out_rows,
                        uint32_t n_out, const float **logits, lm_err *err) LM_CHECKED;

/* The same step for embeddings: *states is (n_out, width), what the head would read of those rows. Also where the
 * backend computes ahead. */
lm_status lm_model_states(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens, const uint32_t *out_rows,
                          uint32_t n_out, const float **states, lm_err *err) LM_CHECKED;

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

/* ---- the other ranks */

typedef struct lm_follower lm_follower;
/* backend and world outlive it. budget: bytes that a model may take on this rank; what takes more is refused with LM_NO_MEMORY. */
lm_follower *lm_follower_new(const lm_backend *backend, const lm_world *world, uint64_t budget);
void lm_follower_free(lm_follower *f);                                          /* NULL allowed */
/* Does what a frame says. *answers: rank 0 waits for an answer to it, whatever the result. A failure where it doesn't: this rank is
 * out of step and must end. Frames may be anything: LM_CORRUPT. */
lm_status lm_follower_do(lm_follower *f, const void *frame, size_t n, bool *answers, lm_err *err) LM_CHECKED;

#endif
