/* Runs a Go template over values. Where an error may be shown, x->node is the node that Go would name. After
 * a failure everything returns at once, with GO_NOTHING. */
#include <stdio.h>
#include <string.h>

#include "text/go_template.h"

#define MAX_WALK                                                                                             \
    400 /* blocks and parentheses in each other, over all calls of templates: some stacks are small */
#define MAX_ARGS 64
#define FEW_ARGS 6

/* Whether the pipeline before gave a last argument. */
typedef struct final {
    bool given;
    go_value value;
} final;

static const final none = {0};

/* ---- errors ---------------------------------------------------------------------------------------------- */

/* "template: :LINE:COLUMN: executing NAME at <NODE>: TEXT" */
void go_fail(go_exec *x, const char *format, ...) {
    if (x->failed) return;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    uint32_t pos = x->node ? x->node->pos : 0, line = 1, column = pos;
    for (uint32_t i = 0; i < pos && i < x->source.len; i++)
        if (x->source.ptr[i] == '\n') line++, column = pos - i - 1;
    lm_buf shown, name;
    lm_buf_init(&shown, GO_MAX_SOURCE * 2);
    lm_buf_init(&name, GO_MAX_SOURCE * 8);
    if (x->node) go_write_node(&shown, x->node);
    go_quote(&name, x->tree ? x->tree->name : (lm_str){0}, SIZE_MAX, false);
    /* Go cuts nothing, but this text has to fit: the node is what can be long. */
    int most = 300 - (int)strlen(text) > 60 ? 300 - (int)strlen(text) : 60;
    x->failed = true;
    x->st = lm_fail(x->err, LM_INVALID, "template: :%u:%u: executing %.100s at <%.*s>: %s", line, column,
                    name.ptr, most, shown.ptr ? shown.ptr : "", text);
    lm_buf_release(&shown);
    lm_buf_release(&name);
}

go_value go_call_fail(go_exec *x, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(x->call_error, sizeof x->call_error, format, args);
    va_end(args);
    if (!x->call_error[0]) strcpy(x->call_error, "failed");
    return GO_NOTHING;
}

static void stop(go_exec *x, const char *why) {
    if (x->failed) return;
    x->failed = true;
    x->st = lm_fail(x->err, LM_INVALID, "template: %s", why);
}

static bool step(go_exec *x) {
    if (x->failed) return false;
    if (x->arena->failed) stop(x, "it makes more text than is allowed");
    if (x->out->failed) stop(x, "its output is too long");
    if (!*x->steps) stop(x, "it takes too many steps");
    if (x->failed) return false;
    --*x->steps;
    return true;
}

static bool descend(go_exec *x) {
    if (x->depth >= MAX_WALK) {
        go_fail(x, "exceeded maximum template depth (%d)", MAX_WALK);
        return false;
    }
    x->depth++;
    return true;
}

void go_spend(go_exec *x, size_t bytes) {
    size_t cost = bytes / 64;
    *x->steps -= cost < *x->steps ? (uint32_t)cost : *x->steps;
}

lm_str go_made(go_exec *x, lm_buf *b) {
    if (b->failed) x->arena->failed = true;
    go_spend(x, b->len);
    lm_str kept = go_keep(x->arena, lm_buf_view(b));
    lm_buf_release(b);
    return kept;
}

/* ---- variables ------------------------------------------------------------------------------------------- */

static void push(go_exec *x, lm_str name, go_value v) {
    if (x->n_vars == x->room_vars) {
        uint32_t room = x->room_vars ? x->room_vars * 2 : 16;
        void *bigger = go_make(x->arena, room, sizeof *x->vars);
        if (!bigger) return;
        if (x->n_vars) memcpy(bigger, x->vars, x->n_vars * sizeof *x->vars);
        x->vars = bigger;
        x->room_vars = room;
    }
    x->vars[x->n_vars].name = name;
    x->vars[x->n_vars++].value = v;
}

