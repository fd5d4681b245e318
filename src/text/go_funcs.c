/* The functions of a Go template: text/template's, and the four that Ollama adds. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/go_template.h"

#define MAX_TEXT ((size_t)128 << 20)

static go_value text_of(go_exec *x, lm_buf *b) {
    return go_of_str(go_made(x, b));
}

/* ---- comparison ------------------------------------------------------------------------------------------ */

typedef enum basic { NOT_BASIC, A_BOOL, AN_INT, A_UINT, A_FLOAT, A_STRING } basic;

static basic basic_of(go_value v) {
    static const basic of[] = {[GO_BOOL] = A_BOOL,   [GO_INT] = AN_INT,       [GO_UINT] = A_UINT,
                               [GO_FLOAT] = A_FLOAT, [GO_STRING] = A_STRING,  [GO_SLICE] = NOT_BASIC,
                               [GO_MAP] = NOT_BASIC, [GO_STRUCT] = NOT_BASIC, [GO_POINTER] = NOT_BASIC};
    return v.type ? of[v.type->kind] : NOT_BASIC;
}

static int compare_strings(go_exec *x, lm_str a, lm_str b) {
    go_spend(x, a.len < b.len ? a.len : b.len);
    return go_compare(a, b);
}

static bool is_nil(go_value v) {
    return !v.type || (v.type->kind == GO_SLICE && !v.list) || (v.type->kind == GO_MAP && !v.map) ||
           (v.type->kind == GO_POINTER && !v.at);
}

static void incompatible(go_exec *x, go_value a, go_value b) {
    go_call_fail(x, "incompatible types for comparison: %s and %s", a.type->name, b.type->name);
}

/* What Go says of values that have no ==. */
static void not_comparable(go_exec *x, const char *format, go_value a, go_value b) {
    lm_buf shown;
    char what[64];
    lm_buf_init(&shown, MAX_TEXT);
    go_sprintf(&shown, LM_STR("%s"), &b, 1, what);
    go_call_fail(x, format, shown.ptr ? shown.ptr : "", b.type->name, a.type->name);
    lm_buf_release(&shown);
}

static bool equal_others(go_exec *x, go_value a, go_value b) {
    if (a.type && b.type && a.type->kind != b.type->kind) {
        lm_buf shown_a, shown_b;
        char what[64];
        lm_buf_init(&shown_a, MAX_TEXT);
        lm_buf_init(&shown_b, MAX_TEXT);
        go_sprintf(&shown_a, LM_STR("%s"), &a, 1, what);
        go_print_value(&shown_b, b);
        go_call_fail(x, "non-comparable types %.150s: %s, %s: %.150s", shown_a.ptr ? shown_a.ptr : "",
                     a.type->name, b.type->name, shown_b.ptr ? shown_b.ptr : "");
        lm_buf_release(&shown_a);
        lm_buf_release(&shown_b);
        return false;
    }
    if (is_nil(a) || is_nil(b)) return is_nil(a) == is_nil(b);
    if (b.type->kind == GO_POINTER) return a.type == b.type && a.at == b.at;
    not_comparable(x, "non-comparable type %.300s: %s", a, b);
    return false;
}

static bool equal(go_exec *x, go_value a, go_value b) {
    basic of_a = basic_of(a), of_b = basic_of(b);
    if (of_a == AN_INT && of_b == A_UINT) return a.i >= 0 && (uint64_t)a.i == b.u;
    if (of_a == A_UINT && of_b == AN_INT) return b.i >= 0 && (uint64_t)b.i == a.u;
    if (of_a != of_b) {
        if (a.type && b.type) incompatible(x, a, b);
        return false;
    }
    switch (of_a) {
    case A_BOOL: return a.b == b.b;
    case AN_INT: return a.i == b.i;
    case A_UINT: return a.u == b.u;
    case A_FLOAT: return !(a.f < b.f) && !(a.f > b.f) && !(a.f != a.f);
    case A_STRING: return a.s.len == b.s.len && !compare_strings(x, a.s, b.s);
    case NOT_BASIC: return equal_others(x, a, b);
    }
    return false;
}

