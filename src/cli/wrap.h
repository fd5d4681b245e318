/* wrap.h - words that would not fit go to the next line, while the text still comes. Private to the room.
 *
 * Letters are shown as they come; a word that grows over the edge is taken back and begun again on the next line.
 * Wide characters (Chinese, say) may be parted anywhere. Line ends and blanks at a line's beginning stay as the text
 * has them.
 */
#ifndef LM_CLI_WRAP_H
#define LM_CLI_WRAP_H

#include "base/base.h"

typedef struct wrap {
    uint32_t column;
    char word[512]; /* what of the current word stands on this line */
    size_t word_len;
    uint32_t word_width;
    bool white; /* the last character was a blank that did not fit: others behind it are left out, too */
} wrap;

/* Adds clean text (text_clean) to out, for a terminal of so many columns; 0: as it is. */
void wrap_text(wrap *w, lm_str s, uint32_t columns, lm_buf *out);

#endif
