/* ini.h - plain INI files, as the configuration files of all programs are.
 *
 *     # a comment, also with ';', on a line of its own
 *     [section]
 *     key = value              blanks around either side do not count; a value may be empty
 *
 * A byte order mark and CRLF are passed over. The same key may come again: its reader says what that means.
 */
#ifndef LM_INI_H
#define LM_INI_H

#include "base/base.h"

/* One line: key empty when it opens the section. Views live for the call. What it returns ends the reading, and
 * its text is put behind file and line. */
typedef lm_status lm_ini_line(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err);

/* LM_INVALID: "NAME line 3: expected: key = value". */
lm_status lm_ini_parse(const char *name, lm_str text, lm_ini_line *line, void *ctx, lm_err *err) LM_CHECKED;
/* The same of a file of at most max_bytes. LM_NOT_FOUND, LM_TOO_LARGE, LM_IO. */
lm_status lm_ini_read(const char *path, size_t max_bytes, lm_ini_line *line, void *ctx, lm_err *err) LM_CHECKED;

#endif
