/* The values that a Go template sees: types as Ollama's template package declares them, filled from JSON as
 * encoding/json would. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/go_template.h"

/* ---- types ----------------------------------------------------------------------------------------------- */

const go_type go_type_bool = {GO_BOOL, .name = "bool"};
const go_type go_type_int = {GO_INT, .name = "int"};
const go_type go_type_byte = {GO_UINT, .name = "uint8"};
const go_type go_type_float = {GO_FLOAT, .name = "float64"};
const go_type go_type_string = {GO_STRING, .name = "string"};
const go_type go_type_any_map = {GO_MAP, .name = "map[string]interface {}"};
static const go_type any_list = {GO_SLICE, .name = "[]interface {}"};
static const go_type string_list = {GO_SLICE, .name = "[]string", .elem = &go_type_string};

#define FIELDS(list) .fields = (list), .n_fields = sizeof(list) / sizeof *(list)

/* api.ToolProperty and what it consists of; it holds itself, so the declarations come first. */
static const go_type types_list = {GO_SLICE, .name = "api.PropertyType", .elem = &go_type_string,
                                   .string = GO_STRING_TYPES};
static const go_type property_list = {GO_SLICE, .name = "[]api.ToolProperty", .elem = &go_type_property};
static const go_type ordered_properties = {GO_MAP, .name = "api.ToolPropertiesMap", .elem = &go_type_property,
                                           .ordered = true};
const go_type go_type_property_map = {GO_POINTER, .name = "*api.ToolPropertiesMap",
                                      .elem = &ordered_properties, .ordered = true};
const go_type go_type_property_plain = {GO_MAP, .name = "map[string]api.ToolProperty",
                                        .elem = &go_type_property};
static const go_field property_fields[] = {
    {"AnyOf", &property_list, "anyOf", "anyOf", true},
    {"Type", &types_list, "type", "type", true},
    {"Items", NULL, "items", "items", true},
    {"Description", &go_type_string, "description", "description", true},
    {"Enum", &any_list, "enum", "enum", true},
    {"Properties", &go_type_property_map, "properties", "properties", true},
};
const go_type go_type_property = {GO_STRUCT, .name = "api.ToolProperty", FIELDS(property_fields)};

static const go_type properties = {GO_MAP, .name = "template.templateProperties", .elem = &go_type_property,
                                   .string = GO_STRING_JSON};
static const go_field parameter_fields[] = {
    {"Type", &go_type_string, "type", "type", false},
    {"Defs", NULL, "$defs", "$defs", true},
    {"Items", NULL, "items", "items", true},
    {"Required", &string_list, "required", "required", true},
    {"Properties", &properties, "properties", "properties", false},
};
/* Ollama from 0.14 on has forgotten the methods String of the next three: {{ .Function }}, as many published
 * templates have it, is a Go struct there. Here it is JSON, as it was before and as they mean it. */
static const go_type parameters = {GO_STRUCT, .name = "template.templateToolFunctionParameters",
                                   .string = GO_STRING_JSON, FIELDS(parameter_fields)};
static const go_field function_fields[] = {
    {"Name", &go_type_string, "name", "name", false},
    {"Description", &go_type_string, "description", "description", false},
    {"Parameters", &parameters, "parameters", "parameters", false},
};
static const go_type function = {GO_STRUCT, .name = "template.templateToolFunction", .string = GO_STRING_JSON,
                                 FIELDS(function_fields)};
static const go_field tool_fields[] = {
    {"Type", &go_type_string, "type", "type", false},
    {"Items", NULL, "items", "items", true},
    {"Function", &function, "function", "function", false},
};
static const go_type tool = {GO_STRUCT, .name = "template.templateTool", .string = GO_STRING_JSON,
                             FIELDS(tool_fields)};
const go_type go_type_tools = {GO_SLICE, .name = "template.templateTools", .elem = &tool,
                               .string = GO_STRING_JSON};

