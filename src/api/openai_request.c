/* From a JSON body to requests of the engine. Works on text alone: nothing here knows which models there are.
 */
#include "api/openai.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/options.h"

#define MAX_COPIED   ((uint64_t)256 << 20) /* bytes that all choices together may copy of a body */
#define MAX_TOKENS   (1u << 24)
#define MAX_LOGPROBS 20
#define MAX_BIASES   65536 /* each of them costs time at each token */

void openai_request_release(openai_request *r) {
    ollama_request_release(&r->ask);
    json_decref(r->prompts);
    json_decref(r->suffix);
    *r = (openai_request){0};
}

/* ---- sampling: into "options", as Ollama has them */

/* absent: what counts when nothing is said, NAN: what the model's makers say. */
void openai_keep_number(lm_fields *f, const char *name, double low, double high, double absent, json_t *to) {
    double v = absent;
    lm_field_float(f, name, &v);
    if (f->st != LM_OK || isnan(v)) return;
    if (v < low || v > high)
        lm_fields_fail(f, LM_INVALID, "%s must be between %g and %g", name, low, high);
    else
        json_object_set_new(to, name, json_real(v));
}

static void keep_seed(lm_fields *f, json_t *to) {
    json_t *seed = f->st == LM_OK ? lm_field(f->object, "seed") : NULL;
    if (!seed) return;
    double v = json_number_value(seed);
    if (!json_is_number(seed) || v != floor(v))
        lm_field_wrong(f, "seed", seed, "int");
    else
        json_object_set(to, "seed", seed);
}

/* -1 is no limit, as Ollama has it. */
void openai_keep_limit(lm_fields *f, const char *name, json_t *to) {
    int64_t v = 0;
    if (f->st != LM_OK || !lm_field(f->object, name)) return;
    lm_field_int(f, name, &v);
    if (f->st == LM_OK && v < 1 && v != -1)
        lm_fields_fail(f, LM_INVALID, "%s must be at least 1", name);
    else
        json_object_set_new(to, "num_predict", json_integer(v));
}

static void keep_stop(lm_fields *f, json_t *to) {
    json_t *stop = f->st == LM_OK ? lm_field(f->object, "stop") : NULL, *one;
    size_t i;
    if (!stop) return;
    bool fits = json_is_string(stop) || json_is_array(stop);
    json_array_foreach(stop, i, one) fits = fits && json_is_string(one);
    if (!fits) {
        lm_fields_fail(f, LM_INVALID, "stop must be a string or an array of strings");
        return;
    }
    json_t *list = json_is_array(stop) ? json_incref(stop) : json_array();
    if (json_is_string(stop)) json_array_append(list, stop);
    json_object_set_new(to, "stop", list);
}

static bool bias_of(const char *token, const json_t *value, lm_bias *out) {
    char *end = NULL;
    long id = strtol(token, &end, 10);
    double add = json_number_value(value);
    if (!json_is_number(value) || !(add >= -100 && add <= 100)) return false;
    if (token[0] < '0' || token[0] > '9' || *end || (token[0] == '0' && token[1]) || id > INT32_MAX)
        return false; /* one spelling each, so that no token comes twice */
    *out = (lm_bias){(int32_t)id, (float)add};
    return true;
}

static void read_biases(lm_fields *f, lm_request *to) {
    json_t *biases = lm_field_object(f, "logit_bias", "map[string]float32"), *value;
    const char *token;
    if (!biases || f->st != LM_OK || !json_object_size(biases)) return;
    if (json_object_size(biases) > MAX_BIASES) {
        lm_fields_fail(f, LM_INVALID, "logit_bias names too many tokens, at most %d are allowed", MAX_BIASES);
        return;
    }
    to->biases = lm_try_alloc(json_object_size(biases), sizeof *to->biases);
    if (!to->biases) {
        lm_fields_fail(f, LM_NO_MEMORY, "not enough memory for logit_bias");
        return;
    }
    json_object_foreach(biases, token, value) {
        if (bias_of(token, value, &to->biases[to->n_biases++])) continue;
        lm_fields_fail(f, LM_INVALID, "logit_bias must map token ids to numbers between -100 and 100");
        return;
    }
}

static void read_options(lm_fields *f, openai_request *r) {
    json_t *o = r->ask.options = json_object();
    openai_keep_number(f, "temperature", 0, 2, 1, o);
    openai_keep_number(f, "top_p", 0, 1, 1, o);
    openai_keep_number(f, "frequency_penalty", -2, 2, NAN, o);
    openai_keep_number(f, "presence_penalty", -2, 2, NAN, o);
    keep_seed(f, o);
    read_biases(f, r->ask.request);
    openai_keep_limit(f, "max_tokens", o);
    if (r->form == OPENAI_CHAT) openai_keep_limit(f, "max_completion_tokens", o);
    keep_stop(f, o);
}

