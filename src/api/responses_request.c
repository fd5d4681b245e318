/* From a JSON body to a request of the engine. Works on text alone: nothing here knows which models there
 * are. */
#include <stdlib.h>
#include <string.h>

#include "api/options.h"
#include "api/responses.h"

#define MAX_LOGPROBS 20

static const char type[] = "ResponsesRequest";

void responses_request_release(responses_request *r) {
    ollama_request_release(&r->ask);
    json_decref(r->echo);
    json_decref(r->tools);
    *r = (responses_request){0};
}

/* What would need answers that are kept. */
static void refuse_state(lm_fields *f) {
    static const char *const names[] = {"previous_response_id", "conversation", "background", "prompt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = lm_field(f->object, names[i]);
        if (v && !json_is_false(v))
            lm_fields_fail(f, LM_INVALID,
                           "%s is not supported: nothing is kept here, send the whole conversation as input",
                           names[i]);
    }
}

/* include: of what it can name only the log probabilities are not there anyway. */
static void read_logprobs(lm_fields *f, lm_request *to) {
    const json_t *include = lm_field_array(f, "include", "[]string"), *one;
    int64_t top = 0;
    size_t i;
    lm_field_int(f, "top_logprobs", &top);
    if (top < 0 || top > MAX_LOGPROBS) lm_fields_fail(f, LM_INVALID, "top_logprobs must be between 0 and 20");
    json_array_foreach(include, i, one) {
        const char *what = json_string_value(one);
        if (what && !strcmp(what, "message.output_text.logprobs")) to->logprobs = true;
    }
    if (f->st == LM_OK) to->top_logprobs = (uint32_t)top;
    if (top > 0) to->logprobs = true;
}

static void read_format(lm_fields *f, lm_request *to) {
    const json_t *text = lm_field_object(f, "text", "openai.ResponsesText");
    if (!text) return;
    lm_fields g = lm_fields_in(text, type, "text.");
    const json_t *format = lm_field_object(&g, "format", "openai.ResponsesTextFormat");
    lm_fields_adopt(f, &g);
    if (format && f->st == LM_OK)
        openai_read_format(f, "text.format", ".schema", format, lm_field(format, "schema"), to);
}

/* The vendor refuses what does not fit unless told otherwise. Ollama cuts, so only one who says it is
 * refused. */
static void read_truncation(lm_fields *f, lm_request *to) {
    const char *word = "";
    lm_field_str(f, "truncation", &word, NULL);
    if (!strcmp(word, "disabled"))
        to->truncate = false;
    else if (word[0] && strcmp(word, "auto") != 0)
        lm_fields_fail(f, LM_INVALID, "truncation must be \"auto\" or \"disabled\"");
}

/* ---- what answers repeat */

static void repeat(json_t *echo, const json_t *body, const char *name, json_t *otherwise) {
    json_t *given = lm_field(body, name);
    if (given) json_object_set(echo, name, given);
    if (!given) json_object_set(echo, name, otherwise);
    json_decref(otherwise);
}

static json_t *make_echo(const json_t *body) {
    static const char *const null_when_absent[] = {"instructions", "max_output_tokens", "max_tool_calls",
                                                   "reasoning",    "prompt_cache_key",  "safety_identifier"};
    json_t *echo = json_pack("{s:n,s:b,s:b,s:s,s:i,s:i}", "previous_response_id", "store", 0, "background", 0,
                             "service_tier", "default", "presence_penalty", 0, "frequency_penalty", 0);
    for (size_t i = 0; i < sizeof null_when_absent / sizeof *null_when_absent; i++)
        repeat(echo, body, null_when_absent[i], json_null());
    repeat(echo, body, "metadata", json_object());
    repeat(echo, body, "parallel_tool_calls", json_true());
    repeat(echo, body, "temperature", json_real(1));
    repeat(echo, body, "top_p", json_real(1));
    repeat(echo, body, "tools", json_array());
    repeat(echo, body, "tool_choice", json_string("auto"));
    repeat(echo, body, "top_logprobs", json_integer(0));
    repeat(echo, body, "truncation", json_string("disabled"));
    json_t *user = lm_field(body, "user"); /* the vendor's; Ollama's answers have none */
    if (user) json_object_set(echo, "user", user);
    const json_t *text = lm_field(body, "text");
    json_t *format = json_is_object(text) ? lm_field(text, "format") : NULL;
    json_object_set_new(echo, "text",
                        format ? json_pack("{s:O}", "format", format)
                               : json_pack("{s:{s:s}}", "format", "type", "text"));
    return echo;
}

/* ---- all together */

lm_status responses_request_read(lm_str body, responses_request *out, lm_err *err) {
    json_t *object = NULL;
    lm_status st = lm_fields_parse(body, type, &object, err);
    if (st != LM_OK) return st;
    responses_request r = {.ask = {.form = OLLAMA_CHAT, .request = lm_request_new()}};
    lm_request *to = r.ask.request;
    to->kind = LM_REQUEST_CHAT;
    lm_fields f = lm_fields_of(object, type);
    const char *model = "";
    lm_field_str(&f, "model", &model, NULL);
    r.ask.model = lm_strdup(model);
    lm_field_bool(&f, "stream", &r.ask.stream);
    refuse_state(&f);
    responses_read_input(&f, &r);
    read_format(&f, to);
    if (f.st == LM_OK) responses_read_tools(&f, &r);
    openai_read_effort(&f, to);
    read_logprobs(&f, to);
    read_truncation(&f, to);
    json_t *o = r.ask.options = json_object();
    openai_keep_number(&f, "temperature", 0, 2, 1, o);
    openai_keep_number(&f, "top_p", 0, 1, 1, o);
    openai_keep_limit(&f, "max_output_tokens", o);
    if (f.st == LM_OK) r.echo = make_echo(object);
    json_decref(object);
    if (f.st != LM_OK) {
        responses_request_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}
