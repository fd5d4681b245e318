/* Calls written as tags, without quotes: what is text and what is a number the tool's schema says.
 *
 *     <function=f><parameter=x>1</parameter></function>          Qwen3-Coder; Functionary has JSON within
 *     f<arg_key>x</arg_key><arg_value>1</arg_value>              GLM
 */
#include <string.h>

#include "base/json.h"
#include "text/parser.h"

/* ---- types ------------------------------------------------------------------------------------------------ */

enum {
    T_STRING = 1,
    T_INTEGER = 2,
    T_NUMBER = 4,
    T_BOOLEAN = 8,
    T_NULL = 16,
    T_OBJECT = 32,
    T_ARRAY = 64,
    T_ALL = 127
};

static uint32_t type_named(const char *name) {
    static const char *const names[] = {"string", "integer", "number", "boolean", "null", "object", "array"};
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name)) return 1u << i;
    return 0;
}

static uint32_t type_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_STRING: return T_STRING;
    case JSON_INTEGER: return T_INTEGER | T_NUMBER;
    case JSON_REAL: return T_NUMBER;
    case JSON_TRUE:
    case JSON_FALSE: return T_BOOLEAN;
    case JSON_NULL: return T_NULL;
    case JSON_OBJECT: return T_OBJECT;
    case JSON_ARRAY: return T_ARRAY;
    }
    return 0;
}

/* "#/$defs/x" within root. */
const json_t *parser_referred(const json_t *root, const char *ref) {
    if (!ref || ref[0] != '#') return NULL;
    for (ref++; root && *ref == '/';) {
        size_t n = strcspn(++ref, "/");
        root = json_object_getn(root, ref, n);
        ref += n;
    }
    return root;
}

/* Types that a schema allows; all when it does not say. */
static uint32_t types_of(const json_t *root, const json_t *schema, int depth) {
    static const char *const choices[] = {"anyOf", "oneOf"};
    const json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum");
    const json_t *target = parser_referred(root, json_string_value(json_object_get(schema, "$ref")));
    uint32_t found = type_named(json_string_value(type));
    if (!json_is_object(schema) || depth > 8) return T_ALL;
    for (size_t i = 0; i < json_array_size(type); i++)
        found |= type_named(json_string_value(json_array_get(type, i)));
    for (size_t i = 0; !found && i < json_array_size(values); i++)
        found |= type_of(json_array_get(values, i));
    if (!found && json_object_get(schema, "const")) found = type_of(json_object_get(schema, "const"));
    if (!found && target) return types_of(root, target, depth + 1);
    for (size_t k = 0; !type && k < 2; k++) {
        const json_t *list = json_object_get(schema, choices[k]);
        for (size_t i = 0; i < json_array_size(list); i++)
            found |= types_of(root, json_array_get(list, i), depth + 1);
    }
    return found ? found : T_ALL;
}

uint32_t parser_types(const json_t *root, const json_t *schema) {
    return types_of(root, schema, 0);
}

/* ---- values ----------------------------------------------------------------------------------------------- */

static json_t *python_word(lm_str text) {
    if (lm_str_eq(text, LM_STR("True"))) return json_true();
    if (lm_str_eq(text, LM_STR("False"))) return json_false();
    return lm_str_eq(text, LM_STR("None")) ? json_null() : NULL;
}

/* A value written without quotes: JSON of a type that the schema allows, or of any where text is not allowed;
 * else the text itself. */
static json_t *value_of(uint32_t types, lm_str text) {
    lm_str inner = lm_str_trim(text);
    json_t *v = parser_json(inner);
    if (!v) v = types & T_STRING ? NULL : python_word(inner);
    bool fits = v && (type_of(v) & types || !(types & T_STRING));
    if (fits && (!json_is_string(v) || !(types & T_STRING))) return v;
    json_decref(v);
    return json_stringn(text.ptr, text.len);
}

static void set_argument(const json_t *tool, json_t *arguments, lm_str key, lm_str value) {
    const json_t *root = json_object_get(tool, "parameters");
    const json_t *schema = json_object_getn(json_object_get(root, "properties"), key.ptr, key.len);
    json_t *v = value_of(parser_types(root, schema), value);
    if (v) json_object_setn_new(arguments, key.ptr, key.len, v);
}

/* One line end at either side belongs to the form, not to the value. */
static lm_str without_line_ends(lm_str s) {
    if (s.len && s.ptr[0] == '\n') s = (lm_str){s.ptr + 1, s.len - 1};
    if (s.len && s.ptr[s.len - 1] == '\n') s.len--;
    return s;
}

/* ---- forms ------------------------------------------------------------------------------------------------ */

/* What stands within <function=NAME>. A value ends at its closing tag; a model that forgets it goes on with
 * the next parameter, or has ended. */
static json_t *read_parameters(const json_t *tool, lm_str function) {
    lm_str between, key, value;
    json_t *arguments = json_object(), *v = NULL;
    lm_err ignored;
    lm_str inner = lm_str_trim(function);
    if (lm_str_starts(inner, LM_STR("{")) && lm_json_parse(inner, &v, &ignored) == LM_OK &&
        json_is_object(v)) {
        json_decref(arguments);
        return v;
    }
    json_decref(v);
    while (parser_cut(&function, "<parameter=", &between) && parser_cut(&function, ">", &key)) {
        lm_str rest = function;
        if (!parser_cut(&rest, "</parameter>", &value)) {
            rest = function;
            if (parser_cut(&rest, "<parameter=", &value))
                rest = (lm_str){value.ptr + value.len, function.len - value.len};
            else
                value = function, rest = (lm_str){0};
        }
        function = rest;
        set_argument(tool, arguments, lm_str_trim(key), without_line_ends(value));
    }
    return arguments;
}

bool parser_read_xml(const lm_parser *p, lm_str body, json_t *list) {
    lm_str skipped, name, function;
    while (parser_cut(&body, "<function=", &skipped)) {
        if (!parser_cut(&body, ">", &name)) return false;
        if (!parser_cut(&body, "</function>", &function)) {
            if (!p->form || strcmp(p->form->close, "</function>") != 0) return false;
            function = body; /* the tag that ended it */
            body = (lm_str){0};
        }
        name = lm_str_trim(name);
        if (!parser_add_call(p, list, name, read_parameters(parser_tool(p, name), function))) return false;
    }
    return true;
}

bool parser_read_pairs(const lm_parser *p, lm_str body, json_t *list) {
    lm_str name, key, value, between, rest = body;
    if (!parser_cut(&rest, "<arg_key>", &name)) return parser_add_call(p, list, body, json_object());
    const json_t *tool = parser_tool(p, lm_str_trim(name));
    json_t *arguments = json_object();
    do {
        if (!parser_cut(&rest, "</arg_key>", &key) || !parser_cut(&rest, "<arg_value>", &between)) break;
        if (!parser_cut(&rest, "</arg_value>", &value)) {
            value = rest;
            rest = (lm_str){0};
        }
        set_argument(tool, arguments, lm_str_trim(key), without_line_ends(value));
    } while (parser_cut(&rest, "<arg_key>", &between));
    return parser_add_call(p, list, name, arguments);
}
