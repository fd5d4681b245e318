/* What Ollama makes of a Go template: which variables it gives, how templates that know nothing of messages
 * are run once a round, and what a template says about its model. The source of all of it is Ollama's package
 * template (and thinking). */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/private.h"
#include "text/go_template.h"

struct lm_go_template {
    go_arena arena;
    lm_str source;
    go_tree *trees;
    go_node *root;  /* of the main tree */
    go_node *cut;   /* the same up to .Response: for the last round of a legacy template */
    go_names names; /* all variables and fields, in lower case */
    bool messages;  /* it ranges over messages itself */
    char *think_tags[2];
};

/* ---- names ----------------------------------------------------------------------------------------------- */

static void note(lm_go_template *t, const go_names *names) {
    for (uint32_t i = 0; i < names->n; i++) {
        lm_str name = go_keep(&t->arena, names->at[i]);
        char *at = (char *)(uintptr_t)name.ptr;
        for (size_t k = 0; k < name.len; k++) at[k] = (char)tolower((unsigned char)at[k]);
        bool known = false;
        for (uint32_t k = 0; k < t->names.n && !known; k++) known = lm_str_eq(t->names.at[k], name);
        if (!known) go_add_name(&t->arena, &t->names, name);
    }
}

/* False: a {{template}} without a value, which Ollama refuses. */
static bool note_all(lm_go_template *t, const go_node *n) {
    bool good = true;
    if (!n) return true;
    if (n->kind == NODE_TEMPLATE && !n->pipe) return false;
    if (n->kind == NODE_FIELD || n->kind == NODE_VARIABLE) note(t, &n->names);
    if (n->kind == NODE_CHAIN) return true; /* Ollama looks past it */
    for (uint32_t i = 0; i < n->kids.n && good; i++) good = note_all(t, n->kids.at[i]);
    return good && note_all(t, n->pipe) && note_all(t, n->list) && note_all(t, n->other);
}

bool lm_go_template_uses(const lm_go_template *t, const char *variable) {
    for (uint32_t i = 0; i < t->names.n; i++)
        if (lm_str_eq(t->names.at[i], lm_str_of(variable))) return true;
    return false;
}

/* The next name behind `last` in order; NULL: there is none. */
static const lm_str *next_name(const lm_go_template *t, const lm_str *last) {
    const lm_str *next = NULL;
    for (uint32_t i = 0; i < t->names.n; i++) {
        const lm_str *name = &t->names.at[i];
        if ((!last || go_compare(*name, *last) > 0) && (!next || go_compare(*name, *next) < 0)) next = name;
    }
    return next;
}

void lm_go_template_describe(const lm_go_template *t, lm_buf *out) {
    const char *open = t->think_tags[0], *close = t->think_tags[1];
    lm_buf_printf(out, "%s|%s|", open ? open : "", close ? close : "");
    for (const lm_str *name = next_name(t, NULL), *first = name; name; name = next_name(t, name)) {
        if (name != first) lm_buf_char(out, ',');
        lm_buf_str(out, *name);
    }
}

/* ---- up to the response ---------------------------------------------------------------------------------- */

static bool is_response(const go_node *n) {
    for (uint32_t i = 0; n->kind == NODE_FIELD && i < n->names.n; i++)
        if (lm_str_eq(n->names.at[i], LM_STR("Response"))) return true;
    return false;
}

/* A copy of what comes before .Response and of the action with it; NULL: nothing is left. A pipeline that
 * goes on behind the response goes as a whole. */
