/* From a JSON body to a request for vectors. Works on text alone: nothing here knows which models there are.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/embed.h"
#include "api/fields.h"
#include "api/options.h"

#define MAX_INPUTS 65536
#define MAX_IDS    (1u << 24)

void embed_request_release(embed_request *r) {
    ollama_request_release(&r->ask);
}

static void fail(lm_fields *f, const char *text) {
    if (f->st == LM_OK) f->st = lm_fail(&f->err, LM_INVALID, "%s", text);
}

static void put_text(lm_input *in, const json_t *text) {
    in->n = json_string_length(text);
    in->text = lm_str_dup((lm_str){json_string_value(text), in->n});
}

static void put_ids(lm_fields *f, lm_input *in, const json_t *list) {
    const json_t *one;
    size_t i, n = json_array_size(list);
    in->ids = n && n <= MAX_IDS ? lm_try_alloc(n, sizeof *in->ids) : NULL;
    if (!in->ids) {
        fail(f, n ? "input holds too many tokens" : "invalid input");
        return;
    }
    in->n = n;
    json_array_foreach((json_t *)(uintptr_t)list, i, one) {
        json_int_t id = json_is_integer(one) ? json_integer_value(one) : -1;
        if (id < 0 || id > INT32_MAX) fail(f, "invalid input");
        in->ids[i] = (int32_t)id;
    }
}

static lm_input *make_room(lm_fields *f, lm_request *to, size_t n) {
    if (n > MAX_INPUTS) {
        fail(f, "input holds too many texts, at most 65536 are allowed");
        return NULL;
    }
    to->inputs = lm_alloc((n + 1) * sizeof *to->inputs);
    to->n_inputs = (uint32_t)n;
    return to->inputs;
}

/* A string or strings; for OpenAI tokens too, of one input or of several. */
static void read_input(lm_fields *f, embed_form form, lm_request *to) {
    const char *wrong = form == EMBED_OPENAI ? "invalid input" : "invalid input type";
    const json_t *input = f->st == LM_OK ? lm_field(f->object, "input") : NULL, *one;
    bool empty = json_is_string(input) && !json_string_length(input);
    size_t i;
    if (form == EMBED_OPENAI && (!input || (json_is_array(input) && !json_array_size(input)))) fail(f, wrong);
    if (!input || (empty && form == EMBED_OLLAMA)) return;
    bool ids = form == EMBED_OPENAI && json_is_integer(json_array_get(input, 0));
    if (json_is_string(input) || ids) {
        make_room(f, to, 1);
        if (ids)
            put_ids(f, to->inputs, input);
        else
            put_text(to->inputs, input);
        return;
    }
    if (!json_is_array(input)) {
        fail(f, wrong);
        return;
    }
    if (!make_room(f, to, json_array_size(input))) return;
    json_array_foreach((json_t *)(uintptr_t)input, i, one) {
        if (json_is_string(one))
            put_text(&to->inputs[i], one);
        else if (json_is_array(one) && form == EMBED_OPENAI)
            put_ids(f, &to->inputs[i], one);
        else
            fail(f, wrong);
        if (f->st != LM_OK) return;
    }
}

static void read_prompt(lm_fields *f, lm_request *to) {
    const char *prompt = "";
    size_t n = 0;
    lm_field_str(f, "prompt", &prompt, &n);
    if (f->st != LM_OK || !n) return;
    make_room(f, to, 1);
    to->inputs[0] = (lm_input){.text = lm_str_dup((lm_str){prompt, n}), .n = n};
}

/* Ollama leaves a vector whole when fewer numbers than none or more than all are wanted; for OpenAI that is a
 * mistake (that it is too many is seen when the model is known). */
static void read_dimensions(lm_fields *f, embed_form form, lm_request *to) {
    int64_t n = 0;
    lm_field_int(f, "dimensions", &n);
    if (form == EMBED_OPENAI && lm_field(f->object, "dimensions") && n < 1)
        fail(f, "dimensions must be at least 1");
    if (n > 0) to->dimensions = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static void read_encoding(lm_fields *f, embed_request *r) {
    const char *encoding = "";
    lm_field_str(f, "encoding_format", &encoding, NULL);
    r->base64 = !strcasecmp(encoding, "base64");
    if (f->st == LM_OK && encoding[0] && !r->base64 && strcasecmp(encoding, "float") != 0)
        f->st = lm_fail(&f->err, LM_INVALID,
                        "Invalid value for 'encoding_format' = %.80s. Supported values: ['float', 'base64'].",
                        encoding);
}

static void read_all(lm_fields *f, embed_request *r) {
    lm_request *to = r->ask.request;
    const char *model = "";
    lm_field_str(f, "model", &model, NULL);
    r->ask.model = lm_strdup(model);
    to->normalize = r->form != EMBED_LEGACY;
    if (r->form == EMBED_LEGACY) {
        to->truncate = false; /* as Ollama: the newer endpoint cuts */
        read_prompt(f, to);
    } else {
        read_input(f, r->form, to);
        read_dimensions(f, r->form, to);
    }
    if (r->form == EMBED_OLLAMA) lm_field_bool(f, "truncate", &to->truncate);
    if (r->form == EMBED_OPENAI) {
        read_encoding(f, r);
        return;
    }
    json_t *options = lm_field_object(f, "options", "map[string]interface {}");
    if (f->st == LM_OK)
        f->st = lm_keep_alive_read(lm_field(f->object, "keep_alive"), &to->keep_alive_ns, &f->err);
    if (f->st == LM_OK) r->ask.options = json_incref(options);
}

lm_status embed_request_read(lm_str body, embed_form form, embed_request *out, lm_err *err) {
    const char *type = form == EMBED_LEGACY ? "EmbeddingRequest" : "EmbedRequest";
    json_t *object = NULL;
    lm_status st = lm_fields_parse(body, type, &object, err);
    if (st != LM_OK) return st;
    embed_request r = {.form = form, .ask = {.request = lm_request_new()}};
    lm_fields f = lm_fields_of(object, type);
    read_all(&f, &r);
    r.ask.request->kind = r.ask.request->n_inputs ? LM_REQUEST_EMBED : LM_REQUEST_LOAD;
    json_decref(object);
    if (f.st != LM_OK) {
        embed_request_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}
