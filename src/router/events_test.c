/* Streams of all four wires, cut at every byte. */
#include "base/test.h"
#include "router/events.h"

typedef struct heard {
    lm_buf log; /* a letter for each event: n g e x, E for an end; then its bytes where asked */
    lm_buf bytes;
    char text[256];
    unsigned stop_after, n;
} heard;

static bool note(void *ctx, const event *e) {
    heard *h = ctx;
    static const char letters[] = "ngex";
    lm_buf_char(&h->log, e->end ? 'E' : letters[e->kind]);
    lm_buf_str(&h->bytes, e->bytes);
    if (e->kind == EVENT_ERROR) snprintf(h->text, sizeof h->text, "%s", e->text);
    return !h->stop_after || ++h->n < h->stop_after;
}

static void heard_init(heard *h) {
    *h = (heard){0};
    lm_buf_init(&h->log, 1 << 20);
    lm_buf_init(&h->bytes, 64 << 20);
    lm_buf_text(&h->log, "");
    lm_buf_text(&h->bytes, "");
}

static void heard_release(heard *h) {
    lm_buf_release(&h->log);
    lm_buf_release(&h->bytes);
}

typedef struct row {
    router_wire wire;
    const char *stream, *log, *text, *bytes; /* bytes NULL: as the stream is */
} row;

static const row rows[] = {
    /* Ollama */
    {WIRE_OLLAMA, "{\"model\":\"m\",\"response\":\"a\",\"done\":false}\n{\"model\":\"m\",\"done\":true}\n",
     "gE", "", NULL},
    {WIRE_OLLAMA, "{\"message\":{\"content\":\"\\\"done\\\":true \\\\\"},\"done\":false}\r\n", "g", "",
     "{\"message\":{\"content\":\"\\\"done\\\":true \\\\\"},\"done\":false}\n"},
    {WIRE_OLLAMA, "{\"message\":{\"error\":\"no\",\"done\":true},\"done\":false}\n", "g", "", NULL},
    {WIRE_OLLAMA, "{\"response\":\"x\"}\n{\"error\":\"out of \\\"memory\\\"\"}\n", "ge", "out of \"memory\"",
     NULL},
    {WIRE_OLLAMA, "{\"error\" : { \"message\" : \"deep\" } }\n", "e", "deep", NULL},
    {WIRE_OLLAMA, "{\"error\":null,\"done\":true}\n", "E", "", NULL},
    {WIRE_OLLAMA, "{\"error\":7}\n", "e", "an error without a text", NULL},
    {WIRE_OLLAMA, "\n\n{\"status\":\"pulling manifest\"}\n\n{\"status\":\"success\"}\n", "gE", "",
     "{\"status\":\"pulling manifest\"}\n{\"status\":\"success\"}\n"},
    {WIRE_OLLAMA, "{\"response\":\"half", "", "", ""},
    {WIRE_OLLAMA, "{\"response\":\"half\n", "x", "", NULL},
    {WIRE_OLLAMA, "<html>\n", "x", "", NULL},
    {WIRE_OLLAMA, "[1]\n", "x", "", NULL},
    {WIRE_OLLAMA, "{\"a\":nonsense}\n", "x", "", NULL}, /* the first one is parsed */
    {WIRE_OLLAMA, "{\"a\":1} {\"b\":2}\n", "x", "", NULL},
    {WIRE_OLLAMA, "{}\n{\"a\":1,}\n{,}\n{\"a\"}\n{\"a\":}\n", "gxxxx", "", NULL},
    /* OpenAI */
    {WIRE_OPENAI, "data: {\"id\":\"1\",\"choices\":[]}\n\ndata: [DONE]\n\n", "gE", "", NULL},
    {WIRE_OPENAI, ": ping\n\n\n\ndata:{\"choices\":[]}\r\n\r\n", "ng", "",
     ": ping\n\ndata:{\"choices\":[]}\n\n"},
    {WIRE_OPENAI, "data: {\"error\":{\"message\":\"no room\",\"type\":\"x\"}}\n\n", "e", "no room", NULL},
    {WIRE_OPENAI, "data: {\"error\":null,\ndata: \"choices\":[]}\n\n", "g", "", NULL},
    {WIRE_OPENAI, "data: hello\n\n", "x", "", NULL},
    {WIRE_OPENAI, "event: x\nid: 7\n\n", "n", "", NULL},
    {WIRE_OPENAI, "data: {\"a\":1}\n", "", "", ""},
    /* Responses */
    {WIRE_RESPONSES,
     "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n"
     "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
     "gE", "", NULL},
    {WIRE_RESPONSES, "data: {\"type\":\"response.incomplete\"}\n\n", "E", "", NULL},
    {WIRE_RESPONSES,
     "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"broken\"}}}\n\n", "e",
     "broken", NULL},
    {WIRE_RESPONSES, "data: {\"type\":\"error\",\"message\":\"flat\"}\n\n", "e", "flat", NULL},
    {WIRE_RESPONSES, "data: {\"type\":\"x.delta\",\"delta\":\"\\\"type\\\":\\\"error\\\"\"}\n\n", "g", "",
     NULL},
    /* Anthropic */
    {WIRE_ANTHROPIC,
     "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n"
     "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
     "gnE", "", NULL},
    {WIRE_ANTHROPIC,
     "event: error\ndata: "
     "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
     "e", "Overloaded", NULL},
    {WIRE_ANTHROPIC, "data: [DONE]\n\n", "x", "", NULL},
};

