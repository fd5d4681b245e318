/* POST /api/create: a model of the own store from another one, from a GGUF file or from the files of a model
 * directory, with an adapter and what else a Modelfile adds. Works on a thread of its own and says how far it
 * is. */
#include "api/ollama_create.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/progress.h"

#define MAX_TEXT (16u << 20)

typedef struct create {
    ollama_create_request r;
    lm_store *store;
    lm_draft *draft;
    lm_adapter_source adapter; /* where the request has one */
    ollama_progress progress;
} create;

/* ---- another form of the weights */

static bool converting(void *ctx, uint64_t done, uint64_t total) {
    create *c = ctx;
    bool goes_on = ollama_progress_bytes(&c->progress, done, total);
    if (goes_on && done == total) ollama_progress_status(&c->progress, "verifying conversion");
    return goes_on;
}

/* What shall be done to weights of that form; false: nothing. */
static bool must_convert(const create *c, const lm_form_info *is, char doing[100]) {
    snprintf(doing, 100, "converting model"); /* into one that runs here, in any case */
    if (c->r.quantizes) snprintf(doing, 100, "quantizing %s model to %s", is->form, c->r.quantize.name);
    return is->foreign || (c->r.quantizes && strcmp(c->r.quantize.name, is->form) != 0);
}

static const lm_conversion *asked(const create *c) {
    return c->r.quantizes ? &c->r.quantize : NULL;
}

static lm_status convert(create *c, lm_err *err) {
    lm_form_info is;
    char doing[100];
    lm_status st = lm_draft_look(c->draft, &is, err);
    if (st != LM_OK || !must_convert(c, &is, doing)) return st;
    c->progress.reading = doing;
    return lm_draft_convert(c->draft, asked(c), converting, c, err);
}

/* ---- from where */

static lm_status take_model(create *c, const lm_entry *model, lm_err *err) {
    lm_form_info is;
    char doing[800];
    lm_status st = LM_OK;
    if (!model->managed) { /* what is in the own store has been looked at when it came */
        st = lm_convert_look(model->dir, &is, err);
        if (st == LM_OK && must_convert(c, &is, doing)) {
            c->progress.reading = doing;
            return lm_draft_from_converted(c->draft, model, asked(c), converting, c, err);
        }
    }
    snprintf(doing, sizeof doing, "reading %s", model->name);
    c->progress.reading = doing;
    if (st == LM_OK) st = lm_draft_from(c->draft, model, ollama_progress_bytes, &c->progress, err);
    return st == LM_OK && c->r.quantizes && model->managed ? convert(c, err) : st;
}

static lm_status from_model(create *c, lm_err *err) {
    lm_entry model;
    lm_name name;
    if (lm_name_parse(lm_str_of(c->r.from), &name, NULL) != LM_OK)
        return lm_fail(err, LM_INVALID, "invalid model name");
    lm_status st = lm_store_find(c->store, c->r.from, &model, err);
    if (st == LM_NOT_FOUND) { /* as Ollama: who makes a model from another one asks for that one, too */
        st = ollama_pull_model(&c->progress, c->r.from, false, err);
        if (st == LM_OK) st = lm_store_find(c->store, c->r.from, &model, err);
        if (st != LM_OK && st != LM_CANCELLED) st = LM_INTERNAL;
    }
    if (st == LM_OK && model.gguf) {
        c->progress.reading = "converting model";
        st = lm_store_ready(c->store, &model, ollama_progress_bytes, &c->progress, err);
    }
    return st == LM_OK ? take_model(c, &model, err) : st;
}

/* ---- files */

static bool ends(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && !strcmp(name + n - k, suffix);
}

