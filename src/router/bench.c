/* bench.c - which backend is the quickest for a model on this machine.
 *
 * A name is measured with each backend that lists it or a twin of it. Names that come to the same models everywhere are one
 * group, measured once. What is compared is the time of an answer of BENCH_ANSWER tokens to a prompt that nobody has seen. One is
 * the quickest when each of its runs was quicker than each of the next one's, and the medians differ by COUNTS: a difference
 * that chance would make is none. */
#include "router/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "router/backends_state.h"

#define COUNTS    0.03 /* less than this is no difference */
#define MAX_NAMES 64

typedef struct place { /* a backend that has the model */
    uint32_t backend;
    char model[700];
    char id[CATALOG_KEY]; /* digest, or key: names with the same one mean the same there */
    bool loaded;
    const char *out; /* why it is not measured unless it is asked for by name; NULL: it is */
} place;

typedef struct group {
    char *names[MAX_NAMES];
    uint32_t n_names;
    place places[LM_ROUTER_MAX_BACKENDS];
    uint32_t n_places;
} group;

typedef struct bench {
    const lm_router_config *config;
    backends *backends;
    group *groups;
    uint32_t n, room;
    json_t *skipped;
    void (*say)(void *ctx, const char *line);
    void *ctx;
} bench;

static void say(bench *b, const char *format, ...) LM_PRINTF(2, 3);
static void say(bench *b, const char *format, ...) {
    char line[1000];
    va_list args;
    if (!b->say) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    b->say(b->ctx, line);
}

static void skip(bench *b, const char *model, const char *why) {
    json_array_append_new(b->skipped, json_pack("{s:s, s:s}", "model", model, "reason", why));
}

/* ---- what there is to measure */

static const char *why_not(const lm_router_backend *config, const catalog_model *m) {
    const char *host = json_string_value(json_object_get(m->item, "remote_host"));
    if (m->able_known && !(m->able & NEED_COMPLETION)) return "it makes no text";
    if (host && host[0]) return "it runs elsewhere";
    if (config->kind == LM_KIND_MLX && !strcmp(m->format, "gguf"))
        return "MLX would have to import its GGUF file first, ask for it by name to have that done";
    return NULL;
}

/* Under the lock. */
static void find_places(const bench *b, const candidate *c, uint32_t n, group *out) {
    for (uint32_t i = 0; i < n; i++) {
        const backend *x = &b->backends->items[c[i].backend];
        lm_name name;
        const catalog_model *m = c[i].listed && lm_name_parse(lm_str_of(c[i].model), &name, NULL) == LM_OK
                                     ? catalog_find(x->models, &name)
                                     : NULL;
        if (!m || !health_takes(x->health.state)) continue;
        place *p = &out->places[out->n_places++];
        *p = (place){.backend = x->index, .loaded = m->loaded, .out = why_not(x->config, m)};
        snprintf(p->model, sizeof p->model, "%s", c[i].model);
        snprintf(p->id, sizeof p->id, "%s", m->digest[0] ? m->digest : m->key);
    }
}

static int by_backend(const void *a, const void *b) {
    return (int)((const place *)a)->backend - (int)((const place *)b)->backend;
}

static bool same_places(const group *a, const group *b) {
    if (a->n_places != b->n_places) return false;
    for (uint32_t i = 0; i < a->n_places; i++)
        if (a->places[i].backend != b->places[i].backend || strcmp(a->places[i].id, b->places[i].id) != 0)
            return false;
    return true;
}

static void drop_unwanted(bench *b, const char *name, group *g) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n_places; i++) {
        if (g->places[i].out)
            skip(b, name, g->places[i].out);
        else
            g->places[n++] = g->places[i];
    }
    g->n_places = n;
}

