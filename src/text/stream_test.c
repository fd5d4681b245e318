/* The way back: every cut of a text into tokens must show the same, with and without stop strings. */
#include "base/test.h"

#include "base/file.h"
#include "base/json.h"
#include "text/golden.h"
#include "text/text.h"

/* A tokenizer whose tokens are all the pieces of an ASCII text (no spaces), so that any cut of it can be
 * pushed. */
static lm_tokenizer *open_pieces(const char *text) {
    lm_err err = {0};
    lm_buf json;
    uint32_t id = 0;
    json_t *vocab = json_object();
    lm_tokenizer *t = NULL;
    for (size_t from = 0; from < strlen(text); from++)
        for (size_t n = 1; from + n <= strlen(text); n++) {
            char piece[64] = "";
            memcpy(piece, text + from, n);
            if (!json_object_get(vocab, piece)) json_object_set_new(vocab, piece, json_integer(id++));
        }
    lm_buf_init(&json, 1 << 20);
    lm_buf_text(&json,
                "{\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"
                "\"use_regex\":false},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":");
    lm_json_write_value(&json, vocab);
    lm_buf_text(&json, "}}");
    char *path = lm_path_join(test_dir(), "tokenizer.json");
    expect_ok(lm_file_write(path, lm_buf_view(&json), &err), err);
    expect_ok(lm_tokenizer_open(&t, test_dir(), &err), err);
    free(path);
    lm_buf_release(&json);
    json_decref(vocab);
    return t;
}

/* Pushes text cut after each bit of cuts; what was shown goes to out. Returns whether a stop string was met.
 */
static bool push_cut(const lm_tokenizer *t, const char *text, uint32_t cuts, const lm_str *stops,
                     uint32_t n_stops, lm_buf *out) {
    lm_err err = {0};
    lm_stream *s = NULL;
    bool stopped = false;
    size_t n = strlen(text), from = 0;
    expect_ok(lm_stream_open(&s, t, stops, n_stops, &err), err);
    for (size_t to = 1; to <= n && !stopped; to++) {
        if (to < n && !(cuts >> (to - 1) & 1)) continue;
        int32_t id = lm_tokenizer_id(t, (lm_str){text + from, to - from});
        assert_true(id >= 0);
        expect_ok(lm_stream_push(s, id, out, &stopped, &err), err);
        /* Nothing of a stop string may be out already. */
        for (uint32_t i = 0; i < n_stops; i++)
            if (stops[i].len && out->len) assert_null(memmem(out->ptr, out->len, stops[i].ptr, stops[i].len));
        from = to;
    }
    lm_stream_finish(s, out);
    lm_stream_close(s);
    return stopped;
}

static void expect_every_cut(const char *text, const lm_str *stops, uint32_t n_stops, const char *want,
                             bool stops_there) {
    lm_buf out;
    lm_tokenizer *t = open_pieces(text);
    lm_buf_init(&out, 4096);
    for (uint32_t cuts = 0; cuts < 1u << (strlen(text) - 1); cuts++) {
        lm_buf_clear(&out);
        bool stopped = push_cut(t, text, cuts, stops, n_stops, &out);
        if (stopped != stops_there || !lm_str_eq(lm_buf_view(&out), lm_str_of(want)))
            fail_msg("'%s' cut %x: '" LM_STR_FMT "', stopped %d", text, cuts, LM_STR_ARG(lm_buf_view(&out)),
                     stopped);
    }
    lm_buf_release(&out);
    lm_tokenizer_close(t);
}

static void stop_strings_are_found_however_tokens_cut_them(void **state) {
    (void)state;
    expect_every_cut("ab###cd", (lm_str[]){LM_STR("###")}, 1, "ab", true);
    expect_every_cut("ab##c##", (lm_str[]){LM_STR("###")}, 1, "ab##c##", false);
    expect_every_cut("aabaabaac", (lm_str[]){LM_STR("aabaac")}, 1, "aab", true);
    expect_every_cut("xabcabdx", (lm_str[]){LM_STR("abcabd")}, 1, "x", true);
    expect_every_cut("stop", (lm_str[]){LM_STR("stop")}, 1, "", true);
    expect_every_cut("abcdefg", (lm_str[]){LM_STR("defx"), LM_STR("ef")}, 2, "abcd", true);
    expect_every_cut("User:hi", (lm_str[]){LM_STR("</s>"), LM_STR("User:"), LM_STR("Us:")}, 3, "", true);
}

static void the_first_stop_string_to_end_wins_and_the_longest_of_those(void **state) {
    (void)state;
    expect_every_cut("abcdef", (lm_str[]){LM_STR("abcde"), LM_STR("c")}, 2, "ab", true);
    expect_every_cut("abcdef", (lm_str[]){LM_STR("d"), LM_STR("bcd")}, 2, "a", true);
}

static void no_stop_string_and_empty_ones_show_everything(void **state) {
    (void)state;
    expect_every_cut("abcdef", NULL, 0, "abcdef", false);
    expect_every_cut("abcdef", (lm_str[]){LM_STR("")}, 1, "abcdef", false);
}

static void nothing_comes_after_a_stop(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf out;
    lm_stream *s = NULL;
    bool stopped = false;
    lm_tokenizer *t = open_pieces("ab#cd");
    lm_buf_init(&out, 100);
    expect_ok(lm_stream_open(&s, t, (lm_str[]){LM_STR("#")}, 1, &err), err);
    assert_true(lm_str_eq(lm_stream_stop(s), LM_STR("")));
    expect_ok(lm_stream_push(s, lm_tokenizer_id(t, LM_STR("b#c")), &out, &stopped, &err), err);
    assert_true(stopped);
    assert_true(lm_str_eq(lm_stream_stop(s), LM_STR("#")));
    stopped = false;
    expect_ok(lm_stream_push(s, lm_tokenizer_id(t, LM_STR("cd")), &out, &stopped, &err), err);
    assert_true(stopped);
    lm_stream_finish(s, &out);
    assert_true(lm_str_eq(lm_buf_view(&out), LM_STR("b")));
    lm_stream_close(s);
    lm_buf_release(&out);
    lm_tokenizer_close(t);
}

static void bad_stop_strings_are_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_stream *s = NULL;
    lm_tokenizer *t = open_pieces("ab");
    lm_str many[300];
    char *large = lm_alloc(70000);
    memset(large, 'x', 70000);
    for (int i = 0; i < 300; i++) many[i] = LM_STR("x");
    expect_fail(lm_stream_open(&s, t, (lm_str[]){LM_STR("a\xff")}, 1, &err), LM_INVALID, err, "UTF-8");
    expect_fail(lm_stream_open(&s, t, many, 300, &err), LM_INVALID, err, "300 stop strings");
    expect_fail(lm_stream_open(&s, t, (lm_str[]){{large, 70000}}, 1, &err), LM_INVALID, err, "65536");
    assert_null(s);
    free(large);
    lm_tokenizer_close(t);
}

