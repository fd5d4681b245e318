/* file.h - files as the rest of the house uses them: mapped, read whole with a limit, written atomically. */
#ifndef LM_FILE_H
#define LM_FILE_H

#include <limits.h>

#include "base/base.h"

/* A whole file mapped read-only. The bytes are valid until lm_map_close; a file that is truncated by somebody else
 * while mapped raises SIGBUS on access: weights files are therefore opened, mapped and never re-read from the path, so deleting
 * or renaming the directory is harmless. */
typedef struct lm_map {
    const uint8_t *data;
    uint64_t size;
} lm_map;

lm_status lm_map_open(lm_map *out, const char *path, lm_err *err) LM_CHECKED; /* LM_NOT_FOUND, LM_IO, LM_NO_MEMORY */
void lm_map_close(lm_map *map);                                                /* zeroed map allowed */
void lm_map_drop(const lm_map *map); /* tells the system that the pages are not needed soon (gives RSS back) */

void lm_map_ahead(const void *at, uint64_t bytes); /* tells it that this part of a map will be read soon */

/* Whole file of at most max_bytes into out (appended). LM_NOT_FOUND, LM_TOO_LARGE, LM_IO. */
lm_status lm_file_read(const char *path, size_t max_bytes, lm_buf *out, lm_err *err) LM_CHECKED;

/* Writes path atomically: temporary file in the same directory, fsync, rename, fsync of the directory.
 * LM_NO_SPACE, LM_IO; on failure path is as it was and no temporary file is left. */
lm_status lm_file_write(const char *path, lm_str bytes, lm_err *err) LM_CHECKED;

/* Opens path, made empty if there is none, with flock's lock `how` (LOCK_EX, LOCK_SH, LOCK_NB): the descriptor, whose close gives
 * the lock back, as the end of a killed process does; or -1 and errno. It belongs to the open file, so threads of one
 * process exclude each other as processes do. */
int lm_file_lock(const char *path, int how);

lm_status lm_dir_make(const char *path, lm_err *err) LM_CHECKED; /* with parents, 0755 */
/* Removes path and everything below it; symbolic links are removed, never followed. Absent is LM_OK. */
lm_status lm_dir_remove(const char *path, lm_err *err) LM_CHECKED;
bool lm_path_is_dir(const char *path);
bool lm_path_is_file(const char *path);
char *lm_path_join(const char *dir, const char *name); /* the caller frees */
char *lm_path_home(const char *below);                 /* $HOME/below, the caller frees; "." when there is no home */
/* Where the user's configuration files lie (XDG_CONFIG_HOME/mlx-ollama, else ~/.config/mlx-ollama), and what the programs
 * note for themselves (XDG_STATE_HOME/mlx-ollama, else ~/.mlx-ollama): a file there, the caller frees. */
char *lm_path_config(const char *file);
char *lm_path_state(const char *file);
/* The running program, symbolic links resolved; false when the system does not say. */
bool lm_program_path(char out[PATH_MAX]);

#endif
