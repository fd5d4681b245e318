/* device.h (private to cpu/) - what lies behind tensor.h's handles.
 *
 * A device owns a pool of threads, a scratch area for each of them, two arenas and the pages of keys and
 * values. Activations are f32, rows of `width` floats `stride` apart, in the `layer` arena that `keep` takes
 * back; what the whole step needs (slices, cosines) is in the `step` arena.
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
    float *bias;        /* (n_experts, rows) or NULL */
    uint32_t act_kind;  /* the prepared form that its products read */
    bool by_definition; /* in a form that only the reference kernel knows, which every set then runs */
    uint64_t bytes;     /* that it adds to lm_memory.weights */
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
    size_t stride;     /* floats from row to row */
    uint32_t *version; /* of the numbers, shared with the views of them: raised by each op that writes */
    lm_act **acts;     /* list of prepared forms */
};

/* Where a row of the batch belongs. */
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
    lm_row *rows; /* (n_rows) */
    uint32_t n_rows;
    lm_turns *turns;
    bool failed;
    lm_err err;
    lm_tensor *kept; /* where `keep` puts what goes on, in the step arena; NULL before the first */
};

struct lm_device {
    const lm_kernels *k;
    lm_pool *pool;
    uint32_t n_threads;
    uint32_t max_batch;
    char description[64];
    uint8_t *scratch;     /* (n_threads, scratch_bytes) */
    size_t scratch_bytes; /* of one thread; grows with the weights that are made, never within a step */
    lm_arena step_arena, layer_arena;
    lm_kv kv;
    uint64_t weight_bytes;
    uint32_t n_handles; /* weights and vectors alive */
    lm_step step;       /* the one in progress */
    bool in_step;
};

/* -- step.c */
void lm_step_fail(lm_step *s, lm_status st, const char *format, ...) LM_PRINTF(3, 4);
void *lm_step_take(lm_step *s, size_t bytes);      /* from the layer arena; NULL: the step has failed */
void *lm_step_take_kept(lm_step *s, size_t bytes); /* until the step's end */
lm_tensor *lm_step_tensor(lm_step *s, uint32_t n_rows, uint32_t width);
/* The rows of x in the form that `kind` says, made at the first call after x has changed. NULL: the step has
 * failed. */
const lm_act *lm_step_acts(lm_step *s, const lm_tensor *x, uint32_t kind);
uint8_t *lm_thread_scratch(const lm_device *dev, uint32_t thread);
/* Runs rows [0, n_rows) of a job that does a few operations per element: on the calling thread when it is
 * little. */
typedef void lm_rows_job(void *arg, uint32_t row0, uint32_t row1, uint32_t thread);
void lm_run_rows(lm_device *dev, lm_rows_job *job, void *arg, uint32_t n_rows, size_t row_floats);

lm_status lm_op_begin(lm_device *dev, const lm_slice *slices, uint32_t n_slices, const lm_flight *before,
                      lm_step **out, lm_err *err);
lm_status lm_op_end(lm_step *s, bool abandon, lm_err *err);
lm_tensor *lm_op_rms_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, float eps);
lm_tensor *lm_op_layer_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, const lm_vector *bias,
                            float eps);
lm_tensor *lm_op_columns(lm_step *s, const lm_tensor *x, uint32_t first, uint32_t width);
lm_tensor *lm_op_rows(lm_step *s, const lm_tensor *x, const uint32_t *index, uint32_t n);
lm_tensor *lm_op_keep(lm_step *s, lm_tensor *x);
lm_tensor *lm_op_add(lm_step *s, lm_tensor *x, const lm_tensor *y, float scale);
lm_tensor *lm_op_scale(lm_step *s, lm_tensor *x, float scale, float cap);
const float *lm_op_read(lm_step *s, const lm_tensor *x);

/* -- device.c */
/* Grows every thread's scratch to at least `bytes`. Only between steps. */
lm_status lm_device_scratch(lm_device *dev, size_t bytes, lm_err *err) LM_CHECKED;

/* -- products.c */
/* y = acts · Wᵀ + bias for the rows [first, first + n) of W, or act(gate) * up of two such (up != NULL). */
typedef struct lm_product {
    const lm_linear *w, *up;
    uint32_t first, up_first; /* multiples of the kernels' matmul_step */
    uint32_t n;
    uint32_t expert;
    const uint8_t *acts, *up_acts;
    size_t act_stride, up_act_stride;
    uint32_t n_rows;
    lm_glu act;
    float *y; /* (n_rows, y_stride), column 0 is row `first` of W */
    size_t y_stride;
    /* filled in by lm_run_products */
    uint32_t piece, n_pieces, first_piece;
} lm_product;
void lm_run_products(lm_step *s, lm_product *list, uint32_t n);
/* Fills in w, up and the like of act(gate) * up for a model's mlp; false: the step has failed. */
bool lm_glu_product(lm_step *s, const lm_mlp *m, lm_product *out);

lm_tensor *lm_op_embed(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale);
void lm_op_linears(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out);
lm_tensor *lm_op_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m);
lm_tensor *lm_op_gated(lm_step *s, lm_tensor *gate, const lm_tensor *up, lm_glu act);

/* -- moe.c */
lm_tensor *lm_op_moe(lm_step *s, const lm_tensor *x, const lm_moe *m);

/* -- attend.c */
lm_tensor *lm_op_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k, const lm_tensor *v);

#endif
