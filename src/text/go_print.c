/* Values as text: what fmt prints and encoding/json marshals.
 *
 * fmt: a value with a method String is asked for it (the lists of tools, arguments and types have one),
 * structs are {a b}, lists [a b], maps map[k:v] by key. Pointers within other values would be addresses; they
 * are all shown as 0xc000000000 here, since addresses are nobody's business. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/go_template.h"

#define MAX_WIDTH 1000000 /* fmt's own bound */
#define MAX_PRINT ((size_t)64 << 20)

typedef struct format {
    bool plus, minus, sharp, space, zero, has_width, has_precision;
    bool names; /* %+v: structs with the names of their fields */
    int width, precision;
} format;

/* ---- padding --------------------------------------------------------------------------------------------- */

static size_t runes_of(lm_str s) {
    size_t count = 0, n;
    for (size_t i = 0; i < s.len; i += n, count++) go_rune((lm_str){s.ptr + i, s.len - i}, &n);
    return count;
}

static void pad(lm_buf *b, const format *f, lm_str s) {
    size_t n = runes_of(s), width = f->has_width ? (size_t)f->width : 0;
    size_t fill = width > n ? width - n : 0;
    if (f->minus) lm_buf_str(b, s);
    for (size_t i = 0; i < fill && !b->failed; i++) lm_buf_char(b, f->zero && !f->minus ? '0' : ' ');
    if (!f->minus) lm_buf_str(b, s);
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

/* sign and prefix stand before the zeros. */
static void put_integer(lm_buf *b, const format *f, bool minus, uint64_t u, unsigned base, char verb) {
    char digits[80], *end = digits + sizeof digits, *at = end;
    const char *set = verb == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    int n = 0;
    lm_buf text;
    format rest = *f;
    if (f->has_precision && f->precision == 0 && u == 0) {
        rest.zero = false;
        pad(b, &rest, (lm_str){"", 0});
        return;
    }
    do *--at = set[u % base];
    while (u /= base);
    n = (int)(end - at);
    bool sign = minus || f->plus || f->space;
    int want = f->has_precision ? f->precision : f->zero && f->has_width && !f->minus ? f->width - sign : 0;
    lm_buf_init(&text, MAX_PRINT);
    if (sign) lm_buf_char(&text, minus ? '-' : f->plus ? '+' : ' ');
    if (f->sharp && base == 2) lm_buf_text(&text, "0b");
    if (f->sharp && base == 8 && *at != '0') lm_buf_text(&text, "0");
    if (f->sharp && base == 16) lm_buf_printf(&text, "0%c", verb == 'X' ? 'X' : 'x');
    if (verb == 'O') lm_buf_text(&text, "0o");
    for (; want > n; want--) lm_buf_char(&text, '0');
    lm_buf_add(&text, at, (size_t)(end - at));
    rest.zero = false;
    pad(b, &rest, lm_buf_view(&text));
    lm_buf_release(&text);
}

/* The fewest digits that read back as v: "d.ddde[+-]dd". */
static void shortest(double v, char out[40]) {
    for (int digits = 0; digits < 18; digits++) {
        snprintf(out, 40, "%.*e", digits, v);
        if (strtod(out, NULL) == v) return;
    }
}

/* A shortest form without exponent. */
static void put_plain(lm_buf *b, const char *e) {
    char digits[24];
    int n = 0, point = atoi(strchr(e, 'e') + 1) + 1;
    if (*e == '-') lm_buf_char(b, *e++);
    for (; *e != 'e'; e++)
        if (*e != '.') digits[n++] = *e;
    while (n > 1 && digits[n - 1] == '0') n--;
    if (point <= 0) lm_buf_text(b, "0.");
    for (int i = point; i < 0; i++) lm_buf_char(b, '0');
    for (int i = 0; i < n || i < point; i++) {
        if (i && i == point) lm_buf_char(b, '.');
        lm_buf_char(b, i < n ? digits[i] : '0');
    }
}

static void put_float_text(lm_buf *b, double v, char verb, int precision, bool sharp) {
    char e[40];
    LM_ASSERT(precision <= MAX_WIDTH);
    if (isnan(v)) {
        lm_buf_text(b, "NaN");
        return;
    }
    if (isinf(v)) {
        lm_buf_text(b, v < 0 ? "-Inf" : "+Inf");
        return;
    }
    if ((verb | 32) == 'x') { /* C writes the exponent with a digit less */
        snprintf(e, sizeof e, verb == 'x' ? "%.*a" : "%.*A", precision > 13 ? 13 : precision, v);
        char *exponent = strpbrk(e, "pP") + 2;
        lm_buf_printf(b, "%.*s%s%s", (int)(exponent - e), e, exponent[1] ? "" : "0", exponent);
        return;
    }
    if (precision >= 0 || sharp) {
        char c[8];
        snprintf(c, sizeof c, "%%%s.*%c", sharp ? "#" : "", verb);
        size_t room = (size_t)(precision > 0 ? precision : 6) + 400;
        char *text = lm_try_alloc(room, 1);
        if (!text) {
            b->failed = true;
            return;
        }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, room, c, precision >= 0 ? precision : 6, v);
#pragma GCC diagnostic pop
        lm_buf_text(b, text);
        free(text);
        return;
    }
    shortest(v, e);
    int exponent = atoi(strchr(e, 'e') + 1);
    bool plain =
        verb == 'f' || verb == 'F' || ((verb == 'g' || verb == 'G') && exponent >= -4 && exponent < 6);
    if (plain) {
        put_plain(b, e);
    } else {
        if (verb == 'E' || verb == 'G') *strchr(e, 'e') = 'E';
        lm_buf_text(b, e);
    }
}

