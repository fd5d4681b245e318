/* From the source of a Go template to items. Follows what text/template/parse documents and does: trim
 * markers need their space, a field is one item from its dot to the next, spaces are items inside of an
 * action. */
#include <stdio.h>
#include <string.h>

#include "text/go_template.h"

#define END UINT32_MAX

/* ---- characters ----------------------------------------------------------------------------------------- */

uint32_t go_rune(lm_str s, size_t *n) {
    if (!s.len) return *n = 0, END;
    unsigned char c = (unsigned char)s.ptr[0];
    *n = 1;
    if (c < 0x80) return c;
    size_t want = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (s.len < want || lm_utf8_valid((lm_str){s.ptr, want}, NULL) != want) return 0xfffd;
    *n = want;
    uint32_t r = c & (0x7fu >> want);
    for (size_t i = 1; i < want; i++) r = r << 6 | ((unsigned char)s.ptr[i] & 0x3f);
    return r;
}

void go_put_rune(lm_buf *b, uint32_t r) {
    if (r > 0x10ffff || (r >= 0xd800 && r < 0xe000)) r = 0xfffd;
    if (r < 0x80) {
        lm_buf_char(b, (char)r);
        return;
    }
    char bytes[4];
    int n = r < 0x800 ? 2 : r < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, r >>= 6) bytes[i] = (char)(0x80 | (r & 0x3f));
    bytes[0] = (char)((0xf00 >> n & 0xff) | r);
    lm_buf_add(b, bytes, (size_t)n);
}

/* Outside ASCII what is known to be no letter: punctuation, symbols, spaces, emoji. */
static bool is_symbol(uint32_t r) {
    return (r >= 0x80 && r < 0xc0 && r != 0xaa && r != 0xb5 && r != 0xba) || r == 0xd7 || r == 0xf7 ||
           (r >= 0x2000 && r < 0x2071) || (r >= 0x20a0 && r < 0x2100) || (r >= 0x2190 && r < 0x2c00) ||
           (r >= 0x2e00 && r < 0x2e80) || (r >= 0x3000 && r < 0x3005) || (r >= 0x3008 && r < 0x3021) ||
           (r >= 0xd800 && r < 0xf900) || (r >= 0xfe10 && r < 0xfe70) || (r >= 0xff00 && r < 0xff10) ||
           (r >= 0xff1a && r < 0xff21) || r >= 0xfff0;
}

static bool is_astral_symbol(uint32_t r) {
    return (r >= 0x1f000 && r < 0x1fb00) || (r >= 0xe0000);
}

bool go_is_letter(uint32_t r) {
    if (r < 0x80) return r == '_' || (r >= '0' && r <= '9') || ((r | 32) >= 'a' && (r | 32) <= 'z');
    if (r == END) return false;
    return r >= 0x10000 ? !is_astral_symbol(r) : !is_symbol(r);
}

bool go_is_print(uint32_t r) {
    if (r < 0x7f) return r >= 0x20;
    if (r <= 0xa0 || r == 0xad) return false;
    return !((r >= 0x2000 && r < 0x2010) || (r >= 0x2028 && r < 0x2030) || (r >= 0x205f && r < 0x2070) ||
             r == 0x3000 || (r >= 0xd800 && r < 0xf900) || r == 0xfeff || (r >= 0xfff0 && r < 0xfffc) ||
             (r & 0xfffe) == 0xfffe || r >= 0xe0000);
}

static void quote_rune(lm_buf *b, uint32_t r, char quote, bool ascii) {
    const char *escapes = "abtnvfr"; /* 7 to 13 */
    if (r == (uint32_t)quote || r == '\\')
        lm_buf_printf(b, "\\%c", (char)r);
    else if (go_is_print(r) && (r < 0x80 || !ascii))
        go_put_rune(b, r);
    else if (r >= 7 && r <= 13)
        lm_buf_printf(b, "\\%c", escapes[r - 7]);
    else if (r < 0x20 || r == 0x7f)
        lm_buf_printf(b, "\\x%02x", r);
    else if (r < 0x10000)
        lm_buf_printf(b, "\\u%04x", r);
    else
        lm_buf_printf(b, "\\U%08x", r);
}

