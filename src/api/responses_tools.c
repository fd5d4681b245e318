/* Tools in the form that templates read. A namespace is a group of tools, whose names get its own before
 * them; a custom tool takes any text, which a template knows as the one argument "input". */
#include <string.h>

#include "api/calls.h"
#include "api/responses.h"

static bool is(const char *a, const char *b) {
    return a && !strcmp(a, b);
}

json_t *responses_tool_name(const char *space, const char *name) {
    return space && space[0] ? json_sprintf("%s.%s", space, name) : json_string(name);
}

static json_t *parameters_of(const json_t *tool, bool custom) {
    json_t *given = custom ? NULL : lm_field(tool, "parameters");
    if (custom)
        return json_pack("{s:s,s:{s:{s:s}},s:[s],s:b}", "type", "object", "properties", "input", "type",
                         "string", "required", "input", "additionalProperties", 0);
    return given ? json_incref(given) : json_pack("{s:s,s:{}}", "type", "object", "properties");
}

/* One tool that a model can be told of. */
static void add_tool(lm_fields *f, responses_request *r, const char *space, const json_t *tool, size_t at,
                     bool custom) {
    lm_fields g = lm_fields_in(tool, f->type, "tools.");
    const char *name = "";
    json_t *description = lm_field(tool, "description");
    lm_field_str(&g, "name", &name, NULL);
    if (!custom) (void)lm_field_object(&g, "parameters", "map[string]any");
    if (!name[0]) lm_fields_fail(&g, LM_INVALID, "tools[%zu]: name is required", at);
    lm_fields_adopt(f, &g);
    json_t *full = f->st == LM_OK ? responses_tool_name(space, name) : NULL;
    if (!full) {
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: its name is no text", at);
        return;
    }
    json_t *function = json_object(), *known = json_object();
    json_object_set(function, "name", full);
    if (json_is_string(description)) json_object_set(function, "description", description);
    json_object_set_new(function, "parameters", parameters_of(tool, custom));
    json_array_append_new(r->ask.request->tools,
                          json_pack("{s:s,s:o}", "type", "function", "function", function));
    json_object_set_new(known, "name", json_string(name));
    if (space) json_object_set_new(known, "namespace", json_string(space));
    json_object_set_new(known, "custom", json_boolean(custom));
    json_object_set_new(r->tools, json_string_value(full), known);
    json_decref(full);
}

static const char *kind_of(lm_fields *f, const json_t *tool) {
    const char *kind = "";
    if (!json_is_object(tool)) {
        lm_field_wrong(f, "tools", tool, "openai.ResponsesTool");
        return kind;
    }
    lm_fields g = lm_fields_in(tool, f->type, "tools.");
    lm_field_str(&g, "type", &kind, NULL);
    lm_fields_adopt(f, &g);
    return kind;
}

static void read_namespace(lm_fields *f, responses_request *r, const json_t *tool, size_t at) {
    lm_fields g = lm_fields_in(tool, f->type, "tools.");
    const char *space = "";
    const json_t *one;
    size_t i;
    lm_field_str(&g, "name", &space, NULL);
    const json_t *list = lm_field_array(&g, "tools", "[]openai.ResponsesTool");
    if (!space[0]) lm_fields_fail(&g, LM_INVALID, "tools[%zu]: a namespace needs a name", at);
    lm_fields_adopt(f, &g);
    json_array_foreach(list, i, one) {
        const char *kind = f->st == LM_OK ? kind_of(f, one) : "";
        if (f->st != LM_OK) return;
        if (is(kind, "function") || is(kind, "custom"))
            add_tool(f, r, space, one, at, is(kind, "custom"));
        else
            lm_fields_fail(f, LM_INVALID, "tools[%zu]: a namespace holds functions, not \"%.40s\"", at, kind);
    }
}

/* What the vendor runs itself (searching the web, drawing) cannot be had here. Clients add such tools to
 * every request: the model is not told of them, and the log says so. */
