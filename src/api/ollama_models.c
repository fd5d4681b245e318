/* The endpoints about models: tags, ps, show, delete; and the small ones that answer by themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "api/ollama.h"

#define MAX_LOADED 256
#define MAX_LIST   (64u << 20) /* bytes of /api/tags */

static void text_member(lm_buf *b, const char *key, const char *value) {
    lm_buf_printf(b, "\"%s\":", key);
    lm_json_write_string(b, lm_str_of(value));
}

static void time_member(lm_buf *b, const char *key, int64_t wall_ns) {
    char time[40];
    lm_time_rfc3339(wall_ns, time);
    text_member(b, key, time);
}

static void write_details(lm_buf *b, const lm_facts *f, bool numbers) {
    lm_buf_text(b, "\"details\":{\"parent_model\":\"\",\"format\":\"safetensors\",");
    text_member(b, "family", f->family);
    lm_buf_text(b, ",\"families\":[");
    lm_json_write_string(b, lm_str_of(f->family));
    lm_buf_text(b, "],");
    text_member(b, "parameter_size", f->parameter_size);
    lm_buf_char(b, ',');
    text_member(b, "quantization_level", f->quantization);
    if (numbers && f->n_ctx) lm_buf_printf(b, ",\"context_length\":%u", f->n_ctx);
    if (numbers && f->width) lm_buf_printf(b, ",\"embedding_length\":%u", f->width);
    lm_buf_char(b, '}');
}

static void write_capabilities(lm_buf *b, const lm_facts *f) {
    lm_buf_text(b, "\"capabilities\":[\"completion\"");
    if (f->tools) lm_buf_text(b, ",\"tools\"");
    if (f->inserts) lm_buf_text(b, ",\"insert\"");
    if (f->thinking) lm_buf_text(b, ",\"thinking\"");
    lm_buf_char(b, ']');
}

/* ---- lists */

void ollama_tags(lm_call *call) {
    lm_entry *list = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    lm_status st = lm_store_list(call->api->config.store, &list, &n, &err);
    if (st != LM_OK) {
        ollama_error(call, st, err.text);
        return;
    }
    lm_buf b;
    lm_buf_init(&b, MAX_LIST);
    lm_buf_text(&b, "{\"models\":[");
    for (uint32_t i = 0; i < n; i++) {
        lm_facts f;
        lm_facts_get(call->api->facts, &list[i], &f);
        lm_buf_text(&b, i ? ",{" : "{");
        text_member(&b, "name", list[i].name);
        lm_buf_char(&b, ',');
        text_member(&b, "model", list[i].name);
        lm_buf_char(&b, ',');
        time_member(&b, "modified_at", list[i].modified_ns);
        lm_buf_printf(&b, ",\"size\":%llu,", (unsigned long long)list[i].size);
        text_member(&b, "digest", list[i].digest);
        lm_buf_char(&b, ',');
        write_details(&b, &f, true);
        lm_buf_char(&b, ',');
        write_capabilities(&b, &f);
        lm_buf_char(&b, '}');
    }
    lm_buf_text(&b, "]}");
    lm_reply_json(call, 200, &b);
    lm_buf_release(&b);
    free(list);
}

void ollama_ps(lm_call *call) {
    lm_loaded *list = lm_alloc(MAX_LOADED * sizeof *list);
    uint32_t n = lm_engine_list(call->api->config.engine, list, MAX_LOADED);
    if (n > MAX_LOADED) n = MAX_LOADED;
    lm_buf b;
    lm_buf_init(&b, MAX_LIST);
    lm_buf_text(&b, "{\"models\":[");
    for (uint32_t i = 0; i < n; i++) {
        lm_entry entry = {0};
        lm_facts f;
        snprintf(entry.name, sizeof entry.name, "%s", list[i].name);
        snprintf(entry.dir, sizeof entry.dir, "%s", list[i].dir);
        snprintf(entry.digest, sizeof entry.digest, "%s", list[i].digest);
        lm_facts_get(call->api->facts, &entry, &f);
        lm_buf_text(&b, i ? ",{" : "{");
        text_member(&b, "name", list[i].name);
        lm_buf_char(&b, ',');
        text_member(&b, "model", list[i].name);
        lm_buf_printf(&b, ",\"size\":%llu,", (unsigned long long)list[i].size);
        text_member(&b, "digest", list[i].digest);
        lm_buf_char(&b, ',');
        write_details(&b, &f, false);
        lm_buf_char(&b, ',');
        time_member(&b, "expires_at", list[i].expires_wall_ns);
        lm_buf_printf(&b, ",\"size_vram\":%llu,\"context_length\":%u}",
                      (unsigned long long)list[i].size_device, list[i].n_ctx);
    }
    lm_buf_text(&b, "]}");
    lm_reply_json(call, 200, &b);
    lm_buf_release(&b);
    free(list);
}

