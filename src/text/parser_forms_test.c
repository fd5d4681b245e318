/* Each family's form of tool calls: what its template makes of a conversation is found again, and so is what
 * its models write, however it is cut. */
#include "text/parser_cases.h"

#define BAR          "\xef\xbd\x9c"
#define BLOCK        "\xe2\x96\x81"
#define DS_CALLS     "<" BAR "tool" BLOCK "calls" BLOCK "begin" BAR ">"
#define DS_CALLS_END "<" BAR "tool" BLOCK "calls" BLOCK "end" BAR ">"
#define DS_CALL      "<" BAR "tool" BLOCK "call" BLOCK "begin" BAR ">"
#define DS_CALL_END  "<" BAR "tool" BLOCK "call" BLOCK "end" BAR ">"
#define DS_SEP       "<" BAR "tool" BLOCK "sep" BAR ">"

#define EACH(call) "{%- for c in calls %}{% set c = c.function %}" call "{%- endfor %}"

typedef struct family {
    const char *name;
    const char *turn;       /* how the template writes calls */
    const char *markers[8]; /* special tokens */
    const char *begin;      /* how a call begins; NULL: its form has no grammar */
} family;

static const family families[] = {
    {"qwen",
     EACH("\n<tool_call>\n{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson "
          "}}}\n</tool_call>"),
     {"<tool_call>", "</tool_call>"},
     "<tool_call>"},
    {"qwen3-coder",
     EACH("\n<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments | items %}<parameter={{ k }}>\n"
          "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"),
     {"<tool_call>", "</tool_call>"},
     "<tool_call>\n<fun"},
    {"llama",
     "{%- for c in calls[:1] %}{\"name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments "
     "| tojson "
     "}}}{%- endfor %}",
     {"<|python_tag|>"},
     "{\"name\""},
    {"mistral, list",
     "[TOOL_CALLS] [" EACH(
         "{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}, \"id\": \"abcdefghi\"}"
         "{{ '' if loop.last else ', ' }}") "]",
     {"[TOOL_CALLS]", "[ARGS]"},
     "[TOOL_CALLS]"},
    {"mistral, named",
     EACH("[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}"),
     {"[TOOL_CALLS]", "[ARGS]"},
     "[TOOL_CALLS]f["},
    {"mistral, named with ids",
     EACH("[TOOL_CALLS]{{ c.name }}[CALL_ID]abcdefghi[ARGS]{{ c.arguments | tojson }}"),
     {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"},
     "[TOOL_CALLS]f[CALL_ID]abc"},
    {"deepseek v3",
     DS_CALLS "{%- for c in calls %}{{ '\\n' if not loop.first }}" DS_CALL "function" DS_SEP
              "{{ c.function.name }}\n```json\n{{ c.function.arguments | tojson }}\n```" DS_CALL_END
              "{%- endfor %}" DS_CALLS_END,
     {DS_CALLS, DS_CALLS_END, DS_CALL, DS_CALL_END, DS_SEP},
     DS_CALLS DS_CALL "function" DS_SEP},
    {"deepseek v3.1",
     DS_CALLS EACH(DS_CALL "{{ c.name }}" DS_SEP "{{ c.arguments | tojson }}" DS_CALL_END) DS_CALLS_END,
     {DS_CALLS, DS_CALLS_END, DS_CALL, DS_CALL_END, DS_SEP},
     DS_CALLS DS_CALL},
    {"phi-4-mini",
     EACH("<|tool_call|>{{ c | tojson }}<|/tool_call|>"),
     {"<|tool_call|>", "<|/tool_call|>"},
     "<|tool_call|>{"},
    {"phi-4-mini, list",
     "<|tool_call|>{{ calls | tojson }}<|/tool_call|>",
     {"<|tool_call|>", "<|/tool_call|>"},
     "<|tool_call|>["},
    {"phi-4-mini, functools",
     "functools[" EACH("{{ c | tojson }}{{ '' if loop.last else ', ' }}") "]",
     {"<|tool_call|>", "<|/tool_call|>"},
     "functools["},
    {"gemma, python",
     "```tool_code\n" EACH("print({{ c.name }}({% for k, v in c.arguments | items %}{{ k }}={{ v | tojson }}"
                           "{{ '' if loop.last else ', ' }}{% endfor %}))\n") "```",
     {"<end_of_turn>"},
     NULL},
    {"gemma, json",
     EACH("```json\n{\"name\": \"{{ c.name }}\", \"parameters\": {{ c.arguments | tojson }}}\n```\n"),
     {"<end_of_turn>"},
     "```json"},
    {"command r7b",
     "<|START_ACTION|>[\n" EACH(
         "    {\"tool_call_id\": \"{{ loop.index0 }}\", \"tool_name\": \"{{ c.name }}\", "
         "\"parameters\": {{ c.arguments | tojson }}}{{ '' if loop.last else ',' }}\n") "]"
                                                                                        "<|END_ACTION|>",
     {"<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>",
      "<|END_THINKING|>"},
     "<|START_ACTION|>"},
    {"command r",
     "\nAction:\n```json\n[\n" EACH(
         "    {\n        \"tool_name\": \"{{ c.name }}\",\n        \"parameters\": "
         "{{ c.arguments | tojson(indent=4) }}\n    }{{ '' if loop.last else ',' }}\n") "]```",
     {"<|END_OF_TURN_TOKEN|>"},
     "Action:"},
    {"granite 3",
     "<|tool_call|>[" EACH("{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}}"
                           "{{ '' if loop.last else ', ' }}") "]",
     {"<|tool_call|>"},
     "<|tool_call|>"},
    {"granite 3.1",
     "<tool_call>{{ calls | map(attribute='function') | list | tojson }}",
     {NULL},
     "<tool_call>"},
    {"kimi",
     "<|tool_calls_section_begin|>" EACH("<|tool_call_begin|>functions.{{ c.name }}:{{ loop.index0 }}"
                                         "<|tool_call_argument_begin|>{{ c.arguments | tojson "
                                         "}}<|tool_call_end|>") "<|tool_calls_section_end|>",
     {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>",
      "<|tool_call_end|>", "<|tool_calls_section_end|>"},
     "<|tool_calls_section_begin|><|tool_call_begin|>"},
    {"glm",
     EACH("\n<tool_call>{{ c.name }}\n{% for k, v in c.arguments | items %}<arg_key>{{ k "
          "}}</arg_key>\n<arg_value>"
          "{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>"),
     {"<tool_call>", "</tool_call>"},
     "<tool_call>"},
    {"lfm2",
     "<|tool_call_start|>[" EACH(
         "{{ c.name }}({% for k, v in c.arguments | items %}{{ k }}={{ v | tojson }}"
         "{{ '' if loop.last else ', ' }}{% endfor %}){{ '' if loop.last else ', ' }}") "]<|tool_call_end|>",
     {"<|tool_call_start|>", "<|tool_call_end|>"},
     NULL},
    {"gpt-oss",
     "{%- for c in calls[:1] %}<|channel|>commentary to=functions.{{ c.function.name }} "
     "<|constrain|>json<|message|>"
     "{{ c.function.arguments | tojson }}<|call|>{%- endfor %}",
     {"<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|constrain|>"},
     "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"},
};
#define N_FAMILIES (sizeof families / sizeof *families)

static lm_text *open_family(const char *name) {
    char template[4000];
    for (size_t i = 0; i < N_FAMILIES; i++) {
        if (strcmp(families[i].name, name) != 0) continue;
        /* the assistant's turn is what stands behind ANSWER */
        snprintf(template, sizeof template,
                 "{%%- for m in messages %%}{%% if m.role == 'assistant' %%}ANSWER{%% set calls = "
                 "m.tool_calls %%}%s"
                 "{%% else %%}{{ m.content }}{%% endif %%}{%% endfor %%}{%% if tools %%}{%% endif %%}",
                 families[i].turn);
        return open_model(template, families[i].markers);
    }
    fail_msg("no family %s", name);
    return NULL;
}

#define ARGUMENTS                                                                                            \
    "{\"s\":\"a <b> \\\"c\\\" \xc3\xa9\\n "                                                                  \
    "d\",\"n\":-3,\"x\":2.5,\"yes\":true,\"list\":[1,\"}\",{\"k\":null}],\"unit\":\"c\"}"

static void what_a_template_writes_is_found_again(void **state) {
    (void)state;
    static const char messages[] =
        "[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":" ARGUMENTS
        "}},{\"function\":{\"name\":\"f\",\"arguments\":{\"n\":7}}}]}]";
    for (size_t i = 0; i < N_FAMILIES; i++) {
        lm_err err = {0};
        lm_buf out;
        lm_text *t = open_family(families[i].name);
        assert_true(t->tools);
        lm_buf_init(&out, 1 << 16);
        expect_ok(lm_text_render_chat(t, lm_str_of(messages), LM_STR(TOOLS), -1, (lm_str){0}, &out, &err),
                  err);
        char *answer = strstr(out.ptr, "ANSWER");
        assert_non_null(answer);
        bool one = strstr(families[i].turn, "calls[:1]") != NULL;
        expect_parts(t, false, false, true, answer + 6,
                     one ? "F(f " ARGUMENTS ")" : "F(f " ARGUMENTS ")F(f {\"n\":7})");
        lm_buf_release(&out);
        lm_text_close(t);
    }
}

/* ---- calls that a grammar writes -------------------------------------------------------------------------- */

/* As TOOLS says: the type of each argument of f, and no other. */
static void expect_arguments(const char *text) {
    json_t *v = NULL, *one;
    const char *key;
    lm_err err = {0};
    expect_ok(lm_json_parse(lm_str_of(text), &v, &err), err);
    json_object_foreach(v, key, one) {
        bool ok = (!strcmp(key, "s") && json_is_string(one)) || (!strcmp(key, "n") && json_is_integer(one)) ||
                  (!strcmp(key, "x") && json_is_number(one)) ||
                  (!strcmp(key, "yes") && json_is_boolean(one)) ||
                  (!strcmp(key, "list") && json_is_array(one)) ||
                  (!strcmp(key, "may") && (json_is_string(one) || json_is_null(one))) ||
                  (!strcmp(key, "unit") &&
                   (!strcmp(json_string_value(one), "c") || !strcmp(json_string_value(one), "f")));
        if (!ok) fail_msg("%s is no argument of f in: %s", key, text);
    }
    json_decref(v);
}

typedef struct called {
    uint32_t n_calls, n_content;
} called;

static void note_call(void *ctx, lm_part part, lm_str name, lm_str text) {
    called *c = ctx;
    if (part != LM_PART_TOOL_CALL) {
        c->n_content++;
        return;
    }
    char *arguments = lm_str_dup(text);
    c->n_calls++;
    assert_true(lm_str_eq(name, LM_STR("f")) || lm_str_eq(name, LM_STR("g")));
    if (lm_str_eq(name, LM_STR("f"))) expect_arguments(arguments);
    free(arguments);
}

/* Begins as the family does and goes on at random, as the grammar allows, for at most 150 tokens. */
static void write_at_random(const lm_text *t, lm_matcher *m, const family *f, uint32_t seed) {
    lm_err err = {0};
    lm_parser *p = NULL;
    lm_str opening, body;
    lm_buf text, answer;
    called c = {0};
    uint32_t mask[16] = {0}, left = 150, ending;
    bool fits, taken;
    lm_buf_init(&text, 1 << 16);
    lm_buf_init(&answer, 1 << 16);
    expect_ok(lm_parser_open(&p, t, false, false, LM_STR(TOOLS), &err), err);
    lm_buf_text(&answer, f->begin);
    lm_parser_push(p, lm_str_of(f->begin), note_call, &c);
    assert_true(lm_parser_in_call(p, &opening, &body));
    lm_buf_str(&text, opening);
    lm_buf_str(&text, body);
    expect_ok(lm_matcher_begin(m, lm_buf_view(&text), &fits, &err), err);
    if (!fits) fail_msg("%s: '%s' does not begin a call", f->name, text.ptr);
    while (!lm_matcher_done(m)) {
        int32_t ids[300], n = 0;
        expect_ok(lm_matcher_mask(m, mask, 9, &err), err);
        for (int32_t id = 0; id < 288; id++)
            if (mask[id / 32] >> (id % 32) & 1) ids[n++] = id;
        assert_true(n > 0);
        seed = seed * 1664525 + 1013904223;
        int32_t id = ids[(seed >> 8) % (uint32_t)n];
        assert_true(left > 0);
        expect_ok(lm_matcher_take_within(m, id, left - 1, &taken, &ending, &err), err);
        if (!taken) continue;
        if (ending == LM_NO_ENDING) fail_msg("%s: no end with %u tokens of: %s", f->name, left, answer.ptr);
        left--;
        lm_str bytes = lm_tokenizer_bytes(t->tokenizer, id);
        lm_buf_str(&answer, bytes);
        lm_parser_push(p, bytes, note_call, &c);
    }
    lm_parser_finish(p, note_call, &c);
    if (c.n_calls < 1 || c.n_content) fail_msg("%s: %u calls in: %s", f->name, c.n_calls, answer.ptr);
    lm_parser_close(p);
    lm_buf_release(&text);
    lm_buf_release(&answer);
}

static void a_call_that_has_begun_becomes_one(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        lm_err err = {0};
        lm_grammar_factory *f = NULL;
        lm_matcher *m = NULL;
        lm_buf loose;
        if (!families[i].begin) continue;
        lm_text *t = open_family(families[i].name);
        lm_buf_init(&loose, 100);
        expect_ok(lm_grammar_factory_open(&f, t, lm_tokenizer_size(t->tokenizer), &err), err);
        expect_ok(lm_matcher_open_calls(&m, f, t, LM_STR(TOOLS), &loose, &err), err);
        assert_int_equal(loose.len, 0);
        for (uint32_t seed = 0; seed < 20; seed++) write_at_random(t, m, &families[i], seed);
        lm_matcher_close(m);
        lm_grammar_factory_close(f);
        lm_buf_release(&loose);
        lm_text_close(t);
    }
}

