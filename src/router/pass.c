/* pass.c - a request on its way through the relay: whom to ask next, what goes there, what is told about it.
 *
 * A round asks the candidates one after the other. A backend that began something and failed is not asked again, but for one case:
 * its connection closed before any answer, and nobody else is left (a server that restarts closes what it kept). One that
 * refused or is busy began nothing: after a wait the next round asks it again, for max_wait_ms in all. */
#include "router/proxy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define RETRY_MS 50 /* when nobody says how long */

static const lm_router_config *config_of(const call *c) {
    return backends_config(c->gen->backends);
}

static const lm_router_backend *backend_of(const call *c, const candidate *k) {
    return &config_of(c)->backends[k->backend];
}

/* ---- what goes there */

bool target_url(const lm_router_backend *b, lm_str path, char *out, size_t room) {
    lm_buf url;
    lm_buf_init(&url, 4096);
    lm_buf_text(&url, b->url);
    lm_percent_encode(&url, path, "/-._~:@");
    bool fits = !url.failed && url.len < room;
    if (fits) memcpy(out, url.ptr, url.len + 1);
    lm_buf_release(&url);
    return fits;
}

bool pass_read_query(call *c) {
    lm_buf query;
    lm_buf_init(&query, sizeof c->query - 1);
    lm_http_write_query(c->x, &query);
    bool fits = !query.failed && query.len + 1 < sizeof c->query;
    if (fits && query.len) snprintf(c->query, sizeof c->query, "?%s", query.ptr);
    lm_buf_release(&query);
    return fits;
}

/* A header that would not fit is left out; so is one that could be read as two. */
static void add_header(call *c, uint32_t *n, const char *name, lm_str value) {
    if (!value.len || *n >= sizeof c->header_text / sizeof *c->header_text) return;
    if (memchr(value.ptr, '\r', value.len) || memchr(value.ptr, '\n', value.len)) return;
    int len = snprintf(c->header_text[*n], sizeof *c->header_text, "%s: %.*s", name, LM_STR_ARG(value));
    if (len < 0 || (size_t)len >= sizeof *c->header_text) return;
    c->headers[*n] = c->header_text[*n];
    c->headers[++*n] = NULL;
}

static bool on_this_machine(const lm_router_backend *b) {
    char host[256];
    uint16_t port;
    lm_address_parse(b->url, 0, host, &port);
    return lm_host_is_loopback(host);
}

/* Only what servers of these wires read: an Origin would be refused there, a Cookie is none of theirs. What the client says
 * to be let in goes to this machine's servers alone, and to none that has a key of its own. */
void target_headers(call *c, const lm_router_backend *b, bool body_changed) {
    static const char *const passed[] = {"Accept",         "User-Agent",  "Anthropic-Version",
                                         "Anthropic-Beta", "OpenAI-Beta", "Traceparent"};
    uint32_t n = 0;
    c->headers[0] = NULL;
    lm_str type = lm_http_header(c->x, "Content-Type");
    bool has_body = lm_http_body(c->x).len > 0;
    if (has_body)
        add_header(c, &n, "Content-Type", type.len && !body_changed ? type : LM_STR("application/json"));
    if (has_body && !body_changed)
        add_header(c, &n, "Content-Encoding", lm_http_header(c->x, "Content-Encoding"));
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
        add_header(c, &n, passed[i], lm_http_header(c->x, passed[i]));
    add_header(c, &n, "X-Request-Id", lm_str_of(c->id));
    if (b->api_key) {
        lm_buf key;
        lm_buf_init(&key, sizeof *c->header_text);
        lm_buf_printf(&key, "Bearer %s", b->api_key);
        add_header(c, &n, "Authorization", lm_buf_view(&key));
        lm_buf_release(&key);
    } else if (on_this_machine(b)) {
        add_header(c, &n, "Authorization", lm_http_header(c->x, "Authorization"));
        add_header(c, &n, "X-Api-Key", lm_http_header(c->x, "X-Api-Key"));
    }
}

/* Ollama's own requests say how much context they want; on the other wires nobody can. */
static uint32_t pinned(const call *c, const lm_router_backend *b) {
    bool says = c->facts.route == ROUTE_INFER && c->facts.wire == WIRE_OLLAMA && c->facts.body;
    return says ? b->num_ctx : 0;
}

/* A copy whose changed members are its own. */
static json_t *changed_body(const call *c, const char *model, uint32_t num_ctx) {
    json_t *body = json_copy(c->facts.body);
    if (model) {
        const char *key = facts_key(body, "model");
        if (!key || !json_string_length(json_object_get(body, key))) {
            const char *name = facts_key(body, "name");
            if (name) key = name;
        }
        if (key) json_object_set_new(body, key, json_string(model));
    }
    if (num_ctx) {
        const char *key = facts_key(body, "options");
        json_t *old = key ? json_object_get(body, key) : NULL;
        json_t *options = json_is_object(old) ? json_copy(old) : json_object();
        const char *inner = facts_key(options, "num_ctx");
        json_object_set_new(options, inner ? inner : "num_ctx", json_integer(num_ctx));
        json_object_set_new(body, key ? key : "options", options);
    }
    return body;
}

