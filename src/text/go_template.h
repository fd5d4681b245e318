/* go_template.h - the parts of the Go templates: private to go_*.c.
 *
 *     go_lex.c     source to items          go_parse.c   items to trees
 *     go_nodes.c   memory, nodes as text
 *     go_value.c   JSON to Go's values      go_print.c   values as fmt and encoding/json write them
 *     go_exec.c    trees over values        go_funcs.c   the functions there are
 *     go_template.c   what Ollama makes of it all: Values, legacy templates, what a template can do
 *
 * The reference is Go's text/template and fmt, and package template of Ollama, whose texts and orders are
 * kept: tests/gotmpl compares with both. Not there: complex numbers, %#v of anything but plain values, and
 * identifiers are any text outside ASCII that is no punctuation.
 *
 * Memory: a tree lives in its template's arena, everything that an execution makes in the execution's;
 * nothing is freed before its arena is. What a source or a request could make large is bounded by the arenas'
 * caps, by GO_MAX_DEPTH and by GO_MAX_STEPS.
 */
#ifndef LM_TEXT_GO_TEMPLATE_H
#define LM_TEXT_GO_TEMPLATE_H

#include <jansson.h>

#include "text/text.h"

#define GO_MAX_SOURCE ((size_t)1 << 20)
#define GO_MAX_TREES  ((size_t)64 << 20)  /* bytes of an arena with trees */
#define GO_MAX_MADE   ((size_t)256 << 20) /* bytes that an execution may make, its data included */
#define GO_MAX_DEPTH  200      /* of blocks and parentheses in a source, of calls in an execution */
#define GO_MAX_STEPS  5000000u /* nodes that an execution may visit; long texts count for more */

/* ---- memory */

typedef struct go_arena {
    struct go_chunk *chunks;
    size_t used, cap;
    bool failed; /* over the cap, or the machine is out of memory: from then on only a spare place is given */
} go_arena;
void go_arena_init(go_arena *a, size_t cap);
void go_arena_release(go_arena *a);
/* Zeroed. NULL when it has failed. */
void *go_make(go_arena *a, size_t count, size_t size);
lm_str go_keep(go_arena *a, lm_str s); /* a copy */

/* ---- items */

typedef enum go_item_kind {
    ITEM_ERROR,
    ITEM_EOF,
    ITEM_TEXT,
    ITEM_LEFT, /* {{ */
    ITEM_RIGHT,
    ITEM_SPACE,
    ITEM_ASSIGN,
    ITEM_DECLARE,
    ITEM_PIPE,
    ITEM_OPEN,
    ITEM_CLOSE,
    ITEM_CHAR, /* punctuation that is nothing else */
    ITEM_CHAR_CONSTANT,
    ITEM_NUMBER,
    ITEM_STRING,
    ITEM_RAW_STRING,
    ITEM_BOOL,
    ITEM_FIELD,
    ITEM_VARIABLE,
    ITEM_IDENTIFIER,
    ITEM_KEYWORD, /* from here on: words of the language */
    ITEM_DOT,
    ITEM_BLOCK,
    ITEM_BREAK,
    ITEM_CONTINUE,
    ITEM_DEFINE,
    ITEM_ELSE,
    ITEM_END,
    ITEM_IF,
    ITEM_NIL,
    ITEM_RANGE,
    ITEM_TEMPLATE,
    ITEM_WITH,
} go_item_kind;

typedef struct go_item {
    go_item_kind kind;
    lm_str text; /* of the source; of an error the error's */
    uint32_t pos, line;
} go_item;

typedef struct go_lexer {
    lm_str source;
    size_t pos, start;
    uint32_t line, start_line, parens;
    bool in_action, broken;
    char error[160];
} go_lexer;
void go_lex_init(go_lexer *l, lm_str source);
go_item go_lex_next(go_lexer *l); /* ITEM_EOF for ever behind the end and behind an error */

/* ---- characters */

/* The character that s begins with, U+FFFD for what is none; *n its bytes (0 at the end). */
uint32_t go_rune(lm_str s, size_t *n);
bool go_is_letter(uint32_t rune); /* or digit, or _ */
bool go_is_print(uint32_t rune);
void go_put_rune(lm_buf *b, uint32_t rune);
/* As strconv.Quote, of at most `most` characters. ascii: those outside ASCII are escaped, too. */
void go_quote(lm_buf *b, lm_str s, size_t most, bool ascii);
void go_quote_rune(lm_buf *b, uint32_t rune, bool ascii);

