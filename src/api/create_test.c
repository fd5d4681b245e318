/* create_test.c - bodies of /api/create, and what a Modelfile does to a request. */
#include "api/ollama_create.h"
#include "base/test.h"

#include <math.h>

static ollama_create_request read_ok(const char *body) {
    ollama_create_request r = {0};
    lm_err err = {0};
    expect_ok(ollama_create_read(lm_str_of(body), &r, &err), err);
    return r;
}

static void refused(const char *body, const char *words) {
    ollama_create_request r = {0};
    lm_err err = {0};
    expect_fail(ollama_create_read(lm_str_of(body), &r, &err), LM_INVALID, err, words);
    assert_null(r.body);
}

static void all_fields_are_read(void **state) {
    (void)state;
    ollama_create_request r = read_ok(
        "{\"Name\":\"m\",\"from\":\"t\",\"system\":\"s\",\"template\":\"{{ .Prompt }}\",\"license\":\"MIT\","
        "\"parameters\":{\"stop\":\"x\",\"new_one\":[1]},\"messages\":[{\"role\":\"USER\",\"content\":\"a\"}]"
        ","
        "\"requires\":\"0.14.0\",\"stream\":false,\"quantize\":\"\",\"adapters\":{},\"unknown\":1}");
    assert_string_equal(r.model, "m");
    assert_string_equal(r.from, "t");
    assert_string_equal(r.requires, "0.14.0");
    assert_false(r.stream);
    assert_int_equal(json_array_size(r.licenses), 1);
    assert_string_equal(json_string_value(json_array_get(json_object_get(r.params, "stop"), 0)), "x");
    assert_non_null(json_object_get(r.params, "new_one")); /* what is not known is kept */
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.messages, 0), "role")), "user");
    ollama_create_release(&r);
    r = read_ok("{\"model\":\"m\",\"adapters\":{\"a.gguf\":\"sha256:0\"}}");
    assert_string_equal(json_string_value(json_object_get(r.adapters, "a.gguf")), "sha256:0");
    ollama_create_release(&r);
    r = read_ok("{\"model\":\"m\",\"quantization\":\"q8_0\"}");
    assert_true(r.quantizes && r.quantize.quant.bits == 8 && !r.quantize.mixed);
    ollama_create_release(&r);
    r = read_ok("{\"model\":\"m\",\"quantize\":\"q4_k_m\",\"quantization\":\"q8_0\"}");
    assert_true(r.quantizes && r.quantize.quant.bits == 4 && r.quantize.mixed);
    assert_string_equal(r.quantize.name, "Q4_K_M");
    ollama_create_release(&r);
    r = read_ok("{\"model\":\"m\"}");
    assert_true(r.stream && !r.files && !r.from[0] && !r.quantizes);
    ollama_create_release(&r);
}

static void what_cannot_be_is_refused_with_the_remedy(void **state) {
    (void)state;
    refused("", "missing request body");
    refused("{\"model\":\"a b\"}", "invalid model name");
    refused("{\"model\":\"m\",\"files\":{\"/x\":\"d\"}}", "file path must be relative");
    refused("{\"model\":\"m\",\"files\":{\"a/../x\":\"d\"}}", "file path must be relative");
    refused("{\"model\":\"m\",\"files\":{\"\":\"d\"}}", "file path must be relative");
    refused("{\"model\":\"m\",\"adapters\":{\"../x\":\"d\"}}", "file path must be relative");
    refused("{\"model\":\"m\",\"adapters\":{\"x\":1}}", "adapters");
    refused(
        "{\"model\":\"m\",\"quantize\":\"q9\"}",
        "unsupported quantization type Q9 - supported types are F32, F16, BF16, Q4_K_S, Q4_K_M, Q4_K, Q8_0");
    refused("{\"model\":\"m\",\"quantize\":8}", "CreateRequest.quantize of type string");
    refused("{\"model\":\"m\",\"draft_files\":{\"x\":\"d\"}}", "draft_files");
    refused("{\"model\":\"m\",\"license\":1}", "license");
    refused("{\"model\":\"m\",\"license\":[1]}", "license");
    refused("{\"model\":\"m\",\"parameters\":{\"top_k\":\"x\"}}", "option \"top_k\" must be of type integer");
    refused("{\"model\":\"m\",\"parameters\":{\"stop\":[1]}}", "option \"stop\"");
    refused("{\"model\":\"m\",\"template\":\"{{ .Prompt\"}", "template error: ");
    static const char *const versions[] = {"1", "1.2", "1.2.3.4", "a.b.c", "1..2", "9999999999.1.1"};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        char body[100];
        snprintf(body, sizeof body, "{\"model\":\"m\",\"requires\":\"%s\"}", versions[i]);
        refused(body, "semver");
    }
}

