/* conform.c - the cases of conformance.json, asked one after the other of one server. */
#include "doctor/conform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "doctor/frames.h"
#include "doctor/shape.h"

#define MAX_HEADERS 8

extern const unsigned char lm_doctor_cases[];
extern const size_t lm_doctor_cases_size;

typedef struct conform {
    doctor d;
    json_t *values;
    json_t *passed; /* the IDs of the cases that were, as keys */
    bool here;      /* the server is on this machine */
    /* of the case that is asked now */
    const char *id, *title;
    uint32_t n_differences;
} conform;

/* ---- the cases */

json_t *conform_cases(void) {
    json_t *cases = NULL;
    lm_err err = {0};
    lm_status st = lm_json_parse((lm_str){(const char *)lm_doctor_cases, lm_doctor_cases_size}, &cases, &err);
    LM_ASSERT(st == LM_OK && json_is_array(cases)); /* ours, and a test reads each */
    return cases;
}

static bool is_known_key(const char *key) {
    static const char *const known[] = {"id",    "needs",  "method", "path", "headers", "body",
                                        "raw",   "status", "type",   "head", "text",    "json",
                                        "lines", "events", "keep",   "after"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(key, known[i])) return true;
    return false;
}

bool conform_case_is_valid(const json_t *c, char out[200]) {
    static const char *const parts[] = {"each", "last", "before", "end", "order", "named", "numbered"};
    const char *key, *needs = json_string_value(json_object_get(c, "needs"));
    const json_t *one, *pieces = json_object_get(c, "lines");
    size_t known = 0;
    if (!pieces) pieces = json_object_get(c, "events");
    json_object_foreach(WIRE_MUTABLE(c), key, one) {
        snprintf(out, 200, "the key %s", key);
        if (!is_known_key(key)) return false;
    }
    snprintf(out, 200, "id, path, or what it needs");
    if (!json_is_string(json_object_get(c, "id")) || !json_is_string(json_object_get(c, "path")))
        return false;
    if (json_object_get(c, "needs") && (!needs || (strcmp(needs, "write") && strcmp(needs, "here"))))
        return false;
    snprintf(out, 200, "a part of lines or events");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        known += json_object_get(pieces, parts[i]) != NULL;
    if (pieces && (known != json_object_size(pieces) || !json_object_get(pieces, "last"))) return false;
    return shape_is_valid(json_object_get(c, "json"), out) &&
           shape_is_valid(json_object_get(pieces, "each"), out) &&
           shape_is_valid(json_object_get(pieces, "last"), out) &&
           shape_is_valid(json_object_get(pieces, "before"), out) &&
           shape_is_valid(json_object_get(pieces, "order"), out) &&
           shape_is_valid(json_object_get(pieces, "named"), out);
}

/* ---- differences */

static void differs(void *ctx, const char *where, const char *expected, const char *got) {
    conform *f = ctx;
    doctor_result r = {0};
    doctor_differs(&r, where, expected, got);
    report_add(&f->d.report, f->id, f->title, &r);
    report_begin(&f->d.report, f->title);
    f->n_differences++;
}

static void compare_texts(conform *f, const char *where, lm_str expected, lm_str got) {
    if (lm_str_eq(expected, got)) return;
    char want[220], is[220];
    snprintf(want, sizeof want, expected.len ? "\"%.*s\"" : "nothing",
             (int)(expected.len < 200 ? expected.len : 200), expected.ptr ? expected.ptr : "");
    snprintf(is, sizeof is, got.len ? "\"%.*s\"" : "nothing", (int)(got.len < 200 ? got.len : 200),
             got.ptr ? got.ptr : "");
    differs(f, where, want, is);
}

static void compare_shape(conform *f, const json_t *shape, const json_t *value, const char *where) {
    (void)shape_compare(shape, value, where, differs, f);
}

/* ---- one answer */

static void compare_head(conform *f, const json_t *c, const lm_answer *a) {
    const char *key, *type = json_string_value(json_object_get(c, "type"));
    const json_t *one;
    if (type && strchr(type, ';'))
        compare_texts(f, "Content-Type", lm_str_of(type), lm_answer_header(a, "Content-Type"));
    else if (type)
        compare_texts(f, "Content-Type", lm_str_of(type), lm_str_of(a->content_type));
    json_object_foreach(json_object_get(c, "head"), key, one)
        compare_texts(f, key, lm_str_of(json_string_value(one)), lm_answer_header(a, key));
}

