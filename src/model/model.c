/* Opening a model directory, what is known of it, and one step. The graph itself is graph.c. */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graph.h"

enum { MAX_FRAME = 4 << 20 };   /* bytes: a step of the most rows and sequences takes a quarter of that */
enum { KV_SLACK_TOKENS = 256 }; /* a sequence's last page is partly used, and a fork copies one */
enum { ENCODER_TEXTS = 64 };    /* in one step, for whose places there is room */

/* ---- sizes */

/* What an encoder makes of it: texts are read whole, and keys and values are kept as they are. */
static lm_model_config adapted(const lm_config *c, const lm_model_config *config) {
    lm_model_config out = *config;
    if (!c->family->encoder) return out;
    if (out.max_batch < out.n_ctx) out.max_batch = out.n_ctx;
    out.kv_type = LM_KV_F16;
    return out;
}

/* The device that runs the model, with room for all its sequences. */
static lm_device_config device_for(const lm_model *m, const lm_backend *backend,
                                   const lm_model_config *asked) {
    bool encoder = m->config.family->encoder;
    lm_model_config for_it = adapted(&m->config, asked), *config = &for_it;
    lm_device_config d = {
        .n_threads = config->n_threads,
        .features = config->features,
        .max_batch = config->max_batch,
        .kv = {.n_layers = encoder ? 1 : m->share.n_layers,
               .n_kv_heads = m->share.n_kv_heads,
               .head_dim = m->config.head_dim},
        .kv_type = config->kv_type,
    };
    uint64_t tokens = ((uint64_t)config->n_ctx + KV_SLACK_TOKENS - 1) / KV_SLACK_TOKENS * KV_SLACK_TOKENS;
    /* The texts of one step, each with a part of a page that it doesn't use. */
    uint64_t sequences = encoder ? ENCODER_TEXTS : config->n_parallel;
    tokens =
        encoder ? config->max_batch + KV_SLACK_TOKENS * sequences : (tokens + KV_SLACK_TOKENS) * sequences;
    d.kv_bytes = tokens * backend->kv_token_bytes(&d);
    return d;
}

