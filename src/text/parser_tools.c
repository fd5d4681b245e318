/* The body of a tool call, in JSON or as a name with JSON behind it:
 *
 *     {"name": "f", "arguments": {...}}                   Qwen, Hermes, Granite, Phi; a list of them for
 * Mistral
 *     {"name": "f", "parameters": {...}}                  Llama
 *     {"type": "function", "function": {...}}             Phi-4
 *     {"tool_call_id": "0", "tool_name": "f", "parameters": {...}}            Command
 *     f[ARGS]{...}, f[CALL_ID]id[ARGS]{...}               newer Mistral
 *     f<|tool_sep|>{...}                                  DeepSeek V3.1
 *     function<|tool_sep|>f\n```json\n{...}\n```          DeepSeek V3, R1
 *     functions.f:0<|tool_call_argument_begin|>{...}      Kimi
 */
#include <string.h>

#include "base/json.h"
#include "text/parser.h"

/* ---- where it ends ---------------------------------------------------------------------------------------- */

/* Length of the JSON value that text begins with; 0: it goes on. */
static size_t json_length(const char *text, size_t len) {
    int depth = 0;
    bool string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                string = false;
            continue;
        }
        if (c == '"')
            string = true;
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth <= 0)
            return i + 1;
    }
    return 0;
}

static bool in_string(const char *text, size_t len) {
    bool string = false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\\' && string)
            i++;
        else if (text[i] == '"')
            string = !string;
    }
    return string;
}

static const char *find(lm_str in, size_t from, const char *word) {
    if (from >= in.len || !*word) return NULL;
    return memmem(in.ptr + from, in.len - from, word, strlen(word));
}

/* JSON from `from` on: up to its end, or to a closing tag that is not within a string. */
static int64_t length_of_json(lm_str text, size_t from, const char *close) {
    size_t n = json_length(text.ptr + from, text.len - from);
    const char *at = find(text, from, close);
    while (at && in_string(text.ptr + from, (size_t)(at - text.ptr) - from))
        at = find(text, (size_t)(at - text.ptr) + 1, close);
    if (at && (!n || (size_t)(at - text.ptr) < from + n)) return at - text.ptr;
    return n ? (int64_t)(from + n) : 0;
}

static int64_t length_of_named(lm_str text, const parser_form *f) {
    lm_str head = {text.ptr, text.len < PARSER_MAX_NAME ? text.len : PARSER_MAX_NAME};
    const char *brace = memchr(head.ptr, '{', head.len);
    lm_str name = {head.ptr, brace ? (size_t)(brace - head.ptr) : head.len};
    if (find(name, 0, f->close)) return -1;
    if (!brace) return head.len < PARSER_MAX_NAME ? 0 : -1;
    return find(name, 0, f->separator) ? length_of_json(text, name.len, f->close) : -1;
}

static int64_t length_by_tag(lm_str text, const parser_form *f, bool last) {
    const char *at = find(text, 0, f->close);
    if (at) return at - text.ptr;
    if (!last) return 0;
    /* What was cut off is no call, unless its own end is there. */
    return f->body & BODY_PYTHON || find(text, 0, "</function>") ? (int64_t)text.len : -1;
}

int64_t parser_call_length(const lm_parser *p, lm_str text, bool last) {
    const parser_form *f = p->form;
    size_t at = parser_blanks(text.ptr, text.len);
    bool more = false;
    int64_t n = -1;
    if (f->body & BODY_FENCE && parser_begins((lm_str){text.ptr + at, text.len - at}, "```json", &more)) {
        at += sizeof "```json" - 1;
        at += parser_blanks(text.ptr + at, text.len - at);
    }
    if (at == text.len || more) {
        n = last ? -1 : 0;
    } else if (f->body & BODY_JSON && !(f->body & BODY_PYTHON) && strchr("{[", text.ptr[at])) {
        n = length_of_json(text, at, f->close);
    } else if (f->body & BODY_NAMED) {
        n = length_of_named(text, f);
    } else if (f->body & (BODY_XML | BODY_PAIRS | BODY_PYTHON)) {
        n = length_by_tag(text, f, last);
    }
    return n == 0 && last ? (int64_t)text.len : n;
}

static const char *const first_keys[] = {"\"name\"", "\"type\"", "\"function\"", "\"tool_name\""};
#define N_FIRST_KEYS (sizeof first_keys / sizeof *first_keys)

/* Where the first key of an object, or of the first object of a list, stands; 0: there is none. */
static size_t first_key(lm_str text) {
    size_t at = 1 + parser_blanks(text.ptr + 1, text.len - 1);
    if (text.ptr[0] != '[' || at == text.len) return at;
    if (text.ptr[at] != '{') return 0;
    at++;
    return at + parser_blanks(text.ptr + at, text.len - at);
}