void go_quote(lm_buf *b, lm_str s, size_t most, bool ascii) {
    size_t n;
    lm_buf_char(b, '"');
    for (size_t i = 0, k = 0; i < s.len && k < most; i += n, k++) {
        uint32_t r = go_rune((lm_str){s.ptr + i, s.len - i}, &n);
        if (r == 0xfffd && n == 1)
            lm_buf_printf(b, "\\x%02x", (unsigned char)s.ptr[i]);
        else
            quote_rune(b, r, '"', ascii);
    }
    lm_buf_char(b, '"');
}

void go_quote_rune(lm_buf *b, uint32_t r, bool ascii) {
    lm_buf_char(b, '\'');
    quote_rune(b, r > 0x10ffff || (r >= 0xd800 && r < 0xe000) ? 0xfffd : r, '\'', ascii);
    lm_buf_char(b, '\'');
}

/* ---- the text behind the position ----------------------------------------------------------------------- */

void go_lex_init(go_lexer *l, lm_str source) {
    *l = (go_lexer){.source = source, .line = 1, .start_line = 1};
}

static lm_str rest(const go_lexer *l) {
    return (lm_str){l->source.ptr + l->pos, l->source.len - l->pos};
}

static uint32_t peek(const go_lexer *l) {
    size_t n;
    return go_rune(rest(l), &n);
}

static uint32_t take(go_lexer *l) {
    size_t n;
    uint32_t r = go_rune(rest(l), &n);
    l->pos += n;
    if (r == '\n') l->line++;
    return r;
}

static bool at(const go_lexer *l, lm_str words) {
    return lm_str_starts(rest(l), words);
}

static bool is_space(uint32_t r) {
    return r == ' ' || r == '\t' || r == '\r' || r == '\n';
}

static bool take_one_of(go_lexer *l, const char *set) {
    uint32_t r = peek(l);
    if (r == 0 || r >= 0x80 || !strchr(set, (int)r)) return false;
    take(l);
    return true;
}

static void count_lines(go_lexer *l, size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        if (l->source.ptr[i] == '\n') l->line++;
}

/* Leaves out what stands before the position, whose lines were not counted yet. */
static void skip(go_lexer *l, size_t to) {
    count_lines(l, l->pos, to);
    l->start = l->pos = to;
    l->start_line = l->line;
}

static go_item item(go_lexer *l, go_item_kind kind) {
    go_item it = {kind, {l->source.ptr + l->start, l->pos - l->start}, (uint32_t)l->start, l->start_line};
    l->start = l->pos;
    l->start_line = l->line;
    return it;
}

static go_item fail(go_lexer *l, const char *text) {
    if (text != l->error) snprintf(l->error, sizeof l->error, "%s", text);
    l->broken = true;
    return (go_item){ITEM_ERROR, lm_str_of(l->error), (uint32_t)l->start, l->start_line};
}

/* "bad character U+0026 '&'" */
static go_item fail_at(go_lexer *l, const char *what, uint32_t r) {
    lm_buf b;
    lm_buf_init(&b, 64);
    if (r == END) r = 0xffffffff;
    if (r <= 0x10ffff && go_is_print(r)) {
        lm_buf_text(&b, " '");
        go_put_rune(&b, r);
        lm_buf_char(&b, '\'');
    }
    snprintf(l->error, sizeof l->error, "%s U+%04X%s", what, r, b.len ? b.ptr : "");
    lm_buf_release(&b);
    return fail(l, l->error);
}

static bool left_trim(const go_lexer *l, size_t pos) {
    return pos + 1 < l->source.len && l->source.ptr[pos] == '-' &&
           is_space((unsigned char)l->source.ptr[pos + 1]);
}

/* "}}", or " -}}". */
static bool at_right(const go_lexer *l, size_t pos, bool *trims) {
    lm_str s = {l->source.ptr + pos, l->source.len - pos};
    *trims = s.len >= 4 && is_space((unsigned char)s.ptr[0]) && !memcmp(s.ptr + 1, "-}}", 3);
    return *trims || lm_str_starts(s, LM_STR("}}"));
}

static size_t behind_spaces(const go_lexer *l, size_t pos) {
    while (pos < l->source.len && is_space((unsigned char)l->source.ptr[pos])) pos++;
    return pos;
}

/* ---- text ------------------------------------------------------------------------------------------------ */

