/* Calls written as Python: [f(x=1, s='a'), g()], f(x=1) line by line, print(f(x=1)). Values are literals;
 * what stands without a name has the name that the schema gives its place. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/parser.h"

#define MAX_DEPTH  64
#define MAX_NUMBER 64

typedef struct reader {
    const lm_parser *p;
    const char *at, *end;
    int depth;
} reader;

static char peek(const reader *r) {
    return r->at < r->end ? *r->at : '\0';
}

static void skip_blanks(reader *r) {
    r->at += parser_blanks(r->at, (size_t)(r->end - r->at));
}

static bool take(reader *r, char c) {
    skip_blanks(r);
    if (peek(r) != c || r->at == r->end) return false;
    r->at++;
    return true;
}

static lm_str read_name(reader *r) {
    skip_blanks(r);
    const char *from = r->at;
    while (r->at < r->end && (isalnum((unsigned char)*r->at) || strchr("_.-", *r->at))) r->at++;
    return (lm_str){from, (size_t)(r->at - from)};
}

static json_t *read_value(reader *r);

static void add_escaped(reader *r, lm_buf *out) {
    static const char from[] = "nrtbf0", to[] = "\n\r\t\b\f";
    char c = *r->at++;
    const char *known = c ? strchr(from, c) : NULL;
    if (c == 'u' && r->end - r->at >= 4) {
        char hex[5] = {r->at[0], r->at[1], r->at[2], r->at[3], 0}, *stop;
        unsigned long code = strtoul(hex, &stop, 16);
        if (stop == hex + 4 && code && (code < 0xd800 || code > 0xdfff)) {
            r->at += 4;
            if (code >= 0x800) lm_buf_char(out, (char)(0xe0 | code >> 12));
            if (code >= 0x80)
                lm_buf_char(out, (char)(code >= 0x800 ? 0x80 | (code >> 6 & 0x3f) : 0xc0 | code >> 6));
            lm_buf_char(out, (char)(code >= 0x80 ? 0x80 | (code & 0x3f) : code));
            return;
        }
    }
    if (known && c != '0') {
        lm_buf_char(out, to[known - from]);
    } else {
        if (!c || !strchr("\\'\"\n", c)) lm_buf_char(out, '\\'); /* as Python: an unknown escape stays */
        if (c != '\n') lm_buf_char(out, c);
    }
}

static json_t *read_string(reader *r) {
    char quote = *r->at;
    bool three = r->end - r->at >= 3 && r->at[1] == quote && r->at[2] == quote;
    size_t n = three ? 3 : 1;
    lm_buf text;
    json_t *v = NULL;
    lm_buf_init(&text, PARSER_MAX_CALL);
    for (r->at += n; r->at < r->end;) {
        if (*r->at == quote && (!three || (r->end - r->at >= 3 && r->at[1] == quote && r->at[2] == quote))) {
            r->at += n;
            v = json_stringn(text.ptr ? text.ptr : "", text.len);
            break;
        }
        if (*r->at == '\\' && r->at + 1 < r->end) {
            r->at++;
            add_escaped(r, &text);
        } else {
            lm_buf_char(&text, *r->at++);
        }
    }
    lm_buf_release(&text);
    return v;
}

/* A list, or a tuple. */
static json_t *read_list(reader *r, char close) {
    json_t *list = json_array();
    r->at++;
    while (!take(r, close)) {
        if (json_array_append_new(list, read_value(r))) goto broken;
        if (take(r, close)) break;
        if (!take(r, ',')) goto broken;
    }
    return list;
broken:
    json_decref(list);
    return NULL;
}

static json_t *read_dict(reader *r) {
    json_t *dict = json_object();
    r->at++;
    while (!take(r, '}')) {
        json_t *key = read_value(r), *v = key && take(r, ':') ? read_value(r) : NULL;
        bool ok =
            json_is_string(key) && v &&
            !json_object_setn_new(dict, json_string_value(key), json_string_length(key), json_incref(v));
        json_decref(key);
        json_decref(v);
        if (!ok) goto broken;
        if (take(r, '}')) break;
        if (!take(r, ',')) goto broken;
    }
    return dict;
broken:
    json_decref(dict);
    return NULL;
}

/* A number, or one of the words. */
static json_t *read_word(reader *r) {
    static const char *const words[] = {"True", "true", "False", "false", "None", "null"};
    char number[MAX_NUMBER];
    json_t *v = NULL;
    lm_err ignored;
    const char *from = r->at;
    while (r->at < r->end && (isalnum((unsigned char)*r->at) || strchr("+-._", *r->at))) r->at++;
    lm_str word = {from, (size_t)(r->at - from)};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (lm_str_eq(word, lm_str_of(words[i])))
            return i < 2 ? json_true() : i < 4 ? json_false() : json_null();
    if (!word.len || word.len >= sizeof number || isalpha((unsigned char)word.ptr[0])) return NULL;
    return lm_json_parse(word, &v, &ignored) == LM_OK ? v : NULL;
}

static json_t *read_value(reader *r) {
    json_t *v = NULL;
    skip_blanks(r);
    if (r->depth >= MAX_DEPTH) return NULL;
    r->depth++;
    switch (peek(r)) {
    case '"':
    case '\'': v = read_string(r); break;
    case '[': v = read_list(r, ']'); break;
    case '(': v = read_list(r, ')'); break;
    case '{': v = read_dict(r); break;
    default: v = read_word(r);
    }
    r->depth--;
    return v;
}

/* The name of the n-th property; empty: there is none. */
static lm_str name_of_place(const json_t *tool, size_t n) {
    json_t *properties = json_object_get(json_object_get(tool, "parameters"), "properties");
    void *it = json_object_iter(properties);
    while (it && n--) it = json_object_iter_next(properties, it);
    return it ? (lm_str){json_object_iter_key(it), json_object_iter_key_len(it)} : (lm_str){0};
}

static bool read_arguments(reader *r, const json_t *tool, json_t *arguments) {
    for (size_t place = 0; !take(r, ')'); place++) {
        skip_blanks(r);
        const char *from = r->at;
        lm_str name = read_name(r);
        if (!name.len || !take(r, '=')) {
            r->at = from;
            name = name_of_place(tool, place);
        }
        json_t *v = name.len ? read_value(r) : NULL;
        if (json_object_setn_new(arguments, name.ptr, name.len, v)) return false;
        if (!take(r, ',') && peek(r) != ')') return false;
    }
    return true;
}

static bool read_call(reader *r, json_t *list) {
    lm_str name = read_name(r);
    if (!take(r, '(')) return false;
    if (lm_str_eq(name, LM_STR("print")) && r->depth < MAX_DEPTH) {
        r->depth++;
        bool ok = read_call(r, list) && take(r, ')');
        r->depth--;
        return ok;
    }
    json_t *arguments = json_object();
    if (read_arguments(r, parser_tool(r->p, name), arguments))
        return parser_add_call(r->p, list, name, arguments);
    json_decref(arguments);
    return false;
}

bool parser_read_python(const lm_parser *p, lm_str body, json_t *list) {
    reader r = {.p = p, .at = body.ptr, .end = body.ptr + body.len};
    bool bracket = take(&r, '[');
    do {
        if (!read_call(&r, list)) return false;
        while (take(&r, ',') || take(&r, ';')) continue;
        skip_blanks(&r);
    } while (r.at < r.end && *r.at != ']');
    if (bracket && !take(&r, ']')) return false;
    skip_blanks(&r);
    return r.at == r.end;
}
