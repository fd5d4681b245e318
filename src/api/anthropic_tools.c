/* tools and tool_choice. */
#include <string.h>

#include "api/anthropic.h"
#include "api/calls.h"

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
        lm_fields_adopt(f, &g);
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

/* ---- the choice */

/* Any of the tools, or the one of this name. */
static void force(lm_fields *f, const char *name, anthropic_request *r) {
    lm_err err = {0};
    f->st = lm_force_call(r->request, name, &err);
    if (f->st != LM_OK) (void)lm_fail(&f->err, f->st, "tool_choice: %s", err.text);
    r->forced = f->st == LM_OK;
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
        lm_fields_adopt(f, &g);
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
