/* term.h - the terminal, if there is one: its width, its colours, Ctrl-C, and writing to it. Private to the room.
 *
 * What a server says never reaches it raw: see text.h.
 */
#ifndef LM_CLI_TERM_H
#define LM_CLI_TERM_H

#include <stdio.h>

#include "base/base.h"

#define DIM   "\033[2m"
#define BOLD  "\033[1m"
#define GREEN "\033[32m"
#define RED   "\033[31m"
#define PLAIN "\033[0m"

/* Locale for characters and their widths, SIGINT and SIGTERM noted, SIGPIPE ignored. Once, at the start. */
void term_open(void);

bool term_is(FILE *f);      /* a terminal, and not a dumb one */
bool term_colours(FILE *f); /* and colours are wanted there: NO_COLOR is not set */
/* Columns and lines as they are now; 80 and 24 where the system does not say. */
void term_size(FILE *f, uint32_t *columns, uint32_t *lines);
/* The sequence when colours are wanted in f, else nothing. */
const char *term_style(FILE *f, const char *sequence);

/* SIGTERM, or a SIGINT that came since the last term_forget; 0: none. */
int term_signal(void);
void term_forget(void); /* Ctrl-C was for something smaller than the program */
/* From here on a signal ends the program at once: for what cannot be told to stop. */
void term_obey_signals(void);

/* All that comes from fd, added to out. LM_CANCELLED: Ctrl-C; LM_IO, LM_TOO_LARGE: `what` cannot be read, is too large. */
lm_status term_read(int fd, const char *what, lm_buf *out, lm_err *err) LM_CHECKED;

/* Writes to stdout and flushes. What could not be written (a reader who left, a full disk) is kept. */
void term_write(lm_str s);
bool term_broken(void); /* a write failed */
/* Flushes stdout; says on stderr why it could not be written, but not for a reader who left. False: it could not. */
bool term_finish(void);

#endif