/* Behind a comment, at whose beginning the position is; false: it is not closed as it should be. */
static bool skip_comment(go_lexer *l, go_item *error) {
    bool trims;
    lm_str s = rest(l);
    char *end = memmem(s.ptr + 2, s.len - 2, "*/", 2);
    if (!end) return *error = fail(l, "unclosed comment"), false;
    size_t pos = (size_t)(end - l->source.ptr) + 2;
    if (!at_right(l, pos, &trims)) return *error = fail(l, "comment ends before closing delimiter"), false;
    pos += trims ? 4 : 2;
    skip(l, trims ? behind_spaces(l, pos) : pos);
    return true;
}

static go_item lex_text(go_lexer *l) {
    for (;;) {
        lm_str s = rest(l);
        char *open = s.len ? memmem(s.ptr, s.len, "{{", 2) : NULL;
        size_t from = l->pos, to = open ? (size_t)(open - l->source.ptr) : l->source.len;
        bool trims = open && left_trim(l, to + 2);
        size_t end = to;
        while (trims && end > from && is_space((unsigned char)l->source.ptr[end - 1])) end--;
        if (end > from) {
            count_lines(l, from, end);
            l->pos = end;
            go_item it = item(l, ITEM_TEXT);
            skip(l, to);
            return it;
        }
        skip(l, to);
        if (!open) return item(l, ITEM_EOF);
        size_t behind = to + (trims ? 4 : 2);
        if (lm_str_starts((lm_str){l->source.ptr + behind, l->source.len - behind}, LM_STR("/*"))) {
            go_item error;
            skip(l, behind);
            if (!skip_comment(l, &error)) return error;
            continue;
        }
        l->pos = to + 2;
        go_item it = item(l, ITEM_LEFT);
        skip(l, behind);
        l->in_action = true;
        l->parens = 0;
        return it;
    }
}

/* ---- inside an action ------------------------------------------------------------------------------------ */

static go_item lex_right(go_lexer *l, bool trims) {
    if (trims) skip(l, l->pos + 2);
    l->pos += 2;
    go_item it = item(l, ITEM_RIGHT);
    if (trims) skip(l, behind_spaces(l, l->pos));
    l->in_action = false;
    return it;
}

/* A run of spaces; the last one may belong to " -}}". */
static go_item lex_space(go_lexer *l) {
    size_t n = 0;
    bool trims;
    while (is_space(peek(l))) take(l), n++;
    if (at_right(l, l->pos - 1, &trims) && trims) {
        l->pos--;
        if (l->source.ptr[l->pos] == '\n') l->line--;
        if (n == 1) return lex_right(l, true);
    }
    return item(l, ITEM_SPACE);
}

static bool at_terminator(const go_lexer *l) {
    uint32_t r = peek(l);
    if (is_space(r) || r == END) return true;
    if (r < 0x80 && r && strchr(".,|:)(", (int)r)) return true;
    return at(l, LM_STR("}}"));
}

static const struct {
    const char *word;
    go_item_kind kind;
} keywords[] = {
    {"block", ITEM_BLOCK},
    {"break", ITEM_BREAK},
    {"continue", ITEM_CONTINUE},
    {"define", ITEM_DEFINE},
    {"else", ITEM_ELSE},
    {"end", ITEM_END},
    {"if", ITEM_IF},
    {"nil", ITEM_NIL},
    {"range", ITEM_RANGE},
    {"template", ITEM_TEMPLATE},
    {"with", ITEM_WITH},
    {"true", ITEM_BOOL},
    {"false", ITEM_BOOL},
};

static go_item lex_word(go_lexer *l, go_item_kind kind) {
    while (go_is_letter(peek(l))) take(l);
    if (!at_terminator(l)) return fail_at(l, "bad character", peek(l));
    lm_str word = {l->source.ptr + l->start, l->pos - l->start};
    for (size_t i = 0; kind == ITEM_IDENTIFIER && i < sizeof keywords / sizeof *keywords; i++)
        if (lm_str_eq(word, lm_str_of(keywords[i].word))) kind = keywords[i].kind;
    return item(l, kind);
}

/* The dot or the dollar has been taken. */
static go_item lex_name(go_lexer *l, go_item_kind kind) {
    if (at_terminator(l)) return item(l, kind == ITEM_VARIABLE ? kind : ITEM_DOT);
    return lex_word(l, kind);
}