static go_value fn_eq(go_exec *x, const go_value *args, size_t n) {
    if (n < 2) return go_call_fail(x, "missing argument for comparison");
    for (size_t i = 1; i < n && !x->call_error[0]; i++)
        if (equal(x, args[0], args[i])) return go_of_bool(true);
    return go_of_bool(false);
}

static go_value fn_ne(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    return go_of_bool(!equal(x, args[0], args[1]));
}

static bool less(go_exec *x, go_value a, go_value b) {
    basic of_a = basic_of(a), of_b = basic_of(b);
    if (!of_a || !of_b) return go_call_fail(x, "invalid type for comparison").b;
    if (of_a == AN_INT && of_b == A_UINT) return a.i < 0 || (uint64_t)a.i < b.u;
    if (of_a == A_UINT && of_b == AN_INT) return b.i >= 0 && a.u < (uint64_t)b.i;
    if (of_a != of_b) {
        incompatible(x, a, b);
        return false;
    }
    switch (of_a) {
    case AN_INT: return a.i < b.i;
    case A_UINT: return a.u < b.u;
    case A_FLOAT: return a.f < b.f;
    case A_STRING: return compare_strings(x, a.s, b.s) < 0;
    default: return go_call_fail(x, "invalid type for comparison").b;
    }
}

static go_value fn_lt(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    return go_of_bool(less(x, args[0], args[1]));
}

static go_value fn_le(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    return go_of_bool(less(x, args[0], args[1]) || (!x->call_error[0] && equal(x, args[0], args[1])));
}

static go_value fn_gt(go_exec *x, const go_value *args, size_t n) {
    return go_of_bool(!fn_le(x, args, n).b);
}

static go_value fn_ge(go_exec *x, const go_value *args, size_t n) {
    return go_of_bool(!fn_lt(x, args, n).b);
}

static go_value fn_not(go_exec *x, const go_value *args, size_t n) {
    (void)x, (void)n;
    return go_of_bool(!go_is_true(args[0]));
}

/* ---- parts ----------------------------------------------------------------------------------------------- */

static const char zero_value[] = "reflect: call of reflect.Value.Type on zero Value";

static go_value fn_len(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    go_value v = args[0];
    if (!v.type) return go_call_fail(x, "%s", v.any ? "len of nil pointer" : zero_value);
    if (v.type->kind == GO_POINTER && !v.at) return go_call_fail(x, "len of nil pointer");
    v = go_point(v);
    bool has =
        v.type->kind == GO_STRING || v.type->kind == GO_SLICE || (v.type->kind == GO_MAP && !v.type->ordered);
    return has ? go_of_int((int64_t)go_length(v)) : go_call_fail(x, "len of type %s", v.type->name);
}

/* An index up to `most`; false after go_call_fail. */
static bool index_of(go_exec *x, go_value v, size_t most, size_t *out) {
    if (!v.type) return go_call_fail(x, "cannot index slice/array with nil"), false;
    if (v.type->kind != GO_INT && v.type->kind != GO_UINT)
        return go_call_fail(x, "cannot index slice/array with type %s", v.type->name), false;
    int64_t i = v.type->kind == GO_INT ? v.i : (int64_t)v.u;
    if (i < 0 || (uint64_t)i > most) return go_call_fail(x, "index out of range: %lld", (long long)i), false;
    *out = (size_t)i;
    return true;
}

static go_value index_list(go_exec *x, go_value v, go_value at) {
    size_t i, n = go_length(v);
    bool text = v.type->kind == GO_STRING;
    if (!index_of(x, at, n, &i)) return GO_NOTHING;
    if (i == n) return go_call_fail(x, "reflect: %s index out of range", text ? "string" : "slice");
    if (text) return (go_value){.type = &go_type_byte, .u = (unsigned char)v.s.ptr[i]};
    return go_element(v.type, v.list->at[i]);
}