static void put_float(lm_buf *b, const format *f, double v, char verb) {
    lm_buf text;
    lm_buf_init(&text, MAX_PRINT);
    int precision = f->has_precision                                          ? f->precision
                    : verb == 'v' || (verb | 32) == 'g' || (verb | 32) == 'x' ? -1
                                                                              : 6;
    if (isnan(v) ? f->plus : !signbit(v) && (f->plus || f->space) && !isinf(v))
        lm_buf_char(&text, f->plus ? '+' : ' ');
    put_float_text(&text, v, verb == 'v' ? 'g' : verb, precision, f->sharp && verb != 'v');
    lm_str s = lm_buf_view(&text);
    if (isinf(v) && v > 0 && !f->plus) s.ptr++, s.len--;
    format rest = *f;
    if (isnan(v) || isinf(v)) rest.zero = false;
    bool sign = s.len && (s.ptr[0] == '-' || s.ptr[0] == '+' || s.ptr[0] == ' ');
    if (rest.zero && rest.has_width && !rest.minus && sign) {
        lm_buf_char(b, s.ptr[0]);
        s.ptr++, s.len--;
        rest.width--;
    }
    pad(b, &rest, s);
    lm_buf_release(&text);
}

/* ---- one value ------------------------------------------------------------------------------------------- */

static void put(lm_buf *b, const format *f, go_value v, char verb, int depth);

static void put_type(lm_buf *b, go_value v) {
    lm_buf_text(b, v.type ? v.type->name : "<nil>");
}

static void bad_verb(lm_buf *b, const format *f, go_value v, char verb) {
    lm_buf_printf(b, "%%!%c(", verb);
    if (v.type) {
        put_type(b, v);
        lm_buf_char(b, '=');
        put(b, f, v, 'v', 0);
    } else {
        lm_buf_text(b, "<nil>");
    }
    lm_buf_char(b, ')');
}