static go_item lex_quoted(go_lexer *l, uint32_t quote, go_item_kind kind, const char *unterminated) {
    for (;;) {
        uint32_t r = take(l);
        if (r == '\\' && quote != '`') r = take(l) == '\n' ? '\n' : 0;
        if (r == END || (r == '\n' && quote != '`')) return fail(l, unterminated);
        if (r == quote) return item(l, kind);
    }
}

/* Whether it may be a number; that it is one is the parser's matter. */
static bool take_number(go_lexer *l) {
    const char *digits = "0123456789_";
    take_one_of(l, "+-");
    if (take_one_of(l, "0")) {
        if (take_one_of(l, "xX"))
            digits = "0123456789abcdefABCDEF_";
        else if (take_one_of(l, "oO"))
            digits = "01234567_";
        else if (take_one_of(l, "bB"))
            digits = "01_";
    }
    while (take_one_of(l, digits)) continue;
    if (take_one_of(l, "."))
        while (take_one_of(l, digits)) continue;
    const char *exponent = strlen(digits) == 11 ? "eE" : strlen(digits) == 23 ? "pP" : "";
    if (*exponent && take_one_of(l, exponent)) {
        take_one_of(l, "+-");
        while (take_one_of(l, "0123456789_")) continue;
    }
    take_one_of(l, "i");
    if (!go_is_letter(peek(l))) return true;
    take(l);
    return false;
}

static go_item lex_number(go_lexer *l) {
    bool good = take_number(l);
    if (good && !(peek(l) == '+' || peek(l) == '-')) return item(l, ITEM_NUMBER);
    if (good) good = take_number(l) && l->source.ptr[l->pos - 1] == 'i';
    if (good) return fail(l, "complex numbers are not supported");
    lm_buf b;
    lm_buf_init(&b, 100);
    go_quote(&b, (lm_str){l->source.ptr + l->start, l->pos - l->start}, 20, false);
    snprintf(l->error, sizeof l->error, "bad number syntax: %s", b.ptr);
    lm_buf_release(&b);
    return fail(l, l->error);
}

static go_item lex_action(go_lexer *l) {
    bool trims;
    if (at_right(l, l->pos, &trims)) return l->parens ? fail(l, "unclosed left paren") : lex_right(l, trims);
    uint32_t r = peek(l), next = 0;
    if (r == END) return fail(l, "unclosed action");
    if (is_space(r)) return lex_space(l);
    if (l->pos + 1 < l->source.len) next = (unsigned char)l->source.ptr[l->pos + 1];
    bool digit = (r >= '0' && r <= '9') || r == '+' || r == '-' ||
                 (r == '.' && ((next >= '0' && next <= '9') || l->pos + 1 >= l->source.len));
    if (digit) return lex_number(l);
    if (go_is_letter(r)) return lex_word(l, ITEM_IDENTIFIER);
    take(l);
    switch (r) {
    case '=': return item(l, ITEM_ASSIGN);
    case ':':
        if (take(l) != '=') return fail(l, "expected :=");
        return item(l, ITEM_DECLARE);
    case '|': return item(l, ITEM_PIPE);
    case '"': return lex_quoted(l, r, ITEM_STRING, "unterminated quoted string");
    case '`': return lex_quoted(l, r, ITEM_RAW_STRING, "unterminated raw quoted string");
    case '\'': return lex_quoted(l, r, ITEM_CHAR_CONSTANT, "unterminated character constant");
    case '$': return lex_name(l, ITEM_VARIABLE);
    case '.': return lex_name(l, ITEM_FIELD);
    case '(': l->parens++; return item(l, ITEM_OPEN);
    case ')':
        if (!l->parens) return fail(l, "unexpected right paren");
        l->parens--;
        return item(l, ITEM_CLOSE);
    default: break;
    }
    if (r > 0x20 && r < 0x7f) return item(l, ITEM_CHAR);
    return fail_at(l, "unrecognized character in action:", r);
}

go_item go_lex_next(go_lexer *l) {
    if (l->broken) return (go_item){ITEM_EOF, LM_STR("EOF"), (uint32_t)l->pos, l->start_line};
    return l->in_action ? lex_action(l) : lex_text(l);
}