static go_value *variable(go_exec *x, lm_str name) {
    for (uint32_t i = x->n_vars; i > x->base; i--)
        if (lm_str_eq(x->vars[i - 1].name, name)) return &x->vars[i - 1].value;
    go_fail(x, "undefined variable: " LM_STR_FMT, LM_STR_ARG(name));
    return NULL;
}

static void assign(go_exec *x, lm_str name, go_value v) {
    go_value *var = variable(x, name);
    if (var) *var = v;
}

/* ---- fields ---------------------------------------------------------------------------------------------- */

static go_value eval_pipe(go_exec *x, go_value dot, const go_node *pipe);
static go_value eval_call(go_exec *x, go_value dot, const go_function *f, const go_node *node, lm_str name,
                          const go_nodes *args, final last);

/* Methods of Ollama's types that give something a template can use. NULL: no such method. */
static const go_function *method_of(go_value v, lm_str name) {
    const char *own = NULL;
    if (!v.type) return NULL;
    if (v.type->string && lm_str_eq(name, LM_STR("String"))) own = ".String";
    if (v.type == &go_type_property && lm_str_eq(name, LM_STR("ToTypeScriptType"))) own = ".ToTypeScriptType";
    if (v.type == &go_type_property_map && lm_str_eq(name, LM_STR("Len"))) own = ".Len";
    if (v.type == &go_type_property_map && lm_str_eq(name, LM_STR("ToMap"))) own = ".ToMap";
    return own ? go_find_function(lm_str_of(own)) : NULL;
}

static go_value eval_method(go_exec *x, go_value v, const go_function *f, lm_str name, const go_nodes *args,
                            final last) {
    uint32_t n = (args && args->n ? args->n - 1 : 0) + last.given;
    if (n) go_fail(x, "wrong number of args for " LM_STR_FMT ": want 0 got %u", LM_STR_ARG(name), n);
    return x->failed ? GO_NOTHING : f->run(x, &v, 1);
}

static go_value map_field(go_exec *x, go_value v, lm_str name) {
    const go_value *found = go_map_get(v.map, name);
    if (found) return go_element(v.type, *found);
    return x->bare ? GO_NOTHING : go_zero(v.type->elem);
}

static go_value eval_field(go_exec *x, go_value v, lm_str name, const go_nodes *args, final last) {
    if (x->failed || (!v.type && !v.any)) return GO_NOTHING;
    const char *type = go_type_name(v);
    if (!v.type) {
        go_fail(x, "nil pointer evaluating %s." LM_STR_FMT, type, LM_STR_ARG(name));
        return GO_NOTHING;
    }
    v.any = false;
    const go_function *method = method_of(v, name);
    if (method) return eval_method(x, v, method, name, args, last);
    bool has_args = (args && args->n > 1) || last.given;
    bool nil = v.type->kind == GO_POINTER && !v.at;
    go_value to = go_point(v);
    if (to.type->kind == GO_STRUCT) {
        int field = go_field_of(to.type, name);
        if (field >= 0 && has_args)
            go_fail(x, LM_STR_FMT " has arguments but cannot be invoked as function", LM_STR_ARG(name));
        if (field >= 0) return x->failed ? GO_NOTHING : to.at[field];
    } else if (to.type->kind == GO_MAP && !to.type->ordered) {
        if (has_args) go_fail(x, LM_STR_FMT " is not a method but has arguments", LM_STR_ARG(name));
        return x->failed ? GO_NOTHING : map_field(x, to, name);
    }
    if (nil && go_field_of(v.type->elem, name) >= 0)
        go_fail(x, "nil pointer evaluating %s." LM_STR_FMT, type, LM_STR_ARG(name));
    go_fail(x, "can't evaluate field " LM_STR_FMT " in type %s", LM_STR_ARG(name), type);
    return GO_NOTHING;
}

