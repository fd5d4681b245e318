/* newdir.h - a directory that appears whole or not at all (private to this room).
 *
 * It grows beside its final place under a name that listings pass over, ".VERB-NAME", locked: two that make
 * the same one can't mix, and what a killed one left is cleared by the next. */
#ifndef LM_STORE_NEWDIR_H
#define LM_STORE_NEWDIR_H

#include "base/base.h"

typedef struct lm_newdir {
    char *temp; /* where to put files; owned */
    char *dir, *parent;
    int lock;
} lm_newdir;

/* Parents of dir are made. verb: "importing". LM_INVALID: dir exists, or can't be a name. LM_BUSY: somebody
 * else is at it. LM_NO_SPACE, LM_IO. After LM_OK the caller closes *d. */
lm_status lm_newdir_open(lm_newdir *d, const char *dir, const char *verb, lm_err *err) LM_CHECKED;
/* Flushes it and gives it its name. */
lm_status lm_newdir_commit(lm_newdir *d, lm_err *err) LM_CHECKED;
void lm_newdir_close(lm_newdir *d); /* removes what was not committed */

#endif
