/* From items to trees. A definition inside of the source is parsed by a parser of its own that goes on with
 * the same lexer; each looks at most three items ahead, and errors name the line of the last item read, as
 * Go's do. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/go_template.h"

/* ---- the parser ------------------------------------------------------------------------------------------ */

typedef struct shared {
    go_lexer lexer;
    go_arena *arena;
    go_tree *trees;
    uint32_t depth; /* of blocks, parentheses and definitions in each other */
    bool failed;
    lm_status st;
    lm_err *err;
    go_node spare; /* given when there is no memory: the parser has stopped by then */
} shared;

typedef struct parser {
    shared *s;
    go_item ahead[3]; /* [0] is the last one read */
    uint32_t n_ahead, ranges, action_line;
    go_names vars;
} parser;

static void fail(parser *p, const char *format, ...) LM_PRINTF(2, 3);
static void fail(parser *p, const char *format, ...) {
    shared *s = p->s;
    char text[400];
    va_list args;
    if (s->failed) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    s->failed = true;
    s->st = lm_fail(s->err, LM_INVALID, "template: :%u: %s", p->ahead[0].line, text);
}

static go_node *make(parser *p, go_node_kind kind, uint32_t pos) {
    go_node *n = go_make(p->s->arena, 1, sizeof *n);
    if (!n) {
        if (!p->s->failed) p->s->st = lm_fail(p->s->err, LM_INVALID, "template: too large");
        p->s->failed = true;
        return &p->s->spare;
    }
    n->kind = kind;
    n->pos = pos;
    return n;
}

/* Behind a failure only the end of the source is seen, so that every loop ends. */
static go_item take(parser *p) {
    if (p->s->failed) return (go_item){.kind = ITEM_EOF, .text = LM_STR("EOF"), .line = p->ahead[0].line};
    if (p->n_ahead)
        p->n_ahead--;
    else
        p->ahead[0] = go_lex_next(&p->s->lexer);
    return p->ahead[p->n_ahead];
}

static void back(parser *p) {
    if (!p->s->failed) p->n_ahead++;
}

static go_item peek(parser *p) {
    go_item it = take(p);
    back(p);
    return it;
}

static go_item take_word(parser *p) {
    go_item it;
    do it = take(p);
    while (it.kind == ITEM_SPACE);
    return it;
}

static go_item peek_word(parser *p) {
    go_item it = take_word(p);
    back(p);
    return it;
}

/* An item as errors show it, in text. */
static void show(const go_item *it, lm_buf *b) {
    if (it->kind == ITEM_EOF) {
        lm_buf_text(b, "EOF");
    } else if (it->kind == ITEM_ERROR) {
        lm_buf_str(b, it->text);
    } else if (it->kind > ITEM_KEYWORD) {
        lm_buf_printf(b, "<" LM_STR_FMT ">", LM_STR_ARG(it->text));
    } else {
        go_quote(b, it->text, it->text.len > 10 ? 10 : SIZE_MAX, false);
        if (it->text.len > 10) lm_buf_text(b, "...");
    }
}

static void unexpected(parser *p, go_item it, const char *context) {
    lm_buf b;
    lm_buf_init(&b, 1 << 10);
    show(&it, &b);
    if (it.kind != ITEM_ERROR) {
        fail(p, "unexpected %s in %s", b.ptr, context);
    } else if (p->action_line && p->action_line != it.line) {
        const char *in = lm_str_ends(it.text, LM_STR(" action")) ? "" : " in action";
        fail(p, "%s%s started at :%u", b.ptr, in, p->action_line);
    } else {
        fail(p, "%s", b.ptr ? b.ptr : "");
    }
    lm_buf_release(&b);
}

static bool deeper(parser *p) {
    if (p->s->depth++ < GO_MAX_DEPTH) return true;
    fail(p, "max expression depth exceeded");
    return false;
}

/* ---- literals ------------------------------------------------------------------------------------------- */

