/* commands.h - one function for each command; it returns the program's exit status. Private to the room. */
#ifndef LM_CLI_COMMANDS_H
#define LM_CLI_COMMANDS_H

#include <jansson.h>

#include "cli/args.h"
#include "cli/wire.h"

extern const cli_command cli_commands[];               /* ended by one without a name */
const cli_command *cli_command_find(const char *name); /* or its alias; NULL: there is none */

/* models.c */
int command_list(const cli_args *a);
int command_ps(const cli_args *a);
int command_rm(const cli_args *a);
int command_cp(const cli_args *a);
int command_stop(const cli_args *a);
/* The table of `list`, of a server that is reached. */
int list_models(const cli_args *a, wire *w);

/* transfer.c */
int command_pull(const cli_args *a);
int command_push(const cli_args *a);
/* Pulls and shows how it goes; json: the events as they come. Returns an exit status and has said what went wrong. */
int pull_model(const cli_args *a, wire *w, const char *name, bool insecure, bool json);

/* create.c */
int command_create(const cli_args *a);

/* show.c */
int command_show(const cli_args *a);
/* What `show` prints of an answer of /api/show. */
void show_model(const json_t *answer, bool verbose, lm_buf *out);

/* run.c */
int command_run(const cli_args *a);
int command_chat(const cli_args *a);

/* backends.c */
int command_switch(const cli_args *a);
int command_start_mlx(const cli_args *a);
int command_stop_mlx(const cli_args *a);

/* proxy.c */
int command_serve(const cli_args *a);
int command_status(const cli_args *a);
int command_explain(const cli_args *a);
int command_bench(const cli_args *a);

/* commands.c */
int command_help(const cli_args *a);
int command_version(const cli_args *a);

#endif