/* What the client sent, byte for byte, unless something has to be another way. *changed: it is. */
static lm_str target_body(call *c, const candidate *k, bool *changed) {
    const lm_router_backend *b = backend_of(c, k);
    uint32_t num_ctx = pinned(c, b);
    if (num_ctx == c->facts.num_ctx) num_ctx = 0;
    bool renamed = k->renamed && c->facts.body && k->model[0];
    *changed = c->facts.body && (c->hygiene.changed || renamed || num_ctx);
    if (!*changed) return lm_http_body(c->x);
    const char *model = renamed ? k->model : "";
    if (c->body_made && c->body_num_ctx == num_ctx && !strcmp(c->body_model, model))
        return lm_buf_view(&c->body);
    json_t *body = changed_body(c, renamed ? model : NULL, num_ctx);
    lm_buf_release(&c->body);
    lm_json_write_same(&c->body, body);
    json_decref(body);
    snprintf(c->body_model, sizeof c->body_model, "%s", model);
    c->body_num_ctx = num_ctx;
    c->body_made = true;
    return lm_buf_view(&c->body);
}

/* False: it cannot be said to this one. */
static bool make_target(call *c, candidate *k, relay_target *out) {
    const lm_router_config *config = config_of(c);
    const lm_router_backend *b = backend_of(c, k);
    bool changed = false;
    *out = (relay_target){.connect_ms = config->connect_ms,
                          .first_ms = c->facts.stream ? config->first_ms : config->whole_ms,
                          .silent_ms = config->silent_ms};
    lm_buf path;
    lm_buf_init(&path, 2048);
    if (c->facts.route == ROUTE_MODEL && !c->facts.body && k->renamed)
        lm_buf_printf(&path, "/v1/models/%s", k->model);
    else
        lm_buf_str(&path, lm_http_path(c->x));
    bool ok = !path.failed && target_url(b, lm_buf_view(&path), out->url, sizeof out->url - strlen(c->query));
    if (ok) strcat(out->url, c->query);
    lm_buf_release(&path);
    out->body = target_body(c, k, &changed);
    if (changed && c->body.failed) ok = false;
    target_headers(c, b, changed);
    out->headers = c->headers;
    if (k->renamed && k->model[0] && c->facts.model[0]) {
        out->echo_from = c->current.model;
        out->echo_to = c->facts.model;
    }
    return ok;
}

/* ---- whom to ask */

static void ended(void *ctx, const attempt *how) {
    call *c = ctx;
    c->taken = false;
    c->just_ended = true;
    c->last_end = how->end;
    const char *name = backend_of(c, &c->current)->name;
    if (c->n_log < MAX_ATTEMPT_LOG) {
        attempt_record *r = &c->log[c->n_log++];
        snprintf(r->backend, sizeof r->backend, "%s", name);
        r->how = *how;
    }
    metrics_attempt(&c->router->metrics, name, how);
    if (!c->single) backends_give(c->gen->backends, &c->current, &c->facts, how);
    uint32_t bit = 1u << c->current.backend;
    switch (how->end) {
    case ATTEMPT_REFUSED:
    case ATTEMPT_BUSY: break; /* nothing was begun there */
    case ATTEMPT_BROKE:
        c->n_real++;
        if (how->status || (c->retried & bit)) c->failed |= bit;
        c->retried |= bit;
        break;
    default: c->n_real++; c->failed |= bit;
    }
    if (how->error[0]) snprintf(c->error, sizeof c->error, "%s", how->error);
    if (c->after) c->after(c);
}

static bool begin(call *c, candidate *k, relay_target *out) {
    c->current = *k;
    if (!make_target(c, &c->current, out)) {
        if (!c->single) {
            attempt none = {.end = ATTEMPT_LEFT};
            backends_give(c->gen->backends, &c->current, &c->facts, &none);
        }
        c->failed |= 1u << k->backend;
        return false;
    }
    c->taken = true;
    if (!c->first_attempt_ns) {
        c->first_attempt_ns = lm_now_ns() - c->began_ns;
        metrics_added(&c->router->metrics, c->first_attempt_ns);
    }
    metrics_attempt_begins(&c->router->metrics, backend_of(c, k)->name);
    return true;
}

/* The next one of this round that lets us. */
static bool from_round(call *c, relay_target *out) {
    while (c->at < c->n_round) {
        candidate *k = &c->round[c->at++];
        uint32_t bit = 1u << k->backend;
        if (!k->usable || (c->failed & bit)) continue;
        /* one whose connection closed is asked again only behind the others */
        if ((c->retried & bit) && c->at < c->n_round) {
            bool others = false;
            for (uint32_t i = c->at; i < c->n_round; i++)
                others |= c->round[i].usable && !((c->failed | c->retried) & (1u << c->round[i].backend));
            if (others) continue;
        }
        if (!backends_take(c->gen->backends, k)) continue;
        if (begin(c, k, out)) return true;
    }
    return false;
}

