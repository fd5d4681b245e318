/* ollama_config.c - config.json of an MLX model in Ollama's store, as MLX writes it.
 *
 * Ollama keeps the makers' config.json, and how it has quantised a tensor in the header of that tensor's
 * blob:
 * __metadata__ has quant_type and group_size, for one tensor of several as NAME.quant_type (its
 * x/create/quantize.go). MLX has all of it in "quantization" of config.json: bits, group size and mode, and
 * what differs by module.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "store/own.h"
#include "weights/weights.h"

#define MAX_CONFIG (8u << 20) /* bytes */
#define MAX_HEADER (4u << 20)

static const struct {
    const char *name;
    lm_quant_spec spec; /* with the group that is meant where none is said */
} types[] = {
    {"int4", {LM_QUANT_AFFINE, 4, 32}}, {"int8", {LM_QUANT_AFFINE, 8, 64}},
    {"mxfp4", {LM_QUANT_MXFP4, 4, 32}}, {"mxfp8", {LM_QUANT_MXFP8, 8, 32}},
    {"nvfp4", {LM_QUANT_NVFP4, 4, 16}},
};

static const char *meta_of(const json_t *meta, const char *tensor, const char *what) {
    char key[400];
    snprintf(key, sizeof key, "%s.%s", tensor, what);
    const char *own = json_string_value(json_object_get(meta, key));
    return own ? own : json_string_value(json_object_get(meta, what));
}

static bool spec_of(const json_t *header, const char *tensor, lm_quant_spec *out) {
    const json_t *meta = json_object_get(header, "__metadata__");
    const char *type = meta_of(meta, tensor, "quant_type"), *group = meta_of(meta, tensor, "group_size");
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++) {
        if (strcasecmp(types[i].name, type)) continue;
        *out = types[i].spec;
        if (group && *group) out->group = (uint32_t)strtoul(group, NULL, 10);
        return lm_quant_known(*out);
    }
    return false;
}

static json_t *spec_json(lm_quant_spec q) {
    return json_pack("{s:i,s:i,s:s}", "group_size", (int)q.group, "bits", (int)q.bits, "mode",
                     lm_quant_mode(q.kind));
}

/* The header of one safetensors file, a new reference; NULL: none. */
static json_t *read_header(const char *path) {
    lm_map map = {0};
    json_t *header = NULL;
    uint64_t n = 0;
    if (lm_map_open(&map, path, NULL) != LM_OK) return NULL;
    for (int i = 7; i >= 0 && map.size >= 8; i--) n = n << 8 | map.data[i];
    if (n && n <= MAX_HEADER && n <= map.size - 8)
        if (lm_json_parse((lm_str){(const char *)map.data + 8, n}, &header, NULL) != LM_OK) header = NULL;
    lm_map_close(&map);
    return header;
}

/* Adds what one blob says to "quantization"; the first form found is the one of the whole model. */
static void add_blob(const char *store, const lm_layer *l, json_t **all, lm_quant_spec *usual) {
    const char *name;
    json_t *any;
    char *path = lm_blob_path(store, l->digest);
    json_t *header = read_header(path);
    json_object_foreach(header, name, any) {
        lm_str s = lm_str_of(name), tail = LM_STR(".weight.scale");
        lm_quant_spec spec;
        char tensor[300], module[300];
        if (!lm_str_ends(s, tail) || s.len >= sizeof tensor) continue;
        snprintf(module, sizeof module, "%.*s", (int)(s.len - tail.len), name);
        snprintf(tensor, sizeof tensor, "%.*s", (int)(s.len - strlen(".scale")), name);
        if (!spec_of(header, tensor, &spec))
            continue; /* the model room infers it, or says what is wrong */
        if (!*all) {
            *all = spec_json(spec);
            *usual = spec;
        } else if (memcmp(&spec, usual, sizeof spec)) {
            json_object_set_new(*all, module, spec_json(spec));
        }
    }
    json_decref(header);
    free(path);
}

bool lm_ollama_config(const char *store, const lm_manifest *m, lm_buf *out) {
    json_t *config = NULL, *all = NULL;
    lm_quant_spec usual = {0};
    for (uint32_t i = 0; i < m->n && !config; i++) {
        if (strcmp(m->layers[i].name, "config.json")) continue;
        char *path = lm_blob_path(store, m->layers[i].digest);
        bool ok = lm_json_load(path, MAX_CONFIG, &config, NULL) == LM_OK && json_is_object(config);
        free(path);
        if (!ok) break;
    }
    if (!json_is_object(config)) {
        json_decref(config);
        return false;
    }
    if (!json_is_object(
            json_object_get(config, "quantization"))) { /* else the makers had quantised it for MLX */
        for (uint32_t i = 0; i < m->n; i++)
            if (!strcmp(m->layers[i].type, LM_TYPE_TENSOR)) add_blob(store, &m->layers[i], &all, &usual);
        if (all) {
            json_object_del(config,
                            "quantization_config"); /* of the weights that Ollama has quantised anew */
            json_object_set_new(config, "quantization", all);
        }
    }
    lm_json_write_value(out, config);
    json_decref(config);
    return !out->failed;
}
