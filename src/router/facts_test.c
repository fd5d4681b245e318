#include "base/test.h"
#include "router/facts.h"

static router_facts of(const char *method, const char *path, const char *body) {
    router_facts f;
    facts_of(&f, lm_str_of(method), lm_str_of(path), lm_str_of(body));
    return f;
}

/* ---- what is asked for */

typedef struct row {
    const char *method, *path, *body;
    router_route route;
    router_wire wire;
    const char *model;
    bool stream, load_only;
    uint32_t needs;
} row;

#define C NEED_COMPLETION
static const row rows[] = {
    {"POST", "/api/generate", "{\"model\":\"m\",\"prompt\":\"x\"}", ROUTE_INFER, WIRE_OLLAMA, "m", true,
     false, C},
    {"POST", "/api/generate", "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":null}", ROUTE_INFER, WIRE_OLLAMA,
     "m", true, false, C},
    {"POST", "/api/generate", "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":false}", ROUTE_INFER, WIRE_OLLAMA,
     "m", false, false, C},
    {"POST", "/api/generate", "{\"model\":\"m\"}", ROUTE_INFER, WIRE_OLLAMA, "m", false, true, C},
    {"POST", "/api/generate", "{\"Model\":\"m\",\"PROMPT\":\"x\"}", ROUTE_INFER, WIRE_OLLAMA, "m", true,
     false, C},
    {"POST", "/api/generate", "{\"model\":\"m\",\"prompt\":\"x\",\"suffix\":\"y\"}", ROUTE_INFER, WIRE_OLLAMA,
     "m", true, false, C | NEED_INSERT},
    {"POST", "/api/generate", "{\"model\":\"m\",\"prompt\":\"x\",\"images\":[\"AA\"]}", ROUTE_INFER,
     WIRE_OLLAMA, "m", true, false, C | NEED_VISION},
    {"POST", "/api/generate",
     "{\"model\":\"m\",\"prompt\":\"x\",\"images\":[],\"suffix\":\"\",\"format\":\"\"}", ROUTE_INFER,
     WIRE_OLLAMA, "m", true, false, C},
    {"POST", "/api/chat",
     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"format\":\"json\"}",
     ROUTE_INFER, WIRE_OLLAMA, "m", true, false, C | NEED_FORMAT},
    {"POST", "/api/chat",
     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"format\":{\"type\":\"object\"}"
     "}",
     ROUTE_INFER, WIRE_OLLAMA, "m", true, false, C | NEED_FORMAT},
    {"POST", "/api/chat",
     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"images\":[\"AA\"]}],\"tools\":[{}],\"think\":"
     "\"low\"}",
     ROUTE_INFER, WIRE_OLLAMA, "m", true, false, C | NEED_VISION | NEED_TOOLS | NEED_THINKING},
    {"POST", "/api/chat", "{\"model\":\"m\",\"messages\":[],\"tools\":[],\"think\":false}", ROUTE_INFER,
     WIRE_OLLAMA, "m", false, true, C},
    {"POST", "/api/embed", "{\"model\":\"m\",\"input\":[\"x\"]}", ROUTE_INFER, WIRE_OLLAMA, "m", false, false,
     NEED_EMBEDDING},
    {"POST", "/api/embed", "{\"model\":\"m\"}", ROUTE_INFER, WIRE_OLLAMA, "m", false, true, NEED_EMBEDDING},
    {"POST", "/api/embeddings", "{\"model\":\"m\",\"prompt\":\"x\"}", ROUTE_INFER, WIRE_OLLAMA, "m", false,
     false, NEED_EMBEDDING},
    {"POST", "/v1/chat/completions", "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
     ROUTE_INFER, WIRE_OPENAI, "m", false, false, C},
    {"POST", "/v1/chat/completions",
     "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}"
     "]}],"
     "\"response_format\":{\"type\":\"json_schema\"},\"reasoning_effort\":\"low\"}",
     ROUTE_INFER, WIRE_OPENAI, "m", true, false, C | NEED_VISION | NEED_FORMAT | NEED_THINKING},
    {"POST", "/v1/chat/completions",
     "{\"model\":\"m\",\"messages\":[],\"response_format\":{\"type\":\"text\"},\"reasoning_effort\":"
     "\"none\"}",
     ROUTE_INFER, WIRE_OPENAI, "m", false, false, C},
    {"POST", "/v1/completions", "{\"model\":\"m\",\"prompt\":\"x\",\"suffix\":\"y\"}", ROUTE_INFER,
     WIRE_OPENAI, "m", false, false, C | NEED_INSERT},
    {"POST", "/v1/embeddings", "{\"model\":\"m\",\"input\":\"x\"}", ROUTE_INFER, WIRE_OPENAI, "m", false,
     false, NEED_EMBEDDING},
    {"POST", "/v1/responses",
     "{\"model\":\"m\",\"stream\":true,\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]"
     "}],"
     "\"text\":{\"format\":{\"type\":\"json_schema\"}},\"tools\":[{\"type\":\"function\"}]}",
     ROUTE_INFER, WIRE_RESPONSES, "m", true, false, C | NEED_VISION | NEED_FORMAT | NEED_TOOLS},
    {"POST", "/v1/messages",
     "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_"
     "result\",\"content\":"
     "[{\"type\":\"image\"}]}]}],\"thinking\":{\"type\":\"enabled\"}}",
     ROUTE_INFER, WIRE_ANTHROPIC, "m", false, false, C | NEED_VISION},
    {"POST", "/v1/messages/count_tokens", "{\"model\":\"m\",\"messages\":[]}", ROUTE_INFER, WIRE_ANTHROPIC,
     "m", false, false, C},
    {"POST", "/api/show", "{\"name\":\"m\"}", ROUTE_MODEL, WIRE_OLLAMA, "m", false, false, 0},
    {"POST", "/api/show", "{\"model\":\"\",\"name\":\"m\"}", ROUTE_MODEL, WIRE_OLLAMA, "m", false, false, 0},
    {"GET", "/v1/models/org/name:tag", "", ROUTE_MODEL, WIRE_OPENAI, "org/name:tag", false, false, 0},
    {"GET", "/v1/models", "", ROUTE_MERGE, WIRE_OPENAI, "", false, false, 0},
    {"GET", "/api/tags", "", ROUTE_MERGE, WIRE_OLLAMA, "", false, false, 0},
    {"HEAD", "/api/tags", "", ROUTE_MERGE, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/api/ps", "", ROUTE_MERGE, WIRE_OLLAMA, "", false, false, 0},
    {"POST", "/api/pull", "{\"name\":\"m\"}", ROUTE_WRITE, WIRE_OLLAMA, "m", true, false, 0},
    {"POST", "/api/push", "{\"model\":\"m\",\"stream\":false}", ROUTE_WRITE, WIRE_OLLAMA, "m", false, false,
     0},
    {"POST", "/api/create", "{\"model\":\"m\",\"from\":\"n\"}", ROUTE_WRITE, WIRE_OLLAMA, "m", true, false,
     0},
    {"POST", "/api/copy", "{\"source\":\"m\",\"destination\":\"n\"}", ROUTE_WRITE, WIRE_OLLAMA, "m", false,
     false, 0},
    {"DELETE", "/api/delete", "{\"model\":\"m\"}", ROUTE_WRITE, WIRE_OLLAMA, "m", false, false, 0},
    {"HEAD", "/api/blobs/sha256:00", "", ROUTE_WRITE, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/api/status", "", ROUTE_PASS, WIRE_OLLAMA, "", false, false, 0},
    {"POST", "/api/me", "", ROUTE_PASS, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/", "", ROUTE_OWN, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/api/tagsx", "", ROUTE_UNKNOWN, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/api/generate", "", ROUTE_UNKNOWN, WIRE_OLLAMA, "", false, false, 0},
    {"GET", "/v1/models/", "", ROUTE_UNKNOWN, WIRE_OLLAMA, "", false, false, 0},
    /* what is none, or has no model, is passed on as it is */
    {"POST", "/api/chat", "{\"model\":", ROUTE_INFER, WIRE_OLLAMA, "", false, false, C},
    {"POST", "/api/chat", "[1]", ROUTE_INFER, WIRE_OLLAMA, "", false, false, C},
    {"POST", "/api/chat", "", ROUTE_INFER, WIRE_OLLAMA, "", false, false, C},
    {"POST", "/api/chat", "{\"model\":5,\"messages\":7}", ROUTE_INFER, WIRE_OLLAMA, "", false, true, C},
    {"POST", "/api/chat", "{\"model\":\"a\\u0000b\",\"messages\":[1]}", ROUTE_INFER, WIRE_OLLAMA, "", true,
     false, C},
};

static void every_route_says_what_it_needs(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const row *r = &rows[i];
        router_facts f = of(r->method, r->path, r->body);
        if (f.route != r->route || f.wire != r->wire || strcmp(f.model, r->model) || f.stream != r->stream ||
            f.load_only != r->load_only || f.needs != r->needs)
            fail_msg("%s %s %s: route %d wire %d model '%s' stream %d load %d needs %x", r->method, r->path,
                     r->body, f.route, f.wire, f.model, f.stream, f.load_only, f.needs);
        facts_release(&f);
    }
}

static void a_context_length_is_read_where_it_is_one(void **state) {
    (void)state;
    static const struct {
        const char *options;
        uint32_t want;
    } cases[] = {{"{\"num_ctx\":8192}", 8192},
                 {"{\"num_ctx\":-1}", 0},
                 {"{\"num_ctx\":\"x\"}", 0},
                 {"{}", 0},
                 {"5", 0},
                 {"{\"num_ctx\":99999999999}", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"model\":\"m\",\"prompt\":\"x\",\"options\":%s}", cases[i].options);
        router_facts f = of("POST", "/api/generate", body);
        assert_int_equal(f.num_ctx, cases[i].want);
        facts_release(&f);
    }
}

static void a_name_longer_than_names_are_is_nobodys(void **state) {
    (void)state;
    char body[2000] = "{\"prompt\":\"x\",\"model\":\"";
    size_t n = strlen(body);
    memset(body + n, 'a', 800);
    strcpy(body + n + 800, "\"}");
    router_facts f = of("POST", "/api/generate", body);
    assert_string_equal(f.model, "");
    facts_release(&f);
}

static void a_known_path_says_its_methods(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 1000);
    facts_allowed(LM_STR("/api/tags"), &b);
    assert_string_equal(b.ptr, "GET, HEAD");
    lm_buf_clear(&b);
    facts_allowed(LM_STR("/nothing"), &b);
    assert_int_equal(b.len, 0);
    lm_buf_release(&b);
}

