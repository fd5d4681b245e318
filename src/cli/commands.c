/* commands.c - the table of commands, and the program's beginning and end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/say.h"
#include "cli/term.h"

#define HOST                                                                                                 \
    { "host", 0, CLI_VALUE, "URL", "the server to ask, and no other (OLLAMA_HOST)" }
#define JSON                                                                                                 \
    { "json", 0, CLI_FLAG, NULL, "one JSON document instead of text" }
#define INSECURE                                                                                             \
    { "insecure", 0, CLI_FLAG, NULL, "pull from a registry without TLS, too" }
#define EVENTS                                                                                               \
    { "json", 0, CLI_FLAG, NULL, "the events as they come, one JSON object a line" }
#define END                                                                                                  \
    { NULL, 0, CLI_FLAG, NULL, NULL }
#define ANSWERING                                                                                            \
    {"think", 0, CLI_MAYBE, "LEVEL", "think first: true, false, low, medium, high or max"},                  \
        {"hidethinking", 0, CLI_FLAG, NULL, "do not show what it thinks"},                                   \
        {"format", 0, CLI_VALUE, "FORMAT", "json, or a JSON schema that the answer keeps to"},               \
        {"system", 0, CLI_VALUE, "TEXT", "the system message"},                                              \
        {"keepalive", 0, CLI_VALUE, "DURATION", "how long the model stays loaded: 5m, 0, -1 (for ever)"},    \
        {"verbose", 'v', CLI_FLAG, NULL, "show times and rates"},                                            \
        {"nowordwrap", 0, CLI_FLAG, NULL, "do not break lines between words"}, INSECURE

static const cli_option plain_options[] = {HOST, JSON, END};
static const cli_option pull_options[] = {INSECURE, HOST, EVENTS, END};
static const cli_option push_options[] = {
    {"insecure", 0, CLI_FLAG, NULL, "push to a registry without TLS, too"}, HOST, EVENTS, END};
static const cli_option create_options[] = {
    {"file", 'f', CLI_VALUE, "FILE", "the Modelfile (./Modelfile); -: what comes by a pipe"},
    {"quantize", 'q', CLI_VALUE, "TYPE", "the form of its weights: q4_K_M, q8_0 and so on"},
    HOST,
    EVENTS,
    END};
static const cli_option show_options[] = {{"license", 0, CLI_FLAG, NULL, "only its license"},
                                          {"modelfile", 0, CLI_FLAG, NULL, "only its Modelfile"},
                                          {"parameters", 0, CLI_FLAG, NULL, "only its parameters"},
                                          {"system", 0, CLI_FLAG, NULL, "only its system message"},
                                          {"template", 0, CLI_FLAG, NULL, "only the template of its prompts"},
                                          {"verbose", 'v', CLI_FLAG, NULL, "its metadata and tensors, too"},
                                          HOST,
                                          JSON,
                                          END};
static const cli_option run_options[] = {
    ANSWERING,
    {"truncate", 0, CLI_FLAG, NULL, "vectors: cut a text that is too long (--truncate=false: refuse it)"},
    {"dimensions", 0, CLI_VALUE, "N", "vectors: only their first N numbers"},
    HOST,
    JSON,
    END};
static const cli_option chat_options[] = {ANSWERING, HOST, END};
#define CONFIG                                                                                               \
    { "config", 0, CLI_VALUE, "FILE", "the router's configuration (~/.config/mlx-ollama/router.ini)" }
static const cli_option serve_options[] = {
    CONFIG,
    {"host", 0, CLI_VALUE, "ADDRESS", "where to listen (127.0.0.1)"},
    {"port", 0, CLI_VALUE, "N", "on which port (11436); 0: one that is free"},
    {"verbose", 'v', CLI_FLAG, NULL, "log more"},
    {"check", 0, CLI_FLAG, NULL, "only show the configuration as it holds"},
    JSON,
    END};
static const cli_option status_options[] = {CONFIG, JSON, END};
static const cli_option explain_options[] = {
    {"tools", 0, CLI_FLAG, NULL, "a request with tools"},
    {"format", 0, CLI_VALUE, "json", "an answer in JSON, or by a schema"},
    {"image", 0, CLI_FLAG, NULL, "a request with a picture"},
    {"num-ctx", 0, CLI_VALUE, "N", "a context of N tokens"},
    {"embed", 0, CLI_FLAG, NULL, "vectors"},
    CONFIG,
    JSON,
    END};
static const cli_option bench_options[] = {
    {"choose", 0, CLI_FLAG, NULL, "keep which backend is best for each model"}, CONFIG, JSON, END};
static const cli_option json_option[] = {JSON, END};

static const char run_notes[] =
    "What comes by a pipe is the beginning of the prompt. Without any, on a terminal, it is a chat.\n"
    "An answer that is not for a terminal goes to stdout alone: thinking and figures go to stderr.\n"
    "A model that makes vectors prints the vector. A model that is not there is pulled; on a terminal\n"
    "you are asked before.";

static const char chat_notes[] =
    "/? lists what can be done there. Ctrl-C stops an answer, Ctrl-D leaves. What is typed is kept in\n"
    "~/.mlx-ollama/history, unless OLLAMA_NOHISTORY is set.";

static const char push_notes[] =
    "The server sends it, with its keys: to where the model's name says. cp gives it such a name.";

static const char create_notes[] =
    "The Modelfile says FROM which model it is made, or from which files: a GGUF file, or a directory of\n"
    "safetensors; and what else belongs to it: ADAPTER, TEMPLATE, SYSTEM, PARAMETER, MESSAGE, LICENSE. Paths "
    "are\n"
    "relative to it. Files are sent to the server, unless it has them already. Without any Modelfile it is\n"
    "made from the files of this directory. Exit code 2: the Modelfile is wrong.";

static const char switch_notes[] =
    "auto    each request goes where it is served best\n"
    "ollama  to Ollama first; to the bridge when Ollama cannot\n"
    "mlx     to the bridge first; to Ollama when the bridge cannot\n"
    "\n"
    "With a MODEL it holds for that one alone. Without a word it says what holds now. A running router\n"
    "sees it within a second.";

static const char serve_notes[] =
    "One port in front of Ollama and the bridge: http://127.0.0.1:11436 unless the configuration says\n"
    "otherwise. It logs to stderr, and ends with SIGTERM or Ctrl-C when the running answers are through.\n"
    "SIGHUP reads the configuration again.";

static const char status_notes[] =
    "It asks the running router, and without one the backends themselves. Exit code 5: none of them is up.";

static const char explain_notes[] = "Nothing is asked of the model. Exit code 4: nobody can serve it.";

static const char bench_notes[] =
    "Without a MODEL: all that more than one backend has. Each is loaded and asked a few short questions,\n"
    "which takes a minute or so a model; what happens is told on stderr. Nothing else should run meanwhile.";

static const char service_notes[] =
    "What follows is handed to mlx-server-startup, which does it: see mlx-server-startup help.";

const cli_command cli_commands[] = {
    {"status", NULL, "", 0, 0, "Show the router, its backends and their models", status_notes, status_options,
     false, command_status},
    {"list", "ls", "[PREFIX]", 0, 1, "List the models that are there", NULL, plain_options, false,
     command_list},
    {"ps", NULL, "[PREFIX]", 0, 1, "List the models that are loaded", NULL, plain_options, false, command_ps},
    {"show", NULL, "MODEL", 1, 1, "Show what a model is", NULL, show_options, false, command_show},
    {"run", NULL, "MODEL [PROMPT...]", 1, UINT32_MAX, "Ask a model", run_notes, run_options, false,
     command_run},
    {"chat", NULL, "MODEL", 1, 1, "Talk with a model", chat_notes, chat_options, false, command_chat},
    {"pull", NULL, "MODEL", 1, 1, "Fetch a model", NULL, pull_options, false, command_pull},
    {"push", NULL, "MODEL", 1, 1, "Send a model to its registry", push_notes, push_options, false,
     command_push},
    {"create", NULL, "NAME", 1, 1, "Make a model as a Modelfile says", create_notes, create_options, false,
     command_create},
    {"rm", NULL, "MODEL...", 1, UINT32_MAX, "Delete models", NULL, plain_options, false, command_rm},
    {"cp", NULL, "SOURCE NAME", 2, 2, "Give a model another name, too", NULL, plain_options, false,
     command_cp},
    {"stop", NULL, "MODEL", 1, 1, "Unload a model", NULL, plain_options, false, command_stop},
    {"start-mlx", NULL, "[OPTIONS]", 0, UINT32_MAX, "Start the bridge", service_notes, NULL, true,
     command_start_mlx},
    {"stop-mlx", NULL, "[OPTIONS]", 0, UINT32_MAX, "Stop the bridge", service_notes, NULL, true,
     command_stop_mlx},
    {"switch", NULL, "[auto|ollama|mlx] [MODEL]", 0, 2, "Say which backend is preferred", switch_notes,
     json_option, false, command_switch},
    {"explain", NULL, "MODEL", 1, 1, "Say which backend a request would go to, and why", explain_notes,
     explain_options, false, command_explain},
    {"bench", NULL, "[MODEL...]", 0, UINT32_MAX, "Measure the backends beside each other", bench_notes,
     bench_options, false, command_bench},
    {"serve", NULL, "", 0, 0, "Run the router", serve_notes, serve_options, false, command_serve},
    {"help", NULL, "[COMMAND]", 0, 1, "Show what a command does", NULL, NULL, false, command_help},
    {"version", NULL, "", 0, 0, "Show the version, and the server's", NULL, plain_options, false,
     command_version},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, false, NULL},
};

const cli_command *cli_command_find(const char *name) {
    for (const cli_command *c = cli_commands; c->name; c++)
        if (!strcmp(name, c->name) || (c->alias && !strcmp(name, c->alias))) return c;
    return NULL;
}

/* ---- help, version */

