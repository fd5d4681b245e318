/* lines.h - messages of several lines: from """ to """, or pasted. Private to the room. */
#ifndef LM_CLI_LINES_H
#define LM_CLI_LINES_H

#include "base/base.h"

typedef struct lines {
    lm_buf text;
    bool open;   /* """ has come, its end hasn't */
    bool pasted; /* lines of a paste wait for its last */
} lines;

void lines_open(lines *l);
void lines_close(lines *l);
/* The next line; more: it was pasted, and others follow. True: *message is whole, the caller frees; NULL: it was longer than
 * 64 MiB. */
bool lines_take(lines *l, const char *line, bool more, char **message);
bool lines_waits(const lines *l); /* for more lines */
void lines_forget(lines *l);      /* Ctrl-C */

#endif
