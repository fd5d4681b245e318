#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "service/service.h"

#define MAX_STATE 65536

const char *const service_phase_names[PHASE_COUNT] = {"starting", "ready", "stopping", "waiting", "gave up"};

lm_status service_state_write(const char *path, const service_state *s, lm_err *err) {
    json_t *doc = json_pack(
        "{s:s,s:i,s:i,s:I,s:I,s:I,s:i,s:i,s:i,s:I,s:I}", "phase", service_phase_names[s->phase], "supervisor",
        (int)s->supervisor, "bridge", (int)s->bridge, "supervisor_began", (json_int_t)s->supervisor_began,
        "bridge_began", (json_int_t)s->bridge_began, "since_ns", (json_int_t)s->since_ns, "starts",
        (int)s->n_starts, "failures", (int)s->n_failures, "reloads", (int)s->n_reloads, "requests",
        (json_int_t)s->n_requests, "stop_ns", (json_int_t)s->stop_ns);
    if (!doc) return lm_fail(err, LM_NO_MEMORY, "no memory for the state");
    const struct {
        const char *key, *value;
    } texts[] = {{"url", s->url},       {"notify", s->notify},   {"error_log", s->error_log},
                 {"status", s->status}, {"trouble", s->trouble}, {"reload", s->reload}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *text = json_string(texts[i].value); /* NULL: not UTF-8 */
        json_object_set_new(doc, texts[i].key, text ? text : json_string("(unreadable)"));
    }
    char *text = json_dumps(doc, JSON_INDENT(1));
    json_decref(doc);
    if (!text) return lm_fail(err, LM_NO_MEMORY, "no memory for the state");
    char *slash = strrchr(path, '/');
    lm_status st = LM_OK;
    if (slash && slash > path) {
        char *dir = lm_str_dup((lm_str){path, (size_t)(slash - path)});
        if (!lm_path_is_dir(dir)) st = lm_dir_make(dir, err);
        free(dir);
    }
    if (st == LM_OK) st = lm_file_write(path, lm_str_of(text), err);
    free(text);
    return st;
}

static void take_text(const json_t *doc, const char *key, char *out, size_t room) {
    const char *text = json_string_value(json_object_get(doc, key));
    if (text && strlen(text) < room) strcpy(out, text);
}

static json_int_t take_number(const json_t *doc, const char *key) {
    json_int_t n = json_integer_value(json_object_get(doc, key));
    return n < 0 ? 0 : n;
}

lm_status service_state_parse(lm_str text, service_state *out, lm_err *err) {
    json_error_t why;
    json_t *doc = json_loadb(text.ptr ? text.ptr : "", text.len, 0, &why);
    const char *phase = json_string_value(json_object_get(doc, "phase"));
    service_state s = {.phase = PHASE_COUNT};
    for (int p = 0; phase && p < PHASE_COUNT; p++)
        if (!strcmp(phase, service_phase_names[p])) s.phase = (service_phase)p;
    if (s.phase == PHASE_COUNT) {
        json_decref(doc);
        return lm_fail(err, LM_CORRUPT, "it is no state of a supervisor");
    }
    json_int_t supervisor = take_number(doc, "supervisor"), bridge = take_number(doc, "bridge");
    s.supervisor = supervisor < INT32_MAX ? (pid_t)supervisor : 0;
    s.bridge = bridge < INT32_MAX ? (pid_t)bridge : 0;
    s.supervisor_began = (uint64_t)take_number(doc, "supervisor_began");
    s.bridge_began = (uint64_t)take_number(doc, "bridge_began");
    s.since_ns = take_number(doc, "since_ns");
    s.n_starts = (uint32_t)take_number(doc, "starts");
    s.n_failures = (uint32_t)take_number(doc, "failures");
    s.n_reloads = (uint32_t)take_number(doc, "reloads");
    s.n_requests = (uint64_t)take_number(doc, "requests");
    s.stop_ns = take_number(doc, "stop_ns");
    if (s.stop_ns > 7200 * SERVICE_SECOND_NS) s.stop_ns = 7200 * SERVICE_SECOND_NS;
    take_text(doc, "url", s.url, sizeof s.url);
    take_text(doc, "notify", s.notify, sizeof s.notify);
    take_text(doc, "error_log", s.error_log, sizeof s.error_log);
    take_text(doc, "status", s.status, sizeof s.status);
    take_text(doc, "trouble", s.trouble, sizeof s.trouble);
    take_text(doc, "reload", s.reload, sizeof s.reload);
    json_decref(doc);
    *out = s;
    return LM_OK;
}

lm_status service_state_read(const char *path, service_state *out, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, MAX_STATE + 1);
    lm_status st = lm_file_read(path, MAX_STATE, &text, err);
    if (st == LM_OK) {
        st = service_state_parse(lm_buf_view(&text), out, err);
        if (st != LM_OK) lm_fail_in(err, st, "%s", path);
    }
    lm_buf_release(&text);
    return st;
}