static go_value fn_index(go_exec *x, const go_value *args, size_t n) {
    go_value v = args[0];
    if (!v.type) return go_call_fail(x, "index of untyped nil");
    v.any = false;
    for (size_t i = 1; i < n; i++) {
        go_value at = args[i];
        if (!v.type || (v.type->kind == GO_POINTER && !v.at)) return go_call_fail(x, "index of nil pointer");
        v = go_point(v);
        if (v.type->kind == GO_STRING || v.type->kind == GO_SLICE) {
            v = index_list(x, v, at);
        } else if (v.type->kind == GO_MAP && !v.type->ordered) {
            if (!at.type) return go_call_fail(x, "value is nil; should be of type string");
            if (at.type->kind != GO_STRING)
                return go_call_fail(x, "value has type %s; should be string", at.type->name);
            const go_value *found = go_map_get(v.map, at.s);
            v = found ? go_element(v.type, *found) : go_zero(v.type->elem);
        } else {
            return go_call_fail(x, "can't index item of type %s", v.type->name);
        }
        if (x->call_error[0]) return GO_NOTHING;
    }
    return v;
}

static go_value fn_slice(go_exec *x, const go_value *args, size_t n) {
    go_value v = args[0];
    size_t at[3] = {0};
    if (!v.type) return go_call_fail(x, "slice of untyped nil");
    if (v.type->kind == GO_POINTER && !v.at) return go_call_fail(x, "slice of nil pointer");
    v = go_point(v);
    v.any = false;
    if (n > 4) return go_call_fail(x, "too many slice indexes: %zu", n - 1);
    bool text = v.type->kind == GO_STRING;
    if (text && n == 4) return go_call_fail(x, "cannot 3-index slice a string");
    if (!text && v.type->kind != GO_SLICE)
        return go_call_fail(x, "can't slice item of type %s", v.type->name);
    size_t most = text || !v.list ? go_length(v) : v.list->cap;
    at[1] = go_length(v);
    for (size_t i = 1; i < n; i++) {
        if (args[i].any)
            return go_call_fail(x, "cannot index slice/array with type interface {}"); /* as Go */
        if (!index_of(x, args[i], most, &at[i - 1])) return GO_NOTHING;
    }
    if (at[0] > at[1]) return go_call_fail(x, "invalid slice index: %zu > %zu", at[0], at[1]);
    if (n == 4 && at[1] > at[2]) return go_call_fail(x, "invalid slice index: %zu > %zu", at[1], at[2]);
    if (text) {
        v.s = (lm_str){v.s.ptr ? v.s.ptr + at[0] : v.s.ptr, at[1] - at[0]};
        return v;
    }
    go_list *list = v.list ? go_make(x->arena, 1, sizeof *list) : NULL;
    if (!list) return v;
    *list = (go_list){at[1] - at[0], (n == 4 ? at[2] : most) - at[0], v.list->at + at[0]};
    v.list = list;
    return v;
}

static go_value fn_call(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    if (!args[0].type) return go_call_fail(x, "call of nil");
    lm_buf b;
    lm_buf_init(&b, GO_MAX_SOURCE);
    if (x->callee)
        go_write_node(&b, x->callee);
    else if (args[0].type->kind == GO_STRING)
        lm_buf_str(&b, args[0].s);
    else
        lm_buf_printf(&b, "<%s Value>", args[0].type->name);
    go_call_fail(x, "non-function %.200s of type %s", b.ptr ? b.ptr : "", args[0].type->name);
    lm_buf_release(&b);
    return GO_NOTHING;
}

/* ---- text ------------------------------------------------------------------------------------------------ */

static go_value fn_print(go_exec *x, const go_value *args, size_t n) {
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    go_sprint(&b, args, n, false);
    return text_of(x, &b);
}

