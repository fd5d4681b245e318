/* order_test.c - the state file of `switch`. */
#include "router/order.h"

#include <pthread.h>

#include "base/test.h"

static lm_order get(const char *model) {
    lm_order o = LM_ORDER_AUTO;
    lm_err err = {0};
    expect_ok(lm_order_get(model, &o, &err), err);
    return o;
}

static void set(const char *model, lm_order o) {
    lm_err err = {0};
    expect_ok(lm_order_set(model, o, &err), err);
}

static void put_state(const char *text) {
    put_file(test_dir(), "mlx-ollama/switch.ini", lm_str_of(text));
}

static int set_up(void **state) {
    if (make_test_dir(state)) return -1;
    return setenv("XDG_STATE_HOME", test_dir(), 1);
}

static void it_is_auto_until_somebody_says_otherwise(void **state) {
    (void)state;
    assert_int_equal(get(NULL), LM_ORDER_AUTO);
    assert_int_equal(get("qwen3:8b"), LM_ORDER_AUTO);
    set(NULL, LM_ORDER_MLX);
    assert_int_equal(get(NULL), LM_ORDER_MLX);
    assert_int_equal(get("qwen3:8b"), LM_ORDER_MLX);
}

static void a_models_own_order_wins_under_all_its_spellings(void **state) {
    (void)state;
    set("Phi4", LM_ORDER_OLLAMA);
    assert_int_equal(get("phi4:latest"), LM_ORDER_OLLAMA);
    assert_int_equal(get("PHI4:Latest"), LM_ORDER_OLLAMA);
    assert_int_equal(get("phi4:14b"), LM_ORDER_AUTO);
    set("phi4:latest", LM_ORDER_AUTO);
    set(NULL, LM_ORDER_MLX);
    assert_int_equal(get("phi4"), LM_ORDER_AUTO);
    set("hf.co/mlx-community/phi-4-4bit", LM_ORDER_MLX);
    assert_int_equal(get("hf.co/mlx-community/phi-4-4bit"), LM_ORDER_MLX);
}

static void what_is_no_name_or_no_word_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_order o;
    expect_fail(lm_order_set("a b", LM_ORDER_MLX, &err), LM_INVALID, err, "'a b' is not a model name");
    expect_fail(lm_order_parse(LM_STR("fast"), &o, &err), LM_INVALID, err,
                "\"fast\" is none of auto, ollama, mlx");
    expect_ok(lm_order_parse(LM_STR("MLX"), &o, &err), err);
    assert_int_equal(o, LM_ORDER_MLX);
}

static void a_damaged_file_says_where_and_is_not_overwritten(void **state) {
    (void)state;
    lm_err err = {0};
    lm_order o;
    set(NULL, LM_ORDER_MLX);
    put_state("[order]\ndefault = fast\n");
    expect_fail(lm_order_get(NULL, &o, &err), LM_INVALID, err, "switch.ini line 2: \"fast\" is none of");
    expect_fail(lm_order_set(NULL, LM_ORDER_MLX, &err), LM_INVALID, err, "correct it, or delete the file");
    put_state("[modles]\n");
    expect_fail(lm_order_get(NULL, &o, &err), LM_INVALID, err, "unknown section [modles]");
    put_state("[models]\na b = mlx\n");
    expect_fail(lm_order_get(NULL, &o, &err), LM_INVALID, err, "line 2: 'a b' is not a model name");
}

static void what_was_measured_stands_beside_the_order(void **state) {
    (void)state;
    lm_err err = {0};
    lm_name name;
    orders o = {0};
    orders_stamp before, after;
    set("phi4", LM_ORDER_OLLAMA);
    orders_look(&before);
    expect_ok(orders_set_measured("phi4", "box", &err), err);
    expect_ok(orders_set_measured("qwen3:8b", "mlx", &err), err);
    orders_look(&after);
    assert_false(orders_same(&before, &after));
    expect_ok(orders_read(&o, &err), err);
    expect_ok(lm_name_parse(LM_STR("PHI4"), &name, &err), err);
    assert_int_equal(orders_of(&o, &name), LM_ORDER_OLLAMA);
    assert_string_equal(orders_measured(&o, &name), "box");
    json_t *json = json_object();
    orders_json(&o, json);
    char *text = json_dumps(json, JSON_COMPACT);
    assert_string_equal(text, "{\"order\":\"auto\",\"orders\":{\"phi4:latest\":\"ollama\"},"
                              "\"measured\":{\"phi4:latest\":\"box\",\"qwen3:8b\":\"mlx\"}}");
    free(text);
    json_decref(json);
    orders_release(&o);
    expect_ok(orders_set_measured("phi4", NULL, &err), err);
    expect_ok(orders_read(&o, &err), err);
    assert_null(orders_measured(&o, &name));
    assert_int_equal(orders_of(&o, &name), LM_ORDER_OLLAMA);
    orders_release(&o);
}

static void *write_many(void *ctx) {
    for (int i = 0; i < 20; i++) {
        char model[32];
        snprintf(model, sizeof model, "m%d-%d", *(int *)ctx, i);
        if (lm_order_set(model, LM_ORDER_MLX, NULL) != LM_OK) return ctx;
    }
    return NULL;
}

static void writers_at_a_time_lose_nothing(void **state) {
    (void)state;
    pthread_t threads[4];
    int ids[4];
    orders o = {0};
    lm_err err = {0};
    for (int i = 0; i < 4; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &ids[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    expect_ok(orders_read(&o, &err), err);
    assert_int_equal(o.n, 80);
    orders_release(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_auto_until_somebody_says_otherwise, set_up, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_models_own_order_wins_under_all_its_spellings, set_up,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(what_is_no_name_or_no_word_is_refused, set_up, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_damaged_file_says_where_and_is_not_overwritten, set_up,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(what_was_measured_stands_beside_the_order, set_up, remove_test_dir),
        cmocka_unit_test_setup_teardown(writers_at_a_time_lose_nothing, set_up, remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
