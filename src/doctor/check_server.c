#include "doctor/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

void check_reachable(doctor *d, doctor_result *r) {
    lm_answer a;
    if (!wire_ask(&d->brief, "GET", "/", NULL, &a, r)) return;
    lm_str text = lm_str_trim(lm_buf_view(&a.body));
    if (a.status != 200) {
        wire_refused("GET", "/", &a, r);
    } else if (!lm_str_eq(text, LM_STR("Ollama is running"))) {
        doctor_failed(r, "another program has this port: stop it, or name the right one with --url",
                      "%s is no server of Ollama's API: GET / says \"%.*s\"", d->url,
                      (int)(text.len < 80 ? text.len : 80), text.len ? text.ptr : "");
    } else {
        d->reachable = true;
        doctor_passed(r, "%s", d->url);
    }
    lm_answer_release(&a);
}

static void judge_health(doctor *d, const json_t *o, doctor_result *r) {
    if (!wire_fields("GET /health", o,
                     "status:s version:s backend:s device:s gpu:b memory_budget:i running:i waiting:i", r))
        return;
    d->ours = true;
    const char *status = json_string_value(json_object_get(o, "status"));
    const char *backend = json_string_value(json_object_get(o, "backend"));
    bool gpu = json_is_true(json_object_get(o, "gpu"));
    if (strcmp(status, "ok")) {
        doctor_failed(r, "look at the server's log: it has the cause", "the server says of itself: %s",
                      status);
        return;
    }
    doctor_passed(r, "mlx-ollama-bridge %s, backend %s on %s, %s, memory budget %.1f GB",
                  json_string_value(json_object_get(o, "version")), backend,
                  json_string_value(json_object_get(o, "device")), gpu ? "GPU" : "no GPU",
                  json_number_value(json_object_get(o, "memory_budget")) / 1e9);
#if defined(__APPLE__) && defined(__aarch64__)
    if (!gpu)
        doctor_advise(
            r,
            "this Mac has a GPU that is not used: brew install mlx, build again (./quickstart), start with "
            "--backend mlx");
#endif
    if (!strcmp(backend, "mlx") && !gpu)
        doctor_advise(r, "MLX computes on the CPU, which is slow: --backend cpu is faster here");
}

static void judge_router(const json_t *o, doctor_result *r) {
    if (!wire_fields("GET /health", o, "status:s version:s backends:o", r)) return;
    char list[300] = "";
    const char *name, *status = json_string_value(json_object_get(o, "status"));
    const json_t *one;
    json_object_foreach(json_object_get(o, "backends"), name, one) {
        const char *state = json_string_value(one);
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, ", %.60s %.20s", name, state ? state : "?");
    }
    if (!strcmp(status, "down")) {
        doctor_failed(r, "start one of them: mlx-server-startup start, or ollama serve",
                      "the router runs, but no backend behind it%s", list);
        return;
    }
    doctor_passed(r, "ollama-to-mlx-router %s%s", json_string_value(json_object_get(o, "version")), list);
    if (strcmp(status, "ok"))
        doctor_advise(r, "not all of them answer: ollama-to-mlx-router status says more");
}

json_t *check_ask_health(const wire *w, doctor_result *r) {
    lm_answer a;
    json_t *o = NULL;
    if (!wire_ask(w, "GET", "/health", NULL, &a, r)) return NULL;
    if (a.status == 404)
        doctor_skipped(
            r, "no /health: this is neither mlx-ollama-bridge nor ollama-to-mlx-router, but Ollama or its "
               "like");
    else if (lm_json_parse(lm_buf_view(&a.body), &o, NULL) != LM_OK || (a.status != 200 && a.status != 503))
        wire_refused("GET", "/health", &a, r);
    lm_answer_release(&a);
    return o;
}

/* Ollama itself has no /health. */
void check_health(doctor *d, doctor_result *r) {
    json_t *o = check_ask_health(&d->brief, r);
    if (o && json_object_get(o, "backends"))
        judge_router(o, r);
    else if (o)
        judge_health(d, o, r);
    json_decref(o);
}

void check_head(doctor *d, doctor_result *r) {
    lm_answer a;
    if (!wire_ask(&d->brief, "HEAD", "/", NULL, &a, r)) return;
    if (a.status != 200)
        wire_refused("HEAD", "/", &a, r);
    else if (a.n_body)
        doctor_failed(r, REMEDY_WIRE, "HEAD / came with a body");
    else
        doctor_passed(r, "200");
    lm_answer_release(&a);
}

void check_version(doctor *d, doctor_result *r) {
    json_t *o = wire_json(&d->brief, "GET", "/api/version", NULL, r);
    if (o && wire_fields("GET /api/version", o, "version:s", r)) {
        const char *v = json_string_value(json_object_get(o, "version"));
        unsigned major = 0, minor = 0, patch = 0;
        if (sscanf(v, "%u.%u.%u", &major, &minor, &patch) != 3)
            doctor_failed(r, REMEDY_WIRE, "\"%s\" is no version like 0.33.0, which clients compare", v);
        else
            doctor_passed(r, "%s", v);
        /* Codex looks for 0.13.4, Copilot for 0.6.4 */
        if (r->state == DOCTOR_PASSED && !major && (minor < 13 || (minor == 13 && patch < 4)))
            doctor_advise(r, "some clients want 0.13.4 or newer: update the server");
    }
    json_decref(o);
}

