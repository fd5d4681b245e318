/* text.h - what servers and models say, made fit for people: harmless, of known width, in human units. Private to the room.
 */
#ifndef LM_CLI_TEXT_H
#define LM_CLI_TEXT_H

#include <stdio.h>

#include "base/base.h"

/* The first character of s: its bytes, and what it is. A byte that is no UTF-8 counts as one U+FFFD. s is not empty. */
size_t text_char(lm_str s, uint32_t *code);
/* Columns that a character takes: 0 for what combines with the one before, 2 for wide ones. */
uint32_t text_char_width(uint32_t code);
uint32_t text_width(lm_str s);

/* Adds s without anything that a terminal obeys: C0 but for line ends and tabs, DEL, C1 (an escape sequence loses its
 * beginning and is seen as what it is); invalid UTF-8 becomes U+FFFD. one_line: line ends and tabs become blanks. */
void text_clean(lm_buf *out, lm_str s, bool one_line);
/* The same as a string of at most room bytes, cut between characters. */
void text_clean_line(const char *s, char *out, size_t room);

/* As ollama writes them. */
void text_bytes(int64_t bytes, char out[16]);                      /* "1.3 GB" */
void text_count(uint64_t n, char out[16]);                         /* "134.52M" */
void text_duration(int64_t ns, char out[32]);                      /* "1.5s", "131.35ms", "2m3.1s" */
bool text_time(const char *rfc3339, int64_t *wall_ns);             /* false: it is none */
void text_when(const char *rfc3339, int64_t now_ns, char out[48]); /* "3 days ago", "4 minutes from now" */

/* ---- tables: columns as wide as their widest cell, four blanks apart; the last is not padded */
#define TABLE_MAX_COLUMNS 8

typedef struct table {
    uint32_t n_columns;
    char **cells;        /* row by row */
    const char **styles; /* of each cell, "": none */
    uint32_t n, room;
} table;

void table_open(table *t, uint32_t n_columns);
void table_release(table *t);
/* The next cell, cleaned, on one line. */
void table_cell(table *t, const char *format, ...) LM_PRINTF(2, 3);
/* The sequence that goes before the last cell, borrowed: a constant. "": none. */
void table_style(table *t, const char *sequence);
/* Every line with this before it. */
void table_print(const table *t, const char *before, lm_buf *out);

#endif
