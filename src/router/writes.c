/* writes.c - what changes a backend's models: sent once, to the one that it belongs to.
 *
 *   pull, push   whoever has the name; a new one where new ones go
 *   create       where its blobs were uploaded, else where the model is that it is made from, else where new ones go
 *   copy         whoever has the source
 *   delete       each that lists exactly this name: one that is known by an alias only stays
 *   blobs        looked for, and uploaded (upload.c), where a new model goes: a model's blobs must lie in one place, and who asks
 *                first sends only what is not there
 *
 * Nothing here is begun twice: there is one attempt, and its error is the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "router/fan.h"
#include "router/lists.h"

#define LIST_MS   5000
#define DELETE_MS 60000
#define BLOB_MS   5000
#define MAX_LIST  (16u << 20)
#define MAX_REPLY (1u << 20)

static const lm_router_config *config_of(const call *c) {
    return backends_config(c->gen->backends);
}

void writes_over(call *c, uint32_t backend) {
    listings_forget(c->gen->listings, backend);
    backends_look_again(c->gen->backends, backend);
}

static void look_again(call *c) {
    writes_over(c, c->current.backend);
}

/* Who is asked first when nothing is said that could tell them apart; -1: nobody is up. */
static int first_up(const call *c) {
    candidate list[LM_ROUTER_MAX_BACKENDS];
    router_facts any = {.route = ROUTE_PASS};
    uint32_t n = backends_choose(c->gen->backends, &any, list);
    for (uint32_t i = 0; i < n; i++)
        if (list[i].usable) return (int)list[i].backend;
    return -1;
}

/* A name that is none goes to somebody, too, who says so. */
static int where_new(const call *c, const char *model) {
    int where = backends_for_new(c->gen->backends, model);
    return where >= 0 ? where : first_up(c);
}

static void send_to(call *c, int backend) {
    c->after = look_again;
    if (backend < 0)
        call_reply_error(
            c, 503,
            "no backend is up that could take this. Start one (ollama serve, mlx-server-startup start)");
    else
        pass_single(c, (uint32_t)backend);
}

static uint32_t all_up(const call *c) {
    candidate list[LM_ROUTER_MAX_BACKENDS];
    router_facts any = {.route = ROUTE_PASS};
    uint32_t n = backends_choose(c->gen->backends, &any, list), bits = 0;
    for (uint32_t i = 0; i < n; i++)
        if (list[i].usable || list[i].wait_ms) bits |= 1u << list[i].backend;
    return bits;
}

/* ---- blobs */

void blob_note(router *r, lm_str digest, const char *backend) {
    known_blob b = {0};
    if (digest.len >= sizeof b.digest) return;
    memcpy(b.digest, digest.ptr, digest.len);
    snprintf(b.backend, sizeof b.backend, "%s", backend);
    pthread_mutex_lock(&r->lock);
    uint32_t i = 0;
    while (i < MAX_BLOBS_KNOWN && strcmp(r->blobs[i].digest, b.digest) != 0) i++;
    if (i == MAX_BLOBS_KNOWN) i = r->next_blob++ % MAX_BLOBS_KNOWN;
    r->blobs[i] = b;
    pthread_mutex_unlock(&r->lock);
}

