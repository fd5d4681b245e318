/* progress.h - what takes longer than a moment shows that it lives, on stderr. Private to the room.
 *
 * On a terminal: a spinner for a wait, a bar for each thing that is fetched or sent. Elsewhere: nothing for a wait, and plain
 * lines for what has a bar.
 */
#ifndef LM_CLI_PROGRESS_H
#define LM_CLI_PROGRESS_H

#include <jansson.h>

#include "base/base.h"

/* ---- a wait */

typedef struct spinner {
    uint64_t since_ns, drawn_ns; /* drawn_ns 0: nothing stands there */
    bool off;                    /* no terminal, or over */
} spinner;

void spinner_start(spinner *s);
void spinner_turn(void *s); /* draws it, a short time after the start; as wire's idle */
void spinner_stop(spinner *s);

/* ---- what is fetched, sent or made */

typedef struct progress_bar {
    char *name;   /* a status, or a digest's beginning */
    char *digest; /* NULL: a status without a size; "": of no layer */
    int64_t total, done, at_start;
    uint64_t started_ns;
    uint32_t told; /* the last ten percent that a plain line told */
} progress_bar;

typedef struct progress {
    bool terminal;
    progress_bar *bars;
    uint32_t n, room;
    uint32_t shown; /* lines that stand on the terminal */
    uint64_t drawn_ns;
} progress;

void progress_open(progress *p);
/* An event of /api/pull, /api/push, /api/create: "status", and "digest", "total", "completed" for what has a size. */
void progress_event(progress *p, const json_t *event);
/* Draws it now (a terminal); called often, it draws ten times a second. As wire's idle. */
void progress_draw(void *p);
void progress_close(progress *p); /* leaves what stands there */

/* One bar's line of so many columns. For the test. */
void progress_line(const progress_bar *b, uint64_t now_ns, uint32_t columns, lm_buf *out);

#endif
