/* From a JSON body to a request of the engine. Works on text alone: nothing here knows which models there
 * are. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "api/anthropic.h"
#include "api/options.h"

void anthropic_request_release(anthropic_request *r) {
    free(r->model);
    lm_request_free(r->request);
    json_decref(r->options);
    json_decref(r->params);
    *r = (anthropic_request){0};
}

lm_status anthropic_request_options(anthropic_request *r, const lm_text_sampling *makers, lm_err *err) {
    lm_options_default(&r->request->options);
    lm_options_suggest(makers, &r->request->options);
    lm_status st = r->params ? lm_options_read(r->params, r->request, err) : LM_OK;
    return st == LM_OK ? lm_options_read(r->options, r->request, err) : st;
}

static void refuse(lm_fields *f, const char *text) {
    if (f->st == LM_OK) f->st = lm_fail(&f->err, LM_INVALID, "%s", text);
}

/* ---- sampling */

static void keep_number(lm_fields *f, const char *name, double most, json_t *options) {
    json_t *v = f->st == LM_OK ? lm_field(f->object, name) : NULL;
    if (!v) return;
    if (!json_is_number(v)) {
        lm_field_wrong(f, name, v, "float64");
    } else if (!(json_number_value(v) >= 0 && json_number_value(v) <= most)) {
        f->st = lm_fail(&f->err, LM_INVALID, "%s: must be between 0 and %g", name, most);
    } else {
        json_object_set(options, name, v);
    }
}

static void read_sampling(lm_fields *f, anthropic_request *r) {
    int64_t max_tokens = 0;
    lm_field_int(f, "max_tokens", &max_tokens);
    if (f->st == LM_OK && max_tokens <= 0 && r->form == ANTHROPIC_MESSAGES)
        refuse(f, "max_tokens is required and must be positive");
    json_object_set_new(r->options, "num_predict", json_integer(max_tokens));
    keep_number(f, "temperature", 2, r->options);
    keep_number(f, "top_p", 1, r->options);
    keep_number(f, "top_k", 1e9, r->options);
    json_t *stops = lm_field_array(f, "stop_sequences", "[]string"), *one;
    size_t i;
    json_array_foreach(stops, i, one) {
        if (!json_is_string(one)) lm_field_wrong(f, "stop_sequences", one, "string");
    }
    if (stops) json_object_set(r->options, "stop", stops);
}

/* ---- thinking and the answer's form */

static bool same(const char *a, const char *b) {
    return a && !strcmp(a, b);
}

/* The last message answers a call. */
static bool after_tool(const json_t *messages) {
    for (size_t i = json_array_size(messages); i-- > 0;) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        if (same(role, "tool")) return true;
        if (same(role, "assistant")) return false;
    }
    return false;
}

static void read_thinking(lm_fields *f, anthropic_request *r) {
    lm_request *to = r->request;
    json_t *object = lm_field_object(f, "thinking", "anthropic.ThinkingConfig");
    if (!object) return;
    lm_fields g = lm_fields_in(object, f->type, "thinking.");
    const char *type = "", *display = "";
    int64_t budget = INT64_MAX;
    lm_field_str(&g, "type", &type, NULL);
    lm_field_str(&g, "display", &display, NULL);
    r->hide_thinking = same(display, "omitted");
    lm_field_int(&g, "budget_tokens", &budget);
    if (g.st != LM_OK) {
        lm_fields_adopt(f, &g);
    } else if (same(type, "disabled")) {
        to->thinking = 0;
    } else if (same(type, "between_tools")) {
        to->thinking = after_tool(to->messages);
    } else if (!same(type, "enabled") && !same(type, "adaptive")) {
        refuse(f, "thinking.type: must be enabled, adaptive, between_tools or disabled");
    } else if (budget < 1) {
        refuse(f, "thinking.budget_tokens: must be positive");
    } else {
        to->thinking = 1;
        if (budget < UINT32_MAX) to->think_budget = (uint32_t)budget;
    }
}

static void read_effort(lm_fields *f, const char *effort, lm_request *to) {
    static const char *const known[][2] = {
        {"low", "low"}, {"medium", "medium"}, {"high", "high"}, {"xhigh", "high"}, {"max", "high"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(effort, known[i][0])) continue;
        strcpy(to->think_level, known[i][1]); /* "high" is the highest that templates know */
        if (to->thinking < 0) to->thinking = 1;
        return;
    }
    refuse(f, "output_config.effort: must be low, medium, high, xhigh or max");
}

/* {"type": "json_schema", "schema": {...}} */
static void read_form(lm_fields *f, const json_t *form, lm_request *to) {
    const char *type = json_string_value(lm_field(form, "type"));
    const json_t *schema = lm_field(form, "schema");
    if (!same(type, "json_schema") || !json_is_object(schema)) {
        refuse(f, "output_config.format: must be of type json_schema, with a schema");
    } else if (f->st == LM_OK) {
        f->st = lm_format_read(schema, to, &f->err);
    }
}

static void read_output(lm_fields *f, const anthropic_request *r) {
    json_t *config = lm_field_object(f, "output_config", "anthropic.OutputConfig");
    json_t *form = lm_field_object(f, "output_format", "anthropic.OutputFormat"); /* its older name */
    if (config) {
        lm_fields g = lm_fields_in(config, f->type, "output_config.");
        const char *effort = "";
        lm_field_str(&g, "effort", &effort, NULL);
        json_t *inner = lm_field_object(&g, "format", "anthropic.OutputFormat");
        if (inner) form = inner;
        if (g.st != LM_OK) {
            lm_fields_adopt(f, &g);
        } else if (effort[0]) {
            read_effort(f, effort, r->request);
        }
    }
    if (form && r->forced)
        refuse(f, "output_config.format cannot be had together with a tool_choice that forces a call");
    else if (form && f->st == LM_OK)
        read_form(f, form, r->request);
}

/* What would change the answer and cannot be had here. Others that are not known are ignored. */
static void refuse_others(lm_fields *f) {
    static const char *const names[] = {"mcp_servers", "container", "compaction"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = lm_field(f->object, names[i]);
        if (!v || (json_is_array(v) && !json_array_size(v)) || f->st != LM_OK) continue;
        f->st = lm_fail(&f->err, LM_INVALID, "%s: not available here", names[i]);
    }
}

/* ---- all together */

lm_status anthropic_request_read(lm_str body, anthropic_form form, anthropic_request *out, lm_err *err) {
    const char *type = form == ANTHROPIC_MESSAGES ? "MessagesRequest" : "CountTokensRequest";
    json_t *object = NULL;
    lm_status st = lm_fields_parse(body, type, &object, err);
    if (st != LM_OK) return st;

    anthropic_request r = {.form = form, .request = lm_request_new(), .options = json_object()};
    r.request->kind = LM_REQUEST_CHAT;
    r.request->count_only = form == ANTHROPIC_COUNT;
    lm_fields f = lm_fields_of(object, type);
    const char *model = "";
    lm_field_str(&f, "model", &model, NULL);
    r.model = lm_strdup(model);
    if (!model[0]) refuse(&f, "model is required");
    lm_field_bool(&f, "stream", &r.stream);
    read_sampling(&f, &r);
    anthropic_read_messages(&f, &r);
    anthropic_read_tools(&f, &r);
    read_thinking(&f, &r);
    read_output(&f, &r);
    refuse_others(&f);
    r.threaded = lm_field(object, "thread") != NULL;
    json_decref(object);
    if (f.st != LM_OK) {
        anthropic_request_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}