static const char help_end[] =
    "\n"
    "The server that is asked: --host, else OLLAMA_HOST, else the first that answers of the router, the\n"
    "bridge and Ollama, as ~/.config/mlx-ollama/router.ini has their addresses.\n"
    "NO_COLOR: no colours. Colours and progress are for terminals only.\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the address cannot be listened on,\n"
    "4 no such model, 5 no server answers, 130 interrupted.\n";

static int say_help(void) {
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    lm_buf_text(&b, "Usage: " CLI_PROGRAM " COMMAND [operands and options]\n\n");
    for (const cli_command *c = cli_commands; c->name; c++) {
        char head[80];
        snprintf(head, sizeof head, "%s%s%s", c->name, c->operands[0] ? " " : "", c->operands);
        lm_buf_printf(&b, "  %-34s %s\n", head, c->summary);
    }
    lm_buf_text(&b, "\n" CLI_PROGRAM " COMMAND --help says more of each.\n");
    lm_buf_text(&b, help_end);
    say_buf(&b);
    return CLI_OK;
}

static int say_command_help(const cli_command *c) {
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    cli_command_help(c, &b);
    say_buf(&b);
    return CLI_OK;
}

static int unknown_command(const char *name) {
    const char *names[64] = {0};
    for (size_t i = 0; cli_commands[i].name; i++) names[i] = cli_commands[i].name;
    const char *near = cli_nearest(name, names);
    if (near) return say_failed(NULL, CLI_USAGE, "there is no command %.60s: did you mean %s?", name, near);
    return say_failed(NULL, CLI_USAGE, "there is no command %.60s: see " CLI_PROGRAM " help", name);
}

