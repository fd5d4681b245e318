/* follow.c - a rank above 0: does with its share of the model what rank 0 says it does with its own. */
#include <stdlib.h>
#include <string.h>

#include "model/frames.h"
#include "model/graph.h"

struct lm_follower {
    const lm_backend *backend;
    const lm_world *world;
    uint64_t budget;
    lm_model *model; /* NULL: none is open */
    lm_seq **seqs;   /* (LM_MAX_SEQS) by number */
    lm_flight *flights[LM_MAX_FLIGHTS];

    /* the step of the present frame */
    lm_slice *slices;
    int32_t *tokens;
    uint32_t *out_rows;
    lm_pick *how; /* anything: what is chosen comes from rank 0 */
    uint32_t n_slices, n_tokens, n_out;
    uint32_t room_slices, room_rows;
};

lm_follower *lm_follower_new(const lm_backend *backend, const lm_world *world, uint64_t budget) {
    lm_follower *f = lm_alloc(sizeof *f);
    f->budget = budget;
    f->backend = backend;
    f->world = world;
    f->seqs = lm_alloc(LM_MAX_SEQS * sizeof *f->seqs);
    return f;
}

static void close_model(lm_follower *f) {
    for (uint32_t i = 0; i < LM_MAX_FLIGHTS; i++) {
        if (f->flights[i]) f->backend->flight_free(f->flights[i]);
        f->flights[i] = NULL;
    }
    for (uint32_t i = 0; i < LM_MAX_SEQS; i++) {
        if (f->seqs[i]) f->backend->seq_close(f->seqs[i]);
        f->seqs[i] = NULL;
    }
    lm_model_close(f->model);
    free(f->slices);
    free(f->tokens);
    free(f->out_rows);
    free(f->how);
    f->model = NULL;
    f->slices = NULL;
    f->tokens = NULL;
    f->out_rows = NULL;
    f->how = NULL;
}

void lm_follower_free(lm_follower *f) {
    if (!f) return;
    close_model(f);
    free(f->seqs);
    free(f);
}

/* ---- reading a frame */

typedef struct reader {
    const uint8_t *at;
    size_t left;
    bool bad; /* it ended early, or a number is out of range */
} reader;

static uint32_t take(reader *r) {
    if (r->left < 4) {
        r->bad = true;
        return 0;
    }
    uint32_t n =
        (uint32_t)r->at[0] | (uint32_t)r->at[1] << 8 | (uint32_t)r->at[2] << 16 | (uint32_t)r->at[3] << 24;
    r->at += 4;
    r->left -= 4;
    return n;
}

static uint32_t take_below(reader *r, uint32_t end) {
    uint32_t n = take(r);
    if (n < end) return n;
    r->bad = true;
    return 0;
}

static lm_seq *take_seq(lm_follower *f, reader *r) {
    lm_seq *seq = f->seqs[take_below(r, LM_MAX_SEQS)];
    if (!seq) r->bad = true;
    return seq;
}

/* Slices, tokens and rows into f's arrays, which have room for all that a step may have. */
static void take_step(lm_follower *f, reader *r) {
    f->n_slices = take_below(r, f->room_slices + 1);
    f->n_tokens = 0;
    for (uint32_t i = 0; i < f->n_slices && !r->bad; i++) {
        lm_seq *seq = take_seq(f, r);
        uint32_t n = take_below(r, f->room_rows - f->n_tokens + 1);
        f->slices[i] = (lm_slice){.seq = seq, .n_tokens = n};
        f->n_tokens += n;
    }
    for (uint32_t i = 0; i < f->n_tokens && !r->bad; i++) f->tokens[i] = (int32_t)take(r);
    f->n_out = take_below(r, f->room_rows + 1);
    for (uint32_t i = 0; i < f->n_out && !r->bad; i++) f->out_rows[i] = take(r);
}

static lm_status out_of_step(lm_err *err) {
    return lm_fail(err, LM_CORRUPT,
                   "a message from rank 0 makes no sense: do all ranks run the same program?");
}

/* ---- doing what it says */

/* Rank 0 has looked at its own memory only. */
static lm_status check_memory(const lm_follower *f, const char *dir, const lm_model_config *config,
                              lm_split split, lm_err *err) {
    lm_world world = *f->world;
    lm_model_config same = *config;
    uint64_t bytes = 0;
    world.split = split;
    same.world = &world;
    lm_status st = lm_model_estimate(f->backend, dir, &same, &bytes, err);
    if (st == LM_OK && bytes > f->budget)
        st = lm_fail(err, LM_NO_MEMORY,
                     "this rank's share of the model requires more memory (%.1f GiB) than is available (%.1f "
                     "GiB): lower num_ctx "
                     "or the number of parallel requests, or use more ranks",
                     (double)bytes / (1u << 30), (double)f->budget / (1u << 30));
    return st;
}