/* How long until another round makes sense; 0: never. */
static uint32_t wait_for(const call *c) {
    uint32_t least = 0;
    for (uint32_t i = 0; i < c->n_round; i++) {
        const candidate *k = &c->round[i];
        if (c->failed & (1u << k->backend)) continue;
        uint32_t ms = k->usable ? RETRY_MS : k->wait_ms;
        if (ms && (!least || ms < least)) least = ms;
    }
    return least;
}

static bool next_target(void *ctx, relay_target *out, uint32_t *wait_ms) {
    call *c = ctx;
    const lm_router_config *config = config_of(c);
    bool another = c->just_ended; /* and not: once more, after a wait */
    c->just_ended = false;
    if (c->wait_began_ns) c->waited_ns += lm_now_ns() - c->wait_began_ns;
    c->wait_began_ns = 0;
    if (c->single) {
        if (c->n_log || !c->n_round) return false;
        return begin(c, &c->round[0], out);
    }
    if (c->n_real >= config->attempts) return false;
    char before[64] = "";
    if (another) snprintf(before, sizeof before, "%s", backend_of(c, &c->current)->name);
    bool found = from_round(c, out);
    if (!found) { /* once more, with what is known now */
        c->n_round = backends_choose(c->gen->backends, &c->facts, c->round);
        c->at = 0;
        bool began_nothing = another && (c->last_end == ATTEMPT_REFUSED || c->last_end == ATTEMPT_BUSY);
        found = !began_nothing && from_round(c, out);
    }
    if (found) {
        if (before[0]) metrics_fallback(&c->router->metrics, before);
        return true;
    }
    uint32_t ms = wait_for(c);
    uint64_t left_ms =
        c->waited_ns / 1000000 < config->max_wait_ms ? config->max_wait_ms - c->waited_ns / 1000000 : 0;
    if (!ms || !left_ms || atomic_load(&c->router->refusing)) return false;
    c->n_round = 0; /* chosen anew after the wait */
    c->wait_began_ns = lm_now_ns();
    *wait_ms = ms < left_ms ? ms : (uint32_t)left_ms;
    return true;
}

static void commit(void *ctx, lm_http *x) {
    (void)x;
    call *c = ctx;
    call_set_headers(c, c->n_log || c->taken ? &c->current : NULL);
}

static void over(void *ctx, bool gone) {
    call_close(ctx, gone);
}

/* ---- why nobody could be asked */

static void say_none(const call *c, char *out, size_t room) {
    lm_buf b;
    lm_buf_init(&b, room);
    const lm_router_config *config = config_of(c);
    if (c->facts.model[0])
        lm_buf_printf(&b, "no backend can serve '%.80s' now", c->facts.model);
    else
        lm_buf_text(&b, "no backend can serve this now");
    for (uint32_t i = 0; i < c->n_list; i++)
        lm_buf_printf(&b, "%s %s: %.60s", i ? ";" : ":", config->backends[c->list[i].backend].name,
                      c->list[i].reason);
    lm_buf_text(&b, ". Start one (ollama serve, mlx-server-startup start)");
    snprintf(out, room, "%s", b.ptr ? b.ptr : "no backend can serve this now");
    lm_buf_release(&b);
}

static void start(call *c) {
    relay_job job = {.x = c->x,
                     .wire = c->facts.wire,
                     .head = lm_str_eq(lm_http_method(c->x), LM_STR("HEAD")),
                     .ended = ended,
                     .next = next_target,
                     .commit = commit,
                     .over = over,
                     .none_status = 503,
                     .ctx = c};
    say_none(c, job.none_text, sizeof job.none_text);
    relay_start(c->router->pump, &job);
}

void pass_infer(call *c) {
    c->n_list = backends_choose(c->gen->backends, &c->facts, c->list);
    memcpy(c->round, c->list, c->n_list * sizeof *c->list);
    c->n_round = c->n_list;
    bool changed;
    if (c->n_round && c->round[0].usable)
        (void)target_body(c, &c->round[0], &changed); /* not on the pump's thread */
    start(c);
}

void pass_single(call *c, uint32_t backend) {
    c->single = true;
    c->n_list = c->n_round = 1;
    c->list[0] =
        (candidate){.backend = backend, .usable = true, .reason = "has the model, or is where it goes"};
    snprintf(c->list[0].model, sizeof c->list[0].model, "%s", c->facts.model);
    c->round[0] = c->list[0];
    start(c);
}

/* Those that are up stand first; of them a real Ollama. */
void pass_first_ollama(call *c) {
    const lm_router_config *config = config_of(c);
    candidate up[LM_ROUTER_MAX_BACKENDS];
    router_facts any = {.route = ROUTE_PASS};
    uint32_t n = backends_choose(c->gen->backends, &any, up);
    int best = -1;
    for (uint32_t i = 0; i < n; i++) {
        if (!up[i].usable) continue;
        if (best < 0) best = (int)up[i].backend;
        if (config->backends[up[i].backend].kind != LM_KIND_OLLAMA) continue;
        best = (int)up[i].backend;
        break;
    }
    if (best >= 0) {
        pass_single(c, (uint32_t)best);
        return;
    }
    memcpy(c->list, up, n * sizeof *up);
    c->n_list = n;
    c->single = true;
    start(c);
}