/* What one layer's activations and the logits take at most: the backend frees the rest as it goes. */
static uint64_t scratch_bytes(const lm_model *m, const lm_model_config *asked) {
    const lm_config *c = &m->config;
    lm_model_config for_it = adapted(c, asked), *config = &for_it;
    uint64_t heads = (uint64_t)(2 * c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    uint64_t ffn = c->n_experts ? (uint64_t)c->top_k * c->expert_ffn : c->ffn;
    if (c->ffn > ffn) ffn = c->ffn;
    uint64_t row = 6 * (uint64_t)c->width + heads + 3 * ffn;
    /* What is added to each product of a layer has a place of its own; experts' rows come top_k times. */
    uint64_t places = c->n_experts ? c->top_k : 1;
    if (m->adapter)
        row +=
            (1 + 2 * places) * c->width + heads + 3 * ffn + LM_DELTAS * places * lm_adapter_rank(m->adapter);
    /* Codes of one layer and sequence become numbers while a prompt's part reads them. */
    uint64_t plain = config->kv_type == LM_KV_F16 ? 0 : 2ull * config->n_ctx * c->n_kv_heads * c->head_dim;
    return (row * config->max_batch + plain + 2 * (uint64_t)c->n_vocab * config->n_parallel) * sizeof(float);
}

static lm_status check_config(const lm_model_config *config, lm_err *err) {
    if (config->n_ctx == 0 || config->n_ctx > LM_MAX_CONTEXT || config->n_parallel == 0 ||
        config->n_parallel > 4096 || config->max_batch == 0 || config->max_batch > 65536)
        return lm_fail(err, LM_INVALID,
                       "context %u, %u sequences, batch %u: the limits are 1 to %d, 1 to 4096 and 1 to 65536",
                       config->n_ctx, config->n_parallel, config->max_batch, LM_MAX_CONTEXT);
    return LM_OK;
}

/* ---- life */

static void fill_info(lm_model *m) {
    const lm_config *c = &m->config;
    lm_model_info *i = &m->info;
    lm_view v;

    snprintf(i->family, sizeof i->family, "%s", c->type);
    i->n_layers = c->n_layers;
    i->width = c->width;
    i->n_heads = c->n_heads;
    i->n_kv_heads = c->n_kv_heads;
    i->head_dim = c->head_dim;
    i->n_vocab = c->n_vocab;
    i->n_ctx_train = c->n_ctx_train;
    i->n_experts = c->n_experts;
    i->window = c->window;
    i->encoder = c->family->encoder;
    i->kv_bytes_per_token =
        2ull * sizeof(uint16_t) * (i->encoder ? 0 : c->n_layers) * c->n_kv_heads * c->head_dim;
    i->weight_bytes = 0;
    for (uint32_t n = 0; n < lm_weights_count(m->weights); n++) {
        const char *name = lm_weights_name(m->weights, n, &v);
        if (!strncmp(name, "vision_tower.", 13) || !strncmp(name, "multi_modal_projector.", 22)) continue;
        i->weight_bytes += v.bytes;
    }
    i->weight_bytes += lm_adapter_bytes(m->adapter);
}

/* Config and weights found and checked, this rank's share known. */
static lm_status load(lm_model *m, const char *dir, const lm_world *world, lm_split split, lm_err *err) {
    lm_status st = lm_config_load(&m->config, dir, err);
    if (st == LM_OK) st = lm_share_plan(&m->config, world, split, &m->share, err);
    if (st == LM_OK) st = lm_weights_open(&m->weights, dir, err);
    if (st == LM_OK) st = lm_adapter_open(&m->adapter, dir, err);
    if (st == LM_OK && m->adapter && m->config.family->encoder)
        st = lm_fail(err, LM_UNSUPPORTED, "an adapter for an encoder: merge it into the model first");
    if (st != LM_OK) return st;
    m->layers = lm_try_alloc(m->config.n_layers, sizeof *m->layers);
    if (!m->layers) return lm_fail(err, LM_NO_MEMORY, "no memory for %u layers", m->config.n_layers);
    if (m->adapter) m->deltas = lm_try_alloc((size_t)m->config.n_layers * LM_DELTAS, sizeof *m->deltas);
    if (m->adapter && !m->deltas) return lm_fail(err, LM_NO_MEMORY, "no memory for an adapter's list");
    fill_info(m);
    lm_embedding_read(&m->info.embedding, dir, m->info.encoder);
    if (m->info.encoder && world)
        return lm_fail(err, LM_UNSUPPORTED,
                       "an encoder is computed by one rank: start the server without --distributed");
    return LM_OK;
}

static lm_status open_device(lm_model *m, const lm_model_config *config, lm_err *err) {
    lm_device_config d = device_for(m, m->backend, config);
    if (m->share.rank) d.kv_bytes = UINT64_MAX; /* what fits is decided on rank 0 */
    return m->backend->open(&m->device, &d, err);
}

lm_status lm_model_open_share(lm_model **out, const lm_backend *backend, const char *dir,
                              const lm_model_config *config, lm_split split, lm_err *err) {
    lm_status st = check_config(config, err);
    if (st != LM_OK) return st;
    if (config->world && !backend->all_sum)
        return lm_fail(err, LM_UNSUPPORTED,
                       "the %s backend computes alone: use --backend mlx with --distributed", backend->name);
    lm_model *m = lm_alloc(sizeof *m);
    m->backend = backend;
    m->world = config->world;
    m->n_ctx = config->n_ctx;
    lm_buf_init(&m->frame, MAX_FRAME);
    st = load(m, dir, config->world, split, err);
    if (st == LM_OK) m->max_batch = adapted(&m->config, config).max_batch;
    if (st == LM_OK) st = open_device(m, config, err);
    if (st != LM_OK) goto done;
    if (m->info.encoder) m->places = lm_alloc(2 * (size_t)m->max_batch * sizeof *m->places);
    for (int i = 0; i < LM_ROPE_COUNT; i++)
        if (m->config.ropes[i].n_dims)
            lm_rope_make(&m->config.ropes[i], m->n_ctx, m->inv_freq[i], &m->ropes[i]);
    st = lm_model_bind(m, err);
    if (st != LM_OK) lm_fail_in(err, st, "%s", dir);
    lm_backend_info device;
    backend->info(&device);
    if (st == LM_OK && (device.copies_weights || m->n_cuts))
        lm_weights_drop(m->weights); /* or they would be in memory twice */
done:
    if (st == LM_OK)
        *out = m;
    else
        lm_model_close(m);
    return st;
}

/* What loading would bind, without a backend: *out is the caller's to close. */
static lm_status look(lm_model **out, const char *dir, const lm_world *world, lm_split split, lm_err *err) {
    lm_model *m = lm_alloc(sizeof *m);
    lm_status st = load(m, dir, world, split, err);
    if (st == LM_OK) {
        st = lm_model_bind(m, err);
        if (st != LM_OK) lm_fail_in(err, st, "%s", dir);
    }
    if (st == LM_OK)
        *out = m;
    else
        lm_model_close(m);
    return st;
}

/* The same with the split that is possible: AUTO tries tensor first. */
static lm_status look_auto(lm_model **out, const char *dir, const lm_world *world, lm_err *err) {
    lm_split split = world ? world->split : LM_SPLIT_AUTO;
    lm_status st = look(out, dir, world, split == LM_SPLIT_AUTO ? LM_SPLIT_TENSOR : split, err);
    if (st != LM_UNSUPPORTED || split != LM_SPLIT_AUTO || !world) return st;
    return look(out, dir, world, LM_SPLIT_PIPELINE, err);
}

lm_status lm_model_open(lm_model **out, const lm_backend *backend, const char *dir,
                        const lm_model_config *config, lm_err *err) {
    lm_split split = LM_SPLIT_TENSOR;
    lm_model *m = NULL;
    lm_status st = LM_OK;
    if (config->world) {
        if ((st = look_auto(&m, dir, config->world, err)) != LM_OK) return st;
        split = m->share.split;
        lm_model_close(m);
    }
    st = lm_model_open_share(&m, backend, dir, config, split, err);
    if (st != LM_OK || !lm_mirror_of(m)) {
        if (st == LM_OK) *out = m;
        return st;
    }
    st = lm_mirror_open(m, dir, config, err);
    if (st == LM_OK)
        *out = m;
    else
        lm_model_close(m);
    return st;
}

void lm_model_close(lm_model *m) {
    if (!m) return;
    lm_mirror_close(m);
    for (uint32_t i = 0; i < m->n_linears; i++) m->backend->linear_free(m->linears[i]);
    for (uint32_t i = 0; i < m->n_vectors; i++) m->backend->vector_free(m->vectors[i]);
    if (m->backend) m->backend->close(m->device);
    lm_weights_close(m->weights);
    lm_adapter_close(m->adapter);
    free(m->deltas);
    lm_config_release(&m->config);
    free(m->linears);
    free(m->vectors);
    for (uint32_t i = 0; i < m->n_cuts; i++) free(m->cuts[i]);
    free(m->cuts);
    free(m->seqs);
    lm_buf_release(&m->frame);
    free(m->layers);
    free(m->out);
    free(m->places);
    free(m);
}

lm_status lm_model_inspect(const char *dir, lm_model_info *out, lm_err *err) {
    lm_model *m = NULL;
    lm_status st = look(&m, dir, NULL, LM_SPLIT_TENSOR, err);
    if (st == LM_OK) *out = m->info;
    lm_model_close(m);
    return st;
}

lm_status lm_model_need_of(const lm_backend *backend, const char *dir, const lm_model_config *config,
                           lm_model_need *out, lm_err *err) {
    lm_status st = check_config(config, err);
    if (st != LM_OK) return st;
    lm_model *m = NULL;
    if (config->world) {
        st = look_auto(&m, dir, config->world, err);
    } else {
        m = lm_alloc(sizeof *m);
        st = load(m, dir, NULL, LM_SPLIT_TENSOR, err);
    }
    if (st == LM_OK)
        *out = (lm_model_need){.weights = config->world ? m->share_bytes : m->info.weight_bytes,
                               .kv = device_for(m, backend, config).kv_bytes,
                               .scratch = scratch_bytes(m, config)};
    lm_model_close(m);
    return st;
}

lm_status lm_model_estimate(const lm_backend *backend, const char *dir, const lm_model_config *config,
                            uint64_t *bytes, lm_err *err) {
    lm_model_need need;
    lm_status st = lm_model_need_of(backend, dir, config, &need, err);
    if (st == LM_OK) *bytes = need.weights + need.kv + need.scratch;
    return st;
}

const lm_model_info *lm_model_get_info(const lm_model *m) {
    return &m->info;
}

const lm_backend *lm_model_backend(const lm_model *m) {
    return m->backend;
}

lm_device *lm_model_device(const lm_model *m) {
    return m->device;
}

lm_split lm_model_split(const lm_model *m) {
    return m->share.split;
}

/* ---- a step */

/* Everything that can be wrong with the caller's numbers, before a sequence is touched. */
static lm_status check_step(const lm_model *m, const lm_slice *slices, uint32_t n_slices,
                            const int32_t *tokens, const uint32_t *out_rows, uint32_t n_out,
                            int32_t least_token, uint32_t *n_tokens, lm_err *err) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        uint32_t before = m->backend->seq_len(slices[i].seq);
        for (uint32_t j = 0; j < i; j++)
            if (slices[j].seq == slices[i].seq)
                return lm_fail(err, LM_INVALID, "one sequence is in two slices of a step");
        if (slices[i].n_tokens == 0) return lm_fail(err, LM_INVALID, "a slice of no tokens");
        if ((uint64_t)before + slices[i].n_tokens > m->n_ctx)
            return lm_fail(err, LM_INVALID, "%u tokens after %u don't fit the context of %u",
                           slices[i].n_tokens, before, m->n_ctx);
        n += slices[i].n_tokens;
    }
    if (n == 0 || n > m->max_batch)
        return lm_fail(err, LM_INVALID, "a step of %llu tokens, 1 to %u are allowed", (unsigned long long)n,
                       m->max_batch);
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < least_token || tokens[i] >= (int64_t)m->config.n_vocab)
            return lm_fail(err, LM_INVALID, "token %d is not in the vocabulary of %u", tokens[i],
                           m->config.n_vocab);
    if (n_out > n) return lm_fail(err, LM_INVALID, "logits of %u rows of %llu", n_out, (unsigned long long)n);
    for (uint32_t i = 0; i < n_out; i++)
        if (out_rows[i] >= n)
            return lm_fail(err, LM_INVALID, "logits of row %u of %llu", out_rows[i], (unsigned long long)n);
    *n_tokens = (uint32_t)n;
    return LM_OK;
}