static go_value eval_fields(go_exec *x, go_value v, const go_names *names, uint32_t from,
                            const go_nodes *args, final last) {
    for (uint32_t i = from; i + 1 < names->n; i++) v = eval_field(x, v, names->at[i], NULL, none);
    return eval_field(x, v, names->at[names->n - 1], args, last);
}

/* ---- operands -------------------------------------------------------------------------------------------- */

static void not_a_function(go_exec *x, const go_nodes *args, final last) {
    if ((!args || args->n <= 1) && !last.given) return;
    lm_buf b;
    lm_buf_init(&b, GO_MAX_SOURCE);
    if (args && args->n) go_write_node(&b, args->at[0]);
    go_fail(x, "can't give argument to non-function %.200s", b.ptr ? b.ptr : "");
    lm_buf_release(&b);
}

static go_value constant(go_exec *x, const go_node *n) {
    x->node = n;
    lm_str s = n->text;
    bool hex = s.len > 2 && s.ptr[0] == '0' && (s.ptr[1] | 32) == 'x' && !memchr(s.ptr, 'p', s.len) &&
               !memchr(s.ptr, 'P', s.len);
    bool point = false;
    for (size_t i = 0; i < s.len; i++) point |= strchr(".eEpP", s.ptr[i]) != NULL;
    if (n->is_float && !hex && s.ptr[0] != '\'' && point)
        return (go_value){.type = &go_type_float, .f = n->f};
    if (n->is_int) return go_of_int(n->i);
    go_fail(x, LM_STR_FMT " overflows int", LM_STR_ARG(s));
    return GO_NOTHING;
}

static go_value eval_variable(go_exec *x, const go_node *n, const go_nodes *args, final last) {
    x->node = n;
    go_value *var = variable(x, n->names.at[0]);
    if (!var) return GO_NOTHING;
    if (n->names.n > 1) return eval_fields(x, *var, &n->names, 1, args, last);
    not_a_function(x, args, last);
    return *var;
}

static go_value eval_arg(go_exec *x, go_value dot, go_param want, const go_node *n);

static go_value eval_chain(go_exec *x, go_value dot, const go_node *n, const go_nodes *args, final last) {
    x->node = n;
    if (n->list->kind == NODE_NIL) {
        go_fail(x, "indirection through explicit nil in nil");
        return GO_NOTHING;
    }
    go_value v = eval_arg(x, dot, GO_PARAM_VALUE, n->list);
    return eval_fields(x, v, &n->names, 0, args, last);
}

static go_value eval_function(go_exec *x, go_value dot, const go_node *n, const go_node *cmd,
                              const go_nodes *args, final last) {
    x->node = n;
    const go_function *f = go_find_function(n->text);
    if (f && (!f->own || !x->bare)) return eval_call(x, dot, f, cmd, n->text, args, last);
    go_fail(x, "\"" LM_STR_FMT "\" is not a defined function", LM_STR_ARG(n->text));
    return GO_NOTHING;
}

static go_value eval_command(go_exec *x, go_value dot, const go_node *cmd, final last) {
    const go_node *first = cmd->kids.at[0];
    if (!step(x)) return GO_NOTHING;
    switch (first->kind) {
    case NODE_FIELD: x->node = first; return eval_fields(x, dot, &first->names, 0, &cmd->kids, last);
    case NODE_CHAIN: return eval_chain(x, dot, first, &cmd->kids, last);
    case NODE_IDENTIFIER: return eval_function(x, dot, first, cmd, &cmd->kids, last);
    case NODE_PIPE: not_a_function(x, &cmd->kids, last); return eval_pipe(x, dot, first);
    case NODE_VARIABLE: return eval_variable(x, first, &cmd->kids, last);
    default: break;
    }
    x->node = first;
    not_a_function(x, &cmd->kids, last);
    switch (first->kind) {
    case NODE_BOOL: return go_of_bool(first->truth);
    case NODE_DOT: return dot;
    case NODE_NUMBER: return constant(x, first);
    case NODE_STRING: return go_of_str(first->text);
    default: go_fail(x, "nil is not a command"); return GO_NOTHING;
    }
}

