#include "cli/modelfile.h"

#include <stdlib.h>
#include <string.h>

#include "cli/args.h"

#define MAX_COMMANDS 16384

static const char *const words[] = {"FROM",   "ADAPTER",  "TEMPLATE",  "SYSTEM",  "LICENSE", "RENDERER",
                                    "PARSER", "REQUIRES", "PARAMETER", "MESSAGE", NULL};

const char *modelfile_word(modelfile_kind kind) {
    return words[kind];
}

typedef struct scan {
    lm_str s;
    size_t at;
    uint32_t line;
} scan;

static char peek(const scan *k) { /* NUL: the end, or a NUL, which no word holds either */
    return k->at < k->s.len ? k->s.ptr[k->at] : '\0';
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static bool is_line_end(char c) {
    return c == '\n' || c == '\r';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_word(char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_';
}

/* The next byte; \n, \r\n and \r end a line each. */
static char step(scan *k) {
    char c = k->s.ptr[k->at++];
    if (c == '\n' || (c == '\r' && peek(k) != '\n')) k->line++;
    return c;
}

static void skip_blanks(scan *k) {
    while (is_blank(peek(k))) k->at++;
}

static lm_str take_word(scan *k, bool (*belongs)(char c)) {
    size_t from = k->at;
    while (k->at < k->s.len && belongs(peek(k))) k->at++;
    return (lm_str){k->s.ptr + from, k->at - from};
}

/* What stands there as one word, for an error. */
static lm_str seen(const scan *k, size_t from) {
    size_t to = from;
    while (to < k->s.len && to - from < 40 && !is_blank(k->s.ptr[to]) && !is_line_end(k->s.ptr[to])) to++;
    return (lm_str){k->s.ptr + from, to - from};
}

/* ---- a value */

/* The text within its quotes; false: they do not end here. v is trimmed. */
static bool unquote(lm_str v, lm_str *out) {
    size_t n = lm_str_starts(v, LM_STR("\"\"\"")) ? 3 : lm_str_starts(v, LM_STR("\"")) ? 1 : 0;
    lm_str mark = {"\"\"\"", n};
    if (v.len < 2 * n || (n && !lm_str_ends(v, mark))) return false;
    *out = (lm_str){v.ptr + n, v.len - 2 * n};
    return true;
}

/* Bytes of a control character that s begins with, but for blanks and line ends; 0: it is none. */
static size_t control(lm_str s) {
    unsigned char c = (unsigned char)s.ptr[0], next = s.len > 1 ? (unsigned char)s.ptr[1] : 0;
    if (c == 0xc2 && next >= 0x80 && next < 0xa0) return 2;
    return (c < 0x20 && !is_blank((char)c) && !is_line_end((char)c)) || c == 0x7f;
}

/* Up to the end of the line at which no quotes are open, or of the text. */
static lm_status take_value(scan *k, char **out, lm_err *err) {
    uint32_t began = k->line;
    lm_buf b;
    lm_str text;
    size_t end =
        0; /* behind the last one that is no white space: trimming again at each line end could take for ever */
    lm_buf_init(&b, MODELFILE_MAX_BYTES);
    skip_blanks(k);
    for (;;) {
        bool over = k->at >= k->s.len;
        if (over || is_line_end(peek(k))) {
            if (unquote((lm_str){b.ptr ? b.ptr : "", end}, &text)) break;
            if (over) {
                lm_buf_release(&b);
                return lm_fail(err, LM_INVALID, "line %u: the quotes that begin here do not end", began);
            }
        }
        size_t n = control((lm_str){k->s.ptr + k->at, k->s.len - k->at});
        if (n) {
            k->at += n;
            continue;
        }
        char c = step(k);
        lm_buf_char(&b, c);
        if (!is_blank(c) && !is_line_end(c)) end = b.len;
    }
    lm_status st = lm_buf_status(&b, "a value of the Modelfile", err);
    if (st == LM_OK) *out = lm_str_dup(text);
    lm_buf_release(&b);
    return st;
}

/* ---- a command */

static lm_status find_kind(lm_str word, const scan *k, size_t from, modelfile_kind *out, lm_err *err) {
    for (size_t i = 0; words[i]; i++)
        if (lm_str_eq_nocase(word, lm_str_of(words[i]))) {
            *out = (modelfile_kind)i;
            return LM_OK;
        }
    char *meant = lm_str_dup(word);
    const char *near = word.len ? cli_nearest(meant, words) : NULL;
    lm_str whole = seen(k, from);
    free(meant);
    if (near)
        return lm_fail(err, LM_INVALID, "line %u: \"" LM_STR_FMT "\" is no command: did you mean %s?",
                       k->line, LM_STR_ARG(whole), near);
    return lm_fail(
        err, LM_INVALID,
        "line %u: \"" LM_STR_FMT "\" is no command. One of FROM, ADAPTER, TEMPLATE, SYSTEM, LICENSE, "
        "PARAMETER, MESSAGE, RENDERER, PARSER, REQUIRES begins a line; a text of several lines stands in "
        "\"\"\"",
        k->line, LM_STR_ARG(whole));
}

static bool is_role(lm_str word) {
    return lm_str_eq(word, LM_STR("system")) || lm_str_eq(word, LM_STR("user")) ||
           lm_str_eq(word, LM_STR("assistant"));
}

/* The name of a parameter, the role of a message. */
static lm_status take_name(scan *k, modelfile_kind kind, char **out, lm_err *err) {
    skip_blanks(k);
    size_t from = k->at;
    lm_str word = take_word(k, is_word);
    bool ends = k->at >= k->s.len || is_line_end(peek(k));
    if (kind == MODELFILE_MESSAGE && !is_role(word))
        return lm_fail(err, LM_INVALID,
                       "line %u: a MESSAGE is of system, user or assistant, not of \"" LM_STR_FMT "\"",
                       k->line, LM_STR_ARG(seen(k, from)));
    if (!word.len && ends)
        return lm_fail(err, LM_INVALID, "line %u: a PARAMETER needs a name and a value", k->line);
    if (!ends && !is_blank(peek(k)))
        return lm_fail(err, LM_INVALID, "line %u: \"" LM_STR_FMT "\" is no name of a parameter", k->line,
                       LM_STR_ARG(seen(k, from)));
    if (ends)
        return lm_fail(err, LM_INVALID, "line %u: %s " LM_STR_FMT " needs a value", k->line, words[kind],
                       LM_STR_ARG(word));
    *out = lm_str_dup(word);
    return LM_OK;
}

static lm_status take_command(scan *k, modelfile_command *out, lm_err *err) {
    modelfile_command c = {.line = k->line};
    size_t from = k->at;
    lm_str word = take_word(k, is_letter);
    bool ends = k->at >= k->s.len || is_line_end(peek(k)), alone = ends || is_blank(peek(k));
    lm_status st = find_kind(alone ? word : seen(k, from), k, from, &c.kind, err);
    if (st == LM_OK && ends)
        st = lm_fail(err, LM_INVALID, "line %u: %s needs a value", k->line, words[c.kind]);
    if (st == LM_OK && c.kind >= MODELFILE_PARAMETER) st = take_name(k, c.kind, &c.name, err);
    if (st == LM_OK) st = take_value(k, &c.value, err);
    if (st != LM_OK) {
        free(c.name);
        return st;
    }
    *out = c;
    return LM_OK;
}

/* To the next command; false: there is none. */
static bool find_command(scan *k) {
    while (k->at < k->s.len) {
        if (peek(k) == '#')
            while (k->at < k->s.len && !is_line_end(peek(k))) k->at++;
        else if (is_blank(peek(k)) || is_line_end(peek(k)))
            step(k);
        else
            return true;
    }
    return false;
}

/* ---- all of it */

static lm_status check_text(lm_str *s, lm_err *err) {
    if (lm_str_starts(*s, LM_STR("\xff\xfe")) || lm_str_starts(*s, LM_STR("\xfe\xff")))
        return lm_fail(err, LM_INVALID, "it is UTF-16: save it as UTF-8");
    if (lm_str_starts(*s, LM_STR("\xef\xbb\xbf"))) *s = (lm_str){s->ptr + 3, s->len - 3};
    scan k = {.s = *s, .line = 1};
    size_t valid = lm_utf8_valid(*s, NULL);
    if (valid == s->len) return LM_OK;
    while (k.at < valid) step(&k);
    return lm_fail(err, LM_INVALID, "line %u: bytes that are no UTF-8 text", k.line);
}

static lm_status add_command(modelfile *m, scan *k, lm_err *err) {
    if (m->n == MAX_COMMANDS)
        return lm_fail(err, LM_TOO_LARGE, "line %u: more than %d commands", k->line, MAX_COMMANDS);
    if (m->n == m->room) {
        m->room = m->room ? 2 * m->room : 16;
        m->commands = lm_realloc(m->commands, m->room * sizeof *m->commands);
    }
    lm_status st = take_command(k, &m->commands[m->n], err);
    if (st == LM_OK) m->n++;
    return st;
}

lm_status modelfile_parse(lm_str text, modelfile *out, lm_err *err) {
    modelfile m = {0};
    if (text.len >= MODELFILE_MAX_BYTES)
        return lm_fail(err, LM_TOO_LARGE, "a Modelfile has less than %u MiB", MODELFILE_MAX_BYTES >> 20);
    lm_status st = check_text(&text, err);
    scan k = {.s = text, .line = 1};
    while (st == LM_OK && find_command(&k)) st = add_command(&m, &k, err);
    bool has_from = false;
    for (uint32_t i = 0; i < m.n; i++) has_from |= m.commands[i].kind == MODELFILE_FROM;
    if (st == LM_OK && !has_from)
        st = lm_fail(err, LM_INVALID, "there is no FROM line: it says of which model, or of which files");
    if (st != LM_OK) {
        modelfile_release(&m);
        return st;
    }
    *out = m;
    return LM_OK;
}

void modelfile_release(modelfile *m) {
    for (uint32_t i = 0; i < m->n; i++) {
        free(m->commands[i].name);
        free(m->commands[i].value);
    }
    free(m->commands);
    *m = (modelfile){0};
}
