/* The body of a tool call, in the forms that models write:
 *
 *     {"name": "f", "arguments": {...}}        Qwen, Hermes; "parameters" for Llama; a list of them for
 * Mistral, Phi f[ARGS]{...}                             newer Mistral, several joined by [TOOL_CALLS]
 *     <function=f><parameter=x>1</parameter></function>                           Qwen3-Coder
 *     f<arg_key>x</arg_key><arg_value>1</arg_value>                                GLM
 */
#include <string.h>

#include "base/json.h"
#include "text/parser.h"

/* ---- JSON -------------------------------------------------------------------------------------------------
 */

/* Follows a JSON text; *length is set when the value that begins it is complete. */
static bool scan_json(const char *text, size_t len, size_t *length) {
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
        else if ((c == '}' || c == ']') && --depth <= 0) {
            *length = i + 1;
            return string;
        }
    }
    return string;
}

bool parser_in_string(const char *text, size_t len) {
    bool string = false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\\' && string)
            i++;
        else if (text[i] == '"')
            string = !string;
    }
    return string;
}

/* Only an object that begins with one of these keys is waited for: other JSON is an answer and is shown at
 * once. */
int64_t parser_json_call(lm_str text) {
    static const char *const keys[] = {"\"name\"", "\"type\"", "\"function\""};
    size_t at = 1 + parser_blanks(text.ptr + 1, text.len - 1), n = text.len - at;
    bool possible = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t k = strlen(keys[i]);
        if (!memcmp(text.ptr + at, keys[i], k < n ? k : n)) possible = true;
    }
    if (!possible) return -1;
    size_t length = 0;
    scan_json(text.ptr, text.len, &length);
    return (int64_t)length;
}

static const json_t *first_member(const json_t *object, const char *a, const char *b) {
    const json_t *v = json_object_get(object, a);
    return v ? v : json_object_get(object, b);
}

bool parser_give_call(lm_parser *p, lm_str name, lm_str arguments) {
    json_t *parsed = NULL;
    lm_err ignored;
    arguments = lm_str_trim(arguments);
    if (!name.len) return false;
    if (!arguments.len) arguments = LM_STR("{}");
    if (lm_json_parse(arguments, &parsed, &ignored) != LM_OK) return false;
    bool ok = json_is_object(parsed);
    lm_buf_clear(&p->made);
    if (ok) lm_json_write_value(&p->made, parsed);
    if (ok && !p->made.failed) p->sink(p->ctx, LM_PART_TOOL_CALL, name, lm_buf_view(&p->made));
    json_decref(parsed);
    return ok && !p->made.failed;
}

/* Finds name and arguments of one call; false when it is none. *arguments may be NULL: none given. */
static bool read_call(const json_t *call, const json_t **name, const json_t **arguments) {
    const json_t *function = json_object_get(call, "function");
    if (json_is_object(function)) call = function;
    *name = json_is_string(function) ? function : json_object_get(call, "name");
    *arguments = first_member(call, "arguments", "parameters");
    if (!json_is_string(*name) || !json_string_length(*name)) return false;
    return !*arguments || json_is_null(*arguments) || json_is_object(*arguments) ||
           json_is_string(*arguments);
}

static bool give_json_call(lm_parser *p, const json_t *call) {
    const json_t *name, *arguments;
    if (!read_call(call, &name, &arguments)) return false;
    lm_str f = {json_string_value(name), json_string_length(name)};
    if (json_is_string(arguments))
        return parser_give_call(p, f, (lm_str){json_string_value(arguments), json_string_length(arguments)});
    lm_buf_clear(&p->made);
    if (json_is_object(arguments))
        lm_json_write_value(&p->made, arguments);
    else
        lm_buf_text(&p->made, "{}");
    if (p->made.failed) return false;
    p->sink(p->ctx, LM_PART_TOOL_CALL, f, lm_buf_view(&p->made));
    return true;
}

/* All or none of a list: a list with something else in it is an answer. */
static bool give_json_value(lm_parser *p, const json_t *v) {
    const json_t *name, *arguments;
    if (json_is_object(v)) return give_json_call(p, v);
    size_t n = json_array_size(v);
    for (size_t i = 0; i < n; i++)
        if (!read_call(json_array_get(v, i), &name, &arguments)) return false;
    bool any = false;
    for (size_t i = 0; i < n; i++) any = give_json_call(p, json_array_get(v, i)) || any;
    return any;
}