/* One more name: a group of its own, or another name of one. by_name: somebody asked for this very one. */
static void add_name(bench *b, const char *name, bool by_name) {
    candidate c[LM_ROUTER_MAX_BACKENDS];
    router_facts f = {.route = ROUTE_INFER};
    group g = {0};
    snprintf(f.model, sizeof f.model, "%s", name);
    uint32_t n = backends_choose(b->backends, &f, c);
    pthread_mutex_lock(&b->backends->lock);
    find_places(b, c, n, &g);
    pthread_mutex_unlock(&b->backends->lock);
    qsort(g.places, g.n_places, sizeof *g.places, by_backend);
    if (!by_name && g.n_places < 2) return; /* nothing to choose from */
    for (uint32_t i = 0; i < b->n; i++) {
        group *old = &b->groups[i];
        if (!same_places(old, &g)) continue;
        if (old->n_names < MAX_NAMES) old->names[old->n_names++] = lm_strdup(name);
        return;
    }
    if (b->n == b->room) {
        b->room = b->room ? b->room * 2 : 16;
        b->groups = lm_realloc(b->groups, b->room * sizeof *b->groups);
    }
    g.names[g.n_names++] = lm_strdup(name);
    b->groups[b->n++] = g;
}

static void add_all(bench *b) {
    char **names = NULL;
    uint32_t n = 0, room = 0;
    pthread_mutex_lock(&b->backends->lock);
    for (uint32_t i = 0; i < b->backends->n; i++) {
        const catalog *c = b->backends->items[i].models;
        for (uint32_t k = 0; c && k < c->n; k++) {
            bool known = false;
            for (uint32_t j = 0; j < n && !known; j++) known = !strcasecmp(names[j], c->models[k].shown);
            if (known) continue;
            if (n == room) {
                room = room ? room * 2 : 64;
                names = lm_realloc(names, room * sizeof *names);
            }
            names[n++] = lm_strdup(c->models[k].shown);
        }
    }
    pthread_mutex_unlock(&b->backends->lock);
    for (uint32_t i = 0; i < n; i++) {
        add_name(b, names[i], false);
        free(names[i]);
    }
    free(names);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        group *g = &b->groups[i];
        drop_unwanted(b, g->names[0], g);
        if (g->n_places >= 2)
            b->groups[kept++] = *g;
        else
            for (uint32_t k = 0; k < g->n_names; k++) free(g->names[k]);
    }
    b->n = kept;
}

/* ---- measuring */

static json_t *milliseconds(double s) {
    return json_real((double)(int64_t)(s * 1e5 + 0.5) /
                     100); /* hundredths are more than a clock of a network can say */
}

static json_t *figures_json(const char *where, const char *model, const bench_figures *f) {
    json_t *runs = json_array();
    for (int i = 0; i < BENCH_RUNS; i++)
        json_array_append_new(
            runs, json_pack("{s:o, s:f, s:I, s:I}", "first_ms", milliseconds(f->runs[i].first_s),
                            "tokens_per_second", f->runs[i].tokens_per_s, "prompt_tokens",
                            (json_int_t)f->runs[i].prompt_tokens, "tokens", (json_int_t)f->runs[i].tokens));
    return json_pack("{s:s, s:s, s:b, s:o, s:o, s:f, s:o, s:o}", "backend", where, "model", model,
                     "loaded_before", f->loaded_before, "load_ms",
                     f->loaded_before ? json_null() : milliseconds(f->load_s), "first_ms",
                     milliseconds(f->first_s), "tokens_per_second", f->tokens_per_s, "answer_ms",
                     milliseconds(f->answer_s), "runs", runs);
}

/* The quickest of those that could be measured; NULL, and why, when there is none that is. *compared: there were two. */
static const char *best_of(const bench *b, const group *g, const bench_figures *f, bool *compared,
                           char why[200]) {
    int best = -1, second = -1;
    for (uint32_t i = 0; i < g->n_places; i++) {
        if (f[i].answer_s <= 0) continue;
        if (best < 0 || f[i].answer_s < f[best].answer_s) {
            second = best;
            best = (int)i;
        } else if (second < 0 || f[i].answer_s < f[second].answer_s) {
            second = (int)i;
        }
    }
    if (best < 0 || second < 0) {
        snprintf(why, 200, best < 0 ? "none could be measured" : "only one could be measured");
        return NULL;
    }
    *compared = true;
    bool apart = true;
    for (uint32_t i = 0; i < g->n_places; i++)
        apart = apart && ((int)i == best || f[i].answer_s <= 0 || f[i].least_s > f[best].most_s);
    if (!apart || f[second].answer_s < f[best].answer_s * (1 + COUNTS)) {
        snprintf(why, 200, "no difference that counts: %.2f s (%.2f to %.2f) and %.2f s (%.2f to %.2f)",
                 f[best].answer_s, f[best].least_s, f[best].most_s, f[second].answer_s, f[second].least_s,
                 f[second].most_s);
        return NULL;
    }
    snprintf(why, 200, "an answer of %d tokens takes %.2f s, with the next one %.2f s", BENCH_ANSWER,
             f[best].answer_s, f[second].answer_s);
    return b->config->backends[g->places[best].backend].name;
}

