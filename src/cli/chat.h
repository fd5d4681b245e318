/* chat.h - a conversation at the keyboard. Private to the room. */
#ifndef LM_CLI_CHAT_H
#define LM_CLI_CHAT_H

#include "cli/args.h"
#include "cli/edit.h"
#include "cli/lines.h"
#include "cli/session.h"
#include "cli/wire.h"

typedef struct chat {
    const cli_args *args;
    wire *w;
    session *s;
    edit *e;
    lines typed;
    bool sets_system; /* the message that is typed is for /set system */
} chat;

/* Until the user leaves. Returns an exit status. */
int chat_run(const cli_args *a, wire *w, session *s);

/* ---- slash.c: /set, /show and the others */

/* Whether the line is one of the commands (a path of a picture is none); it has been done then. *leave: /bye. */
bool slash_run(chat *c, const char *line, bool *leave);

/* ---- run.c */

/* POST /api/show; a model that is not there is pulled: on a terminal the user is asked. Returns an exit status and has said
 * what is wrong. *shown is the caller's to json_decref. */
int find_model(const cli_args *a, wire *w, const char *model, bool insecure, json_t **shown);
/* Loads the model. */
lm_status load_model(wire *w, const session *s, lm_err *err) LM_CHECKED;

#endif
