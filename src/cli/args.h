/* args.h - a command line, read by tables: operands and options in any order, "--" ends the options. Private to the room.
 *
 *     --name  -n          a flag; --name=false takes it back
 *     --name VALUE        also --name=VALUE
 *     --name[=VALUE]      a value only behind '='
 */
#ifndef LM_CLI_ARGS_H
#define LM_CLI_ARGS_H

#include "base/base.h"

#define CLI_PROGRAM     "ollama-to-mlx-router"
#define CLI_MAX_OPTIONS 16

/* What the program's exit says. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_ADDRESS = 3,   /* serve: the address cannot be listened on */
    CLI_NO_MODEL = 4,  /* no such model */
    CLI_NO_SERVER = 5, /* nobody answers */
    CLI_SIGNAL = 128,  /* and the signal's number: 130 after Ctrl-C */
};

typedef enum cli_kind { CLI_FLAG, CLI_VALUE, CLI_MAYBE } cli_kind;

typedef struct cli_option {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0: none */
    cli_kind kind;
    const char *value; /* how the help calls it; NULL for a flag */
    const char *text;
} cli_option;

typedef struct cli_args cli_args;

typedef struct cli_command {
    const char *name, *alias; /* alias NULL: none */
    const char *operands;     /* as the help shows them; "": none */
    uint32_t least, most;     /* how many operands */
    const char *summary;      /* one line */
    const char *notes;        /* more of the help, NULL: none */
    const cli_option *options;
    bool passes; /* everything behind the name is handed on unread */
    int (*run)(const cli_args *a);
} cli_command;

struct cli_args {
    const cli_command *command;
    const char *value[CLI_MAX_OPTIONS]; /* of options[i]; a flag's is "" or "false", NULL: not given */
    const char **operand;               /* n_operands, borrowed from argv; the array is ours */
    uint32_t n_operands;
    bool help;
};

/* argv[0] is the command's name. LM_INVALID says what to write instead. The caller releases, in any case. */
lm_status cli_args_read(const cli_command *command, int argc, char **argv, cli_args *out,
                        lm_err *err) LM_CHECKED;
void cli_args_release(cli_args *a);

/* An option's value, NULL when it was not given; "" for a flag, and for a CLI_MAYBE without a value. The command has such an
 * option. */
const char *cli_value(const cli_args *a, const char *name);
bool cli_flag(const cli_args *a, const char *name); /* given, and not taken back */
bool cli_has(const cli_args *a, const char *name);  /* the command knows such an option */

/* What --help shows. */
void cli_command_help(const cli_command *c, lm_buf *out);

/* The word of a list (ended by NULL) that was probably meant; NULL: none is near. */
const char *cli_nearest(const char *word, const char *const *list);

#endif