/* ---- trees */

typedef enum go_node_kind {
    NODE_TEXT,
    NODE_ACTION,
    NODE_LIST,
    NODE_IF,
    NODE_RANGE,
    NODE_WITH,
    NODE_TEMPLATE,
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_ELSE,
    NODE_END,
    NODE_PIPE,
    NODE_COMMAND,
    NODE_IDENTIFIER,
    NODE_FIELD,
    NODE_VARIABLE,
    NODE_CHAIN,
    NODE_DOT,
    NODE_NIL,
    NODE_BOOL,
    NODE_NUMBER,
    NODE_STRING,
} go_node_kind;

typedef struct go_node go_node;
typedef struct go_nodes {
    go_node **at;
    uint32_t n, room;
} go_nodes;
typedef struct go_names {
    lm_str *at;
    uint32_t n, room;
} go_names;

struct go_node {
    go_node_kind kind;
    uint32_t pos; /* byte of the source */
    lm_str
        text; /* TEXT, IDENTIFIER, the name of a TEMPLATE, the value of a STRING; NUMBER as it is written */
    lm_str quoted; /* STRING as it is written */
    go_node *pipe; /* ACTION, IF, RANGE, WITH; TEMPLATE: may be NULL */
    go_node *list,
        *other;     /* IF, RANGE, WITH: LISTs, other may be NULL. CHAIN: list is what the fields are of */
    go_nodes kids;  /* LIST: nodes; PIPE: COMMANDs; COMMAND: arguments, the function first */
    go_names names; /* FIELD, VARIABLE, CHAIN: the fields; a VARIABLE's name first. PIPE: what it declares */
    bool assigns;   /* PIPE: = and not := */
    bool truth;     /* BOOL */
    bool is_int, is_uint, is_float; /* NUMBER: what it can be */
    int64_t i;
    uint64_t u;
    double f;
};

typedef struct go_tree {
    lm_str name; /* "" for what stands outside of any definition */
    go_node *root;
    struct go_tree *next;
} go_tree;

void go_add_node(go_arena *a, go_nodes *to, go_node *n);
void go_add_name(go_arena *a, go_names *to, lm_str name);
/* All trees of a source, the one called "" among them. LM_INVALID with Go's text. */
lm_status go_parse(go_arena *a, lm_str source, go_tree **out, lm_err *err) LM_CHECKED;
void go_write_node(lm_buf *b, const go_node *n); /* as it is shown in errors */
bool go_has_function(lm_str name);

/* ---- values */

typedef enum go_kind {
    GO_BOOL,
    GO_INT,
    GO_UINT,
    GO_FLOAT,
    GO_STRING,
    GO_SLICE,
    GO_MAP,
    GO_STRUCT,
    GO_POINTER,
} go_kind;

typedef struct go_type go_type;
typedef struct go_field {
    const char *name;
    const go_type *type; /* NULL: interface {} */
    const char *from;    /* its key in the JSON that comes in */
    const char *to;      /* its key in the JSON that goes out */
    bool omit_empty;
} go_field;
typedef enum go_string { GO_NO_STRING, GO_STRING_JSON, GO_STRING_TYPES } go_string;
struct go_type {
    go_kind kind;
    const char *name;
    const go_type *elem; /* of a slice, a map or a pointer; NULL: interface {} */
    const go_field *fields;
    uint32_t n_fields;
    go_string string; /* how its method String works */
    bool ordered;     /* a map that keeps the order of its keys */
};

typedef struct go_list go_list;
typedef struct go_map go_map;
/* type NULL: nothing at all, or the nil of an interface. */
typedef struct go_value {
    const go_type *type;
    bool any; /* its static type is interface {} */
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double f;
        lm_str s;
        const go_list *list;       /* NULL: nil */
        const go_map *map;         /* NULL: nil */
        const struct go_value *at; /* STRUCT: its fields; POINTER: those of what it points to, NULL: nil */
    };
} go_value;
struct go_list {
    size_t n, cap; /* cap: how far a slice of it may reach */
    const go_value *at;
};
typedef struct go_entry {
    lm_str key;
    go_value value;
} go_entry;
struct go_map {
    size_t n;
    const go_entry *at; /* by key, unless the type is ordered */
};