/* ---- characters ------------------------------------------------------------------------------------------- */

static lm_tokenizer *open_golden(const char *name) {
    char path[512];
    lm_err err = {0};
    lm_tokenizer *t = NULL;
    snprintf(path, sizeof path, GOLDEN "%s", name);
    expect_ok(lm_tokenizer_open(&t, path, &err), err);
    return t;
}

static void push_all(const lm_tokenizer *t, const int32_t *ids, uint32_t n, lm_buf *out) {
    lm_err err = {0};
    lm_stream *s = NULL;
    bool stopped;
    /* A stop string that never comes must change nothing. */
    expect_ok(lm_stream_open(&s, t, (lm_str[]){LM_STR("\xef\xbf\xbdnever")}, 1, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        expect_ok(lm_stream_push(s, ids[i], out, &stopped, &err), err);
        assert_int_equal(lm_utf8_valid(lm_buf_view(out), NULL), out->len);
    }
    lm_stream_finish(s, out);
    lm_stream_close(s);
}

static void streaming_equals_decoding_at_once(void **state) {
    (void)state;
    static const char *const texts[] = {
        "The quick brown fox", "emoji: \xf0\x9f\x98\x80 and \xe4\xbd\xa0\xe5\xa5\xbd",
        "<|im_start|>user\nHi<|im_end|>", "\xf0\x9d\x94\x98 \xc2\xbd \xe2\x85\xa7"};
    lm_err err = {0};
    lm_buf streamed, decoded;
    lm_tokens ids = {0};
    lm_tokenizer *t = open_golden("byte_level");
    lm_buf_init(&streamed, 1 << 16);
    lm_buf_init(&decoded, 1 << 16);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ids.n = 0;
        lm_buf_clear(&streamed);
        lm_buf_clear(&decoded);
        expect_ok(lm_tokenizer_encode(t, lm_str_of(texts[i]), false, &ids, &err), err);
        push_all(t, ids.ids, ids.n, &streamed);
        expect_ok(lm_tokenizer_decode(t, ids.ids, ids.n, false, &decoded, &err), err);
        assert_true(lm_str_eq(lm_buf_view(&streamed), lm_buf_view(&decoded)));
        assert_true(lm_str_eq(lm_buf_view(&streamed), lm_str_of(texts[i])));
    }
    lm_tokens_release(&ids);
    lm_buf_release(&streamed);
    lm_buf_release(&decoded);
    lm_tokenizer_close(t);
}