static go_node *cut_node(go_arena *a, const go_node *n, bool *cut) {
    if (is_response(n))
        *cut = true;
    else if (*cut)
        return NULL;
    go_node *copy = go_make(a, 1, sizeof *copy);
    if (!copy) return NULL;
    *copy = *n;
    if (n->kind == NODE_IF || n->kind == NODE_RANGE || n->kind == NODE_WITH) {
        copy->list = cut_node(a, n->list, cut);
        if (n->other) copy->other = cut_node(a, n->other, cut);
    } else if (n->kind == NODE_ACTION) {
        copy->pipe = cut_node(a, n->pipe, cut);
        if (!copy->pipe) return NULL;
    } else if (n->kind == NODE_LIST || n->kind == NODE_PIPE) {
        copy->kids = (go_nodes){0};
        for (uint32_t i = 0; i < n->kids.n; i++) {
            const go_node *kid = n->kids.at[i];
            go_node *left = NULL;
            if (kid->kind != NODE_COMMAND) {
                left = cut_node(a, kid, cut);
            } else if ((left = go_make(a, 1, sizeof *left))) {
                *left = *kid;
                left->kids = (go_nodes){0};
                for (uint32_t k = 0; k < kid->kids.n; k++)
                    go_add_node(a, &left->kids, cut_node(a, kid->kids.at[k], cut));
                if (!left->kids.n) return NULL;
            }
            go_add_node(a, &copy->kids, left);
        }
    }
    return copy;
}

/* {{ .Response }} behind everything else. */
static void append_response(go_arena *a, go_node *root) {
    go_node *field = go_make(a, 1, sizeof *field), *cmd = go_make(a, 1, sizeof *cmd),
            *pipe = go_make(a, 1, sizeof *pipe), *action = go_make(a, 1, sizeof *action);
    if (!field || !cmd || !pipe || !action) return;
    field->kind = NODE_FIELD;
    cmd->kind = NODE_COMMAND;
    pipe->kind = NODE_PIPE;
    action->kind = NODE_ACTION;
    action->pipe = pipe;
    go_add_name(a, &field->names, LM_STR("Response"));
    go_add_node(a, &cmd->kids, field);
    go_add_node(a, &pipe->kids, cmd);
    go_add_node(a, &root->kids, action);
}

/* ---- thinking -------------------------------------------------------------------------------------------- */

static bool has_field(const go_node *n, lm_str name) {
    if (!n) return false;
    if (n->kind == NODE_FIELD) return lm_str_eq(n->names.at[0], name);
    if (n->kind == NODE_CHAIN) return false;
    for (uint32_t i = 0; i < n->kids.n; i++)
        if (has_field(n->kids.at[i], name)) return true;
    return has_field(n->pipe, name);
}

static void set_tag(char **tag, const go_node *n) {
    if (n->kind != NODE_TEXT) return;
    free(*tag);
    *tag = lm_str_dup(lm_str_trim(n->text));
}

/* Within a range over the messages the texts around .Thinking are the tags: the first and the last of the
 * list that it stands in. The last such place counts. */
static void find_tags(lm_go_template *t, const go_node *n, const go_node *list, bool in_messages) {
    if (!n || n->kind == NODE_CHAIN) return;
    if (n->kind == NODE_FIELD && lm_str_eq(n->names.at[0], LM_STR("Thinking")) && in_messages && list) {
        set_tag(&t->think_tags[0], list->kids.at[0]);
        set_tag(&t->think_tags[1], list->kids.at[list->kids.n - 1]);
    }
    if (n->kind == NODE_RANGE) in_messages = has_field(n->pipe, LM_STR("Messages"));
    find_tags(t, n->pipe, list, in_messages);
    if (n->kind == NODE_LIST) list = n;
    for (uint32_t i = 0; i < n->kids.n; i++) find_tags(t, n->kids.at[i], list, in_messages);
    find_tags(t, n->list, list, in_messages);
    find_tags(t, n->other, list, in_messages);
}

