#include "base/json.h"
#include "base/test.h"
#include "router/hygiene.h"

#define BILLING_1 "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"
#define BILLING_2                                                                                            \
    "x-anthropic-billing-header: cc_version=2.1.177.9ab; cc_entrypoint=cli; cch=0aaa9; cc_workload=cron;"
#define LEFT(n) "<total_tokens>" #n " tokens left</total_tokens>"
#define TEXT(t) "{\"type\":\"text\",\"text\":\"" t "\"}"

typedef struct row {
    router_wire wire;
    const char *before, *after; /* after NULL: stays */
    uint32_t n_markers, bytes_behind;
} row;

static const row rows[] = {
    /* Claude Code: the first text of the system is the billing block, of its own */
    {WIRE_ANTHROPIC,
     "{\"system\":[" TEXT(BILLING_1) "," TEXT(
         "You are Claude Code") "],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
     "{\"system\":[" TEXT("You are Claude Code") "],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
     1, 21},
    {WIRE_ANTHROPIC,
     "{\"system\":[" TEXT(BILLING_2) "," TEXT(
         "You are Claude Code") "],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
     "{\"system\":[" TEXT("You are Claude Code") "],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
     1, 21},
    /* as one text, by those who join them */
    {WIRE_ANTHROPIC, "{\"system\":\"" BILLING_1 "\\nYou are Claude Code\"}",
     "{\"system\":\"You are Claude Code\"}", 1, 19},
    {WIRE_ANTHROPIC, "{\"system\":\"" BILLING_1 " You are Claude Code\"}",
     "{\"system\":\"You are Claude Code\"}", 1, 19},
    {WIRE_ANTHROPIC, "{\"system\":\"" BILLING_1 "\"}", "{}", 1, 0},
    {WIRE_OLLAMA,
     "{\"messages\":[{\"role\":\"system\",\"content\":\"" BILLING_1
     "\\nYou\"},{\"role\":\"user\",\"content\":\"hi\"}]}",
     "{\"messages\":[{\"role\":\"system\",\"content\":\"You\"},{\"role\":\"user\",\"content\":\"hi\"}]}", 1,
     5},
    {WIRE_OPENAI,
     "{\"messages\":[{\"role\":\"developer\",\"content\":[" TEXT(BILLING_1) "," TEXT("You") "]}]}",
     "{\"messages\":[{\"role\":\"developer\",\"content\":[" TEXT("You") "]}]}", 1, 3},
    {WIRE_RESPONSES, "{\"instructions\":\"" BILLING_1 "\\nYou\",\"input\":\"hello\"}",
     "{\"instructions\":\"You\",\"input\":\"hello\"}", 1, 3},
    {WIRE_OLLAMA, "{\"system\":\"" BILLING_1 "\\nYou\",\"prompt\":\"hello\"}",
     "{\"system\":\"You\",\"prompt\":\"hello\"}", 1, 8},
    /* somebody who speaks of it */
    {WIRE_ANTHROPIC, "{\"system\":\"What is " BILLING_1 "?\"}", NULL, 0, 0},
    {WIRE_ANTHROPIC, "{\"messages\":[{\"role\":\"user\",\"content\":\"" BILLING_1 "\"}]}", NULL, 0, 0},

    /* Claude Code: what is left, as messages of the system */
    {WIRE_ANTHROPIC,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"system\",\"content\":[" TEXT(
         LEFT(15000000)) "]},"
                         "{\"role\":\"assistant\",\"content\":\"done\"}]}",
     "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"assistant\",\"content\":\"done\"}]}",
     1, 4},
    {WIRE_OPENAI,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"system\",\"content\":\"" LEFT(
         1499) "\"}]}",
     "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"}]}", 1, 0},
    /* and at the end of its text, one more with each request */
    {WIRE_ANTHROPIC, "{\"system\":\"You\\n" LEFT(14999436) "\"}", "{\"system\":\"You\"}", 1, 0},
    {WIRE_ANTHROPIC, "{\"system\":\"You\\n" LEFT(14999436) "\\n" LEFT(14990000) "\\n\"}",
     "{\"system\":\"You\"}", 2, 0},
    {WIRE_ANTHROPIC, "{\"system\":\"You" LEFT(14999436) "\"}", "{\"system\":\"You\"}", 1, 0},
    {WIRE_ANTHROPIC, "{\"system\":\"You\\n" LEFT(5) "\\nare\"}", "{\"system\":\"You\\nare\"}", 1, 3},
    {WIRE_ANTHROPIC, "{\"system\":\"You\\n" LEFT(5) "\\n" LEFT(4) "\\nare\"}", "{\"system\":\"You\\nare\"}",
     2, 3},
    {WIRE_ANTHROPIC, "{\"system\":[" TEXT(BILLING_1) "," TEXT("You") "," TEXT(LEFT(9)) "]}",
     "{\"system\":[" TEXT("You") "]}", 2, 3},
    /* the only message stays one */
    {WIRE_OLLAMA, "{\"messages\":[{\"role\":\"system\",\"content\":\"" LEFT(1) "\"}]}",
     "{\"messages\":[{\"role\":\"system\",\"content\":\"\"}]}", 1, 0},
    /* somebody who speaks of it */
    {WIRE_ANTHROPIC, "{\"system\":\"It says " LEFT(5) " to you.\"}", NULL, 0, 0},
    {WIRE_ANTHROPIC, "{\"system\":\"<total_tokens>N tokens left</total_tokens>\"}", NULL, 0, 0},
    {WIRE_ANTHROPIC, "{\"system\":\"<total_tokens> tokens left</total_tokens>\"}", NULL, 0, 0},
    {WIRE_ANTHROPIC, "{\"messages\":[{\"role\":\"user\",\"content\":\"" LEFT(5) "\"}]}", NULL, 0, 0},
    {WIRE_OLLAMA, "{\"messages\":[{\"role\":\"tool\",\"content\":\"" LEFT(5) "\"}]}", NULL, 0, 0},

    /* tools */
    {WIRE_OPENAI, "{\"tools\":[{\"function\":{\"name\":\"b\"}},{\"function\":{\"name\":\"a\"}}]}",
     "{\"tools\":[{\"function\":{\"name\":\"a\"}},{\"function\":{\"name\":\"b\"}}]}", 0, 0},
    {WIRE_ANTHROPIC, "{\"tools\":[{\"name\":\"b\"},{\"name\":\"a\"}]}",
     "{\"tools\":[{\"name\":\"a\"},{\"name\":\"b\"}]}", 0, 0},
    {WIRE_ANTHROPIC, "{\"tools\":[{\"name\":\"b\"},{\"type\":\"web_search\"}]}", NULL, 0, 0},
    {WIRE_ANTHROPIC, "{\"tools\":[{\"name\":\"b\",\"x\":1},{\"name\":\"a\"},{\"name\":\"b\"}]}", NULL, 0, 0},
    {WIRE_OLLAMA,
     "{\"tools\":[{\"function\":{\"name\":\"a\",\"parameters\":{\"required\":[\"z\",\"y\"],\"properties\":{"
     "\"z\":{\"description\":\"d\","
     "\"type\":\"string\"},\"y\":{\"type\":\"integer\"}},\"type\":\"object\"}}}]}",
     "{\"tools\":[{\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\",\"properties\":{\"z\":{"
     "\"type\":\"string\","
     "\"description\":\"d\"},\"y\":{\"type\":\"integer\"}},\"required\":[\"y\",\"z\"]}}}]}",
     0, 0},
    /* a parameter that is called like a word of schemas is no schema's word; enum's order is its own */
    {WIRE_ANTHROPIC,
     "{\"tools\":[{\"name\":\"a\",\"input_schema\":{\"type\":\"object\",\"properties\":{\"zeta\":{\"type\":"
     "\"string\",\"enum\":[\"b\",\"a\"]},"
     "\"type\":{\"type\":\"string\"}}}}]}",
     NULL, 0, 0},

    {WIRE_OLLAMA, "{\"system\":5,\"messages\":{\"role\":\"system\"},\"tools\":\"x\"}", NULL, 0, 0},
    {WIRE_OLLAMA,
     "{\"messages\":[5,[],{\"role\":7},{\"role\":\"system\"},{\"role\":\"system\",\"content\":[1,{\"text\":2}"
     "]}]}",
     NULL, 0, 0},
};

