/* models.c - the commands about models on this disk: import and list. */
#include "bridge/bridge.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/store.h"

static int fail(const char *text) {
    fprintf(stderr, "mlx-ollama-bridge: %s\n", text);
    return EXIT_FAILED;
}

static lm_status open_store(const bridge_config *c, lm_store **out, lm_err *err) {
    lm_store_config config = {
        .own_dir = c->models, .roots = c->roots, .n_roots = c->n_roots, .gguf = c->import_gguf};
    return lm_store_open(out, &config, err);
}

/* ---- import */

typedef struct progress {
    bool terminal;
    unsigned shown; /* percent */
} progress;

static bool show_progress(void *ctx, uint64_t done, uint64_t total) {
    progress *p = ctx;
    unsigned percent = total ? (unsigned)(done * 100 / total) : 100;
    unsigned step = p->terminal ? 1 : 10;
    if (percent < p->shown + step) return true;
    p->shown = percent - percent % step;
    if (p->terminal)
        fprintf(stderr, "\r\033[1mimporting\033[0m %3u %%", p->shown);
    else
        fprintf(stderr, "importing %u %%\n", p->shown);
    return true;
}

/* "SmolLM2-135M.Q4_1.gguf" to "smollm2-135m.q4_1" */
static char *name_of_file(const char *file) {
    const char *slash = strrchr(file, '/');
    lm_str base = lm_str_of(slash ? slash + 1 : file);
    if (lm_str_ends(base, LM_STR(".gguf"))) base.len -= 5;
    char *name = lm_str_dup(base);
    for (char *p = name; *p; p++) {
        *p = (char)tolower((unsigned char)*p);
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p)) *p = '-';
    }
    return name;
}

/* The GGUF file stays where it is; the model becomes one of the own store. */
static lm_status import(lm_store *store, const char *file, const char *name, progress *p, lm_entry *made,
                        lm_err *err) {
    lm_draft *d = NULL;
    lm_entry there;
    lm_err none = {0};
    if (lm_store_find_own(store, name, &there, &none) == LM_OK)
        return lm_fail(err, LM_INVALID,
                       "a model %s exists already in %s: choose another name, or delete it first", name,
                       there.dir);
    lm_status st = lm_draft_open(&d, store, err);
    lm_gguf_file gguf = {.path = file};
    if (st == LM_OK) st = lm_draft_import(d, &gguf, 1, show_progress, p, err);
    if (st == LM_OK) st = lm_draft_commit(d, name, NULL, NULL, err);
    lm_draft_close(d);
    return st == LM_OK ? lm_store_find_own(store, name, made, err) : st;
}

/* FILE is no file: a model of Ollama's or LM Studio's store, under its name. */
static lm_status adopt(lm_store *store, const bridge_config *c, progress *p, lm_entry *made, lm_err *err) {
    lm_status st = lm_store_find(store, c->file, made, err);
    if (st == LM_NOT_FOUND)
        return lm_fail(err, st, "%s is neither a file nor a model on this disk: see mlx-ollama-bridge list",
                       c->file);
    if (st == LM_OK && !made->gguf)
        return lm_fail(err, LM_INVALID, "model '%s' runs as it is, from %s", made->name, made->dir);
    if (st == LM_OK && c->name)
        return lm_fail(err, LM_INVALID,
                       "a model of another store keeps its name: import it with one argument, and then copy "
                       "it (ollama cp)");
    return st == LM_OK ? lm_store_adopt(store, made, show_progress, p, err) : st;
}

int bridge_import(const bridge_config *c) {
    lm_store *store = NULL;
    lm_err err = {0};
    lm_entry made;
    char *name = c->name ? lm_strdup(c->name) : name_of_file(c->file);
    progress p = {.terminal = isatty(STDERR_FILENO) != 0};
    lm_status st = open_store(c, &store, &err);
    bool file = lm_path_is_file(c->file) || lm_str_ends(lm_str_of(c->file), LM_STR(".gguf"));
    if (st == LM_OK)
        st = file ? import(store, c->file, name, &p, &made, &err) : adopt(store, c, &p, &made, &err);
    if (p.terminal && p.shown) fputc('\n', stderr);
    if (st == LM_OK) printf("%s\n", made.dir);
    if (store) lm_store_close(store);
    free(name);
    return st == LM_OK ? EXIT_OK : fail(err.text);
}

