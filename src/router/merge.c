/* merge.c - lists of models: all backends are asked at once, and their answers become one.
 *
 * A name that several have stands there once, as the one has it that a request for it would go to. Who does not answer in
 * time, or at all, holds nobody up: its last known list stands in, and X-Router-Partial names it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "router/fan.h"
#include "router/lists.h"

#define MAX_LISTING    (16u << 20)
#define LIMIT_KNOWN_MS 1000 /* for who has a last known list */
#define LIMIT_NEW_MS   3000

/* ---- the last known lists
 *
 * What stands in them belongs to the pump's thread (references are not counted across threads); others only ask whether. */

struct listings {
    pthread_mutex_t lock;
    json_t *last[LM_ROUTER_MAX_BACKENDS][LIST_KINDS];
};

struct listings *listings_open(void) {
    struct listings *l = lm_alloc(sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

void listings_close(struct listings *l) {
    if (!l) return;
    for (uint32_t i = 0; i < LM_ROUTER_MAX_BACKENDS; i++) listings_forget(l, i);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void listings_forget(struct listings *l, uint32_t backend) {
    pthread_mutex_lock(&l->lock);
    for (size_t k = 0; k < LIST_KINDS; k++) {
        json_decref(l->last[backend][k]);
        l->last[backend][k] = NULL;
    }
    pthread_mutex_unlock(&l->lock);
}

static void keep(struct listings *l, uint32_t backend, size_t kind, json_t *list) {
    pthread_mutex_lock(&l->lock);
    json_decref(l->last[backend][kind]);
    l->last[backend][kind] = json_incref(list);
    pthread_mutex_unlock(&l->lock);
}

/* A reference of the caller's; NULL: none is known. */
static json_t *known(struct listings *l, uint32_t backend, size_t kind) {
    pthread_mutex_lock(&l->lock);
    json_t *list = json_incref(l->last[backend][kind]);
    pthread_mutex_unlock(&l->lock);
    return list;
}

static bool is_known(struct listings *l, uint32_t backend, size_t kind) {
    pthread_mutex_lock(&l->lock);
    bool is = l->last[backend][kind] != NULL;
    pthread_mutex_unlock(&l->lock);
    return is;
}

/* ---- the request */

static uint32_t choose_for(void *ctx, const char *model, uint32_t order[LM_ROUTER_MAX_BACKENDS]) {
    call *c = ctx;
    candidate list[LM_ROUTER_MAX_BACKENDS];
    router_facts f = {.route = ROUTE_INFER};
    snprintf(f.model, sizeof f.model, "%s", model);
    uint32_t n = backends_choose(c->gen->backends, &f, list);
    for (uint32_t i = 0; i < n; i++) order[i] = list[i].backend;
    return n;
}

static size_t kind_of(lm_str path) {
    size_t k = 0;
    while (k < LIST_KINDS - 1 && !lm_str_eq(path, lm_str_of(list_kinds[k].path))) k++;
    return k;
}

/* The list within an answer; NULL: it is none. An empty one may be null. */
static json_t *read_list(const fan_answer *a, const list_kind *kind) {
    json_t *body = NULL;
    if (!a->asked || !a->whole || a->status != 200 ||
        lm_json_parse(lm_buf_view(&a->body), &body, NULL) != LM_OK)
        return NULL;
    json_t *list = json_object_get(body, kind->members), *found = NULL;
    if (json_is_array(list))
        found = json_incref(list);
    else if (json_is_null(list))
        found = json_array();
    json_decref(body);
    return found;
}

static void merged(call *c, fan_answer *answers, void *ctx) {
    (void)ctx;
    const lm_router_config *config = backends_config(c->gen->backends);
    size_t kind = kind_of(lm_http_path(c->x));
    json_t *lists[LM_ROUTER_MAX_BACKENDS] = {0};
    lm_buf missing;
    lm_buf_init(&missing, 1000);
    for (uint32_t i = 0; i < config->n_backends; i++) {
        lists[i] = read_list(&answers[i], &list_kinds[kind]);
        if (lists[i]) {
            keep(c->gen->listings, i, kind, lists[i]);
            continue;
        }
        lm_buf_printf(&missing, "%s%s", missing.len ? ", " : "", config->backends[i].name);
        lists[i] = known(c->gen->listings, i, kind);
    }
    json_t *list = lists_merge(lists, config->n_backends, kind, choose_for, c), *answer;
    if (list_kinds[kind].members[0] == 'd')
        answer = json_pack("{s:s,s:o}", "object", "list", "data", list);
    else
        answer = json_pack("{s:o}", "models", list);
    if (missing.len) lm_http_set_header(c->x, "X-Router-Partial", missing.ptr);
    call_set_headers(c, NULL);
    /* each wire as its servers have it */
    call_reply_json(c, 200, c->facts.wire == WIRE_OPENAI ? "application/json" : TYPE_JSON, answer);
    json_decref(answer);
    for (uint32_t i = 0; i < config->n_backends; i++) json_decref(lists[i]);
    lm_buf_release(&missing);
}

void merge_handle(call *c) {
    json_t *status = backends_states(c->gen->backends), *b;
    size_t kind = kind_of(lm_http_path(c->x)), i;
    uint32_t ask = 0, limit = LIMIT_KNOWN_MS;
    json_array_foreach(json_object_get(status, "backends"), i, b) {
        const char *state = json_string_value(json_object_get(b, "state"));
        if (i >= LM_ROUTER_MAX_BACKENDS || (state && !strcmp(state, "down"))) continue;
        ask |= 1u << i;
        if (!is_known(c->gen->listings, (uint32_t)i, kind)) limit = LIMIT_NEW_MS;
    }
    json_decref(status);
    fan_ask question = {.method = "GET",
                        .path = lm_http_path(c->x),
                        .backends = ask,
                        .limit_ms = limit,
                        .max_body = MAX_LISTING};
    fan_start(c, &question, merged, NULL);
}
