/* bench.c - who is there to be measured, and the runs, one after the other in turn: a machine that warms up
 * or gets busy changes the figures of all alike. */
#include "doctor/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define STOP_S 40

/* ---- where a model lies */

/* The directory of the model with this digest, of a bridge with our arguments. */
static bool find_place(bench *b, const char *digest, char out[512]) {
    json_t *list = NULL;
    const json_t *m;
    size_t i;
    bool found = false;
    if (bridge_list(b->d.config, &b->d.report, &list, NULL) != LM_OK) return false;
    json_array_foreach(json_object_get(list, "models"), i, m) {
        const char *its = json_string_value(json_object_get(m, "digest"));
        const char *place = json_string_value(json_object_get(m, "place"));
        if (found || !its || !place || strcmp(its, digest)) continue;
        found = snprintf(out, 512, "%s", place) < 512 && lm_path_is_dir(out);
    }
    json_decref(list);
    return found;
}

/* The digest of the loaded model by its name; by itself if it is the only one, since a name may be an alias.
 */
static bool loaded_digest(bench *b, char out[65]) {
    doctor_result r;
    json_t *o = wire_json(&b->d.brief, "GET", "/api/ps", NULL, &r);
    const json_t *models = json_object_get(o, "models"), *m;
    size_t i, n = json_array_size(models);
    out[0] = '\0';
    json_array_foreach(models, i, m) {
        const char *name = json_string_value(json_object_get(m, "name"));
        const char *digest = json_string_value(json_object_get(m, "digest"));
        if (name && digest && strlen(digest) >= 12 && (n == 1 || !strcmp(name, b->d.model)))
            snprintf(out, 65, "%s", digest);
    }
    json_decref(o);
    return out[0] != '\0';
}

/* ---- who is there */

static void absent(bench_peer *p, const doctor_result *r) {
    snprintf(p->absent, sizeof p->absent, "%.250s (%.250s)", r->detail, r->remedy);
}

/* Whether our bridge is what answers; with its words for the table. */
static bool meet_bridge(bench *b, doctor_result *r) {
    doctor *d = &b->d;
    check_reachable(d, r);
    if (d->reachable) check_health(d, r);
    if (d->reachable && r->state != DOCTOR_FAILED && !d->ours)
        doctor_failed(r, "name a bridge with --url; the Ollama to compare with is --ollama URL",
                      "%s is not mlx-ollama-bridge", d->url);
    if (r->state != DOCTOR_PASSED) return false;
    /* "mlx-ollama-bridge 0.1.0, backend cpu on x, no GPU, memory ..." */
    const char *end = strstr(r->detail, ", memory"), *from = r->detail + strlen("mlx-ollama-bridge ");
    snprintf(b->peers[OURS].version, sizeof b->peers[OURS].version, "%.*s", end ? (int)(end - from) : 100,
             from);
    check_models(d, r);
    if (r->state != DOCTOR_PASSED) return false;
    snprintf(b->peers[OURS].model, sizeof b->peers[OURS].model, "%s", d->model);
    return true;
}

static bool is_bridge(const wire *w) {
    doctor_result r;
    lm_answer a;
    if (!wire_ask(w, "GET", "/health", NULL, &a, &r)) return false;
    bool is = a.status == 200 && strstr(a.body.ptr ? a.body.ptr : "", "\"backend\"");
    lm_answer_release(&a);
    return is;
}

/* A server that runs: its version, and whether it has the model that p names. */
static bool meet_server(bench *b, bench_peer *p, const char *start, doctor_result *r) {
    wire brief = p->wire;
    brief.timeout_s = b->d.brief.timeout_s;
    if (!strcmp(p->url, b->d.url)) return doctor_failed(r, start, "%s is our own server", p->url);
    json_t *o = wire_json(&brief, "GET", "/api/version", NULL, r);
    if (!o) {
        snprintf(r->remedy, sizeof r->remedy, "%s", start);
        return false;
    }
    const char *version = json_string_value(json_object_get(o, "version"));
    doctor_passed(r, "%s", version ? version : ""); /* a server's words: made harmless */
    snprintf(p->version, sizeof p->version, "%.100s", r->detail);
    json_decref(o);
    json_t *body = json_pack("{s:s}", "model", p->model);
    o = wire_json(&brief, "POST", "/api/show", body, r);
    json_decref(body);
    if (o) {
        json_decref(o);
        return true;
    }
    char why[256];
    snprintf(why, sizeof why, "%.250s", r->detail);
    return doctor_failed(r, "pull the same model there (ollama pull), or name Ollama's with --ollama-model",
                         "%s", why);
}