extern const go_type go_type_bool, go_type_int, go_type_byte, go_type_float, go_type_string, go_type_any_map,
    go_type_messages, go_type_tools, go_type_property, go_type_property_map, go_type_property_plain;

#define GO_NOTHING ((go_value){0})
go_value go_of_bool(bool b);
go_value go_of_int(int64_t i);
go_value go_of_str(lm_str s);
/* What Go would have read from json into a variable of this type (NULL: interface {}). */
go_value go_from_json(go_arena *a, const json_t *json, const go_type *type);
go_value go_zero(const go_type *type);
go_value go_element(const go_type *type, go_value v); /* v as an element of a slice or map of that type */
bool go_is_true(go_value v);
size_t go_length(go_value v);         /* of a STRING, SLICE or MAP */
const char *go_type_name(go_value v); /* static */
int go_compare(lm_str a, lm_str b);   /* as memcmp does, the shorter one first */
void go_sort_entries(go_entry *at, size_t n);
/* NULL: no such key. */
const go_value *go_map_get(const go_map *m, lm_str key);
/* fields of a STRUCT or a POINTER to one; -1: no such field */
int go_field_of(const go_type *type, lm_str name);
go_value go_point(go_value v); /* what a pointer points to; other values as they are */

/* ---- text of values */

void go_print_value(lm_buf *b, go_value v); /* as an action does: %v */
void go_sprint(lm_buf *b, const go_value *args, size_t n, bool line);
/* False: a form that is not supported, named in what. */
bool go_sprintf(lm_buf *b, lm_str format, const go_value *args, size_t n, char what[64]);
void go_write_json(lm_buf *b, go_value v);
void go_write_types(lm_buf *b, go_value v); /* a PropertyType as text */
void go_write_typescript(lm_buf *b, go_value v);

/* ---- execution */

typedef struct go_exec go_exec;

/* Runs the tree called "" over data. bare: as a template of its own that has no other trees, none of Ollama's
 * functions and the default for missing keys, as Ollama runs the last round of a legacy template. LM_INVALID
 * with Go's text. */
lm_status go_execute(const go_tree *trees, const go_node *root, lm_str source, bool bare, go_arena *a,
                     go_value data, uint32_t *steps, lm_buf *out, lm_err *err) LM_CHECKED;

struct go_exec {
    const go_tree *trees, *tree; /* tree: the one that runs, NULL for the main one */
    lm_str source;
    bool bare;
    go_arena *arena;
    lm_buf *out;
    const go_node *node; /* for errors */
    struct {
        lm_str name;
        go_value value;
    } * vars;
    uint32_t n_vars, room_vars, base; /* base: the first that the running tree sees */
    uint32_t depth;
    uint32_t *steps;
    enum { GO_ON, GO_BREAK_LOOP, GO_CONTINUE_LOOP } signal;
    bool failed;
    lm_err *err;
    lm_status st;
    const go_node *callee; /* the first argument of the call that runs; NULL: it came from the pipeline */
    char call_error[400];  /* set by a function that fails */
};
void go_fail(go_exec *x, const char *format, ...) LM_PRINTF(2, 3);
/* For functions: why it failed; returns GO_NOTHING. */
go_value go_call_fail(go_exec *x, const char *format, ...) LM_PRINTF(2, 3);
void go_spend(go_exec *x, size_t bytes); /* charges for work on long texts */
lm_str go_made(go_exec *x, lm_buf *b);   /* moves the text into the arena, releases b */

/* ---- functions */

typedef enum go_param { GO_PARAM_VALUE, GO_PARAM_ANY, GO_PARAM_STRING } go_param;
typedef struct go_function {
    const char *name;
    go_value (*run)(go_exec *x, const go_value *args, size_t n); /* NULL: and, or */
    uint32_t n_fixed;
    bool variadic, own; /* own: Ollama's */
    go_param first, rest;
} go_function;
const go_function *go_find_function(lm_str name);

#endif