/* ---- conversations */

static uint64_t whole(const router_facts *f) {
    return f->n_prefixes ? f->prefixes[f->n_prefixes - 1] : 0;
}

static bool continues(const router_facts *later, const router_facts *earlier) {
    for (uint32_t i = 0; i < later->n_prefixes; i++)
        if (later->prefixes[i] == whole(earlier)) return true;
    return false;
}

#define TURN1 "{\"role\":\"user\",\"content\":\"first\"}"
#define TURN2 TURN1 ",{\"role\":\"assistant\",\"content\":\"yes\"},{\"role\":\"user\",\"content\":\"second\"}"

static void a_later_turn_continues_an_earlier_one(void **state) {
    (void)state;
    static const struct {
        const char *path, *one, *two;
        bool same;
    } cases[] = {
        {"/api/chat", "{\"model\":\"m\",\"messages\":[" TURN1 "]}",
         "{\"model\":\"m\",\"messages\":[" TURN2 "]}", true},
        {"/v1/chat/completions", "{\"model\":\"m\",\"messages\":[" TURN1 "]}",
         "{\"messages\":[" TURN2 "],\"model\":\"m\"}", true},
        {"/api/chat", "{\"model\":\"m\",\"messages\":[" TURN1 "]}",
         "{\"model\":\"n\",\"messages\":[" TURN2 "]}", false},
        {"/api/chat", "{\"model\":\"m\",\"messages\":[" TURN2 "]}",
         "{\"model\":\"m\",\"messages\":[" TURN1 "]}", false},
        {"/api/chat", "{\"model\":\"m\",\"messages\":[" TURN1 "],\"tools\":[1]}",
         "{\"model\":\"m\",\"messages\":[" TURN2 "]}", false},
        /* marks for caches move on with the conversation, and turn texts into lists */
        {"/v1/messages",
         "{\"model\":\"m\",\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
         "\"text\":\"first\","
         "\"cache_control\":{\"type\":\"ephemeral\"}}]}]}",
         "{\"model\":\"m\",\"system\":[{\"type\":\"text\",\"text\":\"s\",\"cache_control\":{}}],\"messages\":"
         "[" TURN2 "]}",
         true},
        {"/v1/responses", "{\"model\":\"m\",\"instructions\":\"s\",\"input\":[" TURN1 "]}",
         "{\"model\":\"m\",\"instructions\":\"s\",\"input\":[" TURN2 "]}", true},
        {"/v1/responses", "{\"model\":\"m\",\"instructions\":\"s\",\"input\":[" TURN1 "]}",
         "{\"model\":\"m\",\"instructions\":\"t\",\"input\":[" TURN2 "]}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        router_facts one = of("POST", cases[i].path, cases[i].one),
                     two = of("POST", cases[i].path, cases[i].two);
        assert_true(one.n_prefixes > 0 && two.n_prefixes > 0);
        if (continues(&two, &one) != cases[i].same) fail_msg("case %zu", i);
        facts_release(&one);
        facts_release(&two);
    }
}

static void prompts_with_the_same_beginning_share_a_prefix(void **state) {
    (void)state;
    char long_text[3000], body[2][4000];
    memset(long_text, 'a', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    for (int i = 0; i < 2; i++) {
        long_text[2500] = i ? 'x' : 'y';
        snprintf(body[i], sizeof body[i], "{\"model\":\"m\",\"prompt\":\"%s\"}", long_text);
    }
    router_facts a = of("POST", "/api/generate", body[0]), b = of("POST", "/api/generate", body[1]);
    assert_true(a.n_prefixes > 2);
    assert_int_equal(a.prefixes[0], b.prefixes[0]);
    assert_int_equal(a.prefixes[1], b.prefixes[1]);
    assert_int_not_equal(whole(&a), whole(&b));
    assert_int_equal(a.n_prompt, 2999);
    facts_release(&a);
    facts_release(&b);
}

static void of_a_long_conversation_the_last_prefixes_stay(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 1 << 20);
    lm_buf_text(&b, "{\"model\":\"m\",\"messages\":[");
    for (int i = 0; i < 200; i++)
        lm_buf_printf(&b, "%s{\"role\":\"user\",\"content\":\"message %d\"}", i ? "," : "", i);
    router_facts f[2];
    for (int i = 0; i < 2; i++) {
        size_t len = b.len;
        lm_buf_text(&b, "]}");
        facts_of(&f[i], LM_STR("POST"), LM_STR("/api/chat"), lm_buf_view(&b));
        b.len = len;
        lm_buf_text(&b, ",{\"role\":\"user\",\"content\":\"one more\"}");
    }
    assert_int_equal(f[0].n_prefixes, FACTS_PREFIXES);
    assert_true(continues(&f[1], &f[0]));
    assert_int_equal(f[1].prefixes[0], f[0].prefixes[1]);
    facts_release(&f[0]);
    facts_release(&f[1]);
    lm_buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_says_what_it_needs),
        cmocka_unit_test(a_context_length_is_read_where_it_is_one),
        cmocka_unit_test(a_name_longer_than_names_are_is_nobodys),
        cmocka_unit_test(a_known_path_says_its_methods),
        cmocka_unit_test(a_later_turn_continues_an_earlier_one),
        cmocka_unit_test(prompts_with_the_same_beginning_share_a_prefix),
        cmocka_unit_test(of_a_long_conversation_the_last_prefixes_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
