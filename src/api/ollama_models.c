/* The lists of models, the table of routes, and the small endpoints that answer by themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "api/ollama.h"

#define MAX_LOADED 256
#define MAX_LIST   (64u << 20) /* bytes of /api/tags */

void ollama_write_text(lm_buf *b, const char *key, const char *value) {
    lm_buf_printf(b, "\"%s\":", key);
    lm_json_write_string(b, lm_str_of(value));
}

void ollama_write_time(lm_buf *b, const char *key, int64_t wall_ns) {
    char time[40];
    lm_time_rfc3339(wall_ns, time);
    ollama_write_text(b, key, time);
}

void ollama_write_details(lm_buf *b, const lm_facts *f, bool numbers) {
    lm_buf_printf(b, "\"details\":{\"parent_model\":\"\",\"format\":\"%s\",",
                  f->gguf ? "gguf" : "safetensors");
    ollama_write_text(b, "family", f->family);
    lm_buf_text(b, ",\"families\":[");
    lm_json_write_string(b, lm_str_of(f->family));
    lm_buf_text(b, "],");
    ollama_write_text(b, "parameter_size", f->parameter_size);
    lm_buf_char(b, ',');
    ollama_write_text(b, "quantization_level", f->quantization);
    if (numbers && f->n_ctx) lm_buf_printf(b, ",\"context_length\":%u", f->n_ctx);
    if (numbers && f->width) lm_buf_printf(b, ",\"embedding_length\":%u", f->width);
    lm_buf_char(b, '}');
}

void ollama_write_capabilities(lm_buf *b, const lm_facts *f) {
    lm_buf_text(b, "\"capabilities\":[");
    if (f->embeds) {
        lm_buf_text(b, "\"embedding\"]");
        return;
    }
    lm_buf_text(b, "\"completion\"");
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
        ollama_write_text(&b, "name", list[i].name);
        lm_buf_char(&b, ',');
        ollama_write_text(&b, "model", list[i].name);
        lm_buf_char(&b, ',');
        ollama_write_time(&b, "modified_at", list[i].modified_ns);
        lm_buf_printf(&b, ",\"size\":%llu,", (unsigned long long)list[i].size);
        ollama_write_text(&b, "digest", list[i].digest);
        lm_buf_char(&b, ',');
        ollama_write_details(&b, &f, true);
        lm_buf_char(&b, ',');
        ollama_write_capabilities(&b, &f);
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
        ollama_write_text(&b, "name", list[i].name);
        lm_buf_char(&b, ',');
        ollama_write_text(&b, "model", list[i].name);
        lm_buf_printf(&b, ",\"size\":%llu,", (unsigned long long)list[i].size);
        ollama_write_text(&b, "digest", list[i].digest);
        lm_buf_char(&b, ',');
        ollama_write_details(&b, &f, false);
        lm_buf_char(&b, ',');
        ollama_write_time(&b, "expires_at", list[i].expires_wall_ns);
        lm_buf_printf(&b, ",\"size_vram\":%llu,\"context_length\":%u}",
                      (unsigned long long)list[i].size_device, list[i].n_ctx);
    }
    lm_buf_text(&b, "]}");
    lm_reply_json(call, 200, &b);
    lm_buf_release(&b);
    free(list);
}

/* ---- requests that name a model */

/* "model", or "name" as older clients and the JavaScript one say. */
lm_status ollama_named_read(lm_call *call, const char *type, ollama_named *out, lm_err *err) {
    lm_status st = lm_http_body_status(call->x, err);
    json_t *body = NULL;
    if (st == LM_OK) st = lm_fields_parse(lm_http_body(call->x), type, &body, err);
    if (st != LM_OK) return st;
    lm_fields f = lm_fields_of(body, type);
    const char *model = "", *name = "";
    lm_field_str(&f, "model", &model, NULL);
    lm_field_str(&f, "name", &name, NULL);
    if (f.st != LM_OK) {
        json_decref(body);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = (ollama_named){body, lm_strdup(model[0] ? model : name)};
    lm_call_note_model(call, out->model);
    return LM_OK;
}

void ollama_named_release(ollama_named *n) {
    json_decref(n->body);
    free(n->model);
}

/* ---- the small ones */

static void ollama_root(lm_call *call) {
    lm_http_reply(call->x, 200, TYPE_UTF8, LM_STR("Ollama is running"));
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

/* The other ranks, where there are some. */
static void write_cluster(lm_buf *b, const lm_engine_stats *s) {
    static const char *const modes[] = {"auto", "tensor", "pipeline"};
    if (!s->world_size) return;
    lm_buf_printf(b, ",\"cluster\":{\"size\":%u,\"mode\":\"%s\",\"ring\":\"%s\",\"lost\":[", s->world_size,
                  modes[s->split], s->lost ? "lost" : "ok");
    if (s->lost) lm_buf_printf(b, "%u", s->lost_rank);
    lm_buf_char(b, ']');
    if (s->lost) {
        lm_buf_text(b, ",\"error\":");
        lm_json_write_string(b, lm_str_of(s->lost_text));
    }
    lm_buf_char(b, '}');
}

static void health(lm_call *call) {
    lm_engine_stats s = {0};
    lm_engine_get_stats(call->api->config.engine, &s);
    lm_buf b;
    lm_buf_init(&b, 16384);
    lm_buf_printf(
        &b,
        "{\"status\":\"%s\",\"version\":\"%s\",\"models\":%u,\"running\":%u,\"waiting\":%u,\"requests\":%llu,"
        "\"failed\":%llu,\"cancelled\":%llu,\"prompt_tokens\":%llu,\"eval_tokens\":%llu,\"backend\":\"%s\","
        "\"device\":",
        s.lost ? "lost" : "ok", call->api->config.version, s.n_models, s.n_running, s.n_waiting,
        (unsigned long long)s.n_requests, (unsigned long long)s.n_failed, (unsigned long long)s.n_cancelled,
        (unsigned long long)s.n_prompt_tokens, (unsigned long long)s.n_eval_tokens, s.backend);
    lm_json_write_string(&b, lm_str_of(s.device.device));
    const char *devices = call->api->config.devices;
    lm_buf_printf(&b, ",\"gpu\":%s,\"memory_budget\":%llu,\"kv_cache_type\":\"%s\",\"devices\":%s",
                  s.device.gpu ? "true" : "false", (unsigned long long)s.memory_budget,
                  lm_kv_type_name(s.kv_type), devices ? devices : "[]");
    write_cluster(&b, &s);
    lm_buf_char(&b, '}');
    lm_reply_json(call, s.lost ? 503 : 200, &b);
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
    {"POST", "/api/copy", ollama_copy},
    {"POST", "/api/create", ollama_create},
    {"HEAD", "/api/blobs/*", ollama_blob_look},
    {"POST", "/api/blobs/*", ollama_blob_upload},
    {"POST", "/api/pull", ollama_pull},
    {"POST", "/api/push", ollama_push},
    {"POST", "/api/me", ollama_me},
    {"POST", "/api/signout", ollama_signout},
    {"DELETE", "/api/user/keys/*", ollama_signout},
    {"POST", "/api/generate", ollama_generate},
    {"POST", "/api/chat", ollama_chat},
    {"POST", "/api/embed", ollama_embed},
    {"POST", "/api/embeddings", ollama_embeddings},
    {NULL, NULL, NULL},
};

const lm_route lm_health_routes[] = {
    {"GET", "/health", health},
    {"HEAD", "/health", health},
    {"GET", "/openapi.yaml", lm_openapi},
    {NULL, NULL, NULL},
};