static int hex(const char *s, size_t n, uint32_t *out) {
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : -1;
        if (d < 0) return -1;
        *out = *out << 4 | (uint32_t)d;
    }
    return 0;
}

/* One character or escape of *s, which loses it. False: not as strconv wants it. *is_byte: the value of a
 * byte. */
static bool unquote_one(lm_str *s, char quote, uint32_t *rune, bool *is_byte) {
    size_t n;
    *is_byte = false;
    *rune = go_rune(*s, &n);
    if (*rune != '\\') {
        if (*rune == 0xfffd && n == 1) *rune = (unsigned char)s->ptr[0], *is_byte = true;
        if (!n || *rune == (uint32_t)quote) return false;
        *s = (lm_str){s->ptr + n, s->len - n};
        return true;
    }
    if (s->len < 2) return false;
    char c = s->ptr[1];
    const char *simple = "abtnvfr", *known = c ? strchr(simple, c) : NULL;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (known) {
        *rune = 7 + (uint32_t)(known - simple);
    } else if (digits) {
        if (s->len < 2 + digits || hex(s->ptr + 2, digits, rune)) return false;
        if (c == 'x')
            *is_byte = true;
        else if (*rune > 0x10ffff || (*rune >= 0xd800 && *rune < 0xe000))
            return false;
    } else if (c >= '0' && c <= '7') {
        if (s->len < 4 || s->ptr[2] < '0' || s->ptr[2] > '7' || s->ptr[3] < '0' || s->ptr[3] > '7')
            return false;
        *rune = (uint32_t)((c - '0') << 6 | (s->ptr[2] - '0') << 3 | (s->ptr[3] - '0'));
        if (*rune > 255) return false;
        *is_byte = true;
        digits = 2;
    } else if (c == '\\' || c == quote) {
        *rune = (unsigned char)c;
    } else {
        return false;
    }
    *s = (lm_str){s->ptr + 2 + digits, s->len - 2 - digits};
    return true;
}

/* The value of a string literal with its quotes. */
static lm_str unquote(parser *p, lm_str literal) {
    lm_str s = {literal.ptr + 1, literal.len - 2};
    char *out = go_make(p->s->arena, s.len + 1, 1);
    size_t n = 0;
    if (!out) return make(p, NODE_TEXT, 0)->text;
    if (literal.ptr[0] == '`') {
        for (size_t i = 0; i < s.len; i++)
            if (s.ptr[i] != '\r') out[n++] = s.ptr[i];
        return (lm_str){out, n};
    }
    while (s.len) {
        uint32_t rune;
        bool is_byte;
        lm_buf b;
        if (!unquote_one(&s, '"', &rune, &is_byte)) {
            fail(p, "invalid syntax");
            return (lm_str){0};
        }
        if (is_byte) {
            out[n++] = (char)rune;
            continue;
        }
        lm_buf_init(&b, 8);
        go_put_rune(&b, rune);
        memcpy(out + n, b.ptr, b.len); /* never longer than its escape */
        n += b.len;
        lm_buf_release(&b);
    }
    return (lm_str){out, n};
}

/* As strconv.ParseUint(text, 0, 64) and its rule for underscores: between digits, or behind the base. */
static bool read_uint(lm_str s, uint64_t *out) {
    unsigned base = 10;
    bool based = false, digit = false;
    if (s.len > 1 && s.ptr[0] == '0') {
        char c = (char)(s.ptr[1] | 32);
        based = true;
        base = c == 'x' ? 16 : c == 'b' ? 2 : 8;
        size_t n = c == 'x' || c == 'b' || c == 'o' ? 2 : 1;
        digit = n == 1;
        s = (lm_str){s.ptr + n, s.len - n};
    }
    bool under = false;
    *out = 0;
    if (!s.len) return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '_') {
            if (under || !(digit || based)) return false;
            under = true;
            continue;
        }
        unsigned d = c >= '0' && c <= '9' ? (unsigned)(c - '0')
                     : (c | 32) >= 'a'    ? (unsigned)((c | 32) - 'a' + 10)
                                          : 99;
        if (d >= base || *out > (UINT64_MAX - d) / base) return false;
        *out = *out * base + d;
        digit = true;
        under = false;
    }
    return digit && !under;
}

