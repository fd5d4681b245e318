/* bench.h - what --bench measures, of whom, and how it is told. Private to the room.
 *
 * All times are taken here with one clock, from the request to what arrives, so that no server grades itself;
 * only the numbers of tokens are theirs. Every prompt begins with a number of its own: nobody answers from a
 * cache. */
#ifndef LM_DOCTOR_BENCH_H
#define LM_DOCTOR_BENCH_H

#include "doctor/check.h"

#define BENCH_MAX_RUNS 100

/* figure, its unit, key in JSON, name in the table */
#define BENCH_FIGURES(X)                                                                                     \
    X(LOAD, SECONDS, "load_to_first_token", "model load to first token")                                     \
    X(FIRST, SECONDS, "first_token", "first token, model loaded")                                            \
    X(PROMPT, RATE, "prompt", "prompt")                                                                      \
    X(ANSWER, RATE, "answer", "answer")                                                                      \
    X(MEMORY, BYTES, "memory", "resident memory")                                                            \
    X(REVIEW, SECONDS, "code_review", "code review")                                                         \
    X(START, SECONDS, "start_to_first_token", "process start to first token")

typedef enum bench_figure {
#define X(name, unit, key, title) FIGURE_##name,
    BENCH_FIGURES(X)
#undef X
        N_FIGURES
} bench_figure;

typedef struct bench_run {
    double figure[N_FIGURES]; /* s, tokens/s, bytes; NAN: not measured */
    uint32_t prompt_tokens, answer_tokens, review_tokens;
} bench_run;

typedef enum bench_who { OURS, OLLAMA, MLX_LM, N_PEERS } bench_who;

typedef struct bench_peer {
    const char *name, *key; /* for people, in JSON */
    char url[512];          /* of a server that runs already */
    wire wire;              /* to it */
    char version[128];      /* with what it says of itself */
    char model[512];        /* name or directory */
    char absent[512];       /* why it isn't measured; empty: it is */
    bench_run *runs;
    uint32_t n_runs;
} bench_peer;

typedef struct bench {
    doctor d;                                     /* of our own server */
    bench_peer peers[N_PEERS + DOCTOR_MAX_PEERS]; /* behind the three those of --peer */
    int n_more;                                   /* of --peer */
    char machine[256];
    char doing[128];
    uint32_t turn; /* makes each prompt another */
} bench;

/* ---- measuring: bench_ask.c. False: r says why. */

/* One run of a server of this name. pid 0: memory is not measured; started_ns: when its process was started, 0 unless it
 * was just now. */
bool bench_server(bench *b, const char *who, const wire *w, const char *model, int pid, uint64_t started_ns,
                  bench_run *out, doctor_result *r);
/* One run of mlx_lm in a process of its own; version is filled. */
bool bench_mlx_lm(bench *b, const char *python, const char *dir, char version[128], bench_run *out,
                  doctor_result *r);
/* Whether a Python has mlx_lm. */
bool bench_has_mlx_lm(bench *b, const char *python, doctor_result *r);

/* ---- telling: bench_table.c */

double bench_median(const bench_peer *p, bench_figure f); /* NAN: none */
/* How many times better ours is than the peer's; of memory ours as a share of the peer's. NAN: not known. */
double bench_ratio(const bench *b, int peer, bench_figure f);
void bench_write_markdown(const bench *b, lm_buf *out);
json_t *bench_json(const bench *b);

#endif