/* ---- list */

static void human_size(uint64_t bytes, char out[16]) {
    if (bytes >= 1000000000)
        snprintf(out, 16, "%.1f GB", (double)bytes / 1e9);
    else if (bytes >= 1000000)
        snprintf(out, 16, "%.0f MB", (double)bytes / 1e6);
    else
        snprintf(out, 16, "%.0f KB", (double)bytes / 1e3);
}

static void print_table(const lm_entry *list, uint32_t n) {
    int width = 4;
    for (uint32_t i = 0; i < n; i++)
        if ((int)strlen(list[i].name) > width) width = (int)strlen(list[i].name);
    printf("%-*s    %-12s    %-8s    %-16s    %s\n", width, "NAME", "ID", "SIZE", "MODIFIED", "PLACE");
    for (uint32_t i = 0; i < n; i++) {
        char size[16], when[32];
        time_t seconds = (time_t)(list[i].modified_ns / 1000000000);
        struct tm t;
        localtime_r(&seconds, &t);
        strftime(when, sizeof when, "%Y-%m-%d %H:%M", &t);
        human_size(list[i].size, size);
        printf("%-*s    %.12s    %-8s    %-16s    %s\n", width, list[i].name, list[i].digest, size, when,
               list[i].dir);
    }
}

static void write_field(lm_buf *b, const char *key, const char *value) {
    lm_buf_printf(b, "\"%s\":", key);
    lm_json_write_string(b, lm_str_of(value));
    lm_buf_char(b, ',');
}

/* What a request that says no num_ctx makes the server take; nothing of a model that must be imported first, or that does not run here,
 * nor where several ranks share it. */
static void write_memory(const bridge_config *c, const lm_backend *backend, const lm_entry *model,
                         lm_buf *b) {
    lm_engine_need need;
    if (!backend || model->gguf || c->distributed) return;
    lm_engine_config engine = bridge_engine_config(c, backend);
    if (lm_engine_need_of(&engine, model->dir, 0, &need, NULL) != LM_OK) return;
    lm_buf_printf(
        b, ",\"memory\":{\"weights\":%llu,\"kv\":%llu,\"scratch\":%llu,\"context\":%u,\"parallel\":%u}",
        (unsigned long long)need.model.weights, (unsigned long long)need.model.kv,
        (unsigned long long)need.model.scratch, need.n_ctx, need.n_parallel);
}

/* For programs: with the place of the own store, whether there is a model in it or not. */
static void print_json(const bridge_config *c, const lm_entry *list, uint32_t n) {
    char *own = c->models ? lm_strdup(c->models) : lm_path_home(".mlx-ollama/models");
    const lm_backend *backend = NULL;
    if (bridge_choose_backend(c, &backend, NULL) != LM_OK)
        backend = NULL; /* the list does not depend on it */
    lm_buf b;
    lm_buf_init(&b, SIZE_MAX);
    lm_buf_char(&b, '{');
    write_field(&b, "store", own);
    lm_buf_text(&b, "\"models\":[");
    for (uint32_t i = 0; i < n; i++) {
        char when[40];
        lm_time_rfc3339(list[i].modified_ns, when);
        lm_buf_text(&b, i ? ",{" : "{");
        write_field(&b, "name", list[i].name);
        write_field(&b, "digest", list[i].digest);
        write_field(&b, "modified_at", when);
        write_field(&b, "place", list[i].gguf ? list[i].file : list[i].dir);
        lm_buf_printf(&b, "\"size\":%llu,\"needs_import\":%s", (unsigned long long)list[i].size,
                      list[i].gguf ? "true" : "false");
        write_memory(c, backend, &list[i], &b);
        lm_buf_char(&b, '}');
    }
    lm_buf_text(&b, "]}\n");
    fwrite(b.ptr, 1, b.len, stdout);
    lm_buf_release(&b);
    free(own);
}

int bridge_list(const bridge_config *c) {
    lm_store *store = NULL;
    lm_entry *list = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    lm_status st = open_store(c, &store, &err);
    if (st == LM_OK) st = lm_store_list(store, &list, &n, &err);
    if (st == LM_OK && c->json)
        print_json(c, list, n);
    else if (st == LM_OK)
        print_table(list, n);
    free(list);
    if (store) lm_store_close(store);
    return st == LM_OK ? EXIT_OK : fail(err.text);
}
