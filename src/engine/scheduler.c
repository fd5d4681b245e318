/* scheduler.c - the step thread of a model.
 *
 * Every turn of the loop is one forward pass over a ragged batch: a row for each sequence that decodes, and a
 * chunk of the prompts that are being read, oldest first. Jobs come and go between steps only: the lock is
 * taken there for a moment, never while computing. When keys and values run out of pages, idle prefixes are
 * given up; when that is not enough a sequence sits a step out.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/prefix.h"

#define PREFIX_SLOTS_LEAST 4
#define SHARED_GOAL_NS     150e6 /* what a running answer may have to wait for somebody's prompt */
#define ALONE_GOAL_NS      1e9   /* what a hang-up may have to wait */

/* The step thread's own. */
typedef struct core {
    lm_runner *r;
    lm_engine *e;
    lm_model *model;
    const lm_backend *b;
    lm_scratch scratch;
    lm_prefix prefix;
    uint32_t n_places, max_batch, n_vocab;
    lm_sequence **running; /* (n_places) in the order they came */
    uint32_t n_running;
    double row_ns; /* measured time of one row of a prompt, 0: not known yet */

    /* the step being built */
    lm_sequence **in_step; /* (n_places) */
    lm_slice *slices;      /* (n_places) */
    int32_t *tokens;       /* (max_batch) */
    uint32_t *out_rows;    /* (n_places) */
    lm_sequence **out_seq; /* (n_places) whose row each output is */
    uint32_t n_slices, n_rows, n_out;
} core;

uint32_t lm_chunk_rows(double row_ns, uint32_t max_batch, bool shared) {
    double goal = shared ? SHARED_GOAL_NS : ALONE_GOAL_NS;
    uint32_t rows = shared ? 16 : 64, most = shared ? 256 : max_batch;
    if (row_ns <= 0) rows = shared ? 64 : 128; /* not measured yet */
    /* Doubling, so that a prompt is cut alike from one run to the next. */
    while (row_ns > 0 && rows * 2 <= most && rows * 2 * row_ns <= goal) rows *= 2;
    return rows < max_batch ? rows : max_batch;
}

/* ---- places
 * ------------------------------------------------------------------------------------------------ */

static void leave(core *c, lm_sequence *q) {
    for (uint32_t i = 0; i < c->n_running; i++) {
        if (c->running[i] != q) continue;
        memmove(&c->running[i], &c->running[i + 1], (c->n_running - i - 1) * sizeof(*c->running));
        c->n_running--;
        return;
    }
}

/* Takes q off the engine; its KV is kept for the next turn unless it can't be trusted. */
static lm_job *retire(core *c, lm_sequence *q, bool keep, int32_t **context) {
    lm_job *j = q->job;
    uint64_t now = lm_now_ns();
    leave(c, q);
    j->metrics.n_prompt = q->n_prompt;
    j->metrics.n_cached = q->n_cached;
    j->metrics.n_eval = q->n_new;
    if (q->started_ns) {
        j->metrics.prompt_ns = (q->first_ns ? q->first_ns : now) - q->started_ns;
        j->metrics.eval_ns = q->first_ns ? now - q->first_ns : 0;
    }
    if (q->first_ns) j->metrics.first_ns = q->first_ns - j->submitted_ns;
    if (keep) {
        lm_prefix_keep(&c->prefix, q);
    } else if (q->kv) {
        c->b->seq_close(q->kv);
        q->kv = NULL;
    }
    if (context) {
        *context = q->context;
        q->context = NULL;
    }
    j->seq = NULL;
    lm_sequence_free(q);
    return j;
}

static void fail(core *c, lm_sequence *q, bool keep, lm_status st, const char *text) {
    lm_job_fail(retire(c, q, keep, NULL), st, text);
}

static void finish(core *c, lm_sequence *q, lm_done_reason reason) {
    lm_sequence_flush(q);
    lm_event event = {.kind = LM_EVENT_DONE, .reason = reason, .n_context = q->n_context};
    int32_t *context = NULL;
    lm_job *j = retire(c, q, true, &context);
    event.context = context;
    lm_job_done(j, &event);
    free(context);
}

/* A new sequence gets its place and the longest prefix that is there already. */
static void admit(core *c, lm_sequence *q) {
    lm_err err = {0};
    q->started_ns = lm_now_ns();
    q->job->metrics.queue_ns = q->started_ns - q->job->ready_ns;
    c->running[c->n_running++] = q;
    lm_prefix_find(&c->prefix, c->running, c->n_running, q);
    lm_status st = LM_OK;
    while (!q->kv && (st = c->b->seq_open(lm_model_device(c->model), &q->kv, &err)) != LM_OK) {
        if (!lm_prefix_evict(&c->prefix)) break;
    }
    if (st != LM_OK) fail(c, q, false, st == LM_BUSY ? LM_NO_MEMORY : st, err.text);
}