static lm_status out_room(lm_model *m, uint32_t n_out, uint32_t width, lm_err *err) {
    size_t need = (size_t)n_out * width;
    if (need <= m->out_room) return LM_OK;
    float *bigger = lm_try_alloc(need, sizeof *bigger);
    if (!bigger) return lm_fail(err, LM_NO_MEMORY, "no memory for %u rows of %u numbers", n_out, width);
    free(m->out);
    m->out = bigger;
    m->out_room = need;
    return LM_OK;
}

/* A step that everything has been checked for, and the place of each sequence reserved. */
static lm_status begin_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                            const uint32_t *out_rows, uint32_t n_out, const lm_flight *before,
                            uint32_t *n_tokens, lm_step **s, lm_err *err) {
    const lm_backend *b = m->backend;
    int32_t least = before ? LM_FROM_BEFORE(m->max_batch) : 0;
    lm_status st = check_step(m, slices, n_slices, tokens, out_rows, n_out, least, n_tokens, err);
    if (st == LM_OK && m->info.encoder) st = lm_encoder_place(m, slices, n_slices, err);
    for (uint32_t i = 0; i < n_slices && st == LM_OK; i++)
        st = b->seq_reserve(slices[i].seq, slices[i].n_tokens, err);
    return st == LM_OK ? b->begin(m->device, slices, n_slices, before, s, err) : st;
}

