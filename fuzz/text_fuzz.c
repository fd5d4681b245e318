/* The way back from tokens to events. A stream shows what decoding everything at once would show, up to the
 * first stop string; a parser finds the same in a text however it is cut, so no piece of a tag gets out.
 *
 * Input: a byte that chooses the model, one that chooses what is parsed, one that seeds the cuts, one with
 * the length of a stop string, the stop string, and the text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_TEXT 4096

#define BAR   "\xef\xbd\x9c"
#define BLOCK "\xe2\x96\x81"
#define TOOLS                                                                                                \
    "[{\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\"},"   \
    "\"n\":{\"type\":\"integer\"}}}}},{\"function\":{\"name\":\"g\"}}]"

static const char *const templates[] = {
    "{{ tools }}<think><tool_call>",
    "{{ tools }}[THINK][TOOL_CALLS]",
    "{{ tools }}<|START_THINKING|><|python_tag|>",
    "{{ tools }}<seed:think><|tool_call|><|tool_call_start|><tool_call>[TOOL_CALLS]",
    "{{ tools }}<think><tool_call><function=<arg_key>",
    "{{ tools }}<|/tool_call|><|START_ACTION|>Action:```json```tool_code<|tool_call_start|>",
    "{{ tools }}<" BAR "tool" BLOCK "calls" BLOCK "begin" BAR "><" BAR "tool" BLOCK "call" BLOCK "begin" BAR ">",
    "{{ tools }}<|tool_calls_section_begin|><|tool_call_begin|><function_call><TOOLCALL>",
    "{{ tools }}", /* the last one has gpt-oss's tokens */
};
#define N_MODELS (sizeof templates / sizeof *templates)
static const char *const pieces[] = {"ab",   "stop",       "\xc3\xa9", "\xf0\x9f\x99\x82",
                                     "</th", "tool_call>", "{\"",      "\n\n"};
#define N_PIECES (sizeof pieces / sizeof *pieces)

static lm_text *models[N_MODELS];

static void put(const char *dir, const char *name, const lm_buf *text) {
    lm_err err = {0};
    char *path = lm_path_join(dir, name);
    LM_ASSERT(lm_file_write(path, lm_buf_view(text), &err) == LM_OK);
    free(path);
}

/* Tokens 0 to 255 are the bytes, then come the pieces, then what the model has of its own. */
static void write_tokenizer(const char *dir, bool channels) {
    static const char *const own[] = {"<|channel|>", "<|message|>", "<|start|>", "<|end|>"};
    lm_buf json;
    lm_buf_init(&json, 1 << 20);
    lm_buf_text(&json, "{\"added_tokens\":[");
    for (uint32_t i = 0; channels && i < 4; i++)
        lm_buf_printf(
            &json,
            "%s{\"id\":%u,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":true}",
            i ? "," : "", (unsigned)(256 + N_PIECES) + i, own[i]);
    lm_buf_text(&json,
                "],\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":"
                "\"Fuse\"}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"merges\":[],\"vocab\":{");
    for (unsigned i = 0; i < 256; i++) lm_buf_printf(&json, "%s\"<0x%02X>\":%u", i ? "," : "", i, i);
    for (unsigned i = 0; i < N_PIECES; i++) {
        lm_buf_text(&json, ",\"");
        for (const char *c = pieces[i]; *c; c++) {
            if (*c == '"') lm_buf_char(&json, '\\');
            if (*c == '\n')
                lm_buf_text(&json, "\\n");
            else
                lm_buf_char(&json, *c);
        }
        lm_buf_printf(&json, "\":%u", 256 + i);
    }
    lm_buf_text(&json, "}}}");
    put(dir, "tokenizer.json", &json);
    lm_buf_release(&json);
}

static void open_models(void) {
    char dir[] = "/tmp/lm-fuzz-text-XXXXXX";
    lm_err err = {0};
    LM_ASSERT(mkdtemp(dir));
    for (size_t i = 0; i < N_MODELS; i++) {
        lm_buf source;
        lm_buf_init(&source, 1 << 16);
        lm_buf_text(&source, templates[i]);
        put(dir, "chat_template.jinja", &source);
        write_tokenizer(dir, i == N_MODELS - 1);
        LM_ASSERT(lm_text_open(&models[i], dir, &err) == LM_OK);
        LM_ASSERT(lm_tokenizer_bytes(models[i]->tokenizer, 0xff).len == 1);
        lm_buf_release(&source);
    }
    LM_ASSERT(models[N_MODELS - 1]->channels && lm_dir_remove(dir, &err) == LM_OK);
}

/* ---- the stream */

/* Bytes as text, U+FFFD for each maximal part of a character that is none. */
static void decode(lm_str s, lm_buf *out) {
    while (s.len) {
        size_t n = lm_utf8_valid(s, NULL);
        lm_buf_add(out, s.ptr, n);
        if (n < s.len) {
            size_t part = 1;
            bool bad = false;
            for (size_t k = 2; k <= 3 && n + k <= s.len; k++)
                if (lm_utf8_valid((lm_str){s.ptr + n, k}, &bad) == 0 && !bad) part = k;
            lm_buf_text(out, "\xef\xbf\xbd");
            n += part;
        }
        s.ptr += n;
        s.len -= n;
    }
}

