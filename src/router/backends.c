/* backends.c - the handle: a thread for each backend that checks it, and what requests ask and tell. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/backends_state.h"

#define SECOND_NS      INT64_C(1000000000)
#define ORDERS_LOOK_NS (UINT64_C(500) * 1000000) /* between looks at the state file */
#define LOOK_ANEW_NS                                                                                         \
    (UINT64_C(1000) * 1000000) /* a request for what nobody lists makes us look, this often at most */

/* ---- the life of the handle */

static void copy_config(lm_router_config *to, const lm_router_config *from) {
    *to = *from;
    to->origins = from->origins ? lm_strdup(from->origins) : NULL;
    for (uint32_t i = 0; i < from->n_backends; i++)
        to->backends[i].api_key = from->backends[i].api_key ? lm_strdup(from->backends[i].api_key) : NULL;
}

static void *check_run(void *arg);

static lm_status start(backend *b, lm_err *err) {
    lm_status st = probe_open(&b->probe, b->config, &b->all->config, err);
    if (st != LM_OK) return st;
    if (pthread_create(&b->thread, NULL, check_run, b) != 0)
        return lm_fail(err, LM_NO_MEMORY, "no thread for checks");
    b->has_thread = true;
    return LM_OK;
}

static lm_status open_as(backends **out, const lm_router_config *config, const lm_aliases *aliases,
                         bool quiet, lm_err *err) {
    uint64_t now = lm_now_ns();
    lm_status st = LM_OK;
    backends *b = lm_alloc(sizeof *b);
    copy_config(&b->config, config);
    b->aliases = aliases;
    b->twins = twin_index_make(aliases);
    b->rules = health_rules_of(config);
    b->quiet = quiet;
    b->n = config->n_backends;
    b->sticky = sticky_open();
    pthread_mutex_init(&b->lock, NULL);
    lm_cond_init(&b->checked);
    for (uint32_t i = 0; i < b->n; i++) {
        backend *x = &b->items[i];
        x->all = b;
        x->config = &b->config.backends[i];
        x->index = i;
        lm_cond_init(&x->wake);
        health_init(&x->health, now + i * 7919, now);
    }
    backends_refresh_orders(b);
    for (uint32_t i = 0; st == LM_OK && i < b->n; i++) st = start(&b->items[i], err);
    if (st != LM_OK) {
        backends_close(b);
        return st;
    }
    *out = b;
    return LM_OK;
}

lm_status backends_open(backends **out, const lm_router_config *config, const lm_aliases *aliases,
                        lm_err *err) {
    return open_as(out, config, aliases, false, err);
}

lm_status backends_open_quiet(backends **out, const lm_router_config *config, const lm_aliases *aliases,
                              lm_err *err) {
    return open_as(out, config, aliases, true, err);
}

void backends_close(backends *b) {
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    for (uint32_t i = 0; i < b->n; i++) pthread_cond_broadcast(&b->items[i].wake);
    pthread_mutex_unlock(&b->lock);
    for (uint32_t i = 0; i < b->n; i++)
        if (b->items[i].has_thread) probe_stop(b->items[i].probe);
    for (uint32_t i = 0; i < b->n; i++) {
        backend *x = &b->items[i];
        if (x->has_thread) pthread_join(x->thread, NULL);
        probe_close(x->probe);
        catalog_free(x->models);
        breakers_release(&x->breakers);
        pthread_cond_destroy(&x->wake);
    }
    pthread_cond_destroy(&b->checked);
    pthread_mutex_destroy(&b->lock);
    sticky_close(b->sticky);
    orders_release(&b->orders);
    twin_index_free(b->twins);
    lm_router_config_release(&b->config);
    free(b);
}

const lm_router_config *backends_config(const backends *b) {
    return &b->config;
}

/* ---- checks */

backend_state backend_state_now(const backend *b, uint64_t now, uint64_t *busy_ns) {
    return health_state(&b->health, now, busy_ns);
}

static void log_change(const backend *b, backend_state before) {
    backend_state now = b->health.state;
    if (now == before || b->all->quiet) return;
    lm_buf f;
    lm_buf_init(&f, 1024);
    lm_log_field(&f, "backend", lm_str_of(b->config->name));
    lm_log_field(&f, "from", lm_str_of(backend_state_name(before)));
    lm_log_field(&f, "to", lm_str_of(backend_state_name(now)));
    if (now == BACKEND_DOWN || now == BACKEND_DEGRADED) lm_log_field(&f, "why", lm_str_of(b->error));
    lm_log(now == BACKEND_DOWN ? LM_LOG_WARN : LM_LOG_INFO, "a backend's state changed", "%s", f.ptr);
    lm_buf_release(&f);
}