static go_value eval_pipe(go_exec *x, go_value dot, const go_node *pipe) {
    final last = none;
    if (!pipe || !step(x)) return GO_NOTHING;
    x->node = pipe;
    if (!descend(x)) return GO_NOTHING;
    for (uint32_t i = 0; i < pipe->kids.n && !x->failed; i++) {
        last.value = eval_command(x, dot, pipe->kids.at[i], last);
        last.value.any = false;
        last.given = true;
    }
    x->depth--;
    for (uint32_t i = 0; i < pipe->names.n && !x->failed; i++) {
        if (pipe->assigns)
            assign(x, pipe->names.at[i], last.value);
        else
            push(x, pipe->names.at[i], last.value);
    }
    return x->failed ? GO_NOTHING : last.value;
}

/* ---- calls ----------------------------------------------------------------------------------------------- */

static const char *param_name(go_param p) {
    return p == GO_PARAM_VALUE ? "reflect.Value" : p == GO_PARAM_ANY ? "interface {}" : "string";
}

/* v as an argument of this type. */
static go_value checked(go_exec *x, go_value v, go_param want) {
    if (x->failed) return GO_NOTHING;
    if (want == GO_PARAM_ANY) v.any = false;
    if (want != GO_PARAM_STRING) return v;
    if (!v.type && !v.any) {
        go_fail(x, "invalid value; expected string");
    } else if (!v.type || v.type->kind != GO_STRING) {
        go_fail(x, "wrong type for value; expected string; got %s", v.type ? v.type->name : "interface {}");
    }
    v.any = false;
    return v;
}

static go_value literal(go_exec *x, go_param want, const go_node *n) {
    x->node = n;
    if (want != GO_PARAM_STRING)
        return n->kind == NODE_BOOL     ? go_of_bool(n->truth)
               : n->kind == NODE_NUMBER ? constant(x, n)
                                        : go_of_str(n->text);
    if (n->kind == NODE_STRING) return go_of_str(n->text);
    lm_buf b;
    lm_buf_init(&b, GO_MAX_SOURCE);
    go_write_node(&b, n);
    go_fail(x, "expected string; found %.200s", b.ptr);
    lm_buf_release(&b);
    return GO_NOTHING;
}

static go_value eval_arg(go_exec *x, go_value dot, go_param want, const go_node *n) {
    if (!step(x)) return GO_NOTHING;
    x->node = n;
    switch (n->kind) {
    case NODE_DOT: return checked(x, dot, want);
    case NODE_NIL:
        if (want == GO_PARAM_STRING) go_fail(x, "cannot assign nil to %s", param_name(want));
        return GO_NOTHING;
    case NODE_FIELD: return checked(x, eval_fields(x, dot, &n->names, 0, NULL, none), want);
    case NODE_VARIABLE: return checked(x, eval_variable(x, n, NULL, none), want);
    case NODE_PIPE: return checked(x, eval_pipe(x, dot, n), want);
    case NODE_IDENTIFIER: return checked(x, eval_function(x, dot, n, n, NULL, none), want);
    case NODE_CHAIN: return checked(x, eval_chain(x, dot, n, NULL, none), want);
    default: return literal(x, want, n);
    }
}

/* The first that decides, or the last one. */
static go_value eval_and_or(go_exec *x, go_value dot, bool or, const go_nodes *args, uint32_t n, final last) {
    go_value v = GO_NOTHING;
    for (uint32_t i = 0; i < n && !x->failed; i++) {
        v = eval_arg(x, dot, GO_PARAM_VALUE, args->at[i + 1]);
        if (go_is_true(v) == or) return v;
    }
    return last.given ? last.value : v;
}

