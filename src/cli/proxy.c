/* proxy.c - the router from the keyboard: serve, status, explain, bench. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/say.h"
#include "cli/term.h"
#include "cli/text.h"
#include "router/router.h"

#define MAX_TEXT (32u << 20)

/* The configuration of --config, or the user's. Returns an exit status and has said what is wrong. */
static int read_config(const cli_args *a, lm_router_config *c) {
    lm_err err = {0};
    if (lm_router_config_read(cli_value(a, "config"), c, &err) == LM_OK) return CLI_OK;
    lm_router_config_release(c);
    return say_failed(a, CLI_USAGE, "%s", err.text);
}

/* What the router's library does cannot be told to stop, and shows nothing: a word while it looks around. */
static void begin_look(void) {
    term_obey_signals();
    if (term_is(stderr)) fputs("asking the backends ...", stderr);
}

static void end_look(void) {
    if (term_is(stderr)) fputs("\r\033[K", stderr);
}

/* ---- serve */

static int say_config(const cli_args *a, const lm_router_config *c) {
    if (say_as_json(a)) return say_json(lm_router_config_json(c));
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    lm_router_config_text(c, &b);
    say_buf(&b);
    return CLI_OK;
}

int command_serve(const cli_args *a) {
    lm_router_config c;
    int code = read_config(a, &c);
    if (code != CLI_OK) return code;
    const char *host = cli_value(a, "host"), *port = cli_value(a, "port");
    uint64_t n = c.port;
    if (host && (!host[0] || strlen(host) >= sizeof c.host || strchr(host, '/')))
        code =
            say_failed(a, CLI_USAGE, "--host %s: it is an address to listen on, 127.0.0.1 for example", host);
    else if (port && !lm_str_number(lm_str_of(port), 0, 65535, &n))
        code = say_failed(a, CLI_USAGE, "--port %s: it must be a number from 0 to 65535", port);
    if (code == CLI_OK) {
        if (host) snprintf(c.host, sizeof c.host, "%s", host);
        c.port = (uint16_t)n;
        code = cli_flag(a, "check") ? say_config(a, &c)
                                    : lm_router_serve(&c, cli_value(a, "config"), cli_flag(a, "verbose"));
    }
    lm_router_config_release(&c);
    return code;
}

/* ---- status */

static const char *state_style(const char *state) {
    if (!strcmp(state, "healthy")) return term_style(stdout, GREEN);
    if (!strcmp(state, "down")) return term_style(stdout, RED);
    return "";
}

static void add_backend(table *t, const json_t *b) {
    const char *state = json_text(b, "state");
    const json_t *models = json_object_get(b, "models"), *latency = json_object_get(b, "latency_ms");
    size_t i, loaded = 0;
    json_t *m;
    json_array_foreach(models, i, m) loaded += json_is_true(json_object_get(m, "loaded"));
    table_cell(t, "%s", json_text(b, "name"));
    table_cell(t, "%s", json_text(b, "kind"));
    table_cell(t, "%s", state);
    table_style(t, state_style(state));
    table_cell(t, "%s", json_text(b, "version")[0] ? json_text(b, "version") : "-");
    if (json_is_number(latency))
        table_cell(t, "%.1f ms", json_number_value(latency));
    else
        table_cell(t, "-");
    table_cell(t, "%zu (%zu loaded)", json_array_size(models), loaded);
    table_cell(t, "%s", json_text(b, "url"));
}

static void add_backends(const json_t *backends, lm_buf *out) {
    static const char *const names[] = {"BACKEND", "KIND", "STATE", "VERSION", "LATENCY", "MODELS", "URL"};
    table t;
    table_open(&t, sizeof names / sizeof *names);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) table_cell(&t, "%s", names[i]);
    size_t i;
    json_t *b;
    json_array_foreach(backends, i, b) add_backend(&t, b);
    table_print(&t, "", out);
    table_release(&t);
    json_array_foreach(backends, i, b) {
        char line[600], clean[600];
        if (!json_text(b, "error")[0]) continue;
        snprintf(line, sizeof line, "%s: %s", json_text(b, "name"), json_text(b, "error"));
        text_clean_line(line, clean, sizeof clean);
        lm_buf_printf(out, "%s\n", clean);
    }
}

/* One row for each model that a backend has, in the backends' order. */
static void add_models(const json_t *backends, lm_buf *out) {
    table t;
    table_open(&t, 4);
    table_cell(&t, "MODEL");
    table_cell(&t, "BACKEND");
    table_cell(&t, "SIZE");
    table_cell(&t, "LOADED");
    size_t i, k;
    json_t *b, *m;
    json_array_foreach(backends, i, b) json_array_foreach(json_object_get(b, "models"), k, m) {
        char size[16];
        text_bytes(json_integer_value(json_object_get(m, "size")), size);
        const char *breaker = json_text(m, "breaker");
        table_cell(&t, "%s", json_text(m, "name"));
        table_cell(&t, "%s", json_text(b, "name"));
        table_cell(&t, "%s", size);
        table_cell(&t, "%s%s%s", json_is_true(json_object_get(m, "loaded")) ? "yes" : "no",
                   breaker[0] ? ", has failed: " : "", breaker[0] ? "not asked for a while" : "");
    }
    if (t.n > 4) {
        lm_buf_char(out, '\n');
        table_print(&t, "", out);
    }
    table_release(&t);
}