static go_value fn_println(go_exec *x, const go_value *args, size_t n) {
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    go_sprint(&b, args, n, true);
    return text_of(x, &b);
}

static go_value fn_printf(go_exec *x, const go_value *args, size_t n) {
    lm_buf b;
    char what[64];
    lm_buf_init(&b, MAX_TEXT);
    if (go_sprintf(&b, args[0].s, args + 1, n - 1, what)) return text_of(x, &b);
    lm_buf_release(&b);
    return go_call_fail(x, "%s is not supported", what);
}

/* All arguments as one text, pointers followed. */
static lm_str texts(go_exec *x, const go_value *args, size_t n) {
    go_value pointed[64];
    lm_buf b;
    for (size_t i = 0; i < n; i++)
        pointed[i] = args[i].type ? go_point(args[i]) : go_of_str(LM_STR("<no value>"));
    lm_buf_init(&b, MAX_TEXT);
    go_sprint(&b, pointed, n, false);
    return go_made(x, &b);
}

static go_value fn_html(go_exec *x, const go_value *args, size_t n) {
    lm_str s = texts(x, args, n);
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    for (size_t i = 0; i < s.len && !b.failed; i++) {
        switch (s.ptr[i]) {
        case '\0': lm_buf_text(&b, "\xef\xbf\xbd"); break;
        case '"': lm_buf_text(&b, "&#34;"); break;
        case '\'': lm_buf_text(&b, "&#39;"); break;
        case '&': lm_buf_text(&b, "&amp;"); break;
        case '<': lm_buf_text(&b, "&lt;"); break;
        case '>': lm_buf_text(&b, "&gt;"); break;
        default: lm_buf_char(&b, s.ptr[i]);
        }
    }
    return text_of(x, &b);
}

static go_value fn_js(go_exec *x, const go_value *args, size_t n) {
    lm_str s = texts(x, args, n);
    lm_buf b;
    size_t width;
    lm_buf_init(&b, MAX_TEXT);
    for (size_t i = 0; i < s.len && !b.failed; i += width) {
        uint32_t r = go_rune((lm_str){s.ptr + i, s.len - i}, &width);
        if (r == '\\' || r == '\'' || r == '"')
            lm_buf_printf(&b, "\\%c", (char)r);
        else if (r < ' ' || (r < 0x80 && strchr("<>&=", (int)r)))
            lm_buf_printf(&b, "\\u%04X", r);
        else if (r >= 0x80 && !go_is_print(r))
            lm_buf_printf(&b, "\\u%04X", r);
        else
            lm_buf_add(&b, s.ptr + i, width);
    }
    return text_of(x, &b);
}

static go_value fn_urlquery(go_exec *x, const go_value *args, size_t n) {
    lm_str s = texts(x, args, n);
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    for (size_t i = 0; i < s.len && !b.failed; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        bool plain =
            (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("-_.~", c));
        if (plain)
            lm_buf_char(&b, (char)c);
        else if (c == ' ')
            lm_buf_char(&b, '+');
        else
            lm_buf_printf(&b, "%%%02X", c);
    }
    return text_of(x, &b);
}

/* ---- Ollama's -------------------------------------------------------------------------------------------- */

static go_value fn_json(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    go_write_json(&b, args[0]);
    return text_of(x, &b);
}

static go_value day(go_exec *x, int days) {
    time_t now = time(NULL);
    struct tm tm;
    char text[40] = "";
    lm_buf b;
    if (localtime_r(&now, &tm)) {
        tm.tm_mday += days;
        tm.tm_hour = 12; /* no change of the clock can make it another day */
        tm.tm_isdst = -1;
        mktime(&tm);
        strftime(text, sizeof text, "%Y-%m-%d", &tm);
    }
    lm_buf_init(&b, 64);
    lm_buf_text(&b, text);
    return text_of(x, &b);
}

static go_value fn_today(go_exec *x, const go_value *args, size_t n) {
    (void)args, (void)n;
    return day(x, 0);
}