/* Under the lock. What a catalog that is replaced held goes back to the caller. */
static catalog *note_check(backend *b, probe_result *r) {
    backend_state before = b->health.state;
    catalog *old = NULL;
    uint64_t now = lm_now_ns();
    if (r->end == CHECK_OK) {
        old = b->models;
        b->models = r->models;
    }
    if (r->version[0]) snprintf(b->version, sizeof b->version, "%s", r->version);
    if (r->latency_ns) b->latency_ns = r->latency_ns;
    snprintf(b->error, sizeof b->error, "%s", r->error);
    b->checked_ns = now;
    health_check(&b->health, &b->all->rules, r->end, r->retry_after_s, now);
    log_change(b, before);
    return old;
}

/* Some of the models whose abilities nobody told. Reading them needs no lock: this thread alone replaces them. */
static void ask_abilities(backend *b) {
    uint32_t asked = 0,
             most = b->all->quiet ? CATALOG_MAX_MODELS : PROBE_SHOWS; /* who looks once wants to know */
    for (uint32_t i = 0; b->models && i < b->models->n && asked < most; i++) {
        catalog_model *m = &b->models->models[i];
        catalog_show show = {0};
        bool later = false;
        if (m->able_known || m->asked) continue;
        bool ok = probe_show(b->probe, m->shown, &show, &later);
        if (later) return;
        asked++;
        pthread_mutex_lock(&b->all->lock);
        m->asked = true;
        if (ok) {
            m->able_known = show.able_known;
            m->able = show.able;
            if (!m->n_ctx) m->n_ctx = show.n_ctx;
        }
        pthread_mutex_unlock(&b->all->lock);
    }
}

static void *check_run(void *arg) {
    backend *b = arg;
    backends *all = b->all;
    pthread_mutex_lock(&all->lock);
    while (!all->stop) {
        uint64_t now = lm_now_ns();
        if (now < b->health.next_check_ns) {
            lm_cond_wait(&b->wake, &all->lock, (int64_t)(b->health.next_check_ns - now));
            continue;
        }
        pthread_mutex_unlock(&all->lock);
        probe_result r;
        probe_look(b->probe, b->models, &r);
        pthread_mutex_lock(&all->lock);
        bool over = all->stop; /* then it was cut off, and says nothing */
        catalog *old = over ? r.models : note_check(b, &r);
        pthread_mutex_unlock(&all->lock);
        catalog_free(old);
        if (!over && r.end == CHECK_OK) ask_abilities(b);
        pthread_mutex_lock(&all->lock);
        b->checked = true;
        pthread_cond_broadcast(&all->checked);
    }
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

void backends_wait_first(backends *b, uint32_t ms) {
    uint64_t end = lm_now_ns() + (uint64_t)ms * 1000000;
    pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; i < b->n;) {
        uint64_t now = lm_now_ns();
        if (b->items[i].checked)
            i++;
        else if (now >= end)
            break;
        else
            lm_cond_wait(&b->checked, &b->lock, (int64_t)(end - now));
    }
    pthread_mutex_unlock(&b->lock);
}

/* Under the lock. */
static void look_soon(backend *b, uint64_t now) {
    health_check_soon(&b->health, now);
    pthread_cond_signal(&b->wake);
}

void backends_look_again(backends *b, uint32_t i) {
    pthread_mutex_lock(&b->lock);
    if (i < b->n) look_soon(&b->items[i], lm_now_ns());
    pthread_mutex_unlock(&b->lock);
}

/* ---- orders */

void backends_refresh_orders(backends *b) {
    uint64_t now = lm_now_ns();
    orders_stamp stamp;
    orders fresh = {0};
    lm_err err = {0};
    pthread_mutex_lock(&b->lock);
    bool due = !b->orders_looked_ns || now - b->orders_looked_ns > ORDERS_LOOK_NS;
    if (due) b->orders_looked_ns = now;
    pthread_mutex_unlock(&b->lock);
    if (!due) return;
    orders_look(&stamp);
    pthread_mutex_lock(&b->lock);
    bool same = orders_same(&stamp, &b->orders_stamp);
    pthread_mutex_unlock(&b->lock);
    if (same) return;

    lm_status st = orders_read(&fresh, &err);
    pthread_mutex_lock(&b->lock);
    b->orders_stamp = stamp;
    if (st == LM_OK) {
        orders old = b->orders;
        b->orders = fresh;
        fresh = old;
    }
    pthread_mutex_unlock(&b->lock);
    orders_release(&fresh);
    if (st != LM_OK && !b->quiet) {
        lm_buf f;
        lm_buf_init(&f, 1024);
        lm_log_field(&f, "error", lm_str_of(err.text));
        lm_log(LM_LOG_WARN, "the order of backends cannot be read, the old one stays", "%s", f.ptr);
        lm_buf_release(&f);
    }
}

/* ---- requests */