/* Text files that a model directory is made of, beside its JSON and its weights. */
static bool belongs(const char *name) {
    static const char *const suffixes[] = {".safetensors", ".json",     ".jinja", ".model",
                                           ".txt",         ".tiktoken", ".md"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (ends(name, suffixes[i])) return true;
    return !strncasecmp(name, "license", 7);
}

/* All files are GGUF files, then: one, or the parts of one model. */
static lm_status from_gguf(create *c, lm_err *err) {
    const char *name;
    json_t *digest;
    lm_status st = LM_OK;
    uint32_t n = 0;
    bool foreign = false;
    lm_gguf_file *files = lm_alloc(json_object_size(c->r.files) * sizeof *files);
    char(*digests)[LM_DIGEST_SIZE] = lm_alloc(json_object_size(c->r.files) * sizeof *digests);
    json_object_foreach(c->r.files, name, digest) {
        if (st == LM_OK && json_object_size(c->r.files) > 1 && !ends(name, ".gguf"))
            st = lm_fail(err, LM_INVALID, "\"%.200s\" is no part of a GGUF model: leave it out", name);
        if (st == LM_OK) st = lm_digest_parse(lm_str_of(json_string_value(digest)), digests[n], err);
        if (st == LM_OK && lm_store_has_blob(c->store, digests[n])) {
            bool gguf = lm_store_blob_is_gguf(c->store, digests[n]);
            /* one of another name was taken for a GGUF file, unseen */
            if (!gguf && !ends(name, ".gguf")) st = lm_fail(err, LM_INVALID, "unknown type");
            foreign = foreign || !gguf;
        }
        files[n].digest = digests[n];
        n++;
    }
    if (st == LM_OK) {
        ollama_progress_status(&c->progress, "parsing GGUF");
        c->progress.reading = "converting model";
        st = foreign ? lm_fail(err, LM_INVALID, "supplied file was not in GGUF format")
                     : lm_draft_import(c->draft, files, n, ollama_progress_bytes, &c->progress, err);
        if (st == LM_OK && c->r.quantizes) st = convert(c, err);
        if (st == LM_NOT_FOUND || st == LM_CORRUPT) st = LM_INVALID; /* the client's files */
    }
    free(files);
    free(digests);
    return st;
}

static lm_status from_directory(create *c, lm_err *err) {
    const char *name;
    json_t *digest;
    lm_status st = LM_OK;
    json_object_foreach(c->r.files, name, digest) {
        char parsed[LM_DIGEST_SIZE];
        if (!belongs(name)) return lm_fail(err, LM_INVALID, "unknown type");
        st = lm_digest_parse(lm_str_of(json_string_value(digest)), parsed, err);
        if (st == LM_OK) st = lm_draft_blob(c->draft, name, parsed, err);
        if (st == LM_NOT_FOUND) st = LM_INVALID;
        if (st != LM_OK) return st;
    }
    st = convert(c, err);
    if (st == LM_OK) st = lm_draft_check(c->draft, err);
    return st == LM_NOT_FOUND || st == LM_CORRUPT ? LM_INVALID : st;
}

static lm_status from_files(create *c, lm_err *err) {
    const char *name;
    json_t *digest;
    bool safetensors = false;
    json_object_foreach(c->r.files, name, digest) {
        if (ends(name, ".gguf")) return from_gguf(c, err);
        safetensors = safetensors || ends(name, ".safetensors");
    }
    /* A single file of another name is taken for a GGUF file, as its content will tell. */
    json_object_foreach(c->r.files, name, digest) {
        if (!safetensors && !belongs(name)) return from_gguf(c, err);
    }
    return safetensors ? from_directory(c, err) : lm_fail(err, LM_INVALID, "unknown type");
}

/* ---- an adapter */

/* A failure that the client's files are to blame for. */
static lm_status clients_fault(lm_status st) {
    bool clients = st == LM_NOT_FOUND || st == LM_CORRUPT || st == LM_UNSUPPORTED || st == LM_TOO_LARGE;
    return clients ? LM_INVALID : st;
}

static lm_status find_adapter(create *c, lm_err *err) {
    const char *name;
    json_t *digest;
    lm_status st = LM_OK;
    uint32_t n = 0;
    if (!json_object_size(c->r.adapters)) return LM_OK;
    lm_named_blob *files = lm_alloc(json_object_size(c->r.adapters) * sizeof *files);
    json_object_foreach(c->r.adapters, name, digest) {
        files[n].name = name;
        if (st == LM_OK) st = lm_digest_parse(lm_str_of(json_string_value(digest)), files[n++].digest, err);
    }
    if (st == LM_OK) st = lm_adapter_source_of(c->store, files, n, &c->adapter, err);
    free(files);
    return clients_fault(st);
}

static lm_status add_adapter(create *c, lm_err *err) {
    if (!json_object_size(c->r.adapters)) return LM_OK;
    ollama_progress_status(&c->progress, c->adapter.gguf ? "parsing GGUF" : "converting adapter");
    return clients_fault(lm_draft_adapter(c->draft, &c->adapter, err));
}

/* ---- what the Modelfile adds */

static lm_status replace(create *c, lm_layer_kind kind, lm_str text, lm_err *err) {
    lm_draft_drop(c->draft, kind);
    return lm_draft_add(c->draft, kind, text, err);
}

static lm_status replace_json(create *c, lm_layer_kind kind, const json_t *value, lm_err *err) {
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    lm_json_write_value(&b, value);
    lm_status st = lm_buf_status(&b, kind == LM_LAYER_PARAMS ? "parameters" : "messages", err);
    if (st == LM_OK) st = replace(c, kind, lm_buf_view(&b), err);
    lm_buf_release(&b);
    return st;
}

/* New values go over those of the model that this one comes from. */
static lm_status merge_params(create *c, lm_err *err) {
    lm_buf old;
    json_t *params = NULL;
    lm_buf_init(&old, MAX_TEXT);
    lm_status st = lm_draft_text(c->draft, LM_LAYER_PARAMS, &old, err);
    if (st == LM_OK && old.len) st = lm_json_parse(lm_buf_view(&old), &params, err);
    if (st == LM_OK && !json_is_object(params)) {
        json_decref(params);
        params = json_object();
    }
    if (st == LM_OK) {
        json_object_update(params, c->r.params);
        st = replace_json(c, LM_LAYER_PARAMS, params, err);
    }
    json_decref(params);
    lm_buf_release(&old);
    return st;
}

static lm_status add_licenses(create *c, lm_err *err) {
    size_t i;
    json_t *one;
    lm_status st = LM_OK;
    lm_draft_drop(c->draft, LM_LAYER_LICENSE);
    json_array_foreach(c->r.licenses, i, one) {
        lm_str text = {json_string_value(one), json_string_length(one)};
        if (st == LM_OK) st = lm_draft_add(c->draft, LM_LAYER_LICENSE, text, err);
    }
    return st;
}

static lm_status add_parts(create *c, lm_err *err) {
    const ollama_create_request *r = &c->r;
    lm_status st = LM_OK;
    if (r->template[0]) st = replace(c, LM_LAYER_TEMPLATE, lm_str_of(r->template), err);
    if (st == LM_OK && r->system[0]) st = replace(c, LM_LAYER_SYSTEM, lm_str_of(r->system), err);
    if (st == LM_OK && json_array_size(r->licenses)) st = add_licenses(c, err);
    if (st == LM_OK && json_object_size(r->params)) st = merge_params(c, err);
    if (st == LM_OK && json_array_size(r->messages))
        st = replace_json(c, LM_LAYER_MESSAGES, r->messages, err);
    if (r->requires[0]) lm_draft_requires(c->draft, r->requires);
    return st;
}

/* ---- all of it */

static void say_layer(void *ctx, const char *digest, bool existing) {
    create *c = ctx;
    char text[128];
    if (!digest) {
        ollama_progress_status(&c->progress, "writing manifest");
        return;
    }
    snprintf(text, sizeof text, "%s layer %s", existing ? "using existing" : "creating new", digest);
    ollama_progress_status(&c->progress, text);
}

static lm_status make(create *c, lm_err *err) {
    lm_status st = lm_draft_open(&c->draft, c->store, err);
    if (st != LM_OK) return st;
    st = find_adapter(c, err); /* first: it fails before gigabytes are read */
    if (st == LM_OK && c->r.from[0])
        st = from_model(c, err);
    else if (st == LM_OK && c->r.files)
        st = from_files(c, err);
    else if (st == LM_OK)
        st = lm_fail(err, LM_INVALID, "neither 'from' or 'files' was specified");
    if (st == LM_OK) st = add_adapter(c, err);
    if (st == LM_OK) st = add_parts(c, err);
    if (st == LM_OK && lm_call_gone(c->progress.call)) st = lm_fail(err, LM_CANCELLED, "cancelled");
    if (st == LM_OK) st = lm_draft_commit(c->draft, c->r.model, say_layer, c, err);
    lm_draft_close(c->draft);
    return st;
}

static void work(lm_call *call, void *arg) {
    create *c = arg;
    lm_err err = {0};
    (void)call;
    lm_status st = make(c, &err);
    ollama_progress_end(&c->progress, st, err.text);
    ollama_create_release(&c->r);
    free(c);
}

void ollama_create(lm_call *call) {
    create *c = lm_alloc(sizeof *c);
    lm_err err = {0};
    c->store = call->api->config.store;
    lm_status st = lm_http_body_status(call->x, &err);
    if (st == LM_OK) st = ollama_create_read(lm_http_body(call->x), &c->r, &err);
    lm_http_body_drop(call->x);
    if (st == LM_OK) {
        lm_call_note_model(call, c->r.model);
        c->progress = (ollama_progress){.call = call, .stream = c->r.stream};
        st = lm_call_detach(call, work, c, &err);
    }
    if (st == LM_OK) return;
    ollama_create_release(&c->r);
    free(c);
    ollama_error(call, st, err.text);
}
