/* text.h - everything between strings and token ids: tokenizer, chat template, grammar, and the way back from
 * a stream of tokens to text (incremental detokeniser, stop strings, thinking and tool-call parsers).
 *
 * Tokenizers, templates and grammars are a Rust static library (text/rust: tokenizers, minijinja, llguidance)
 * behind this header; no panic crosses it, its messages arrive in lm_err.
 *
 * Threads: a tokenizer, a template and a grammar factory are immutable once open and free to share. A stream,
 * a parser and a matcher belong to one sequence and one thread.
 */
#ifndef LM_TEXT_H
#define LM_TEXT_H

#include "base/base.h"

/* ---- tokenizer (tokenizer.json of Hugging Face) ----------------------------------------------------------- */

typedef struct lm_tokenizer lm_tokenizer;

/* Growing list of token ids. */
typedef struct lm_tokens {
    int32_t *ids;
    uint32_t n;
    uint32_t room;
} lm_tokens;
void lm_tokens_release(lm_tokens *t);
lm_status lm_tokens_add(lm_tokens *t, const int32_t *ids, uint32_t n,
                        lm_err *err) LM_CHECKED; /* LM_NO_MEMORY */

/* Opens DIR/tokenizer.json. LM_NOT_FOUND, LM_CORRUPT. */
lm_status lm_tokenizer_open(lm_tokenizer **out, const char *dir, lm_err *err) LM_CHECKED;
void lm_tokenizer_close(lm_tokenizer *t);
/* Appends the ids of text. Special tokens written out in text (<|im_start|>) become their ids; add_special
 * adds what the post-processor adds (BOS). LM_INVALID: not UTF-8. */
lm_status lm_tokenizer_encode(const lm_tokenizer *t, lm_str text, bool add_special, lm_tokens *out,
                              lm_err *err) LM_CHECKED;
/* Appends the text of ids; skip_special leaves special tokens out. Incomplete UTF-8 becomes U+FFFD. */
lm_status lm_tokenizer_decode(const lm_tokenizer *t, const int32_t *ids, uint32_t n, bool skip_special,
                              lm_buf *out, lm_err *err) LM_CHECKED;
/* The bytes that a token adds in the middle of a text (byte-level and <0xNN> tokens undone); may be part of a
 * character. Valid as long as the tokenizer. Unknown ids give the empty view. */
lm_str lm_tokenizer_bytes(const lm_tokenizer *t, int32_t id);
bool lm_tokenizer_is_special(const lm_tokenizer *t, int32_t id);
int32_t lm_tokenizer_id(const lm_tokenizer *t, lm_str token); /* -1: no such token */
uint32_t lm_tokenizer_size(const lm_tokenizer *t);            /* largest id + 1 */

/* ---- chat template (Jinja) -------------------------------------------------------------------------------- */

typedef struct lm_template lm_template;

/* Compiles a Jinja chat template, as transformers would run it. LM_INVALID with the template's line. */
lm_status lm_template_open(lm_template **out, lm_str source, lm_err *err) LM_CHECKED;
void lm_template_close(lm_template *t);
lm_str lm_template_source(const lm_template *t);
/* context: one JSON object with messages, tools, add_generation_prompt, bos_token, ... (key order kept).
 * LM_INVALID: the template refused (raise_exception: its own text) or ran over its fuel limit. */
lm_status lm_template_render(const lm_template *t, lm_str context, lm_buf *out, lm_err *err) LM_CHECKED;
/* True when the template reads this variable anywhere ("tools", "enable_thinking"). */
bool lm_template_uses(const lm_template *t, const char *variable);

/* ---- Go templates (Modelfile TEMPLATE) -------------------------------------------------------------------- */

/* Go's text/template with Ollama's functions and variables. Immutable once open, free to share. */
typedef struct lm_go_template lm_go_template;

/* LM_INVALID with Go's own text: "template: :1: unexpected ...". */
lm_status lm_go_template_open(lm_go_template **out, lm_str source, lm_err *err) LM_CHECKED;
void lm_go_template_close(lm_go_template *t);
lm_str lm_go_template_source(const lm_go_template *t);
/* For who takes templates in: LM_INVALID with "template error: " before Go's text. */
lm_status lm_go_template_check(lm_str source, lm_err *err) LM_CHECKED;
/* Whether it reads this variable or field anywhere, in lower case: "tools", "suffix". */
bool lm_go_template_uses(const lm_go_template *t, const char *variable);
/* What it writes before and behind a message's earlier thinking. False: it shows none. Valid as long as t. */
bool lm_go_template_think_tags(const lm_go_template *t, const char **open, const char **close);
/* As Ollama renders a chat; arguments as lm_text_render_chat. A template without .Messages is run once a round, the last
 * time up to .Response. LM_INVALID with Go's text; over its bounds, too. */
lm_status lm_go_template_chat(const lm_go_template *t, lm_str messages_json, lm_str tools_json, int thinking,
                              lm_str level, lm_buf *out, lm_err *err) LM_CHECKED;
