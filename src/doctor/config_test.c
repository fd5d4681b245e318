#include "base/test.h"
#include "doctor/doctor.h"

#include <getopt.h>

static doctor_config read_args(lm_status want, const char *text, const char *words) {
    static char line[1024];
    static char *argv[32];
    int n = 0;
    snprintf(line, sizeof line, "doctor %s", words);
    for (char *rest = line, *w; (w = strtok_r(rest, " ", &rest));) argv[n++] = w;
    argv[n] = NULL;
    doctor_config c = {0};
    lm_err err = {0};
    optind = 0;
    lm_status st = doctor_config_read(n, argv, &c, &err);
    if (st != want) fail_msg("%s: got %s: %s", words, lm_status_name(st), err.text);
    if (text && !strstr(err.text, text)) fail_msg("%s: text is: %s", words, err.text);
    return c;
}

static int clear_environment(void **state) {
    (void)state;
    unsetenv("OLLAMA_HOST");
    unsetenv("MLX_BRIDGE_PORT");
    return 0;
}

static void expect_url(const char *words, const char *url) {
    assert_string_equal(read_args(LM_OK, NULL, words).url, url);
}

static void an_url_may_be_any_form_of_an_address(void **state) {
    (void)state;
    expect_url("", "http://127.0.0.1:11434");
    expect_url("--url 10.0.0.1", "http://10.0.0.1:11434");
    expect_url("--url example.com:80/", "http://example.com:80");
    expect_url("--url https://example.com/ollama/", "https://example.com:443/ollama");
    expect_url("--url [::1]:99", "http://[::1]:99");
    expect_url("--url http://0.0.0.0:5", "http://127.0.0.1:5");
    expect_url("--url [::]:5", "http://[::1]:5");
    read_args(LM_INVALID, "http:// or https://", "--url ftp://example.com");
}

static void the_environment_is_read_as_the_bridge_reads_it(void **state) {
    (void)state;
    setenv("OLLAMA_HOST", " \"0.0.0.0:8080\" ", 1);
    expect_url("", "http://127.0.0.1:8080");
    expect_url("--url 127.0.0.1:1", "http://127.0.0.1:1");
    setenv("MLX_BRIDGE_PORT", "9090", 1);
    expect_url("", "http://127.0.0.1:9090");
    setenv("MLX_BRIDGE_PORT", "99999", 1);
    read_args(LM_INVALID, "MLX_BRIDGE_PORT", "");
    unsetenv("MLX_BRIDGE_PORT");
    setenv("OLLAMA_HOST", "https://example.com", 1);
    expect_url("", "https://example.com:443");
}

static void what_follows_two_dashes_is_the_bridges(void **state) {
    (void)state;
    doctor_config c = read_args(LM_OK, NULL, "--start --model m -- --backend mlx --json");
    assert_true(c.start);
    assert_false(c.json);
    assert_string_equal(c.model, "m");
    assert_string_equal(c.bridge_args[0], "--backend");
    assert_string_equal(c.bridge_args[2], "--json");
    assert_null(c.bridge_args[3]);
    assert_null(read_args(LM_OK, NULL, "--bench").bridge_args[0]);
    assert_string_equal(read_args(LM_OK, NULL, "-- --backend mlx").bridge_args[1],
                        "mlx"); /* it may start one */
    read_args(LM_INVALID, "not for the one of --url", "--url x -- --backend mlx");
    read_args(LM_INVALID, "not for the one of --url", "--bench --url x -- --backend mlx");
}

static void a_conformance_names_its_server(void **state) {
    (void)state;
    doctor_config c = read_args(LM_OK, NULL, "--conformance 10.0.0.1 --write --case chat");
    assert_int_equal(c.command, DOCTOR_CONFORMANCE);
    assert_string_equal(c.url, "http://10.0.0.1:11434");
    assert_true(c.write);
    assert_string_equal(c.only_case, "chat");
    read_args(LM_INVALID, "for --conformance", "--write");
    read_args(LM_INVALID, "for --conformance", "--url x --case chat");
    read_args(LM_INVALID, "not for the one of --url", "--conformance x -- --backend mlx");
}

static void peers_of_a_bench_have_names(void **state) {
    (void)state;
    doctor_config c =
        read_args(LM_OK, NULL, "--bench --peer router=:11436 --peer lm-studio=http://10.0.0.1:1234");
    assert_int_equal(c.n_peers, 2);
    assert_string_equal(c.peers[0].name, "router");
    assert_string_equal(c.peers[0].url, "http://127.0.0.1:11436");
    assert_string_equal(c.peers[1].url, "http://10.0.0.1:1234");
    read_args(LM_INVALID, "NAME=URL", "--bench --peer http://x");
    read_args(LM_INVALID, "NAME=URL", "--bench --peer x=");
    read_args(LM_INVALID, "one of this name", "--bench --peer ollama=x");
    read_args(LM_INVALID, "one of this name", "--bench --peer a=x --peer a=y");
    read_args(LM_INVALID, "for --bench", "--peer a=x");
}

static void wrong_usage_says_what_is_right(void **state) {
    (void)state;
    read_args(LM_INVALID, "choose one", "--start --url x");
    read_args(LM_INVALID, "choose one", "--json --tap");
    read_args(LM_INVALID, "this machine alone", "--installation --url x");
    read_args(LM_INVALID, "this machine alone", "--bench --installation");
    read_args(LM_INVALID, "--json", "--bench --tap");
    read_args(LM_INVALID, "from 1 to 86400", "--timeout 0");
    read_args(LM_INVALID, "from 1 to 100", "--repeat 101");
    read_args(LM_INVALID, "--help", "dance");
    read_args(LM_INVALID, "--help", "--dance");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_url_may_be_any_form_of_an_address, clear_environment),
        cmocka_unit_test_setup(the_environment_is_read_as_the_bridge_reads_it, clear_environment),
        cmocka_unit_test_setup(what_follows_two_dashes_is_the_bridges, clear_environment),
        cmocka_unit_test_setup(a_conformance_names_its_server, clear_environment),
        cmocka_unit_test_setup(peers_of_a_bench_have_names, clear_environment),
        cmocka_unit_test_setup(wrong_usage_says_what_is_right, clear_environment),
    };
    return cmocka_run_group_tests_name("doctor.config", tests, NULL, NULL);
}
