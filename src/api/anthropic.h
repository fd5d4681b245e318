/* anthropic.h - Anthropic's Messages API: one request read from JSON, and answered from the engine's events.
 *
 * Field names, texts and what becomes of a message are Ollama's where it has the endpoint; what it ignores
 * and the vendor defines (tool_choice, stop_sequence in the answer, budget_tokens, cached tokens,
 * output_config.format, count_tokens by the tokenizer) is done here. docs/API.md lists it. */
#ifndef LM_API_ANTHROPIC_H
#define LM_API_ANTHROPIC_H

#include "api/fields.h"
#include "api/private.h"

typedef enum anthropic_form { ANTHROPIC_MESSAGES, ANTHROPIC_COUNT } anthropic_form;

/* One body, read. Checks that need the model come later. */
typedef struct anthropic_request {
    anthropic_form form;
    char *model; /* as the client wrote it: answers repeat it */
    bool stream;
    bool images;
    bool threaded; /* "thread": the conversation is to be kept here. It is not; clients then send all of it */
    bool hide_thinking;  /* thinking.display omitted: a block without its text */
    bool forced;         /* tool_choice any or tool: the answer is one call, written as JSON (calls.h) */
    bool one_call;       /* disable_parallel_tool_use */
    lm_request *request; /* taken by the engine, then NULL */
    json_t *options;     /* under Ollama's names, read once the model is known */
    json_t *params;      /* the PARAMETERs of the model's Modelfile, or NULL: known with the model */
} anthropic_request;

/* LM_INVALID with the text for 400. *out is written only on LM_OK; the caller releases it. */
lm_status anthropic_request_read(lm_str body, anthropic_form form, anthropic_request *out,
                                 lm_err *err) LM_CHECKED;
void anthropic_request_release(anthropic_request *r);
lm_status anthropic_request_options(anthropic_request *r, const lm_text_sampling *makers,
                                    lm_err *err) LM_CHECKED;

/* Parts of the reader; a failure is remembered in f. */
/* "system" and "messages" to messages in Ollama's form. */
void anthropic_read_messages(lm_fields *f, anthropic_request *r);
/* "tools" and "tool_choice". */
void anthropic_read_tools(lm_fields *f, anthropic_request *r);

/* Answers `call` from the engine's events: the sink and its context. The run frees itself after its last
 * event. */
typedef struct anthropic_run anthropic_run;
anthropic_run *anthropic_run_new(lm_call *call, const char *request_id, const anthropic_request *r);
void anthropic_run_free(anthropic_run *run); /* when nothing was submitted */
lm_sink anthropic_sink;

/* {"type":"error",...} with the status's HTTP code. */
void anthropic_error(lm_call *call, const char *request_id, lm_status st, const char *text);
/* The refusal after which the vendor's clients go on without a thread. */
void anthropic_error_threaded(lm_call *call, const char *request_id);

#endif