/* ---- building a step
 * --------------------------------------------------------------------------------------- */

/* Puts n of q's tokens into the step. False: no pages now (or q has failed and is gone). */
static bool add_slice(core *c, lm_sequence *q, uint32_t n) {
    lm_err err = {0};
    lm_status st;
    while ((st = c->b->seq_reserve(q->kv, n, &err)) == LM_BUSY && lm_prefix_evict(&c->prefix)) continue;
    if (st == LM_BUSY) return false;
    if (st != LM_OK) {
        fail(c, q, true, st, err.text);
        return false;
    }
    memcpy(c->tokens + c->n_rows, q->tokens + q->n_kv, n * sizeof(*c->tokens));
    c->in_step[c->n_slices] = q;
    c->slices[c->n_slices++] = (lm_slice){.seq = q->kv, .n_tokens = n};
    c->n_rows += n;
    if (q->n_kv + n == q->n_tokens) {
        c->out_seq[c->n_out] = q;
        c->out_rows[c->n_out++] = c->n_rows - 1;
    }
    return true;
}

static bool decodes(const lm_sequence *q) {
    return q->n_tokens - q->n_kv == 1;
}

/* Fills the step; false when nobody found room although somebody is running. */
static bool build(core *c) {
    c->n_slices = c->n_rows = c->n_out = 0;
    for (uint32_t i = 0; i < c->n_running;) {
        lm_sequence *q = c->running[i];
        if (decodes(q)) add_slice(c, q, 1);
        if (i < c->n_running && c->running[i] == q) i++; /* else it has failed and left */
    }
    uint32_t left = c->max_batch - c->n_rows;
    uint32_t chunk = lm_chunk_rows(c->row_ns, c->max_batch, c->n_rows > 0);
    if (chunk < left) left = chunk;
    for (uint32_t i = 0; i < c->n_running && left;) {
        lm_sequence *q = c->running[i];
        uint32_t n = q->n_tokens - q->n_kv;
        if (n > 1) {
            n = n < left ? n : left;
            if (add_slice(c, q, n)) left -= n;
        }
        if (i < c->n_running && c->running[i] == q) i++;
    }
    return c->n_slices > 0 || c->n_running == 0;
}

/* ---- running it
 * -------------------------------------------------------------------------------------------- */

/* What a computed step means for the sequences of its slices [first, first + n). */
static void digest(core *c, uint32_t first, uint32_t n, const float *logits, uint32_t first_out,
                   uint32_t n_out) {
    for (uint32_t i = first; i < first + n; i++) c->in_step[i]->n_kv += c->slices[i].n_tokens;
    for (uint32_t i = 0; i < n_out; i++) {
        lm_sequence *q = c->out_seq[first_out + i];
        const float *row = logits + (size_t)i * c->n_vocab;
        lm_err err = {0};
        lm_verdict v = {.ended = false};
        int32_t id = -1;
        if (q->max_new == 0) { /* asked for nothing but to read the prompt */
            finish(c, q, LM_DONE_LENGTH);
            continue;
        }
        lm_status st = lm_sequence_pick(q, &c->scratch, row, &id, &err);
        if (st == LM_OK) st = lm_sequence_take(q, &c->scratch, row, id, c->b, &v, &err);
        if (st != LM_OK) {
            fail(c, q, false, st, err.text);
        } else if (v.ended) {
            finish(c, q, v.reason);
        }
    }
}

/* Somebody's slice made the whole step fail, which left all sequences as they were: each alone, so that the
 * others go on. */
static void run_alone(core *c) {
    uint32_t row = 0, out = 0;
    for (uint32_t i = 0; i < c->n_slices; i++) {
        lm_sequence *q = c->in_step[i];
        uint32_t n = c->slices[i].n_tokens;
        bool wants = out < c->n_out && c->out_seq[out] == q;
        uint32_t last = n - 1;
        const float *logits = NULL;
        lm_err err = {0};
        lm_status st =
            lm_model_step(c->model, &c->slices[i], 1, c->tokens + row, &last, wants ? 1 : 0, &logits, &err);
        if (st == LM_OK) {
            digest(c, i, 1, logits, out, wants ? 1 : 0);
        } else {
            fail(c, q, false, st, err.text);
        }
        row += n;
        out += wants ? 1 : 0;
    }
}

