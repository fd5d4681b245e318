/* bench.h - one model on one backend, measured. Private to the room. */
#ifndef LM_ROUTER_BENCH_H
#define LM_ROUTER_BENCH_H

#include <jansson.h>

#include "router/router.h"

#define BENCH_RUNS   3  /* after one that does not count: what is made ready with the first one is no speed */
#define BENCH_TOKENS 64 /* of an answer */
#define BENCH_ANSWER 256 /* tokens of the answer by which backends are compared */

typedef struct bench_run {
    double first_s;         /* from the request to the first token; the prompt is one that nobody has seen */
    double tokens_per_s;    /* after the first */
    uint32_t prompt_tokens; /* as the server counts them */
    uint32_t tokens;
} bench_run;

typedef struct bench_figures {
    bool loaded_before;
    double load_s; /* of one that was not loaded before */
    bench_run runs[BENCH_RUNS];
    double first_s, tokens_per_s; /* medians */
    double answer_s;        /* what an answer of BENCH_ANSWER tokens would take: the median of the runs */
    double least_s, most_s; /* of the same: the quickest and the slowest run */
} bench_figures;

/* Loads it if need be, asks once and then BENCH_RUNS times, unloads it if it was not loaded. LM_* as lm_client_ask, LM_IO: the server's own words. */
lm_status bench_measure(const lm_router_backend *b, const char *model, bool loaded, bench_figures *out,
                        lm_err *err) LM_CHECKED;
double bench_median(const double *values, uint32_t n);

#endif
