/* history.h - what was typed, kept for the next session: ~/.mlx-ollama/history, one entry a line, for its owner alone.
 * Private to the room.
 *
 * Each entry is appended as it is made, so that sessions side by side keep theirs.
 */
#ifndef LM_CLI_HISTORY_H
#define LM_CLI_HISTORY_H

#include "base/base.h"

#define HISTORY_MAX 1000 /* entries that are read */

/* Hands on each entry, the oldest first. A file that is not there, or cannot be read, has none. A file that has grown far
 * beyond HISTORY_MAX is cut. */
void history_read(const char *path, void (*entry)(void *ctx, const char *line), void *ctx);
/* Adds one; lines with line ends, or of more than 8 KiB, are not kept. LM_IO, LM_NO_SPACE. */
lm_status history_add(const char *path, const char *line, lm_err *err) LM_CHECKED;

#endif
