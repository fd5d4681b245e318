/* What a hostile server or model says, on its way to a terminal: nothing that a terminal obeys comes through, lines fit, and
 * tables and times are made of anything.
 *
 * Input: a byte that chooses what it is, a byte (columns, size of the pieces), then the bytes. */
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/lines.h"
#include "cli/commands.h"
#include "cli/images.h"
#include "cli/lines.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/wrap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX (1u << 20)

static void check_clean(lm_str s, bool own_sequences) {
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = (uint8_t)s.ptr[i];
        if (own_sequences && c == 0x1b && i + 1 < s.len && s.ptr[i + 1] == '[') continue;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) abort();
        if (c == 0xc2 && i + 1 < s.len && (uint8_t)s.ptr[i + 1] < 0xa0) abort(); /* C1 */
    }
    if (lm_utf8_valid(s, NULL) != s.len) abort();
}

/* A model's text in pieces, as it is shown. */
static void show_text(lm_str s, uint8_t knob) {
    wrap w = {0};
    lm_buf clean, out;
    size_t piece = 1 + knob % 13;
    lm_buf_init(&clean, MAX);
    lm_buf_init(&out, 4 * MAX);
    for (size_t i = 0; i < s.len; i += piece) {
        size_t n = s.len - i < piece ? s.len - i : piece;
        lm_buf_clear(&clean);
        text_clean(&clean, (lm_str){s.ptr + i, n}, false);
        wrap_text(&w, lm_buf_view(&clean), knob, &out);
        if (knob > 1 && w.column > knob + 8u) abort(); /* a tab is the widest */
    }
    check_clean(lm_buf_view(&out), true);
    lm_buf_release(&clean);
    lm_buf_release(&out);
}

static bool show_line(void *ctx, lm_str line) {
    json_t *o = NULL;
    (void)ctx;
    if (lm_json_parse(line, &o, NULL) != LM_OK) return true;
    lm_buf out;
    lm_buf_init(&out, 16 * MAX);
    show_model(o, true, &out);
    check_clean(lm_buf_view(&out), false);
    lm_buf_release(&out);
    char when[48];
    text_when(json_string_value(json_object_get(o, "modified_at")), INT64_C(1800000000000000000), when);
    json_decref(o);
    return true;
}

/* Answers of /api/show, line by line in pieces. */
static void show_answers(lm_str s, uint8_t knob) {
    lm_lines l;
    size_t piece = 1 + knob;
    lm_lines_init(&l, 4096);
    for (size_t i = 0; i < s.len; i += piece) {
        size_t n = s.len - i < piece ? s.len - i : piece;
        if (lm_lines_add(&l, (lm_str){s.ptr + i, n}, show_line, NULL, NULL) != LM_OK) break;
    }
    lm_lines_release(&l);
}

/* Lines that are typed. */
static void take_lines(char *text, uint8_t knob) {
    lines l;
    lines_open(&l);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *message = NULL;
        if (lines_take(&l, line, knob & 1 && line[0] == '+', &message)) {
            if (!message || lines_waits(&l)) abort();
            free(message);
        } else if (!lines_waits(&l)) {
            abort();
        }
    }
    lines_close(&l);
}

static void set_things(const char *text) {
    session s;
    session_open(&s, "m");
    lm_err err;
    const char *value = text;
    if (session_set_format(&s, text, &err) != LM_OK && !err.text[0]) abort();
    (void)!session_set_keep_alive(&s, text, &err);
    (void)!session_set_think(&s, text, &err);
    (void)!session_set_option(&s, "temperature", &value, 1, &err);
    (void)!session_set_option(&s, "num_ctx", &value, 1, &err);
    (void)!session_set_option(&s, text, &value, 1, &err);
    json_t *o = session_chat_request(&s);
    char *out = json_dumps(o, JSON_COMPACT);
    if (!out) abort();
    free(out);
    json_decref(o);
    session_close(&s);
}

static void take_images(const char *text) {
    char *rest = NULL;
    json_t *images = NULL;
    if (images_take(text, &rest, &images, NULL) != LM_OK) return;
    if (strlen(rest) > strlen(text)) abort();
    free(rest);
    json_decref(images);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    setlocale(LC_CTYPE, "C.UTF-8"); /* widths of characters */
    if (size < 2 || size > 65536) return 0;
    lm_str s = {(const char *)data + 2, size - 2};
    char *text = lm_str_dup(s);
    bool valid = lm_utf8_valid(lm_str_of(text), NULL) == strlen(text); /* what is typed is */
    switch (data[0] % 5) {
    case 0: show_text(s, data[1]); break;
    case 1: show_answers(s, data[1]); break;
    case 2: take_lines(text, data[1]); break;
    case 3:
        if (valid) set_things(text);
        break;
    case 4: take_images(text); break;
    }
    free(text);
    return 0;
}