/* One JSON value after the other, blanks, commas and semicolons between them. */
static bool give_json(lm_parser *p, lm_str body) {
    bool any = false;
    while (body.len) {
        size_t n = 0;
        json_t *v = NULL;
        lm_err ignored;
        scan_json(body.ptr, body.len, &n);
        if (!n || lm_json_parse((lm_str){body.ptr, n}, &v, &ignored) != LM_OK) return any;
        bool given = give_json_value(p, v);
        json_decref(v);
        if (!given) return any;
        any = true;
        while (n < body.len && strchr(" \n\r\t,;", body.ptr[n])) n++;
        body = (lm_str){body.ptr + n, body.len - n};
    }
    return any;
}

/* ---- other forms ------------------------------------------------------------------------------------------
 */

/* Cuts text at the first word: *before gets what stands before it, text what follows. */
static bool cut(lm_str *text, const char *word, lm_str *before) {
    char *at = text->len ? memmem(text->ptr, text->len, word, strlen(word)) : NULL;
    if (!at) return false;
    *before = (lm_str){text->ptr, (size_t)(at - text->ptr)};
    size_t n = before->len + strlen(word);
    *text = (lm_str){text->ptr + n, text->len - n};
    return true;
}

/* A value written without quotes: JSON when it is JSON and not a string, else the text itself. */
static json_t *loose_value(lm_str text) {
    json_t *v = NULL;
    lm_err ignored;
    if (lm_json_parse(text, &v, &ignored) == LM_OK) {
        if (!json_is_string(v)) return v;
        json_decref(v);
    }
    return json_stringn(text.ptr, text.len);
}

static bool give_object(lm_parser *p, lm_str name, json_t *arguments) {
    name = lm_str_trim(name);
    lm_buf_clear(&p->made);
    lm_json_write_value(&p->made, arguments);
    json_decref(arguments);
    if (!name.len || p->made.failed) return false;
    p->sink(p->ctx, LM_PART_TOOL_CALL, name, lm_buf_view(&p->made));
    return true;
}

static void set_argument(json_t *arguments, lm_str key, lm_str value) {
    json_t *v = loose_value(value);
    if (v) json_object_setn_new(arguments, key.ptr, key.len, v);
}

/* One line end at either side belongs to the form, not to the value. */
static lm_str without_line_ends(lm_str s) {
    if (s.len && s.ptr[0] == '\n') s = (lm_str){s.ptr + 1, s.len - 1};
    if (s.len && s.ptr[s.len - 1] == '\n') s.len--;
    return s;
}

static bool give_xml(lm_parser *p, lm_str body) {
    bool any = false;
    lm_str skipped, name, function, key, value;
    while (cut(&body, "<function=", &skipped)) {
        if (!cut(&body, ">", &name)) return any;
        if (!cut(&body, "</function>", &function)) {
            function = body;
            body = (lm_str){0};
        }
        json_t *arguments = json_object();
        while (cut(&function, "<parameter=", &skipped) && cut(&function, ">", &key) &&
               cut(&function, "</parameter>", &value))
            set_argument(arguments, lm_str_trim(key), without_line_ends(value));
        any = give_object(p, name, arguments) || any;
    }
    return any;
}

static bool give_pairs(lm_parser *p, lm_str body) {
    lm_str name, key, value, between;
    lm_str rest = body;
    if (!cut(&rest, "<arg_key>", &name)) {
        name = lm_str_trim(body);
        /* A bare word is a call without arguments; anything else is not a call. */
        for (size_t i = 0; i < name.len; i++)
            if (strchr(" \n{}[]<>\"", name.ptr[i])) return false;
        return name.len && name.len < 128 && give_object(p, name, json_object());
    }
    json_t *arguments = json_object();
    do {
        if (!cut(&rest, "</arg_key>", &key) || !cut(&rest, "<arg_value>", &between) ||
            !cut(&rest, "</arg_value>", &value))
            break;
        set_argument(arguments, lm_str_trim(key), without_line_ends(value));
    } while (cut(&rest, "<arg_key>", &between));
    return give_object(p, name, arguments);
}

static bool give_args_form(lm_parser *p, lm_str body) {
    bool any = false;
    while (body.len) {
        lm_str one, name;
        if (!cut(&body, "[TOOL_CALLS]", &one)) {
            one = body;
            body = (lm_str){0};
        }
        if (!cut(&one, "[ARGS]", &name)) continue;
        lm_str id;
        if (cut(&name, "[CALL_ID]", &id)) name = id;
        any = parser_give_call(p, lm_str_trim(name), one) || any;
    }
    return any;
}

bool parser_give_calls(lm_parser *p, lm_str body) {
    body = lm_str_trim(body);
    if (!body.len) return false;
    if (body.ptr[0] == '{' || body.ptr[0] == '[') return give_json(p, body);
    if (memmem(body.ptr, body.len, "[ARGS]", 6)) return give_args_form(p, body);
    if (memmem(body.ptr, body.len, "<function=", 10)) return give_xml(p, body);
    return p->call && p->call->close[0] && give_pairs(p, body);
}