typedef struct answer {
    const char *family, *text, *want;
} answer;

static void expect_answers(const answer *a, size_t n) {
    for (size_t i = 0; i < n; i++) {
        lm_text *t = open_family(a[i].family);
        expect_parts(t, true, false, true, a[i].text, a[i].want);
        lm_text_close(t);
    }
}

static void what_models_write_is_understood(void **state) {
    (void)state;
    static const answer answers[] = {
        {"qwen",
         "I'll look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1}}\n</tool_call>\nand then",
         "C(I'll look.)F(f {\"n\":1})C(and then)"},
        {"qwen",
         "<think>\nf it is\n</think>\n\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
         "T(f it is)F(g {})"},
        {"qwen", "{\"name\": \"f\", \"arguments\": {\"n\": 1}}", "F(f {\"n\":1})"}, /* without its tags */
        {"qwen3-coder", "Ok.\n<function=f>\n<parameter=s>\n12\n</parameter>\n</function>\n</tool_call>",
         "C(Ok.)F(f {\"s\":\"12\"})"},
        {"qwen3-coder",
         "<tool_call>\n<function=f>\n<parameter=s>\n{\"a\": "
         "1}\n</parameter>\n<parameter=n>\n4\n</parameter>\n"
         "<parameter=yes>\nTrue\n</parameter>\n<parameter=may>\nnull\n</parameter>\n<parameter=x>\nmany\n</"
         "parameter>\n"
         "<parameter=list>\n[\"<b>\"]\n</parameter>\n<parameter=unit>\nc\n</"
         "parameter>\n<parameter=new>\n5\n</parameter>\n"
         "</function>\n</tool_call>",
         "F(f {\"s\":\"{\\\"a\\\": "
         "1}\",\"n\":4,\"yes\":true,\"may\":null,\"x\":\"many\",\"list\":[\"<b>\"],\"unit\":\"c\","
         "\"new\":5})"},
        {"qwen3-coder",
         "<tool_call>\n<function=f>\n<parameter=s>\n\n two\nlines \n</parameter>\n</function>\n</tool_call>",
         "F(f {\"s\":\"\\n two\\nlines \"})"},
        {"qwen3-coder", "<tool_call>\n<function=g>\n</function>\n</tool_call>", "F(g {})"},
        {"llama", "{\"name\": \"f\", \"parameters\": {\"n\": 1}}; {\"name\": \"g\", \"parameters\": {}}",
         "F(f {\"n\":1})F(g {})"},
        {"llama", "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "F(f {\"n\":1})"},
        {"llama", "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}", "F(f {})"},
        {"qwen",
         "<tool_call>{\"name\": \"f\", \"arguments\": {\"n\": 123456789012345678901234567890, \"x\": "
         "-1e4000, \"list\": "
         "[2e5, 7, 1.5e-999, \"1e999\\\"\", true]}}</tool_call>",
         "F(f {\"n\":1.2345678901234568e+29,\"x\":-1,\"list\":[2e+05,7,1.5e-300,\"1e999\\\"\",true]})"},
        {"llama", "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"s\": \"x\"}}",
         "F(f {\"s\":\"x\"})"},
        {"llama", "[{\"name\": \"f\", \"parameters\": {}}, {\"name\": \"g\", \"parameters\": {}}]",
         "F(f {})F(g {})"},
        {"mistral, list", "Sure. [TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]", "C(Sure.)F(f {})"},
        {"mistral, named", "[TOOL_CALLS]f[ARGS]{\"n\": 1}\n[TOOL_CALLS]g[ARGS]{} done",
         "F(f {\"n\":1})F(g {})C(done)"},
        {"deepseek v3",
         "So:\n" DS_CALLS DS_CALL "function" DS_SEP "f\n```json\n{\"n\": 1}\n```" DS_CALL_END DS_CALLS_END
         "\nwait",
         "C(So:)F(f {\"n\":1})C(wait)"},
        {"deepseek v3", DS_CALL "function" DS_SEP "g\n```json\n{}\n```\n" DS_CALL_END, "F(g {})"},
        {"deepseek v3.1", DS_CALLS DS_CALL "f" DS_SEP "{\"s\": \"" DS_CALL_END "\"}" DS_CALL_END DS_CALLS_END,
         "F(f {\"s\":\"" DS_CALL_END "\"})"},
        {"phi-4-mini",
         "<|tool_call|>[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"n\": 1}}}]"
         "<|/tool_call|>",
         "F(f {\"n\":1})"},
        {"gemma, python",
         "Let me see.\n```tool_code\nf(n=1, s='it\\'s', list=[1, {'a': None}], yes=True)\n```\n",
         "C(Let me see.)F(f {\"n\":1,\"s\":\"it's\",\"list\":[1,{\"a\":null}],\"yes\":true})"},
        {"gemma, python", "```tool_code\nprint(default_api.f(\"x\", 4))\n```", "F(f {\"s\":\"x\",\"n\":4})"},
        {"gemma, python", "```tool_code\nf(s=\"a\\nb\\u00e9\\d\")\n```",
         "F(f {\"s\":\"a\\nb\xc3\xa9\\\\d\"})"},
        {"command r7b",
         "<|START_THINKING|>I will look.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", "
         "\"tool_name\": "
         "\"f\", \"parameters\": {\"n\": 1}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"g\", "
         "\"parameters\": {}}\n]"
         "<|END_ACTION|>",
         "T(I will look.)F(f {\"n\":1})F(g {})"},
        {"command r7b", "<|START_RESPONSE|>It is 4 <| or 5.<|END_RESPONSE|>", "C(It is 4 <| or 5.)"},
        {"command r7b", "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "T(a)C(b)"},
        {"command r",
         "Plan: look.\nAction: ```json\n[\n    {\n        \"tool_name\": \"f\",\n        \"parameters\": {}\n"
         "    }\n]\n```",
         "C(Plan: look.)F(f {})"},
        {"granite 3", "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]\n", "F(f {\"n\":1})"},
        {"granite 3.1", "<tool_call>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]", "F(f {\"n\":1})"},
        {"glm", "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n</tool_call>",
         "F(f {\"s\":\"12\"})"},
        {"lfm2", "<|tool_call_start|>[f(n=1), g()]<|tool_call_end|>done", "F(f {\"n\":1})F(g {})C(done)"},
        {"lfm2", "<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {}}]<|tool_call_end|>", "F(f {})"},
        {"gpt-oss",
         "<|channel|>analysis<|message|>f.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
         "<|constrain|>json<|message|>{\"n\": 1}",
         "T(f.)F(f {\"n\":1})"},
    };
    expect_answers(answers, sizeof answers / sizeof *answers);
}

/* An unknown tool, broken JSON, a tag that is only mentioned: text, and all of it. */
static void what_only_looks_like_a_call_is_text(void **state) {
    (void)state;
    static const struct {
        const char *family, *text;
    } same[] = {
        {"qwen", "Use <tool_call> for it."},
        {"qwen", "a\n\n<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>\n b"},
        {"qwen", "<tool_call>{\"name\": \"f\", \"arguments\": {\"n\": }}</tool_call>"},
        {"qwen", "{\"name\": \"unknown\", \"arguments\": {}}"},
        {"qwen", "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"unknown\"}]"},
        {"qwen", "[1, 2]"},
        {"qwen", "[{\"id\": 1}]"},
        {"qwen", "["},
        {"qwen3-coder",
         "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"},
        {"qwen3-coder", "A <function=> b"},
        {"mistral, list", "[TOOL_CALLS] is a tag."},
        {"mistral, list", "[TOOL_CALLS] [{\"name\": \"f\"}, {\"name\": \"unknown\"}]"},
        {"mistral, named", "[TOOL_CALLS]unknown[ARGS]{}"},
        {"mistral, named", "[TOOL_CALLS]f[ARGS]"},
        {"mistral, named", "[TOOL_CALLS]f {}"},
        {"deepseek v3", DS_CALLS "nothing"},
        {"deepseek v3", "a" DS_CALLS_END},
        {"deepseek v3",
         DS_CALLS DS_CALL "function" DS_SEP "unknown\n```json\n{}\n```" DS_CALL_END DS_CALLS_END},
        {"deepseek v3", DS_CALLS},
        {"phi-4-mini", "functools [1]"},
        {"phi-4-mini", "functools[1]"},
        {"gemma, python", "```tool_code\nimport os\n```"},
        {"gemma, python", "```tool_code\nunknown(x=1)\n```"},
        {"gemma, python", "```tool_code\nf(x=y)\n```"},
        {"gemma, json", "```json\n{\"a\": 1}\n```"},
        {"command r", "Action: think.\n```json\n[]\n```"},
        {"command r7b", "<|START_ACTION|>[]<|END_ACTION|>"},
        {"lfm2", "<|tool_call_start|>[unknown(x=1)]<|tool_call_end|>"},
        {"glm", "<tool_call>not a call</tool_call>"},
        {"kimi", "<|tool_call_begin|>functions.unknown:0<|tool_call_argument_begin|>{}<|tool_call_end|>"},
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char want[400];
        lm_text *t = open_family(same[i].family);
        snprintf(want, sizeof want, "C(%s)", same[i].text);
        expect_parts(t, true, false, true, same[i].text, want);
        lm_text_close(t);
    }
}

/* Tags that are no text come off even when nothing is looked for. */
static void tags_around_an_answer_come_off(void **state) {
    (void)state;
    lm_text *t = open_family("command r7b");
    assert_true(t->wraps);
    expect_parts(t, false, false, false, "<|START_RESPONSE|>Hi\n there <|END_RESPONSE|>", "C(Hi\n there )");
    lm_text_close(t);
    t = open_family("qwen");
    assert_false(t->wraps);
    expect_parts(t, false, false, false, "<|START_RESPONSE|>", "C(<|START_RESPONSE|>)");
    lm_text_close(t);
}

static void every_way_to_think_is_known(void **state) {
    (void)state;
    static const char *const tags[][2] = {{"<think>", "</think>"},
                                          {"<thinking>", "</thinking>"},
                                          {"[THINK]", "[/THINK]"},
                                          {"<seed:think>", "</seed:think>"},
                                          {"<|START_THINKING|>", "<|END_THINKING|>"},
                                          {"Here is my thought process:", "Here is my response:"}};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        char template[100], text[200];
        snprintf(template, sizeof template, "{{ tools }}{{ thinking }}%s", tags[i][0]);
        lm_text *t = open_model(template, NULL);
        assert_true(t->thinks);
        snprintf(text, sizeof text, "%s\nWell <a>.\n%s\n\nFour.", tags[i][0], tags[i][1]);
        expect_parts(t, true, false, true, text, "T(Well <a>.)C(Four.)");
        snprintf(text, sizeof text, "%sNever ends <", tags[i][0]);
        expect_parts(t, true, false, true, text, "T(Never ends <)");
        snprintf(text, sizeof text, "Begun in the prompt%sFour.", tags[i][1]);
        expect_parts(t, true, true, true, text, "T(Begun in the prompt)C(Four.)");
        lm_text_close(t);
    }
}

static lm_text *open_named(const char *parser) {
    lm_text *t;
    put_file(test_dir(), "parser", lm_str_of(parser));
    t = open_model("{{ tools }}<think>", NULL);
    char *path = lm_path_join(test_dir(), "parser");
    assert_int_equal(remove(path), 0);
    free(path);
    return t;
}

static void a_file_names_another_form(void **state) {
    (void)state;
    lm_text *t = open_named("mistral\n");
    expect_parts(t, true, false, true, "[TOOL_CALLS]f[ARGS]{}<tool_call>{\"name\":\"f\"}</tool_call>",
                 "F(f {})C(<tool_call>{\"name\":\"f\"}</tool_call>)");
    lm_text_close(t);
    t = open_named("json");
    expect_parts(t, true, false, true, "{\"name\":\"f\"}<tool_call>", "F(f {})C(<tool_call>)");
    lm_text_close(t);
    t = open_named("none");
    expect_parts(t, true, false, true, "<think>a</think>{\"name\":\"f\"}", "T(a)C({\"name\":\"f\"})");
    lm_text_close(t);
}

static void a_form_that_nobody_knows_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text *t = NULL;
    lm_text_close(open_model("", NULL));
    put_file(test_dir(), "parser", LM_STR("mistra"));
    expect_fail(lm_text_open(&t, test_dir(), &err), LM_CORRUPT, err, "no family \"mistra\"");
    char *path = lm_path_join(test_dir(), "parser");
    assert_int_equal(remove(path), 0);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_template_writes_is_found_again),
        cmocka_unit_test(what_models_write_is_understood),
        cmocka_unit_test(a_call_that_has_begun_becomes_one),
        cmocka_unit_test(what_only_looks_like_a_call_is_text),
        cmocka_unit_test(tags_around_an_answer_come_off),
        cmocka_unit_test(every_way_to_think_is_known),
        cmocka_unit_test(a_file_names_another_form),
        cmocka_unit_test(a_form_that_nobody_knows_is_refused),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