static void compare_json(conform *f, const json_t *shape, const lm_answer *a) {
    json_t *value = NULL;
    lm_err err = {0};
    lm_str body = lm_buf_view(&a->body);
    if (lm_json_parse(body, &value, &err) != LM_OK) {
        char got[220];
        snprintf(got, sizeof got, "%.*s", (int)(body.len < 200 ? body.len : 200),
                 body.len ? body.ptr : "nothing");
        differs(f, "body", "JSON", got);
        return;
    }
    if (strcmp(a->content_type, "application/json"))
        compare_texts(f, "Content-Type", LM_STR("application/json"), lm_str_of(a->content_type));
    compare_shape(f, shape, value, "body");
    json_decref(value);
}

/* The first but n of many values against one shape, until one differs. */
static void compare_each(conform *f, const json_t *shape, const json_t *values, size_t n, const char *name) {
    uint32_t before = f->n_differences;
    for (size_t i = 0; shape && i < n && f->n_differences == before; i++) {
        char where[64];
        snprintf(where, sizeof where, "%s %zu", name, i + 1);
        compare_shape(f, shape, json_array_get(values, i), where);
    }
}

static void compare_lines(conform *f, const json_t *want, const lm_answer *a) {
    char wrong[200];
    json_t *values = frames_of_lines(lm_buf_view(&a->body), wrong);
    size_t n = json_array_size(values);
    if (wrong[0]) differs(f, "framing", "one JSON value a line, each with its end", wrong);
    if (strcmp(a->content_type, "application/x-ndjson"))
        compare_texts(f, "Content-Type", LM_STR("application/x-ndjson"), lm_str_of(a->content_type));
    compare_each(f, json_object_get(want, "each"), values, n ? n - 1 : 0, "line");
    const json_t *before = json_object_get(want, "before");
    if (before)
        compare_shape(f, before, n > 1 ? json_array_get(values, n - 2) : NULL, "the line before the last");
    compare_shape(f, json_object_get(want, "last"), json_array_get(values, n ? n - 1 : 0), "last line");
    json_decref(values);
}

static bool is_ping(const json_t *event) {
    const char *name = json_string_value(json_object_get(event, "event"));
    return name && !strcmp(name, "ping");
}

/* Their names, repetitions left out. */
static void compare_order(conform *f, const json_t *order, const json_t *events) {
    json_t *names = json_array();
    const json_t *one, *before = NULL;
    size_t i;
    json_array_foreach(events, i, one) {
        json_t *name = json_object_get(one, "event");
        if (!name || (before && json_equal(name, before))) continue;
        json_array_append(names, name);
        before = name;
    }
    compare_shape(f, order, names, "events");
    json_decref(names);
}

/* Those that have a shape by their name, until one differs. */
static void compare_named(conform *f, const json_t *named, const json_t *events) {
    const json_t *one;
    size_t i;
    uint32_t before = f->n_differences;
    json_array_foreach(events, i, one) {
        const char *name = json_string_value(json_object_get(one, "event"));
        const json_t *shape = name ? json_object_get(named, name) : NULL;
        char where[160];
        snprintf(where, sizeof where, "event %zu, %.100s", i + 1, name ? name : "");
        if (shape && f->n_differences == before) compare_shape(f, shape, json_object_get(one, "data"), where);
    }
}