bool lm_go_template_think_tags(const lm_go_template *t, const char **open, const char **close) {
    *open = t->think_tags[0];
    *close = t->think_tags[1];
    return *open && **open && *close && **close;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

lm_status lm_go_template_open(lm_go_template **out, lm_str source, lm_err *err) {
    lm_go_template *t = lm_alloc(sizeof *t);
    lm_status st = LM_OK;
    go_arena_init(&t->arena, GO_MAX_TREES);
    if (source.len > GO_MAX_SOURCE)
        st = lm_fail(err, LM_INVALID, "template: larger than %zu KB", GO_MAX_SOURCE >> 10);
    if (st == LM_OK) t->source = go_keep(&t->arena, source);
    if (st == LM_OK) st = go_parse(&t->arena, t->source, &t->trees, err);
    for (go_tree *tree = t->trees; st == LM_OK && tree; tree = tree->next) {
        if (!tree->name.len) t->root = tree->root;
        if (!note_all(t, tree->root)) st = lm_fail(err, LM_INVALID, "undefined template specified");
    }
    if (st == LM_OK) {
        bool cut = false;
        t->messages = lm_go_template_uses(t, "messages");
        if (!t->messages && !lm_go_template_uses(t, "response")) {
            append_response(&t->arena, t->root);
            go_add_name(&t->arena, &t->names, LM_STR("response"));
        }
        t->cut = cut_node(&t->arena, t->root, &cut);
        find_tags(t, t->root, NULL, false);
        if (t->arena.failed) st = lm_fail(err, LM_INVALID, "template: too large");
    }
    if (st != LM_OK)
        lm_go_template_close(t);
    else
        *out = t;
    return st;
}

void lm_go_template_close(lm_go_template *t) {
    if (!t) return;
    free(t->think_tags[0]);
    free(t->think_tags[1]);
    go_arena_release(&t->arena);
    free(t);
}

lm_str lm_go_template_source(const lm_go_template *t) {
    return t->source;
}

lm_status lm_go_template_check(lm_str source, lm_err *err) {
    lm_go_template *t = NULL;
    lm_status st = lm_go_template_open(&t, source, err);
    lm_go_template_close(t);
    return st == LM_OK ? st : lm_fail_in(err, st, "template error");
}

/* ---- running --------------------------------------------------------------------------------------------- */

#define MAX_VARIABLES 8

/* One rendering: its data, its bounds, its output. */
typedef struct run {
    const lm_go_template *t;
    go_arena arena;
    uint32_t steps;
    int thinking;
    lm_str level;
    lm_buf *out;
    lm_err *err;
    go_entry variables[MAX_VARIABLES];
    size_t n;
} run;

static void set(run *r, const char *name, go_value v) {
    LM_ASSERT(r->n < MAX_VARIABLES);
    v.any = true;
    r->variables[r->n++] = (go_entry){lm_str_of(name), v};
}

static void set_text(run *r, const char *name, lm_str text) {
    set(r, name, go_of_str(text));
}

static lm_status execute(run *r, const go_node *root, bool bare) {
    go_map map = {r->n, r->variables};
    go_value data = {.type = &go_type_any_map, .map = &map};
    set(r, "Think", go_of_bool(r->thinking > 0));
    set_text(r, "ThinkLevel", r->thinking <= 0 ? (lm_str){0} : r->level.len ? r->level : LM_STR("medium"));
    set(r, "IsThinkSet", go_of_bool(r->thinking >= 0));
    map.n = r->n;
    go_sort_entries(r->variables, r->n);
    lm_status st =
        go_execute(r->t->trees, root, r->t->source, bare, &r->arena, data, &r->steps, r->out, r->err);
    r->n = 0;
    return st == LM_OK ? lm_buf_status(r->out, "the prompt", r->err) : st;
}

/* The length of the output before. */
static size_t start(run *r) {
    go_arena_init(&r->arena, GO_MAX_MADE);
    r->steps = GO_MAX_STEPS;
    return r->out->len;
}

/* Nothing half is left in the output. */
static lm_status finish(run *r, size_t from, lm_status st) {
    go_arena_release(&r->arena);
    if (st != LM_OK && r->out->ptr) {
        r->out->len = from;
        r->out->ptr[from] = '\0';
    }
    return st;
}

static lm_str member(const json_t *message, const char *key) {
    const json_t *v = json_object_get(message, key);
    return (lm_str){json_string_value(v), json_string_length(v)};
}

static bool has_role(const json_t *message, const char *role) {
    return lm_str_eq(member(message, "role"), lm_str_of(role));
}

/* The first text, an empty line, the second one. */
static lm_str joined(go_arena *a, lm_str one, lm_str other) {
    char *text = go_make(a, one.len + other.len + 3, 1);
    if (!text) return (lm_str){0};
    if (one.len) memcpy(text, one.ptr, one.len);
    memcpy(text + one.len, "\n\n", 2);
    if (other.len) memcpy(text + one.len + 2, other.ptr, other.len);
    return (lm_str){text, one.len + other.len + 2};
}

/* Messages of one role that follow each other become one, but those of tools. *system: all of the system's.
 */
static json_t *collate(run *r, const json_t *messages, lm_str *system) {
    json_t *out = json_array(), *last = NULL;
    bool any_system = false;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        lm_str content = member(m, "content");
        if (has_role(m, "system")) {
            *system = any_system ? joined(&r->arena, *system, content) : content;
            any_system = true;
        }
        if (last && lm_str_eq(member(last, "role"), member(m, "role")) && !has_role(m, "tool")) {
            lm_str both = joined(&r->arena, member(last, "content"), content);
            json_object_set_new(last, "content", json_stringn_nocheck(both.ptr ? both.ptr : "", both.len));
        } else {
            last = json_copy(m);
            json_array_append_new(out, last);
        }
    }
    return out;
}

