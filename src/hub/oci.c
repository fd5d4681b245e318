/* oci.c - the manifest of a model in a registry (Docker's image manifest, version 2, with Ollama's layers).
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "hub/private.h"

static lm_status read_layer(const json_t *v, lm_remote *out, lm_err *err) {
    const char *type = json_string_value(json_object_get(v, "mediaType"));
    const char *digest = json_string_value(json_object_get(v, "digest"));
    const char *name = json_string_value(json_object_get(v, "name"));
    const json_t *size = json_object_get(v, "size");
    *out = (lm_remote){.fd = -1};
    if (!type || strlen(type) >= sizeof out->type || (name && strlen(name) >= sizeof out->name) || !digest ||
        !json_is_integer(size) || json_integer_value(size) < 0 ||
        (uint64_t)json_integer_value(size) > LM_HUB_MAX_BYTES)
        return lm_fail(err, LM_CORRUPT, "a layer has no media type, digest or size");
    strcpy(out->type, type);
    if (name) strcpy(out->name, name);
    out->size = (uint64_t)json_integer_value(size);
    return lm_digest_parse(lm_str_of(digest), out->digest, err);
}

lm_status lm_oci_parse(lm_str text, lm_listing *out, lm_err *err) {
    json_t *root = NULL, *one;
    lm_listing l = {0};
    size_t i;
    lm_status st = lm_json_parse(text, &root, err);
    json_t *layers = json_object_get(root, "layers");
    if (st == LM_OK && (!json_is_array(layers) || !json_array_size(layers)))
        st = lm_fail(err, LM_CORRUPT, "it has no layers");
    if (st == LM_OK && json_array_size(layers) > LM_HUB_MAX_LAYERS)
        st = lm_fail(err, LM_CORRUPT, "it has more than %d layers", LM_HUB_MAX_LAYERS);
    if (st == LM_OK) l.files = lm_alloc((json_array_size(layers) + 1) * sizeof *l.files);
    json_array_foreach(layers, i, one) {
        if (st != LM_OK) break;
        st = read_layer(one, &l.files[l.n], err);
        if (st == LM_OK) l.n++;
    }
    one = json_object_get(root, "config");
    if (st == LM_OK && json_is_object(one)) {
        st = read_layer(one, &l.files[l.n], err);
        if (st == LM_OK) l.n++;
    }
    json_decref(root);
    if (st != LM_OK) {
        lm_listing_release(&l);
        return lm_fail_in(err, LM_CORRUPT, "the registry's answer is not a manifest");
    }
    *out = l;
    return LM_OK;
}