static void feed_cut(events *e, heard *h, const char *stream, size_t cut) {
    lm_err err = {0};
    lm_str all = lm_str_of(stream);
    expect_ok(events_feed(e, (lm_str){all.ptr, cut}, note, h, &err), err);
    expect_ok(events_feed(e, (lm_str){all.ptr + cut, all.len - cut}, note, h, &err), err);
}

static void each_wire_says_what_it_says_wherever_it_is_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t cut = 0; cut <= strlen(rows[i].stream); cut++) {
            const row *r = &rows[i];
            events e;
            heard h;
            heard_init(&h);
            events_init(&e, r->wire, NULL, NULL);
            feed_cut(&e, &h, r->stream, cut);
            const char *bytes = r->bytes ? r->bytes : r->stream;
            if (strcmp(h.log.ptr, r->log) || strcmp(h.text, r->text) || strcmp(h.bytes.ptr, bytes))
                fail_msg("%s\nis %s '%s' %s", r->stream, h.log.ptr, h.text, h.bytes.ptr);
            heard_release(&h);
            events_release(&e);
        }
}

static void the_models_name_is_put_back_where_an_event_names_it(void **state) {
    (void)state;
    static const struct {
        router_wire wire;
        const char *stream, *want;
    } echoes[] = {
        {WIRE_OLLAMA,
         "{\"model\":\"org/Tiny-4bit\",\"message\":{\"model\":\"org/Tiny-4bit\"},\"done\":true}\n",
         "{\"model\":\"a\\\"b\",\"message\":{\"model\":\"org/Tiny-4bit\"},\"done\":true}\n"},
        {WIRE_OLLAMA, "{ \"done\":true, \"model\" : \"ORG\\/tiny-4bit:latest\" }\n",
         "{ \"done\":true, \"model\" : \"a\\\"b\" }\n"},
        {WIRE_OLLAMA, "{\"model\":\"other\",\"done\":true}\n", "{\"model\":\"other\",\"done\":true}\n"},
        {WIRE_OLLAMA, "{\"model\":7,\"done\":true}\n", "{\"model\":7,\"done\":true}\n"},
        {WIRE_OLLAMA, "{\"error\":\"org/tiny-4bit\"}\n", "{\"error\":\"org/tiny-4bit\"}\n"},
        {WIRE_OPENAI, "id: 1\ndata: {\"model\":\"org/tiny-4bit\",\"x\":1}\n\ndata: [DONE]\n\n",
         "id: 1\ndata: {\"model\":\"a\\\"b\",\"x\":1}\n\ndata: [DONE]\n\n"},
        {WIRE_OPENAI, "data: {\"model\":\ndata: \"org/tiny-4bit\"}\nid: 1\n\n",
         "id: 1\ndata: {\"model\":\ndata: \"a\\\"b\"}\n\n"},
        {WIRE_ANTHROPIC,
         "event: message_start\ndata: "
         "{\"type\":\"message_start\",\"message\":{\"id\":\"1\",\"model\":\"org/tiny-4bit\"}}\n\n",
         "event: message_start\ndata: "
         "{\"type\":\"message_start\",\"message\":{\"id\":\"1\",\"model\":\"a\\\"b\"}}\n\n"},
        {WIRE_RESPONSES,
         "data: {\"type\":\"response.created\",\"response\":{\"model\":\"org/tiny-4bit\"}}\n\n",
         "data: {\"type\":\"response.created\",\"response\":{\"model\":\"a\\\"b\"}}\n\n"},
    };
    for (size_t i = 0; i < sizeof echoes / sizeof *echoes; i++)
        for (size_t cut = 0; cut <= strlen(echoes[i].stream); cut++) {
            events e;
            heard h;
            heard_init(&h);
            events_init(&e, echoes[i].wire, "org/tiny-4bit", "a\"b");
            feed_cut(&e, &h, echoes[i].stream, cut);
            assert_string_equal(h.bytes.ptr, echoes[i].want);
            heard_release(&h);
            events_release(&e);
        }
}