static lm_status run_messages(run *r, const json_t *messages, lm_str system, const json_t *tools) {
    go_value list = go_from_json(&r->arena, messages, &go_type_messages);
    set_text(r, "System", system);
    set(r, "Messages", list);
    set(r, "Tools", go_from_json(&r->arena, tools, &go_type_tools));
    set_text(r, "Response", (lm_str){0});
    return execute(r, r->t->root, false);
}

typedef struct legacy_round {
    lm_str system, prompt, response;
} legacy_round;

static lm_status run_round(run *r, const legacy_round *round, bool last) {
    set_text(r, "System", round->system);
    set_text(r, "Prompt", round->prompt);
    set_text(r, "Response", round->response);
    return execute(r, last ? r->t->cut : r->t->root, last);
}

/* A round is a system message, a prompt and a response; the last one is rendered up to its response. */
static lm_status run_legacy(run *r, const json_t *messages) {
    legacy_round round = {0};
    lm_status st = LM_OK;
    for (size_t i = 0; st == LM_OK && i < json_array_size(messages); i++) {
        const json_t *m = json_array_get(messages, i);
        lm_str content = member(m, "content");
        bool system = has_role(m, "system"), user = has_role(m, "user");
        if ((system && (round.prompt.len || round.response.len)) || (user && round.response.len)) {
            st = run_round(r, &round, false);
            round = (legacy_round){0};
        }
        if (system) round.system = content;
        if (user) round.prompt = content;
        if (has_role(m, "assistant")) round.response = content;
    }
    return st == LM_OK ? run_round(r, &round, true) : st;
}

lm_status lm_go_template_chat(const lm_go_template *t, lm_str messages_json, lm_str tools_json, int thinking,
                              lm_str level, lm_buf *out, lm_err *err) {
    json_t *messages = NULL, *tools = NULL, *collated = NULL;
    run r = {.t = t, .thinking = thinking, .level = level, .out = out, .err = err};
    size_t from = start(&r);
    lm_str system = {0};
    lm_status st = lm_text_parse_array(messages_json, "messages", &messages, err);
    if (st == LM_OK) st = lm_text_parse_array(tools_json, "tools", &tools, err);
    if (st == LM_OK) {
        collated = collate(&r, messages, &system);
        st = t->messages ? run_messages(&r, collated, system, tools) : run_legacy(&r, collated);
    }
    st = finish(&r, from, st);
    json_decref(collated);
    json_decref(messages);
    json_decref(tools);
    return st;
}

lm_status lm_go_template_insert(const lm_go_template *t, lm_str prompt, lm_str suffix, int thinking,
                                lm_str level, lm_buf *out, lm_err *err) {
    run r = {.t = t, .thinking = thinking, .level = level, .out = out, .err = err};
    size_t from = start(&r);
    set_text(&r, "Prompt", prompt);
    set_text(&r, "Suffix", suffix);
    set_text(&r, "Response", (lm_str){0});
    return finish(&r, from, execute(&r, t->root, false));
}

lm_status lm_go_template_run(const lm_go_template *t, const json_t *data, lm_buf *out, lm_err *err) {
    run r = {.t = t, .out = out, .err = err};
    size_t from = start(&r);
    go_value v = go_from_json(&r.arena, data, NULL);
    v.any = false;
    return finish(&r, from, go_execute(t->trees, t->root, t->source, false, &r.arena, v, &r.steps, out, err));
}
