#include "api/calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* References within a schema are from its root, which lies deeper now: "#/$defs/x" gets `base` before it. */
static void move_refs(json_t *schema, const char *base) {
    json_t *v;
    void *next;
    const char *key;
    size_t i;
    json_array_foreach(schema, i, v) move_refs(v, base);
    json_object_foreach_safe(schema, next, key, v) {
        const char *ref = !strcmp(key, "$ref") ? json_string_value(v) : NULL;
        if (ref && ref[0] == '#' && (!ref[1] || ref[1] == '/'))
            json_object_set_new(schema, key, json_sprintf("#%s%s", base, ref + 1));
        else
            move_refs(v, base);
    }
}

/* The at-th alternative. */
static json_t *call_schema(const json_t *function, size_t at) {
    char base[64];
    snprintf(base, sizeof base, "/anyOf/%zu/properties/arguments", at);
    json_t *arguments = json_deep_copy(json_object_get(function, "parameters"));
    if (!json_is_object(arguments)) {
        json_decref(arguments);
        arguments = json_object();
    }
    move_refs(arguments, base);
    if (!json_object_get(arguments, "type")) json_object_set_new(arguments, "type", json_string("object"));
    return json_pack("{s:s,s:{s:{s:O},s:o},s:[s,s],s:b}", "type", "object", "properties", "name", "const",
                     json_object_get(function, "name"), "arguments", arguments, "required", "name",
                     "arguments", "additionalProperties", 0);
}

lm_status lm_force_call(lm_request *r, const char *only, lm_err *err) {
    json_t *any = json_array(), *tool;
    size_t i, n = 0;
    json_array_foreach(r->tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (!name || (only && strcmp(only, name) != 0)) continue;
        json_array_append_new(any, call_schema(function, n++));
    }
    json_t *schema = json_pack("{s:o}", "anyOf", any);
    char *text =
        n && json_array_size(json_object_get(schema, "anyOf")) == n ? json_dumps(schema, JSON_COMPACT) : NULL;
    json_decref(schema);
    if (!n && only) return lm_fail(err, LM_INVALID, "there is no tool with the name \"%.100s\"", only);
    if (!n) return lm_fail(err, LM_INVALID, "there are no tools to choose from");
    if (!text) return lm_fail(err, LM_INVALID, "the tools' parameters cannot be written as JSON");
    free(r->schema);
    r->schema = text;
    r->constrained = true;
    return LM_OK;
}

bool lm_forced_call(lm_str answer, char **name, char **arguments) {
    json_t *call = NULL;
    lm_err ignored;
    if (lm_json_parse(answer, &call, &ignored) != LM_OK) return false;
    const char *called = json_string_value(json_object_get(call, "name"));
    const json_t *given = json_object_get(call, "arguments");
    char *text = called && json_is_object(given) ? json_dumps(given, JSON_COMPACT) : NULL;
    if (text) {
        *name = lm_strdup(called);
        *arguments = text;
    }
    json_decref(call);
    return text != NULL;
}