static bool read_float(lm_str s, double *out) {
    char text[64], *end;
    if (!s.len || s.len >= sizeof text || memchr(s.ptr, '_', s.len)) return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    bool is_hex = strpbrk(text, "xX");
    if (is_hex && !strpbrk(text, "pP")) return false;
    errno = 0;
    *out = strtod(text, &end); /* the program never leaves the C locale */
    return !*end && !(errno == ERANGE && isinf(*out));
}

static bool has_one_of(lm_str s, const char *set) {
    for (size_t i = 0; i < s.len; i++)
        if (strchr(set, s.ptr[i])) return true;
    return false;
}

static void read_number(parser *p, go_node *n) {
    lm_str s = n->text, digits = s;
    bool minus = s.ptr[0] == '-', sign = minus || s.ptr[0] == '+';
    uint64_t u;
    lm_buf b;
    if (s.ptr[s.len - 1] == 'i' && read_float((lm_str){s.ptr, s.len - 1}, &n->f)) {
        fail(p, "complex numbers are not supported");
        return;
    }
    if (sign) digits = (lm_str){s.ptr + 1, s.len - 1};
    bool whole = read_uint(digits, &u);
    n->is_uint = whole && !sign;
    n->is_int = whole && u <= (uint64_t)INT64_MAX + minus;
    if (n->is_uint) n->u = u;
    if (n->is_int) n->i = minus ? (int64_t)(0 - u) : (int64_t)u;
    if (n->is_int && !n->i) n->is_uint = true;
    n->is_float = true;
    lm_buf_init(&b, 1 << 10);
    go_quote(&b, s, 100, false);
    if (n->is_int) {
        n->f = (double)n->i;
    } else if (n->is_uint) {
        n->f = (double)n->u;
    } else if (read_float(s, &n->f)) {
        if (!has_one_of(s, ".eEpP")) fail(p, "integer overflow: %s", b.ptr);
        n->is_int = n->f >= -9223372036854775808.0 && n->f < 9223372036854775808.0 && floor(n->f) == n->f;
        if (n->is_int) n->i = (int64_t)n->f;
        n->is_uint = n->f >= 0 && n->f < 18446744073709551616.0 && floor(n->f) == n->f;
        if (n->is_uint) n->u = (uint64_t)n->f;
    } else {
        fail(p, "illegal number syntax: %s", b.ptr);
    }
    lm_buf_release(&b);
}

static void read_char(parser *p, go_node *n) {
    lm_str s = {n->text.ptr + 1, n->text.len - 1};
    uint32_t rune;
    bool is_byte;
    if (!unquote_one(&s, '\'', &rune, &is_byte))
        fail(p, "invalid syntax");
    else if (!lm_str_eq(s, LM_STR("'")))
        fail(p, "malformed character constant: " LM_STR_FMT, LM_STR_ARG(n->text));
    n->is_int = n->is_uint = n->is_float = true;
    n->i = rune;
    n->u = rune;
    n->f = rune;
}

/* ---- expressions ----------------------------------------------------------------------------------------- */

static go_node *pipeline(parser *p, const char *context, go_item_kind end);

/* ".a", or "$a": the name without the dot that it begins with. */
static void add_field(parser *p, go_node *n, lm_str text) {
    size_t dot = text.len && text.ptr[0] == '.';
    go_add_name(p->s->arena, &n->names, (lm_str){text.ptr + dot, text.len - dot});
}