static const go_type arguments = {GO_MAP, .name = "template.templateArgs", .string = GO_STRING_JSON};
static const go_field called_fields[] = {
    {"Index", &go_type_int, "index", "Index", false},
    {"Name", &go_type_string, "name", "Name", false},
    {"Arguments", &arguments, "arguments", "Arguments", false},
};
static const go_type called = {GO_STRUCT, .name = "template.templateToolCallFunction", FIELDS(called_fields)};
static const go_field call_fields[] = {
    {"ID", &go_type_string, "id", "ID", false},
    {"Function", &called, "function", "Function", false},
};
static const go_type call = {GO_STRUCT, .name = "template.templateToolCall", FIELDS(call_fields)};
static const go_type calls = {GO_SLICE, .name = "[]template.templateToolCall", .elem = &call};
/* Images are never there: a model that sees none refuses them before. */
static const go_type bytes = {GO_SLICE, .name = "api.ImageData", .elem = &go_type_byte};
static const go_type images = {GO_SLICE, .name = "[]api.ImageData", .elem = &bytes};
static const go_field message_fields[] = {
    {"Role", &go_type_string, "role", "Role", false},
    {"Content", &go_type_string, "content", "Content", false},
    {"Thinking", &go_type_string, "thinking", "Thinking", false},
    {"Images", &images, "", "Images", false},
    {"ToolCalls", &calls, "tool_calls", "ToolCalls", false},
    {"ToolName", &go_type_string, "tool_name", "ToolName", false},
    {"ToolCallID", &go_type_string, "tool_call_id", "ToolCallID", false},
};
static const go_type message = {GO_STRUCT, .name = "template.templateMessage", FIELDS(message_fields)};
static const go_type message_at = {GO_POINTER, .name = "*template.templateMessage", .elem = &message};
const go_type go_type_messages = {GO_SLICE, .name = "[]*template.templateMessage", .elem = &message_at};

int go_field_of(const go_type *type, lm_str name) {
    for (uint32_t i = 0; i < type->n_fields; i++)
        if (lm_str_eq(name, lm_str_of(type->fields[i].name))) return (int)i;
    return -1;
}

const char *go_type_name(go_value v) {
    return v.any ? "interface {}" : v.type ? v.type->name : "nil";
}

/* ---- values ---------------------------------------------------------------------------------------------- */

go_value go_of_bool(bool b) {
    return (go_value){.type = &go_type_bool, .b = b};
}

go_value go_of_int(int64_t i) {
    return (go_value){.type = &go_type_int, .i = i};
}

go_value go_of_str(lm_str s) {
    return (go_value){.type = &go_type_string, .s = s};
}

/* The zero value of a struct needs fields to point to; no type here has more. */
static const go_value *zero_fields(const go_type *type) {
    static const go_value
        zero_property[] = {{.type = &property_list},  {.type = &types_list}, {.any = true},
                           {.type = &go_type_string}, {.type = &any_list},   {.type = &go_type_property_map}},
        zero_parameters[] = {{.type = &go_type_string},
                             {.any = true},
                             {.any = true},
                             {.type = &string_list},
                             {.type = &properties}},
        zero_function[] = {{.type = &go_type_string},
                           {.type = &go_type_string},
                           {.type = &parameters, .at = zero_parameters}},
        zero_called[] = {{.type = &go_type_int}, {.type = &go_type_string}, {.type = &arguments}},
        zero_tool[] = {{.type = &go_type_string}, {.any = true}, {.type = &function, .at = zero_function}},
        zero_call[] = {{.type = &go_type_string}, {.type = &called, .at = zero_called}};
    return type == &go_type_property ? zero_property
           : type == &parameters     ? zero_parameters
           : type == &function       ? zero_function
           : type == &called         ? zero_called
           : type == &tool           ? zero_tool
                                     : zero_call;
}

go_value go_zero(const go_type *type) {
    go_value v = {.type = type, .any = !type};
    if (type && type->kind == GO_STRUCT) v.at = zero_fields(type);
    return v;
}

go_value go_element(const go_type *type, go_value v) {
    v.any = !type->elem;
    return v;
}

go_value go_point(go_value v) {
    if (!v.type || v.type->kind != GO_POINTER || !v.at) return v;
    v.type = v.type->elem;
    v.any = false;
    return v;
}

size_t go_length(go_value v) {
    if (v.type->kind == GO_STRING) return v.s.len;
    if (v.type->kind == GO_SLICE) return v.list ? v.list->n : 0;
    return v.map ? v.map->n : 0;
}

bool go_is_true(go_value v) {
    if (!v.type) return false;
    switch (v.type->kind) {
    case GO_BOOL: return v.b;
    case GO_INT: return v.i != 0;
    case GO_UINT: return v.u != 0;
    case GO_FLOAT: return v.f < 0 || v.f > 0 || isnan(v.f);
    case GO_STRING:
    case GO_SLICE:
    case GO_MAP: return go_length(v) > 0;
    case GO_STRUCT: return true;
    case GO_POINTER: return v.at != NULL;
    }
    return false;
}