static lm_status open_model(lm_follower *f, reader *r, lm_err *err) {
    lm_split split = (lm_split)take_below(r, LM_SPLIT_PIPELINE + 1);
    lm_model_config config = {.n_threads = take(r), .world = f->world};
    config.n_ctx = take(r);
    config.n_parallel = take(r);
    config.max_batch = take(r);
    config.kv_type = (lm_kv_type)take_below(r, LM_KV_TYPES);
    uint32_t n_layers = take(r), width = take(r), n_vocab = take(r);
    uint64_t bytes = take(r);
    bytes |= (uint64_t)take(r) << 32;
    if (r->bad || f->model || split == LM_SPLIT_AUTO || !r->left || r->left > 4096 ||
        memchr(r->at, 0, r->left))
        return out_of_step(err);
    char *dir = lm_str_dup((lm_str){(const char *)r->at, r->left});
    lm_status st = check_memory(f, dir, &config, split, err);
    if (st == LM_OK) st = lm_model_open_share(&f->model, f->backend, dir, &config, split, err);
    if (st == LM_NOT_FOUND) lm_fail_in(err, st, "a model must lie at the same path on every host");
    if (st == LM_OK) {
        const lm_model_info *i = lm_model_get_info(f->model);
        if (i->n_layers != n_layers || i->width != width || i->n_vocab != n_vocab || i->weight_bytes != bytes)
            st = lm_fail(err, LM_CORRUPT, "%s holds another model than on rank 0: copy it from there", dir);
    }
    free(dir);
    if (st != LM_OK) {
        close_model(f);
        return st;
    }
    f->room_slices = config.n_parallel > config.max_batch ? config.n_parallel : config.max_batch;
    f->room_rows = config.max_batch;
    f->slices = lm_alloc(f->room_slices * sizeof *f->slices);
    f->tokens = lm_alloc(f->room_rows * sizeof *f->tokens);
    f->out_rows = lm_alloc(f->room_rows * sizeof *f->out_rows);
    f->how = lm_alloc(f->room_rows * sizeof *f->how);
    return LM_OK;
}

static lm_status open_seq(lm_follower *f, reader *r, lm_err *err) {
    uint32_t at = take_below(r, LM_MAX_SEQS);
    if (r->bad || f->seqs[at]) return out_of_step(err);
    return f->backend->seq_open(lm_model_device(f->model), &f->seqs[at], err);
}

static lm_status fork_seq(lm_follower *f, reader *r, lm_err *err) {
    lm_seq *src = take_seq(f, r);
    uint32_t n = take(r), at = take_below(r, LM_MAX_SEQS);
    if (r->bad || f->seqs[at] || n > f->backend->seq_len(src)) return out_of_step(err);
    return f->backend->seq_fork(src, n, &f->seqs[at], err);
}

static lm_status trim_seq(lm_follower *f, reader *r, lm_err *err) {
    lm_seq *seq = take_seq(f, r);
    uint32_t n = take(r);
    if (r->bad) return out_of_step(err);
    f->backend->seq_trim(seq, n);
    return LM_OK;
}

static lm_status close_seq(lm_follower *f, reader *r, lm_err *err) {
    uint32_t at = take_below(r, LM_MAX_SEQS);
    if (r->bad || !f->seqs[at]) return out_of_step(err);
    f->backend->seq_close(f->seqs[at]);
    f->seqs[at] = NULL;
    return LM_OK;
}

static lm_status step(lm_follower *f, reader *r, bool states, lm_err *err) {
    const float *none = NULL;
    take_step(f, r);
    if (r->bad) return out_of_step(err);
    if (states)
        return lm_model_states(f->model, f->slices, f->n_slices, f->tokens, f->out_rows, f->n_out, &none,
                               err);
    return lm_model_step(f->model, f->slices, f->n_slices, f->tokens, f->out_rows, f->n_out, &none, err);
}

static lm_status launch(lm_follower *f, reader *r, lm_err *err) {
    uint32_t at = take_below(r, LM_MAX_FLIGHTS), before = take(r), picks = take(r);
    const lm_flight *earlier = NULL;
    take_step(f, r);
    if (before != LM_FRAME_NO_FLIGHT) {
        earlier = before < LM_MAX_FLIGHTS ? f->flights[before] : NULL;
        if (!earlier) r->bad = true;
    }
    if (r->bad || f->flights[at] || !lm_model_computes_ahead(f->model)) return out_of_step(err);
    return lm_model_launch(f->model, f->slices, f->n_slices, f->tokens, f->out_rows, f->n_out, earlier,
                           picks ? f->how : NULL, &f->flights[at], err);
}

static lm_status on_flight(lm_follower *f, reader *r, bool picks, lm_err *err) {
    uint32_t at = take_below(r, LM_MAX_FLIGHTS);
    if (r->bad || !f->flights[at]) return out_of_step(err);
    if (picks) return f->backend->pick(f->flights[at], f->how, err);
    f->backend->flight_free(f->flights[at]);
    f->flights[at] = NULL;
    return LM_OK;
}

lm_status lm_follower_do(lm_follower *f, const void *frame, size_t n, bool *answers, lm_err *err) {
    *answers = false;
    if (!n) return out_of_step(err);
    reader r = {.at = (const uint8_t *)frame + 1, .left = n - 1};
    lm_frame_kind kind = *(const uint8_t *)frame;
    *answers = kind == LM_FRAME_OPEN;
    /* A load that failed here is closed like any other. */
    if (kind != LM_FRAME_OPEN && kind != LM_FRAME_CLOSE && !f->model) return out_of_step(err);
    switch (kind) {
    case LM_FRAME_OPEN: return open_model(f, &r, err);
    case LM_FRAME_CLOSE: close_model(f); return LM_OK;
    case LM_FRAME_SEQ_OPEN: return open_seq(f, &r, err);
    case LM_FRAME_SEQ_CLOSE: return close_seq(f, &r, err);
    case LM_FRAME_SEQ_TRIM: return trim_seq(f, &r, err);
    case LM_FRAME_SEQ_FORK: return fork_seq(f, &r, err);
    case LM_FRAME_STEP: return step(f, &r, false, err);
    case LM_FRAME_STATES: return step(f, &r, true, err);
    case LM_FRAME_LAUNCH: return launch(f, &r, err);
    case LM_FRAME_PICK: return on_flight(f, &r, true, err);
    case LM_FRAME_FLIGHT_FREE: return on_flight(f, &r, false, err);
    case LM_FRAME_IDLE: f->backend->idle(lm_model_device(f->model)); return LM_OK;
    }
    return out_of_step(err);
}
