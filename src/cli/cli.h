/* cli.h - what people type: the program ollama-to-mlx-router.
 *
 *     ollama-to-mlx-router COMMAND [operands and options]
 *
 * The commands and their options are tables in commands.c; args.c reads a command line by them, and writes the help.
 *
 * Threads: all of it runs on the program's main thread.
 */
#ifndef LM_CLI_H
#define LM_CLI_H

/* The program's exit status, as `help` lists them. */
int lm_cli_main(int argc, char **argv);

#endif
