/* export.c - the command export: a model of this disk as a plain directory that mlx-lm loads. */
#include "bridge/bridge.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/store.h"

static volatile sig_atomic_t interrupted;

static void interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

typedef struct shown {
    const char *name;
    bool terminal, json;
    bool open;        /* the cursor is behind the percents */
    unsigned percent; /* of the last line */
    uint64_t at_ns;   /* of it */
} shown;

/* {"status":"exporting NAME","total":..,"completed":..}, as the API's progress */
static void json_line(const char *key, const char *prefix, const char *text, const char *more) {
    lm_buf line, value;
    lm_buf_init(&line, 65536);
    lm_buf_init(&value, 65536);
    lm_buf_printf(&value, "%s%s", prefix, text);
    lm_json_write_string(&line, lm_buf_view(&value));
    printf("{\"%s\":%s%s}\n", key, line.ptr, more);
    fflush(stdout);
    lm_buf_release(&line);
    lm_buf_release(&value);
}

static bool show(void *ctx, uint64_t done, uint64_t total) {
    shown *p = ctx;
    uint64_t now = lm_now_ns();
    unsigned percent = total ? (unsigned)((double)done * 100.0 / (double)total) : 100;
    if (percent < p->percent) p->percent = 0; /* another round: it was imported first */
    if (p->json && (done == total || now - p->at_ns > 100000000)) {
        char more[80];
        snprintf(more, sizeof more, ",\"total\":%llu,\"completed\":%llu", (unsigned long long)total,
                 (unsigned long long)done);
        json_line("status", "exporting ", p->name, more);
        p->at_ns = now;
    } else if (!p->json && p->terminal && percent > p->percent) {
        fprintf(stderr, "\rexporting %3u %% of %.1f MB ", percent, (double)total / 1e6);
        p->open = true;
        p->percent = percent;
    } else if (!p->json && !p->terminal && percent >= p->percent + 10) {
        fprintf(stderr, "exporting %u %% of %.1f MB\n", percent, (double)total / 1e6);
        p->percent = percent - percent % 10;
    }
    return !interrupted;
}

/* mlx-lm has adapters in files of another form, and would load the base without a word. */
static void tell_of_adapter(const char *dir) {
    char *path = lm_path_join(dir, "adapter");
    if (lm_path_is_file(path))
        fprintf(stderr,
                "note: what the model's LoRA adapter adds is in %s; mlx-lm loads the weights without it\n",
                path);
    free(path);
}

int bridge_export(const bridge_config *c) {
    lm_store *store = NULL;
    lm_err err = {0};
    shown p = {.name = c->name, .terminal = isatty(STDERR_FILENO) != 0, .json = c->json};
    lm_store_config config = {
        .own_dir = c->models, .roots = c->roots, .n_roots = c->n_roots, .gguf = c->import_gguf};
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* an error of that write, as a full disk */
    lm_status st = lm_store_open(&store, &config, &err);
    if (st == LM_OK) st = lm_store_export(store, c->name, c->file, show, &p, &err);
    lm_store_close(store);
    if (p.open) fputc('\n', stderr);
    if (st == LM_OK) {
        if (c->json)
            json_line("status", "success", "", "");
        else
            printf("%s\n", c->file);
        tell_of_adapter(c->file);
        return EXIT_OK;
    }
    const char *why = st == LM_CANCELLED ? "interrupted: nothing was left behind" : err.text;
    if (c->json) json_line("error", "", why, "");
    fprintf(stderr, "mlx-ollama-bridge: %s\n", why);
    return EXIT_FAILED;
}