static bool meet_ollama(bench *b, doctor_result *r) {
    const doctor_config *c = b->d.config;
    bench_peer *p = &b->peers[OLLAMA];
    wire brief = p->wire;
    brief.timeout_s = b->d.brief.timeout_s;
    if (is_bridge(&brief))
        return doctor_failed(r, "start Ollama on another port and name it with --ollama URL",
                             "what answers at %s is mlx-ollama-bridge, not Ollama", p->url);
    snprintf(p->model, sizeof p->model, "%s", c->ollama_model ? c->ollama_model : b->d.model);
    return meet_server(b, p, "start it (ollama serve), or say where it is with --ollama URL", r);
}

static bool meet_peer(bench *b, bench_peer *p, doctor_result *r) {
    snprintf(p->model, sizeof p->model, "%s", b->d.model);
    return meet_server(b, p, "start it, or correct its address in --peer NAME=URL", r);
}

static bool meet_mlx_lm(bench *b, doctor_result *r) {
    const doctor_config *c = b->d.config;
    bench_peer *p = &b->peers[MLX_LM];
    char digest[65];
    if (!bench_has_mlx_lm(b, c->mlx_lm ? c->mlx_lm : "python3", r)) return false;
    if (c->mlx_lm_model) {
        snprintf(p->model, sizeof p->model, "%s", c->mlx_lm_model);
        return true;
    }
    if (!wire_load(&b->d.wire, b->d.model, r)) return false;
    if (!loaded_digest(b, digest) || !find_place(b, digest, p->model))
        return doctor_failed(r, "name it with --mlx-lm-model DIR", "the directory of %s was not found",
                             b->d.model);
    return true;
}

/* ---- runs */

/* A run of ours; without --url in a process of its own. */
static bool run_ours(bench *b, bench_run *out, doctor_result *r) {
    const doctor_config *c = b->d.config;
    if (c->url_given) {
        uint16_t port = 0;
        bool here = wire_is_here(b->d.url, &port);
        return bench_server(b, b->peers[OURS].name, &b->d.wire, b->d.model, here ? process_on_port(port) : 0,
                            0, out, r) &&
               wire_unload(&b->d.wire, b->d.model, r); /* its memory is the others' now */
    }
    doctor_process *p = NULL;
    lm_err err = {0};
    uint64_t started = lm_now_ns();
    if (bridge_start(c, &b->d.report, &p, b->d.url, &err) != LM_OK)
        return doctor_failed(r, "install mlx-ollama-bridge beside this program, or see its last words", "%s",
                             err.text);
    bool ok = bench_server(b, b->peers[OURS].name, &b->d.wire, b->d.model, process_pid(p), started, out, r);
    process_stop(p, STOP_S);
    return ok;
}

static bool run_server(bench *b, const bench_peer *p, bench_run *out, doctor_result *r) {
    uint16_t port = 0;
    bool here = wire_is_here(p->url, &port);
    if (!bench_server(b, p->name, &p->wire, p->model, here ? process_on_port(port) : 0, 0, out, r))
        return false;
    return wire_unload(&p->wire, p->model, r); /* its memory is the others' now */
}

static bool run_one(bench *b, int who, bench_run *out, doctor_result *r) {
    const doctor_config *c = b->d.config;
    bench_peer *p = &b->peers[who];
    if (who == OURS) return run_ours(b, out, r);
    if (who == MLX_LM)
        return bench_mlx_lm(b, c->mlx_lm ? c->mlx_lm : "python3", p->model, p->version, out, r);
    return run_server(b, p, out, r);
}

/* False: ours could not be measured. A peer that fails is absent from then on. */
static bool run_all(bench *b, doctor_result *r) {
    for (uint32_t i = 0; i < b->d.config->repeat; i++) {
        for (int who = 0; who < N_PEERS + b->n_more; who++) {
            bench_peer *p = &b->peers[who];
            if (p->absent[0]) continue;
            if (!b->d.report.progress)
                fprintf(stderr, "run %u of %u: %s\n", i + 1, b->d.config->repeat, p->name);
            bool ok = run_one(b, who, &p->runs[p->n_runs], r);
            report_quiet(&b->d.report);
            if (process_interrupted() || (!ok && who == OURS)) return false;
            if (ok) {
                p->n_runs++;
            } else {
                absent(p, r);
                p->n_runs = 0;
            }
        }
    }
    return true;
}

