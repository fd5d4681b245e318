/* Manifests, and what they refer to by name: whatever comes is refused, or is written back as the same
 * layers. */
#include <stdlib.h>
#include <string.h>

#include "store/own.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const lm_manifest *m) {
    lm_manifest again = {0};
    lm_err err = {0};
    lm_buf text;
    lm_buf_init(&text, 64u << 20);
    lm_manifest_write(m, &text);
    if (text.failed || lm_manifest_parse(lm_buf_view(&text), &again, &err) != LM_OK) abort();
    if (again.n != m->n || strcmp(again.config.digest, m->config.digest)) abort();
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *a = &m->layers[i], *b = &again.layers[i];
        if (strcmp(a->digest, b->digest) || a->size != b->size || strcmp(a->type, b->type)) abort();
    }
    lm_manifest_release(&again);
    lm_buf_release(&text);
}

/* No name leads out of the view, or to the place of something else. */
static void check_names(const lm_manifest *m) {
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (strlen(l->digest) != LM_DIGEST_SIZE - 1 || strspn(l->digest + 7, "0123456789abcdef") != 64)
            abort();
        if (lm_layer_kind_of(l) != LM_LAYER_FILE) continue;
        if (!l->name[0] || l->name[0] == '/' || l->name[0] == '.' || strstr(l->name, "/.")) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_manifest m = {0};
    lm_err err = {0};
    lm_status st = lm_manifest_parse((lm_str){(const char *)data, size}, &m, &err);
    if (st == LM_OK) {
        check_names(&m);
        check_again(&m);
    } else if (!err.text[0] || m.layers) {
        abort();
    }
    lm_manifest_release(&m);
    return 0;
}
