/* The files of a model directory that are about text, and the rules that decide what a model can do.
 *
 * Only tokenizer.json must be there; of the other files each has its part when it is there, and one that is
 * there but damaged is an error that names it.
 *
 * Ends of a generation come from everywhere, because the files of one model rarely agree: eos_token_id of
 * generation_config.json and config.json, the eos_token of tokenizer_config.json and special_tokens_map.json,
 * and the end-of-turn tokens that chat models are known to have (a base model's eos in the files of its chat
 * version is common).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/private.h"

#define MAX_JSON_BYTES     (32u << 20)
#define MAX_TEMPLATE_BYTES (1u << 20)
#define MAX_PARSER_BYTES   256

/* ---- reading ------------------------------------------------------------------------------------------- */

/* An optional file with an object in it; *out stays NULL when it is absent. */
static lm_status load_object(const char *dir, const char *name, json_t **out, lm_err *err) {
    char *path = lm_path_join(dir, name);
    lm_status st = lm_json_load(path, MAX_JSON_BYTES, out, err);
    if (st == LM_NOT_FOUND) {
        st = LM_OK;
    } else if (st == LM_OK && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        st = lm_fail(err, LM_CORRUPT, "%s: not a JSON object", path);
    }
    free(path);
    return st;
}

/* The template in a file: a string, or a list of {name, template} of which "default" is taken. */
static const json_t *template_of(const json_t *file) {
    const json_t *v = json_object_get(file, "chat_template");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && !strcmp(name, "default")) return json_object_get(one, "template");
    }
    return v;
}

/* A template that is a file of its own; LM_NOT_FOUND when it is not there. */
static lm_status read_template(lm_text_files *f, const char *dir, const char *name, lm_err *err) {
    char *path = lm_path_join(dir, name);
    lm_status st = lm_file_read(path, MAX_TEMPLATE_BYTES, &f->chat, err);
    free(path);
    f->chat_file = name;
    f->has_chat = st == LM_OK;
    return st;
}

/* What a Modelfile says counts before the makers' files. Of those as transformers: chat_template.jinja before
 * chat_template.json before tokenizer_config.json. */
static lm_status read_chat(lm_text_files *f, const char *dir, lm_err *err) {
    json_t *file = NULL;
    lm_status st = read_template(f, dir, "template", err);
    f->is_go = st == LM_OK;
    if (st == LM_NOT_FOUND) st = read_template(f, dir, "chat_template.jinja", err);
    if (st != LM_NOT_FOUND) return st;
    st = load_object(dir, "chat_template.json", &file, err);
    if (st != LM_OK) return st;
    f->chat_file = file ? "chat_template.json" : "tokenizer_config.json";
    const json_t *text = template_of(file ? file : f->config);
    f->has_chat = json_is_string(text) && json_string_length(text);
    if (f->has_chat) lm_buf_add(&f->chat, json_string_value(text), json_string_length(text));
    json_decref(file);
    return lm_buf_status(&f->chat, "the chat template", err);
}

/* The file `parser`: the name of a family, nothing else. */
static lm_status read_parser(lm_text_files *f, const char *dir, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, MAX_PARSER_BYTES);
    char *path = lm_path_join(dir, "parser");
    lm_status st = lm_file_read(path, MAX_PARSER_BYTES, &text, err);
    if (st == LM_NOT_FOUND) {
        st = LM_OK;
    } else if (st == LM_OK) {
        lm_str name = lm_str_trim(lm_buf_view(&text));
        f->parser = lm_str_dup(name);
        if (!lm_parser_is_family(f->parser))
            st = lm_fail(err, LM_CORRUPT,
                         "%s: there is no family \"%.40s\" of tool calls; docs/API.md lists them", path,
                         f->parser);
    }
    free(path);
    lm_buf_release(&text);
    return st;
}

lm_status lm_text_files_read(lm_text_files *f, const char *dir, lm_err *err) {
    *f = (lm_text_files){0};
    lm_buf_init(&f->chat, MAX_TEMPLATE_BYTES);
    lm_status st = load_object(dir, "tokenizer_config.json", &f->config, err);
    if (st == LM_OK) st = load_object(dir, "special_tokens_map.json", &f->map, err);
    if (st == LM_OK) st = load_object(dir, "generation_config.json", &f->generation, err);
    if (st == LM_OK) st = load_object(dir, "config.json", &f->model, err);
    if (st == LM_OK) st = read_chat(f, dir, err);
    if (st == LM_OK) st = read_parser(f, dir, err);
    if (st != LM_OK) lm_text_files_release(f);
    return st;
}

void lm_text_files_release(lm_text_files *f) {
    lm_buf_release(&f->chat);
    json_decref(f->config);
    json_decref(f->map);
    json_decref(f->generation);
    json_decref(f->model);
    free(f->parser);
    *f = (lm_text_files){0};
}