static go_value eval_call(go_exec *x, go_value dot, const go_function *f, const go_node *node, lm_str name,
                          const go_nodes *args, final last) {
    uint32_t n = args && args->n ? args->n - 1 : 0, all = n + last.given;
    go_value few[FEW_ARGS], *argv = few;
    if (f->variadic && all < f->n_fixed)
        go_fail(x, "wrong number of args for " LM_STR_FMT ": want at least %u got %u", LM_STR_ARG(name),
                f->n_fixed, n);
    else if (!f->variadic && all != f->n_fixed)
        go_fail(x, "wrong number of args for " LM_STR_FMT ": want %u got %u", LM_STR_ARG(name), f->n_fixed,
                all);
    else if (all > MAX_ARGS)
        go_fail(x, "more than %d args for " LM_STR_FMT, MAX_ARGS, LM_STR_ARG(name));
    if (x->failed) return GO_NOTHING;
    if (all > FEW_ARGS) argv = go_make(x->arena, all, sizeof *argv);
    if (!argv) return GO_NOTHING; /* the next step tells */
    if (!f->run) return eval_and_or(x, dot, name.ptr[0] == 'o', args, n, last);
    for (uint32_t i = 0; i < n && !x->failed; i++)
        argv[i] = eval_arg(x, dot, i < f->n_fixed ? f->first : f->rest, args->at[i + 1]);
    if (last.given) argv[n] = checked(x, last.value, n < f->n_fixed ? f->first : f->rest);
    if (x->failed) return GO_NOTHING;
    x->call_error[0] = '\0';
    x->callee = n ? args->at[1] : NULL;
    go_value v = f->run(x, argv, all);
    if (!x->call_error[0]) return v;
    x->node = node;
    go_fail(x, "error calling " LM_STR_FMT ": %s", LM_STR_ARG(name), x->call_error);
    return GO_NOTHING;
}

/* ---- statements ------------------------------------------------------------------------------------------ */

static void walk(go_exec *x, go_value dot, const go_node *n);

static void walk_list(go_exec *x, go_value dot, const go_node *list) {
    if (!list || !step(x)) return;
    x->node = list;
    for (uint32_t i = 0; i < list->kids.n && !x->failed && x->signal == GO_ON; i++)
        walk(x, dot, list->kids.at[i]);
}

static void walk_branch(go_exec *x, go_value dot, const go_node *n) {
    uint32_t mark = x->n_vars;
    go_value v = eval_pipe(x, dot, n->pipe);
    if (x->failed) return;
    if (go_is_true(v))
        walk_list(x, n->kind == NODE_WITH ? v : dot, n->list);
    else
        walk_list(x, dot, n->other);
    x->n_vars = mark;
}

/* False: the loop is over. */
static bool iterate(go_exec *x, const go_node *n, go_value index, go_value element) {
    const go_names *names = &n->pipe->names;
    uint32_t mark = x->n_vars;
    if (!step(x)) return false;
    if (names->n && n->pipe->assigns) {
        if (names->n > 1) assign(x, names->at[0], index);
        assign(x, names->at[names->n - 1], element);
    } else if (names->n && x->n_vars >= names->n) {
        x->vars[x->n_vars - 1].value = element;
        if (names->n > 1) x->vars[x->n_vars - 2].value = index;
    }
    if (x->failed) return false;
    walk_list(x, element, n->list);
    x->n_vars = mark;
    bool more = !x->failed && x->signal != GO_BREAK_LOOP;
    x->signal = GO_ON;
    return more;
}

static void fail_range(go_exec *x, go_value v, const char *before, const char *behind) {
    lm_buf b;
    lm_buf_init(&b, 1 << 20);
    go_print_value(&b, v);
    go_fail(x, "%s%.300s%s", before, b.ptr ? b.ptr : "", behind);
    lm_buf_release(&b);
}