int go_compare(lm_str a, lm_str b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n ? memcmp(a.ptr, b.ptr, n) : 0;
    return order ? order : a.len < b.len ? -1 : a.len > b.len;
}

static int compare_entries(const void *a, const void *b) {
    return go_compare(((const go_entry *)a)->key, ((const go_entry *)b)->key);
}

void go_sort_entries(go_entry *at, size_t n) {
    qsort(at, n, sizeof *at, compare_entries);
}

const go_value *go_map_get(const go_map *m, lm_str key) {
    for (size_t low = 0, high = m ? m->n : 0; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = go_compare(key, m->at[middle].key);
        if (!order) return &m->at[middle].value;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- from JSON ------------------------------------------------------------------------------------------- */

/* Text is borrowed from the JSON, which the caller keeps. */
static lm_str str_of(const json_t *v) {
    return (lm_str){json_string_value(v), json_string_length(v)};
}

static go_value list_from(go_arena *a, const json_t *json, const go_type *type) {
    go_value v = {.type = type};
    size_t n = json_array_size(json);
    if (!json_is_array(json)) return v;
    go_list *list = go_make(a, 1, sizeof *list);
    go_value *at = go_make(a, n ? n : 1, sizeof *at);
    if (!list || !at) return v;
    for (size_t i = 0; i < n; i++) at[i] = go_from_json(a, json_array_get(json, i), type->elem);
    *list = (go_list){n, n, at};
    v.list = list;
    return v;
}

/* "type": "string", or a list of such */
static go_value types_from(go_arena *a, const json_t *json) {
    go_value v = {.type = &types_list};
    if (!json_is_string(json)) return list_from(a, json, &types_list);
    go_list *list = go_make(a, 1, sizeof *list);
    go_value *at = go_make(a, 1, sizeof *at);
    if (!list || !at) return v;
    *at = go_of_str(str_of(json));
    *list = (go_list){1, 1, at};
    v.list = list;
    return v;
}

static const go_map *map_from(go_arena *a, const json_t *json, const go_type *elem, bool ordered) {
    if (!json_is_object(json)) return NULL;
    go_map *map = go_make(a, 1, sizeof *map);
    go_entry *at = go_make(a, json_object_size(json) + 1, sizeof *at);
    if (!map || !at) return NULL;
    json_t *object = (json_t *)(uintptr_t)json; /* jansson's iterators want it so */
    size_t n = 0;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it), n++) {
        at[n].key = (lm_str){json_object_iter_key(it), json_object_iter_key_len(it)};
        at[n].value = go_from_json(a, json_object_iter_value(it), elem);
    }
    if (!ordered) go_sort_entries(at, n);
    *map = (go_map){n, at};
    return map;
}

static const go_value *struct_from(go_arena *a, const json_t *json, const go_type *type) {
    go_value *at = go_make(a, type->n_fields, sizeof *at);
    for (uint32_t i = 0; at && i < type->n_fields; i++) {
        const go_field *f = &type->fields[i];
        at[i] = go_from_json(a, json_object_get(json, f->from), f->type);
    }
    return at ? at : zero_fields(type);
}

static go_value any_from(go_arena *a, const json_t *json) {
    go_value v = GO_NOTHING;
    if (json_is_boolean(json)) v = go_of_bool(json_is_true(json));
    if (json_is_number(json)) v = (go_value){.type = &go_type_float, .f = json_number_value(json)};
    if (json_is_string(json)) v = go_of_str(str_of(json));
    if (json_is_array(json)) v = list_from(a, json, &any_list);
    if (json_is_object(json)) v = (go_value){.type = &go_type_any_map, .map = map_from(a, json, NULL, false)};
    v.any = true;
    return v;
}

/* JSON of another type than the field's leaves it zero: who reads requests has refused it already. */
go_value go_from_json(go_arena *a, const json_t *json, const go_type *type) {
    if (!type) return any_from(a, json);
    go_value v = {.type = type};
    switch (type->kind) {
    case GO_STRUCT: v.at = struct_from(a, json, type); break;
    case GO_STRING: v.s = str_of(json); break;
    case GO_INT: v.i = json_integer_value(json); break;
    case GO_SLICE: return type == &types_list ? types_from(a, json) : list_from(a, json, type);
    case GO_MAP: v.map = map_from(a, json, type->elem, type->ordered); break;
    case GO_POINTER:
        if (type->ordered)
            v.map = map_from(a, json, type->elem->elem, true);
        else
            v.at = struct_from(a, json, type->elem);
        break;
    default: break;
    }
    return v;
}