static go_node *use_variable(parser *p, go_item it) {
    go_node *n = make(p, NODE_VARIABLE, it.pos);
    add_field(p, n, it.text);
    for (uint32_t i = 0; i < p->vars.n; i++)
        if (lm_str_eq(p->vars.at[i], it.text)) return n;
    fail(p, "undefined variable \"" LM_STR_FMT "\"", LM_STR_ARG(it.text));
    return n;
}

/* NULL: what follows is no term. */
static go_node *term(parser *p) {
    go_item it = take_word(p);
    go_node *n;
    switch (it.kind) {
    case ITEM_IDENTIFIER:
        if (!go_has_function(it.text))
            fail(p, "function \"" LM_STR_FMT "\" not defined", LM_STR_ARG(it.text));
        n = make(p, NODE_IDENTIFIER, it.pos);
        n->text = it.text;
        return n;
    case ITEM_DOT: return make(p, NODE_DOT, it.pos);
    case ITEM_NIL: return make(p, NODE_NIL, it.pos);
    case ITEM_VARIABLE: return use_variable(p, it);
    case ITEM_FIELD:
        n = make(p, NODE_FIELD, it.pos);
        add_field(p, n, it.text);
        return n;
    case ITEM_BOOL:
        n = make(p, NODE_BOOL, it.pos);
        n->truth = it.text.ptr[0] == 't';
        return n;
    case ITEM_NUMBER:
    case ITEM_CHAR_CONSTANT:
        n = make(p, NODE_NUMBER, it.pos);
        n->text = it.text;
        if (it.kind == ITEM_NUMBER)
            read_number(p, n);
        else
            read_char(p, n);
        return n;
    case ITEM_OPEN:
        n = deeper(p) ? pipeline(p, "parenthesized pipeline", ITEM_CLOSE) : make(p, NODE_PIPE, it.pos);
        p->s->depth--;
        return n;
    case ITEM_STRING:
    case ITEM_RAW_STRING:
        n = make(p, NODE_STRING, it.pos);
        n->quoted = it.text;
        n->text = unquote(p, it.text);
        return n;
    default: back(p); return NULL;
    }
}

/* A term with its fields. */
static go_node *operand(parser *p) {
    go_node *n = term(p);
    go_item it = n ? peek(p) : (go_item){0};
    if (!n || it.kind != ITEM_FIELD) return n;
    bool joins = n->kind == NODE_FIELD || n->kind == NODE_VARIABLE;
    if (n->kind == NODE_BOOL || n->kind == NODE_STRING || n->kind == NODE_NUMBER || n->kind == NODE_NIL ||
        n->kind == NODE_DOT) {
        lm_buf shown, b;
        lm_buf_init(&shown, GO_MAX_SOURCE);
        lm_buf_init(&b, 1 << 10);
        while (peek(p).kind == ITEM_FIELD) take(p);
        go_write_node(&shown, n);
        go_quote(&b, lm_buf_view(&shown), 100, false);
        fail(p, "unexpected . after term %s", b.ptr);
        lm_buf_release(&shown);
        lm_buf_release(&b);
        return n;
    }
    go_node *chain = n;
    if (!joins) {
        chain = make(p, NODE_CHAIN, it.pos);
        chain->list = n;
    }
    chain->pos = it.pos; /* Go moves fields and variables, too */
    while (peek(p).kind == ITEM_FIELD) add_field(p, chain, take(p).text);
    return chain;
}

static go_node *command(parser *p) {
    go_node *cmd = make(p, NODE_COMMAND, peek_word(p).pos);
    for (;;) {
        peek_word(p);
        go_node *n = operand(p);
        if (n) go_add_node(p->s->arena, &cmd->kids, n);
        go_item it = take(p);
        if (it.kind == ITEM_SPACE) continue;
        if (it.kind == ITEM_RIGHT || it.kind == ITEM_CLOSE)
            back(p);
        else if (it.kind != ITEM_PIPE)
            unexpected(p, it, "operand");
        break;
    }
    if (!cmd->kids.n) fail(p, "empty command");
    return cmd;
}

