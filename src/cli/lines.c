#include "cli/lines.h"

#include <string.h>

#define MAX_MESSAGE (64u << 20)
#define QUOTES      LM_STR("\"\"\"")

void lines_open(lines *l) {
    *l = (lines){0};
    lm_buf_init(&l->text, MAX_MESSAGE);
}

void lines_close(lines *l) {
    lm_buf_release(&l->text);
}

bool lines_waits(const lines *l) {
    return l->open || l->pasted;
}

void lines_forget(lines *l) {
    lm_buf_clear(&l->text);
    l->open = l->pasted = false;
}

/* The quotes have lines of their own, mostly: the line ends beside them are not of the message. */
static void end_quotes(lines *l) {
    l->open = false;
    if (l->text.len && l->text.ptr[l->text.len - 1] == '\n') l->text.ptr[--l->text.len] = '\0';
}

static void add(lines *l, lm_str line) {
    if (!l->open && !l->pasted && lm_str_starts(line, QUOTES)) {
        l->open = true;
        line.ptr += QUOTES.len;
        line.len -= QUOTES.len;
        if (!line.len) return;
    }
    bool ends = l->open && lm_str_ends(line, QUOTES);
    if (ends) line.len -= QUOTES.len;
    lm_buf_str(&l->text, line);
    if (ends)
        end_quotes(l);
    else if (l->open)
        lm_buf_char(&l->text, '\n');
}

bool lines_take(lines *l, const char *line, bool more, char **message) {
    add(l, lm_str_of(line));
    if (more && !l->open) {
        lm_buf_char(&l->text, '\n');
        l->pasted = true;
    }
    if (more || l->open) return false;
    *message = l->text.failed ? NULL : l->text.len ? lm_buf_take(&l->text) : lm_strdup("");
    lines_forget(l);
    return true;
}