static void each_marker_goes_from_where_its_client_puts_it(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const row *r = &rows[i];
        json_t *body = NULL, *want = NULL;
        lm_err err = {0};
        hygiene_report report;
        lm_buf got;
        lm_buf_init(&got, 100000);
        expect_ok(lm_json_parse(lm_str_of(r->before), &body, &err), err);
        expect_ok(lm_json_parse(lm_str_of(r->after ? r->after : r->before), &want, &err), err);
        hygiene_clean(body, r->wire, &report);
        lm_json_write_same(&got, body);
        assert_string_equal(got.ptr, r->after ? r->after : r->before);
        assert_int_equal(report.changed, r->after != NULL);
        assert_int_equal(report.n_markers, r->n_markers);
        if (report.bytes_behind != r->bytes_behind)
            fail_msg("%s: %u bytes behind", r->before, report.bytes_behind);
        hygiene_clean(body, r->wire, &report);
        assert_false(report.changed); /* what is clean stays as it is */
        json_decref(body);
        json_decref(want);
        lm_buf_release(&got);
    }
}

static void turns_of_one_conversation_share_their_prefix_again(void **state) {
    (void)state;
    static const char *const turns[] = {
        "{\"model\":\"m\",\"system\":[" TEXT(BILLING_1) "," TEXT(
            "You") "],\"messages\":[{\"role\":\"user\",\"content\":\"one\"}]}",
        "{\"model\":\"m\",\"system\":[" TEXT(BILLING_2) "," TEXT(
            "You") "],\"messages\":[{\"role\":\"user\",\"content\":\"one\"},"
                   "{\"role\":\"system\",\"content\":\"" LEFT(
                       7) "\"},{\"role\":\"assistant\",\"content\":\"two\"},{\"role\":\"user\",\"content\":"
                          "\"three\"}]}"};
    uint64_t first[2];
    for (int i = 0; i < 2; i++) {
        router_facts f;
        hygiene_report report;
        facts_of(&f, LM_STR("POST"), LM_STR("/v1/messages"), lm_str_of(turns[i]));
        hygiene_clean(f.body, f.wire, &report);
        facts_count(&f);
        first[i] = f.prefixes[0];
        facts_release(&f);
    }
    assert_int_equal(first[0], first[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_marker_goes_from_where_its_client_puts_it),
        cmocka_unit_test(turns_of_one_conversation_share_their_prefix_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
