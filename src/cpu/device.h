/* device.h (private to cpu/) - what lies behind tensor.h's handles.
 *
 * A device owns a pool of threads, a scratch area for each of them, two arenas and the pages of keys and values. Activations are f32,
 * rows of `width` floats `stride` apart, in the `layer` arena that `keep` takes back; what the whole step needs (slices, cosines) is
 * in the `step` arena.
 */
#ifndef LM_CPU_DEVICE_H
#define LM_CPU_DEVICE_H

#include "arena.h"
#include "base/pool.h"
#include "cpu.h"
#include "kernels.h"
#include "kv.h"

struct lm_linear {
    lm_device *dev;
    lm_matrix m;
    float *bias;       /* (n_experts, rows) or NULL */
    uint32_t act_kind; /* the prepared form that its products read */
    uint64_t bytes;    /* that it adds to lm_memory.weights */
};

struct lm_vector {
    lm_device *dev;
    uint32_t n;
    float *data; /* 64-aligned */
};

/* One prepared form of an activation, kept with it so that weights that share x share it. */
typedef struct lm_act {
    struct lm_act *next;
    uint32_t kind;
    uint32_t version; /* of the tensor, when it was made */
    size_t stride;
    uint8_t *rows;
} lm_act;

struct lm_tensor {
    float *data;
    uint32_t n_rows, width;
    size_t stride;      /* floats from row to row */
    lm_tensor *owner;   /* whose memory it is: itself, or of what it is columns of */
    uint32_t version;   /* of the owner's numbers: raised by each op that writes into it */
    lm_act *acts;
};

/* One piece of arithmetic of a step's batch: where its row comes from. */
typedef struct lm_row {
    uint32_t slice;
    uint32_t position; /* in its sequence */
} lm_row;

/* The turns of one lm_rope for every row of the step, made at the first use. */
typedef struct lm_turns {
    struct lm_turns *next;
    const lm_rope *rope;
    const float *cos_sin; /* (n_rows, n_dims): n_dims / 2 cosines, then as many sines, times mscale */
} lm_turns;

struct lm_step {
    lm_device *dev;
    const lm_kernels *k;
    lm_slice *slices;
    uint32_t *first_row; /* (n_slices) */
    uint32_t n_slices;
    lm_row *rows;        /* (n_rows) */
    uint32_t n_rows;
    lm_turns *turns;
    bool failed;
    lm_err err;
    lm_arena_mark mark; /* of the layer arena: what `keep` goes back to */
};

struct lm_device {
    const lm_kernels *k;
    lm_pool *pool;
    uint32_t n_threads;
    uint32_t max_batch;
    char description[64];
    uint8_t *scratch;      /* (n_threads, scratch_bytes) */
    size_t scratch_bytes;  /* of one thread; grows with the weights that are made, never within a step */
    lm_arena step_arena, layer_arena;
    lm_kv kv;
    uint64_t weight_bytes;
    uint32_t n_handles;    /* weights and vectors alive */
    lm_step step;          /* the one in progress */
    bool in_step;
};

/* -- step.c */
void lm_step_fail(lm_step *s, lm_status st, const char *format, ...) LM_PRINTF(3, 4);
void *lm_step_take(lm_step *s, size_t bytes); /* from the layer arena; NULL: the step has failed */
void *lm_step_take_kept(lm_step *s, size_t bytes); /* until the step's end */
lm_tensor *lm_step_tensor(lm_step *s, uint32_t n_rows, uint32_t width);
void lm_tensor_changed(lm_tensor *t); /* after writing into it: prepared forms are stale */
uint8_t *lm_thread_scratch(const lm_device *dev, uint32_t thread);
/* Runs rows [0, n_rows) of a job that does a few operations per element: on the calling thread when it is little. */
typedef void lm_rows_job(void *arg, uint32_t row0, uint32_t row1, uint32_t thread);
void lm_run_rows(lm_device *dev, lm_rows_job *job, void *arg, uint32_t n_rows, size_t row_floats);

/* -- device.c */
/* Grows every thread's scratch to at least `bytes`. Only between steps. */
lm_status lm_device_scratch(lm_device *dev, size_t bytes, lm_err *err) LM_CHECKED;

/* -- products.c */
lm_tensor *lm_op_embed(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale);
void lm_op_linears(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out);
lm_tensor *lm_op_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m);

/* -- moe.c */
lm_tensor *lm_op_moe(lm_step *s, const lm_tensor *x, const lm_moe *m);

/* -- attend.c */
lm_tensor *lm_op_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k, const lm_tensor *v);

#endif
