/* responses.h - OpenAI's Responses API: one request read from JSON, answered by a list of items (reasoning,
 * message, calls of tools), as one document or as a stream of typed events.
 *
 * Nothing is kept: each request brings its whole conversation. Formats: OpenAI's API reference, "Responses"
 * and "Streaming events"; texts and defaults are Ollama's where it has them. docs/API.md lists the
 * differences. */
#ifndef LM_API_RESPONSES_H
#define LM_API_RESPONSES_H

#include "api/openai.h"

typedef struct responses_request {
    ollama_request ask;
    json_t *echo;  /* object: what every answer repeats of the request */
    json_t *tools; /* object: name as the model knows it -> {"name", "namespace"?, "custom": bool} */
    bool forced;   /* the grammar makes a tool call of the answer */
    bool one_call; /* parallel_tool_calls is false */
} responses_request;

/* LM_INVALID with the text for the client. *out is written only on LM_OK; the caller releases it. */
lm_status responses_request_read(lm_str body, responses_request *out, lm_err *err) LM_CHECKED;
void responses_request_release(responses_request *r);

/* Parts of the reader; a failure is f's. */
/* "instructions" and "input" to messages in Ollama's form. */
void responses_read_input(lm_fields *f, responses_request *r);
/* "tools", "tool_choice" and "parallel_tool_calls". */
void responses_read_tools(lm_fields *f, responses_request *r);
/* namespace.name, or name alone; a new string. */
json_t *responses_tool_name(const char *space, const char *name);

/* Answers `call` from the engine's events: the sink and its context. The run frees itself after its last
 * event. */
typedef struct responses_run responses_run;
responses_run *responses_run_new(lm_call *call, const responses_request *r);
void responses_run_free(responses_run *run); /* when nothing was submitted */
lm_sink responses_sink;

lm_api_handler responses_create;

#endif
