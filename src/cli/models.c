/* models.c - the models that a server has: list, ps, rm, cp, stop. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/say.h"
#include "cli/text.h"

#define MAX_TABLE (32u << 20)

/* ---- list, ps */

static int say_table(table *t) {
    lm_buf out;
    lm_buf_init(&out, MAX_TABLE);
    table_print(t, "", &out);
    table_release(t);
    say_buf(&out);
    return CLI_OK;
}

static void headers(table *t, const char *const *names) {
    uint32_t n = 0;
    while (names[n]) n++;
    table_open(t, n);
    for (uint32_t i = 0; i < n; i++) table_cell(t, "%s", names[i]);
}

/* GET path, its "models" whose names begin with the operand. *out is the caller's to json_decref. */
static int models_of(const cli_args *a, wire *w, const char *path, json_t **out) {
    json_t *o = NULL, *kept = json_array();
    lm_err err = {0};
    lm_status st = wire_json(w, "GET", path, NULL, &o, &err);
    if (st != LM_OK) {
        json_decref(kept);
        return say_refused(a, w, st, &err, NULL);
    }
    lm_str prefix = lm_str_of(a->n_operands ? a->operand[0] : "");
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(o, "models"), i, m) {
        lm_str name = lm_str_of(json_text(m, "name"));
        if (json_is_object(m) && name.len >= prefix.len &&
            lm_str_eq_nocase((lm_str){name.ptr, prefix.len}, prefix))
            json_array_append(kept, m);
    }
    json_decref(o);
    *out = kept;
    return CLI_OK;
}

typedef void show_models(const json_t *models);

static int list_of(const cli_args *a, wire *w, const char *path, show_models *show) {
    json_t *models = NULL;
    int code = models_of(a, w, path, &models);
    if (code != CLI_OK) return code;
    if (say_as_json(a)) return say_json(json_pack("{s:o}", "models", models));
    show(models);
    json_decref(models);
    return CLI_OK;
}

static int reach_and_list(const cli_args *a, const char *path, show_models *show) {
    wire w;
    int code = wire_reach(a, &w);
    if (code == CLI_OK) code = list_of(a, &w, path, show);
    wire_close(&w);
    return code;
}

static void show_list(const json_t *models) {
    static const char *const names[] = {"NAME", "ID", "SIZE", "MODIFIED", NULL};
    table t;
    headers(&t, names);
    int64_t now = lm_wall_ns();
    size_t i;
    json_t *m;
    json_array_foreach(models, i, m) {
        char size[16], when[48];
        text_bytes(json_integer_value(json_object_get(m, "size")), size);
        text_when(json_text(m, "modified_at"), now, when);
        table_cell(&t, "%s", json_text(m, "name"));
        table_cell(&t, "%.12s", json_text(m, "digest"));
        table_cell(&t, "%s", json_text(m, "remote_model")[0] ? "-" : size);
        table_cell(&t, "%s", when);
    }
    say_table(&t);
}

int list_models(const cli_args *a, wire *w) {
    return list_of(a, w, "/api/tags", show_list);
}

int command_list(const cli_args *a) {
    return reach_and_list(a, "/api/tags", show_list);
}

static void processor(int64_t size, int64_t vram, char out[32]) {
    if (vram <= 0)
        snprintf(out, 32, "100%% CPU");
    else if (vram == size)
        snprintf(out, 32, "100%% GPU");
    else if (vram > size || size <= 0)
        snprintf(out, 32, "Unknown");
    else {
        int cpu = (int)lround((double)(size - vram) / (double)size * 100);
        snprintf(out, 32, "%d%%/%d%% CPU/GPU", cpu, 100 - cpu);
    }
}

static void show_ps(const json_t *models) {
    static const char *const names[] = {"NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", NULL};
    table t;
    headers(&t, names);
    int64_t now = lm_wall_ns(), until;
    size_t i;
    json_t *m;
    json_array_foreach(models, i, m) {
        char size[16], when[48], where[32];
        int64_t bytes = json_integer_value(json_object_get(m, "size"));
        text_bytes(bytes, size);
        processor(bytes, json_integer_value(json_object_get(m, "size_vram")), where);
        const char *expires = json_text(m, "expires_at");
        text_when(expires, now, when);
        bool over = text_time(expires, &until) && until < now;
        table_cell(&t, "%s", json_text(m, "name"));
        table_cell(&t, "%.12s", json_text(m, "digest"));
        table_cell(&t, "%s", size);
        table_cell(&t, "%s", where);
        table_cell(&t, "%lld", (long long)json_integer_value(json_object_get(m, "context_length")));
        table_cell(&t, "%s", over ? "Stopping..." : when);
    }
    say_table(&t);
}

int command_ps(const cli_args *a) {
    return reach_and_list(a, "/api/ps", show_ps);
}

/* ---- rm, cp, stop */

/* An empty prompt and no time to stay. */
static lm_status unload(wire *w, const char *model, lm_err *err) {
    json_t *body = json_pack("{s:s, s:i, s:b}", "model", model, "keep_alive", 0, "stream", 0);
    lm_status st = wire_json(w, "POST", "/api/generate", body, NULL, err);
    json_decref(body);
    return st;
}

int command_rm(const cli_args *a) {
    wire w;
    int code = wire_reach(a, &w);
    json_t *deleted = json_array();
    for (uint32_t i = 0; i < a->n_operands && code == CLI_OK; i++) {
        lm_err err = {0};
        const char *name = a->operand[i];
        /* Ollama deletes the files of a model that goes on running. A model that is not there is told by the delete. */
        lm_status st = unload(&w, name, &err);
        json_t *body = json_pack("{s:s}", "model", name);
        st = wire_json(&w, "DELETE", "/api/delete", body, NULL, &err);
        json_decref(body);
        if (st != LM_OK)
            code = say_refused(a, &w, st, &err, name);
        else if (say_as_json(a))
            json_array_append_new(deleted, json_string(name));
        else
            say("deleted '%s'\n", name);
    }
    wire_close(&w);
    if (code == CLI_OK && say_as_json(a)) return say_json(json_pack("{s:o}", "deleted", deleted));
    json_decref(deleted);
    return code;
}

int command_cp(const cli_args *a) {
    wire w;
    int code = wire_reach(a, &w);
    if (code == CLI_OK) {
        lm_err err = {0};
        json_t *body = json_pack("{s:s, s:s}", "source", a->operand[0], "destination", a->operand[1]);
        lm_status st = wire_json(&w, "POST", "/api/copy", body, NULL, &err);
        if (st != LM_OK)
            code = say_refused(a, &w, st, &err, a->operand[0]);
        else if (say_as_json(a))
            say_json(json_incref(body));
        else
            say("copied '%s' to '%s'\n", a->operand[0], a->operand[1]);
        json_decref(body);
    }
    wire_close(&w);
    return code;
}

int command_stop(const cli_args *a) {
    wire w;
    int code = wire_reach(a, &w);
    if (code == CLI_OK) {
        lm_err err = {0};
        lm_status st = unload(&w, a->operand[0], &err);
        if (st != LM_OK)
            code = say_refused(a, &w, st, &err, a->operand[0]);
        else if (say_as_json(a))
            say_json(json_pack("{s:s}", "stopped", a->operand[0]));
    }
    wire_close(&w);
    return code;
}
