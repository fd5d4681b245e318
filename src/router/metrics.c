#include "router/metrics.h"

#include <stdio.h>
#include <string.h>

/* Upper limits in seconds, as they are written. */
static const double limits[METRICS_BUCKETS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                               0.05,   0.1,     0.5,    1,     5,      30,    120};

void metrics_init(metrics *m) {
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
}

void metrics_release(metrics *m) {
    pthread_mutex_destroy(&m->lock);
}

/* The lock is held. When there is no room, the last one stands for all others. */
static metrics_backend *find(metrics *m, const char *name) {
    for (uint32_t i = 0; i < m->n; i++)
        if (!strcmp(m->backends[i].name, name)) return &m->backends[i];
    if (m->n == METRICS_BACKENDS) return &m->backends[METRICS_BACKENDS - 1];
    metrics_backend *b = &m->backends[m->n++];
    snprintf(b->name, sizeof b->name, "%s", name);
    return b;
}

static void observe(histogram *h, uint64_t ns) {
    int i = 0;
    while (i < METRICS_BUCKETS && (double)ns > limits[i] * 1e9) i++;
    h->counts[i]++;
    h->sum_ns += ns;
}

void metrics_request(metrics *m, const char *backend, metrics_result how) {
    pthread_mutex_lock(&m->lock);
    find(m, backend)->results[how]++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_attempt_begins(metrics *m, const char *backend) {
    pthread_mutex_lock(&m->lock);
    find(m, backend)->in_flight++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_attempt(metrics *m, const char *backend, const attempt *a) {
    pthread_mutex_lock(&m->lock);
    metrics_backend *b = find(m, backend);
    b->in_flight--;
    b->ends[a->end]++;
    if (a->first_ns && a->committed) observe(&b->first, a->first_ns);
    pthread_mutex_unlock(&m->lock);
}

void metrics_fallback(metrics *m, const char *from) {
    pthread_mutex_lock(&m->lock);
    find(m, from)->fallbacks++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_added(metrics *m, uint64_t ns) {
    pthread_mutex_lock(&m->lock);
    observe(&m->added, ns);
    pthread_mutex_unlock(&m->lock);
}

void metrics_hygiene(metrics *m, const hygiene_report *h) {
    pthread_mutex_lock(&m->lock);
    m->n_cleaned += h->changed;
    m->n_markers += h->n_markers;
    m->n_tokens_saved += h->bytes_behind / 4;
    pthread_mutex_unlock(&m->lock);
}

const char *attempt_end_name(attempt_end e) {
    static const char *const names[] = {"ok",       "refused", "timeout", "broke", "busy",
                                        "no_model", "failed",  "client",  "left"};
    return names[e];
}

/* ---- writing */

static void head(lm_buf *out, const char *name, const char *kind, const char *help) {
    lm_buf_printf(out, "# HELP mlx_router_%s %s\n# TYPE mlx_router_%s %s\n", name, help, name, kind);
}

static void write_histogram(lm_buf *out, const char *name, const char *label, const histogram *h) {
    uint64_t sum = 0;
    for (int i = 0; i < METRICS_BUCKETS; i++) {
        sum += h->counts[i];
        lm_buf_printf(out, "mlx_router_%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, label[0] ? "," : "",
                      limits[i], (unsigned long long)sum);
    }
    sum += h->counts[METRICS_BUCKETS];
    lm_buf_printf(out, "mlx_router_%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, label[0] ? "," : "",
                  (unsigned long long)sum);
    const char *open = label[0] ? "{" : "", *close = label[0] ? "}" : "";
    lm_buf_printf(out, "mlx_router_%s_sum%s%s%s %.6f\n", name, open, label, close, (double)h->sum_ns / 1e9);
    lm_buf_printf(out, "mlx_router_%s_count%s%s%s %llu\n", name, open, label, close, (unsigned long long)sum);
}

static void one(lm_buf *out, const char *name, const char *kind, const char *help, uint64_t value) {
    head(out, name, kind, help);
    lm_buf_printf(out, "mlx_router_%s %llu\n", name, (unsigned long long)value);
}

static void write_state(const json_t *status, lm_buf *out) {
    const json_t *list = json_object_get(status, "backends"), *b;
    size_t i;
    head(out, "backend_state", "gauge", "1 for the state that a backend is in.");
    json_array_foreach(list, i, b) {
        const char *name = json_string_value(json_object_get(b, "name"));
        const char *state = json_string_value(json_object_get(b, "state"));
        if (name && state)
            lm_buf_printf(out, "mlx_router_backend_state{backend=\"%s\",state=\"%s\"} 1\n", name, state);
    }
    head(out, "breakers_open", "gauge",
         "Models of a backend that are not asked for a while because they failed.");
    json_array_foreach(list, i, b) {
        const char *name = json_string_value(json_object_get(b, "name"));
        json_int_t open = json_integer_value(json_object_get(b, "breakers_open"));
        if (name) lm_buf_printf(out, "mlx_router_breakers_open{backend=\"%s\"} %lld\n", name, (long long)open);
    }
}

void metrics_write(metrics *m, const json_t *status, uint32_t open, lm_buf *out) {
    static const char *const results[] = {"ok", "error", "gone"};
    write_state(status, out);
    one(out, "requests_open", "gauge", "Requests that are not answered completely.", open);
    pthread_mutex_lock(&m->lock);
    head(out, "requests_total", "counter", "Answered requests by the backend that answered last.");
    for (uint32_t i = 0; i < m->n; i++)
        for (int k = 0; k < METRICS_RESULTS; k++)
            if (m->backends[i].results[k])
                lm_buf_printf(out, "mlx_router_requests_total{backend=\"%s\",result=\"%s\"} %llu\n",
                              m->backends[i].name, results[k], (unsigned long long)m->backends[i].results[k]);
    head(out, "attempts_total", "counter", "Requests sent to a backend, by how that ended.");
    for (uint32_t i = 0; i < m->n; i++)
        for (int k = 0; k <= ATTEMPT_LEFT; k++)
            if (m->backends[i].ends[k])
                lm_buf_printf(out, "mlx_router_attempts_total{backend=\"%s\",end=\"%s\"} %llu\n",
                              m->backends[i].name, attempt_end_name((attempt_end)k),
                              (unsigned long long)m->backends[i].ends[k]);
    head(out, "fallbacks_total", "counter",
         "Attempts at a backend that failed and were followed by another one.");
    for (uint32_t i = 0; i < m->n; i++)
        lm_buf_printf(out, "mlx_router_fallbacks_total{from=\"%s\"} %llu\n", m->backends[i].name,
                      (unsigned long long)m->backends[i].fallbacks);
    head(out, "in_flight", "gauge", "Requests that are with a backend now.");
    for (uint32_t i = 0; i < m->n; i++)
        lm_buf_printf(out, "mlx_router_in_flight{backend=\"%s\"} %lld\n", m->backends[i].name,
                      (long long)m->backends[i].in_flight);
    head(out, "first_event_seconds", "histogram",
         "From sending a request on to the first event of its answer.");
    for (uint32_t i = 0; i < m->n; i++) {
        char label[80];
        snprintf(label, sizeof label, "backend=\"%s\"", m->backends[i].name);
        write_histogram(out, "first_event_seconds", label, &m->backends[i].first);
    }
    head(out, "added_seconds", "histogram",
         "From having a request whole to sending it on: what the router adds.");
    write_histogram(out, "added_seconds", "", &m->added);
    one(out, "cleaned_requests_total", "counter",
        "Requests whose body was changed so that prompt caches stay warm.", m->n_cleaned);
    one(out, "markers_total", "counter", "Volatile markers that were taken out of prompts.", m->n_markers);
    one(out, "tokens_saved_total", "counter",
        "Tokens behind such markers, a quarter of the bytes: what backends may keep and would have computed "
        "again.",
        m->n_tokens_saved);
    pthread_mutex_unlock(&m->lock);
}
