/* metrics.h - what the router counts, as Prometheus reads it. Private to the room. docs/ROUTER.md names each.
 *
 * Threads: any.
 */
#ifndef LM_ROUTER_METRICS_H
#define LM_ROUTER_METRICS_H

#include <pthread.h>

#include "router/backends.h"
#include "router/hygiene.h"

#define METRICS_BACKENDS                                                                                     \
    (2 * LM_ROUTER_MAX_BACKENDS + 1) /* also those of earlier configurations; and nobody */
#define METRICS_BUCKETS 14

typedef enum metrics_result { RESULT_OK, RESULT_ERROR, RESULT_GONE, METRICS_RESULTS } metrics_result;

typedef struct histogram {
    uint64_t counts[METRICS_BUCKETS + 1]; /* the last one: above all */
    uint64_t sum_ns;
} histogram;

typedef struct metrics_backend {
    char name[64]; /* "none": nobody was asked */
    uint64_t results[METRICS_RESULTS];
    uint64_t ends[ATTEMPT_LEFT + 1];
    uint64_t fallbacks; /* attempts here that were followed by one elsewhere */
    int64_t in_flight;
    histogram first;
} metrics_backend;

typedef struct metrics {
    pthread_mutex_t lock;
    metrics_backend backends[METRICS_BACKENDS];
    uint32_t n;
    histogram added;
    uint64_t n_cleaned, n_markers, n_tokens_saved;
} metrics;

void metrics_init(metrics *m);
void metrics_release(metrics *m);

void metrics_request(metrics *m, const char *backend, metrics_result how);
void metrics_attempt_begins(metrics *m, const char *backend);
void metrics_attempt(metrics *m, const char *backend, const attempt *a);
void metrics_fallback(metrics *m, const char *from);
void metrics_added(metrics *m, uint64_t ns);
/* Tokens are guessed as a quarter of the bytes. */
void metrics_hygiene(metrics *m, const hygiene_report *h);

const char *attempt_end_name(attempt_end e);
/* status: what backends_json says; open: requests that are not answered yet. */
void metrics_write(metrics *m, const json_t *status, uint32_t open, lm_buf *out);

#endif