static void an_event_without_an_end_is_bounded(void **state) {
    (void)state;
    static const router_wire wires[] = {WIRE_OLLAMA, WIRE_OPENAI, WIRE_OPENAI};
    static const char *const pieces[] = {"0123456789abcdef", "data: 0123456789\n", ": 3456789\n"};
    for (size_t i = 0; i < sizeof wires / sizeof *wires; i++) {
        events e;
        heard h;
        lm_err err = {0};
        lm_status st = LM_OK;
        size_t fed = 0;
        heard_init(&h);
        events_init(&e, wires[i], NULL, NULL);
        for (; st == LM_OK && fed < 4 * (size_t)EVENT_MAX; fed += strlen(pieces[i]))
            st = events_feed(&e, lm_str_of(pieces[i]), note, &h, &err);
        assert_int_equal(st, LM_TOO_LARGE);
        assert_true(fed <= EVENT_MAX + 64);
        assert_string_equal(h.log.ptr, "");
        heard_release(&h);
        events_release(&e);
    }
}

static void who_takes_them_may_stop(void **state) {
    (void)state;
    events e;
    heard h;
    heard_init(&h);
    h.stop_after = 2;
    events_init(&e, WIRE_OLLAMA, NULL, NULL);
    assert_int_equal(events_feed(&e, LM_STR("{}\n{}\n{}\n"), note, &h, NULL), LM_CANCELLED);
    assert_string_equal(h.log.ptr, "gg");
    heard_release(&h);
    events_release(&e);
}

static void a_whole_answer_is_judged_and_its_model_put_back(void **state) {
    (void)state;
    static const struct {
        const char *body;
        event_kind kind;
        const char *want;
        bool partly;
    } wholes[] = {
        {"{\"model\":\"from\",\"done\":true}", EVENT_GOOD, "{\"model\":\"to\",\"done\":true}", false},
        {"{\"model\":\"from\",\"embeddings\":[[0.1,", EVENT_GARBAGE, NULL, false},
        {"{\"model\":\"from\",\"embeddings\":[[0.1,", EVENT_GOOD, "{\"model\":\"to\",\"embeddings\":[[0.1,",
         true},
        {"{\"error\":\"no\"}", EVENT_ERROR, NULL, false},
        {"[1,2]", EVENT_GOOD, NULL, false},
        {"", EVENT_GARBAGE, NULL, false},
        {"<html>", EVENT_GARBAGE, NULL, false},
    };
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++) {
        lm_buf out;
        event said;
        lm_buf_init(&out, 1 << 20);
        events_whole(WIRE_OLLAMA, lm_str_of(wholes[i].body), wholes[i].partly, "from", "to", &out, &said);
        if (said.kind != wholes[i].kind) fail_msg("%s is %d", wholes[i].body, said.kind);
        assert_true(lm_str_eq(said.bytes, lm_str_of(wholes[i].want ? wholes[i].want : wholes[i].body)));
        lm_buf_release(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_wire_says_what_it_says_wherever_it_is_cut),
        cmocka_unit_test(the_models_name_is_put_back_where_an_event_names_it),
        cmocka_unit_test(an_event_without_an_end_is_bounded),
        cmocka_unit_test(who_takes_them_may_stop),
        cmocka_unit_test(a_whole_answer_is_judged_and_its_model_put_back),
    };
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
