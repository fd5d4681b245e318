/* session.h - a conversation: the model, what was said, how it shall answer. Private to the room. */
#ifndef LM_CLI_SESSION_H
#define LM_CLI_SESSION_H

#include <jansson.h>

#include "base/base.h"

typedef struct session {
    char *model, *parent; /* parent: of which the model was made, "" when it is none */
    json_t *messages;     /* array */
    json_t *options;      /* object: num_ctx and so on, as they were set */
    char *system;         /* NULL: none was set */
    json_t *format;       /* NULL: free; else "json" or a schema */
    json_t *think;        /* NULL: not said; else a boolean or a level */
    bool think_said;      /* by the user, not for a model that can */
    json_t *keep_alive;   /* NULL: the server's */
    bool wrap_words, verbose, hide_thinking;
    bool sees, embeds, thinks; /* what the model can */
} session;

void session_open(session *s, const char *model);
void session_close(session *s);

/* What an answer of /api/show says of the model: what it can; it thinks unless the user has said otherwise. */
void session_learn(session *s, const json_t *shown);
/* Another model; what was said is forgotten. */
void session_change_model(session *s, const char *model);
/* Only the system message is kept. */
void session_clear(session *s);
void session_set_system(session *s, const char *text);

/* "true", "false", "low", "medium", "high", "max", "" (true). LM_INVALID lists them. */
lm_status session_set_think(session *s, const char *word, lm_err *err) LM_CHECKED;
/* "json", a schema, or "" for free. LM_INVALID: neither. */
lm_status session_set_format(session *s, const char *text, lm_err *err) LM_CHECKED;
/* A duration as Go has it, or seconds. LM_INVALID with Go's own text. */
lm_status session_set_keep_alive(session *s, const char *text, lm_err *err) LM_CHECKED;
/* One of Ollama's parameters; values are n words. LM_INVALID names what would do. */
lm_status session_set_option(session *s, const char *name, const char *const *values, uint32_t n,
                             lm_err *err) LM_CHECKED;

/* images: array of base64 strings, NULL: none; taken over. */
void session_say(session *s, const char *role, const char *text, json_t *images);

/* The caller json_decref()s. */
json_t *session_chat_request(const session *s); /* of /api/chat */
json_t *session_generate_request(const session *s, const char *prompt,
                                 json_t *images);                 /* of /api/generate; images is taken over */
json_t *session_save_request(const session *s, const char *name); /* of /api/create */

#endif
