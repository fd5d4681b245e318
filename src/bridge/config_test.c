#include "base/test.h"
#include "bridge/bridge.h"

#include <getopt.h>

static bridge_config read_args(int n, char **words, lm_status want, const char *text) {
    bridge_config c = {0};
    lm_err err = {0};
    optind = 0;
    lm_status st = bridge_config_read(n, words, &c, &err);
    if (st != want) fail_msg("got %s: %s", lm_status_name(st), err.text);
    if (text && !strstr(err.text, text)) fail_msg("text is: %s", err.text);
    return c;
}

static void clear_environment(void) {
    const char *names[] = {"MLX_BRIDGE_PORT",          "OLLAMA_HOST",      "OLLAMA_KEEP_ALIVE",
                           "OLLAMA_NUM_PARALLEL",      "OLLAMA_MAX_QUEUE", "OLLAMA_CONTEXT_LENGTH",
                           "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_DEBUG",     "OLLAMA_KV_CACHE_TYPE",
                           "MLX_BRIDGE_IMPORT"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void options_win_over_the_environment(void **state) {
    (void)state;
    clear_environment();
    setenv("OLLAMA_HOST", "\"0.0.0.0:1\"", 1);
    char *none[] = {"bridge", NULL};
    bridge_config c = read_args(1, none, LM_OK, NULL);
    assert_string_equal(c.host, "0.0.0.0");
    assert_int_equal(c.port, 1);
    free(c.roots);
    setenv("MLX_BRIDGE_PORT", "2", 1);
    c = read_args(1, none, LM_OK, NULL);
    assert_int_equal(c.port, 2);
    free(c.roots);
    char *some[] = {"bridge", "--port", "3", "--root", "a", "serve", "--root=b", NULL};
    c = read_args(7, some, LM_OK, NULL);
    assert_int_equal(c.port, 3);
    assert_int_equal(c.n_roots, 2);
    assert_string_equal(c.roots[1], "b");
    free(c.roots);
    clear_environment();
}

static void keep_alive_is_seconds_or_a_duration(void **state) {
    (void)state;
    clear_environment();
    char *none[] = {"bridge", NULL};
    const struct {
        const char *text;
        int64_t ns;
    } cases[] = {
        {"300", INT64_C(300000000000)}, {"1h", INT64_C(3600000000000)}, {"-1", -1}, {"-5m", -1}, {"0", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("OLLAMA_KEEP_ALIVE", cases[i].text, 1);
        bridge_config c = read_args(1, none, LM_OK, NULL);
        assert_int_equal(c.keep_alive_ns, cases[i].ns);
        free(c.roots);
    }
    setenv("OLLAMA_KEEP_ALIVE", "soon", 1);
    read_args(1, none, LM_INVALID, "OLLAMA_KEEP_ALIVE");
    clear_environment();
}

static void wrong_usage_says_what_is_right(void **state) {
    (void)state;
    clear_environment();
    char *backend[] = {"bridge", "--backend", "abacus", NULL};
    read_args(3, backend, LM_INVALID, "there are auto, cpu and mlx");
    char *device[] = {"bridge", "--device", "tpu", NULL};
    read_args(3, device, LM_INVALID, "there are auto, cpu and gpu");
    char *port[] = {"bridge", "--port", "70000", NULL};
    read_args(3, port, LM_INVALID, "65535");
    char *word[] = {"bridge", "dance", NULL};
    read_args(2, word, LM_INVALID, "serve, pull, push, import, export and list");
    char *export[] = {"bridge", "export", "m", NULL};
    read_args(3, export, LM_INVALID, "export needs a name and a directory");
    char *import[] = {"bridge", "import", NULL};
    read_args(2, import, LM_INVALID, "FILE.gguf");
    setenv("OLLAMA_NUM_PARALLEL", "5000", 1);
    read_args(1, (char *[]){"bridge", NULL}, LM_INVALID, "at most 1024");
    unsetenv("OLLAMA_NUM_PARALLEL");
    setenv("OLLAMA_MAX_QUEUE", "many", 1);
    char *none[] = {"bridge", NULL};
    read_args(1, none, LM_INVALID, "OLLAMA_MAX_QUEUE");
    clear_environment();
}

static void gguf_models_of_others_are_imported_on_use_unless_one_says_otherwise(void **state) {
    (void)state;
    clear_environment();
    char *none[] = {"bridge", NULL}, *ask[] = {"bridge", "--import-gguf", "ask", NULL};
    bridge_config c = read_args(1, none, LM_OK, NULL);
    assert_int_equal(c.import_gguf, LM_GGUF_ON_USE);
    free(c.roots);
    setenv("MLX_BRIDGE_IMPORT", "never", 1);
    c = read_args(1, none, LM_OK, NULL);
    assert_int_equal(c.import_gguf, LM_GGUF_NEVER);
    free(c.roots);
    c = read_args(3, ask, LM_OK, NULL);
    assert_int_equal(c.import_gguf, LM_GGUF_ASK);
    free(c.roots);
    setenv("MLX_BRIDGE_IMPORT", "yes", 1);
    read_args(1, none, LM_INVALID, "MLX_BRIDGE_IMPORT yes: there are on-use, ask and never");
    clear_environment();
}

static void keys_and_values_are_kept_as_ollama_names_it(void **state) {
    (void)state;
    clear_environment();
    char *none[] = {"bridge", NULL};
    bridge_config c = read_args(1, none, LM_OK, NULL);
    assert_int_equal(c.kv_type, LM_KV_F16);
    free(c.roots);
    setenv("OLLAMA_KV_CACHE_TYPE", "q8_0", 1);
    c = read_args(1, none, LM_OK, NULL);
    assert_int_equal(c.kv_type, LM_KV_Q8_0);
    free(c.roots);
    char *four[] = {"bridge", "--kv-cache-type", "Q4_0", NULL};
    c = read_args(3, four, LM_OK, NULL);
    assert_int_equal(c.kv_type, LM_KV_Q4_0);
    free(c.roots);
    setenv("OLLAMA_KV_CACHE_TYPE", "q5_1", 1);
    read_args(1, none, LM_INVALID, "OLLAMA_KV_CACHE_TYPE is \"q5_1\": there are f16, q8_0 and q4_0");
    clear_environment();
    read_args(3, (char *[]){"bridge", "--kv-cache-type", "", NULL}, LM_INVALID, "f16, q8_0 and q4_0");
}

static void one_of_several_gpus_can_be_named(void **state) {
    (void)state;
    clear_environment();
    bridge_config c = read_args(3, (char *[]){"bridge", "--device", "gpu:3", NULL}, LM_OK, NULL);
    assert_int_equal(c.device, DEVICE_GPU);
    assert_int_equal(c.device_index, 3);
    free(c.roots);
    c = read_args(4, (char *[]){"bridge", "--device=gpu:3", "--device=gpu", "--list-devices", NULL}, LM_OK,
                  NULL);
    assert_int_equal(c.device_index, 0);
    assert_int_equal(c.command, BRIDGE_DEVICES);
    free(c.roots);
    read_args(3, (char *[]){"bridge", "--device", "gpu:", NULL}, LM_INVALID, "--device gpu:");
    read_args(3, (char *[]){"bridge", "--device", "gpu:-1", NULL}, LM_INVALID, "--device gpu:");
    read_args(3, (char *[]){"bridge", "--device", "gpu:256", NULL}, LM_INVALID, "from 0 to 255");
    read_args(3, (char *[]){"bridge", "--device", "tpu", NULL}, LM_INVALID, "auto, cpu and gpu");
}

static void ranks_are_asked_for_by_a_hostfile(void **state) {
    (void)state;
    clear_environment();
    bridge_config c = read_args(7,
                                (char *[]){"bridge", "--distributed", "h.json", "--distributed-mode",
                                           "pipeline", "--distributed-port", "4000", NULL},
                                LM_OK, NULL);
    assert_string_equal(c.distributed, "h.json");
    assert_int_equal(c.distributed_mode, LM_SPLIT_PIPELINE);
    assert_int_equal(c.distributed_port, 4000);
    assert_int_equal(c.backend, BACKEND_MLX); /* nothing else can */
    free(c.roots);
    c = read_args(5, (char *[]){"bridge", "--backend", "cpu", "--distributed", "h.json", NULL}, LM_OK, NULL);
    assert_int_equal(c.backend, BACKEND_CPU); /* which serve refuses */
    free(c.roots);
    read_args(3, (char *[]){"bridge", "--distributed-mode", "both", NULL}, LM_INVALID,
              "auto, tensor and pipeline");
    read_args(3, (char *[]){"bridge", "--distributed-port", "65536", NULL}, LM_INVALID, "0 to 65535");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_win_over_the_environment),
        cmocka_unit_test(gguf_models_of_others_are_imported_on_use_unless_one_says_otherwise),
        cmocka_unit_test(keep_alive_is_seconds_or_a_duration),
        cmocka_unit_test(wrong_usage_says_what_is_right),
        cmocka_unit_test(keys_and_values_are_kept_as_ollama_names_it),
        cmocka_unit_test(one_of_several_gpus_can_be_named),
        cmocka_unit_test(ranks_are_asked_for_by_a_hostfile),
    };
    return cmocka_run_group_tests_name("bridge.config", tests, NULL, NULL);
}