/* Only what begins with one of the keys is waited for: other JSON is an answer and is shown at once. */
int64_t parser_json_call(lm_str text) {
    size_t at = first_key(text), n = text.len - at;
    for (size_t i = 0; at && i < N_FIRST_KEYS; i++) {
        size_t k = strlen(first_keys[i]);
        if (!memcmp(text.ptr + at, first_keys[i], k < n ? k : n))
            return (int64_t)json_length(text.ptr, text.len);
    }
    return -1;
}

bool parser_json_begun(lm_str text) {
    text = lm_str_trim(text);
    size_t at = text.len ? first_key(text) : 0;
    bool more = false;
    for (size_t i = 0; at && i < N_FIRST_KEYS; i++)
        if (parser_begins((lm_str){text.ptr + at, text.len - at}, first_keys[i], &more)) return true;
    return false;
}

/* ---- values ----------------------------------------------------------------------------------------------- */

#define MAX_DIGITS 300 /* of a number that a double holds */

/* A number as one that a double holds: digits and exponent cut. */
static void write_tame_number(lm_str number, lm_buf *out) {
    size_t digits = 0;
    while (digits < number.len && !strchr("eE", number.ptr[digits])) digits++;
    lm_str exponent = {number.ptr + digits, number.len - digits};
    size_t n = digits < MAX_DIGITS ? digits : MAX_DIGITS;
    lm_buf_add(out, number.ptr, n);
    if (n > 15 && !memchr(number.ptr, '.', n)) lm_buf_text(out, ".0");
    size_t sign = exponent.len > 1 && strchr("+-", exponent.ptr[1]) ? 2 : 1;
    if (n < digits || exponent.len > sign + 2) /* more than e99 */
        lm_buf_text(out, exponent.len > 1 && exponent.ptr[1] == '-' ? "e-300" : "");
    else
        lm_buf_str(out, exponent);
}

/* Numbers that no machine word holds, made tame: a model that strings digits together should not lose its
 * call. */
static void write_tame(lm_str text, lm_buf *out) {
    bool string = false;
    for (size_t i = 0; i < text.len;) {
        char c = text.ptr[i];
        size_t n = 0;
        while (!string && strchr("-0123456789", c) && i + n < text.len && text.ptr[i + n] &&
               strchr("+-.eE0123456789", text.ptr[i + n]))
            n++;
        if (n) {
            write_tame_number((lm_str){text.ptr + i, n}, out);
            i += n;
            continue;
        }
        if (string && c == '\\' && i + 1 < text.len)
            lm_buf_char(out, text.ptr[i++]);
        else if (c == '"')
            string = !string;
        lm_buf_char(out, text.ptr[i++]);
    }
}

json_t *parser_json(lm_str text) {
    json_t *v = NULL;
    lm_err ignored;
    lm_buf tame;
    if (lm_json_parse(text, &v, &ignored) == LM_OK) return v;
    lm_buf_init(&tame, 2 * PARSER_MAX_CALL);
    write_tame(text, &tame);
    if (tame.failed || lm_json_parse(lm_buf_view(&tame), &v, &ignored) != LM_OK) v = NULL;
    lm_buf_release(&tame);
    return v;
}

/* ---- tools ------------------------------------------------------------------------------------------------ */

const json_t *parser_tool(const lm_parser *p, lm_str name) {
    static const char *const prefixes[] = {"functions.", "default_api.", "tools."};
    for (size_t i = 0; i < json_array_size(p->tools); i++) {
        const json_t *tool = json_array_get(p->tools, i), *function = json_object_get(tool, "function");
        if (!function) function = tool;
        const json_t *is = json_object_get(function, "name");
        if (json_is_string(is) && lm_str_eq(name, (lm_str){json_string_value(is), json_string_length(is)}))
            return function;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        lm_str prefix = lm_str_of(prefixes[i]);
        if (lm_str_starts(name, prefix))
            return parser_tool(p, (lm_str){name.ptr + prefix.len, name.len - prefix.len});
    }
    return NULL;
}

bool parser_add_call(const lm_parser *p, json_t *list, lm_str name, json_t *arguments) {
    const json_t *tool = parser_tool(p, lm_str_trim(name));
    json_t *call =
        tool ? json_pack("{s:O,s:O}", "name", json_object_get(tool, "name"), "arguments", arguments) : NULL;
    json_decref(arguments);
    return call && json_array_append_new(list, call) == 0;
}

/* Adds the call NAME with its arguments as text. */
static bool add_written(const lm_parser *p, json_t *list, lm_str name, lm_str arguments) {
    arguments = lm_str_trim(arguments);
    json_t *parsed = arguments.len ? parser_json(arguments) : json_object();
    if (json_is_object(parsed)) return parser_add_call(p, list, name, parsed);
    json_decref(parsed);
    return false;
}