lm_status lm_text_files_compile(const lm_text_files *f, const char *dir, lm_template **chat, lm_go_template **go,
                                lm_err *err) {
    if (!f->has_chat) return LM_OK;
    lm_str source = lm_buf_view(&f->chat);
    lm_status st = f->is_go ? lm_go_template_open(go, source, err) : lm_template_open(chat, source, err);
    return st == LM_OK ? st : lm_fail_in(err, LM_CORRUPT, "%s/%s", dir, f->chat_file);
}

/* ---- special tokens ------------------------------------------------------------------------------------ */

/* "eos_token": "</s>" or {"content": "</s>", ...}; NULL when absent or of another kind. */
static const char *token_text(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_string_value(v);
}

const char *lm_text_files_token(const lm_text_files *f, const char *key) {
    const char *text = token_text(f->config, key);
    if (!text) text = token_text(f->map, key);
    return text ? text : "";
}

/* "eos_token_id": 2 or [2, 3] */
static void tell_ids(const json_t *object, const lm_text_ends *to) {
    const json_t *v = json_object_get(object, "eos_token_id");
    if (json_is_integer(v)) to->id(to->ctx, json_integer_value(v));
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        if (json_is_integer(one)) to->id(to->ctx, json_integer_value(one));
    }
}

void lm_text_files_ends(const lm_text_files *f, lm_text_has *has, const void *ctx, const lm_text_ends *to) {
    static const char *const known[] = {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|return|>",
        "<|end_of_turn|>",
        "<EOT>",
        "<|END_OF_TURN_TOKEN|>",
        "<|eot|>",
        "<end_of_utterance>",
        ("<\xef\xbd\x9c" /* apart: an e would be read as part of the escape */
         "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
    };
    tell_ids(f->generation, to);
    tell_ids(f->model, to);
    tell_ids(json_object_get(f->model, "text_config"), to);
    const char *eos = lm_text_files_token(f, "eos_token");
    if (eos[0]) to->token(to->ctx, eos);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (has(ctx, known[i])) to->token(to->ctx, known[i]);
    /* In gpt-oss <|end|> only ends a channel and <|call|> ends the turn. */
    const char *last = has(ctx, "<|channel|>") ? "<|call|>" : "<|end|>";
    if (has(ctx, last)) to->token(to->ctx, last);
}

/* ---- what the model can do ----------------------------------------------------------------------------- */

static bool says(const lm_template *chat, const char *words) {
    lm_str s = lm_template_source(chat);
    return memmem(s.ptr, s.len, words, strlen(words)) != NULL;
}

static bool template_thinks(const lm_template *chat) {
    return says(chat, "<|START_THINKING|>") || says(chat, "Here is my thought process:") ||
           says(chat, "<think>") || says(chat, "</think>") || says(chat, "[THINK]") ||
           says(chat, "reasoning_content") || lm_template_uses(chat, "enable_thinking") ||
           lm_template_uses(chat, "thinking");
}

lm_text_abilities lm_text_can(const lm_template *chat, const lm_go_template *go, lm_text_has *has, const void *ctx) {
    lm_text_abilities a = {.channels = has(ctx, "<|channel|>") && has(ctx, "<|message|>")};
    const char *open, *close;
    if (go) { /* as Ollama: what the template does not show, the model cannot do */
        a.thinks = a.channels || lm_go_template_think_tags(go, &open, &close);
        a.tools = lm_go_template_uses(go, "tools");
        a.inserts = lm_go_template_uses(go, "suffix");
        return a;
    }
    a.thinks = a.channels || (chat ? template_thinks(chat) : has(ctx, "<think>"));
    a.tools = chat && (lm_template_uses(chat, "tools") || lm_template_uses(chat, "custom_tools"));
    a.inserts = lm_text_can_insert(has, ctx);
    return a;
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

/* A number within its range; anything else is as good as absent. */
static double number(const json_t *object, const char *key, double least, double most) {
    const json_t *v = json_object_get(object, key);
    double d = json_is_number(v) ? json_number_value(v) : NAN;
    return d >= least && d <= most ? d : NAN;
}

lm_text_sampling lm_text_files_sampling(const lm_text_files *f) {
    const json_t *g = f->generation;
    /* Their other numbers mean nothing where they say that they do not sample. */
    if (json_is_false(json_object_get(g, "do_sample"))) g = NULL;
    return (lm_text_sampling){
        .temperature = number(g, "temperature", 0, 100),
        .top_k = number(g, "top_k", 0, 1 << 24),
        .top_p = number(g, "top_p", 0, 1),
        .min_p = number(g, "min_p", 0, 1),
        .typical_p = number(g, "typical_p", 0, 1),
        .repetition_penalty = number(g, "repetition_penalty", 0.01, 100),
    };
}