static void put_hex(lm_buf *b, const format *f, lm_str s, char verb) {
    lm_buf text;
    lm_buf_init(&text, MAX_PRINT);
    size_t n = f->has_precision && (size_t)f->precision < s.len ? (size_t)f->precision : s.len;
    for (size_t i = 0; i < n && !text.failed; i++) {
        if (i && f->space) lm_buf_char(&text, ' ');
        if (f->sharp && (!i || f->space)) lm_buf_printf(&text, "0%c", verb);
        lm_buf_printf(&text, verb == 'x' ? "%02x" : "%02X", (unsigned char)s.ptr[i]);
    }
    if (text.failed) b->failed = true;
    pad(b, f, lm_buf_view(&text));
    lm_buf_release(&text);
}

static lm_str cut_to(const format *f, lm_str s) {
    size_t n, at = 0;
    for (int i = 0; f->has_precision && i < f->precision && at < s.len; i++, at += n)
        go_rune((lm_str){s.ptr + at, s.len - at}, &n);
    return f->has_precision ? (lm_str){s.ptr, at} : s;
}

static void put_str(lm_buf *b, const format *f, lm_str s, char verb) {
    lm_buf text;
    switch (verb) {
    case 'v':
    case 's': pad(b, f, cut_to(f, s)); break;
    case 'x':
    case 'X': put_hex(b, f, s, verb); break;
    case 'q':
        lm_buf_init(&text, MAX_PRINT);
        s = cut_to(f, s);
        if (f->sharp && lm_utf8_valid(s, NULL) == s.len && !memchr(s.ptr ? s.ptr : "", '`', s.len))
            lm_buf_printf(&text, "`%.*s`", LM_STR_ARG(s));
        else
            go_quote(&text, s, SIZE_MAX, f->plus);
        if (text.failed) b->failed = true;
        pad(b, f, lm_buf_view(&text));
        lm_buf_release(&text);
        break;
    default: bad_verb(b, f, go_of_str(s), verb);
    }
}

static void put_int(lm_buf *b, const format *f, go_value v, char verb) {
    bool minus = v.type->kind == GO_INT && v.i < 0;
    uint64_t u = v.type->kind == GO_UINT ? v.u : minus ? 0 - (uint64_t)v.i : (uint64_t)v.i;
    uint32_t rune = minus || u > 0x10ffff ? 0xfffd : (uint32_t)u;
    lm_buf text;
    lm_buf_init(&text, 64);
    switch (verb) {
    case 'v':
    case 'd': put_integer(b, f, minus, u, 10, verb); break;
    case 'b': put_integer(b, f, minus, u, 2, verb); break;
    case 'o':
    case 'O': put_integer(b, f, minus, u, 8, verb); break;
    case 'x':
    case 'X': put_integer(b, f, minus, u, 16, verb); break;
    case 'c':
        go_put_rune(&text, rune);
        pad(b, f, lm_buf_view(&text));
        break;
    case 'q':
        go_quote_rune(&text, rune, f->plus);
        pad(b, f, lm_buf_view(&text));
        break;
    case 'U':
        lm_buf_printf(&text, "U+%04" PRIX64, minus ? (uint64_t)v.i : u);
        if (f->sharp && u <= 0x10ffff && go_is_print(rune)) {
            lm_buf_text(&text, " '");
            go_put_rune(&text, rune);
            lm_buf_char(&text, '\'');
        }
        pad(b, f, lm_buf_view(&text));
        break;
    default: bad_verb(b, f, v, verb);
    }
    lm_buf_release(&text);
}

/* "map[", "k:v", ... */
static void put_map(lm_buf *b, const format *f, go_value v, char verb, int depth) {
    lm_buf_text(b, "map[");
    for (size_t i = 0; v.map && i < v.map->n && !b->failed; i++) {
        if (i) lm_buf_char(b, ' ');
        put_str(b, f, v.map->at[i].key, verb);
        lm_buf_char(b, ':');
        put(b, f, v.map->at[i].value, verb, depth + 1);
    }
    lm_buf_char(b, ']');
}

