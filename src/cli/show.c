/* show.c - what a model is, as ollama shows it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/say.h"
#include "cli/text.h"

#define MAX_SHOW (32u << 20)
#define COLUMN   100 /* of long texts */

/* Rows in two columns under a title; nothing when there are none. */
static void section(const char *title, table *t, lm_buf *out) {
    if (t->n) {
        lm_buf_printf(out, "  %s\n", title);
        table_print(t, "    ", out);
        lm_buf_char(out, '\n');
    }
    table_release(t);
}

static void row(table *t, const char *key, const char *value) {
    if (!value[0]) return;
    table_cell(t, "%s", key);
    table_cell(t, "%s", value);
}

/* A number of model_info["ARCH.key"]. */
static void info_row(table *t, const char *label, const json_t *info, const char *arch, const char *key) {
    char name[300], value[32];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    const json_t *v = json_object_get(info, name);
    if (!json_is_number(v)) return;
    snprintf(value, sizeof value, "%.15g", json_number_value(v));
    row(t, label, value);
}

static void add_model(const json_t *answer, lm_buf *out) {
    const json_t *details = json_object_get(answer, "details"), *info = json_object_get(answer, "model_info");
    const char *arch = json_text(info, "general.architecture"), *size = json_text(details, "parameter_size");
    char counted[16] = "";
    const json_t *n = json_object_get(info, "general.parameter_count");
    if (json_is_number(n) && json_number_value(n) >= 0 && json_number_value(n) < 1e18)
        text_count((uint64_t)json_number_value(n), counted);
    table t;
    table_open(&t, 2);
    row(&t, "Remote model", json_text(answer, "remote_model"));
    row(&t, "Remote URL", json_text(answer, "remote_host"));
    row(&t, "architecture", arch[0] ? arch : json_text(details, "family"));
    row(&t, "parameters", size[0] ? size : counted);
    info_row(&t, "context length", info, arch, "context_length");
    info_row(&t, "embedding length", info, arch, "embedding_length");
    row(&t, "quantization", json_text(details, "quantization_level"));
    row(&t, "requires", json_text(answer, "requires"));
    section("Model", &t, out);
}

static void add_list(const char *title, const json_t *words, lm_buf *out) {
    table t;
    table_open(&t, 1);
    size_t i;
    json_t *w;
    json_array_foreach(words, i, w) if (json_is_string(w)) table_cell(&t, "%s", json_string_value(w));
    section(title, &t, out);
}

/* "name   value" lines. */
static void add_parameters(const char *text, lm_buf *out) {
    table t;
    table_open(&t, 2);
    for (lm_str rest = lm_str_of(text); rest.len;) {
        const char *end = memchr(rest.ptr, '\n', rest.len);
        lm_str line = lm_str_trim((lm_str){rest.ptr, end ? (size_t)(end - rest.ptr) : rest.len});
        size_t used = end ? (size_t)(end - rest.ptr) + 1 : rest.len;
        rest.ptr += used;
        rest.len -= used;
        size_t key = 0;
        while (key < line.len && line.ptr[key] != ' ' && line.ptr[key] != '\t') key++;
        if (!key) continue;
        lm_str value = lm_str_trim((lm_str){line.ptr + key, line.len - key});
        table_cell(&t, LM_STR_FMT, (int)key, line.ptr);
        table_cell(&t, LM_STR_FMT, LM_STR_ARG(value));
    }
    section("Parameters", &t, out);
}

/* The first two lines that are not empty. */
static void add_head(const char *title, const char *text, lm_buf *out) {
    table t;
    table_open(&t, 1);
    uint32_t n = 0;
    for (const char *p = text; *p && n < 3;) {
        size_t len = strcspn(p, "\n");
        lm_str line = lm_str_trim((lm_str){p, len});
        p += len + (p[len] == '\n');
        if (!line.len) continue;
        if (++n > 2)
            table_cell(&t, "...");
        else
            table_cell(&t, "%.*s%s", (int)(line.len < COLUMN ? line.len : COLUMN), line.ptr,
                       line.len > COLUMN ? "..." : "");
    }
    section(title, &t, out);
}

