/* The grammar of a tool call, for a model that has begun one: from the opening tag on, nothing but a call of
 * one of the tools with arguments of its schema can follow, up to the closing tag.
 *
 * Written in llguidance's dialect of Lark, with the schemas as they are:
 *
 *     start: "<tool_call>" ws? json ws? (<[151658]> | "</tool_call>")
 *     json: call | "[" call ("," call)* "]"
 *     call: "{" "name" ":" (tool_0 | tool_1) "}"
 *     tool_0: "\"f\"" "," "arguments" ":" args_0
 *     args_0: %json {...}
 *
 * What has been written before the grammar rules, tag included, is fed to it as text (lm_matcher_feed). Tags
 * that are special tokens may come as such or be spelled. Calls in Python have no grammar.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/parser.h"

#define MAX_GRAMMAR ((size_t)8 << 20)

/* The same as for documents, see grammar.rs: a small model that may go on with blanks often does for ever. */
#define WHITE_SPACE "( |\\n[ \\t]{0,40})"

typedef struct writer {
    const lm_text *text;
    lm_parser p; /* for its tools and forms */
    lm_buf out;
    const bool *loose;     /* (tools) whose arguments may be any object */
    bool any;              /* an alternative has been written */
    bool json, xml, pairs; /* rules that have to be written */
} writer;

static void literal(writer *w, const char *text) {
    lm_buf_char(&w->out, ' ');
    lm_json_write_string(&w->out, lm_str_of(text));
}

/* A tag: as the token that it is, or spelled. */
static void tag(writer *w, const char *text) {
    int32_t id = lm_text_marker(w->text, text);
    if (id >= 0) lm_buf_printf(&w->out, " (<[%d]> |", id);
    literal(w, text);
    if (id >= 0) lm_buf_text(&w->out, ")");
}

static bool knows(const writer *w, const char *text) {
    return *text && (lm_text_marker(w->text, text) >= 0 || lm_text_template_says(w->text, text));
}

static const json_t *function_at(const writer *w, size_t i) {
    const json_t *tool = json_array_get(w->p.tools, i), *function = json_object_get(tool, "function");
    return function ? function : tool;
}

static const char *name_at(const writer *w, size_t i) {
    return json_string_value(json_object_get(function_at(w, i), "name"));
}

/* ---- schemas ---------------------------------------------------------------------------------------------- */

static void write_schema(writer *w, json_t *schema) {
    json_object_set_new(schema, "x-guidance", json_pack("{s:s}", "whitespace_pattern", WHITE_SPACE));
    lm_buf_text(&w->out, " %json ");
    lm_json_write_value(&w->out, schema);
    lm_buf_text(&w->out, "\n");
    json_decref(schema);
}

