/* parser.h - the parts of the parser: private to parser*.c. */
#ifndef LM_TEXT_PARSER_H
#define LM_TEXT_PARSER_H

#include "text/private.h"

#define PARSER_MAX_TAGS 6
/* A call that is longer than this is no call: it is shown as text. */
#define PARSER_MAX_CALL ((size_t)4 << 20)

typedef struct parser_tag {
    const char *open;
    const char *close; /* "": the call goes on to the end of the answer */
} parser_tag;

typedef enum parser_mode {
    MODE_START,    /* nothing but white space yet: a thinking block or a bare JSON call may begin */
    MODE_THINKING, /* inside the block */
    MODE_SETTLE,   /* behind a block or a call: white space is dropped */
    MODE_JSON,     /* a JSON object at the beginning that looks like a call */
    MODE_CONTENT,  /* text, in which a call may begin */
    MODE_CALL,     /* between a call's tags */
    MODE_CHANNEL,  /* harmony: between <|start|> or <|channel|> and <|message|> */
    MODE_MESSAGE,  /* harmony: the body of a message */
} parser_mode;

struct lm_parser {
    parser_mode mode;
    bool parse_thinking;
    bool parse_tools;
    bool harmony;
    bool fresh;      /* thinking: nothing given yet, so white space is dropped */
    bool start_seen; /* MODE_SETTLE leads to MODE_CONTENT and not to MODE_START any more */
    bool bare_call;  /* MODE_SETTLE behind a bare JSON call: Llama puts a semicolon before the next */
    parser_tag think;
    parser_tag tags[PARSER_MAX_TAGS]; /* of tool calls */
    uint32_t n_tags;
    const parser_tag *call; /* MODE_CALL: whose body is being collected */
    lm_part part;           /* MODE_MESSAGE: what the body is */
    char recipient[256];    /* MODE_MESSAGE with LM_PART_TOOL_CALL: the function */
    lm_buf held;            /* what has not been given yet */
    lm_buf made;            /* arguments of a call, written out */
    lm_parser_sink *sink;   /* of the push or finish that runs */
    void *ctx;
};

void parser_give(lm_parser *p, lm_part part, const char *text, size_t len); /* nothing for len 0 */
void parser_drop(lm_parser *p, size_t n);                                   /* the first n bytes of held */
size_t parser_blanks(const char *text, size_t len);                         /* white space at the beginning */
size_t parser_trimmed(const char *text, size_t len); /* length without white space at the end */
/* Bytes at the end of text that are a beginning of word, short of all of it. */
size_t parser_partial(const char *text, size_t len, const char *word);

/* parser_tools.c: gives the calls that body holds. False, with nothing given, when it holds none. */
bool parser_give_calls(lm_parser *p, lm_str body);
/* The call NAME with these arguments, an object as text. */
bool parser_give_call(lm_parser *p, lm_str name, lm_str arguments);
/* How much of a bare JSON object is there: 0 more is needed, -1 it is no call, else its length. */
int64_t parser_json_call(lm_str text);
bool parser_in_string(const char *text, size_t len); /* the JSON text ends inside a string */

/* parser_harmony.c: one step; false when more text is needed. */
bool parser_step_harmony(lm_parser *p, bool last);

#endif
