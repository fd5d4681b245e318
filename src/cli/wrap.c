#include "cli/wrap.h"

#include <string.h>

#include "cli/text.h"

#define TAB 8

static void end_word(wrap *w) {
    w->word_len = 0;
    w->word_width = 0;
}

static void new_line(wrap *w, lm_buf *out) {
    lm_buf_char(out, '\n');
    w->column = 0;
    end_word(w);
}

static void add_white(wrap *w, char c, uint32_t limit, lm_buf *out) {
    uint32_t width = c == '\t' ? TAB - w->column % TAB : 1;
    end_word(w);
    if (w->white) return;
    if (w->column + width > limit) {
        new_line(w, out);
        w->white = true;
        return;
    }
    lm_buf_char(out, c);
    w->column += width;
}

/* The word goes down: it is taken from this line and written on the next. */
static void move_word(wrap *w, lm_buf *out) {
    if (w->word_width) lm_buf_printf(out, "\033[%uD\033[K", w->word_width);
    lm_buf_char(out, '\n');
    lm_buf_add(out, w->word, w->word_len);
    w->column = w->word_width;
}

static void add_letter(wrap *w, lm_str bytes, uint32_t width, uint32_t limit, lm_buf *out) {
    if (width > 1) end_word(w);
    if (w->column + width > limit) {
        if (w->word_len && w->word_width < w->column && w->word_width + width <= limit)
            move_word(w, out);
        else if (w->column)
            new_line(w, out);
    }
    if (w->word_len + bytes.len > sizeof w->word) end_word(w);
    memcpy(w->word + w->word_len, bytes.ptr, bytes.len);
    w->word_len += bytes.len;
    w->word_width += width;
    w->column += width;
    lm_buf_str(out, bytes);
    if (width > 1) end_word(w);
}

void wrap_text(wrap *w, lm_str s, uint32_t columns, lm_buf *out) {
    /* The last column stays free: terminals differ in where the cursor is behind it. */
    uint32_t limit = columns > 1 ? columns - 1 : 1;
    for (size_t i = 0; i < s.len;) {
        uint32_t code;
        size_t n = text_char((lm_str){s.ptr + i, s.len - i}, &code);
        lm_str bytes = {s.ptr + i, n};
        i += n;
        if (code == '\n') {
            /* The line was ended already by a blank that did not fit. */
            if (w->white)
                w->white = false;
            else
                new_line(w, out);
        } else if (!columns) {
            lm_buf_str(out, bytes);
            w->column++;
        } else if (code == ' ' || code == '\t') {
            add_white(w, (char)code, limit, out);
        } else {
            w->white = false;
            add_letter(w, bytes, text_char_width(code), limit, out);
        }
    }
}