int command_help(const cli_args *a) {
    if (!a->n_operands) return say_help();
    const cli_command *c = cli_command_find(a->operand[0]);
    return c ? say_command_help(c) : unknown_command(a->operand[0]);
}

/* The server's is of interest, but no version of ours depends on it. */
int command_version(const cli_args *a) {
    wire w = {0};
    json_t *o = NULL, *server = json_null();
    lm_err err = {0};
    if (wire_find(a, &w, &err) == LM_OK && wire_json(&w, "GET", "/api/version", NULL, &o, &err) == LM_OK)
        server = json_pack("{s:s, s:s}", "url", w.url, "version", json_text(o, "version"));
    if (say_as_json(a)) {
        say_json(json_pack("{s:s, s:O}", "version", LM_VERSION, "server", server));
    } else {
        say(CLI_PROGRAM " %s\n", LM_VERSION);
        if (o) say("server at %s: %s\n", w.url, json_text(o, "version"));
    }
    json_decref(server);
    json_decref(o);
    wire_close(&w);
    return term_signal() ? CLI_SIGNAL + term_signal() : CLI_OK;
}

/* ---- main */

static bool is_text(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (lm_utf8_valid(lm_str_of(argv[i]), NULL) != strlen(argv[i])) return false;
    return true;
}

static int run_command(const cli_command *c, int argc, char **argv) {
    cli_args a;
    lm_err err = {0};
    lm_status st = cli_args_read(c, argc, argv, &a, &err);
    int code;
    if (st != LM_OK)
        code = say_failed(&a, CLI_USAGE, "%s", err.text);
    else if (a.help || (c->passes && argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))))
        code = say_command_help(c);
    else
        code = c->run(&a);
    cli_args_release(&a);
    return code;
}

int lm_cli_main(int argc, char **argv) {
    term_open();
    int code;
    const char *name = argc > 1 ? argv[1] : "";
    const cli_command *c = cli_command_find(name);
    if (!is_text(argc, argv))
        code = say_failed(NULL, CLI_USAGE, "the command line is no UTF-8 text: set your terminal to UTF-8");
    else if (c)
        code = run_command(c, argc - 1, argv + 1);
    else if (!name[0]) {
        say_help();
        code = CLI_USAGE;
    } else if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        code = say_help();
    else if (!strcmp(name, "--version") || !strcmp(name, "-v")) {
        say(CLI_PROGRAM " %s\n", LM_VERSION); /* nobody is asked, unlike by the command */
        code = CLI_OK;
    } else
        code = unknown_command(name);
    if (!term_finish() && code == CLI_OK) code = CLI_FAILED;
    return code;
}
