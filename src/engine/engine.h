/* engine.h - loaded models, their queue, the scheduler, the sampler: generation requests in, events out.
 *
 * A request names a model directory; the engine loads it when nobody has yet (or unloads another that is idle to make
 * room), renders the prompt, tokenises, and gives the sequence to the model's own step thread. That thread runs one
 * ragged batch after the other: the decode tokens of all running sequences and a chunk of somebody's prompt.
 *
 * Threads: lm_engine_* may be called from any thread. Sinks run on engine threads and must not block: they format and
 * hand on. After DONE or ERROR, which is always the last event of a job and comes exactly once, a sink isn't called again.
 */
#ifndef LM_ENGINE_H
#define LM_ENGINE_H

#include <jansson.h>

#include "base/base.h"
#include "model/model.h"
#include "tensor/tensor.h"
#include "text/text.h"

typedef struct lm_engine lm_engine;
typedef struct lm_job lm_job; /* one request on its way */

typedef struct lm_engine_config {
    const lm_backend *backend;
    const char *cpu_features;   /* NULL: the best there is */
    uint32_t n_threads;         /* 0: all usable cores */
    uint32_t n_parallel;        /* sequences that decode together, per model (OLLAMA_NUM_PARALLEL) */
    uint32_t max_queue;         /* waiting requests, per engine (OLLAMA_MAX_QUEUE, 512) */
    uint32_t max_models;        /* loaded at a time (OLLAMA_MAX_LOADED_MODELS), 0: as memory allows */
    uint32_t default_ctx;       /* OLLAMA_CONTEXT_LENGTH, 4096 when 0 */
    int64_t keep_alive_ns;      /* negative: for ever */
    lm_kv_type kv_type;         /* how keys and values are kept (OLLAMA_KV_CACHE_TYPE) */
    uint64_t memory_budget;     /* bytes for all models together, 0: what the backend's device is made for, else
                                   three quarters of the machine's memory */
    const lm_world *world;      /* NULL: alone. Several processes compute one model at a time, together: max_models is 1 then */
} lm_engine_config;

lm_status lm_engine_open(lm_engine **out, const lm_engine_config *config, lm_err *err) LM_CHECKED;

/* What an engine that is opened so would need for the model of dir, for a request with that num_ctx (0: one that says
 * nothing). Nothing is loaded, and there need be no engine. As lm_model_inspect fails. */
typedef struct lm_engine_need {
    lm_model_need model;
    uint32_t n_ctx;       /* tokens of one sequence */
    uint32_t n_ctx_train; /* lm_model_info's */
    uint32_t n_parallel;  /* sequences */
} lm_engine_need;
lm_status lm_engine_need_of(const lm_engine_config *config, const char *dir, uint32_t num_ctx, lm_engine_need *out, lm_err *err)
    LM_CHECKED;

/* Stops accepting, lets running jobs finish for at most drain_ns, cancels the rest, unloads. */
void lm_engine_close(lm_engine *e, int64_t drain_ns);

/* ---- options ---------------------------------------------------------------------------------------------- */

/* Ollama's options under Ollama's names; lm_options_default gives Ollama's defaults. */
typedef struct lm_options {
    int32_t num_predict;       /* -1: until the end (at most 10 * num_ctx), -2: until the context is full */
    uint32_t num_ctx;          /* 0: the engine's default, at most what the model was trained on */
    int32_t num_keep;          /* tokens kept at a context shift, -1: the whole prompt */
    int64_t seed;              /* negative: random */
    float temperature;         /* 0: greedy */
    int32_t top_k;             /* <= 0: all */
    float top_p, min_p, typical_p;
    int32_t repeat_last_n;     /* 0: off, -1: num_ctx */
    float repeat_penalty, presence_penalty, frequency_penalty;
} lm_options;
void lm_options_default(lm_options *o);

/* ---- a request -------------------------------------------------------------------------------------------- */

/* The model as the store found it. Copied by lm_engine_submit. */
typedef struct lm_model_ref {
    const char *name;    /* as lists show it, with the tag: the key under which it stays loaded */
    const char *dir;     /* its directory */
    const char *digest;  /* 64 hex digits */
    uint64_t size;       /* bytes on disk */
} lm_model_ref;