/* ---- models */

static bool can_answer(const json_t *model) {
    const json_t *capabilities = json_object_get(model, "capabilities"), *one;
    size_t i;
    if (!json_array_size(capabilities)) return true;
    json_array_foreach(capabilities, i, one) if (json_is_string(one) &&
                                                 !strcmp(json_string_value(one), "completion")) return true;
    return false;
}

static bool is_digest(const char *s) {
    return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

/* Every entry, as clients read it; *smallest is the one to ask. */
static bool judge_models(const json_t *models, const char **smallest, doctor_result *r) {
    const json_t *m;
    size_t i;
    json_int_t least = 0;
    json_array_foreach(models, i, m) {
        if (!wire_fields("GET /api/tags", m, "name:s model:s modified_at:t size:i digest:s details:o", r))
            return false;
        const char *name = json_string_value(json_object_get(m, "name"));
        const char *digest = json_string_value(json_object_get(m, "digest"));
        json_int_t size = json_integer_value(json_object_get(m, "size"));
        if (!strchr(name, ':'))
            return doctor_failed(r, REMEDY_WIRE, "GET /api/tags: the name %s has no tag", name);
        if (!is_digest(digest))
            return doctor_failed(r, REMEDY_WIRE,
                                 "GET /api/tags: the digest of %s is no 64 hex digits: \"%s\"", name, digest);
        if (can_answer(m) && strlen(name) < 500 && (!*smallest || size < least)) {
            *smallest = name;
            least = size;
        }
    }
    return true;
}

void check_models(doctor *d, doctor_result *r) {
    json_t *o = wire_json(&d->brief, "GET", "/api/tags", NULL, r);
    const char *smallest = NULL;
    const json_t *models = json_object_get(o, "models");
    if (o && wire_fields("GET /api/tags", o, "models:a", r) && judge_models(models, &smallest, r)) {
        if (!d->model[0] && smallest) strcpy(d->model, smallest);
        if (!json_array_size(models) && !d->model[0])
            doctor_failed(r,
                          "get one: ./quickstart, mlx-ollama-bridge import FILE.gguf NAME, or a directory "
                          "named with --root",
                          "the server has no model");
        else if (!d->model[0])
            doctor_failed(r, "import or pull a model that writes text",
                          "none of the server's models writes text");
        else
            doctor_passed(r, "%zu of them, asking %s", json_array_size(models), d->model);
    }
    json_decref(o);
}

void check_show(doctor *d, doctor_result *r) {
    json_t *body = json_pack("{s:s}", "model", d->model);
    json_t *o = wire_json(&d->brief, "POST", "/api/show", body, r);
    json_decref(body);
    if (o && wire_fields("POST /api/show", o,
                         "details:o model_info:o capabilities:a modified_at:t template:s?", r)) {
        const json_t *info = json_object_get(o, "model_info");
        const char *architecture = json_string_value(json_object_get(info, "general.architecture"));
        const json_t *one;
        size_t i;
        json_array_foreach(json_object_get(o, "capabilities"), i, one) {
            if (json_is_string(one) && !strcmp(json_string_value(one), "tools")) d->tools = true;
        }
        char key[128];
        snprintf(key, sizeof key, "%s.context_length", architecture ? architecture : "");
        if (!architecture)
            doctor_failed(r, REMEDY_WIRE, "POST /api/show: model_info has no general.architecture");
        else if (!json_is_number(json_object_get(info, key)))
            doctor_failed(r, REMEDY_WIRE, "POST /api/show: model_info has no %s", key);
        else
            doctor_passed(r, "%s, architecture %s, context %.0f", d->model, architecture,
                          json_number_value(json_object_get(info, key)));
    }
    json_decref(o);
}

/* Clients pull what a 404 says is missing. */
void check_unknown(doctor *d, doctor_result *r) {
    static const char name[] = "no-such-model-of-the-doctor";
    json_t *body = json_pack("{s:s, s:s, s:b}", "model", name, "prompt", "x", "stream", 0);
    lm_answer a;
    bool answered = wire_ask(&d->brief, "POST", "/api/generate", body, &a, r);
    json_decref(body);
    if (!answered) return;
    char said[200];
    lm_answer_error(&a, said, sizeof said);
    if (a.status != 404 || !strstr(said, "not found"))
        doctor_failed(r, REMEDY_WIRE, "it must be answered 404 with \"not found\", it was %d: %s", a.status,
                      said);
    else
        doctor_passed(r, "404, %s", said);
    lm_answer_release(&a);
}
