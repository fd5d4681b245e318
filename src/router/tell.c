/* tell.c - what is known of the backends, as JSON for people and for the command line; who owns a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/backends_state.h"

static void set_text(json_t *o, const char *key, const char *value) {
    if (value && value[0]) json_object_set_new(o, key, json_string(value));
}

static void set_number(json_t *o, const char *key, uint64_t value) {
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

/* What the listing had under this key, as it was. */
static void set_as_listed(json_t *o, const catalog_model *m, const char *key) {
    const json_t *v = json_object_get(m->item, key);
    if (v && !json_is_null(v)) json_object_set_new(o, key, json_deep_copy(v));
}

static void set_abilities(json_t *o, const catalog_model *m) {
    char words[120], *save = NULL;
    if (!m->able_known) return;
    json_t *list = json_array();
    catalog_words(m->able, words);
    for (char *w = strtok_r(words, ", ", &save); w; w = strtok_r(NULL, ", ", &save))
        json_array_append_new(list, json_string(w));
    json_object_set_new(o, "capabilities", list);
}

static json_t *model_json(const backend *b, const catalog_model *m, uint64_t now) {
    json_t *o = json_object();
    const breaker *k = breakers_find(&b->breakers, m->key);
    set_text(o, "name", m->shown);
    set_number(o, "size", m->size);
    set_text(o, "digest", m->digest);
    set_as_listed(o, m, "modified_at");
    set_as_listed(o, m, "details");
    set_abilities(o, m);
    if (m->n_ctx) set_number(o, "context_length", m->n_ctx);
    json_object_set_new(o, "loaded", json_boolean(m->loaded));
    if (m->loaded) set_text(o, "expires_at", m->expires);
    if (m->loaded && m->n_ctx_loaded) set_number(o, "loaded_context", m->n_ctx_loaded);
    if (k && k->open)
        json_object_set_new(o, "breaker", json_string(now < k->until_ns ? "open" : "half-open"));
    return o;
}

static const char *kind_name(const lm_router_backend *b) {
    return b->kind == LM_KIND_MLX ? "mlx" : "ollama";
}

static void set_models(json_t *o, const backend *b, uint64_t now) {
    json_t *models = json_array();
    for (uint32_t i = 0; b->models && i < b->models->n; i++)
        json_array_append_new(models, model_json(b, &b->models->models[i], now));
    if (b->models && b->models->n_passed_over) set_number(o, "models_passed_over", b->models->n_passed_over);
    json_object_set_new(o, "models", models);
}

static uint32_t open_breakers(const backend *b) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->breakers.n; i++) n += b->breakers.items[i].b.open;
    return n;
}

static json_t *backend_json(const backend *b, bool with_models, uint64_t now) {
    json_t *o = json_object();
    uint64_t busy = 0;
    backend_state state = backend_state_now(b, now, &busy);
    set_text(o, "name", b->config->name);
    set_text(o, "kind", kind_name(b->config));
    set_text(o, "url", b->config->url);
    set_text(o, "state", backend_state_name(state));
    set_text(o, "version", b->version);
    json_object_set_new(o, "latency_ms",
                        b->latency_ns ? json_real((double)b->latency_ns / 1e6) : json_null());
    set_text(o, "error", b->error);
    if (busy) set_number(o, "busy_ms", busy / 1000000 + 1);
    if (b->checked_ns) set_number(o, "checked_ms_ago", (now - b->checked_ns) / 1000000);
    set_number(o, "running", b->running);
    set_number(o, "max_requests", b->config->max_requests);
    set_number(o, "num_ctx", b->config->num_ctx);
    set_number(o, "breakers_open", open_breakers(b));
    if (with_models) set_models(o, b, now);
    return o;
}

static json_t *tell(backends *b, bool with_models) {
    json_t *root = json_object(), *list = json_array();
    backends_refresh_orders(b);
    pthread_mutex_lock(&b->lock);
    uint64_t now = lm_now_ns();
    orders_json(&b->orders, root);
    for (uint32_t i = 0; i < b->n; i++)
        json_array_append_new(list, backend_json(&b->items[i], with_models, now));
    pthread_mutex_unlock(&b->lock);
    json_object_set_new(root, "backends", list);
    return root;
}

