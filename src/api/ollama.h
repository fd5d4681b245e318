/* ollama.h - the two inference requests of Ollama's API, read from JSON and answered from events. */
#ifndef LM_API_OLLAMA_H
#define LM_API_OLLAMA_H

#include "api/fields.h"
#include "api/private.h"
#include "store/modelfile.h"

typedef enum ollama_form { OLLAMA_GENERATE, OLLAMA_CHAT } ollama_form;

/* One body of /api/generate or /api/chat, read. Checks that need the model come later, in Ollama's order. */
typedef struct ollama_request {
    ollama_form form;
    char *model; /* as the client wrote it: answers repeat it */
    bool stream;
    bool empty;  /* no prompt, no messages: load, or unload with keep_alive 0 */
    bool insert; /* a suffix was given */
    bool images;
    lm_request *request; /* taken by the engine, then NULL */
    json_t *options;     /* of the request, or NULL: read once the model is known */
    json_t *params;      /* the PARAMETERs of the model's Modelfile, or NULL: known with the model */
    json_t *prelude;     /* the model's SYSTEM and MESSAGEs for prompts that become messages later, or NULL */
} ollama_request;

/* LM_INVALID with the text for 400. *out is written only on LM_OK; the caller releases it. */
lm_status ollama_request_read(lm_str body, ollama_form form, ollama_request *out, lm_err *err) LM_CHECKED;
void ollama_request_release(ollama_request *r);
/* Fills request->options: Ollama's defaults, over them what the model's makers say, over it params, over it
 * what the request says. The status and text are Ollama's for a wrong option, which it finds after the model.
 */
lm_status ollama_request_options(ollama_request *r, const lm_text_sampling *makers, lm_err *err) LM_CHECKED;
/* The array "messages" in the form that the engine takes, a new reference, NULL after a failure of f.
 * *images: there were some. */
json_t *ollama_messages_read(lm_fields *f, bool *images);

lm_status ollama_find_model(lm_call *call, const ollama_request *r, lm_entry *out, lm_err *err) LM_CHECKED;
/* What the request wants and the model cannot is refused; settles "think" and the options where nothing was
 * said. */
lm_status ollama_meet_model(lm_call *call, ollama_request *r, const lm_entry *model, lm_err *err) LM_CHECKED;

/* Answers `call` from the engine's events: the sink and its context. The run frees itself after its last
 * event. */
typedef struct ollama_run ollama_run;
ollama_run *ollama_run_new(lm_call *call, const ollama_request *r);
void ollama_run_free(ollama_run *run); /* when nothing was submitted */
lm_sink ollama_sink;

/* {"error":"..."} with the status's HTTP code. */
void ollama_error(lm_call *call, lm_status st, const char *text);
/* The single answer of an empty request: done_reason "load" or "unload". */
void ollama_reply_idle(lm_call *call, ollama_form form, const char *model, const char *reason);

/* The PARAMETERs of the model's Modelfile into r->params. */
lm_status ollama_read_params(ollama_request *r, const lm_entry *model, lm_err *err) LM_CHECKED;
/* What a Modelfile says before the messages of a request. generate: a prompt with its own system message,
 * which goes before the MESSAGEs; in a chat they come first, and SYSTEM only where the chat has none at its
 * beginning. */
void ollama_apply_modelfile(const lm_modelfile *m, json_t *messages, bool generate);

/* A body that names a model: in "model", or in "name" as older clients and the JavaScript one say. */
typedef struct ollama_named {
    json_t *body;
    char *model; /* as written, "" when absent */
} ollama_named;
lm_status ollama_named_read(lm_call *call, const char *type, ollama_named *out, lm_err *err) LM_CHECKED;
void ollama_named_release(ollama_named *n); /* a zeroed one is allowed */

/* Members of an answer, without commas around them. */
void ollama_write_text(lm_buf *b, const char *key, const char *value);
void ollama_write_time(lm_buf *b, const char *key, int64_t wall_ns);
void ollama_write_details(lm_buf *b, const lm_facts *f, bool numbers); /* numbers: context and width too */
void ollama_write_capabilities(lm_buf *b, const lm_facts *f);

lm_api_handler ollama_generate, ollama_chat;
lm_api_handler ollama_embed, ollama_embeddings; /* embed.c, with openai_embeddings */
lm_api_handler ollama_tags, ollama_ps, ollama_show;
/* changing what there is: ollama_manage.c, ollama_blobs.c, ollama_create.c */
lm_api_handler ollama_copy, ollama_delete, ollama_pull, ollama_push, ollama_me, ollama_signout;
lm_api_handler ollama_blob_look, ollama_blob_upload, ollama_create;

#endif