/* With .Prompt and .Suffix. */
lm_status lm_go_template_insert(const lm_go_template *t, lm_str prompt, lm_str suffix, int thinking, lm_str level,
                                lm_buf *out, lm_err *err) LM_CHECKED;

/* ---- what a model directory says about its text */

/* How the makers of a model sample from it, from generation_config.json. NAN: they do not say. */
typedef struct lm_text_sampling {
    double temperature, top_k, top_p, min_p, typical_p, repetition_penalty;
} lm_text_sampling;

/* What the files say, found without building the tokenizer (a second for large vocabularies): for lists, for
 * /api/show and for the checks before a request. lm_text_open comes to the same answers. */
typedef struct lm_text_facts {
    lm_buf chat; /* source of the chat template (DIR/template counts first), empty when there is none */
    bool tools, thinks, inserts, channels; /* as in lm_text */
    char **ends;                           /* tokens that end a generation, as they are written */
    uint32_t n_ends;
    lm_text_sampling sampling;
} lm_text_facts;
/* LM_CORRUPT: a damaged file, by name. The caller releases *out after LM_OK. */
lm_status lm_text_facts_read(lm_text_facts *out, const char *dir, lm_err *err) LM_CHECKED;
void lm_text_facts_release(lm_text_facts *f); /* a zeroed one is allowed */

/* The text side of one model, loaded together: tokenizer.json, tokenizer_config.json, template (a Modelfile's, in
 * Go's language) or chat_template.jinja|json, special_tokens_map.json, generation_config.json, config.json (eos), and
 * `parser`: the name of a family whose form the tool calls have, in place of what the template shows. */
typedef struct lm_text {
    lm_tokenizer *tokenizer;
    lm_template *chat; /* NULL: none shipped; prompts then are plain text */
    lm_go_template *go; /* a Modelfile's, in place of chat, which is NULL then. It does not write the first token */
    char *bos, *eos;   /* token strings for the template, "" when absent */
    int32_t bos_id;    /* -1: none */
    int32_t
        *stop_ids; /* ids that end a generation (eos_token_id of all files together, <|im_end|>-like ones) */
    uint32_t n_stop_ids;
    bool thinks;   /* the template or vocabulary knows a thinking block */
    bool tools;    /* the template renders tools */
    bool inserts;  /* the vocabulary has fill-in-the-middle tokens, or the Go template reads .Suffix */
    bool channels; /* gpt-oss's form: every answer has to go through a parser, whatever is asked for */
    bool wraps;    /* so does this model's, whose answers stand between tags of their own */
    char *parser;  /* the family whose calls it writes, from the file `parser`; NULL: as the template has it */
} lm_text;
lm_status lm_text_open(lm_text **out, const char *dir, lm_err *err) LM_CHECKED;
void lm_text_close(lm_text *t);
bool lm_text_is_stop(const lm_text *t, int32_t id);
/* Renders a chat to a prompt. messages_json: array in Ollama's message form (role, content, thinking,
 * tool_calls, tool_name); tools_json: array or empty; thinking: -1 not said, 0 off, 1 on; level: "" or
 * low|medium|high. */
lm_status lm_text_render_chat(const lm_text *t, lm_str messages_json, lm_str tools_json, int thinking,
                              lm_str level, lm_buf *out, lm_err *err) LM_CHECKED;
/* A Go template of the request's own, in place of the model's: over prompt and suffix when there is a suffix, else
 * over the messages. LM_INVALID with Go's text. */
lm_status lm_text_render_own(lm_str source, lm_str messages_json, lm_str prompt, lm_str suffix, int thinking,
                             lm_str level, lm_buf *out, lm_err *err) LM_CHECKED;
/* Fill-in-the-middle prompt, of the Go template or of the model's family. LM_UNSUPPORTED: it has none. */
lm_status lm_text_render_insert(const lm_text *t, lm_str prefix, lm_str suffix, lm_buf *out,
                                lm_err *err) LM_CHECKED;

/* ---- the way back */

/* Tokens in, displayable text out: holds back incomplete UTF-8 and whatever may be the beginning of a stop
 * string. */
typedef struct lm_stream lm_stream;
/* stops: n_stops strings, copied. The tokenizer is borrowed. */
lm_status lm_stream_open(lm_stream **out, const lm_tokenizer *t, const lm_str *stops, uint32_t n_stops,
                         lm_err *err) LM_CHECKED;
void lm_stream_close(lm_stream *s);
/* Takes one token and appends to out what may be shown now (maybe nothing). *stopped: a stop string was
 * completed; text before it has been given, the stop string itself never is. No allocation unless out grows.
 * Special tokens are shown as they are written, since parsers look for them: who generates ends on stop ids
 * and does not push those. */