/* All of list, or nothing. */
static bool give_list(lm_parser *p, const json_t *list) {
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        const json_t *call = json_array_get(list, i), *name = json_object_get(call, "name");
        lm_buf_clear(&p->made);
        lm_json_write_value(&p->made, json_object_get(call, "arguments"));
        if (p->made.failed) return i > 0;
        p->wrap = NULL;
        p->sink(p->ctx, LM_PART_TOOL_CALL, (lm_str){json_string_value(name), json_string_length(name)},
                lm_buf_view(&p->made));
    }
    return n > 0;
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

static const json_t *first_member(const json_t *object, const char *a, const char *b) {
    const json_t *v = json_object_get(object, a);
    return v ? v : json_object_get(object, b);
}

static bool add_json_call(const lm_parser *p, json_t *list, const json_t *call) {
    const json_t *function = json_object_get(call, "function");
    if (json_is_object(function)) call = function;
    const json_t *name = json_is_string(function) ? function : first_member(call, "name", "tool_name");
    const json_t *arguments = first_member(call, "arguments", "parameters");
    if (!json_is_string(name)) return false;
    lm_str f = {json_string_value(name), json_string_length(name)};
    if (json_is_string(arguments))
        return add_written(p, list, f, (lm_str){json_string_value(arguments), json_string_length(arguments)});
    if (!arguments || json_is_null(arguments)) return parser_add_call(p, list, f, json_object());
    return json_is_object(arguments) && parser_add_call(p, list, f, json_deep_copy(arguments));
}

/* All or none of a list: a list with something else in it is an answer. */
static bool read_json(const lm_parser *p, lm_str body, json_t *list) {
    json_t *v = parser_json(body);
    bool ok = json_is_object(v) ? add_json_call(p, list, v) : json_array_size(v) > 0;
    for (size_t i = 0; ok && i < json_array_size(v); i++) ok = add_json_call(p, list, json_array_get(v, i));
    json_decref(v);
    return ok;
}

/* ---- a name, then JSON ------------------------------------------------------------------------------------ */

/* What stands between the last separator and the arguments is the name, or else what stands before. */
static bool read_named(const lm_parser *p, const parser_form *f, lm_str body, json_t *list) {
    const char *brace = memchr(body.ptr, '{', body.len);
    if (!brace) return false;
    lm_str name, id, rest = {body.ptr, (size_t)(brace - body.ptr)};
    lm_str arguments = {brace, body.len - rest.len};
    if (!parser_cut(&rest, f->separator, &name)) return false;
    rest = lm_str_trim(rest);
    if (lm_str_ends(rest, LM_STR("```json"))) rest = lm_str_trim((lm_str){rest.ptr, rest.len - 7});
    if (rest.len) name = rest;
    if (parser_cut(&name, "[CALL_ID]", &id)) name = id;
    name = lm_str_trim(name);
    size_t n = name.len; /* Kimi counts its calls: f:0 */
    while (n && strchr("0123456789", name.ptr[n - 1])) n--;
    if (n && n < name.len && name.ptr[n - 1] == ':') name.len = n - 1;
    return add_written(p, list, name, arguments);
}

/* ---- all together ----------------------------------------------------------------------------------------- */

static bool read_body(const lm_parser *p, const parser_form *f, lm_str body, json_t *list) {
    uint32_t kinds = f ? f->body : BODY_JSON;
    if (kinds & BODY_FENCE && lm_str_starts(body, LM_STR("```json")))
        body = lm_str_trim((lm_str){body.ptr + 7, body.len - 7});
    if (!body.len) return false;
    if (kinds & BODY_JSON && strchr("{[", body.ptr[0]) && read_json(p, body, list)) return true;
    if (json_array_size(list)) return false; /* some of it was calls, and some not */
    if (kinds & BODY_NAMED) return read_named(p, f, body, list);
    if (kinds & BODY_PYTHON) return parser_read_python(p, body, list);
    if (kinds & BODY_XML && find(body, 0, "<function=")) return parser_read_xml(p, body, list);
    return kinds & BODY_PAIRS && parser_read_pairs(p, body, list);
}

bool parser_give_calls(lm_parser *p, const parser_form *f, lm_str body) {
    json_t *list = json_array();
    bool given = read_body(p, f, lm_str_trim(body), list) && give_list(p, list);
    json_decref(list);
    return given;
}

bool parser_give_call(lm_parser *p, lm_str name, lm_str arguments) {
    json_t *list = json_array();
    bool given = add_written(p, list, name, arguments) && give_list(p, list);
    json_decref(list);
    return given;
}
