/* say.h - what commands tell people and programs. Private to the room. */
#ifndef LM_CLI_SAY_H
#define LM_CLI_SAY_H

#include <jansson.h>

#include "cli/args.h"
#include "cli/wire.h"

/* "PROGRAM: text" on stderr, and {"error": text} on stdout with --json. Returns code. */
int say_failed(const cli_args *a, int code, const char *format, ...) LM_PRINTF(3, 4);
/* The same for what a server answered; for a model that is not there (404), also the name that was probably meant. */
int say_refused(const cli_args *a, wire *w, lm_status st, const lm_err *err, const char *model);

bool say_as_json(const cli_args *a); /* --json was given */
/* A document on stdout, for programs; takes o over. Returns CLI_OK. */
int say_json(json_t *o);
/* Text on stdout, cleaned. */
void say(const char *format, ...) LM_PRINTF(1, 2);
/* Text that is not from a server (colours in it), and takes b over. */
void say_buf(lm_buf *b);

/* The name in the server's list that was probably meant; false: none is near. */
bool say_meant(wire *w, const char *model, char out[200]);

/* A string of an object, "" when there is none. */
const char *json_text(const json_t *object, const char *key);

#endif
