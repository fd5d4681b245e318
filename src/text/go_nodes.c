/* What trees are made of: memory that goes all at once, lists of nodes, and a node as the text it came from,
 * for errors. */
#include <stdlib.h>
#include <string.h>

#include "text/go_template.h"

/* ---- memory ---------------------------------------------------------------------------------------------- */

struct go_chunk {
    struct go_chunk *next;
    size_t room, used;
    _Alignas(16) unsigned char bytes[];
};

#define CHUNK ((size_t)64 << 10)

void go_arena_init(go_arena *a, size_t cap) {
    *a = (go_arena){.cap = cap};
}

void go_arena_release(go_arena *a) {
    for (struct go_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *a = (go_arena){0};
}

void *go_make(go_arena *a, size_t count, size_t size) {
    if (a->failed || (size && count > a->cap / size)) return a->failed = true, NULL;
    size_t n = (count * size + 15) & ~(size_t)15;
    struct go_chunk *c = a->chunks;
    if (!c || c->room - c->used < n) {
        size_t room = n > CHUNK / 4 ? n : CHUNK;
        if (room > a->cap - a->used) room = n;
        c = room <= a->cap - a->used ? lm_try_alloc(1, sizeof *c + room) : NULL;
        if (!c) return a->failed = true, NULL;
        c->room = room;
        a->used += room;
        c->next = a->chunks;
        a->chunks = c;
    }
    void *at = c->bytes + c->used;
    c->used += n;
    return at;
}

lm_str go_keep(go_arena *a, lm_str s) {
    char *copy = go_make(a, s.len + 1, 1);
    if (!copy) return (lm_str){0};
    if (s.len) memcpy(copy, s.ptr, s.len);
    return (lm_str){copy, s.len};
}

/* A list with room for one more; false when there is no memory. */
static bool grow(go_arena *a, void **at, uint32_t n, uint32_t *room, size_t size) {
    if (n < *room) return true;
    uint32_t more = *room ? *room * 2 : 2;
    void *bigger = go_make(a, more, size);
    if (!bigger) return false;
    if (n) memcpy(bigger, *at, n * size);
    *at = bigger;
    *room = more;
    return true;
}

void go_add_node(go_arena *a, go_nodes *to, go_node *n) {
    void *at = to->at;
    if (!n || !grow(a, &at, to->n, &to->room, sizeof *to->at)) return;
    to->at = at;
    to->at[to->n++] = n;
}

void go_add_name(go_arena *a, go_names *to, lm_str name) {
    void *at = to->at;
    if (!grow(a, &at, to->n, &to->room, sizeof *to->at)) return;
    to->at = at;
    to->at[to->n++] = name;
}

/* ---- nodes as text --------------------------------------------------------------------------------------- */

static void write_names(lm_buf *b, const go_names *names, bool dot_first) {
    for (uint32_t i = 0; i < names->n; i++) {
        if (i || dot_first) lm_buf_char(b, '.');
        lm_buf_str(b, names->at[i]);
    }
}

static void write_pipe(lm_buf *b, const go_node *n) {
    for (uint32_t i = 0; i < n->names.n; i++)
        lm_buf_printf(b, "%s" LM_STR_FMT, i ? ", " : "", LM_STR_ARG(n->names.at[i]));
    if (n->names.n) lm_buf_text(b, n->assigns ? " = " : " := ");
    for (uint32_t i = 0; i < n->kids.n; i++) {
        if (i) lm_buf_text(b, " | ");
        go_write_node(b, n->kids.at[i]);
    }
}

static void write_branch(lm_buf *b, const go_node *n) {
    const char *name = n->kind == NODE_IF ? "if" : n->kind == NODE_RANGE ? "range" : "with";
    lm_buf_printf(b, "{{%s ", name);
    write_pipe(b, n->pipe);
    lm_buf_text(b, "}}");
    go_write_node(b, n->list);
    if (n->other) {
        lm_buf_text(b, "{{else}}");
        go_write_node(b, n->other);
    }
    lm_buf_text(b, "{{end}}");
}

static void write_operand(lm_buf *b, const go_node *n) {
    if (n->kind == NODE_PIPE) lm_buf_char(b, '(');
    go_write_node(b, n);
    if (n->kind == NODE_PIPE) lm_buf_char(b, ')');
}

void go_write_node(lm_buf *b, const go_node *n) {
    switch (n->kind) {
    case NODE_TEXT:
    case NODE_IDENTIFIER:
    case NODE_NUMBER: lm_buf_str(b, n->text); break;
    case NODE_STRING: lm_buf_str(b, n->quoted); break;
    case NODE_BOOL: lm_buf_text(b, n->truth ? "true" : "false"); break;
    case NODE_DOT: lm_buf_char(b, '.'); break;
    case NODE_NIL: lm_buf_text(b, "nil"); break;
    case NODE_FIELD: write_names(b, &n->names, true); break;
    case NODE_VARIABLE: write_names(b, &n->names, false); break;
    case NODE_CHAIN:
        write_operand(b, n->list);
        write_names(b, &n->names, true);
        break;
    case NODE_PIPE: write_pipe(b, n); break;
    case NODE_COMMAND:
        for (uint32_t i = 0; i < n->kids.n; i++) {
            if (i) lm_buf_char(b, ' ');
            write_operand(b, n->kids.at[i]);
        }
        break;
    case NODE_ACTION:
        lm_buf_text(b, "{{");
        write_pipe(b, n->pipe);
        lm_buf_text(b, "}}");
        break;
    case NODE_TEMPLATE:
        lm_buf_text(b, "{{template ");
        go_quote(b, n->text, SIZE_MAX, false);
        if (n->pipe) lm_buf_char(b, ' ');
        if (n->pipe) write_pipe(b, n->pipe);
        lm_buf_text(b, "}}");
        break;
    case NODE_IF:
    case NODE_RANGE:
    case NODE_WITH: write_branch(b, n); break;
    case NODE_LIST:
        for (uint32_t i = 0; i < n->kids.n; i++) go_write_node(b, n->kids.at[i]);
        break;
    case NODE_BREAK: lm_buf_text(b, "{{break}}"); break;
    case NODE_CONTINUE: lm_buf_text(b, "{{continue}}"); break;
    case NODE_ELSE: lm_buf_text(b, "{{else}}"); break;
    case NODE_END: lm_buf_text(b, "{{end}}"); break;
    }
}
