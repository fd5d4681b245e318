/* private.h - what the files of text/ know of each other and nobody else does. */
#ifndef LM_TEXT_PRIVATE_H
#define LM_TEXT_PRIVATE_H

#include <jansson.h>

#include "text/rust.h"
#include "text/text.h"

/* Bytes of the longest token: what one push can add to a stream at most. */
uint32_t lm_tokenizer_longest(const lm_tokenizer *t);
const lmr_tok *lm_tokenizer_rust(const lm_tokenizer *t);
bool lm_tokenizer_is_added(const lm_tokenizer *t, int32_t id); /* listed under added_tokens */

/* The id of a token that stands for itself in the text: special, or at least added. -1: none. */
int32_t lm_text_marker(const lm_text *t, const char *token);
lm_status lm_text_write_context(const json_t *context, lm_buf *out, lm_err *err); /* for lm_template_render */
/* Whether the chat template's source holds these words. */
bool lm_text_template_says(const lm_text *t, const char *words);

/* An array, or nothing for an empty text. LM_INVALID, naming what it is. */
lm_status lm_text_parse_array(lm_str text, const char *what, json_t **out, lm_err *err) LM_CHECKED;
/* A template over any data, for comparisons with Go. */
lm_status lm_go_template_run(const lm_go_template *t, const json_t *data, lm_buf *out, lm_err *err) LM_CHECKED;

/* "OPEN|CLOSE|NAME,NAME": the tags of thinking, and all names that it reads, in order. */
void lm_go_template_describe(const lm_go_template *t, lm_buf *out);

lm_status lm_matcher_open_lark(lm_matcher **out, const lm_grammar_factory *f, lm_str grammar,
                               lm_err *err) LM_CHECKED; /* LM_INVALID */

/* ---- the rules, asked of an open tokenizer or of the list in its file (files.c) */

/* Whether the vocabulary has this token and it stands for itself. */
typedef bool lm_text_has(const void *ctx, const char *token);
lm_text_has lm_text_has_marker; /* ctx: an lm_text */
bool lm_text_can_insert(lm_text_has *has, const void *ctx);
bool parser_wraps_answers(lm_text_has *has, const void *ctx); /* lm_text.wraps */
bool lm_parser_is_family(const char *name);                   /* for the file `parser` */

typedef struct lm_text_abilities {
    bool tools, thinks, inserts, channels; /* as in lm_text */
} lm_text_abilities;
/* chat, go: NULL when the model has no such template; at most one is there */
lm_text_abilities lm_text_can(const lm_template *chat, const lm_go_template *go, lm_text_has *has, const void *ctx);

/* The files of a model directory but tokenizer.json, read. */
typedef struct lm_text_files {
    json_t *config, *map, *generation, *model; /* NULL: absent */
    lm_buf chat;                               /* source of the chat template */
    const char *chat_file;                     /* where it came from */
    bool has_chat;
    bool is_go;   /* it is a Modelfile's TEMPLATE */
    char *parser; /* the family in the file `parser`, NULL: absent */
} lm_text_files;
lm_status lm_text_files_read(lm_text_files *f, const char *dir, lm_err *err) LM_CHECKED; /* LM_CORRUPT */
void lm_text_files_release(lm_text_files *f); /* a zeroed one is allowed */
/* One of the outputs is written, none when there is no template. LM_CORRUPT. */
lm_status lm_text_files_compile(const lm_text_files *f, const char *dir, lm_template **chat, lm_go_template **go,
                                lm_err *err) LM_CHECKED;
const char *lm_text_files_token(const lm_text_files *f, const char *key); /* "bos_token"; "" when absent */
lm_text_sampling lm_text_files_sampling(const lm_text_files *f);

/* Told of everything that ends a generation, the same thing perhaps more than once. Ids and the eos token may
 * be none of the vocabulary's. */
typedef struct lm_text_ends {
    void *ctx;
    void (*id)(void *ctx, int64_t id);
    void (*token)(void *ctx, const char *token);
} lm_text_ends;
void lm_text_files_ends(const lm_text_files *f, lm_text_has *has, const void *ctx, const lm_text_ends *to);

/* schema.c: objects of a JSON Schema get no properties but those that they name, where that is safe. */
void lm_schema_close(json_t *schema);

#endif