static go_value fn_yesterday(go_exec *x, const go_value *args, size_t n) {
    (void)args, (void)n;
    return day(x, -1);
}

static go_value fn_typescript(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    if (args[0].type != &go_type_property) return go_of_str(LM_STR("any"));
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    go_write_typescript(&b, args[0]);
    return text_of(x, &b);
}

static go_value fn_string(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    lm_buf b;
    lm_buf_init(&b, MAX_TEXT);
    go_print_value(&b, args[0]);
    return text_of(x, &b);
}

static go_value fn_count(go_exec *x, const go_value *args, size_t n) {
    (void)x, (void)n;
    return go_of_int(args[0].map ? (int64_t)args[0].map->n : 0);
}

/* A map of Go prints and ranges by key. */
static go_value fn_to_map(go_exec *x, const go_value *args, size_t n) {
    (void)n;
    go_value v = args[0];
    go_map *map = v.map ? go_make(x->arena, 1, sizeof *map) : NULL;
    go_entry *at = map ? go_make(x->arena, v.map->n + 1, sizeof *at) : NULL;
    v.type = &go_type_property_plain;
    v.map = NULL;
    if (!at) return v;
    for (size_t i = 0; i < args[0].map->n; i++) at[i] = args[0].map->at[i];
    *map = (go_map){args[0].map->n, at};
    go_sort_entries(at, map->n);
    v.map = map;
    return v;
}

/* ---- the table ------------------------------------------------------------------------------------------- */

#define VALUE GO_PARAM_VALUE
#define ANY   GO_PARAM_ANY
#define TEXT  GO_PARAM_STRING

static const go_function functions[] = {
    {"and", NULL, 1, true, false, VALUE, VALUE},
    {"or", NULL, 1, true, false, VALUE, VALUE},
    {"not", fn_not, 1, false, false, VALUE, VALUE},
    {"eq", fn_eq, 1, true, false, VALUE, VALUE},
    {"ne", fn_ne, 2, false, false, VALUE, VALUE},
    {"lt", fn_lt, 2, false, false, VALUE, VALUE},
    {"le", fn_le, 2, false, false, VALUE, VALUE},
    {"gt", fn_gt, 2, false, false, VALUE, VALUE},
    {"ge", fn_ge, 2, false, false, VALUE, VALUE},
    {"len", fn_len, 1, false, false, VALUE, VALUE},
    {"index", fn_index, 1, true, false, VALUE, VALUE},
    {"slice", fn_slice, 1, true, false, VALUE, VALUE},
    {"call", fn_call, 1, true, false, VALUE, VALUE},
    {"print", fn_print, 0, true, false, ANY, ANY},
    {"println", fn_println, 0, true, false, ANY, ANY},
    {"printf", fn_printf, 1, true, false, TEXT, ANY},
    {"html", fn_html, 0, true, false, ANY, ANY},
    {"js", fn_js, 0, true, false, ANY, ANY},
    {"urlquery", fn_urlquery, 0, true, false, ANY, ANY},
    {"json", fn_json, 1, false, true, ANY, ANY},
    {"currentDate", fn_today, 0, true, true, TEXT, TEXT},
    {"yesterdayDate", fn_yesterday, 0, true, true, TEXT, TEXT},
    {"toTypeScriptType", fn_typescript, 1, false, true, ANY, ANY},
    /* methods: no name in a source begins with a dot */
    {".String", fn_string, 1, false, false, VALUE, VALUE},
    {".ToTypeScriptType", fn_typescript, 1, false, false, VALUE, VALUE},
    {".Len", fn_count, 1, false, false, VALUE, VALUE},
    {".ToMap", fn_to_map, 1, false, false, VALUE, VALUE},
};

const go_function *go_find_function(lm_str name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (lm_str_eq(name, lm_str_of(functions[i].name))) return &functions[i];
    return NULL;
}

bool go_has_function(lm_str name) {
    return go_find_function(name) != NULL;
}