static lm_status note(const group *g, const char *best, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; st == LM_OK && i < g->n_names; i++) st = orders_set_measured(g->names[i], best, err);
    return st;
}

static lm_status measure_group(bench *b, const group *g, bool choose_it, json_t *models, lm_err *err) {
    json_t *o = json_object(), *names = json_array(), *list = json_array();
    bench_figures all[LM_ROUTER_MAX_BACKENDS] = {0};
    char why[200];
    bool compared = false;
    for (uint32_t i = 0; i < g->n_names; i++) json_array_append_new(names, json_string(g->names[i]));
    for (uint32_t i = 0; i < g->n_places; i++) {
        const place *p = &g->places[i];
        const lm_router_backend *config = &b->config->backends[p->backend];
        bench_figures *f = &all[i];
        lm_err failed = {0};
        say(b, "%s on %s: %s, then %d answers of %d tokens", g->names[0], config->name,
            p->loaded ? "loaded" : "loading", BENCH_RUNS, BENCH_TOKENS);
        if (bench_measure(config, p->model, p->loaded, f, &failed) == LM_OK) {
            json_array_append_new(list, figures_json(config->name, p->model, f));
            say(b, "%s on %s: first token after %.0f ms, then %.1f tokens/s", g->names[0], config->name,
                f->first_s * 1e3, f->tokens_per_s);
        } else {
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "backend", config->name, "model",
                                                  p->model, "error", failed.text));
            say(b, "%s on %s: %s", g->names[0], config->name, failed.text);
        }
    }
    const char *best = best_of(b, g, all, &compared, why);
    json_object_set_new(o, "model", json_string(g->names[0]));
    json_object_set_new(o, "names", names);
    json_object_set_new(o, "backends", list);
    json_object_set_new(o, "best", best ? json_string(best) : json_null());
    json_object_set_new(o, "why", json_string(why));
    json_array_append_new(models, o);
    return choose_it && compared ? note(g, best, err) : LM_OK; /* a tie forgets what was measured before */
}

static lm_status collect(bench *b, const char *const *models, lm_err *err) {
    if (!models) {
        add_all(b);
        if (b->n) return LM_OK;
        return lm_fail(
            err, LM_NOT_FOUND,
            "there is no model that two backends have: nothing to compare; name a model to measure it alone");
    }
    for (; *models; models++) {
        uint32_t before = b->n;
        add_name(b, *models, true);
        if (b->n > before && !b->groups[before].n_places)
            return lm_fail(err, LM_NOT_FOUND, "model '%s' not found on any backend that is up", *models);
    }
    return LM_OK;
}

lm_status lm_router_bench(const lm_router_config *config, const char *const *models, bool choose_it,
                          void (*say_it)(void *ctx, const char *line), void *ctx, json_t **out, lm_err *err) {
    lm_aliases aliases = {0};
    bench b = {.config = config, .say = say_it, .ctx = ctx, .skipped = json_array()};
    json_t *list = json_array();
    lm_status st = lm_aliases_open(&aliases, NULL, err);
    if (st == LM_OK) st = backends_open_quiet(&b.backends, config, &aliases, err);
    if (st == LM_OK) {
        backends_wait_first(b.backends, 4 * config->check_timeout_ms + 1000);
        st = collect(&b, models, err);
    }
    for (uint32_t i = 0; st == LM_OK && i < b.n; i++)
        st = measure_group(&b, &b.groups[i], choose_it, list, err);
    for (uint32_t i = 0; i < b.n; i++)
        for (uint32_t k = 0; k < b.groups[i].n_names; k++) free(b.groups[i].names[k]);
    free(b.groups);
    backends_close(b.backends);
    lm_aliases_release(&aliases);
    if (st == LM_OK)
        *out = json_pack("{s:O, s:O, s:b}", "models", list, "skipped", b.skipped, "chosen", choose_it);
    json_decref(list);
    json_decref(b.skipped);
    return st;
}