static void check_stream(const lm_text *t, lm_str input, lm_str stop) {
    lm_buf bytes, want, got;
    lm_err err = {0};
    lm_stream *s = NULL;
    bool stopped = false;
    lm_buf_init(&bytes, 1 << 20);
    lm_buf_init(&want, 1 << 20);
    lm_buf_init(&got, 1 << 20);
    if (lm_stream_open(&s, t->tokenizer, &stop, 1, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && lm_utf8_valid(stop, NULL) < stop.len);
        return;
    }
    for (size_t i = 0; i < input.len; i++) {
        /* pieces come in place of letters that texts seldom have */
        uint8_t byte = (uint8_t)input.ptr[i];
        int32_t id = byte >= 1 && byte <= N_PIECES ? 255 + byte : byte;
        lm_buf_str(&bytes, lm_tokenizer_bytes(t->tokenizer, id));
        if (!stopped) LM_ASSERT(lm_stream_push(s, id, &got, &stopped, &err) == LM_OK);
    }
    lm_stream_finish(s, &got);
    decode(lm_buf_view(&bytes), &want);
    char *hit = stop.len && want.len ? memmem(want.ptr, want.len, stop.ptr, stop.len) : NULL;
    LM_ASSERT(!stopped || hit);
    size_t n = hit ? (size_t)(hit - want.ptr) : want.len;
    LM_ASSERT(got.len == n && (!n || memcmp(got.ptr, want.ptr, n) == 0));
    lm_stream_close(s);
    lm_buf_release(&bytes);
    lm_buf_release(&want);
    lm_buf_release(&got);
}

/* ---- the parser */

typedef struct findings {
    lm_buf text; /* a letter for each change of kind, and what was found */
    lm_part last;
    bool any;
} findings;

static void note(void *ctx, lm_part part, lm_str name, lm_str text) {
    findings *f = ctx;
    if (!f->any || f->last != part || part == LM_PART_TOOL_CALL) lm_buf_printf(&f->text, "\1%c", "CTF"[part]);
    if (part == LM_PART_TOOL_CALL) {
        LM_ASSERT(text.len >= 2 && text.ptr[0] == '{' && text.ptr[text.len - 1] == '}');
        lm_buf_str(&f->text, name);
        lm_buf_char(&f->text, '\2');
    } else {
        LM_ASSERT(text.len);
    }
    lm_buf_str(&f->text, text);
    f->last = part;
    f->any = true;
}

/* seed 0: whole, 1: byte by byte, others: pieces of some length */
static void parse(const lm_text *t, lm_str text, unsigned flags, uint32_t seed, findings *f) {
    lm_parser *p = NULL;
    lm_err err = {0};
    lm_buf_init(&f->text, 1 << 20);
    LM_ASSERT(lm_parser_open(&p, t, flags & 1, flags & 2, flags & 4 ? LM_STR(TOOLS) : (lm_str){0}, &err) == LM_OK);
    for (size_t at = 0, n; at < text.len; at += n) {
        seed = seed > 1 ? seed * 1664525u + 1013904223u : seed;
        n = seed == 0 ? text.len : seed == 1 ? 1 : 1 + (seed >> 24) % 24;
        if (n > text.len - at) n = text.len - at;
        lm_parser_push(p, (lm_str){text.ptr + at, n}, note, f);
    }
    lm_parser_finish(p, note, f);
    lm_parser_close(p);
}

static void check_parser(const lm_text *t, lm_str text, unsigned flags, uint32_t seed) {
    findings whole = {0}, cut = {0};
    parse(t, text, flags, 0, &whole);
    for (int i = 0; i < 3; i++) {
        cut = (findings){0};
        parse(t, text, flags, i ? seed * 2 + 2 + (uint32_t)i : 1, &cut);
        LM_ASSERT(lm_str_eq(lm_buf_view(&whole.text), lm_buf_view(&cut.text)));
        lm_buf_release(&cut.text);
    }
    if (!(flags & 7) && !t->channels && text.len) { /* nothing to find: nothing may be lost */
        LM_ASSERT(whole.text.len == text.len + 2 && memcmp(whole.text.ptr + 2, text.ptr, text.len) == 0);
    }
    lm_buf_release(&whole.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!models[0]) open_models();
    if (size < 4 || size > MAX_TEXT) return 0;
    const lm_text *t = models[data[0] % N_MODELS];
    size_t n_stop = data[3] % 16;
    if (n_stop > size - 4) n_stop = size - 4;
    lm_str stop = {(const char *)data + 4, n_stop}, text = {stop.ptr + n_stop, size - 4 - n_stop};
    check_stream(t, text, stop);
    check_parser(t, text, data[1], data[2]);
    return 0;
}