/* Under the lock. */
static void make_views(backends *b, uint64_t now, choose_view *views) {
    for (uint32_t i = 0; i < b->n; i++) {
        const backend *x = &b->items[i];
        choose_view *v = &views[i];
        *v = (choose_view){
            .config = x->config, .running = x->running, .models = x->models, .breakers = &x->breakers};
        v->state = backend_state_now(x, now, &v->busy_ns);
        v->next_check_ns = x->health.next_check_ns > now ? x->health.next_check_ns - now : 0;
        v->restarting = x->health.state == BACKEND_DOWN &&
                        now - x->health.down_ns < (uint64_t)b->config.max_wait_ms * 1000000;
        v->why_down = x->error[0] ? x->error : NULL;
    }
}

static bool is_listed(const candidate *c, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (c[i].listed) return true;
    return false;
}

uint32_t backends_choose(backends *b, const router_facts *f, candidate *out) {
    twin twins[TWINS_MAX];
    lm_name name;
    choose_view views[LM_ROUTER_MAX_BACKENDS];
    bool named = lm_name_parse(lm_str_of(f->model), &name, NULL) == LM_OK;
    uint32_t n_twins = named ? twins_of(b->twins, &name, twins) : 0;
    backends_refresh_orders(b);

    pthread_mutex_lock(&b->lock);
    uint64_t now = lm_now_ns();
    choose_wish wish = {.order = orders_of(&b->orders, named ? &name : NULL),
                        .measured = named ? orders_measured(&b->orders, &name) : NULL,
                        .now_ns = now};
    wish.sticky = sticky_find(b->sticky, f, now, &wish.sticky_depth);
    make_views(b, now, views);
    choose(f, &wish, twins, n_twins, views, b->n, out);
    /* Somebody may have pulled it a moment ago, past us. */
    for (uint32_t i = 0; named && !is_listed(out, b->n) && i < b->n; i++)
        if (health_takes(b->items[i].health.state) && now - b->items[i].checked_ns > LOOK_ANEW_NS)
            look_soon(&b->items[i], now);
    pthread_mutex_unlock(&b->lock);
    return b->n;
}

static bool key_of(const char *model, char key[CATALOG_KEY]) {
    lm_name name;
    if (lm_name_parse(lm_str_of(model), &name, NULL) != LM_OK) return false;
    catalog_key(&name, key);
    return true;
}

bool backends_take(backends *b, candidate *c) {
    backend *x = &b->items[c->backend];
    char key[CATALOG_KEY];
    bool named = key_of(c->model, key);
    pthread_mutex_lock(&b->lock);
    uint64_t now = lm_now_ns();
    breaker *k = named && breakers_find(&x->breakers, key) ? breakers_at(&x->breakers, key) : NULL;
    bool ok = health_takes(backend_state_now(x, now, NULL)) &&
              !(x->config->max_requests && x->running >= x->config->max_requests) &&
              (!k || breaker_lets(k, now));
    if (ok) {
        c->probe = k && breaker_take(k);
        x->running++;
    }
    pthread_mutex_unlock(&b->lock);
    return ok;
}

/* Under the lock. What an attempt tells of the model, before the next check does. */
static void note_model(backends *b, backend *x, const char *key, const candidate *c, const router_facts *f,
                       const attempt *a, uint64_t now) {
    bool bad = a->end == ATTEMPT_FAILED || a->end == ATTEMPT_TIMEOUT || a->end == ATTEMPT_BROKE;
    breaker *k = bad || breakers_find(&x->breakers, key) ? breakers_at(&x->breakers, key) : NULL;
    if (k) breaker_give(k, &b->rules, a->end, c->probe, now);
    if (a->end != ATTEMPT_OK || !f) return;
    if (f->route == ROUTE_INFER && choose_is_unload(f)) {
        look_soon(x, now);
    } else if (f->route == ROUTE_INFER) {
        catalog_model *m = (catalog_model *)(uintptr_t)catalog_find_key(x->models, key);
        if (m) m->loaded = true;
        sticky_note(b->sticky, f, x->index, now);
    }
}

void backends_give(backends *b, const candidate *c, const router_facts *f, const attempt *a) {
    backend *x = &b->items[c->backend];
    char key[CATALOG_KEY];
    bool named = key_of(c->model, key);
    pthread_mutex_lock(&b->lock);
    uint64_t now = lm_now_ns();
    backend_state before = x->health.state;
    uint64_t due = x->health.next_check_ns;
    LM_ASSERT(x->running > 0);
    x->running--;
    health_attempt(&x->health, &b->rules, a, now);
    if (x->health.state != before && a->error[0]) snprintf(x->error, sizeof x->error, "%s", a->error);
    log_change(x, before);
    if (named) note_model(b, x, key, c, f, a, now);
    if (x->health.next_check_ns < due) pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&b->lock);
}
