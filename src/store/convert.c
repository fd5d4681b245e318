/* convert.c - a directory's weights converted into another directory. */
#include <stdio.h>
#include <string.h>

#include "store/convert.h"

lm_status lm_convert_look(const char *dir, lm_form_info *out, lm_err *err) {
    lm_convert_plan *p = NULL;
    lm_form_info info = {0};
    lm_status st = lm_convert_plan_open(&p, dir, NULL, err);
    if (st != LM_OK) return st;
    info.foreign = p->needed;
    if (!p->quantised) snprintf(info.form, sizeof info.form, "%s", lm_dtype_name(p->mostly));
    lm_convert_plan_close(p);
    *out = info;
    return LM_OK;
}

lm_status lm_convert_dir(const char *from, const char *to, const lm_conversion *how,
                         lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_convert_plan *p = NULL;
    lm_status st = lm_convert_plan_open(&p, from, how, err);
    if (st == LM_OK) st = lm_convert_write(p, to, progress, ctx, err);
    lm_convert_plan_close(p);
    return st;
}