/* How often the body ran; -1: it cannot be ranged over. */
static int64_t range_over(go_exec *x, const go_node *n, go_value v) {
    int64_t i = 0;
    if (!v.type) return 0;
    switch (v.type->kind) {
    case GO_INT:
    case GO_UINT: {
        int64_t to = v.type->kind == GO_INT ? v.i : (int64_t)v.u;
        if (n->pipe->names.n > 1) {
            fail_range(x, v, "can't use ", " to iterate over more than one variable");
            return 1;
        }
        go_value at = {.type = v.type};
        for (; i < to; i++) {
            at.i = i; /* the same bytes as .u */
            if (!iterate(x, n, GO_NOTHING, at)) return 1;
        }
        return i;
    }
    case GO_SLICE:
        for (size_t k = 0; k < go_length(v); k++)
            if (!iterate(x, n, go_of_int((int64_t)k), go_element(v.type, v.list->at[k]))) return 1;
        return (int64_t)go_length(v);
    case GO_MAP:
        if (v.type->ordered) return -1;
        for (size_t k = 0; v.map && k < v.map->n; k++)
            if (!iterate(x, n, go_of_str(v.map->at[k].key), go_element(v.type, v.map->at[k].value))) return 1;
        return (int64_t)go_length(v);
    default: return -1;
    }
}

static void walk_range(go_exec *x, go_value dot, const go_node *n) {
    uint32_t mark = x->n_vars;
    go_value v = go_point(eval_pipe(x, dot, n->pipe));
    if (x->failed) return;
    int64_t runs = range_over(x, n, v);
    if (runs < 0) fail_range(x, v, "range can't iterate over ", "");
    if (runs == 0) walk_list(x, dot, n->other);
    x->n_vars = mark;
}

static void walk_template(go_exec *x, go_value dot, const go_node *n) {
    const go_tree *t = x->bare ? NULL : x->trees, *caller = x->tree;
    while (t && !lm_str_eq(t->name, n->text)) t = t->next;
    if (!t && !(x->bare && !n->text.len)) {
        lm_buf b;
        lm_buf_init(&b, 1 << 20);
        go_quote(&b, n->text, 100, false);
        go_fail(x, "template %s not defined", b.ptr);
        lm_buf_release(&b);
        return;
    }
    go_value v = eval_pipe(x, dot, n->pipe);
    uint32_t base = x->base, mark = x->n_vars;
    if (x->failed) return;
    x->tree = t;
    x->base = x->n_vars;
    push(x, LM_STR("$"), v);
    walk_list(x, v, t ? t->root : NULL);
    x->tree = caller;
    x->base = base;
    x->n_vars = mark;
}

static void walk(go_exec *x, go_value dot, const go_node *n) {
    if (!step(x)) return;
    x->node = n;
    if (!descend(x)) return;
    switch (n->kind) {
    case NODE_TEXT: lm_buf_str(x->out, n->text); break;
    case NODE_ACTION: {
        go_value v = eval_pipe(x, dot, n->pipe);
        if (x->failed || n->pipe->names.n) break;
        if (v.type)
            go_print_value(x->out, v);
        else
            lm_buf_text(x->out, "<no value>");
        break;
    }
    case NODE_IF:
    case NODE_WITH: walk_branch(x, dot, n); break;
    case NODE_RANGE: walk_range(x, dot, n); break;
    case NODE_TEMPLATE: walk_template(x, dot, n); break;
    case NODE_LIST: walk_list(x, dot, n); break;
    case NODE_BREAK: x->signal = GO_BREAK_LOOP; break;
    case NODE_CONTINUE: x->signal = GO_CONTINUE_LOOP; break;
    default: break;
    }
    x->depth--;
}

lm_status go_execute(const go_tree *trees, const go_node *root, lm_str source, bool bare, go_arena *a,
                     go_value data, uint32_t *steps, lm_buf *out, lm_err *err) {
    go_exec x = {
        .trees = trees, .source = source, .bare = bare, .arena = a, .out = out, .steps = steps, .err = err};
    push(&x, LM_STR("$"), data);
    walk_list(&x, data, root);
    step(&x); /* what the last node has overflown */
    return x.failed ? x.st : LM_OK;
}