static void put_fields(lm_buf *b, const format *f, go_value v, char verb, int depth) {
    lm_buf_char(b, '{');
    for (uint32_t i = 0; i < v.type->n_fields; i++) {
        if (i) lm_buf_char(b, ' ');
        if (f->names) lm_buf_printf(b, "%s:", v.type->fields[i].name);
        put(b, f, v.at[i], verb, depth + 1);
    }
    lm_buf_char(b, '}');
}

static void put_list(lm_buf *b, const format *f, go_value v, char verb, int depth) {
    lm_buf_char(b, '[');
    for (size_t i = 0; i < go_length(v) && !b->failed; i++) {
        if (i) lm_buf_char(b, ' ');
        put(b, f, v.list->at[i], verb, depth + 1);
    }
    lm_buf_char(b, ']');
}

/* What the method String says; false when there is none, or the verb is not for text. */
static bool put_method(lm_buf *b, const format *f, go_value v, char verb) {
    lm_buf text;
    if (!v.type || !v.type->string || !strchr("vsxXq", verb)) return false;
    lm_buf_init(&text, MAX_PRINT);
    if (v.type->string == GO_STRING_TYPES)
        go_write_types(&text, v);
    else if (v.type->kind == GO_MAP && !v.map)
        lm_buf_text(&text, "{}");
    else
        go_write_json(&text, v);
    if (text.failed) b->failed = true;
    put_str(b, f, lm_buf_view(&text), verb);
    lm_buf_release(&text);
    return true;
}

static void put(lm_buf *b, const format *f, go_value v, char verb, int depth) {
    if (b->failed) return;
    if (!v.type) {
        if (depth)
            lm_buf_text(b, "<nil>");
        else if (verb == 'v')
            pad(b, f, LM_STR("<nil>"));
        else
            bad_verb(b, f, v, verb);
        return;
    }
    if (put_method(b, f, v, verb)) return;
    switch (v.type->kind) {
    case GO_BOOL:
        if (verb == 'v' || verb == 't')
            pad(b, f, v.b ? LM_STR("true") : LM_STR("false"));
        else
            bad_verb(b, f, v, verb);
        break;
    case GO_INT:
    case GO_UINT: put_int(b, f, v, verb); break;
    case GO_FLOAT:
        if (strchr("veEfFgGxX", verb))
            put_float(b, f, v.f, verb);
        else
            bad_verb(b, f, v, verb);
        break;
    case GO_STRING: put_str(b, f, v.s, verb); break;
    case GO_MAP: put_map(b, f, v, verb, depth); break;
    case GO_SLICE: put_list(b, f, v, verb, depth); break;
    case GO_STRUCT: put_fields(b, f, v, verb, depth); break;
    case GO_POINTER:
        if (!v.at) {
            lm_buf_text(b, "<nil>");
        } else if (!depth && !v.type->ordered) {
            lm_buf_char(b, '&');
            put_fields(b, f, go_point(v), verb, depth + 1);
        } else {
            lm_buf_text(b, "0xc000000000");
        }
        break;
    }
}

void go_print_value(lm_buf *b, go_value v) {
    format plain = {0};
    v = go_point(v);
    if (v.type && v.type->kind == GO_MAP && v.type->ordered)
        lm_buf_text(b, "{0xc000000000}"); /* a struct with nothing but a pointer */
    else
        put(b, &plain, v, 'v', 0);
}

void go_sprint(lm_buf *b, const go_value *args, size_t n, bool line) {
    format plain = {0};
    for (size_t i = 0; i < n; i++) {
        bool text = args[i].type && args[i].type->kind == GO_STRING;
        bool before = i && args[i - 1].type && args[i - 1].type->kind == GO_STRING;
        if (i && (line || (!text && !before))) lm_buf_char(b, ' ');
        put(b, &plain, args[i], 'v', 0);
    }
    if (line) lm_buf_char(b, '\n');
}

/* ---- printf ---------------------------------------------------------------------------------------------- */

typedef struct printing {
    lm_buf *b;
    const go_value *args;
    size_t n, next;
    bool reordered, good_index;
} printing;

