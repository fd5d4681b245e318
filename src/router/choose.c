/* choose.c - see choose.h. Each weight is larger than all smaller ones together, so that the order of the header holds and one
 * number still says it all. */
#include "router/choose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define W_FORMAT   5000 /* taken off: known to ignore the format */
#define W_CONTEXT  2500 /* taken off: its context is too short */
#define W_UNLOAD   2400
#define W_ORDER    1200
#define W_STICKY   600
#define W_LOADED   300
#define W_STATE    100 /* a step: healthy 2, degraded 1, warming 0 */
#define W_MEASURED 50
#define W_KIND     25
#define W_QUEUE    20 /* taken off a full one */

#define MS_NS     UINT64_C(1000000)
#define FULL_MS   50  /* between looks while all its places are taken */
#define PROBE_MS  250 /* while another request tries an open breaker */
#define ABILITIES (NEED_COMPLETION | NEED_TOOLS | NEED_VISION | NEED_THINKING | NEED_INSERT)

typedef struct place {
    const choose_view *view;
    const catalog_model *model; /* NULL: it has none */
    twin_why why;               /* how its name was found */
    uint32_t lacks;             /* needs that it is known not to have */
} place;

static void say(candidate *c, const char *format, ...) LM_PRINTF(2, 3);
static void say(candidate *c, const char *format, ...) {
    size_t len = strlen(c->reason);
    va_list args;
    if (len && len + 2 < sizeof c->reason)
        len += (size_t)snprintf(c->reason + len, sizeof c->reason - len, ", ");
    va_start(args, format);
    if (len < sizeof c->reason) vsnprintf(c->reason + len, sizeof c->reason - len, format, args);
    va_end(args);
}

bool choose_is_unload(const router_facts *f) {
    if (!f->load_only || !f->body) return false;
    const json_t *v = facts_member(f->body, "keep_alive");
    int64_t ns = 1;
    if (json_is_number(v)) return json_number_value(v) == 0;
    return json_is_string(v) && lm_duration_parse(lm_str_of(json_string_value(v)), &ns, NULL) == LM_OK &&
           ns == 0;
}

/* ---- what it has */

static void find_model(place *p, const twin *twins, uint32_t n_twins) {
    for (uint32_t i = 0; i < n_twins && !p->model; i++) {
        p->model = catalog_find(p->view->models, &twins[i].name);
        p->why = twins[i].why;
    }
}

/* Ollama makes vectors with any model, the bridge as well; the other abilities are what they say. */
static uint32_t lacking(const router_facts *f, const catalog_model *m) {
    if (!m || !m->able_known) return 0;
    uint32_t lacks = f->needs & ABILITIES & ~m->able;
    if ((f->needs & NEED_EMBEDDING) && !(m->able & (NEED_EMBEDDING | NEED_COMPLETION)))
        lacks |= NEED_EMBEDDING;
    return lacks;
}

static uint32_t context_of(const router_facts *f, const choose_view *v) {
    return v->config->num_ctx ? v->config->num_ctx : f->num_ctx;
}

/* Loaded in a way that serves this request: Ollama loads again for any other num_ctx than the one it has. */
static bool is_loaded(const router_facts *f, const place *p) {
    const catalog_model *m = p->model;
    uint32_t n = context_of(f, p->view);
    if (!m->loaded) return false;
    if (!n || !m->n_ctx_loaded) return true;
    if (p->view->config->kind == LM_KIND_MLX) return m->n_ctx_loaded >= n;
    if (m->n_ctx && n > m->n_ctx) n = m->n_ctx;
    return m->n_ctx_loaded == n;
}

/* Models in this format run in Ollama's MLX engine, whose requests carry no grammar. */
static bool ignores_format(const place *p) {
    return p->view->config->kind == LM_KIND_OLLAMA && !strcmp(p->model->format, "safetensors");
}

static bool needs_import(const place *p) {
    return p->view->config->kind == LM_KIND_MLX && !strcmp(p->model->format, "gguf");
}

/* ---- may it be asked */

