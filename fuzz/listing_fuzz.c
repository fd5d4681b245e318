/* What a backend answers the router's checks: a listing of models that can be searched, or an error; and the same bytes as
 * what is loaded, and as a description. */
#include <string.h>

#include "router/catalog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str text = {(const char *)data, size};
    catalog *c = NULL;
    catalog_show show;
    lm_err err = {0};
    if (catalog_read(&c, text, &err) == LM_OK) {
        LM_ASSERT(c->n <= CATALOG_MAX_MODELS);
        if (catalog_read_ps(c, text, &err) != LM_OK) LM_ASSERT(err.text[0]);
        for (uint32_t i = 0; i < c->n; i++) {
            const catalog_model *m = &c->models[i];
            lm_name n;
            LM_ASSERT(!i || strcmp(c->models[i - 1].key, m->key) < 0);
            LM_ASSERT(lm_name_parse(lm_str_of(m->shown), &n, NULL) == LM_OK && catalog_find(c, &n) == m &&
                      m->loaded);
            LM_ASSERT(strlen(m->digest) == 64 || !m->digest[0]);
        }
        catalog_free(c);
    } else {
        LM_ASSERT(err.text[0]);
    }
    if (catalog_read_show(text, &show, &err) == LM_OK) LM_ASSERT(!(show.able & NEED_FORMAT));
    return 0;
}
