/* internal.h - what the files of this room share.
 *
 * Who owns what: a job moves from hand to hand. In a queue (pending, inbox, ready) it belongs to the engine's
 * lock; who takes it out of a queue owns it until it is put into the next one or finished:
 *
 *     submit -> pending -> dispatcher -> inbox -> front thread -> ready -> step thread -> finished
 *
 * The dispatcher (one thread) decides which models are loaded and gives pending jobs to them. A runner is one
 * loaded model with two threads: the front thread opens the text side and turns requests into sequences; the
 * step thread opens the model and computes. The lock is held for list surgery only: never while computing,
 * reading files or calling a sink.
 */
#ifndef LM_ENGINE_INTERNAL_H
#define LM_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/cond.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "model/model.h"

typedef struct lm_runner lm_runner;
typedef struct lm_sequence lm_sequence;
typedef struct lm_core lm_core;

typedef struct lm_job_list {
    lm_job *head, *tail;
    uint32_t n;
} lm_job_list;

struct lm_job {
    atomic_uint refs;
    atomic_bool cancelled;
    lm_engine *engine; /* referenced */
    lm_request *request;
    lm_sink *sink;
    void *ctx;
    char *name, *dir;
    char digest[65];
    uint64_t submitted_ns;

    /* guarded by the engine's lock */
    lm_job *next, *prev;           /* in the queue it is in */
    lm_job *live_next, *live_prev; /* in the engine's list of all unfinished jobs */
    lm_runner *runner;             /* set when given to one */
    bool running, finished;

    /* the dispatcher's: what a load for this job would take, computed once it is about to load */
    bool sized;
    uint32_t ctx_train;
    uint64_t bytes;

    /* the present owner's */
    lm_sequence *seq;
    lm_metrics metrics;
    uint64_t ready_ns; /* prepared, waiting for a place */
};

struct lm_engine {
    atomic_uint refs; /* the user's and one for every job */
    lm_engine_config config;
    char *cpu_features;
    uint64_t (*clock)(void); /* monotonic; tests replace it */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t dispatch, idle;
    pthread_t dispatcher;
    bool dirty;    /* something happened that the dispatcher should look at */
    bool closing;  /* nothing is accepted any more */
    bool stopping; /* the dispatcher closes all runners and ends */
    lm_job_list pending;
    lm_job *live;
    uint32_t n_live;
    lm_runner *runners;
    bool lost; /* another rank is gone: nothing can be computed any more */
    uint32_t lost_rank;
    char lost_text[sizeof((lm_err *)0)->text];
    lm_engine_stats stats; /* counters only; the levels are counted when asked */
    uint64_t n_steps;
};

typedef enum lm_runner_state {
    LM_RUNNER_LOADING,
    LM_RUNNER_READY,
    LM_RUNNER_FAILED,
    LM_RUNNER_CLOSING
} lm_runner_state;

struct lm_runner {
    lm_engine *engine;
    char *name, *dir;
    char digest[65];
    uint32_t n_ctx, ctx_train;

    /* guarded by the engine's lock */
    lm_runner *next;
    lm_runner_state state;
    bool draining;  /* takes no new jobs; closed when its jobs are done */
    bool core_open; /* the model is loaded, or has failed to: see load_err */
    bool quit;      /* threads: give everything back and end */
    bool front_gone, step_gone;
    bool joinable_step;
    bool computing; /* the step thread is where it may stay for ever; with other ranks only */
    bool abandoned; /* it has been left there: what was its own is the dispatcher's */
    lm_core *core;  /* the step thread's, on its stack */
    lm_split split;
    lm_err load_err; /* status LM_OK: none */
    pthread_cond_t front_cond, step_cond;
    lm_job_list inbox, ready;
    uint32_t n_jobs, n_running; /* unfinished jobs given to this runner; those of them with a place */
    uint64_t bytes;             /* reserved by estimate, then as measured after the load */
    uint64_t device_bytes;
    int64_t keep_alive_ns;
    uint64_t used_ns; /* last time a job came or went */
    uint64_t load_since_ns, step_since_ns, front_since_ns; /* what each is at began then; 0: it waits for work */
    pthread_t front, step;

    /* the front thread's; `text` is read by the step thread too, while there are jobs */
    lm_text *text;
    lm_grammar_factory *grammar;

    /* written by the step thread before core_open, read-only afterwards */
    lm_model *model;
    lm_model_info info;
};

/* ---- job.c */

void lm_list_push(lm_job_list *l, lm_job *j);
void lm_list_remove(lm_job_list *l, lm_job *j);
lm_job *lm_list_pop(lm_job_list *l); /* NULL: empty */

lm_job *lm_job_new(lm_engine *e, const lm_model_ref *m, lm_request *r, lm_sink *sink, void *ctx);
static inline bool lm_job_cancelled(const lm_job *j) {
    return atomic_load_explicit(&j->cancelled, memory_order_relaxed);
}
/* The last event. The job is in no queue, the caller owns it; nothing of it may be touched afterwards. Not
 * under the lock. */
void lm_job_done(lm_job *j, lm_event *event);
void lm_job_fail(lm_job *j, lm_status st, const char *text);

/* Releases the engine's memory with the last reference. */
void lm_engine_unref(lm_engine *e);
/* Under the lock: wakes the dispatcher. */
void lm_engine_poke(lm_engine *e);

/* For tests: another clock for keep_alive, NULL for the real one; and a look at it now. */
void lm_engine_set_clock(lm_engine *e, uint64_t (*clock)(void));

/* ---- manager.c */

void *lm_dispatcher_main(void *engine);

/* ---- runner.c */

/* Under the lock. Starts the threads that load the model. LM_NO_MEMORY: no threads to be had. */
lm_status lm_runner_start(lm_engine *e, const lm_job *j, uint32_t n_ctx, lm_runner **out,
                          lm_err *err) LM_CHECKED;
/* Under the lock. The job goes to the front thread. */
void lm_runner_give(lm_runner *r, lm_job *j);
/* Without the lock, after both threads have said that they are gone. */
void lm_runner_free(lm_runner *r);

/* ---- need.c */

/* With Ollama's numbers where the configuration says 0. */
lm_engine_config lm_engine_settle(const lm_engine_config *config);
uint32_t lm_engine_max_batch(const lm_engine_config *config);
/* Tokens of one sequence, of a model that was trained on ctx_train of them (0: not known). */
uint32_t lm_engine_ctx(const lm_engine_config *config, uint32_t num_ctx, uint32_t ctx_train);

/* ---- prepare.c */

/* Request to sequence, on the front thread. After render_only *out is NULL and prompt holds the text;
 * after count_only it is empty. */
lm_status lm_prepare(lm_runner *r, lm_job *j, lm_sequence **out, lm_buf *prompt, lm_err *err) LM_CHECKED;

/* ---- scheduler.c and batch.c */

void *lm_step_main(void *runner);
/* Rows of prompts that may go into a step. shared: others decode in it, and wait for it. Otherwise as many as
 * keep the time until a hang-up is noticed at about a second. row_ns: measured time of a row, 0 when not
 * known. */
uint32_t lm_chunk_rows(double row_ns, uint32_t max_batch, bool shared);

#endif