typedef enum lm_request_kind {
    LM_REQUEST_LOAD,   /* load only */
    LM_REQUEST_RAW,    /* prompt goes to the tokenizer as it is */
    LM_REQUEST_CHAT,   /* messages go through the model's template */
    LM_REQUEST_INSERT, /* prompt and suffix through the fill-in-the-middle form */
    LM_REQUEST_EMBED,  /* a vector for each of inputs */
} lm_request_kind;

/* A text, or the tokens that a client has made of one. */
typedef struct lm_input {
    char *text;   /* (n) bytes, may hold NULs; NULL: ids */
    int32_t *ids; /* (n) as they are, nothing is added */
    size_t n;
} lm_input;

#define LM_KEEP_ALIVE_DEFAULT INT64_MIN

typedef struct lm_request {
    lm_request_kind kind;
    char *prompt;         /* RAW, INSERT */
    char *suffix;         /* INSERT */
    json_t *messages;     /* CHAT: array in Ollama's message form */
    json_t *tools;        /* array or NULL */
    char *template;       /* CHAT, INSERT: a Go template in place of the model's, or NULL */
    int32_t *context;     /* ids that go before the prompt, or NULL */
    uint32_t n_context;
    int thinking;         /* -1 not said, 0 off, 1 on */
    char think_level[8];  /* "", low, medium, high */
    uint32_t think_budget; /* tokens of thinking after which it is ended, where the model has a token for that; 0: no bound */
    bool constrained;     /* output must match schema */
    char *schema;         /* "" or NULL: any JSON object */
    lm_options options;
    lm_bias *biases;
    uint32_t n_biases;
    char **stops;
    uint32_t n_stops;
    bool logprobs;
    uint32_t top_logprobs; /* 0..20 */
    bool truncate;        /* drop old messages (CHAT) or the beginning (RAW) of a prompt that does not fit */
    bool shift;           /* make room when the context is full; false: stop with LENGTH */
    bool want_context;    /* DONE carries the ids of prompt and answer */
    bool render_only;     /* DONE carries the rendered prompt and nothing runs */
    bool count_only;      /* DONE carries the prompt's tokens (metrics.n_prompt), however many, and nothing runs */
    int64_t keep_alive_ns; /* LM_KEEP_ALIVE_DEFAULT, negative for ever, 0 unload when idle */
    lm_input *inputs;     /* EMBED: each of them is cut at its end with `truncate`, refused without */
    uint32_t n_inputs;
    uint32_t dimensions;  /* EMBED: numbers of a vector; 0, or more than the model gives: all of them */
    bool normalize;       /* EMBED: to length 1, after the cut */
} lm_request;
lm_request *lm_request_new(void);         /* all defaults */
void lm_request_free(lm_request *r);      /* with everything it holds; NULL allowed */

/* ---- events ----------------------------------------------------------------------------------------------- */

typedef struct lm_logprob {
    int32_t id;
    float logprob;     /* natural log, of the untempered distribution */
    lm_str bytes;      /* of the token */
} lm_logprob;

typedef struct lm_token_logprobs {
    lm_logprob chosen;
    const lm_logprob *top; /* n_top, best first */
    uint32_t n_top;
} lm_token_logprobs;

typedef enum lm_event_kind { LM_EVENT_LOADED, LM_EVENT_TEXT, LM_EVENT_THINKING, LM_EVENT_TOOL_CALL, LM_EVENT_DONE, LM_EVENT_ERROR } lm_event_kind;
typedef enum lm_done_reason { LM_DONE_STOP, LM_DONE_LENGTH, LM_DONE_LOAD } lm_done_reason;

typedef struct lm_metrics {
    uint64_t total_ns, load_ns, prompt_ns, eval_ns;
    uint32_t n_prompt, n_eval; /* tokens; n_prompt counts cached ones too, n_eval the stop token as llama.cpp's server does */
    uint32_t n_cached;         /* of the prompt, not computed again */
    uint64_t queue_ns;         /* waiting for a free place */
    uint64_t first_ns;         /* submit to first token */
} lm_metrics;

