/* go_ask.h - the questions of tests/gotmpl put to the Go templates here, for text-probe and the unit test:
 * one JSON object with "data", or a chat, or prompt and suffix, or "tags" to be told what the template shows.
 */
#ifndef LM_TEXT_GO_ASK_H
#define LM_TEXT_GO_ASK_H

#include <stdlib.h>

#include "text/private.h"

static inline lm_str go_str(const json_t *v) {
    return (lm_str){json_string_value(v), json_string_length(v)};
}

/* An array as text; empty when there is none. */
static inline char *go_dumped(const json_t *q, const char *key) {
    char *text = json_dumps(json_object_get(q, key), JSON_COMPACT);
    return text ? text : lm_strdup("");
}

static inline lm_status go_ask(lm_str source, const json_t *q, lm_buf *out, lm_err *err) {
    lm_go_template *t = NULL;
    const json_t *thinking = json_object_get(q, "thinking");
    lm_str level = go_str(json_object_get(q, "level"));
    int think = json_is_integer(thinking) ? (int)json_integer_value(thinking) : -1;
    char *messages = go_dumped(q, "messages"), *tools = go_dumped(q, "tools");
    lm_status st = lm_go_template_open(&t, source, err);
    if (st == LM_OK && json_object_get(q, "data"))
        st = lm_go_template_run(t, json_object_get(q, "data"), out, err);
    else if (st == LM_OK && json_object_get(q, "tags"))
        lm_go_template_describe(t, out);
    else if (st == LM_OK && json_object_get(q, "prompt"))
        st = lm_go_template_insert(t, go_str(json_object_get(q, "prompt")),
                                   go_str(json_object_get(q, "suffix")), think, level, out, err);
    else if (st == LM_OK)
        st = lm_go_template_chat(t, lm_str_of(messages), lm_str_of(tools), think, level, out, err);
    lm_go_template_close(t);
    free(messages);
    free(tools);
    return st;
}

#endif
