/* text-probe [DIR]: the text room on a pipe, for comparisons with other implementations
 * (tests/text_reference.py). One JSON object a line in, one a line out:
 *
 *     {"encode": TEXT, "special": BOOL}           {"ids": [...]}
 *     {"decode": [...], "skip": BOOL}             {"text": TEXT}
 *     {"stream": [...]}                           {"text": TEXT}
 *     {"template": SOURCE or null, "context": {}} {"text": TEXT}; null: the model's own
 *     {"open": true}                              {"ms": TIME}, opening the model once more
 *     {"go": SOURCE, "data": VALUE}               {"text": TEXT}, a Go template over any data; or, as Ollama
 * does it:
 *     {"go": SOURCE, "messages": [...], "tools": [...], "thinking": -1|0|1, "level": TEXT}
 *     {"go": SOURCE, "tags": true}                {"text": "OPEN|CLOSE|NAME,NAME"}: of thinking, and what it
 * reads
 *     {"go": SOURCE, "prompt": TEXT, "suffix": TEXT, "thinking": ..., "level": ...}
 *
 * A failure is {"error": TEXT}. Without a DIR there are only Go templates.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/go_ask.h"

static lm_status read_ids(const json_t *list, lm_tokens *ids, lm_err *err) {
    lm_status st = LM_OK;
    for (size_t i = 0; st == LM_OK && i < json_array_size(list); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(list, i));
        st = lm_tokens_add(ids, &id, 1, err);
    }
    return st;
}

static lm_status stream(const lm_text *t, const lm_tokens *ids, lm_buf *out, lm_err *err) {
    lm_stream *s = NULL;
    bool stopped;
    lm_status st = lm_stream_open(&s, t->tokenizer, NULL, 0, err);
    for (uint32_t i = 0; st == LM_OK && i < ids->n; i++)
        st = lm_stream_push(s, ids->ids[i], out, &stopped, err);
    if (st == LM_OK) lm_stream_finish(s, out);
    lm_stream_close(s);
    return st;
}

static lm_status render(const lm_text *t, const json_t *source, const json_t *context, lm_buf *out,
                        lm_err *err) {
    lm_template *own = NULL;
    lm_buf text;
    lm_status st = LM_OK;
    if (json_is_string(source)) st = lm_template_open(&own, go_str(source), err);
    if (st == LM_OK && !own && !t->chat) st = lm_fail(err, LM_NOT_FOUND, "the model has no chat template");
    if (st != LM_OK) return st;
    lm_buf_init(&text, (size_t)64 << 20);
    st = lm_text_write_context(context, &text, err);
    if (st == LM_OK) st = lm_template_render(own ? own : t->chat, lm_buf_view(&text), out, err);
    lm_buf_release(&text);
    lm_template_close(own);
    return st;
}

static lm_status time_open(const char *dir, lm_buf *answer, lm_err *err) {
    lm_text *t = NULL;
    uint64_t from = lm_now_ns();
    lm_status st = lm_text_open(&t, dir, err);
    if (st == LM_OK) lm_buf_printf(answer, "{\"ms\":%.1f}\n", (double)(lm_now_ns() - from) / 1e6);
    lm_text_close(t);
    return st;
}

static lm_status answer_one(const lm_text *t, const char *dir, const json_t *q, lm_buf *answer, lm_err *err) {
    lm_tokens ids = {0};
    lm_buf out;
    lm_status st;
    lm_buf_init(&out, (size_t)64 << 20);
    if (json_object_get(q, "go") || !t) {
        st = go_ask(go_str(json_object_get(q, "go")), q, &out, err);
        if (st == LM_OK) {
            lm_buf_text(answer, "{\"text\":");
            lm_json_write_string(answer, lm_buf_view(&out));
            lm_buf_text(answer, "}\n");
        }
    } else if (json_object_get(q, "open")) {
        st = time_open(dir, answer, err);
    } else if (json_object_get(q, "encode")) {
        bool special = json_is_true(json_object_get(q, "special"));
        st = lm_tokenizer_encode(t->tokenizer, go_str(json_object_get(q, "encode")), special, &ids, err);
        if (st == LM_OK) lm_buf_text(answer, "{\"ids\":[");
        for (uint32_t i = 0; st == LM_OK && i < ids.n; i++)
            lm_buf_printf(answer, "%s%d", i ? "," : "", ids.ids[i]);
        if (st == LM_OK) lm_buf_text(answer, "]}\n");
    } else {
        bool decode = json_object_get(q, "decode");
        st = read_ids(json_object_get(q, decode ? "decode" : "stream"), &ids, err);
        if (st == LM_OK && decode)
            st = lm_tokenizer_decode(t->tokenizer, ids.ids, ids.n, json_is_true(json_object_get(q, "skip")),
                                     &out, err);
        else if (st == LM_OK && json_object_get(q, "stream"))
            st = stream(t, &ids, &out, err);
        else if (st == LM_OK)
            st = render(t, json_object_get(q, "template"), json_object_get(q, "context"), &out, err);
        if (st == LM_OK) {
            lm_buf_text(answer, "{\"text\":");
            lm_json_write_string(answer, lm_buf_view(&out));
            lm_buf_text(answer, "}\n");
        }
    }
    lm_tokens_release(&ids);
    lm_buf_release(&out);
    return st;
}

static void complain(lm_buf *answer, const lm_err *err) {
    lm_buf_clear(answer);
    lm_buf_text(answer, "{\"error\":");
    lm_json_write_string(answer, lm_str_of(err->text));
    lm_buf_text(answer, "}\n");
}

int main(int argc, char **argv) {
    lm_err err = {0};
    lm_text *t = NULL;
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    lm_buf answer;
    if (argc > 2) return fprintf(stderr, "usage: text-probe [DIR]\n"), 2;
    if (argc == 2 && lm_text_open(&t, argv[1], &err) != LM_OK)
        return fprintf(stderr, "text-probe: %s\n", err.text), 1;
    lm_buf_init(&answer, (size_t)256 << 20);
    while ((n = getline(&line, &room, stdin)) > 0) {
        json_t *q = NULL;
        lm_buf_clear(&answer);
        lm_status st = lm_json_parse((lm_str){line, (size_t)n}, &q, &err);
        if (st == LM_OK) st = answer_one(t, argc == 2 ? argv[1] : "", q, &answer, &err);
        if (st != LM_OK) complain(&answer, &err);
        json_decref(q);
        fwrite(answer.ptr, 1, answer.len, stdout);
        fflush(stdout);
    }
    free(line);
    lm_buf_release(&answer);
    lm_text_close(t);
    return 0;
}