/* Looks who is there. Our bridge is started for that and stopped again: each run has its own. */
static bool meet_all(bench *b, doctor_result *r) {
    const doctor_config *c = b->d.config;
    doctor_process *p = NULL;
    lm_err err = {0};
    report_begin(&b->d.report, "looking who is there");
    if (!c->url_given && bridge_start(c, &b->d.report, &p, b->d.url, &err) != LM_OK)
        return doctor_failed(r, "install mlx-ollama-bridge beside this program, or see its last words", "%s",
                             err.text);
    bool ok = meet_bridge(b, r);
    if (ok) {
        doctor_result why;
        if (!meet_ollama(b, &why)) absent(&b->peers[OLLAMA], &why);
        if (!meet_mlx_lm(b, &why)) absent(&b->peers[MLX_LM], &why);
        for (int i = N_PEERS; i < N_PEERS + b->n_more; i++)
            if (!meet_peer(b, &b->peers[i], &why)) absent(&b->peers[i], &why);
    }
    process_stop(p, STOP_S);
    report_quiet(&b->d.report);
    return ok && !process_interrupted();
}

/* ---- the whole */

static void tell(const bench *b) {
    if (b->d.config->json) {
        json_t *o = bench_json(b);
        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(o);
        return;
    }
    lm_buf out;
    lm_buf_init(&out, 1u << 20);
    bench_write_markdown(b, &out);
    fwrite(out.ptr, 1, out.len, stdout);
    lm_buf_release(&out);
}

/* Somebody who was asked for and could not be measured is a failure. */
static bool all_that_were_named(const bench *b) {
    const doctor_config *c = b->d.config;
    for (int i = N_PEERS; i < N_PEERS + b->n_more; i++)
        if (b->peers[i].absent[0]) return false;
    return !(c->ollama_given && b->peers[OLLAMA].absent[0]) && !(c->mlx_lm && b->peers[MLX_LM].absent[0]);
}

int doctor_bench(const doctor_config *c) {
    bench b = {.d = {.config = c},
               .peers = {{.name = "mlx-ollama", .key = "mlx_ollama"},
                         {.name = "Ollama", .key = "ollama"},
                         {.name = "mlx-lm", .key = "mlx_lm"}}};
    lm_client *client = NULL;
    lm_err err = {0};
    doctor_result r = {0};
    if (lm_client_open(&client, &err) != LM_OK) {
        fprintf(stderr, "test-mlx-integration: %s\n", err.text);
        return EXIT_BROKEN;
    }
    doctor_config quiet = *c; /* results are told by the table alone */
    quiet.json = quiet.tap = false;
    report_open(&b.d.report, &quiet);
    strcpy(b.d.url, c->url);
    snprintf(b.d.model, sizeof b.d.model, "%s", c->model ? c->model : "");
    b.d.wire = b.d.brief = (wire){client, b.d.url, c->timeout_s, 0, &b.d.report};
    strcpy(b.peers[OLLAMA].url, c->ollama_url);
    b.n_more = (int)c->n_peers;
    for (int i = 0; i < b.n_more; i++) {
        b.peers[N_PEERS + i].name = b.peers[N_PEERS + i].key = c->peers[i].name;
        strcpy(b.peers[N_PEERS + i].url, c->peers[i].url);
    }
    for (int i = 0; i < N_PEERS + b.n_more; i++)
        b.peers[i].wire = (wire){client, b.peers[i].url, c->timeout_s, 0, &b.d.report};
    if (b.d.brief.timeout_s > 10) b.d.brief.timeout_s = 10;
    for (int i = 0; i < N_PEERS + b.n_more; i++) b.peers[i].runs = lm_alloc(c->repeat * sizeof(bench_run));
    machine_name(b.machine);
    b.turn = (uint32_t)(lm_wall_ns() / 1000000000 %
                        100000); /* the prompts of an earlier bench are none of this one's */

    bool ok = meet_all(&b, &r) && run_all(&b, &r);
    if (ok)
        tell(&b);
    else if (!process_interrupted())
        fprintf(stderr, "✗ %s\n  → %s\n", r.detail, r.remedy);
    for (int i = 0; i < N_PEERS + b.n_more; i++) free(b.peers[i].runs);
    lm_client_close(client);
    if (process_interrupted()) return EXIT_INTERRUPTED;
    return ok && all_that_were_named(&b) ? EXIT_PASSED : 1;
}