static void check_pipeline(parser *p, const go_node *pipe, const char *context) {
    if (!pipe->kids.n) fail(p, "missing value for %s", context);
    for (uint32_t i = 1; i < pipe->kids.n && !p->s->failed; i++) {
        go_node_kind kind = pipe->kids.at[i]->kids.at[0]->kind;
        if (kind == NODE_BOOL || kind == NODE_DOT || kind == NODE_NIL || kind == NODE_NUMBER ||
            kind == NODE_STRING)
            fail(p, "non executable command in pipeline stage %u", i + 1);
    }
}

static void declare(parser *p, go_node *pipe, lm_str name) {
    go_add_name(p->s->arena, &pipe->names, name);
    go_add_name(p->s->arena, &p->vars, name);
}

/* "$a :=", "$a =", and for ranges "$i, $a :=". */
static void declarations(parser *p, go_node *pipe, const char *context) {
    while (peek_word(p).kind == ITEM_VARIABLE) {
        go_item var = take_word(p), behind = peek(p), next = peek_word(p);
        if (next.kind == ITEM_ASSIGN || next.kind == ITEM_DECLARE) {
            pipe->assigns = next.kind == ITEM_ASSIGN;
            take_word(p);
            declare(p, pipe, var.text);
            return;
        }
        if (next.kind == ITEM_CHAR && lm_str_eq(next.text, LM_STR(","))) {
            take_word(p);
            declare(p, pipe, var.text);
            if (strcmp(context, "range") || pipe->names.n > 1) {
                fail(p, "too many declarations in %s", context);
                return;
            }
            go_item_kind kind = peek_word(p).kind;
            if (kind == ITEM_VARIABLE) continue;
            if (kind != ITEM_RIGHT && kind != ITEM_CLOSE) fail(p, "range can only initialize variables");
            return;
        }
        /* It is an operand: back with it, and with the space behind it. */
        if (p->s->failed) return;
        if (behind.kind == ITEM_SPACE) {
            p->ahead[1] = behind;
            p->ahead[2] = var;
            p->n_ahead = 3;
        } else {
            p->ahead[1] = var;
            p->n_ahead = 2;
        }
        return;
    }
}

static go_node *pipeline(parser *p, const char *context, go_item_kind end) {
    go_node *pipe = make(p, NODE_PIPE, peek_word(p).pos);
    declarations(p, pipe, context);
    while (!p->s->failed) {
        go_item it = take_word(p);
        if (it.kind == end) {
            check_pipeline(p, pipe, context);
            return pipe;
        }
        switch (it.kind) {
        case ITEM_BOOL:
        case ITEM_CHAR_CONSTANT:
        case ITEM_DOT:
        case ITEM_FIELD:
        case ITEM_IDENTIFIER:
        case ITEM_NUMBER:
        case ITEM_NIL:
        case ITEM_RAW_STRING:
        case ITEM_STRING:
        case ITEM_VARIABLE:
        case ITEM_OPEN:
            back(p);
            go_add_node(p->s->arena, &pipe->kids, command(p));
            break;
        default: unexpected(p, it, context);
        }
    }
    return pipe;
}

/* ---- actions --------------------------------------------------------------------------------------------- */

static go_node *text_or_action(parser *p);

/* Up to {{end}} or {{else}}, which is *next; NULL after a failure. */
static go_node *item_list(parser *p, go_node **next) {
    go_node *list = make(p, NODE_LIST, peek_word(p).pos);
    *next = NULL;
    while (peek_word(p).kind != ITEM_EOF && !p->s->failed) {
        go_node *n = text_or_action(p);
        if (n && (n->kind == NODE_END || n->kind == NODE_ELSE)) return *next = n, list;
        go_add_node(p->s->arena, &list->kids, n);
    }
    fail(p, "unexpected EOF");
    return list;
}