static void step(core *c) {
    /* A client that has gone leaves before anything more is computed for it. */
    for (uint32_t i = c->n_running; i-- > 0;) {
        if (lm_job_cancelled(c->running[i]->job))
            fail(c, c->running[i], true, LM_CANCELLED, "request canceled");
    }
    if (!build(c)) {
        /* Everybody waits for pages that only they hold: the youngest gives way. */
        fail(c, c->running[c->n_running - 1], false, LM_NO_MEMORY,
             "no room left for keys and values: lower num_ctx or the number of parallel requests");
        return;
    }
    if (!c->n_slices) return;
    const float *logits = NULL;
    lm_err err = {0};
    uint64_t start = lm_now_ns();
    lm_status st =
        lm_model_step(c->model, c->slices, c->n_slices, c->tokens, c->out_rows, c->n_out, &logits, &err);
    if (st != LM_OK) {
        if (c->n_slices > 1) {
            run_alone(c);
        } else {
            fail(c, c->in_step[0], false, st, err.text);
        }
        return;
    }
    if (c->n_rows >= 16) {
        double each = (double)(lm_now_ns() - start) / c->n_rows;
        c->row_ns = c->row_ns > 0 ? 0.75 * c->row_ns + 0.25 * each : each;
    }
    digest(c, 0, c->n_slices, logits, 0, c->n_out);
}

/* ---- the thread
 * -------------------------------------------------------------------------------------------- */

static lm_status open_core(core *c, lm_err *err) {
    lm_runner *r = c->r;
    lm_model_config config = {
        .n_threads = c->e->config.n_threads,
        .features = c->e->cpu_features,
        .n_ctx = r->n_ctx,
        .n_parallel = c->n_places,
        .max_batch = c->max_batch,
        .kv_type = c->e->config.kv_type,
    };
    lm_status st = lm_model_open(&c->model, c->e->config.backend, r->dir, &config, err);
    if (st != LM_OK) return st;
    c->b = lm_model_backend(c->model);
    r->info = *lm_model_get_info(c->model);
    r->model = c->model;
    c->n_vocab = r->info.n_vocab;
    lm_prefix_init(&c->prefix, c->b, c->n_places > PREFIX_SLOTS_LEAST ? c->n_places : PREFIX_SLOTS_LEAST);
    return lm_scratch_init(&c->scratch, c->n_vocab, err);
}

static void close_core(core *c) {
    lm_prefix_release(&c->prefix);
    lm_scratch_release(&c->scratch);
    lm_model_close(c->model);
    free(c->running);
    free(c->in_step);
    free(c->slices);
    free(c->tokens);
    free(c->out_rows);
    free(c->out_seq);
}

static void init_core(core *c, lm_runner *r) {
    *c = (core){.r = r, .e = r->engine};
    c->n_places = c->e->config.n_parallel;
    c->max_batch = lm_engine_max_batch(c->e);
    c->running = lm_alloc(c->n_places * sizeof(*c->running));
    c->in_step = lm_alloc(c->n_places * sizeof(*c->in_step));
    c->slices = lm_alloc(c->n_places * sizeof(*c->slices));
    c->tokens = lm_alloc(c->max_batch * sizeof(*c->tokens));
    c->out_rows = lm_alloc(c->n_places * sizeof(*c->out_rows));
    c->out_seq = lm_alloc(c->n_places * sizeof(*c->out_seq));
}

/* Under the lock: says how the load went and what it took. */
static void report(core *c, lm_status st, const lm_err *err) {
    lm_runner *r = c->r;
    r->core_open = true;
    if (st != LM_OK) {
        r->load_err = *err;
        r->load_err.status = st;
    } else {
        lm_memory m = {0};
        c->b->memory(lm_model_device(c->model), &m);
        uint64_t measured = m.weights + m.kv_room + m.scratch;
        /* What a step takes beside them is not known yet: the estimate has it. */
        if (m.scratch || measured > r->bytes) r->bytes = measured;
        lm_backend_info device;
        c->b->info(&device);
        r->device_bytes = device.gpu ? r->bytes : 0;
    }
    pthread_cond_broadcast(&r->front_cond);
}

void *lm_step_main(void *arg) {
    lm_runner *r = arg;
    lm_engine *e = r->engine;
    core c;
    lm_err err = {0};
    init_core(&c, r);
    lm_status st = open_core(&c, &err);

    pthread_mutex_lock(&e->lock);
    report(&c, st, &err);
    for (;;) {
        while (!c.n_running && !r->ready.n && !r->quit) pthread_cond_wait(&r->step_cond, &e->lock);
        if (r->quit) break;
        lm_sequence *fresh[64];
        uint32_t n_fresh = 0;
        while (n_fresh < 64 && c.n_running + n_fresh < c.n_places && r->ready.n) {
            lm_job *j = lm_list_pop(&r->ready);
            j->running = true;
            r->n_running++;
            fresh[n_fresh++] = j->seq;
        }
        pthread_mutex_unlock(&e->lock);
        for (uint32_t i = 0; i < n_fresh; i++) admit(&c, fresh[i]);
        if (c.n_running) step(&c);
        if (!c.n_running) c.b->idle(lm_model_device(c.model));
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);

    LM_ASSERT(c.n_running == 0);
    close_core(&c);
    pthread_mutex_lock(&e->lock);
    r->step_gone = true;
    lm_engine_poke(e);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}