static void add_orders(const json_t *status, lm_buf *out) {
    table t;
    const char *model;
    json_t *v;
    table_open(&t, 2);
    table_cell(&t, "order");
    table_cell(&t, "%s", json_text(status, "order"));
    json_object_foreach(json_object_get(status, "orders"), model, v) {
        table_cell(&t, "  %s", model);
        table_cell(&t, "%s", json_string_value(v) ? json_string_value(v) : "");
    }
    json_object_foreach(json_object_get(status, "measured"), model, v) {
        table_cell(&t, "  %s", model);
        table_cell(&t, "%s (measured)", json_string_value(v) ? json_string_value(v) : "");
    }
    table_print(&t, "", out);
    table_release(&t);
}

static bool any_is_up(const json_t *backends) {
    size_t i;
    json_t *b;
    json_array_foreach(backends, i, b) if (strcmp(json_text(b, "state"), "down")) return true;
    return false;
}

static void say_status(const json_t *status) {
    lm_buf out;
    lm_buf_init(&out, MAX_TEXT);
    const json_t *router = json_object_get(status, "router"), *backends = json_object_get(status, "backends");
    char url[300], version[100];
    text_clean_line(json_text(router, "url"), url, sizeof url);
    text_clean_line(json_text(router, "version"), version, sizeof version);
    if (json_is_true(json_object_get(router, "running")))
        lm_buf_printf(&out, "router   running at %s%s%s\n", url, version[0] ? ", version " : "", version);
    else
        lm_buf_printf(&out, "router   not running at %s: " CLI_PROGRAM " serve\n", url);
    add_orders(status, &out);
    lm_buf_char(&out, '\n');
    add_backends(backends, &out);
    add_models(backends, &out);
    say_buf(&out);
}

int command_status(const cli_args *a) {
    lm_router_config c;
    json_t *status = NULL;
    lm_err err = {0};
    int code = read_config(a, &c);
    if (code != CLI_OK) return code;
    begin_look();
    lm_status st = lm_router_status(&c, &status, &err);
    end_look();
    lm_router_config_release(&c);
    if (st != LM_OK) return say_failed(a, CLI_FAILED, "%s", err.text);
    bool up = any_is_up(json_object_get(status, "backends"));
    if (say_as_json(a))
        say_json(json_incref(status));
    else
        say_status(status);
    json_decref(status);
    if (!up && !say_as_json(a))
        return say_failed(a, CLI_NO_SERVER,
                          "no backend is up. Start one: " CLI_PROGRAM " start-mlx, or ollama serve");
    return up ? CLI_OK : CLI_NO_SERVER;
}

/* ---- explain */

/* A request that needs what the options say; NULL: an option is wrong, and it has been said. */
static json_t *explain_body(const cli_args *a) {
    const char *format = cli_value(a, "format"), *num_ctx = cli_value(a, "num-ctx");
    uint64_t n = 0;
    if (num_ctx && !lm_str_number(lm_str_of(num_ctx), 1, 999999999, &n)) {
        say_failed(a, CLI_USAGE, "--num-ctx %s: it must be a number of tokens", num_ctx);
        return NULL;
    }
    if (format && strcmp(format, "json")) {
        say_failed(a, CLI_USAGE, "--format %s: it is json (a schema needs the same)", format);
        return NULL;
    }
    if (cli_flag(a, "embed") && (format || cli_flag(a, "tools") || cli_flag(a, "image"))) {
        say_failed(a, CLI_USAGE, "--embed asks for vectors: they have no tools, pictures or formats");
        return NULL;
    }
    json_t *body = cli_flag(a, "embed") ? json_pack("{s:s}", "input", "hi") : json_object();
    if (format) json_object_set_new(body, "format", json_string("json"));
    if (num_ctx) json_object_set_new(body, "options", json_pack("{s:i}", "num_ctx", (int)n));
    if (cli_flag(a, "tools"))
        json_object_set_new(body, "tools",
                            json_pack("[{s:s, s:{s:s}}]", "type", "function", "function", "name", "f"));
    if (cli_flag(a, "image"))
        json_object_set_new(
            body, "messages",
            json_pack("[{s:s, s:s, s:[s]}]", "role", "user", "content", "hi", "images", "iVBORw0KGgo="));
    return body;
}