json_t *backends_json(backends *b) {
    return tell(b, true);
}

json_t *backends_states(backends *b) {
    return tell(b, false);
}

json_t *backends_explain(backends *b, const router_facts *f) {
    candidate c[LM_ROUTER_MAX_BACKENDS];
    json_t *root = json_object(), *list = json_array(), *needs = json_array();
    char words[120], *save = NULL;
    uint32_t n = backends_choose(b, f, c);
    catalog_words(f->needs, words);
    for (char *w = strtok_r(words, ", ", &save); w; w = strtok_r(NULL, ", ", &save))
        json_array_append_new(needs, json_string(w));
    json_object_set_new(root, "model", json_string(f->model));
    json_object_set_new(root, "needs", needs);
    for (uint32_t i = 0; i < n; i++) {
        json_t *o = json_object();
        set_text(o, "backend", b->config.backends[c[i].backend].name);
        set_text(o, "kind", kind_name(&b->config.backends[c[i].backend]));
        set_text(o, "model", c[i].model);
        json_object_set_new(o, "ok", json_boolean(c[i].usable));
        json_object_set_new(o, "renamed", json_boolean(c[i].renamed));
        set_text(o, "reason", c[i].reason);
        json_object_set_new(o, "score", json_real(c[i].score));
        if (c[i].wait_ms) set_number(o, "wait_ms", c[i].wait_ms);
        json_array_append_new(list, o);
    }
    json_object_set_new(root, "candidates", list);
    bool any = n && c[0].usable;
    json_object_set_new(root, "chosen",
                        any ? json_string(b->config.backends[c[0].backend].name) : json_null());
    return root;
}

/* ---- owners */

/* Under the lock: those that are up first, then the kind that comes first, then the configuration's order. */
static bool goes_before(const backend *a, const backend *b, lm_backend_kind first) {
    bool up_a = health_takes(a->health.state), up_b = health_takes(b->health.state);
    if (up_a != up_b) return up_a;
    if (a->config->kind != b->config->kind) return a->config->kind == first;
    return a->index < b->index;
}

static lm_backend_kind kind_first(const backends *b, const lm_name *name, bool mlx_when_auto) {
    lm_order order = orders_of(&b->orders, name);
    bool mlx = order == LM_ORDER_MLX || (order == LM_ORDER_AUTO && mlx_when_auto);
    return mlx ? LM_KIND_MLX : LM_KIND_OLLAMA;
}

int backends_owner(backends *b, const char *model) {
    lm_name name;
    backend *best = NULL;
    if (lm_name_parse(lm_str_of(model), &name, NULL) != LM_OK) return -1;
    backends_refresh_orders(b);
    pthread_mutex_lock(&b->lock);
    lm_backend_kind first = kind_first(b, &name, true);
    for (uint32_t i = 0; i < b->n; i++) {
        backend *x = &b->items[i];
        if (catalog_find(x->models, &name) && (!best || goes_before(x, best, first))) best = x;
    }
    pthread_mutex_unlock(&b->lock);
    return best ? (int)best->index : -1;
}

int backends_for_new(backends *b, const char *model) {
    lm_name name = {0};
    twin twins[TWINS_MAX];
    backend *best = NULL;
    bool named = model[0] != '\0', repo = false; /* a blob has no name yet */
    if (named && lm_name_parse(lm_str_of(model), &name, NULL) != LM_OK) return -1;
    if (named) repo = twin_is_mlx_repo(b->twins, &name);
    bool aliased = repo;
    for (uint32_t i = 0, n = named ? twins_of(b->twins, &name, twins) : 0; i < n; i++)
        aliased = aliased || twins[i].why == TWIN_ALIAS;
    backends_refresh_orders(b);
    pthread_mutex_lock(&b->lock);
    lm_backend_kind first = kind_first(b, &name, aliased);
    for (uint32_t i = 0; i < b->n; i++) {
        backend *x = &b->items[i];
        if (!health_takes(x->health.state) || (repo && x->config->kind != LM_KIND_MLX)) continue;
        if (!best || goes_before(x, best, first)) best = x;
    }
    pthread_mutex_unlock(&b->lock);
    return best ? (int)best->index : -1;
}
