/* graph.h (private to model/) - a model with its weights resolved: what a step walks through, and nothing by
 * name.
 *
 * Every handle of the backend is found and made once, when the model is opened; a step only follows pointers
 * and allocates nothing. */
#ifndef LM_MODEL_GRAPH_H
#define LM_MODEL_GRAPH_H

#include "model/adapter.h"
#include "model/config.h"
#include "model/model.h"
#include "model/split.h"

enum {
    LM_MAX_FLIGHTS = 8, /* computed ahead at a time; the scheduler has two */
    LM_MAX_SEQS = 1 << 16,
};

/* Which of a layer's products an adapter adds to; those that are one weight in a family are the first of theirs. */
enum {
    LM_DELTA_Q,
    LM_DELTA_K,
    LM_DELTA_V,
    LM_DELTA_O,
    LM_DELTA_ROUTER, /* from here on as lm_moe has them */
    LM_DELTA_GATE,
    LM_DELTA_UP,
    LM_DELTA_DOWN,
    LM_DELTAS
};

/* One layer. NULL: the family has no such thing. */
typedef struct lm_layer {
    lm_attention attention;
    const lm_linear *qkv[3]; /* q, k, v; or all three in qkv[0], n_qkv 1 */
    uint32_t n_qkv;
    const lm_linear *o;
    const lm_vector *wide_q_norm, *wide_k_norm;          /* over all heads together */
    const lm_vector *before_attention, *after_attention; /* norms of the two halves */
    const lm_vector *before_mlp, *after_mlp;
    const lm_vector *attention_bias, *mlp_bias; /* encoders: of the norms after the halves' sums */
    bool is_moe;
    lm_mlp mlp; /* dense layers */
    lm_moe moe;
    const lm_delta *deltas; /* (LM_DELTAS), NULL: no adapter */
    bool mlp_adapted;
} lm_layer;

struct lm_model {
    lm_config config;
    lm_model_info info;
    lm_weights *weights;
    const lm_backend *backend; /* NULL while a directory is only inspected: no handles are made then */
    lm_device *device;
    uint32_t n_ctx, max_batch;
    const lm_world *world; /* NULL: alone */
    lm_share share;
    uint64_t share_bytes; /* of weights: what of them is this rank's */

    const lm_linear *embed, *head; /* the same when tied */
    const lm_vector *final_norm;
    /* encoders */
    const lm_linear *positions, *types;
    const lm_vector *embed_norm, *embed_norm_bias;
    int32_t *places; /* (2 * max_batch): of the tokens of a step in the table of positions, then their types */
    lm_layer *layers; /* (n_layers) */
    lm_adapter *adapter; /* NULL: none */
    lm_delta *deltas;    /* (n_layers, LM_DELTAS), NULL without an adapter */
    lm_delta head_delta;
    lm_rope ropes[LM_ROPE_COUNT];
    float inv_freq[LM_ROPE_COUNT][LM_MAX_HEAD_DIM / 2];

    lm_linear **linears; /* all handles, to be freed */
    uint32_t n_linears, room_linears;
    lm_vector **vectors;
    uint32_t n_vectors, room_vectors;

    void **cuts; /* parts of weights that had to be copied */
    uint32_t n_cuts, room_cuts;

    /* rank 0 of several: what the others know by number, NULL where a number is free */
    lm_seq **seqs;
    uint32_t n_seqs;
    lm_flight *flights[LM_MAX_FLIGHTS];
    lm_buf frame;

    float *out; /* logits or states of the last step, (out_room) floats; grows with the rows asked for */
    size_t out_room;
};

/* Finds every weight that the config asks for, checks its shape and makes the backend's handles; counts
 * parameters into m->info. LM_CORRUPT names what is missing. */
lm_status lm_model_bind(lm_model *m, lm_err *err) LM_CHECKED;

/* What a step gives of its out_rows. */
typedef enum lm_wanted { LM_WANT_LOGITS, LM_WANT_STATES } lm_wanted;

/* The forward pass: logits (n_out, n_vocab) or states (n_out, width) of out_rows; NULL when n_out is 0. On ranks
 * above 0 whatever is the last that they do, or NULL. */
lm_tensor *lm_graph_run(const lm_model *m, lm_step *s, const int32_t *tokens, uint32_t n_tokens,
                        const uint32_t *out_rows, uint32_t n_out, lm_wanted want);

/* encoder.c: the same for an encoder's states; m->places holds where the tokens stand. */
lm_tensor *lm_encoder_run(const lm_model *m, lm_step *s, const int32_t *tokens, uint32_t n_tokens,
                          const uint32_t *out_rows, uint32_t n_out);
/* Fills m->places. LM_INVALID: a sequence that doesn't begin with this step. */
lm_status lm_encoder_place(lm_model *m, const lm_slice *slices, uint32_t n_slices, lm_err *err) LM_CHECKED;

/* embedding.c: reads what dir says into *out. Never fails: what is wrong is out->problem. */
void lm_embedding_read(lm_embedding_info *out, const char *dir, bool encoder);

/* ---- model.c, for follow.c */

/* Opens rank `world->rank`'s share; split is not AUTO. */
lm_status lm_model_open_share(lm_model **out, const lm_backend *backend, const char *dir,
                              const lm_model_config *config, lm_split split, lm_err *err) LM_CHECKED;

/* ---- mirror.c: rank 0 tells the others. All of it does nothing for a model that is alone. */

static inline const lm_mirror *lm_mirror_of(const lm_model *m) {
    return m->world ? m->world->mirror : NULL;
}
lm_status lm_mirror_open(lm_model *m, const char *dir, const lm_model_config *config, lm_err *err) LM_CHECKED;
void lm_mirror_close(lm_model *m);
/* The numbers of sequences and flights that the others know. Room for one more: LM_BUSY. */
lm_status lm_mirror_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                         const uint32_t *out_rows, uint32_t n_out, lm_wanted want, lm_err *err) LM_CHECKED;
/* *slot: where the flight is to be entered. */
lm_status lm_mirror_launch(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                           const uint32_t *out_rows, uint32_t n_out, const lm_flight *before, bool picks,
                           uint32_t *slot, lm_err *err) LM_CHECKED;
lm_status lm_mirror_pick(lm_model *m, const lm_flight *f, lm_err *err) LM_CHECKED;
void lm_mirror_flight_free(lm_model *m, const lm_flight *f);
/* What was told could not be done here. */
void lm_mirror_broken(lm_model *m, const lm_err *err);

#endif