/* ---- requests that name a model */

typedef struct named {
    json_t *body;
    char *model; /* as written, "" when absent */
    bool verbose;
    const char *system; /* borrowed from body, or NULL */
} named;

/* "model", or "name" as older clients and the JavaScript one say. */
static lm_status read_named(lm_call *call, const char *type, named *out, lm_err *err) {
    lm_status st = lm_http_body_status(call->x, err);
    json_t *body = NULL;
    if (st == LM_OK) st = lm_fields_parse(lm_http_body(call->x), type, &body, err);
    if (st != LM_OK) return st;
    lm_fields f = lm_fields_of(body, type);
    const char *model = "", *name = "", *system = NULL;
    bool verbose = false;
    lm_field_str(&f, "model", &model, NULL);
    lm_field_str(&f, "name", &name, NULL);
    lm_field_bool(&f, "verbose", &verbose);
    lm_field_str(&f, "system", &system, NULL);
    if (f.st != LM_OK) {
        json_decref(body);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = (named){body, lm_strdup(model[0] ? model : name), verbose, system};
    lm_call_note_model(call, out->model);
    return LM_OK;
}

static void release_named(named *n) {
    json_decref(n->body);
    free(n->model);
}

/* Enough of a Modelfile to build a variant from; quotes inside the template cannot end it. */
static void write_modelfile(lm_buf *b, const lm_entry *model, lm_str template, const char *system) {
    lm_buf_printf(b,
                  "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, "
                  "replace FROM with:\n"
                  "# FROM %s\n\nFROM %s\n",
                  model->name, model->dir);
    if (template.len) {
        lm_buf_text(b, "TEMPLATE \"\"\"");
        lm_buf_str(b, template);
        lm_buf_text(b, "\"\"\"\n");
    }
    if (system && system[0]) lm_buf_printf(b, "SYSTEM \"\"\"%s\"\"\"\n", system);
}

static void reply_show(lm_call *call, const named *n, const lm_entry *model) {
    lm_facts f;
    lm_facts_get(call->api->facts, model, &f);
    lm_buf b, template, modelfile;
    lm_buf_init(&b, MAX_LIST);
    lm_buf_init(&template, 4u << 20);
    lm_buf_init(&modelfile, 8u << 20);
    lm_facts_template(model->dir, &template);
    write_modelfile(&modelfile, model, lm_buf_view(&template), n->system);
    json_t *info = lm_facts_model_info(model, &f, n->verbose);
    /* Copilot looks for the name that it asked for. */
    if (lm_str_starts(lm_http_header(call->x, "User-Agent"), LM_STR("GitHubCopilotChat/")))
        json_object_set_new(info, "general.basename", json_string(n->model));

    lm_buf_text(&b, "{\"modelfile\":");
    lm_json_write_string(&b, lm_buf_view(&modelfile));
    lm_buf_text(&b, ",\"template\":");
    lm_json_write_string(&b, lm_buf_view(&template));
    if (n->system && n->system[0]) {
        lm_buf_char(&b, ',');
        text_member(&b, "system", n->system);
    }
    lm_buf_char(&b, ',');
    write_details(&b, &f, false);
    lm_buf_text(&b, ",\"model_info\":");
    lm_json_write_value(&b, info);
    lm_buf_char(&b, ',');
    write_capabilities(&b, &f);
    lm_buf_char(&b, ',');
    time_member(&b, "modified_at", model->modified_ns);
    lm_buf_char(&b, '}');
    lm_reply_json(call, 200, &b);
    json_decref(info);
    lm_buf_release(&template);
    lm_buf_release(&modelfile);
    lm_buf_release(&b);
}

void ollama_show(lm_call *call) {
    named n = {0};
    lm_entry model;
    lm_err err = {0};
    lm_status st = read_named(call, "ShowRequest", &n, &err);
    if (st == LM_OK && !n.model[0]) st = lm_fail(&err, LM_INVALID, "model is required");
    if (st == LM_OK) st = lm_store_find(call->api->config.store, n.model, &model, &err);
    if (st == LM_NOT_FOUND) {
        /* with its tag, unlike everywhere else */
        lm_name name;
        char shown[700];
        if (lm_name_parse(lm_str_of(n.model), &name, NULL) == LM_OK) {
            lm_name_short(&name, shown);
            lm_fail(&err, LM_NOT_FOUND, "model '%s' not found", shown);
        }
    }
    if (st == LM_OK)
        reply_show(call, &n, &model);
    else
        ollama_error(call, st, err.text);
    release_named(&n);
}

void ollama_delete(lm_call *call) {
    named n = {0};
    lm_entry model;
    lm_err err = {0};
    lm_status st = read_named(call, "DeleteRequest", &n, &err);
    if (st == LM_OK) {
        lm_name name;
        if (lm_name_parse(lm_str_of(n.model), &name, NULL) != LM_OK)
            st = lm_fail(&err, LM_INVALID, "name \"%.200s\" is invalid", n.model);
    }
    if (st == LM_OK) st = lm_store_find(call->api->config.store, n.model, &model, &err);
    if (st == LM_OK) {
        st = lm_engine_unload(call->api->config.engine, model.name, &err);
        if (st == LM_OK || st == LM_NOT_FOUND) st = lm_store_delete(call->api->config.store, n.model, &err);
    }
    if (st == LM_OK)
        lm_reply_empty(call, 200);
    else
        ollama_error(call, st, err.text);
    release_named(&n);
}

/* ---- the small ones */

static void ollama_root(lm_call *call) {
    lm_reply_text(call, 200, "Ollama is running");
}

static void ollama_version(lm_call *call) {
    lm_buf b;
    lm_buf_init(&b, 256);
    lm_buf_printf(&b, "{\"version\":\"%s\"}", call->api->config.ollama_version);
    lm_reply_json(call, 200, &b);
    lm_buf_release(&b);
}

/* Nothing here ever talks to a cloud. */
static void ollama_status(lm_call *call) {
    lm_http_reply(call->x, 200, TYPE_JSON, LM_STR("{\"cloud\":{\"disabled\":true,\"source\":\"config\"}}"));
}

static void health(lm_call *call) {
    lm_engine_stats s = {0};
    lm_engine_get_stats(call->api->config.engine, &s);
    lm_buf b;
    lm_buf_init(&b, 1024);
    lm_buf_printf(
        &b,
        "{\"status\":\"ok\",\"version\":\"%s\",\"models\":%u,\"running\":%u,\"waiting\":%u,\"requests\":%llu,"
        "\"failed\":%llu,\"cancelled\":%llu,\"prompt_tokens\":%llu,\"eval_tokens\":%llu}",
        call->api->config.version, s.n_models, s.n_running, s.n_waiting, (unsigned long long)s.n_requests,
        (unsigned long long)s.n_failed, (unsigned long long)s.n_cancelled,
        (unsigned long long)s.n_prompt_tokens, (unsigned long long)s.n_eval_tokens);
    lm_reply_json(call, 200, &b);
    lm_buf_release(&b);
}

const lm_route lm_ollama_routes[] = {
    {"GET", "/", ollama_root},
    {"HEAD", "/", ollama_root},
    {"GET", "/api/version", ollama_version},
    {"HEAD", "/api/version", ollama_version},
    {"GET", "/api/status", ollama_status},
    {"GET", "/api/tags", ollama_tags},
    {"HEAD", "/api/tags", ollama_tags},
    {"GET", "/api/ps", ollama_ps},
    {"POST", "/api/show", ollama_show},
    {"DELETE", "/api/delete", ollama_delete},
    {"POST", "/api/generate", ollama_generate},
    {"POST", "/api/chat", ollama_chat},
    {NULL, NULL, NULL},
};

const lm_route lm_health_routes[] = {
    {"GET", "/health", health},
    {"HEAD", "/health", health},
    {NULL, NULL, NULL},
};
