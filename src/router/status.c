/* status.c - the router asked from another process: the running one, or else a look of our own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "http/client.h"
#include "router/backends.h"

#define ASK_MS   10000
#define MAX_BODY (64u << 20) /* all backends' models */

/* ---- the running one */

static void url_of(const lm_router_config *c, char out[512]) {
    if (lm_address_url(c->host, c->port, c->port, out, NULL) != LM_OK) out[0] = '\0';
}

/* LM_NOT_FOUND: no router there. Other errors are its own words. */
static lm_status ask_running(const lm_router_config *c, const char *method, const char *path, lm_str body,
                             json_t **out, lm_err *err) {
    char base[512], url[600], text[300];
    lm_client *client = NULL;
    lm_answer a = {0};
    json_t *root = NULL;
    url_of(c, base);
    snprintf(url, sizeof url, "%s%s", base, path);
    lm_status st = lm_client_open(&client, err);
    if (st != LM_OK) return st;
    lm_ask ask = {.method = method,
                  .url = url,
                  .body = body,
                  .max_body = MAX_BODY,
                  .connect_ms = c->connect_ms,
                  .total_ms = ASK_MS};
    if (lm_client_ask(client, &ask, &a, NULL) != LM_OK || a.status == 404 || a.status == 405) {
        st = lm_fail(err, LM_NOT_FOUND, "no router answers at %s", base);
    } else if (a.status != 200) {
        lm_answer_error(&a, text, sizeof text);
        st = lm_fail(err, a.status < 500 ? LM_INVALID : LM_IO, "the router at %s: %s", base, text);
    } else {
        st = lm_json_parse(lm_buf_view(&a.body), &root, err);
        if (st != LM_OK || !json_is_object(root))
            st = lm_fail(err, LM_NOT_FOUND, "no router answers at %s", base);
    }
    if (st == LM_OK)
        *out = root;
    else
        json_decref(root);
    lm_answer_release(&a);
    lm_client_close(client);
    return st;
}

/* ---- a look of our own */

typedef struct look {
    lm_aliases aliases;
    backends *backends;
} look;

/* One check has to be enough: what a running router learns in three is told after one. */
static lm_status look_open(look *l, const lm_router_config *config, lm_err *err) {
    lm_router_config once = *config;
    once.fall = once.rise = 1;
    *l = (look){0};
    lm_status st = lm_aliases_open(&l->aliases, NULL, err);
    if (st == LM_OK) st = backends_open_quiet(&l->backends, &once, &l->aliases, err);
    if (st == LM_OK) backends_wait_first(l->backends, 4 * config->check_timeout_ms + 1000);
    return st;
}

static void look_close(look *l) {
    backends_close(l->backends);
    lm_aliases_release(&l->aliases);
}

/* ---- for the command line */

static void set_router(json_t *root, const lm_router_config *c, bool running) {
    char url[512];
    json_t *router = json_object_get(root, "router");
    if (!router) {
        router = json_object();
        json_object_set_new(root, "router", router);
    }
    url_of(c, url);
    json_object_set_new(router, "url", json_string(url));
    json_object_set_new(router, "running", json_boolean(running));
}

lm_status lm_router_status(const lm_router_config *config, json_t **out, lm_err *err) {
    json_t *root = NULL;
    look l;
    lm_status st = ask_running(config, "GET", "/router/status", (lm_str){0}, &root, err);
    bool running = st == LM_OK && json_is_object(json_object_get(root, "router")) &&
                   json_is_array(json_object_get(root, "backends"));
    if (st != LM_OK && st != LM_NOT_FOUND) return st;
    if (!running) {
        json_decref(root);
        root = NULL;
        st = look_open(&l, config, err);
        if (st == LM_OK) root = backends_json(l.backends);
        look_close(&l);
    }
    if (st != LM_OK) return st;
    set_router(root, config, running);
    *out = root;
    return LM_OK;
}

static lm_status explain_request(const char *model, const json_t *body, lm_buf *out, lm_err *err) {
    json_t *copy =
        body ? json_copy((json_t *)(uintptr_t)body) : json_object(); /* shallow: the parts are only counted */
    if (!json_is_object(copy)) {
        json_decref(copy);
        return lm_fail(err, LM_INVALID, "a request's body is a JSON object");
    }
    json_t *name = json_string(model);
    if (!name) {
        json_decref(copy);
        return lm_fail(err, LM_INVALID, "the model's name is no UTF-8 text");
    }
    json_object_set_new(copy, "model", name);
    if (!json_object_get(copy, "messages") && !json_object_get(copy, "prompt") && !json_object_get(copy, "input"))
        json_object_set_new(copy, "messages", json_pack("[{s:s, s:s}]", "role", "user", "content", "hi"));
    lm_buf_init(out, MAX_BODY);
    lm_json_write_value(out, copy);
    json_decref(copy);
    return lm_buf_status(out, "the request", err);
}

lm_status lm_router_explain(const lm_router_config *config, const char *model, const json_t *body,
                            json_t **out, lm_err *err) {
    lm_buf text;
    look l;
    json_t *root = NULL;
    lm_status st = explain_request(model, body, &text, err);
    if (st != LM_OK) return st;
    const char *path = json_object_get(body, "input") ? "/api/embed" : "/api/chat";
    char asked[100];
    snprintf(asked, sizeof asked, "/router/explain?path=%s", path);
    st = ask_running(config, "POST", asked, lm_buf_view(&text), &root, err);
    if (st == LM_OK && !json_is_array(json_object_get(root, "candidates"))) {
        json_decref(root);
        st = LM_NOT_FOUND;
    }
    if (st == LM_NOT_FOUND) {
        st = look_open(&l, config, err);
        if (st == LM_OK) {
            router_facts f;
            facts_of(&f, LM_STR("POST"), lm_str_of(path), lm_buf_view(&text));
            root = backends_explain(l.backends, &f);
            facts_release(&f);
        }
        look_close(&l);
    }
    lm_buf_release(&text);
    if (st == LM_OK) *out = root;
    return st;
}
