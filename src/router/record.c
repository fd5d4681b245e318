/* record.c - one line of JSON for each request, on stderr: what was decided, and how it went. docs/ROUTER.md names the members. */
#include <errno.h>
#include <unistd.h>

#include "base/json.h"
#include "router/proxy.h"

#define MAX_LINE (64u << 10)

static void member(lm_buf *b, const char *key, lm_str value) {
    lm_buf_printf(b, ",\"%s\":", key);
    lm_json_write_string(b, value);
}

static void milliseconds(lm_buf *b, const char *key, uint64_t ns) {
    lm_buf_printf(b, ",\"%s\":%.3f", key, (double)ns / 1e6);
}

static void write_candidates(lm_buf *b, const call *c) {
    const lm_router_config *config = backends_config(c->gen->backends);
    lm_buf_text(b, ",\"candidates\":[");
    for (uint32_t i = 0; i < c->n_list; i++) {
        const candidate *k = &c->list[i];
        lm_buf_printf(b, "%s{\"backend\":", i ? "," : "");
        lm_json_write_string(b, lm_str_of(config->backends[k->backend].name));
        lm_buf_printf(b, ",\"usable\":%s,\"score\":", k->usable ? "true" : "false");
        lm_json_write_double(b, k->score);
        if (k->renamed) member(b, "model", lm_str_of(k->model));
        member(b, "reason", lm_str_of(k->reason));
        lm_buf_char(b, '}');
    }
    lm_buf_char(b, ']');
}

static void write_attempts(lm_buf *b, const call *c) {
    lm_buf_text(b, ",\"attempts\":[");
    for (uint32_t i = 0; i < c->n_log; i++) {
        const attempt_record *a = &c->log[i];
        lm_buf_printf(b, "%s{\"backend\":", i ? "," : "");
        lm_json_write_string(b, lm_str_of(a->backend));
        lm_buf_printf(b, ",\"end\":\"%s\",\"status\":%d", attempt_end_name(a->how.end), a->how.status);
        milliseconds(b, "ms", a->how.total_ns);
        if (a->how.first_ns) milliseconds(b, "first_ms", a->how.first_ns);
        if (a->how.error[0]) member(b, "error", lm_str_of(a->how.error));
        lm_buf_char(b, '}');
    }
    lm_buf_char(b, ']');
}

void record_write(call *c, bool gone) {
    lm_buf b;
    char when[40];
    uint64_t now = lm_now_ns();
    lm_buf_init(&b, MAX_LINE);
    lm_time_rfc3339(lm_wall_ns(), when);
    lm_buf_printf(&b, "{\"time\":\"%s\",\"msg\":\"request\",\"id\":\"%s\"", when, c->id);
    member(&b, "method", lm_http_method(c->x));
    lm_str path = lm_http_path(c->x);
    if (path.len > 1000) path.len = 1000;
    member(&b, "path", path);
    if (c->facts.model[0]) member(&b, "model", lm_str_of(c->facts.model));
    lm_buf_printf(&b, ",\"status\":%d", lm_http_status(c->x));
    milliseconds(&b, "ms", now - lm_http_started_ns(c->x));
    if (c->first_attempt_ns) milliseconds(&b, "added_ms", c->first_attempt_ns);
    const attempt_record *last = c->n_log ? &c->log[c->n_log - 1] : NULL;
    if (last && last->how.committed) {
        member(&b, "backend", lm_str_of(last->backend));
        if (last->how.first_ns) milliseconds(&b, "ttft_ms", last->how.first_ns);
    }
    lm_buf_printf(&b, ",\"bytes\":%llu,\"gone\":%s", (unsigned long long)lm_http_bytes_out(c->x),
                  gone ? "true" : "false");
    if (c->waited_ns) milliseconds(&b, "waited_ms", c->waited_ns);
    if (c->hygiene.changed)
        lm_buf_printf(&b, ",\"hygiene\":{\"markers\":%u,\"tokens_saved\":%u}", c->hygiene.n_markers,
                      c->hygiene.bytes_behind / 4);
    if (c->n_list) write_candidates(&b, c);
    if (c->n_log) write_attempts(&b, c);
    if (c->error[0]) member(&b, "error", lm_str_of(c->error));
    member(&b, "peer", lm_http_peer(c->x));
    lm_buf_text(&b, "}\n");
    if (!b.failed) {
        lm_str rest = lm_buf_view(&b);
        for (ssize_t n; rest.len; rest.ptr += n, rest.len -= (size_t)n) {
            do n = write(STDERR_FILENO, rest.ptr, rest.len);
            while (n < 0 && errno == EINTR);
            if (n <= 0) break; /* there is nobody to tell that nobody can be told */
        }
    }
    lm_buf_release(&b);
}