int blob_where(router *r, const lm_router_config *config, lm_str digest) {
    int found = -1;
    pthread_mutex_lock(&r->lock);
    for (uint32_t i = 0; i < MAX_BLOBS_KNOWN && digest.len; i++) {
        if (!lm_str_eq(lm_str_of(r->blobs[i].digest), digest)) continue;
        for (uint32_t b = 0; b < config->n_backends; b++)
            if (!strcmp(config->backends[b].name, r->blobs[i].backend)) found = (int)b;
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

static lm_str digest_of(const call *c) {
    lm_str path = lm_http_path(c->x);
    size_t head = strlen("/api/blobs/");
    return (lm_str){path.ptr + head, path.len - head};
}

/* The first one that has the blob; -1: none. */
static int who_has(const call *c, const fan_answer *answers) {
    for (uint32_t i = 0; i < config_of(c)->n_backends; i++)
        if (answers[i].asked && answers[i].whole && answers[i].status == 200) return (int)i;
    return -1;
}

static void looked(call *c, fan_answer *answers, void *ctx) {
    (void)ctx;
    int where = who_has(c, answers);
    if (where >= 0) blob_note(c->router, digest_of(c), config_of(c)->backends[where].name);
    int status = where >= 0 ? 200 : 404;
    for (uint32_t i = 0; i < config_of(c)->n_backends && where < 0; i++)
        if (answers[i].whole && answers[i].status == 400) status = 400;
    call_set_headers(c, NULL);
    lm_http_reply(c->x, status, NULL, (lm_str){0});
    call_close_at_end(c);
}

static void look_for_blob(call *c, lm_str path, uint32_t whom,
                          void (*done)(call *c, fan_answer *answers, void *ctx)) {
    fan_ask ask = {
        .method = "HEAD", .path = path, .backends = whom, .limit_ms = BLOB_MS, .max_body = MAX_REPLY};
    fan_start(c, &ask, done, NULL);
}

/* ---- create */

/* A digest that the model is to be made of; empty: none. */
static lm_str any_digest(const json_t *body) {
    static const char *const tables[] = {"files", "adapters", "draft_files"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const char *key;
        json_t *digest;
        json_object_foreach(facts_member(body, tables[i]), key, digest) {
            if (json_is_string(digest)) return lm_str_of(json_string_value(digest));
        }
    }
    return (lm_str){0};
}

static void found_blob(call *c, fan_answer *answers, void *ctx) {
    (void)ctx;
    int where = who_has(c, answers);
    send_to(c, where >= 0 ? where : where_new(c, c->facts.model));
}

static void create(call *c) {
    lm_str digest = any_digest(c->facts.body);
    const json_t *from = facts_member(c->facts.body, "from");
    int where = digest.len ? blob_where(c->router, config_of(c), digest) : -1;
    if (where < 0 && digest.len) {
        lm_buf path;
        lm_buf_init(&path, 1000);
        lm_buf_printf(&path, "/api/blobs/" LM_STR_FMT, LM_STR_ARG(digest));
        look_for_blob(c, lm_buf_view(&path), all_up(c), found_blob);
        lm_buf_release(&path);
        return;
    }
    if (where < 0 && json_is_string(from)) where = backends_owner(c->gen->backends, json_string_value(from));
    send_to(c, where >= 0 ? where : where_new(c, c->facts.model));
}

/* ---- delete */

static bool lists(const fan_answer *a, const char *key) {
    json_t *body = NULL, *item;
    size_t i;
    bool found = false;
    if (!a->asked || !a->whole || a->status != 200 ||
        lm_json_parse(lm_buf_view(&a->body), &body, NULL) != LM_OK)
        return false;
    json_array_foreach(json_object_get(body, "models"), i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        char *its = name ? lists_key(name) : NULL;
        found |= its && !strcmp(its, key);
        free(its);
    }
    json_decref(body);
    return found;
}

static void deleted(call *c, fan_answer *answers, void *ctx) {
    (void)ctx;
    const fan_answer *worst = NULL;
    uint32_t n_done = 0;
    for (uint32_t i = 0; i < config_of(c)->n_backends; i++) {
        const fan_answer *a = &answers[i];
        if (!a->asked) continue;
        writes_over(c, i);
        if (a->whole && a->status < 300)
            n_done++;
        else
            worst = a;
    }
    call_set_headers(c, NULL);
    if (n_done || !worst) {
        lm_http_reply(c->x, 200, NULL, (lm_str){0});
        call_close_at_end(c);
    } else if (worst->whole) {
        lm_http_reply(c->x, worst->status, TYPE_JSON, lm_buf_view(&worst->body));
        call_close_at_end(c);
    } else {
        call_reply_error(c, 502, worst->error);
    }
}

static void not_found(call *c) {
    char text[800];
    snprintf(text, sizeof text, "model '%s' not found", c->facts.model);
    call_reply_error(c, 404, text);
}

static void listed(call *c, fan_answer *answers, void *ctx) {
    (void)ctx;
    char *key = lists_key(c->facts.model);
    uint32_t bits = 0;
    bool any = false;
    for (uint32_t i = 0; i < config_of(c)->n_backends; i++) {
        any |= answers[i].asked && answers[i].whole;
        if (lists(&answers[i], key)) bits |= 1u << i;
    }
    free(key);
    if (!any) {
        call_reply_error(c, 503, "no backend is up. Start one (ollama serve, mlx-server-startup start)");
    } else if (!bits) {
        not_found(c);
    } else {
        fan_ask ask = {.method = "DELETE",
                       .path = lm_http_path(c->x),
                       .body = lm_http_body(c->x),
                       .backends = bits,
                       .limit_ms = DELETE_MS,
                       .max_body = MAX_REPLY};
        fan_start(c, &ask, deleted, NULL);
    }
}

static void delete_model(call *c) {
    lm_name name;
    if (lm_name_parse(lm_str_of(c->facts.model), &name, NULL) !=
        LM_OK) { /* the backend words what is wrong */
        send_to(c, first_up(c));
        return;
    }
    fan_ask ask = {.method = "GET",
                   .path = LM_STR("/api/tags"),
                   .backends = all_up(c),
                   .limit_ms = LIST_MS,
                   .max_body = MAX_LIST};
    fan_start(c, &ask, listed, NULL);
}

/* ---- */

void writes_handle(call *c) {
    lm_str path = lm_http_path(c->x), method = lm_http_method(c->x);
    if (lm_str_eq(path, LM_STR("/api/create"))) {
        create(c);
    } else if (lm_str_eq(path, LM_STR("/api/delete"))) {
        delete_model(c);
    } else if (lm_str_starts(path, LM_STR("/api/blobs/"))) {
        int where = where_new(c, "");
        if (lm_str_eq(method, LM_STR("HEAD")))
            look_for_blob(c, path, where < 0 ? 0 : 1u << where, looked);
        else if (where < 0)
            send_to(c, where);
        else
            upload_handle(c, (uint32_t)where);
    } else {
        int where = backends_owner(c->gen->backends, c->facts.model);
        send_to(c, where >= 0 ? where : where_new(c, c->facts.model));
    }
}