/* ---- chat */

void openai_read_format(lm_fields *f, const char *where, const char *schema_at, const json_t *format,
                        const json_t *schema, lm_request *to) {
    const char *type = json_string_value(lm_field(format, "type"));
    json_t *value = NULL;
    if (type && !strcmp(type, "json_object"))
        value = json_string("json");
    else if (type && !strcmp(type, "json_schema") && json_is_object(schema))
        value = json_incref((json_t *)(uintptr_t)schema);
    else if (type && !strcmp(type, "json_schema"))
        lm_fields_fail(f, LM_INVALID, "%s%s must be a JSON Schema object", where, schema_at);
    else if (!type || strcmp(type, "text") != 0)
        lm_fields_fail(f, LM_INVALID, "%s.type must be \"text\", \"json_object\" or \"json_schema\"", where);
    if (f->st == LM_OK && value) f->st = lm_format_read(value, to, &f->err);
    json_decref(value);
}

/* Chat has the schema one level deeper, beside its name. */
static void read_format(lm_fields *f, lm_request *to) {
    json_t *format = lm_field_object(f, "response_format", "openai.ResponseFormat");
    const json_t *named = format ? lm_field(format, "json_schema") : NULL;
    if (!format) return;
    openai_read_format(f, "response_format", ".json_schema.schema", format,
                       json_is_object(named) ? lm_field(named, "schema") : NULL, to);
}

void openai_read_effort(lm_fields *f, lm_request *to) {
    static const char *const efforts[][2] = {{"minimal", "low"}, {"low", "low"}, {"medium", "medium"},
                                             {"high", "high"},   {"max", "max"}, {"xhigh", "max"},
                                             {"ultra", "max"}};
    const char *effort = NULL;
    json_t *reasoning = lm_field_object(f, "reasoning", "openai.Reasoning");
    lm_field_str(f, "reasoning_effort", &effort, NULL);
    if (reasoning && f->st == LM_OK) {
        lm_fields inner = lm_fields_in(reasoning, f->type, "reasoning.");
        lm_field_str(&inner, "effort", &effort, NULL);
        lm_fields_adopt(f, &inner);
    }
    if (f->st != LM_OK || !effort || !effort[0]) return;
    json_t *think = strcmp(effort, "none") ? NULL : json_false();
    for (size_t i = 0; !think && i < sizeof efforts / sizeof *efforts; i++)
        if (!strcmp(effort, efforts[i][0])) think = json_string(efforts[i][1]);
    if (think)
        f->st = lm_think_read(think, to, &f->err);
    else
        f->st =
            lm_fail(&f->err, LM_INVALID,
                    "invalid reasoning value: '%.40s' (must be \"high\", \"medium\", \"low\", \"max\", or "
                    "\"none\")",
                    effort);
    json_decref(think);
}

static void read_chat(lm_fields *f, openai_request *r) {
    lm_request *to = r->ask.request;
    int64_t top = 0;
    to->kind = LM_REQUEST_CHAT;
    openai_messages_read(f, r);
    read_format(f, to);
    if (f->st == LM_OK) openai_tools_read(f, r);
    openai_read_effort(f, to);
    lm_field_bool(f, "logprobs", &to->logprobs);
    lm_field_int(f, "top_logprobs", &top);
    lm_field_bool(f, "_debug_render_only", &to->render_only);
    if (top < 0 || top > MAX_LOGPROBS) lm_fields_fail(f, LM_INVALID, "top_logprobs must be between 0 and 20");
    to->top_logprobs = f->st == LM_OK ? (uint32_t)top : 0;
    r->n_choices = 1;
}

/* ---- completions */

static bool is_token(const json_t *v) {
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= INT32_MAX;
}

static bool is_prompt(const json_t *v) {
    const json_t *id;
    size_t i;
    if (json_is_string(v)) return json_string_length(v) > 0;
    json_array_foreach(v, i, id) if (!is_token(id)) return false;
    return json_array_size(v) > 0;
}

