/* parser_cases.h - for tests of the parser: models made of a template and markers, and answers cut in every
 * way. What comes out must not depend on the cuts; so no piece of a tag can ever be seen, since nothing that
 * was given can be taken back. */
#ifndef LM_TEXT_PARSER_CASES_H
#define LM_TEXT_PARSER_CASES_H

#include "base/test.h"

#include "base/file.h"
#include "base/json.h"
#include "text/text.h"

/* A model whose vocabulary is the 256 bytes and these markers (NULL-terminated), and whose template is this.
 */
static lm_text *open_model(const char *template, const char *const *markers) {
    lm_err err = {0};
    lm_buf json;
    lm_text *t = NULL;
    lm_buf_init(&json, 1 << 16);
    lm_buf_text(&json, "{\"added_tokens\":[");
    for (int i = 0; markers && markers[i]; i++) {
        lm_buf_printf(
            &json,
            "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":true}",
            i ? "," : "", i + 256, markers[i]);
    }
    lm_buf_text(
        &json, "],\"decoder\":{\"type\":\"ByteFallback\"},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
               "\"merges\":[],\"vocab\":{");
    for (unsigned i = 0; i < 256; i++) lm_buf_printf(&json, "%s\"<0x%02X>\":%u", i ? "," : "", i, i);
    lm_buf_text(&json, "}}}");
    put_file(test_dir(), "tokenizer.json", lm_buf_view(&json));
    put_file(test_dir(), "chat_template.jinja", lm_str_of(template));
    expect_ok(lm_text_open(&t, test_dir(), &err), err);
    lm_buf_release(&json);
    return t;
}

/* Findings as one line: T(thoughts) C(content) F(name arguments); neighbours of one kind are joined. */
typedef struct findings {
    lm_buf text;
    lm_part last;
    bool any;
} findings;

static void note(void *ctx, lm_part part, lm_str name, lm_str text) {
    findings *f = ctx;
    if (f->any && f->last == part && part != LM_PART_TOOL_CALL) {
        f->text.len--; /* the bracket */
        lm_buf_str(&f->text, text);
    } else {
        lm_buf_printf(&f->text, "%c(", "CTF"[part]);
        if (part == LM_PART_TOOL_CALL) {
            lm_buf_str(&f->text, name);
            lm_buf_char(&f->text, ' ');
        }
        lm_buf_str(&f->text, text);
    }
    lm_buf_char(&f->text, ')');
    f->last = part;
    f->any = true;
}

/* The tools of every test; a call of any other is none. */
#define TOOLS                                                                                                \
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"additionalProperties\":false,"   \
    "\"type\":\"object\","                                                                                   \
    "\"properties\":{"                                                                                       \
    "\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"x\":{\"type\":\"number\",\"maximum\":99,"    \
    "\"minimum\":-99},\"yes\":{"                                                                             \
    "\"type\":\"boolean\"},"                                                                                 \
    "\"list\":{\"type\":\"array\"},\"may\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]},"         \
    "\"unit\":{\"$ref\":\"#/$defs/unit\"}},\"$defs\":{\"unit\":{\"enum\":[\"c\",\"f\"]}}}}},"                \
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]"

static void parse_cut(const lm_text *t, bool thinking, bool open, bool tools, const char *answer, size_t a,
                      size_t b, findings *f) {
    lm_err err = {0};
    lm_parser *p = NULL;
    size_t n = strlen(answer);
    lm_buf_clear(&f->text);
    f->any = false;
    expect_ok(lm_parser_open(&p, t, thinking, open, tools ? LM_STR(TOOLS) : (lm_str){0}, &err), err);
    if (a == 0) { /* byte by byte */
        for (size_t i = 0; i < n; i++) lm_parser_push(p, (lm_str){answer + i, 1}, note, f);
    } else {
        lm_parser_push(p, (lm_str){answer, a}, note, f);
        lm_parser_push(p, (lm_str){answer + a, b - a}, note, f);
        lm_parser_push(p, (lm_str){answer + b, n - b}, note, f);
    }
    lm_parser_finish(p, note, f);
    lm_parser_close(p);
}

static void expect_parts(const lm_text *t, bool thinking, bool open, bool tools, const char *answer,
                         const char *want) {
    findings f = {0};
    size_t n = strlen(answer);
    lm_buf_init(&f.text, 1 << 20);
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b += a ? 7 : n + 1) {
            parse_cut(t, thinking, open, tools, answer, a, b, &f);
            if (strcmp(f.text.ptr ? f.text.ptr : "", want))
                fail_msg("'%s' cut at %zu, %zu:\n%s\n--- want ---\n%s", answer, a, b,
                         f.text.ptr ? f.text.ptr : "", want);
        }
    lm_buf_release(&f.text);
}

#endif