static uint32_t in_ms(uint64_t ns) {
    uint64_t ms = ns / MS_NS + 1;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* Sets usable, or wait_ms and why not. */
static void judge_state(const choose_view *v, candidate *c) {
    switch (v->state) {
    case BACKEND_DOWN:
        say(c, "down%s%s", v->why_down ? ": " : "", v->why_down ? v->why_down : "");
        if (v->restarting) c->wait_ms = in_ms(v->next_check_ns);
        return;
    case BACKEND_UNKNOWN:
        say(c, "not checked yet");
        c->wait_ms = in_ms(v->next_check_ns);
        return;
    case BACKEND_BUSY:
        say(c, "busy, asked us to wait %.1f s more", (double)v->busy_ns / 1e9);
        c->wait_ms = in_ms(v->busy_ns);
        return;
    case BACKEND_HEALTHY:
    case BACKEND_WARMING:
    case BACKEND_DEGRADED: break;
    }
    if (v->config->max_requests && v->running >= v->config->max_requests) {
        say(c, "full: %u of %u requests run", v->running, v->config->max_requests);
        c->wait_ms = FULL_MS;
        return;
    }
    c->usable = true;
}

static void judge_breaker(const place *p, const choose_wish *wish, candidate *c) {
    const breaker *b = breakers_find(p->view->breakers, p->model->key);
    if (!b || !b->open) return;
    if (breaker_lets(b, wish->now_ns)) {
        say(c, "failed %u times, one request tries it", b->bad);
        return;
    }
    c->usable = false;
    c->wait_ms = wish->now_ns < b->until_ns ? in_ms(b->until_ns - wish->now_ns) : PROBE_MS;
    say(c, "this model failed %u times there, not tried for %.1f s", b->bad, (double)c->wait_ms / 1e3);
}

/* ---- how good is it */

static double order_score(const choose_wish *wish, const choose_view *v, candidate *c) {
    lm_order kind = v->config->kind == LM_KIND_MLX ? LM_ORDER_MLX : LM_ORDER_OLLAMA;
    if (wish->order != kind) return 0;
    say(c, "%s is preferred", lm_order_name(kind));
    return W_ORDER;
}

static double state_score(const choose_view *v, candidate *c) {
    if (v->state == BACKEND_HEALTHY) return 2 * W_STATE;
    say(c, "%s", backend_state_name(v->state));
    return v->state == BACKEND_DEGRADED ? W_STATE : 0;
}

static double queue_score(const choose_view *v, candidate *c) {
    uint32_t most = v->config->max_requests ? v->config->max_requests : 64;
    if (v->running) say(c, "%u running", v->running);
    return -(double)W_QUEUE * (v->running < most ? v->running : most) / most;
}

static double auto_score(const place *p, const choose_wish *wish, candidate *c) {
    const lm_router_backend *b = p->view->config;
    double score = 0;
    if (wish->measured && !strcmp(wish->measured, b->name)) {
        say(c, "measured as the quickest");
        score += W_MEASURED;
    }
    if (needs_import(p)) {
        say(c, "would have to import a GGUF file, or has");
    } else if (b->kind == LM_KIND_MLX) {
        say(c, "MLX goes first");
        score += W_KIND;
    }
    return score;
}

static double limits_score(const router_facts *f, const place *p, candidate *c) {
    double score = 0;
    uint32_t n = context_of(f, p->view);
    if ((f->needs & NEED_FORMAT) && ignores_format(p)) {
        say(c, "ignores the format");
        score -= W_FORMAT;
    }
    if (n && p->model->n_ctx && n > p->model->n_ctx) {
        say(c, "context of %u only", p->model->n_ctx);
        score -= W_CONTEXT;
    }
    return score;
}

static double score_of(const router_facts *f, const choose_wish *wish, const place *p, bool sticky,
                       candidate *c) {
    double score = order_score(wish, p->view, c);
    bool loaded = is_loaded(f, p);
    if (sticky) {
        say(c, "the conversation was here");
        score += W_STICKY;
    }
    if (p->model->loaded) say(c, loaded ? "loaded" : "loaded with another context");
    if (loaded) score += W_LOADED;
    if (p->model->loaded && choose_is_unload(f)) score += W_UNLOAD;
    score += state_score(p->view, c);
    if (wish->order == LM_ORDER_AUTO) score += auto_score(p, wish, c);
    score += limits_score(f, p, c) + queue_score(p->view, c);
    if (!c->reason[0]) say(c, "has the model");
    return score;
}

static void name_model(const router_facts *f, const place *p, candidate *c) {
    static const char *const how[] = {[TWIN_SELF] = "",
                                      [TWIN_TAG] = "the tag that is meant",
                                      [TWIN_HUB] = "the same repository",
                                      [TWIN_ALIAS] = "the MLX model behind this name",
                                      [TWIN_NAMED] = "the name of this MLX model"};
    c->renamed = p->why != TWIN_SELF;
    snprintf(c->model, sizeof c->model, "%s", c->renamed ? p->model->shown : f->model);
    if (c->renamed) say(c, "%s", how[p->why]);
}

/* Nobody lists it: whoever is up may say so in its own words; who runs more makes no difference to them. */
static void ask_all_the_same(const router_facts *f, const choose_wish *wish, const choose_view *v,
                             candidate *c) {
    snprintf(c->model, sizeof c->model, "%s", f->model);
    judge_state(v, c);
    if (!c->usable) {
        if (v->state != BACKEND_BUSY && v->state != BACKEND_DEGRADED && v->state != BACKEND_HEALTHY)
            c->wait_ms = 0;
        return;
    }
    say(c, "not in its list, asked all the same");
    c->score = order_score(wish, v, c) + state_score(v, c);
}

static int better_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->usable != y->usable) return x->usable ? -1 : 1;
    if (!x->usable && (x->wait_ms > 0) != (y->wait_ms > 0)) return x->wait_ms ? -1 : 1;
    if (!x->usable && x->wait_ms != y->wait_ms) return x->wait_ms < y->wait_ms ? -1 : 1;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->backend < y->backend ? -1 : 1;
}

void choose(const router_facts *f, const choose_wish *wish, const twin *twins, uint32_t n_twins,
            const choose_view *views, uint32_t n_views, candidate *out) {
    place places[LM_ROUTER_MAX_BACKENDS] = {0};
    bool listed = false, able = false;
    for (uint32_t i = 0; i < n_views; i++) {
        place *p = &places[i];
        p->view = &views[i];
        find_model(p, twins, n_twins);
        p->lacks = lacking(f, p->model);
        listed = listed || p->model;
        able = able || (p->model && !p->lacks);
    }
    for (uint32_t i = 0; i < n_views; i++) {
        const place *p = &places[i];
        candidate *c = &out[i];
        char words[120];
        *c = (candidate){.backend = i};
        if (!listed) {
            ask_all_the_same(f, wish, p->view, c);
            continue;
        }
        if (!p->model) {
            say(c, p->view->models ? "does not have this model" : "never reached");
            continue;
        }
        c->listed = true;
        name_model(f, p, c);
        if (p->lacks) {
            catalog_words(p->lacks, words);
            say(c, "this model cannot do: %s", words);
            if (able) continue;
        }
        judge_state(p->view, c);
        if (c->usable) judge_breaker(p, wish, c);
        if (c->usable) c->score = score_of(f, wish, p, wish->sticky == (int)i, c);
    }
    qsort(out, n_views, sizeof *out, better_first);
}
