/* What a schema leaves open is closed before it becomes a grammar: objects get no properties but those that
 * they name. Where one may invent some, a small model does, without an end. llama.cpp's grammars, and so
 * Ollama's, read a schema the same way, and OpenAI's strict schemas have to say it.
 *
 * A document that is valid for the closed schema is so for the open one. The other way round a schema could
 * be made impossible: so objects whose parts are put together, or that demand what they do not name, stay as
 * they are, and so do all where any part is put together from somewhere else. */
#include <string.h>

#include "text/private.h"

typedef enum place { SCHEMA, SCHEMAS, LIST } place; /* one, an object of them, an array of them */

static const struct {
    const char *key;
    place place;
} inside[] = {
    {"properties", SCHEMAS},
    {"$defs", SCHEMAS},
    {"definitions", SCHEMAS},
    {"patternProperties", SCHEMAS},
    {"items", SCHEMA},
    {"contains", SCHEMA},
    {"additionalProperties", SCHEMA},
    {"prefixItems", LIST},
    {"items", LIST},
    {"anyOf", LIST},
    {"oneOf", LIST},
    {"allOf", LIST},
};

static bool has_any(const json_t *schema, const char *const *keys) {
    for (; *keys; keys++)
        if (json_object_get(schema, *keys)) return true;
    return false;
}

typedef bool visitor(json_t *schema);

/* Calls visit for a schema and all within it; false: one of them said so. */
static bool each(json_t *schema, visitor *visit) {
    if (!json_is_object(schema)) return true;
    if (!visit(schema)) return false;
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        json_t *v = json_object_get(schema, inside[i].key), *one;
        const char *key;
        size_t k;
        bool fits = inside[i].place == LIST ? json_is_array(v) : json_is_object(v);
        if (!fits) continue;
        if (inside[i].place == SCHEMA && !each(v, visit)) return false;
        if (inside[i].place == SCHEMAS) {
            json_object_foreach(v, key, one) if (!each(one, visit)) return false;
        }
        if (inside[i].place == LIST) {
            json_array_foreach(v, k, one) if (!each(one, visit)) return false;
        }
    }
    return true;
}

static bool stands_alone(json_t *schema) {
    static const char *const joins[] = {
        "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef", "not", "propertyNames", NULL};
    if (has_any(schema, joins) || json_array_size(json_object_get(schema, "allOf")) > 1) return false;
    static const char *const others[] = {"$ref", "anyOf", "oneOf", "allOf", NULL};
    return !json_object_get(schema, "properties") || !has_any(schema, others);
}

static bool names_all(const json_t *schema, const json_t *properties) {
    const json_t *one;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)json_object_get(schema, "required"), i, one) {
        if (!json_is_string(one) || !json_object_get(properties, json_string_value(one))) return false;
    }
    return true;
}

static bool close_one(json_t *schema) {
    static const char *const says[] = {"additionalProperties", "patternProperties", "minProperties", NULL};
    const json_t *properties = json_object_get(schema, "properties");
    if (json_is_object(properties) && json_object_size(properties) && !has_any(schema, says) &&
        names_all(schema, properties))
        json_object_set_new(schema, "additionalProperties", json_false());
    return true;
}

void lm_schema_close(json_t *schema) {
    if (each(schema, stands_alone)) each(schema, close_one);
}
