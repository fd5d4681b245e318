#include <string.h>

#include "api/ollama_create.h"
#include "api/options.h"
#include "text/text.h"

void ollama_create_release(ollama_create_request *r) {
    json_decref(r->body);
    json_decref(r->licenses);
    json_decref(r->params);
    json_decref(r->messages);
    *r = (ollama_create_request){0};
}

/* What Go's fs.ValidPath takes: no '/' at either end, no empty, "." or ".." part. */
static bool is_relative(const char *path) {
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        p += n;
        if (!*p) return true;
    }
}

static void refuse(lm_fields *f, const char *text) {
    if (f->st == LM_OK) f->st = lm_fail(&f->err, LM_INVALID, "%s", text);
}

/* An object of names and digests; NULL when there is none. */
static json_t *read_files(lm_fields *f, const char *field) {
    const char *name;
    json_t *digest, *files = lm_field_object(f, field, "map[string]string");
    json_object_foreach(files, name, digest) {
        if (!json_is_string(digest)) lm_field_wrong(f, field, digest, "string");
        if (!is_relative(name)) refuse(f, "file path must be relative");
    }
    return files;
}

static void read_license(lm_fields *f, ollama_create_request *r) {
    json_t *v = lm_field(f->object, "license"), *one;
    size_t i;
    if (json_is_string(v) && json_string_length(v)) json_array_append(r->licenses, v);
    if (v && !json_is_string(v) && !json_is_array(v)) refuse(f, "license must be a text, or a list of texts");
    if (!json_is_array(v)) return;
    json_array_foreach(v, i, one) {
        if (json_is_string(one))
            json_array_append(r->licenses, one);
        else
            refuse(f, "license must be a text, or a list of texts");
    }
}

/* Checked here and not only when somebody uses the model. A single stop string is a list of one. */
static void read_params(lm_fields *f, ollama_create_request *r) {
    json_t *v = lm_field_object(f, "parameters", "map[string]interface {}");
    if (!v) return;
    json_object_update(r->params, v);
    json_t *stop = json_object_get(r->params, "stop");
    if (json_is_string(stop)) json_object_set_new(r->params, "stop", json_pack("[O]", stop));
    lm_request *probe = lm_request_new();
    if (f->st == LM_OK && lm_options_read(r->params, probe, &f->err) != LM_OK) f->st = LM_INVALID;
    lm_request_free(probe);
}

static bool is_version(const char *text) {
    size_t parts = 0;
    if (text[0] == 'v') text++;
    for (const char *p = text;; p++) {
        size_t n = strspn(p, "0123456789");
        if (n == 0 || n > 9) return false;
        parts++;
        p += n;
        if (*p != '.' || parts == 3) return parts == 3 && (!*p || *p == '-' || *p == '+') && strlen(p) < 100;
    }
}

static void read_quantize(lm_fields *f, ollama_create_request *r) {
    const char *quantize = "", *older = "";
    lm_field_str(f, "quantize", &quantize, NULL);
    lm_field_str(f, "quantization", &older, NULL);
    if (!quantize[0]) quantize = older;
    r->quantizes = quantize[0] != '\0';
    if (r->quantizes && f->st == LM_OK) f->st = lm_conversion_parse(quantize, &r->quantize, &f->err);
}

/* What Ollama's models may hold and this server does not run: said before anything is done. */
static void read_unsupported(lm_fields *f) {
    const char *host = "";
    lm_field_str(f, "remote_host", &host, NULL);
    json_t *drafts = read_files(f, "draft_files");
    if (json_object_size(drafts)) refuse(f, "draft models are not supported: leave draft_files out");
    if (host[0]) refuse(f, "remote models are not supported: leave remote_host out");
}

lm_status ollama_create_read(lm_str body, ollama_create_request *out, lm_err *err) {
    ollama_create_request r = {
        .model = "", .from = "", .template = "", .system = "", .requires = "", .stream = true};
    const char *name = "";
    bool images = false;
    lm_status st = lm_fields_parse(body, "CreateRequest", &r.body, err);
    if (st != LM_OK) return st;
    lm_fields f = lm_fields_of(r.body, "CreateRequest");
    r.licenses = json_array();
    r.params = json_object();
    lm_field_str(&f, "model", &r.model, NULL);
    lm_field_str(&f, "name", &name, NULL);
    if (!r.model[0]) r.model = name;
    lm_field_str(&f, "from", &r.from, NULL);
    lm_field_str(&f, "template", &r.template, NULL);
    lm_field_str(&f, "system", &r.system, NULL);
    lm_field_str(&f, "requires", &r.requires, NULL);
    lm_field_bool(&f, "stream", &r.stream);
    r.files = read_files(&f, "files");
    r.adapters = read_files(&f, "adapters");
    read_license(&f, &r);
    read_params(&f, &r);
    r.messages = ollama_messages_read(&f, &images);
    lm_name parsed;
    if (f.st == LM_OK) f.st = lm_name_parse(lm_str_of(r.model), &parsed, &f.err);
    read_unsupported(&f);
    read_quantize(&f, &r);
    if (r.template[0] && f.st == LM_OK) f.st = lm_go_template_check(lm_str_of(r.template), &f.err);
    if (images) refuse(&f, "images in messages are not supported");
    if (r.requires[0] && !is_version(r.requires)) refuse(&f, "requires must be a valid semver (e.g. 0.14.0)");
    if (f.st != LM_OK) {
        ollama_create_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}