/* The step is over, nothing of it counts; says why. */
static lm_status give_up(lm_model *m, lm_step *s, lm_err *err) {
    lm_err why = *err;
    (void)m->backend->end(s, true, err);
    *err = why;
    return why.status;
}

/* width: of a row of what is wanted. */
static lm_status run_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                          const uint32_t *out_rows, uint32_t n_out, lm_wanted want, uint32_t width,
                          const float **out, lm_err *err) {
    const lm_backend *b = m->backend;
    bool reads = m->share.rank == 0 && n_out; /* the others have nothing to give */
    uint32_t n_tokens = 0;
    lm_step *s = NULL;
    /* More rows than that are refused below. */
    lm_status st = reads ? out_room(m, n_out < m->max_batch ? n_out : m->max_batch, width, err) : LM_OK;
    if (st == LM_OK) st = begin_step(m, slices, n_slices, tokens, out_rows, n_out, NULL, &n_tokens, &s, err);
    if (st != LM_OK) return st;
    if (lm_mirror_step(m, slices, n_slices, tokens, out_rows, n_out, want, err) != LM_OK)
        return give_up(m, s, err);

    lm_tensor *x = lm_graph_run(m, s, tokens, n_tokens, out_rows, n_out, want);
    const float *numbers = x ? b->read(s, x) : NULL;
    /* The backend's numbers end with the step, the caller's live until the next one. */
    if (numbers && reads) memcpy(m->out, numbers, (size_t)n_out * width * sizeof *numbers);
    bool lost = (reads || x) && !numbers;
    st = b->end(s, lost, err);
    if (st == LM_OK && lost) st = lm_fail(err, LM_INTERNAL, "the backend gave no numbers");
    if (st == LM_OK)
        *out = reads ? m->out : NULL;
    else
        lm_mirror_broken(m, err);
    return st;
}

