/* One GGUF model, of one file or of several, into one model directory. */
#include "store/import_private.h"

#include <stdlib.h>

#include "base/file.h"
#include "store/newdir.h"

static lm_status fill(const lm_gguf *g, const char *dir, lm_store_progress *progress, void *ctx,
                      char sha256[LM_DIGEST_SIZE], lm_err *err) {
    const lm_family *family = NULL;
    lm_plan *plan = NULL;
    char *weights = lm_path_join(dir, "model.safetensors");
    lm_status st = lm_family_of(g, &family, err);
    if (st == LM_OK) st = lm_plan_open(&plan, g, family, err);
    if (st == LM_OK)
        st = lm_import_config(g, family, plan, dir, err); /* the small files first: they fail soonest */
    if (st == LM_OK) st = lm_import_tokenizer(g, dir, err);
    if (st == LM_OK) st = lm_plan_write(plan, weights, progress, ctx, sha256, err);
    lm_plan_close(plan);
    free(weights);
    return st;
}

lm_status lm_import_gguf(const char *gguf, const char *dir, lm_store_progress *progress, void *ctx,
                         lm_err *err) {
    return lm_import_parts(&gguf, 1, dir, NULL, progress, ctx, err);
}

lm_status lm_import_parts(const char *const *files, uint32_t n, const char *dir, char sha256[LM_DIGEST_SIZE],
                          lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_newdir place = {.lock = -1};
    lm_gguf *g = NULL;
    lm_status st = lm_gguf_open_parts(&g, files, n, err);
    if (st == LM_OK) st = lm_newdir_open(&place, dir, "importing", err);
    if (st == LM_OK) {
        st = fill(g, place.temp, progress, ctx, sha256, err);
        if (st != LM_OK) lm_fail_in(err, st, "import %s", files[0]);
        if (st == LM_OK) st = lm_newdir_commit(&place, err);
    }
    lm_newdir_close(&place);
    lm_gguf_close(g);
    return st;
}