static void say_explanation(const json_t *o) {
    lm_buf out;
    lm_buf_init(&out, MAX_TEXT);
    table t;
    size_t i;
    json_t *c;
    table_open(&t, 4);
    table_cell(&t, "BACKEND");
    table_cell(&t, "MODEL");
    table_cell(&t, "SCORE");
    table_cell(&t, "WHY");
    json_array_foreach(json_object_get(o, "candidates"), i, c) {
        bool ok = json_is_true(json_object_get(c, "ok"));
        table_cell(&t, "%s", json_text(c, "backend"));
        table_cell(&t, "%s", json_text(c, "model")[0] ? json_text(c, "model") : "-");
        if (ok)
            table_cell(&t, "%.2f", json_number_value(json_object_get(c, "score")));
        else
            table_cell(&t, "no");
        table_style(&t, term_style(stdout, ok ? GREEN : RED));
        table_cell(&t, "%s", json_text(c, "reason")[0] ? json_text(c, "reason") : "it can");
    }
    table_print(&t, "", &out);
    table_release(&t);
    say_buf(&out);
    if (json_text(o, "chosen")[0])
        say("\n%s is asked first.\n", json_text(o, "chosen"));
    else
        say("\nNobody can serve it.\n");
}

int command_explain(const cli_args *a) {
    lm_router_config c;
    json_t *body = explain_body(a), *o = NULL;
    lm_err err = {0};
    if (!body) return CLI_USAGE;
    int code = read_config(a, &c);
    if (code == CLI_OK) {
        begin_look();
        lm_status st = lm_router_explain(&c, a->operand[0], body, &o, &err);
        end_look();
        lm_router_config_release(&c);
        if (st != LM_OK) code = say_failed(a, st == LM_INVALID ? CLI_USAGE : CLI_FAILED, "%s", err.text);
    }
    json_decref(body);
    if (code != CLI_OK) return code;
    code = json_text(o, "chosen")[0] ? CLI_OK : CLI_NO_MODEL;
    if (say_as_json(a))
        say_json(json_incref(o));
    else
        say_explanation(o);
    json_decref(o);
    return code;
}

/* ---- bench */

static void on_step(void *ctx, const char *line) {
    (void)ctx;
    char clean[1000];
    text_clean_line(line, clean, sizeof clean);
    fprintf(stderr, "%s\n", clean);
}

static void add_figure(table *t, const json_t *b, const char *key, const char *unit) {
    const json_t *v = json_object_get(b, key);
    if (json_is_number(v))
        table_cell(t, "%.4g%s", json_number_value(v), unit);
    else
        table_cell(t, "-");
}

static void say_figures(const json_t *o) {
    lm_buf out;
    lm_buf_init(&out, MAX_TEXT);
    size_t i, k;
    json_t *m, *b;
    table t;
    table_open(&t, 6);
    static const char *const names[] = {"MODEL", "BACKEND", "LOADING", "FIRST TOKEN", "TOKENS/S", "BEST"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) table_cell(&t, "%s", names[n]);
    json_array_foreach(json_object_get(o, "models"), i, m)
        json_array_foreach(json_object_get(m, "backends"), k, b) {
        bool best = !strcmp(json_text(m, "best"), json_text(b, "backend"));
        table_cell(&t, "%s", json_text(m, "model"));
        table_cell(&t, "%s", json_text(b, "backend"));
        add_figure(&t, b, "load_ms", " ms");
        add_figure(&t, b, "first_ms", " ms");
        add_figure(&t, b, "tokens_per_second", "");
        table_cell(&t, "%s", json_text(b, "error")[0] ? json_text(b, "error") : best ? "yes" : "");
    }
    table_print(&t, "", &out);
    table_release(&t);
    say_buf(&out);
    json_array_foreach(json_object_get(o, "models"), i, m) say(
        "%s: %s%s%s\n", json_text(m, "model"), json_text(m, "best")[0] ? json_text(m, "best") : "no choice",
        json_text(m, "why")[0] ? ": " : "", json_text(m, "why"));
    json_array_foreach(json_object_get(o, "skipped"), i, m)
        say("%s is left out: %s\n", json_text(m, "model"), json_text(m, "reason"));
    if (json_is_true(json_object_get(o, "chosen")))
        say("The choice is kept: " CLI_PROGRAM " status shows it.\n");
}

int command_bench(const cli_args *a) {
    lm_router_config c;
    json_t *o = NULL;
    lm_err err = {0};
    int code = read_config(a, &c);
    if (code != CLI_OK) return code;
    const char **models = a->n_operands ? lm_alloc((a->n_operands + 1) * sizeof *models) : NULL;
    for (uint32_t i = 0; i < a->n_operands; i++) models[i] = a->operand[i];
    term_obey_signals();
    lm_status st = lm_router_bench(&c, models, cli_flag(a, "choose"), on_step, NULL, &o, &err);
    free(models);
    lm_router_config_release(&c);
    if (st != LM_OK) return say_failed(a, st == LM_NOT_FOUND ? CLI_NO_MODEL : CLI_FAILED, "%s", err.text);
    if (say_as_json(a)) return say_json(o);
    say_figures(o);
    json_decref(o);
    return CLI_OK;
}
