/* tools and tool_choice.
 *
 * A choice that forces a call is kept by the grammar: the answer has to be {"name": ..., "arguments": {...}}
 * of one of the tools, the form in which most families write their calls, and is made a call when it is
 * whole. */
#include <stdlib.h>
#include <string.h>

#include "api/anthropic.h"

static bool is(const char *type, const char *name) {
    return type && !strcmp(type, name);
}

/* ---- tools */

static json_t *read_tool(lm_fields *f, size_t at, const json_t *tool) {
    lm_fields g = lm_fields_in(tool, f->type, "tools.");
    const char *type = "", *name = "", *description = "";
    lm_field_str(&g, "type", &type, NULL);
    lm_field_str(&g, "name", &name, NULL);
    lm_field_str(&g, "description", &description, NULL);
    json_t *schema = lm_field_object(&g, "input_schema", "object");
    if (g.st == LM_OK && type[0] && strcmp(type, "custom"))
        g.st = lm_fail(
            &g.err, LM_INVALID,
            "tools.%zu: the tool type \"%.60s\" is not available here: only tools with an input_schema "
            "of their own are",
            at, type);
    if (g.st == LM_OK && !name[0]) g.st = lm_fail(&g.err, LM_INVALID, "tools.%zu.name: field required", at);
    if (g.st != LM_OK) {
        f->st = g.st;
        f->err = g.err;
        return NULL;
    }
    json_t *function = json_object(), *out = json_object();
    json_object_set_new(function, "name", json_string(name));
    if (description[0]) json_object_set_new(function, "description", json_string(description));
    json_object_set_new(function, "parameters",
                        schema ? json_incref(schema)
                               : json_pack("{s:s, s:{}}", "type", "object", "properties"));
    json_object_set_new(out, "type", json_string("function"));
    json_object_set_new(out, "function", function);
    return out;
}

/* ---- a forced call */

/* References within a schema are from its root, which lies deeper now: "#/$defs/x" gets `base` before it. */
static void move_refs(json_t *schema, const char *base) {
    json_t *v;
    if (json_is_object(schema)) {
        const char *key;
        void *next;
        json_object_foreach_safe(schema, next, key, v) {
            const char *ref = json_string_value(v);
            if (!strcmp(key, "$ref") && ref && ref[0] == '#' && (!ref[1] || ref[1] == '/')) {
                json_object_set_new(schema, key, json_sprintf("#%s%s", base, ref + 1));
            } else {
                move_refs(v, base);
            }
        }
    } else if (json_is_array(schema)) {
        size_t i;
        json_array_foreach(schema, i, v) move_refs(v, base);
    }
}

static json_t *call_schema(const json_t *tool, size_t at) {
    const json_t *function = json_object_get(tool, "function");
    json_t *arguments = json_deep_copy(json_object_get(function, "parameters"));
    char base[64];
    snprintf(base, sizeof base, "/anyOf/%zu/properties/arguments", at);
    move_refs(arguments, base);
    if (!json_object_get(arguments, "type")) json_object_set_new(arguments, "type", json_string("object"));
    return json_pack("{s:s, s:{s:{s:O}, s:o}, s:[s,s], s:b}", "type", "object", "properties", "name", "const",
                     json_object_get(function, "name"), "arguments", arguments, "required", "name",
                     "arguments", "additionalProperties", 0);
}

/* Any of the tools, or the one of this name. */
static void force(lm_fields *f, const char *name, anthropic_request *r) {
    json_t *any = json_array(), *tool;
    size_t i;
    json_array_foreach(r->request->tools, i, tool) {
        const char *is_named = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (!name || is(is_named, name)) json_array_append_new(any, call_schema(tool, json_array_size(any)));
    }
    if (!json_array_size(any)) {
        f->st = name ? lm_fail(&f->err, LM_INVALID, "tool_choice.name: there is no tool \"%.100s\"", name)
                     : lm_fail(&f->err, LM_INVALID, "tool_choice: there are no tools to choose from");
        json_decref(any);
        return;
    }
    json_t *schema = json_pack("{s:o}", "anyOf", any);
    r->forced = r->request->constrained = true;
    free(r->request->schema);
    r->request->schema = json_dumps(schema, JSON_COMPACT);
    json_decref(schema);
}

static void read_choice(lm_fields *f, anthropic_request *r) {
    json_t *choice = lm_field_object(f, "tool_choice", "anthropic.ToolChoice");
    if (!choice) return;
    lm_fields g = lm_fields_in(choice, f->type, "tool_choice.");
    const char *type = "", *name = "";
    lm_field_str(&g, "type", &type, NULL);
    lm_field_str(&g, "name", &name, NULL);
    lm_field_bool(&g, "disable_parallel_tool_use", &r->one_call);
    if (g.st != LM_OK) {
        f->st = g.st;
        f->err = g.err;
    } else if (is(type, "none")) {
        json_decref(r->request->tools);
        r->request->tools = NULL;
    } else if (is(type, "any")) {
        force(f, NULL, r);
    } else if (is(type, "tool")) {
        force(f, name, r);
    } else if (!is(type, "auto")) {
        f->st = lm_fail(&f->err, LM_INVALID, "tool_choice.type: must be auto, any, tool or none");
    }
}

void anthropic_read_tools(lm_fields *f, anthropic_request *r) {
    json_t *list = lm_field_array(f, "tools", "[]anthropic.Tool"), *one;
    size_t i;
    if (json_array_size(list)) r->request->tools = json_array();
    json_array_foreach(list, i, one) {
        if (!json_is_object(one)) lm_field_wrong(f, "tools", one, "anthropic.Tool");
        json_t *tool = f->st == LM_OK ? read_tool(f, i, one) : NULL;
        if (!tool) return;
        json_array_append_new(r->request->tools, tool);
    }
    read_choice(f, r);
}

lm_status anthropic_forced_call(lm_str answer, json_t **call, const char **name, const json_t **input,
                                lm_err *err) {
    json_t *value = NULL;
    lm_status st = lm_json_parse(answer, &value, err);
    if (st != LM_OK) return lm_fail_in(err, st, "the model's tool call");
    *name = json_string_value(json_object_get(value, "name"));
    *input = json_object_get(value, "arguments");
    if (!*name || !json_is_object(*input)) {
        json_decref(value);
        return lm_fail(err, LM_INVALID, "the model's tool call is not whole");
    }
    *call = value;
    return LM_OK;
}
