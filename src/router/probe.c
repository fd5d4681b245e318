/* probe.c - see probe.h. */
#include "router/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "http/client.h"

struct probe {
    const lm_router_backend *backend;
    uint32_t connect_ms, total_ms;
    lm_client *client;
    char *bearer; /* "Authorization: Bearer ...", or NULL */
    atomic_bool stop;
};

lm_status probe_open(probe **out, const lm_router_backend *backend, const lm_router_config *config,
                     lm_err *err) {
    probe *p = lm_alloc(sizeof *p);
    p->backend = backend;
    p->total_ms = config->check_timeout_ms;
    p->connect_ms = config->connect_ms < p->total_ms ? config->connect_ms : p->total_ms;
    atomic_init(&p->stop, false);
    if (backend->api_key) {
        lm_buf b;
        lm_buf_init(&b, 8192);
        lm_buf_printf(&b, "Authorization: Bearer %s", backend->api_key);
        p->bearer = lm_buf_take(&b);
    }
    lm_status st = lm_client_open(&p->client, err);
    if (st != LM_OK) {
        probe_close(p);
        return st;
    }
    *out = p;
    return LM_OK;
}

void probe_close(probe *p) {
    if (!p) return;
    lm_client_close(p->client);
    free(p->bearer);
    free(p);
}

void probe_stop(probe *p) {
    atomic_store(&p->stop, true);
    lm_client_cancel(p->client);
}

static bool go_on(void *ctx) {
    return !atomic_load(&((probe *)ctx)->stop);
}

static lm_status ask(probe *p, const char *method, const char *path, lm_str body, lm_answer *a, lm_err *err) {
    char url[600];
    const char *headers[] = {p->bearer, NULL};
    snprintf(url, sizeof url, "%s%s", p->backend->url, path);
    lm_ask ask = {.method = method,
                  .url = url,
                  .headers = p->bearer ? headers : NULL,
                  .body = body,
                  .max_body = CATALOG_MAX_BODY,
                  .connect_ms = p->connect_ms,
                  .total_ms = p->total_ms,
                  .on_wait = go_on,
                  .ctx = p};
    return lm_client_ask(p->client, &ask, a, err);
}

/* A word of this machine's own for each way to fail: the client's text may hold the address, and goes to whoever asks. */
static void explain_failure(probe *p, lm_status st, probe_result *out) {
    const char *why = st == LM_NOT_FOUND   ? "nobody listens there"
                      : st == LM_DENIED    ? "its certificate is not to be trusted"
                      : st == LM_TOO_LARGE ? "its answer is too large"
                      : st == LM_CANCELLED ? "stopped"
                      : st == LM_TIMEOUT   ? NULL
                                           : "the connection broke";
    out->end = st == LM_NOT_FOUND ? CHECK_REFUSED : CHECK_FAILED;
    if (why)
        snprintf(out->error, sizeof out->error, "%s", why);
    else
        snprintf(out->error, sizeof out->error, "no answer within %g s", p->total_ms / 1000.0);
}

static void explain_status(const lm_answer *a, const char *path, probe_result *out) {
    out->end = CHECK_FAILED;
    if (a->status == 429 || a->status == 503) {
        out->end = CHECK_BUSY;
        out->retry_after_s = a->retry_after_s;
        snprintf(out->error, sizeof out->error, "busy (%d)", a->status);
    } else if (a->status == 401 || a->status == 403) {
        snprintf(out->error, sizeof out->error, "refuses us (%d): set api_key in its section", a->status);
    } else {
        snprintf(out->error, sizeof out->error, "answers %d to %s", a->status, path);
    }
}

/* One GET with a good answer, which the caller releases; else false, and out says why. */
static bool get(probe *p, const char *path, lm_answer *a, probe_result *out) {
    lm_status st = ask(p, "GET", path, (lm_str){0}, a, NULL);
    if (st == LM_OK && a->status == 200) return true;
    if (st == LM_OK)
        explain_status(a, path, out);
    else
        explain_failure(p, st, out);
    lm_answer_release(a);
    return false;
}

static bool look_version(probe *p, probe_result *out) {
    lm_answer a = {0};
    json_t *root = NULL;
    if (!get(p, "/api/version", &a, out)) return false;
    out->latency_ns = a.total_ns;
    const char *version = NULL;
    if (lm_json_parse(lm_buf_view(&a.body), &root, NULL) == LM_OK)
        version = json_string_value(json_object_get(root, "version"));
    bool ok = version && version[0] && strlen(version) < sizeof out->version;
    for (const char *s = version; ok && *s; s++) ok = *s > ' ' && *s < 0x7f;
    if (ok) {
        snprintf(out->version, sizeof out->version, "%s", version);
    } else {
        out->end = CHECK_FAILED;
        snprintf(out->error, sizeof out->error,
                 "does not speak Ollama's API: /api/version answers no version");
    }
    json_decref(root);
    lm_answer_release(&a);
    return ok;
}

static bool look_models(probe *p, probe_result *out) {
    lm_answer a = {0};
    lm_err err = {0};
    if (!get(p, "/api/tags", &a, out)) return false;
    lm_status st = catalog_read(&out->models, lm_buf_view(&a.body), &err);
    lm_answer_release(&a);
    if (st == LM_OK) {
        if (!get(p, "/api/ps", &a, out)) return false;
        st = catalog_read_ps(out->models, lm_buf_view(&a.body), &err);
        lm_answer_release(&a);
    }
    if (st == LM_OK) return true;
    out->end = CHECK_FAILED;
    snprintf(out->error, sizeof out->error, "%.250s", err.text);
    return false;
}

static void take_over(catalog *now, const catalog *before) {
    for (uint32_t i = 0; i < now->n; i++) {
        catalog_model *m = &now->models[i];
        const catalog_model *old = m->able_known ? NULL : catalog_find_key(before, m->key);
        if (!old || !old->asked || strcmp(old->digest, m->digest) != 0) continue;
        m->asked = true;
        m->able_known = old->able_known;
        m->able = old->able;
        if (!m->n_ctx) m->n_ctx = old->n_ctx;
    }
}

void probe_look(probe *p, const catalog *before, probe_result *out) {
    *out = (probe_result){.end = CHECK_OK};
    if (look_version(p, out) && look_models(p, out)) {
        take_over(out->models, before);
        return;
    }
    catalog_free(out->models);
    out->models = NULL;
}

bool probe_show(probe *p, const char *model, catalog_show *out, bool *later) {
    lm_answer a = {0};
    lm_buf body;
    lm_buf_init(&body, 8192);
    lm_buf_text(&body, "{\"model\":");
    lm_json_write_string(&body, lm_str_of(model));
    lm_buf_char(&body, '}');
    lm_status st = ask(p, "POST", "/api/show", lm_buf_view(&body), &a, NULL);
    lm_buf_release(&body);
    *later = st != LM_OK || a.status == 429 || a.status >= 500;
    bool ok = st == LM_OK && a.status == 200 && catalog_read_show(lm_buf_view(&a.body), out, NULL) == LM_OK;
    lm_answer_release(&a);
    return ok;
}
