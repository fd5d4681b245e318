/* Chat templates behind text.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/private.h"

struct lm_template {
    lmr_tmpl *rust;
    char *source;
    size_t len;
};

/* What strftime_now gives to a template: Python's datetime.now().strftime(). */
static size_t local_time(const char *format, char *out, size_t room) {
    time_t now = time(NULL);
    struct tm tm;
    if (!localtime_r(&now, &tm)) return 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    return strftime(out, room, format, &tm);
#pragma GCC diagnostic pop
}

lm_status lm_template_open(lm_template **out, lm_str source, lm_err *err) {
    char text[400] = "";
    lmr_tmpl *rust = NULL;
    int code = lmr_tmpl_open(&rust, source.ptr, source.len, local_time, (lmr_err_text){text, sizeof text});
    if (code != LMR_OK) return lm_rust_status(code, text, err);
    lm_template *t = lm_alloc(sizeof *t);
    t->rust = rust;
    t->source = lm_str_dup(source); /* at most 1 MB: the Rust side has checked */
    t->len = source.len;
    *out = t;
    return LM_OK;
}

void lm_template_close(lm_template *t) {
    if (!t) return;
    lmr_tmpl_close(t->rust);
    free(t->source);
    free(t);
}

lm_str lm_template_source(const lm_template *t) {
    return (lm_str){t->source, t->len};
}

lm_status lm_template_render(const lm_template *t, lm_str context, lm_buf *out, lm_err *err) {
    char text[500] = "";
    int code = lmr_tmpl_render(t->rust, context.ptr, context.len, lm_rust_to_buf, out,
                               (lmr_err_text){text, sizeof text});
    if (code != LMR_OK) return lm_rust_status(code, text, err);
    return lm_buf_status(out, "the prompt", err);
}

bool lm_template_uses(const lm_template *t, const char *variable) {
    return lmr_tmpl_uses(t->rust, variable, strlen(variable));
}