static json_t *chat(const char *roles) {
    json_t *list = json_array();
    for (; *roles; roles++) {
        const char *role = *roles == 's' ? "system" : *roles == 'u' ? "user" : "assistant";
        json_array_append_new(list, json_pack("{s:s,s:s}", "role", role, "content", "own"));
    }
    return list;
}

/* The roles of messages, small letters for those of the request, capitals for the Modelfile's. */
static const char *applied(const char *roles, bool generate) {
    static char out[32];
    lm_modelfile m = {.system = lm_strdup("file"),
                      .messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "file")};
    json_t *list = chat(roles), *one;
    size_t i, n = 0;
    ollama_apply_modelfile(&m, list, generate);
    json_array_foreach(list, i, one) {
        char role = json_string_value(json_object_get(one, "role"))[0];
        bool own = !strcmp(json_string_value(json_object_get(one, "content")), "own");
        out[n++] = own ? role : (char)(role - 32);
    }
    out[n] = '\0';
    json_decref(list);
    lm_modelfile_release(&m);
    return out;
}

static void system_and_messages_go_where_ollama_puts_them(void **state) {
    (void)state;
    assert_string_equal(applied("u", false), "SUu");
    assert_string_equal(applied("uau", false), "SUuau");
    assert_string_equal(applied("su", false), "Usu");
    assert_string_equal(applied("us", false), "SUus");
    assert_string_equal(applied("u", true), "SUu");
    assert_string_equal(applied("su", true), "sUu");
    lm_modelfile none = {0};
    json_t *list = chat("u");
    ollama_apply_modelfile(&none, list, false);
    assert_int_equal(json_array_size(list), 1);
    json_decref(list);
}

static void options_are_the_requests_then_the_files_then_the_makers(void **state) {
    (void)state;
    ollama_request r = {0};
    lm_err err = {0};
    const lm_text_sampling makers = {.temperature = 0.1,
                                     .top_k = 5,
                                     .top_p = 0.5,
                                     .min_p = NAN,
                                     .typical_p = NAN,
                                     .repetition_penalty = NAN};
    const char *body =
        "{\"model\":\"m\",\"prompt\":\"p\",\"options\":{\"temperature\":0.3,\"stop\":[\"r\"]}}";
    expect_ok(ollama_request_read(lm_str_of(body), OLLAMA_GENERATE, &r, &err), err);
    r.params =
        json_pack("{s:f,s:i,s:i,s:[s,s]}", "temperature", 0.2, "top_k", 6, "num_ctx", 99, "stop", "a", "b");
    expect_ok(ollama_request_options(&r, &makers, &err), err);
    const lm_options *o = &r.request->options;
    assert_true(o->temperature == 0.3f && o->top_k == 6 && o->top_p == 0.5f && o->repeat_penalty == 1.0f);
    assert_int_equal(o->num_ctx, 99);
    assert_int_equal(r.request->n_stops, 1);
    assert_string_equal(r.request->stops[0], "r");
    ollama_request_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_fields_are_read),
        cmocka_unit_test(what_cannot_be_is_refused_with_the_remedy),
        cmocka_unit_test(system_and_messages_go_where_ollama_puts_them),
        cmocka_unit_test(options_are_the_requests_then_the_files_then_the_makers),
    };
    return cmocka_run_group_tests_name("create", tests, NULL, NULL);
}