static go_node *control(parser *p, const char *context, go_node_kind kind) {
    go_node *n = make(p, kind, 0), *next;
    uint32_t mark = p->vars.n;
    if (!deeper(p)) return n;
    n->pipe = pipeline(p, context, ITEM_RIGHT);
    n->pos = n->pipe->pos;
    p->ranges += kind == NODE_RANGE;
    n->list = item_list(p, &next);
    p->ranges -= kind == NODE_RANGE;
    if (next && next->kind == NODE_ELSE) {
        go_item_kind word = peek(p).kind;
        bool chained = (kind == NODE_IF && word == ITEM_IF) || (kind == NODE_WITH && word == ITEM_WITH);
        if (chained) { /* {{else if}} is an {{if}} in the other list; its {{end}} is this one's, too */
            take(p);
            n->other = make(p, NODE_LIST, next->pos);
            go_add_node(p->s->arena, &n->other->kids, control(p, context, kind));
        } else {
            n->other = item_list(p, &next);
            if (next && next->kind != NODE_END) fail(p, "expected end; found {{else}}");
        }
    }
    p->vars.n = mark;
    p->s->depth--;
    return n;
}

static void install(parser *p, go_tree *tree);

/* The rest of {{define}} or {{block}}, as a tree of its own. */
static void definition(parser *p, lm_str name, const char *context) {
    parser inner = {.s = p->s};
    go_node *end;
    go_tree *tree = go_make(p->s->arena, 1, sizeof *tree);
    inner.ahead[0].line = p->ahead[0].line;
    go_add_name(p->s->arena, &inner.vars, LM_STR("$"));
    if (!tree || !deeper(p)) return;
    tree->name = name;
    tree->root = item_list(&inner, &end);
    if (end && end->kind != NODE_END) fail(&inner, "unexpected {{else}} in %s", context);
    install(&inner, tree);
    p->s->depth--;
}

static lm_str template_name(parser *p, go_item it, const char *context) {
    if (it.kind == ITEM_STRING || it.kind == ITEM_RAW_STRING) return unquote(p, it.text);
    unexpected(p, it, context);
    return (lm_str){0};
}

static go_node *template_action(parser *p, bool block) {
    const char *context = block ? "block clause" : "template clause";
    go_item it = take_word(p);
    go_node *n = make(p, NODE_TEMPLATE, it.pos);
    n->text = template_name(p, it, context);
    if (block || take_word(p).kind != ITEM_RIGHT) {
        if (!block) back(p);
        n->pipe = pipeline(p, context, ITEM_RIGHT);
    }
    if (block) definition(p, n->text, context);
    return n;
}

static go_node *loop_action(parser *p, go_item word, go_node_kind kind) {
    const char *name = kind == NODE_BREAK ? "{{break}}" : "{{continue}}";
    go_item it = take_word(p);
    if (it.kind != ITEM_RIGHT) unexpected(p, it, name);
    if (!p->ranges) fail(p, "%s outside {{range}}", name);
    return make(p, kind, word.pos);
}

static go_node *end_action(parser *p, go_node_kind kind) {
    go_item it = peek_word(p);
    if (kind == NODE_ELSE && (it.kind == ITEM_IF || it.kind == ITEM_WITH)) return make(p, kind, it.pos);
    it = take_word(p);
    if (it.kind != ITEM_RIGHT) unexpected(p, it, kind == NODE_END ? "end" : "else");
    return make(p, kind, it.pos);
}

static go_node *action(parser *p) {
    go_item it = take_word(p);
    switch (it.kind) {
    case ITEM_BLOCK: return template_action(p, true);
    case ITEM_BREAK: return loop_action(p, it, NODE_BREAK);
    case ITEM_CONTINUE: return loop_action(p, it, NODE_CONTINUE);
    case ITEM_ELSE: return end_action(p, NODE_ELSE);
    case ITEM_END: return end_action(p, NODE_END);
    case ITEM_IF: return control(p, "if", NODE_IF);
    case ITEM_RANGE: return control(p, "range", NODE_RANGE);
    case ITEM_TEMPLATE: return template_action(p, false);
    case ITEM_WITH: return control(p, "with", NODE_WITH);
    default: break;
    }
    back(p);
    go_node *n = make(p, NODE_ACTION, peek(p).pos);
    n->pipe = pipeline(p, "command", ITEM_RIGHT);
    return n;
}