/* Random ids of a byte-level vocabulary are mostly broken UTF-8; decoding at once replaces it by the same
 * rules. */
static void broken_utf8_over_tokens_is_replaced_as_at_once(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf streamed, decoded;
    int32_t ids[40];
    uint32_t seed = 7, replaced = 0;
    lm_tokenizer *t = open_golden("byte_level");
    lm_buf_init(&streamed, 1 << 16);
    lm_buf_init(&decoded, 1 << 16);
    for (int round = 0; round < 3000; round++) {
        uint32_t n = 1 + (uint32_t)round % 40;
        for (uint32_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            /* The first 256 tokens are the bytes; upper ones come last in the alphabet. */
            ids[i] = (int32_t)((seed >> 8) % (round % 2 ? 256 : 480));
        }
        lm_buf_clear(&streamed);
        lm_buf_clear(&decoded);
        push_all(t, ids, n, &streamed);
        expect_ok(lm_tokenizer_decode(t, ids, n, false, &decoded, &err), err);
        if (!lm_str_eq(lm_buf_view(&streamed), lm_buf_view(&decoded)))
            fail_msg("round %d: '" LM_STR_FMT "' is not '" LM_STR_FMT "'", round,
                     LM_STR_ARG(lm_buf_view(&streamed)), LM_STR_ARG(lm_buf_view(&decoded)));
        if (strstr(streamed.ptr ? streamed.ptr : "", "\xef\xbf\xbd")) replaced++;
    }
    assert_true(replaced > 1000);
    lm_buf_release(&streamed);
    lm_buf_release(&decoded);
    lm_tokenizer_close(t);
}

static void a_character_of_four_tokens_is_shown_when_whole(void **state) {
    (void)state;
    static const char *const bytes[] = {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"};
    lm_err err = {0};
    lm_buf out;
    lm_stream *s = NULL;
    bool stopped;
    lm_tokenizer *t = open_golden("byte_fallback");
    lm_buf_init(&out, 100);
    expect_ok(lm_stream_open(&s, t, NULL, 0, &err), err);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(out.len, 0);
        expect_ok(lm_stream_push(s, lm_tokenizer_id(t, lm_str_of(bytes[i])), &out, &stopped, &err), err);
    }
    assert_true(lm_str_eq(lm_buf_view(&out), LM_STR("\xf0\x9f\x98\x80")));
    expect_ok(lm_stream_push(s, lm_tokenizer_id(t, LM_STR("<0xF0>")), &out, &stopped, &err), err);
    expect_ok(lm_stream_push(s, 123456789, &out, &stopped, &err), err); /* unknown: adds nothing */
    lm_stream_finish(s, &out);
    assert_true(lm_str_eq(lm_buf_view(&out), LM_STR("\xf0\x9f\x98\x80\xef\xbf\xbd")));
    lm_stream_close(s);
    lm_buf_release(&out);
    lm_tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_strings_are_found_however_tokens_cut_them),
        cmocka_unit_test(the_first_stop_string_to_end_wins_and_the_longest_of_those),
        cmocka_unit_test(no_stop_string_and_empty_ones_show_everything),
        cmocka_unit_test(nothing_comes_after_a_stop),
        cmocka_unit_test(bad_stop_strings_are_refused),
        cmocka_unit_test(streaming_equals_decoding_at_once),
        cmocka_unit_test(broken_utf8_over_tokens_is_replaced_as_at_once),
        cmocka_unit_test(a_character_of_four_tokens_is_shown_when_whole),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
