#include "store/modelfile.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"

#define MAX_TEXT (16u << 20) /* bytes of one file */

static lm_status read_text(const char *dir, const char *name, char **out, lm_err *err) {
    lm_buf text;
    char *path = lm_path_join(dir, name);
    lm_buf_init(&text, MAX_TEXT);
    lm_err why = {0};
    lm_status st = lm_file_read(path, MAX_TEXT - 1, &text, &why);
    if (st == LM_OK && text.len) *out = lm_str_dup(lm_buf_view(&text));
    lm_buf_release(&text);
    free(path);
    return st == LM_OK || st == LM_NOT_FOUND ? LM_OK : lm_fail(err, st, "%s", why.text);
}

static lm_status read_json(const char *dir, const char *name, bool array, json_t **out, lm_err *err) {
    json_t *value = NULL;
    char *path = lm_path_join(dir, name);
    lm_err why = {0};
    lm_status st = lm_json_load(path, MAX_TEXT, &value, &why);
    if (st == LM_OK && !(array ? json_is_array(value) : json_is_object(value))) {
        st = lm_fail(&why, LM_CORRUPT, "%s holds no JSON %s", path, array ? "array" : "object");
        json_decref(value);
    } else if (st == LM_OK) {
        *out = value;
    }
    free(path);
    return st == LM_OK || st == LM_NOT_FOUND ? LM_OK : lm_fail(err, st, "%s", why.text);
}

lm_status lm_modelfile_read(lm_modelfile *out, const char *dir, lm_err *err) {
    lm_modelfile m = {0};
    lm_status st = read_json(dir, "params", false, &m.params, err);
    if (st == LM_OK) st = read_json(dir, "messages", true, &m.messages, err);
    if (st == LM_OK) st = read_text(dir, "system", &m.system, err);
    if (st == LM_OK) st = read_text(dir, "template", &m.template, err);
    if (st == LM_OK) st = read_text(dir, "requires", &m.requires, err);
    if (st != LM_OK) {
        lm_modelfile_release(&m);
        return st;
    }
    *out = m;
    return LM_OK;
}

void lm_modelfile_release(lm_modelfile *m) {
    json_decref(m->params);
    json_decref(m->messages);
    free(m->system);
    free(m->template);
    free(m->requires);
    *m = (lm_modelfile){0};
}