/* Of all arguments. */
static json_t *schema_of(const writer *w, size_t i) {
    const json_t *given = json_object_get(function_at(w, i), "parameters");
    json_t *schema = json_is_object(given) && !w->loose[i] ? json_deep_copy(given) : json_object();
    json_object_set_new(schema, "type", json_string("object"));
    return schema;
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

/* All keys that parser_tools.c reads: a model takes those that it has learnt. */
static void write_json_rules(writer *w) {
    lm_buf_text(
        &w->out,
        "json: call | \"[\" WS? call (WS? \",\" WS? call)* WS? \"]\"\n"
        "call: \"{\" WS? (inner | TYPE WS? \",\" WS? inner | (TYPE WS? \",\" WS?)? \"\\\"function\\\"\" WS? "
        "\":\" WS? \"{\" WS? inner WS? \"}\") WS? \"}\"\n"
        "TYPE: \"\\\"type\\\"\" / ?/ \":\" / ?/ \"\\\"function\\\"\"\n"
        "inner: (ID WS? \",\" WS?)? (\"\\\"name\\\"\" | \"\\\"tool_name\\\"\") WS? \":\" WS? (");
    for (size_t i = 0; i < json_array_size(w->p.tools); i++)
        lm_buf_printf(&w->out, "%stool_%zu", i ? " | " : "", i);
    lm_buf_text(&w->out, ") (WS? \",\" WS? \"\\\"id\\\"\" WS? \":\" WS? /\"[a-zA-Z0-9]{1,16}\"/)?\n"
                         "ID: \"\\\"tool_call_id\\\"\" / ?/ \":\" / ?/ /\"[0-9]{1,4}\"/\n");
    for (size_t i = 0; i < json_array_size(w->p.tools); i++) {
        lm_buf quoted;
        lm_buf_init(&quoted, 1 << 16);
        lm_json_write_string(&quoted, lm_str_of(name_at(w, i)));
        lm_buf_printf(&w->out, "tool_%zu:", i);
        if (quoted.ptr) literal(w, quoted.ptr);
        lm_buf_printf(
            &w->out,
            " WS? \",\" WS? (\"\\\"arguments\\\"\" | \"\\\"parameters\\\"\") WS? \":\" WS? args_%zu\n", i);
        lm_buf_release(&quoted);
    }
}

/* ---- tags ------------------------------------------------------------------------------------------------- */

/* The rule of one value, up to and with the tag that ends it. */
static void write_value(writer *w, const char *rule, const json_t *root, const json_t *schema,
                        const char *end) {
    static const char *const shared[] = {"$defs", "definitions"};
    const json_t *target = parser_referred(root, json_string_value(json_object_get(schema, "$ref")));
    if (target) schema = target;
    const json_t *values = json_object_get(schema, "enum"), *v;
    size_t i;
    bool words = json_array_size(values) > 0;
    json_array_foreach(values, i, v) words = words && json_is_string(v);
    if (words) {
        lm_buf_printf(&w->out, "%s: \"\\n\"? (", rule);
        json_array_foreach(values, i, v) {
            if (i) lm_buf_text(&w->out, " |");
            literal(w, json_string_value(v));
        }
        lm_buf_text(&w->out, ") \"\\n\"?");
        literal(w, end);
        lm_buf_text(&w->out, "\n");
    } else if (parser_types(root, schema) & PARSER_TEXT) {
        lm_buf_printf(&w->out, "%s[suffix=", rule);
        lm_json_write_string(&w->out, lm_str_of(end));
        lm_buf_text(&w->out, "]: /(.|\\n)*/\n");
    } else {
        json_t *copy = json_deep_copy(schema);
        for (size_t k = 0; k < 2; k++) {
            json_t *defs = json_object_get(root, shared[k]);
            if (defs && !json_object_get(copy, shared[k])) json_object_set(copy, shared[k], defs);
        }
        lm_buf_printf(&w->out, "%s: \"\\n\"? %s_json \"\\n\"?", rule, rule);
        literal(w, end);
        lm_buf_printf(&w->out, "\n%s_json:", rule);
        write_schema(w, copy);
    }
}

typedef struct tags {
    const char *rule, *begin, *middle, *end; /* of one argument: begin KEY middle value end */
} tags;

/* The arguments of tool i, in the order of the schema. */
static void write_arguments(writer *w, size_t i, const tags *t) {
    json_t *root = json_object_get(function_at(w, i), "parameters"), *schema;
    const json_t *required = json_object_get(root, "required"), *r;
    const char *key;
    char rule[64];
    size_t n = 0, k;
    lm_buf names;
    lm_buf_init(&names, MAX_GRAMMAR);
    json_t *properties = w->loose[i] ? NULL : json_object_get(root, "properties");
    json_object_foreach(properties, key, schema) {
        bool must = false;
        json_array_foreach(required, k, r) must =
            must || (json_is_string(r) && !strcmp(json_string_value(r), key));
        snprintf(rule, sizeof rule, "%s_%zu_%zu", t->rule, i, n++);
        lm_buf_printf(&names, " %s%s_of%s WS?", must ? "" : "(", rule, must ? "" : ")?");
        lm_buf_printf(&w->out, "%s_of:", rule);
        literal(w, t->begin);
        literal(w, key);
        literal(w, t->middle);
        lm_buf_printf(&w->out, " %s\n", rule);
        write_value(w, rule, root, schema, t->end);
    }
    lm_buf_printf(&w->out, "%s_%zu:", t->rule, i);
    if (names.len) lm_buf_str(&w->out, lm_buf_view(&names));
    if (!names.len) lm_buf_text(&w->out, " \"\"");
    lm_buf_text(&w->out, "\n");
    lm_buf_release(&names);
}

static void write_tag_rules(writer *w) {
    static const tags xml = {"xml", "<parameter=", ">", "</parameter>"};
    static const tags pairs = {"pair", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>"};
    for (size_t i = 0; i < json_array_size(w->p.tools); i++) {
        if (w->xml) write_arguments(w, i, &xml);
        if (w->pairs) write_arguments(w, i, &pairs);
    }
}

/* ---- forms ------------------------------------------------------------------------------------------------ */

static void begin_alternative(writer *w, const parser_form *f) {
    lm_buf_text(&w->out, w->any ? "\n    |" : "start:");
    w->any = true;
    if (f) lm_buf_char(&w->out, ' ');
    if (f) lm_json_write_string(&w->out, (lm_str){f->open, strlen(f->open) - f->keep});
}

static void end_alternative(writer *w, const parser_form *f) {
    if (!knows(w, f->close)) return;
    lm_buf_text(&w->out, " WS?");
    tag(w, f->close);
}

static void write_named(writer *w, const parser_form *f) {
    bool id = !strcmp(f->separator, "[ARGS]"), kimi = !strncmp(f->separator, "<|tool_call_a", 13);
    for (size_t i = 0; i < json_array_size(w->p.tools); i++) {
        begin_alternative(w, f);
        if (kimi) literal(w, "functions.");
        literal(w, name_at(w, i));
        if (kimi) lm_buf_text(&w->out, " /:[0-9]{1,4}/");
        if (id && knows(w, "[CALL_ID]")) {
            lm_buf_text(&w->out, " (");
            tag(w, "[CALL_ID]");
            lm_buf_text(&w->out, " /[a-zA-Z0-9]{9}/)?");
        }
        tag(w, f->separator);
        lm_buf_printf(&w->out, " WS? args_%zu", i);
        end_alternative(w, f);
        if (id || kimi || !knows(w, "```json")) continue;
        begin_alternative(w, f); /* DeepSeek V3 */
        literal(w, "function");
        tag(w, f->separator);
        literal(w, name_at(w, i));
        literal(w, "\n```json\n");
        lm_buf_printf(&w->out, " args_%zu \"\\n```\"", i);
        end_alternative(w, f);
    }
}

static void write_tagged(writer *w, const parser_form *f) {
    bool pairs = f->body & BODY_PAIRS && knows(w, "<arg_key>"),
         xml = f->body & BODY_XML && knows(w, "<function=");
    if (!pairs && !xml && f->body & BODY_JSON && !(f->body & BODY_PYTHON)) {
        begin_alternative(w, f);
        lm_buf_text(&w->out, " WS?");
        if (f->body & BODY_FENCE) lm_buf_text(&w->out, " (\"```json\" WS?)?");
        lm_buf_text(&w->out, " json");
        end_alternative(w, f);
        w->json = true;
        return;
    }
    w->xml = w->xml || xml;
    w->pairs = w->pairs || pairs;
    for (size_t i = 0; xml && i < json_array_size(w->p.tools); i++) {
        begin_alternative(w, f);
        if (!f->keep) lm_buf_text(&w->out, " WS?");
        literal(w, "<function=");
        literal(w, name_at(w, i));
        lm_buf_printf(&w->out, " \">\" WS? xml_%zu \"</function>\"", i);
        if (!f->keep) end_alternative(w, f);
    }
    for (size_t i = 0; pairs && i < json_array_size(w->p.tools); i++) {
        begin_alternative(w, f);
        lm_buf_text(&w->out, " WS?");
        literal(w, name_at(w, i));
        lm_buf_printf(&w->out, " WS? pair_%zu", i);
        tag(w, f->close);
    }
}

static void write_grammar(writer *w) {
    lm_buf_clear(&w->out);
    w->any = w->json = w->xml = w->pairs = false;
    for (uint32_t i = 0; i < w->p.n_forms; i++) {
        const parser_form *f = w->p.forms[i];
        if (f->body & (BODY_WRAPS | BODY_DROPS)) continue;
        if (f->body & BODY_NAMED) write_named(w, f);
        if (f->body & ~(uint32_t)BODY_NAMED) write_tagged(w, f);
    }
    for (size_t i = 0; w->text->channels && i < json_array_size(w->p.tools); i++) {
        begin_alternative(w, NULL);
        literal(w, name_at(w, i));
        lm_buf_printf(&w->out, " WS? args_%zu", i);
    }
    if (w->p.bare) { /* without any tag, at the beginning of an answer */
        begin_alternative(w, NULL);
        lm_buf_text(&w->out, " WS? json");
        w->json = true;
    }
    if (w->any) lm_buf_text(&w->out, "\nWS: /[ \\t]{1,8}(\\n[ \\t]{0,40}){0,2}|(\\n[ \\t]{0,40}){1,2}/\n");
    if (!w->any) return;
    if (w->json) write_json_rules(w);
    write_tag_rules(w);
    for (size_t i = 0; i < json_array_size(w->p.tools); i++) {
        lm_buf_printf(&w->out, "args_%zu:", i);
        write_schema(w, schema_of(w, i));
    }
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* Finds the tools whose schemas are refused, each tried alone. */
static bool find_loose(writer *w, const lm_grammar_factory *f, bool *loose, lm_buf *names) {
    bool any = false;
    for (size_t i = 0; i < json_array_size(w->p.tools); i++) {
        lm_matcher *m = NULL;
        lm_err ignored;
        lm_buf text;
        json_t *schema = schema_of(w, i);
        lm_buf_init(&text, MAX_GRAMMAR);
        lm_json_write_value(&text, schema);
        json_decref(schema);
        loose[i] = text.failed || lm_matcher_open(&m, f, lm_buf_view(&text), &ignored) != LM_OK;
        lm_matcher_close(m);
        lm_buf_release(&text);
        if (!loose[i]) continue;
        lm_buf_printf(names, "%s%s", any ? ", " : "", name_at(w, i));
        any = true;
    }
    return any;
}

lm_status lm_matcher_open_calls(lm_matcher **out, const lm_grammar_factory *f, const lm_text *t, lm_str tools,
                                lm_buf *loose, lm_err *err) {
    writer w = {.text = t};
    lm_status st = lm_json_parse(tools, &w.p.tools, err);
    if (st != LM_OK) return lm_fail_in(err, st, "tools");
    size_t n = json_array_size(w.p.tools);
    bool *is_loose = lm_try_alloc(n ? n : 1, sizeof *is_loose);
    lm_buf_init(&w.out, MAX_GRAMMAR);
    w.loose = is_loose;
    for (size_t i = 0; st == LM_OK && i < n; i++)
        if (!name_at(&w, i)) st = lm_fail(err, LM_INVALID, "a tool has no name");
    if (!is_loose) st = lm_fail(err, LM_NO_MEMORY, "no memory for %zu tools", n);
    if (st == LM_OK && !n) st = lm_fail(err, LM_INVALID, "there are no tools");
    if (st != LM_OK) goto done;
    parser_choose_forms(&w.p, t);
    write_grammar(&w);
    if (!w.any) st = lm_fail(err, LM_UNSUPPORTED, "this model's form of tool calls has no grammar");
    if (st == LM_OK) st = lm_buf_status(&w.out, "the grammar of tool calls", err);
    if (st == LM_OK) st = lm_matcher_open_lark(out, f, lm_buf_view(&w.out), err);
    if (st == LM_INVALID && find_loose(&w, f, is_loose, loose)) {
        write_grammar(&w);
        st = lm_buf_status(&w.out, "the grammar of tool calls", err);
        if (st == LM_OK) st = lm_matcher_open_lark(out, f, lm_buf_view(&w.out), err);
    }
done:
    free(is_loose);
    lm_buf_release(&w.out);
    json_decref(w.p.tools);
    return st;
}