static bool digits(lm_str s, size_t *at, int *out) {
    size_t from = *at;
    *out = 0;
    for (; *at < s.len && s.ptr[*at] >= '0' && s.ptr[*at] <= '9'; (*at)++)
        if (*out <= MAX_WIDTH) *out = *out * 10 + (s.ptr[*at] - '0');
    return *at > from && *out <= MAX_WIDTH;
}

/* "[n]": the argument that is meant next. */
static void argument_index(printing *p, lm_str s, size_t *at) {
    int index;
    if (*at >= s.len || s.ptr[*at] != '[') return;
    p->reordered = true;
    const char *end = memchr(s.ptr + *at, ']', s.len - *at);
    size_t i = *at + 1;
    bool good = end && digits(s, &i, &index) && s.ptr + i == end && index >= 1 && (size_t)index <= p->n;
    *at = end ? (size_t)(end - s.ptr) + 1 : *at + 1;
    if (good)
        p->next = (size_t)index - 1;
    else
        p->good_index = false;
}

/* "*": the number is an argument. */
static bool star(printing *p, int *out) {
    go_value v = p->next < p->n ? p->args[p->next] : GO_NOTHING;
    bool good = v.type && (v.type->kind == GO_INT || v.type->kind == GO_UINT);
    int64_t i = good ? v.i : 0; /* a byte has the same bits as an int */
    if (p->next < p->n) p->next++;
    *out = (int)i;
    return good && i >= -MAX_WIDTH && i <= MAX_WIDTH;
}

static void read_width(printing *p, lm_str s, size_t *at, format *f) {
    argument_index(p, s, at);
    if (*at < s.len && s.ptr[*at] == '*') {
        (*at)++;
        f->has_width = star(p, &f->width);
        if (!f->has_width) lm_buf_text(p->b, "%!(BADWIDTH)");
        if (f->width < 0) f->width = -f->width, f->minus = true, f->zero = false;
    } else {
        bool bracket = p->reordered;
        f->has_width = digits(s, at, &f->width);
        if (bracket && f->has_width) p->good_index = false; /* "%[3]2d" */
    }
}

static void read_precision(printing *p, lm_str s, size_t *at, format *f) {
    if (*at + 1 > s.len || *at >= s.len || s.ptr[*at] != '.') return;
    (*at)++;
    if (p->reordered) p->good_index = false; /* "%[3].2d" */
    argument_index(p, s, at);
    if (*at < s.len && s.ptr[*at] == '*') {
        (*at)++;
        f->has_precision = star(p, &f->precision);
        if (f->precision < 0) f->precision = 0, f->has_precision = false;
        if (!f->has_precision) lm_buf_text(p->b, "%!(BADPREC)");
    } else {
        if (!digits(s, at, &f->precision)) f->precision = 0;
        f->has_precision = true;
    }
}

static bool put_verb(printing *p, const format *f, uint32_t rune, char what[64]) {
    char verb = rune < 0x80 ? (char)rune : '?';
    lm_buf *b = p->b;
    lm_buf shown;
    lm_buf_init(&shown, 8);
    go_put_rune(&shown, rune);
    if (rune == '%') {
        lm_buf_char(b, '%');
    } else if (!p->good_index) {
        lm_buf_printf(b, "%%!%s(BADINDEX)", shown.ptr);
    } else if (p->next >= p->n) {
        lm_buf_printf(b, "%%!%s(MISSING)", shown.ptr);
    } else {
        go_value v = p->args[p->next++];
        bool plain = !v.type || v.type->kind <= GO_FLOAT;
        if (verb == 'v' && f->sharp && !plain) {
            snprintf(what, 64, "%%#v of a %s", v.type->name);
            lm_buf_release(&shown);
            return false;
        }
        format own = *f;
        if (verb == 'v') own.names = f->plus, own.plus = false;
        if (verb == 'T') {
            pad(b, f, lm_str_of(v.type ? v.type->name : "<nil>"));
        } else if (verb == 'w') {
            bad_verb(b, f, v, verb);
        } else {
            put(b, &own, v, verb, 0);
        }
    }
    lm_buf_release(&shown);
    return true;
}

