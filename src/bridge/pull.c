/* pull.c - the commands pull and push: a model from the hub or a registry into the own store, or the other
 * way, shown as it comes or goes: a bar on a terminal, a line now and then in a file, or lines of JSON. */
#include "bridge/bridge.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "hub/hub.h"

#define MAX_FILES 512
#define BAR       30

typedef struct layer {
    char hex[13];
    uint64_t total, done;
} layer;

typedef struct shown {
    const char *doing; /* "pulling" */
    bool terminal;
    bool json;
    layer *layers; /* MAX_FILES */
    uint32_t n;
    uint64_t at_ns;   /* of the last line about bytes */
    unsigned percent; /* in it */
    bool open;        /* the cursor is behind a bar */
} shown;

static volatile sig_atomic_t interrupted;

static void interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static void close_line(shown *p) {
    if (p->open) fputc('\n', stderr);
    p->open = false;
}

/* {"KEY":TEXT}, as /api/pull has it */
static void show_json(const char *key, const char *text) {
    lm_buf b;
    lm_buf_init(&b, 65536);
    lm_json_write_string(&b, lm_str_of(text));
    printf("{\"%s\":%s}\n", key, b.ptr);
    fflush(stdout);
    lm_buf_release(&b);
}

static void show_status(void *ctx, const char *text) {
    shown *p = ctx;
    close_line(p);
    if (p->json)
        show_json("status", text);
    else
        fprintf(stderr, "%s\n", text);
}

static void show_sum(shown *p) {
    uint64_t done = 0, total = 0, now = lm_now_ns();
    for (uint32_t i = 0; i < p->n; i++) {
        done += p->layers[i].done;
        total += p->layers[i].total;
    }
    unsigned percent = total ? (unsigned)((double)done * 100.0 / (double)total) : 100;
    double mb = (double)done / 1e6, all = (double)total / 1e6;
    if (p->terminal && (done == total || now - p->at_ns > 100000000)) {
        char bar[BAR + 1];
        unsigned full = percent * BAR / 100;
        for (unsigned i = 0; i < BAR; i++) bar[i] = i < full ? '#' : '-';
        bar[BAR] = '\0';
        fprintf(stderr, "\r%3u %% [%s] %.1f of %.1f MB   ", percent, bar, mb, all);
        p->open = true;
        p->at_ns = now;
    } else if (!p->terminal && percent >= p->percent + 10) {
        fprintf(stderr, "%s %u %% of %.1f MB\n", p->doing, percent, all);
        p->percent = percent - percent % 10;
    }
}

static void show_bytes(void *ctx, const char *digest, uint64_t total, uint64_t completed) {
    shown *p = ctx;
    uint32_t i = 0;
    if (p->json) {
        printf("{\"status\":\"%s %.12s\",\"digest\":\"%s\",\"total\":%llu,\"completed\":%llu}\n", p->doing,
               digest + 7, digest, (unsigned long long)total, (unsigned long long)completed);
        fflush(stdout);
        return;
    }
    while (i < p->n && strncmp(p->layers[i].hex, digest + 7, 12)) i++;
    if (i == MAX_FILES) return;
    if (i == p->n) {
        snprintf(p->layers[p->n++].hex, sizeof p->layers->hex, "%.12s", digest + 7);
        p->layers[i].total = total;
    }
    p->layers[i].done = completed;
    show_sum(p);
}

static bool goes_on(void *ctx) {
    (void)ctx;
    return !interrupted;
}

typedef lm_status transfer(lm_store *s, const lm_pull *pull, lm_err *err);

static int run(const bridge_config *c, const char *doing, transfer *go, const char *interrupted_text) {
    lm_store *store = NULL;
    lm_err err = {0};
    shown p = {.doing = doing,
               .terminal = isatty(STDERR_FILENO) != 0,
               .json = c->json,
               .layers = lm_alloc(MAX_FILES * sizeof(layer))};
    lm_store_config config = {
        .own_dir = c->models, .roots = c->roots, .n_roots = c->n_roots, .gguf = c->import_gguf};
    lm_pull pull = {.name = c->name,
                    .insecure = c->insecure,
                    .status = show_status,
                    .bytes = show_bytes,
                    .go_on = goes_on,
                    .ctx = &p};
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* an error of that write, as a full disk */
    lm_status st = lm_store_open(&store, &config, &err);
    if (st == LM_OK) st = go(store, &pull, &err);
    lm_store_close(store);
    free(p.layers);
    if (st == LM_OK) {
        show_status(&p, "success");
        return EXIT_OK;
    }
    close_line(&p);
    const char *why = st == LM_CANCELLED ? interrupted_text : err.text;
    if (c->json) show_json("error", why);
    fprintf(stderr, "mlx-ollama-bridge: %s\n", why);
    return EXIT_FAILED;
}

int bridge_pull(const bridge_config *c) {
    return run(c, "pulling", lm_hub_pull, "interrupted: what came is kept, pull again to go on");
}

int bridge_push(const bridge_config *c) {
    return run(c, "pushing", lm_hub_push, "interrupted: what arrived is kept, push again to go on");
}