static go_node *text_or_action(parser *p) {
    go_item it = take_word(p);
    go_node *n = NULL;
    if (it.kind == ITEM_TEXT) {
        n = make(p, NODE_TEXT, it.pos);
        n->text = it.text;
    } else if (it.kind == ITEM_LEFT) {
        p->action_line = it.line;
        n = action(p);
        p->action_line = 0;
    } else {
        unexpected(p, it, "input");
    }
    return n;
}

/* ---- trees ----------------------------------------------------------------------------------------------- */

/* Nothing but space. */
static bool is_empty(const go_node *list) {
    for (uint32_t i = 0; i < list->kids.n; i++) {
        const go_node *n = list->kids.at[i];
        if (n->kind != NODE_TEXT) return false;
        for (size_t k = 0; k < n->text.len; k++)
            if (!strchr(" \t\n\v\f\r", n->text.ptr[k]) || !n->text.ptr[k]) return false;
    }
    return true;
}

static void install(parser *p, go_tree *tree) {
    if (p->s->failed) return;
    for (go_tree *t = p->s->trees; t; t = t->next) {
        if (!lm_str_eq(t->name, tree->name)) continue;
        if (is_empty(t->root)) {
            t->root = tree->root;
        } else if (!is_empty(tree->root)) {
            lm_buf b;
            lm_buf_init(&b, 1 << 10);
            go_quote(&b, tree->name, 100, false);
            fail(p, "template: multiple definition of template %s", b.ptr);
            lm_buf_release(&b);
        }
        return;
    }
    tree->next = p->s->trees;
    p->s->trees = tree;
}

static void main_tree(parser *p) {
    go_tree *tree = go_make(p->s->arena, 1, sizeof *tree);
    if (!tree) return;
    tree->root = make(p, NODE_LIST, peek(p).pos);
    while (peek(p).kind != ITEM_EOF && !p->s->failed) {
        if (peek(p).kind == ITEM_LEFT) {
            go_item left = take(p);
            if (take_word(p).kind == ITEM_DEFINE) {
                parser inner = {.s = p->s, .ahead = {p->ahead[0]}};
                go_item it = take_word(&inner);
                lm_str name = template_name(&inner, it, "define clause");
                it = take_word(&inner);
                if (it.kind != ITEM_RIGHT) unexpected(&inner, it, "define clause");
                p->ahead[0] = inner.ahead[0];
                definition(&inner, name, "define clause");
                continue;
            }
            if (p->s->failed) break;
            p->ahead[1] = left;
            p->n_ahead = 2;
        }
        go_node *n = text_or_action(p);
        if (n && (n->kind == NODE_END || n->kind == NODE_ELSE))
            fail(p, "unexpected %s", n->kind == NODE_END ? "{{end}}" : "{{else}}");
        go_add_node(p->s->arena, &tree->root->kids, n);
    }
    install(p, tree);
}

lm_status go_parse(go_arena *a, lm_str source, go_tree **out, lm_err *err) {
    shared s = {.arena = a, .err = err, .st = LM_INVALID};
    parser p = {.s = &s};
    if (source.len > GO_MAX_SOURCE)
        return lm_fail(err, LM_INVALID, "template: larger than %zu KB", GO_MAX_SOURCE >> 10);
    go_lex_init(&s.lexer, source);
    go_add_name(a, &p.vars, LM_STR("$"));
    main_tree(&p);
    if (!s.failed && a->failed) return lm_fail(err, LM_INVALID, "template: too large");
    if (s.failed) return s.st;
    *out = s.trees;
    return LM_OK;
}