static void read_tool(lm_fields *f, responses_request *r, const json_t *tool, size_t at) {
    const char *kind = kind_of(f, tool);
    if (f->st != LM_OK) return;
    if (is(kind, "function") || is(kind, "custom"))
        add_tool(f, r, NULL, tool, at, is(kind, "custom"));
    else if (is(kind, "namespace"))
        read_namespace(f, r, tool, at);
    else if (!kind[0])
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: type is required", at);
    else
        lm_log(LM_LOG_WARN, "a tool is left out: only functions can be called here", "type=%.40s", kind);
}

/* ---- tool_choice */

/* Those of the tools that `allowed` names. */
static void keep_allowed(lm_fields *f, responses_request *r, const json_t *allowed) {
    json_t *kept = json_array(), *tool;
    const json_t *one;
    size_t i, k;
    json_array_foreach(r->ask.request->tools, i, tool) {
        const json_t *name = json_object_get(json_object_get(tool, "function"), "name");
        json_array_foreach(allowed, k, one) {
            if (!json_is_object(one) || !json_equal(lm_field(one, "name"), name)) continue;
            json_array_append(kept, tool);
            break;
        }
    }
    json_decref(r->ask.request->tools);
    r->ask.request->tools = kept;
    if (!json_array_size(kept)) lm_fields_fail(f, LM_INVALID, "tool_choice: none of the tools is allowed");
}

static void force(lm_fields *f, responses_request *r, const char *only) {
    lm_err err = {0};
    lm_status st = lm_force_call(r->ask.request, only, &err);
    if (st != LM_OK) lm_fields_fail(f, LM_INVALID, "tool_choice: %s", err.text);
    r->forced = st == LM_OK;
}

static void choose(lm_fields *f, responses_request *r, const char *mode) {
    if (is(mode, "none")) {
        json_decref(r->ask.request->tools); /* what the model does not know it cannot call */
        r->ask.request->tools = NULL;
    } else if (is(mode, "required")) {
        force(f, r, NULL);
    } else if (!is(mode, "auto")) {
        lm_fields_fail(
            f, LM_INVALID,
            "tool_choice must be \"none\", \"auto\", \"required\", {\"type\":\"function\",\"name\":...} or "
            "{\"type\":\"allowed_tools\",\"mode\":...,\"tools\":[...]}");
    }
}

static void read_choice(lm_fields *f, responses_request *r) {
    const json_t *choice = lm_field(f->object, "tool_choice");
    if (!choice) return;
    if (!json_is_object(choice)) {
        choose(f, r, json_string_value(choice));
        return;
    }
    lm_fields g = lm_fields_in(choice, f->type, "tool_choice.");
    const char *kind = "", *name = "", *mode = "auto";
    lm_field_str(&g, "type", &kind, NULL);
    lm_field_str(&g, "name", &name, NULL);
    lm_field_str(&g, "mode", &mode, NULL);
    const json_t *allowed = lm_field_array(&g, "tools", "[]object");
    lm_fields_adopt(f, &g);
    if (f->st != LM_OK) return;
    if (is(kind, "allowed_tools")) {
        keep_allowed(f, r, allowed);
        if (f->st == LM_OK) choose(f, r, mode);
    } else if (is(kind, "function") || is(kind, "custom")) {
        force(f, r, name);
    } else {
        choose(f, r, NULL);
    }
}

void responses_read_tools(lm_fields *f, responses_request *r) {
    bool parallel = true;
    const json_t *list = lm_field_array(f, "tools", "[]openai.ResponsesTool"), *one;
    size_t i;
    lm_field_bool(f, "parallel_tool_calls", &parallel);
    r->one_call = !parallel;
    r->tools = json_object();
    r->ask.request->tools = json_array();
    json_array_foreach(list, i, one) {
        if (f->st == LM_OK) read_tool(f, r, one, i);
    }
    if (f->st == LM_OK) read_choice(f, r);
    if (json_array_size(r->ask.request->tools)) return;
    json_decref(r->ask.request->tools);
    r->ask.request->tools = NULL;
}