static lm_status no_tokens(const lm_model *m, lm_err *err) {
    return m->info.encoder ? lm_fail(err, LM_INVALID, "%s is an encoder: it gives no tokens", m->info.family)
                           : LM_OK;
}

lm_status lm_model_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                        const uint32_t *out_rows, uint32_t n_out, const float **logits, lm_err *err) {
    if (no_tokens(m, err) != LM_OK) return LM_INVALID;
    return run_step(m, slices, n_slices, tokens, out_rows, n_out, LM_WANT_LOGITS, m->config.n_vocab, logits,
                    err);
}

lm_status lm_model_states(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                          const uint32_t *out_rows, uint32_t n_out, const float **states, lm_err *err) {
    return run_step(m, slices, n_slices, tokens, out_rows, n_out, LM_WANT_STATES, m->config.width, states,
                    err);
}

/* ---- computing ahead */

bool lm_model_computes_ahead(const lm_model *m) {
    return m->backend->launch;
}

lm_status lm_model_launch(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                          const uint32_t *out_rows, uint32_t n_out, const lm_flight *before,
                          const lm_pick *how, lm_flight **out, lm_err *err) {
    uint32_t n_tokens = 0, slot = 0;
    lm_step *s = NULL;
    if (no_tokens(m, err) != LM_OK) return LM_INVALID;
    lm_status st = begin_step(m, slices, n_slices, tokens, out_rows, n_out, before, &n_tokens, &s, err);
    if (st != LM_OK) return st;
    st = lm_mirror_launch(m, slices, n_slices, tokens, out_rows, n_out, before, how, &slot, err);
    if (st != LM_OK) return give_up(m, s, err);
    lm_tensor *x = lm_graph_run(m, s, tokens, n_tokens, out_rows, n_out, LM_WANT_LOGITS);
    st = m->backend->launch(s, x, n_out, how, out, err);
    if (st != LM_OK)
        lm_mirror_broken(m, err);
    else if (lm_mirror_of(m))
        m->flights[slot] = *out;
    return st;
}

lm_status lm_model_pick(lm_model *m, lm_flight *f, const lm_pick *how, lm_err *err) {
    lm_status st = lm_mirror_pick(m, f, err);
    if (st != LM_OK) return st;
    st = m->backend->pick(f, how, err);
    if (st != LM_OK) lm_mirror_broken(m, err);
    return st;
}

lm_status lm_model_wait(lm_model *m, lm_flight *f, lm_picked *picked, lm_err *err) {
    lm_status st = m->backend->wait(f, picked, err);
    if (st != LM_OK) lm_mirror_broken(m, err);
    return st;
}

void lm_model_flight_free(lm_model *m, lm_flight *f) {
    lm_mirror_flight_free(m, f);
    m->backend->flight_free(f);
}