/* A value of the metadata on one line; the first items of a list. */
static void add_value(table *t, const json_t *v) {
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    size_t n = json_array_size(v), shown = n < 3 ? n : 3;
    if (json_is_string(v)) {
        lm_buf_text(&b, json_string_value(v));
    } else if (json_is_array(v)) {
        lm_buf_char(&b, '[');
        for (size_t i = 0; i < shown; i++) {
            if (i) lm_buf_text(&b, ", ");
            lm_json_write_value(&b, json_array_get(v, i));
        }
        if (n > shown) lm_buf_printf(&b, ", ...+%zu more", n - shown);
        lm_buf_char(&b, ']');
    } else {
        lm_json_write_value(&b, v);
    }
    table_cell(t, "%.200s", b.ptr ? b.ptr : "");
    lm_buf_release(&b);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_metadata(const json_t *info, lm_buf *out) {
    table t;
    table_open(&t, 2);
    size_t n = json_object_size(info), i = 0;
    const char **keys = lm_alloc((n + 1) * sizeof *keys), *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)info, key, v) keys[i++] = key;
    qsort(keys, n, sizeof *keys, by_name);
    for (i = 0; i < n; i++) {
        table_cell(&t, "%s", keys[i]);
        add_value(&t, json_object_get(info, keys[i]));
    }
    free(keys);
    section("Metadata", &t, out);
}

static void add_tensors(const json_t *tensors, lm_buf *out) {
    table t;
    table_open(&t, 3);
    size_t i;
    json_t *v;
    json_array_foreach(tensors, i, v) {
        table_cell(&t, "%s", json_text(v, "name"));
        table_cell(&t, "%s", json_text(v, "type"));
        lm_buf shape;
        lm_buf_init(&shape, 4096);
        if (json_object_get(v, "shape")) lm_json_write_value(&shape, json_object_get(v, "shape"));
        table_cell(&t, "%s", shape.ptr ? shape.ptr : "");
        lm_buf_release(&shape);
    }
    section("Tensors", &t, out);
}

void show_model(const json_t *answer, bool verbose, lm_buf *out) {
    add_model(answer, out);
    add_list("Capabilities", json_object_get(answer, "capabilities"), out);
    add_parameters(json_text(answer, "parameters"), out);
    if (verbose) add_metadata(json_object_get(answer, "model_info"), out);
    if (verbose) add_tensors(json_object_get(answer, "tensors"), out);
    add_head("System", json_text(answer, "system"), out);
    add_head("License", json_text(answer, "license"), out);
}

int command_show(const cli_args *a) {
    static const char *const parts[] = {"license", "modelfile", "parameters", "system", "template"};
    const char *part = NULL;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!cli_flag(a, parts[i])) continue;
        if (part) return say_failed(a, CLI_USAGE, "--%s and --%s: choose one", part, parts[i]);
        part = parts[i];
    }
    wire w;
    int code = wire_reach(a, &w);
    if (code == CLI_OK) {
        lm_err err = {0};
        json_t *answer = NULL, *body = json_pack("{s:s}", "model", a->operand[0]);
        if (cli_flag(a, "verbose")) json_object_set_new(body, "verbose", json_true());
        lm_status st = wire_json(&w, "POST", "/api/show", body, &answer, &err);
        json_decref(body);
        if (st != LM_OK) {
            code = say_refused(a, &w, st, &err, a->operand[0]);
        } else if (say_as_json(a)) {
            say_json(json_incref(answer));
        } else if (part) {
            const char *text = json_text(answer, part);
            say("%s%s", text, text[0] && text[strlen(text) - 1] == '\n' ? "" : "\n");
        } else {
            lm_buf out;
            lm_buf_init(&out, MAX_SHOW);
            show_model(answer, cli_flag(a, "verbose"), &out);
            say_buf(&out);
        }
        json_decref(answer);
    }
    wire_close(&w);
    return code;
}