/* A text, token ids, or a list of either. */
static void read_prompts(lm_fields *f, openai_request *r) {
    json_t *prompt = f->st == LM_OK ? lm_field(f->object, "prompt") : NULL, *one;
    size_t i;
    bool fits = true;
    if (!prompt || (!json_is_string(prompt) && !json_is_array(prompt))) {
        lm_fields_fail(f, LM_INVALID,
                       "prompt must be a string, an array of token ids, or an array of either");
        return;
    }
    bool single = json_is_string(prompt) || json_is_number(json_array_get(prompt, 0));
    r->prompts = single ? json_array() : json_incref(prompt);
    if (single) json_array_append(r->prompts, prompt);
    if (json_array_size(r->prompts) > OPENAI_MAX_CHOICES)
        lm_fields_fail(f, LM_INVALID, "prompt holds too many prompts, at most 128 are allowed");
    json_array_foreach(r->prompts, i, one) {
        if (f->st != LM_OK) return;
        fits = fits && is_prompt(one);
        if (!json_is_string(one) && r->echo)
            lm_fields_fail(f, LM_INVALID,
                           "echo is for prompts that are text: leave it out, or send the text");
        if (!json_is_string(one) && r->suffix)
            lm_fields_fail(f, LM_INVALID,
                           "suffix is for prompts that are text: leave it out, or send the text");
        if (r->suffix && json_is_string(one) && strlen(json_string_value(one)) != json_string_length(one))
            lm_fields_fail(f, LM_INVALID, "prompt must not hold a NUL character");
        if (json_array_size(one) > MAX_TOKENS) lm_fields_fail(f, LM_INVALID, "prompt holds too many tokens");
    }
    if (!fits || !json_array_size(r->prompts))
        lm_fields_fail(f, LM_INVALID,
                       "prompt must not be empty, and token ids must be numbers of the model's tokens");
}

static void read_completion(lm_fields *f, openai_request *r) {
    lm_request *to = r->ask.request;
    const char *suffix = "";
    int64_t top = -1;
    lm_field_str(f, "suffix", &suffix, NULL);
    lm_field_bool(f, "echo", &r->echo);
    lm_field_int(f, "logprobs", &top);
    lm_field_bool(f, "_debug_render_only", &to->render_only);
    if (lm_field(f->object, "logprobs") && (top < 0 || top > MAX_LOGPROBS))
        lm_fields_fail(f, LM_INVALID, "logprobs must be between 0 and 20");
    if (r->echo && top >= 0)
        lm_fields_fail(f, LM_INVALID,
                       "echo with logprobs is not supported: the prompt's tokens have none here");
    if (f->st != LM_OK) return;
    to->kind = suffix[0] ? LM_REQUEST_INSERT : LM_REQUEST_CHAT;
    to->logprobs = top >= 0;
    to->top_logprobs = top > 0 ? (uint32_t)top : 0;
    if (suffix[0]) r->suffix = json_string(suffix);
    r->ask.insert = suffix[0] != '\0';
    read_prompts(f, r);
    r->n_choices = (uint32_t)json_array_size(r->prompts);
}

/* ---- both */

/* The answers that are computed for each of which n are shown. */
static int64_t read_best_of(lm_fields *f, const openai_request *r, int64_t n) {
    int64_t best_of = n;
    if (r->form != OPENAI_COMPLETION || !lm_field(f->object, "best_of")) return n;
    lm_field_int(f, "best_of", &best_of);
    if (f->st != LM_OK) return n;
    if (best_of < n) lm_fields_fail(f, LM_INVALID, "best_of must be at least n");
    if (best_of > n && r->ask.stream)
        lm_fields_fail(f, LM_INVALID, "best_of can't be streamed: which answer is best shows at the end");
    return best_of;
}

static void read_common(lm_fields *f, openai_request *r, size_t body) {
    int64_t n = 1;
    lm_field_bool(f, "stream", &r->ask.stream);
    lm_field_int(f, "n", &n);
    json_t *stream = lm_field_object(f, "stream_options", "openai.StreamOptions");
    if (stream && f->st == LM_OK) {
        lm_fields inner = lm_fields_in(stream, f->type, "stream_options.");
        lm_field_bool(&inner, "include_usage", &r->include_usage);
        lm_fields_adopt(f, &inner);
    }
    int64_t n_shown = n;
    n = read_best_of(f, r, n);
    if (f->st != LM_OK) return;
    if (n_shown < 1 || n > OPENAI_MAX_CHOICES || (uint64_t)n * r->n_choices > OPENAI_MAX_CHOICES) {
        lm_fields_fail(f, LM_INVALID,
                       "n must be between 1 and 128, and so must be the number of all answers");
        return;
    }
    r->n = r->ask.request->render_only ? 1 : (uint32_t)n;
    r->n_shown = n_shown < n && r->n > 1 ? (uint32_t)n_shown : r->n;
    r->logprobs = r->ask.request->logprobs;
    if (r->n_shown < r->n) r->ask.request->logprobs = true;
    r->n_choices *= r->n;
    if ((uint64_t)body * r->n_choices > MAX_COPIED)
        lm_fields_fail(f, LM_TOO_LARGE, "the request is too large for so many answers: send one at a time");
}