bool go_sprintf(lm_buf *b, lm_str s, const go_value *args, size_t n, char what[64]) {
    printing p = {.b = b, .args = args, .n = n, .good_index = true};
    bool reordered = false;
    for (size_t at = 0; at < s.len && !b->failed;) {
        const char *percent = memchr(s.ptr + at, '%', s.len - at);
        size_t to = percent ? (size_t)(percent - s.ptr) : s.len;
        lm_buf_add(b, s.ptr + at, to - at);
        if (!percent) break;
        at = to + 1;
        format f = {0};
        p.good_index = true;
        p.reordered = false;
        for (; at < s.len && strchr("+-# 0", s.ptr[at]) && s.ptr[at]; at++) {
            if (s.ptr[at] == '+') f.plus = true;
            if (s.ptr[at] == '-') f.minus = true;
            if (s.ptr[at] == '#') f.sharp = true;
            if (s.ptr[at] == ' ') f.space = true;
            if (s.ptr[at] == '0') f.zero = true;
        }
        if (f.minus) f.zero = false;
        read_width(&p, s, &at, &f);
        read_precision(&p, s, &at, &f);
        argument_index(&p, s, &at);
        reordered |= p.reordered;
        if (at >= s.len) {
            lm_buf_text(b, "%!(NOVERB)");
            break;
        }
        size_t width;
        uint32_t rune = go_rune((lm_str){s.ptr + at, s.len - at}, &width);
        at += width;
        if (!put_verb(&p, &f, rune, what)) return false;
    }
    if (!reordered && p.next < n) {
        format plain = {0};
        lm_buf_text(b, "%!(EXTRA ");
        for (size_t i = p.next; i < n; i++) {
            if (i > p.next) lm_buf_text(b, ", ");
            put_type(b, args[i]);
            if (args[i].type) {
                lm_buf_char(b, '=');
                put(b, &plain, args[i], 'v', 0);
            }
        }
        lm_buf_char(b, ')');
    }
    return true;
}

/* ---- Ollama's own ---------------------------------------------------------------------------------------- */

void go_write_types(lm_buf *b, go_value v) {
    size_t n = go_length(v);
    if (n == 1) {
        lm_buf_str(b, v.list->at[0].s);
        return;
    }
    if (n) lm_buf_char(b, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) lm_buf_char(b, ' ');
        lm_buf_str(b, v.list->at[i].s);
    }
    if (n) lm_buf_char(b, ']');
}