static void compare_numbers(conform *f, const char *key, const json_t *data) {
    const json_t *one;
    size_t i;
    json_array_foreach(data, i, one) {
        const json_t *number = json_object_get(one, key);
        char where[160], expected[32], got[32] = "no integer";
        if (json_is_integer(number) && json_integer_value(number) == (json_int_t)i) continue;
        if (json_is_integer(number))
            snprintf(got, sizeof got, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
        snprintf(where, sizeof where, "event %zu.%.100s", i + 1, key);
        snprintf(expected, sizeof expected, "%zu", i);
        differs(f, where, expected, got);
        return; /* those behind it would differ too */
    }
}

static void compare_events(conform *f, const json_t *want, const lm_answer *a) {
    char wrong[200];
    const json_t *end = json_object_get(want, "end"), *order = json_object_get(want, "order"), *one;
    json_t *events = frames_of_events(lm_buf_view(&a->body), wrong), *data = json_array(),
           *kept = json_array();
    size_t i;
    if (wrong[0]) differs(f, "framing", "server-sent events", wrong);
    json_array_foreach(events, i, one) if (!is_ping(one)) {
        json_array_append(kept, WIRE_MUTABLE(one));
        json_array_append(data, json_object_get(one, "data"));
    }
    size_t n = json_array_size(data);
    if (end) {
        compare_shape(f, end, json_array_get(data, n ? n - 1 : 0), "the very last event");
        n -= n > 0;
    }
    if (order) compare_order(f, order, kept);
    compare_named(f, json_object_get(want, "named"), kept);
    if (json_object_get(want, "numbered"))
        compare_numbers(f, json_string_value(json_object_get(want, "numbered")), data);
    compare_each(f, json_object_get(want, "each"), data, n ? n - 1 : 0, "event");
    compare_shape(f, json_object_get(want, "last"), json_array_get(data, n ? n - 1 : 0), "last event");
    json_decref(events);
    json_decref(data);
    json_decref(kept);
}

static void keep(conform *f, const json_t *c, const lm_answer *a) {
    const char *name;
    const json_t *key;
    json_t *value = NULL;
    if (lm_json_parse(lm_buf_view(&a->body), &value, NULL) != LM_OK) return;
    json_object_foreach(json_object_get(c, "keep"), name, key) {
        json_t *one = json_object_get(value, json_string_value(key));
        if (one) json_object_set(f->values, name, one);
    }
    json_decref(value);
}

static void judge(conform *f, const json_t *c, const lm_answer *a) {
    const json_t *status = json_object_get(c, "status"), *text = json_object_get(c, "text");
    int want = status ? (int)json_integer_value(status) : 200;
    if (a->status != want) {
        char expected[32], got[256], said[200];
        lm_answer_error(a, said, sizeof said);
        snprintf(expected, sizeof expected, "%d", want);
        snprintf(got, sizeof got, "%d%s%s", a->status, said[0] ? ", " : "", said);
        differs(f, "status", expected, got);
        return; /* all the rest would differ too */
    }
    compare_head(f, c, a);
    if (text) compare_texts(f, "body", lm_str_of(json_string_value(text)), lm_buf_view(&a->body));
    if (json_object_get(c, "json")) compare_json(f, json_object_get(c, "json"), a);
    if (json_object_get(c, "lines")) compare_lines(f, json_object_get(c, "lines"), a);
    if (json_object_get(c, "events")) compare_events(f, json_object_get(c, "events"), a);
    if (json_object_get(c, "keep")) keep(f, c, a);
}

/* ---- one request */

static bool tick(void *ctx) {
    conform *f = ctx;
    report_tick(&f->d.report);
    return !process_interrupted();
}

static const char *method_of(const json_t *c) {
    const char *method = json_string_value(json_object_get(c, "method"));
    return method ? method : json_object_get(c, "body") || json_object_get(c, "raw") ? "POST" : "GET";
}

static void ask(conform *f, const json_t *c, doctor_result *r) {
    char url[1024], *headers[MAX_HEADERS + 1] = {0}, *text = NULL;
    const json_t *body = json_object_get(c, "body"), *one;
    const char *raw = json_string_value(json_object_get(c, "raw")), *key;
    size_t n = 0;
    snprintf(url, sizeof url, "%s%s", f->d.url, json_string_value(json_object_get(c, "path")));
    json_object_foreach(json_object_get(c, "headers"), key, one) if (n < MAX_HEADERS) {
        char line[512];
        snprintf(line, sizeof line, "%s: %s", key, json_string_value(one));
        headers[n++] = lm_strdup(line);
    }
    text = body ? json_dumps(body, JSON_COMPACT) : raw ? lm_strdup(raw) : NULL;
    lm_ask q = {.method = method_of(c),
                .url = url,
                .headers = (const char *const *)headers,
                .body = lm_str_of(text),
                .silent_ms = f->d.wire.timeout_s * 1000,
                .on_wait = tick,
                .ctx = f};
    if (text && !q.body.ptr) q.body.ptr = text;
    lm_answer a;
    lm_err err = {0};
    lm_status st = lm_client_ask(f->d.wire.client, &q, &a, &err);
    if (st == LM_OK)
        judge(f, c, &a);
    else if (!process_interrupted())
        differs(f, "answer", "one", err.text);
    if (st == LM_OK && !f->n_differences) doctor_passed(r, "%s", "");
    lm_answer_release(&a);
    for (size_t i = 0; i < n; i++) free(headers[i]);
    free(text);
}

/* Why a case cannot be asked; NULL: it can. */
static const char *obstacle(const conform *f, const json_t *c) {
    const char *needs = json_string_value(json_object_get(c, "needs"));
    if (needs && !strcmp(needs, "write") && !f->d.config->write) return "it would change the store: --write";
    if (needs && !strcmp(needs, "here") && !f->here) return "only of a server on this machine";
    return NULL;
}

static const char *lack(const char *name) {
    static const char *const words[][2] = {{"model", "no model of the server writes text"},
                                           {"upper", "no model of the server writes text"},
                                           {"throwaway", "no model of the server writes text"},
                                           {"made", "no model of the server writes text"},
                                           {"embedder", "no model of the server only embeds"},
                                           {"no_tools", "every model of the server calls tools"},
                                           {"no_think", "every model of the server thinks"},
                                           {"no_insert", "every model of the server inserts"},
                                           {"segment", "the model's name has a slash"},
                                           {"new_blob", "the blob is there since an earlier time"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(name, words[i][0])) return words[i][1];
    return "an earlier case should have given what it needs";
}

static void run(conform *f, const json_t *template) {
    char title[300], name[64] = "";
    doctor_result r = {0};
    json_t *c = shape_fill(template, f->values, name);
    const json_t *words = c ? c : template;
    const char *why = obstacle(f, template), *after = json_string_value(json_object_get(template, "after"));
    f->id = json_string_value(json_object_get(words, "id"));
    snprintf(title, sizeof title, "%s, %s %.200s", f->id, method_of(words),
             json_string_value(json_object_get(words, "path")));
    f->title = title;
    f->n_differences = 0;
    report_begin(&f->d.report, title);
    if (why)
        doctor_skipped(&r, "%s", why);
    else if (!c)
        doctor_skipped(&r, "%s", lack(name));
    else if (after && !json_object_get(f->passed, after))
        doctor_skipped(&r, "it needs %s, which was not passed", after);
    else
        ask(f, c, &r);
    if (!f->n_differences && !process_interrupted()) report_add(&f->d.report, f->id, title, &r);
    if (!f->n_differences && r.state == DOCTOR_PASSED) json_object_set_new(f->passed, f->id, json_true());
    json_decref(c);
}

/* ---- the whole */

static bool is_wanted(const conform *f, const json_t *c) {
    const char *id = json_string_value(json_object_get(c, "id")), *only = f->d.config->only_case;
    return !only || lm_str_starts(lm_str_of(id), lm_str_of(only));
}

/* Whatever it answers: what is wrong with that is the cases' matter. */
static bool is_there(conform *f) {
    static const char title[] = "the server answers";
    doctor_result r = {0};
    lm_answer a;
    report_begin(&f->d.report, title);
    bool there = wire_ask(&f->d.brief, "GET", "/", NULL, &a, &r);
    if (there) {
        doctor_passed(&r, "%s", f->d.url);
        lm_answer_release(&a);
        f->values = conform_values(&f->d.brief, f->d.model);
        if (f->d.model[0] && !json_object_get(f->values, "model"))
            there =
                doctor_failed(&r, "name one of GET /api/tags with --model", "it has no model %s", f->d.model);
    }
    if (!process_interrupted()) report_add(&f->d.report, "reachable", title, &r);
    return there;
}

int doctor_conform(const doctor_config *c) {
    conform f = {.d = {.config = c}, .passed = json_object()};
    lm_client *client = NULL;
    lm_err err = {0};
    if (lm_client_open(&client, &err) != LM_OK) {
        fprintf(stderr, "test-mlx-integration: %s\n", err.text);
        return EXIT_BROKEN;
    }
    uint16_t port = 0;
    report_open(&f.d.report, c);
    strcpy(f.d.url, c->url);
    snprintf(f.d.model, sizeof f.d.model, "%s", c->model ? c->model : "");
    f.here = wire_is_here(c->url, &port);
    f.d.wire = f.d.brief = (wire){client, f.d.url, c->timeout_s, 0, &f.d.report};
    if (is_there(&f)) {
        json_t *cases = conform_cases();
        const json_t *one;
        size_t i;
        json_array_foreach(cases, i, one) if (!process_interrupted() && is_wanted(&f, one)) run(&f, one);
        json_decref(cases);
    }
    report_close(&f.d.report, f.d.url);
    json_decref(f.values);
    json_decref(f.passed);
    lm_client_close(client);
    return process_interrupted() ? EXIT_INTERRUPTED : report_exit(&f.d.report);
}
