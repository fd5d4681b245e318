/* fake.h - a model and a text room of a few lines, linked in place of the real ones, so that the engine's
 * behaviour can be tested exactly: every output is a function of all tokens in the KV cache, and every fault
 * can be had on demand.
 *
 * Tokens: 0..255 are bytes, then BOS, EOS, THINK and UNTHINK. The model answers what `script` says after the
 * last '>' of its context (a script's byte 1 is THINK, 2 UNTHINK, 3 an endless repetition of the byte
 * before), then EOS; without a script it draws letters from a hash of everything it has read.
 */
#ifndef LM_ENGINE_FAKE_H
#define LM_ENGINE_FAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/test.h"
#include "engine/internal.h"

enum { FAKE_BOS = 256, FAKE_EOS, FAKE_THINK, FAKE_UNTHINK, FAKE_VOCAB };
#define FAKE_PAGE 16 /* tokens */
#define FAKE_WIDTH 8 /* numbers of a state */

typedef struct fake_world {
    const char *script;
    uint32_t ctx_train;
    uint32_t n_pages; /* of every device */
    bool thinks, bos;
    bool ends; /* the tokenizer puts '$' behind every text */
    bool gpu; /* what the backend says of its device */
    uint32_t max_batch;
    bool encoder;        /* reads texts whole, gives no tokens */
    lm_pooling pooling;  /* of its embeddings, 0: LAST */
    const char *no_embeddings; /* why it gives none */
    uint32_t embed_max;  /* tokens of a text */
    bool ahead;          /* computes ahead and chooses tokens itself; kept by fake_reset */
    uint64_t small, big; /* bytes of a model, of one whose directory contains "big" */

    /* what went on */
    atomic_uint n_steps, n_loads, n_text_loads, n_models_open, n_texts_open, n_seqs_open, n_pages_used,
        n_streams_open;
    atomic_uint n_rows, most_rows, most_slices;
    atomic_uint n_forks, n_estimates, n_idle, n_flights, n_waits;

    /* faults: the n-th call from now on fails, 0: none */
    atomic_int fail_step, fail_wait, fail_pick, fail_load, fail_text, busy_reserve, fail_reserve,
        fail_seq_open, fail_fork, nan_at, missing;
    atomic_int busy_for; /* how many reserves are busy once busy_reserve has struck */

    /* called in every step, on the step thread; load_hook while loading */
    void (*step_hook)(uint32_t n_step);
    void (*load_hook)(void);
} fake_world;
extern fake_world fake;
extern const lm_backend fake_backend;

void fake_reset(void);

/* A gate that threads of the engine can be made to wait at. */
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool open;
    uint32_t n_waiting;
} gate;
void gate_init(gate *g, bool open);
void gate_open(gate *g);
void gate_pass(gate *g);              /* waits while it is closed */
void gate_await(gate *g, uint32_t n); /* until n threads wait at it */

/* What a sink has heard. */
typedef struct heard {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    char text[8192], thinking[4096], tool[512], error[512], stop[64];
    char order[64]; /* one letter an event: L T K C D E, runs of T and K as one */
    uint32_t n_events, n_logprobs, n_text_events;
    int32_t logprob_ids[4096];
    bool top_ok;
    bool done;
    lm_status status; /* LM_OK after DONE */
    lm_done_reason reason;
    lm_metrics metrics;
    int32_t context[8192];
    uint32_t n_context;
    float vectors[4096];
    uint32_t n_vectors, vector_width;
    lm_job *job;
} heard;
void heard_init(heard *h);
void heard_sink(void *h, const lm_event *event);
void heard_wait(heard *h);

lm_engine *open_engine(uint32_t n_parallel);
lm_engine_config default_config(uint32_t n_parallel);
lm_request *raw_request(const char *prompt); /* greedy */
/* texts: each ends with '|'. */
lm_request *embed_request(const char *texts);
/* The state after the last of n tokens, which are bytes. */
void fake_state(const char *bytes, uint32_t n, float out[FAKE_WIDTH]);
lm_request *chat_request(const char *messages_json);
/* Submits to model "m:latest" in /m/m (or name). The request is taken over. */
lm_status submit_to(lm_engine *e, const char *name, lm_request *r, heard *h, lm_err *err);
void submit(lm_engine *e, lm_request *r, heard *h);
/* Submit and wait. */
void ask(lm_engine *e, lm_request *r, heard *h);
/* Nothing is left of anything. */
void assert_all_gone(void);

#endif