static const char *typescript(lm_str type) {
    static const char *const known[][2] = {
        {"string", "string"},   {"number", "number"}, {"integer", "number"},
        {"boolean", "boolean"}, {"array", "any[]"},   {"object", "Record<string, any>"},
        {"null", "null"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (lm_str_eq(type, lm_str_of(known[i][0]))) return known[i][1];
    return "any";
}

void go_write_typescript(lm_buf *b, go_value v) {
    go_value of = v.at[go_field_of(v.type, LM_STR("AnyOf"))],
             types = v.at[go_field_of(v.type, LM_STR("Type"))];
    size_t n = go_length(of);
    for (size_t i = 0; i < n && !b->failed; i++) {
        if (i) lm_buf_text(b, " | ");
        go_write_typescript(b, of.list->at[i]);
    }
    if (n) return;
    if (!go_length(types)) lm_buf_text(b, "any");
    for (size_t i = 0; i < go_length(types); i++) {
        if (i) lm_buf_text(b, " | ");
        lm_buf_text(b, typescript(types.list->at[i].s));
    }
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

static void json_text(lm_buf *b, lm_str s) {
    size_t n;
    lm_buf_char(b, '"');
    for (size_t i = 0; i < s.len && !b->failed; i += n) {
        uint32_t r = go_rune((lm_str){s.ptr + i, s.len - i}, &n);
        const char *simple = r == '\b'   ? "\\b"
                             : r == '\f' ? "\\f"
                             : r == '\n' ? "\\n"
                             : r == '\r' ? "\\r"
                             : r == '\t' ? "\\t"
                                         : NULL;
        if (r == '"' || r == '\\')
            lm_buf_printf(b, "\\%c", (char)r);
        else if (simple)
            lm_buf_text(b, simple);
        else if (r < 0x20 || r == '<' || r == '>' || r == '&' || r == 0x2028 || r == 0x2029 ||
                 (r == 0xfffd && n == 1))
            lm_buf_printf(b, "\\u%04x", r);
        else
            lm_buf_add(b, s.ptr + i, n);
    }
    lm_buf_char(b, '"');
}

/* Without exponent from 1e-6 up to 1e21; "1e-9" and not "1e-09". */
static void json_float(lm_buf *b, double v) {
    char e[40];
    double size = fabs(v);
    if (v < 0 || v > 0 ? size >= 1e-6 && size < 1e21 : true) {
        put_float_text(b, v, 'f', -1, false);
        return;
    }
    shortest(v, e);
    char *exponent = strchr(e, 'e');
    if (exponent[1] == '-' && exponent[2] == '0') memmove(exponent + 2, exponent + 3, strlen(exponent + 2));
    lm_buf_text(b, e);
}

static bool is_empty(go_value v) {
    if (!v.type) return true;
    return v.type->kind != GO_STRUCT && !go_is_true(v);
}

static void json_list(lm_buf *b, go_value v) {
    bool types = v.type->string == GO_STRING_TYPES;
    if (types && go_length(v) == 1) {
        json_text(b, v.list->at[0].s);
        return;
    }
    if (!v.list) {
        lm_buf_text(b, "null");
        return;
    }
    lm_buf_char(b, '[');
    for (size_t i = 0; i < v.list->n && !b->failed; i++) {
        if (i) lm_buf_char(b, ',');
        go_write_json(b, v.list->at[i]);
    }
    lm_buf_char(b, ']');
}

static void json_map(lm_buf *b, const go_map *map) {
    if (!map) {
        lm_buf_text(b, "null");
        return;
    }
    lm_buf_char(b, '{');
    for (size_t i = 0; i < map->n && !b->failed; i++) {
        if (i) lm_buf_char(b, ',');
        json_text(b, map->at[i].key);
        lm_buf_char(b, ':');
        go_write_json(b, map->at[i].value);
    }
    lm_buf_char(b, '}');
}

static void json_struct(lm_buf *b, go_value v) {
    bool first = true;
    lm_buf_char(b, '{');
    for (uint32_t i = 0; i < v.type->n_fields; i++) {
        const go_field *f = &v.type->fields[i];
        if (f->omit_empty && is_empty(v.at[i])) continue;
        if (!first) lm_buf_char(b, ',');
        first = false;
        json_text(b, lm_str_of(f->to));
        lm_buf_char(b, ':');
        go_write_json(b, v.at[i]);
    }
    lm_buf_char(b, '}');
}

void go_write_json(lm_buf *b, go_value v) {
    if (!v.type) {
        lm_buf_text(b, "null");
        return;
    }
    switch (v.type->kind) {
    case GO_BOOL: lm_buf_text(b, v.b ? "true" : "false"); break;
    case GO_INT: lm_buf_printf(b, "%" PRId64, v.i); break;
    case GO_UINT: lm_buf_printf(b, "%" PRIu64, v.u); break;
    case GO_FLOAT: json_float(b, v.f); break;
    case GO_STRING: json_text(b, v.s); break;
    case GO_SLICE: json_list(b, v); break;
    case GO_MAP: json_map(b, v.map); break;
    case GO_STRUCT: json_struct(b, v); break;
    case GO_POINTER:
        if (!v.at)
            lm_buf_text(b, "null");
        else if (v.type->ordered)
            json_map(b, v.map);
        else
            json_struct(b, go_point(v));
        break;
    }
}
