/* edit.h - lines that people type: libedit on a terminal, plain lines elsewhere. Private to the room.
 *
 * What is pasted (bracketed paste) comes as its lines, and nothing in it is obeyed.
 */
#ifndef LM_CLI_EDIT_H
#define LM_CLI_EDIT_H

#include "base/base.h"

typedef struct edit edit;

typedef enum edit_event {
    EDIT_LINE,
    EDIT_MORE,      /* a line of a paste, others follow */
    EDIT_INTERRUPT, /* Ctrl-C; the line is what stood there */
    EDIT_EDITOR,    /* Ctrl-G; the same */
    EDIT_END        /* Ctrl-D, or nothing more comes */
} edit_event;

/* history: a file, NULL for none. */
lm_status edit_open(edit **out, const char *history, lm_err *err) LM_CHECKED;
void edit_close(edit *e); /* NULL allowed */
/* *line is the caller's to free; NULL with EDIT_END. */
edit_event edit_read(edit *e, const char *prompt, char **line);
/* This text as if it had been pasted: its last line can be edited. */
void edit_prefill(edit *e, const char *text);
void edit_keep_history(edit *e, bool on);

/* Lets the user write in $OLLAMA_EDITOR, $VISUAL or $EDITOR (vi); the caller frees what was written. LM_NOT_FOUND: there is no
 * such program, LM_IO, LM_CANCELLED: it ended with an error. */
lm_status edit_outside(const char *text, char **out, lm_err *err) LM_CHECKED;

#endif
