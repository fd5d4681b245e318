/* What a model directory says about its text. Only tokenizer.json must be there; of the other files each has
 * its part when it is there, and one that is there but damaged is an error that names it.
 *
 * Ends of a generation come from everywhere, because the files of one model rarely agree: eos_token_id of
 * generation_config.json and config.json, the eos_token of tokenizer_config.json and special_tokens_map.json,
 * and the end-of-turn tokens that chat models are known to have (a base model's eos in the files of its chat
 * version is common).
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/private.h"

#define MAX_JSON_BYTES     (32u << 20)
#define MAX_TEMPLATE_BYTES (1u << 20)
#define MAX_STOP_IDS       64

/* ---- markers ----------------------------------------------------------------------------------------------
 */

int32_t lm_text_marker(const lm_text *t, const char *token) {
    int32_t id = lm_tokenizer_id(t->tokenizer, lm_str_of(token));
    return lm_tokenizer_is_special(t->tokenizer, id) || lm_tokenizer_is_added(t->tokenizer, id) ? id : -1;
}

bool lm_text_template_says(const lm_text *t, const char *words) {
    if (!t->chat) return false;
    lm_str s = lm_template_source(t->chat);
    return memmem(s.ptr, s.len, words, strlen(words)) != NULL;
}

bool lm_text_is_stop(const lm_text *t, int32_t id) {
    for (uint32_t i = 0; i < t->n_stop_ids; i++)
        if (t->stop_ids[i] == id) return true;
    return false;
}

static void add_stop(lm_text *t, int64_t id) {
    if (id < 0 || id >= lm_tokenizer_size(t->tokenizer) || t->n_stop_ids == MAX_STOP_IDS) return;
    if (!lm_text_is_stop(t, (int32_t)id)) t->stop_ids[t->n_stop_ids++] = (int32_t)id;
}

/* ---- reading the files ------------------------------------------------------------------------------------
 */

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

/* "eos_token": "</s>" or {"content": "</s>", ...}; NULL when absent or of another kind. */
static const char *token_text(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_string_value(v);
}

/* "eos_token_id": 2 or [2, 3] */
static void add_eos_ids(lm_text *t, const json_t *object) {
    const json_t *v = json_object_get(object, "eos_token_id");
    if (json_is_integer(v)) add_stop(t, json_integer_value(v));
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        if (json_is_integer(one)) add_stop(t, json_integer_value(one));
    }
}

/* Tokens that end a turn in some family. In gpt-oss <|end|> only ends a channel and <|call|> ends the turn.
 */
static void add_known_stops(lm_text *t) {
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
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        add_stop(t, lm_text_marker(t, known[i]));
    }
    add_stop(t, lm_text_marker(t, lm_text_marker(t, "<|channel|>") >= 0 ? "<|call|>" : "<|end|>"));
}

/* The template of tokenizer_config.json: a string, or a list of {name, template} of which "default" is taken.
 */
static const json_t *template_of(const json_t *config) {
    const json_t *v = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && !strcmp(name, "default")) return json_object_get(one, "template");
    }
    return v;
}

static lm_status compile(lm_text *t, lm_str source, const char *dir, const char *file, lm_err *err) {
    lm_status st = lm_template_open(&t->chat, source, err);
    return st == LM_OK ? st : lm_fail_in(err, LM_CORRUPT, "%s/%s", dir, file);
}

/* As transformers: chat_template.jinja before chat_template.json before tokenizer_config.json. */
static lm_status open_chat(lm_text *t, const char *dir, const json_t *config, lm_err *err) {
    lm_buf source;
    json_t *file = NULL;
    char *path = lm_path_join(dir, "chat_template.jinja");
    lm_buf_init(&source, MAX_TEMPLATE_BYTES);
    lm_status st = lm_file_read(path, MAX_TEMPLATE_BYTES, &source, err);
    if (st == LM_OK) {
        st = compile(t, lm_buf_view(&source), dir, "chat_template.jinja", err);
        goto done;
    }
    if (st != LM_NOT_FOUND) goto done;
    st = load_object(dir, "chat_template.json", &file, err);
    if (st != LM_OK) goto done;
    const char *name = file ? "chat_template.json" : "tokenizer_config.json";
    const json_t *text = template_of(file ? file : config);
    if (json_is_string(text) && json_string_length(text))
        st = compile(t, (lm_str){json_string_value(text), json_string_length(text)}, dir, name, err);
done:
    json_decref(file);
    lm_buf_release(&source);
    free(path);
    return st;
}

/* ---- opening ----------------------------------------------------------------------------------------------
 */

static const char *first_text(const char *a, const char *b) {
    return a ? a : b ? b : "";
}

static void find_special_tokens(lm_text *t, const json_t *config, const json_t *map, const json_t *generation,
                                const json_t *model) {
    t->bos = lm_strdup(first_text(token_text(config, "bos_token"), token_text(map, "bos_token")));
    t->eos = lm_strdup(first_text(token_text(config, "eos_token"), token_text(map, "eos_token")));
    t->bos_id = t->bos[0] ? lm_tokenizer_id(t->tokenizer, lm_str_of(t->bos)) : -1;
    add_eos_ids(t, generation);
    add_eos_ids(t, model);
    add_eos_ids(t, json_object_get(model, "text_config"));
    if (t->eos[0]) add_stop(t, lm_tokenizer_id(t->tokenizer, lm_str_of(t->eos)));
    add_known_stops(t);
}

static bool knows_thinking(const lm_text *t) {
    if (t->channels) return true;
    if (!t->chat) return lm_text_marker(t, "<think>") >= 0;
    return lm_text_template_says(t, "<think>") || lm_text_template_says(t, "</think>") ||
           lm_text_template_says(t, "[THINK]") || lm_text_template_says(t, "reasoning_content") ||
           lm_template_uses(t->chat, "enable_thinking") || lm_template_uses(t->chat, "thinking");
}

lm_status lm_text_open(lm_text **out, const char *dir, lm_err *err) {
    json_t *config = NULL, *map = NULL, *generation = NULL, *model = NULL;
    lm_text *t = lm_alloc(sizeof *t);
    t->bos_id = -1;
    t->stop_ids = lm_alloc(MAX_STOP_IDS * sizeof *t->stop_ids);

    lm_status st = lm_tokenizer_open(&t->tokenizer, dir, err);
    if (st == LM_OK) st = load_object(dir, "tokenizer_config.json", &config, err);
    if (st == LM_OK) st = load_object(dir, "special_tokens_map.json", &map, err);
    if (st == LM_OK) st = load_object(dir, "generation_config.json", &generation, err);
    if (st == LM_OK) st = load_object(dir, "config.json", &model, err);
    if (st == LM_OK) st = open_chat(t, dir, config, err);
    if (st != LM_OK) goto done;

    find_special_tokens(t, config, map, generation, model);
    t->channels = lm_text_marker(t, "<|channel|>") >= 0 && lm_text_marker(t, "<|message|>") >= 0;
    t->thinks = knows_thinking(t);
    t->tools = t->chat && (lm_template_uses(t->chat, "tools") || lm_template_uses(t->chat, "custom_tools"));
    t->inserts = lm_text_can_insert(t);
    *out = t;
    t = NULL;
done:
    lm_text_close(t);
    json_decref(config);
    json_decref(map);
    json_decref(generation);
    json_decref(model);
    return st;
}

void lm_text_close(lm_text *t) {
    if (!t) return;
    lm_tokenizer_close(t->tokenizer);
    lm_template_close(t->chat);
    free(t->bos);
    free(t->eos);
    free(t->stop_ids);
    free(t);
}
