/* parser.h - the parts of the parser: private to parser*.c.
 *
 *     parser.c          what is held, and the modes that an answer goes through
 *     parser_forms.c    the forms in which families write their calls, and which of them a model has
 *     parser_tools.c    the body of a call, from text to name and arguments: JSON, and JSON behind a name
 *     parser_xml.c      bodies that are tags, whose values have the types of the tool's schema
 *     parser_python.c   bodies that are Python calls
 *     parser_harmony.c  gpt-oss's channels
 */
#ifndef LM_TEXT_PARSER_H
#define LM_TEXT_PARSER_H

#include "text/private.h"

#define PARSER_MAX_FORMS 16
/* A call that is longer than this is no call: it is shown as text. */
#define PARSER_MAX_CALL ((size_t)4 << 20)
/* Before the arguments of a named call. */
#define PARSER_MAX_NAME 512

/* What may stand between the tags of a call. */
enum {
    BODY_JSON = 1,    /* {"name": f, "arguments": {...}}, or a list of them; ends where the JSON ends */
    BODY_NAMED = 2,   /* f SEPARATOR {...}; ends where the JSON ends */
    BODY_XML = 4,     /* <function=f><parameter=x>1</parameter></function> */
    BODY_PAIRS = 8,   /* f<arg_key>x</arg_key><arg_value>1</arg_value> */
    BODY_PYTHON = 16, /* [f(x=1)] or print(f(x=1)) */
    BODY_FENCE = 32,  /* ```json may stand before the JSON */
    BODY_WRAPS = 64,  /* no call: stands around calls, and goes with them */
    BODY_DROPS = 128, /* no call: stands around text, and is never shown */
};

typedef struct parser_form {
    const char *open;
    const char *close;     /* "": none; optional behind JSON */
    uint32_t body;         /* BODY_* */
    const char *separator; /* BODY_NAMED */
    const char *sign;      /* what a template or vocabulary that has the form holds; NULL: open */
    uint32_t keep;         /* the last bytes of open that belong to the body */
    const char *families;  /* names for the override, separated by blanks */
    const char *tail;      /* what may be left over behind the call, NULL: nothing */
} parser_form;

typedef struct parser_tag {
    const char *open, *close;
} parser_tag;

typedef enum parser_mode {
    MODE_START,    /* nothing but white space yet: a thinking block or a bare JSON call may begin */
    MODE_THINKING, /* inside the block */
    MODE_SETTLE,   /* behind a block or a call: white space is dropped */
    MODE_JSON,     /* JSON at the beginning that looks like a call */
    MODE_CONTENT,  /* text, in which a call may begin */
    MODE_CALL,     /* between a call's tags */
    MODE_CHANNEL,  /* harmony: between <|start|> or <|channel|> and <|message|> */
    MODE_MESSAGE,  /* harmony: the body of a message */
} parser_mode;

struct lm_parser {
    parser_mode mode;
    bool parse_thinking;
    bool harmony;
    bool fresh;      /* thinking: nothing given yet, so white space is dropped */
    bool start_seen; /* MODE_SETTLE leads to MODE_CONTENT and not to MODE_START any more */
    bool after_json; /* MODE_SETTLE behind a call in JSON: ``` and the closing tag may follow, or another */
    bool tail;       /* ... behind one that may leave something over */
    bool semicolon;  /* ... and a semicolon, which Llama puts between calls */
    bool bare;       /* the model's own form of calls is JSON without tags */
    json_t *tools;   /* NULL: calls are not looked for */
    parser_tag think;
    const parser_form *forms[PARSER_MAX_FORMS];
    uint32_t n_forms;
    const parser_form *form; /* MODE_CALL: whose body is being collected; MODE_SETTLE: of the call before */
    size_t skip;             /* MODE_CALL: bytes of held before the body */
    const char *wrap;        /* the opening of a BODY_WRAPS that has been taken out; NULL: none */
    bool in_wrap;            /* a call has been given since: its closing goes, too */
    lm_part part;            /* MODE_MESSAGE: what the body is */
    char recipient[256];     /* MODE_MESSAGE with LM_PART_TOOL_CALL: the function */
    lm_buf held;             /* what has not been given yet */
    lm_buf made;             /* arguments of a call, written out */
    lm_parser_sink *sink;    /* of the push or finish that runs */
    void *ctx;
};

void parser_give(lm_parser *p, lm_part part, const char *text, size_t len); /* nothing for len 0 */
void parser_drop(lm_parser *p, size_t n);                                   /* the first n bytes of held */
size_t parser_blanks(const char *text, size_t len);                         /* white space at the beginning */
size_t parser_trimmed(const char *text, size_t len); /* length without white space at the end */
/* Bytes at the end of text that are a beginning of word, short of all of it. */
size_t parser_partial(const char *text, size_t len, const char *word);
/* True when text begins with word; *more when it is shorter and may still become it. */
bool parser_begins(lm_str text, const char *word, bool *more);
/* Cuts text at the first word: *before gets what stands before it, text what follows. False: it is not there.
 */
bool parser_cut(lm_str *text, const char *word, lm_str *before);

/* ---- parser_forms.c */
void parser_choose_forms(lm_parser *p, const lm_text *t);

/* ---- parser_tools.c */
/* Bytes of the call of p->form that text begins with: 0 more is needed, -1 it is none. */
int64_t parser_call_length(const lm_parser *p, lm_str text, bool last);
/* The same for JSON without tags. */
int64_t parser_json_call(lm_str text);
bool parser_json_begun(lm_str text); /* ... and the first key is there */
/* Gives the calls that body holds, of form (NULL: JSON). False, with nothing given, when it holds something
 * else or calls tools that there are not. */
bool parser_give_calls(lm_parser *p, const parser_form *form, lm_str body);
/* The call NAME with these arguments, an object as text. */
bool parser_give_call(lm_parser *p, lm_str name, lm_str arguments);
/* The function of this name, an object with name and parameters; NULL: there is none. Prefixes that models
 * put before names are looked through. */
const json_t *parser_tool(const lm_parser *p, lm_str name);
json_t *parser_json(lm_str text); /* a JSON text; numbers of any size. NULL: it is none */
/* Adds a call to list and takes arguments over. False: there is no such tool. */
bool parser_add_call(const lm_parser *p, json_t *list, lm_str name, json_t *arguments);

/* ---- parser_xml.c, parser_python.c: add the calls of body to list. False: it is something else. */
bool parser_read_xml(const lm_parser *p, lm_str body, json_t *list);
bool parser_read_pairs(const lm_parser *p, lm_str body, json_t *list);
#define PARSER_TEXT 1u /* in parser_types */
/* What a schema allows, one bit a type, all when it does not say; and what its "#/$defs/x" stands for within
 * root, NULL: nothing. */
uint32_t parser_types(const json_t *root, const json_t *schema);
const json_t *parser_referred(const json_t *root, const char *ref);
bool parser_read_python(const lm_parser *p, lm_str body, json_t *list);

/* parser_harmony.c: one step; false when more text is needed. */
bool parser_step_harmony(lm_parser *p, bool last);

#endif