lm_status lm_stream_push(lm_stream *s, int32_t id, lm_buf *out, bool *stopped, lm_err *err) LM_CHECKED;
/* End of generation: appends what was held back; an incomplete character becomes U+FFFD. */
void lm_stream_finish(lm_stream *s, lm_buf *out);
/* Appends what is held back: bytes of tokens whose text has not been given. */
void lm_stream_pending(const lm_stream *s, lm_buf *out);
/* The stop string that was completed; empty: none yet. Valid as long as the stream. */
lm_str lm_stream_stop(const lm_stream *s);

/* Splits displayable text into thinking, content and tool calls; never lets a partial tag out. */
typedef struct lm_parser lm_parser;
typedef enum lm_part { LM_PART_CONTENT, LM_PART_THINKING, LM_PART_TOOL_CALL } lm_part;
/* One finding: for a tool call name is the function and text its arguments, a JSON object. Views valid in the
 * call only. */
typedef void lm_parser_sink(void *ctx, lm_part part, lm_str name, lm_str text);
/* The forms are chosen from the model's own template and vocabulary, or by lm_text.parser. thinking_open: the
 * prompt itself ended inside a thinking block. tools: the request's, a JSON array; empty: calls are not looked
 * for. A call of another tool, or one whose JSON is broken, is content. LM_INVALID: tools is not JSON. */
lm_status lm_parser_open(lm_parser **out, const lm_text *t, bool parse_thinking, bool thinking_open,
                         lm_str tools, lm_err *err) LM_CHECKED;
void lm_parser_close(lm_parser *p);
void lm_parser_push(lm_parser *p, lm_str text, lm_parser_sink *sink, void *ctx);
void lm_parser_finish(lm_parser *p, lm_parser_sink *sink, void *ctx);
bool lm_parser_in_thinking(const lm_parser *p);
/* Whether a call has begun and is not over: opening is the tag before it (empty: none; gpt-oss: the recipient),
 * body what has come behind that. Views valid until the next push. */
bool lm_parser_in_call(const lm_parser *p, lm_str *opening, lm_str *body);

/* ---- grammar */

/* One per model, built at the first structured request (about a second for large vocabularies). */
typedef struct lm_grammar_factory lm_grammar_factory;
lm_status lm_grammar_factory_open(lm_grammar_factory **out, const lm_text *t, uint32_t n_vocab,
                                  lm_err *err) LM_CHECKED;
void lm_grammar_factory_close(lm_grammar_factory *f);

typedef struct lm_matcher lm_matcher; /* the state of one constrained sequence */
/* schema: a JSON Schema object as text; "" means any JSON object. LM_INVALID: not a schema, or one that
 * cannot be enforced. */
lm_status lm_matcher_open(lm_matcher **out, const lm_grammar_factory *f, lm_str schema,
                          lm_err *err) LM_CHECKED;
void lm_matcher_close(lm_matcher *m);
/* mask: one bit a token (bit id%32 of word id/32), n_words = (n_vocab + 31) / 32; set = allowed now. A stop
 * token is allowed only when the document is complete. */
lm_status lm_matcher_mask(lm_matcher *m, uint32_t *mask, uint32_t n_words, lm_err *err) LM_CHECKED;
lm_status lm_matcher_take(lm_matcher *m, int32_t id, lm_err *err) LM_CHECKED; /* the token that was chosen */
bool lm_matcher_done(const lm_matcher *m); /* nothing but a stop token can follow */
bool lm_matcher_accepts(lm_matcher *m);    /* the document is complete, though it might go on */

/* Documents that end in time. An ending is a way from where the document stands to where it is complete; the one that
 * is found is short, but not always the shortest. */

#define LM_NO_ENDING UINT32_MAX
/* Tokens that the document can be ended with, at most `most`; LM_NO_ENDING: no such way was found. Costs about as much
 * as a mask. */
uint32_t lm_matcher_ending(lm_matcher *m, uint32_t most);
/* As lm_matcher_take, when the document can then be ended with `left` more tokens (*ending: how many it takes).
 * Otherwise the token is not taken (*taken false), and all masks from now on leave nothing but a way to the end.
 * Should there be none in time from here either, the token is taken all the same, with LM_NO_ENDING. */
lm_status lm_matcher_take_within(lm_matcher *m, int32_t id, uint32_t left, bool *taken, uint32_t *ending,
                                 lm_err *err) LM_CHECKED;

/* ---- grammar of tool calls */

/* A call of one of tools (a JSON array) in the forms in which this model writes them, from the opening tag to the end of
 * the call, arguments of the tool's schema. loose gets the names of tools whose schemas cannot be enforced: their
 * arguments are any object. LM_INVALID: no grammar for these tools. */
lm_status lm_matcher_open_calls(lm_matcher **out, const lm_grammar_factory *f, const lm_text *t, lm_str tools, lm_buf *loose,
                                lm_err *err) LM_CHECKED;
/* Begins anew, behind a text that is there already: lm_parser_in_call's opening and body. *fits false: it is no call of
 * this grammar, which must not be asked then. */
lm_status lm_matcher_begin(lm_matcher *m, lm_str text, bool *fits, lm_err *err) LM_CHECKED;

#endif
