/* reach.c - which server a command talks to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/progress.h"
#include "cli/say.h"
#include "cli/term.h"
#include "cli/wire.h"
#include "router/router.h"

#define OLLAMA_PORT   11434
#define PROBE_CONNECT 1000
#define PROBE_MS      5000

static bool on_wait(void *ctx) {
    spinner_turn(ctx);
    return !term_signal();
}

/* Whether somebody answers HTTP there: any status will do. */
static bool answers(wire *w, lm_err *err) {
    char url[600];
    spinner turns;
    snprintf(url, sizeof url, "%s/api/version", w->url);
    const char *headers[] = {w->auth, NULL};
    lm_ask q = {.method = "GET",
                .url = url,
                .headers = w->auth ? headers : NULL,
                .connect_ms = PROBE_CONNECT,
                .total_ms = PROBE_MS,
                .on_wait = on_wait,
                .ctx = &turns};
    lm_answer a;
    spinner_start(&turns);
    lm_status st = lm_client_ask(w->client, &q, &a, err);
    spinner_stop(&turns);
    lm_answer_release(&a);
    return st == LM_OK;
}

/* The one that was named, and no other: elsewhere are other models. */
static lm_status find_named(const char *text, const char *by, wire *w, lm_err *err) {
    char url[512];
    lm_err why = {0};
    lm_status st = lm_address_url(text, OLLAMA_PORT, 0, url, err);
    if (st != LM_OK) return lm_fail_in(err, st, "%s", by);
    st = wire_open(w, url, NULL, err);
    if (st != LM_OK || answers(w, &why)) return st;
    if (term_signal()) return lm_fail(err, LM_CANCELLED, "interrupted");
    return lm_fail(err, LM_NOT_FOUND,
                   "no server answers at %s (%s): %s. Start it, or name another with --host URL", url, by,
                   why.text);
}

static bool find_one(wire *w, const char *url, const char *key) {
    wire_close(w);
    return wire_open(w, url, key, NULL) == LM_OK && answers(w, NULL);
}

/* Where it listens, as a client asks it. */
static bool find_router(const lm_router_config *c, wire *w, char url[512]) {
    return lm_address_url(c->host, c->port, c->port, url, NULL) == LM_OK && find_one(w, url, NULL);
}

static lm_status find_any(const lm_router_config *c, wire *w, lm_err *err) {
    char url[512] = "";
    if (find_router(c, w, url)) return LM_OK;
    lm_buf asked;
    lm_buf_init(&asked, 4096);
    lm_buf_printf(&asked, "the router at %s", url);
    bool found = false;
    /* The bridge before Ollama: it is what this program is installed for. */
    for (int kind = LM_KIND_MLX; !found && kind >= LM_KIND_OLLAMA; kind--)
        for (uint32_t i = 0; i < c->n_backends && !found && !term_signal(); i++) {
            const lm_router_backend *b = &c->backends[i];
            if ((int)b->kind != kind) continue;
            found = find_one(w, b->url, b->api_key);
            lm_buf_printf(&asked, ", %s at %s", b->name, b->url);
        }
    lm_status st = LM_OK;
    if (!found && term_signal())
        st = lm_fail(err, LM_CANCELLED, "interrupted");
    else if (!found)
        st = lm_fail(err, LM_NOT_FOUND,
                     "no server answers (asked: %.250s). Start one: " CLI_PROGRAM
                     " start-mlx, or ollama serve; " CLI_PROGRAM
                     " serve for the router. Or name one with --host URL",
                     asked.ptr);
    lm_buf_release(&asked);
    return st;
}

lm_status wire_find(const cli_args *a, wire *w, lm_err *err) {
    *w = (wire){0};
    const char *host = cli_value(a, "host"), *environment = getenv("OLLAMA_HOST");
    if (host) return find_named(host, "--host", w, err);
    if (environment && environment[0]) return find_named(environment, "OLLAMA_HOST", w, err);
    lm_router_config c;
    lm_status st = lm_router_config_read(NULL, &c, err);
    if (st == LM_OK) st = find_any(&c, w, err);
    lm_router_config_release(&c);
    return st;
}

int wire_reach(const cli_args *a, wire *w) {
    lm_err err = {0};
    lm_status st = wire_find(a, w, &err);
    if (st == LM_OK) return CLI_OK;
    if (term_signal()) return CLI_SIGNAL + term_signal();
    int code = st == LM_NOT_FOUND ? CLI_NO_SERVER : st == LM_INVALID ? CLI_USAGE : CLI_FAILED;
    return say_failed(a, code, "%s", err.text);
}

bool wire_router_runs(void) {
    lm_router_config c;
    wire w = {0};
    char url[512];
    bool runs = lm_router_config_read(NULL, &c, NULL) == LM_OK && find_router(&c, &w, url);
    lm_router_config_release(&c);
    wire_close(&w);
    return runs;
}