/* All pointers are valid during the call only. */
typedef struct lm_event {
    lm_event_kind kind;
    lm_str text;                          /* TEXT, THINKING: what is new; TOOL_CALL: arguments, a JSON object; ERROR: the text;
                                             DONE after render_only: the prompt */
    lm_str name;                          /* TOOL_CALL: the function */
    const lm_token_logprobs *logprobs;    /* TEXT, THINKING: of the tokens that this text came from, or NULL */
    uint32_t n_logprobs;
    lm_done_reason reason;                /* DONE */
    lm_str stop;                          /* DONE: the stop string that ended it; empty: something else did */
    lm_metrics metrics;                   /* DONE; TEXT, THINKING, TOOL_CALL: n_prompt and n_cached alone */
    const int32_t *context;               /* DONE with want_context */
    uint32_t n_context;
    const float *vectors;                 /* DONE of EMBED: (n_vectors, vector_width), in the order of inputs */
    uint32_t n_vectors, vector_width;
    lm_status status;                     /* ERROR: LM_BUSY queue full, LM_CANCELLED, LM_NO_MEMORY, LM_INVALID prompt too long, ... */
} lm_event;

typedef void lm_sink(void *ctx, const lm_event *event);

/* Queues a request (taken over, freed by the engine, also on failure). LM_BUSY: the queue is full
 * ("server busy, please try again.  maximum pending requests exceeded"). On success the sink gets everything else;
 * it may be called before this returns. *job is for lm_job_cancel and must be given back with lm_job_unref. */
lm_status lm_engine_submit(lm_engine *e, const lm_model_ref *model, lm_request *request, lm_sink *sink, void *ctx, lm_job **job,
                           lm_err *err) LM_CHECKED;
/* The client has gone: the sequence stops before its next step (and between prefill chunks); ends with ERROR LM_CANCELLED. */
void lm_job_cancel(lm_job *job);
void lm_job_unref(lm_job *job);

/* ---- models ------------------------------------------------------------------------------------------------ */

/* Unloads name as soon as its running jobs are done (DELETE, keep_alive 0). LM_NOT_FOUND: not loaded. */
lm_status lm_engine_unload(lm_engine *e, const char *name, lm_err *err) LM_CHECKED;

typedef struct lm_loaded {
    char name[400];
    char digest[65];
    char dir[1024];
    uint64_t size;          /* bytes in memory */
    uint64_t size_device;   /* of it on a GPU; 0 on CPU */
    int64_t expires_wall_ns; /* INT64_MAX: never */
    uint32_t n_ctx;
    uint32_t n_running, n_waiting;
} lm_loaded;
/* Fills at most room entries, latest expiry first; returns how many there are. */
uint32_t lm_engine_list(lm_engine *e, lm_loaded *out, uint32_t room);

/* Another rank is gone (lm_engine_config.world): running and waiting requests fail with text, later ones too. A thread that
 * waits for that rank inside the backend is left behind; then lm_engine_close frees nothing and the process must end with
 * _exit. */
void lm_engine_lose(lm_engine *e, uint32_t rank, const char *text);

typedef struct lm_engine_stats {
    uint64_t n_requests, n_failed, n_cancelled, n_prompt_tokens, n_eval_tokens;
    uint32_t n_running, n_waiting, n_models;
    const char *backend; /* its name */
    lm_backend_info device;
    lm_kv_type kv_type;
    uint64_t memory_budget; /* bytes */
    uint32_t world_size; /* ranks, 0: alone */
    lm_split split;      /* of the loaded model, else as configured */
    bool lost;           /* lm_engine_lose was called */
    uint32_t lost_rank;
    char lost_text[512];
} lm_engine_stats;
void lm_engine_get_stats(lm_engine *e, lm_engine_stats *out);

/* Whether work gets on, for a watchdog: what does not end within a generous limit hangs. */
typedef struct lm_engine_pulse {
    uint64_t n_steps; /* that have been finished, of all models */
    uint64_t turn_ns; /* the longest that a model's thread has been at one step, or at making one request ready; 0: none is */
    uint64_t load_ns; /* the longest that a model has been loading; 0: none is */
} lm_engine_pulse;
void lm_engine_get_pulse(lm_engine *e, lm_engine_pulse *out);

#endif