lm_status openai_request_read(lm_str body, openai_form form, openai_request *out, lm_err *err) {
    const char *type = form == OPENAI_CHAT ? "ChatCompletionRequest" : "CompletionRequest";
    json_t *object = NULL;
    lm_status st = lm_fields_parse(body, type, &object, err);
    if (st != LM_OK) return st;
    openai_request r = {.form = form};
    r.ask.form = form == OPENAI_CHAT ? OLLAMA_CHAT : OLLAMA_GENERATE;
    r.ask.request = lm_request_new();
    lm_fields f = lm_fields_of(object, type);
    const char *model = "";
    lm_field_str(&f, "model", &model, NULL);
    r.ask.model = lm_strdup(model);
    if (form == OPENAI_CHAT)
        read_chat(&f, &r);
    else
        read_completion(&f, &r);
    read_options(&f, &r);
    read_common(&f, &r, body.len);
    json_decref(object);
    if (f.st != LM_OK) {
        openai_request_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}

/* ---- one answer */

static char *copy_text(const char *text) {
    return text ? lm_strdup(text) : NULL;
}

/* last: messages and tools are moved. */
static lm_request *copy(lm_request *from, bool last) {
    lm_request *to = lm_alloc(sizeof *to);
    *to = *from;
    to->schema = copy_text(from->schema);
    if (last) {
        from->messages = from->tools = NULL;
    } else {
        to->messages = json_deep_copy(from->messages);
        to->tools = json_deep_copy(from->tools);
    }
    to->stops = lm_alloc((from->n_stops + 1) * sizeof *to->stops);
    for (uint32_t i = 0; i < from->n_stops; i++) to->stops[i] = lm_strdup(from->stops[i]);
    to->biases = NULL;
    if (from->n_biases) {
        to->biases = lm_alloc(from->n_biases * sizeof *to->biases);
        memcpy(to->biases, from->biases, from->n_biases * sizeof *to->biases);
    }
    return to;
}

static lm_status put_tokens(lm_request *to, const json_t *ids, lm_err *err) {
    size_t n = json_array_size(ids);
    to->kind = LM_REQUEST_RAW;
    to->prompt = lm_strdup("");
    to->context = lm_try_alloc(n, sizeof *to->context);
    if (!to->context) return lm_fail(err, LM_NO_MEMORY, "not enough memory for a prompt of %zu tokens", n);
    for (size_t i = 0; i < n; i++) to->context[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    to->n_context = (uint32_t)n;
    return LM_OK;
}

lm_status openai_request_choice(openai_request *r, uint32_t i, lm_request **out, lm_err *err) {
    bool tools = r->ask.request->tools != NULL;
    lm_request *to = copy(r->ask.request, i + 1 == r->n_choices);
    lm_status st = LM_OK;
    uint32_t nth = i % r->n; /* answers to one prompt differ, but each is known by its seed */
    if (to->options.seed >= 0)
        to->options.seed = to->options.seed > INT64_MAX - nth ? nth : to->options.seed + nth;
    if (r->form == OPENAI_COMPLETION) {
        json_t *prompt = json_array_get(r->prompts, i / r->n);
        if (json_is_array(prompt)) {
            st = put_tokens(to, prompt, err);
        } else if (to->kind == LM_REQUEST_INSERT) {
            to->prompt = lm_strdup(json_string_value(prompt));
            to->suffix = lm_strdup(json_string_value(r->suffix));
        } else {
            to->messages = r->ask.prelude ? json_deep_copy(r->ask.prelude) : json_array();
            json_array_append_new(to->messages,
                                  json_pack("{s:s,s:s%}", "role", "user", "content",
                                            json_string_value(prompt), json_string_length(prompt)));
        }
    }
    if (st == LM_OK && ((to->kind == LM_REQUEST_CHAT && !to->messages) || (tools && !to->tools)))
        st = lm_fail(err, LM_NO_MEMORY, "not enough memory for the request");
    if (st == LM_OK)
        *out = to;
    else
        lm_request_free(to);
    return st;
}
