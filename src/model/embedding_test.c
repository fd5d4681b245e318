/* How a directory says that its states become embeddings, and what it may say that cannot be done. */
#include "base/test.h"

#include <sys/stat.h>

#include "model/graph.h"

#define TRANSFORMER "{\"idx\":0,\"type\":\"sentence_transformers.models.Transformer\",\"path\":\"\"}"
#define POOLING     ",{\"idx\":1,\"type\":\"sentence_transformers.models.Pooling\",\"path\":\"1_Pooling\"}"
#define NORMALIZE   ",{\"idx\":2,\"type\":\"sentence_transformers.models.Normalize\",\"path\":\"2_Normalize\"}"
#define DENSE       ",{\"idx\":2,\"type\":\"sentence_transformers.models.Dense\",\"path\":\"2_Dense\"}"

/* NULL: the file is not there. */
static lm_embedding_info look(const char *modules, const char *pooling, const char *length, bool encoder) {
    lm_embedding_info info = {0};
    const char *const names[] = {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"};
    const char *const texts[] = {modules, pooling, length};
    assert_int_equal(make_test_dir(NULL), 0);
    char *folder = lm_path_join(test_dir(), "1_Pooling");
    assert_int_equal(mkdir(folder, 0700), 0);
    free(folder);
    for (int i = 0; i < 3; i++)
        if (texts[i]) put_file(test_dir(), names[i], lm_str_of(texts[i]));
    lm_embedding_read(&info, test_dir(), encoder);
    assert_int_equal(remove_test_dir(NULL), 0);
    return info;
}

static void who_says_nothing_has_what_its_kind_has(void **state) {
    (void)state;
    lm_embedding_info i = look(NULL, NULL, NULL, false);
    assert_int_equal(i.pooling, LM_POOL_LAST);
    assert_false(i.said);
    assert_string_equal(i.problem, "");
    i = look(NULL, NULL, NULL, true);
    assert_int_equal(i.pooling, LM_POOL_MEAN);
    assert_true(i.said);
    assert_int_equal(i.n_max, 0);
}

static void every_pooling_has_its_flag(void **state) {
    (void)state;
    static const struct {
        const char *text;
        lm_pooling want;
    } known[] = {
        {"{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":false}", LM_POOL_CLS},
        {"{\"pooling_mode_mean_tokens\":true,\"include_prompt\":false}", LM_POOL_MEAN},
        {"{\"pooling_mode_lasttoken\":true}", LM_POOL_LAST},
        {"{\"pooling_mode\":\"cls\"}", LM_POOL_CLS},
    };
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        const char *all = "[" TRANSFORMER POOLING NORMALIZE "]";
        lm_embedding_info i = look(k % 2 ? all : NULL, known[k].text, "{\"max_seq_length\":256}", false);
        assert_string_equal(i.problem, "");
        assert_int_equal(i.pooling, known[k].want);
        assert_true(i.said);
        assert_int_equal(i.n_max, 256);
    }
}

static void refuse(const char *modules, const char *pooling, const char *words) {
    lm_embedding_info i = look(modules, pooling, NULL, false);
    if (!strstr(i.problem, words)) fail_msg("'%s' instead of '%s'", i.problem, words);
    assert_true(i.said);
}

static void what_cannot_be_done_is_named(void **state) {
    (void)state;
    const char *mean = "{\"pooling_mode_mean_tokens\":true}";
    refuse("[" TRANSFORMER POOLING "]", "{\"pooling_mode_max_tokens\":true}", "pooled by \"max\"");
    refuse(NULL, "{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":true}", "several poolings");
    refuse(NULL, "{}", "names no pooling");
    refuse(NULL, "{\"pooling_mode\":\"median\"}", "names no pooling");
    refuse("[" TRANSFORMER POOLING "]", NULL, "names no pooling");
    refuse("[" TRANSFORMER POOLING DENSE "]", mean, "a module \"Dense\"");
    refuse("[" TRANSFORMER NORMALIZE POOLING "]", mean, "a module \"Normalize\"");
    refuse("[" POOLING "]", mean, "modules.json");
    refuse("{}", mean, "modules.json must be an array");
    refuse("[" TRANSFORMER ",{\"type\":\"x.Pooling\",\"path\":\"../1_Pooling\"}]", mean,
           "outside the model's directory");
    refuse("[3]", mean, "a module \"\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_says_nothing_has_what_its_kind_has),
        cmocka_unit_test(every_pooling_has_its_flag),
        cmocka_unit_test(what_cannot_be_done_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
