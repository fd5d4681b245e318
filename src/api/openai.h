/* openai.h - OpenAI's two inference requests, read into the form of Ollama's and answered from events.
 *
 * A body becomes an ollama_request, whose checks and options hold here as well, and what OpenAI's API has
 * over it: several answers, tool_choice, usage in a stream. Each answer ("choice") is a request to the engine
 * of its own. */
#ifndef LM_API_OPENAI_H
#define LM_API_OPENAI_H

#include "api/fields.h"
#include "api/ollama.h"

#define OPENAI_MAX_CHOICES 128

typedef enum openai_form { OPENAI_CHAT, OPENAI_COMPLETION } openai_form;

typedef struct openai_request {
    openai_form form;
    ollama_request ask; /* ask.request lacks the prompt of a completion */
    json_t *prompts;    /* COMPLETION: array of strings, or of arrays of token ids */
    json_t *suffix;     /* COMPLETION: a string, or NULL */
    uint32_t n;         /* answers to each prompt */
    uint32_t n_shown;   /* COMPLETION: best_of; the best of them that are shown, at most n */
    bool logprobs;      /* of the answer; ask.request wants them, too, when answers are compared */
    uint32_t n_choices; /* answers in all, at most OPENAI_MAX_CHOICES */
    bool include_usage; /* a stream ends with the counts */
    bool echo;          /* COMPLETION: the prompt comes before each answer */
    bool forced;        /* CHAT: the grammar makes a tool call of the answer */
    bool one_call;      /* CHAT: parallel_tool_calls is false */
} openai_request;

/* LM_INVALID, LM_TOO_LARGE with the text for the client. *out is written only on LM_OK; the caller releases
 * it. */
lm_status openai_request_read(lm_str body, openai_form form, openai_request *out, lm_err *err) LM_CHECKED;
void openai_request_release(openai_request *r);
/* What answer number i asks of the engine, with nothing in it that r still has: they go different ways. To be
 * called in order, once the model is known and ask's options are read; the last one takes what it can from r.
 */
lm_status openai_request_choice(openai_request *r, uint32_t i, lm_request **out, lm_err *err) LM_CHECKED;

/* Parts that its forms share; a failure is f's. Numbers go into `to` under Ollama's names. */
/* absent: what counts when nothing is said, NAN: what the model's makers say. */
void openai_keep_number(lm_fields *f, const char *name, double low, double high, double absent, json_t *to);
void openai_keep_limit(lm_fields *f, const char *name, json_t *to); /* of tokens; -1: none, as Ollama's */
void openai_read_effort(lm_fields *f, lm_request *to);              /* "reasoning", "reasoning_effort" */
/* where, schema_at: how clients call the format, and the schema in it. schema NULL: absent. */
void openai_read_format(lm_fields *f, const char *where, const char *schema_at, const json_t *format,
                        const json_t *schema, lm_request *to);
/* The role as templates know it; NULL: there is no such role. */
const char *openai_role(const char *role);
/* A call's arguments, which OpenAI has as text, as an object. at: index of the message, or item, in `list`.
 */
json_t *openai_read_arguments(lm_fields *f, const char *list, size_t at, const json_t *function);

/* "messages", "tools" and "tool_choice" into r. A failure is f's. */
void openai_messages_read(lm_fields *f, openai_request *r);
void openai_tools_read(lm_fields *f, openai_request *r);

/* Answers `call` from the events of all choices. Each choice is the context of a sink. A run frees itself
 * after its last event and openai_run_started. */
typedef struct openai_run openai_run;
typedef struct openai_choice openai_choice;
openai_run *openai_run_new(lm_call *call, const openai_request *r);
openai_choice *openai_run_choice(openai_run *run, uint32_t i);
lm_sink openai_sink;
/* Once, when n_submitted choices are the engine's. A failure says why the others are not: those that run are
 * cancelled, and it is what the client gets. */
void openai_run_started(openai_run *run, uint32_t n_submitted, lm_status st, const char *text);

/* {"error":{...}} with the status's HTTP code. */
void openai_error(lm_call *call, lm_status st, const char *text);
void openai_write_error(lm_buf *b, lm_status st, const char *text);

lm_api_handler openai_models, openai_model, openai_embeddings;

#endif
