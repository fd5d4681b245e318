/* config_test.c - router.ini: every key, every mistake. */
#include "router/config.h"

#include "base/test.h"

static lm_status parse(const char *text, lm_router_config *c, lm_err *err) {
    return router_config_parse("r.ini", lm_str_of(text), c, err);
}

static void without_a_file_there_are_ollama_and_mlx(void **state) {
    (void)state;
    lm_router_config c = {0};
    lm_err err = {0};
    expect_ok(parse("", &c, &err), err);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 11436);
    assert_int_equal(c.n_backends, 2);
    assert_string_equal(c.backends[0].name, "ollama");
    assert_string_equal(c.backends[0].url, "http://127.0.0.1:11434");
    assert_int_equal(c.backends[0].kind, LM_KIND_OLLAMA);
    assert_string_equal(c.backends[1].url, "http://127.0.0.1:11435");
    assert_int_equal(c.backends[1].kind, LM_KIND_MLX);
    assert_true(c.hygiene);
    assert_int_equal(c.fall, 3);
    assert_int_equal(c.rise, 2);
    lm_router_config_release(&c);
}

static const char whole[] =
    "[router]\nhost = [::1]\nport = 1234\norigins = http://a.example, http://b.example\n"
    "hygiene = off\ncheck = 1500ms\ncheck_timeout = 700ms\nfall = 4\nrise = 5\n"
    "breaker_failures = 6\nbreaker_time = 7s\nconnect_timeout = 8s\nfirst_timeout = 1m30s\n"
    "whole_timeout = 2h\nsilent_timeout = 0\nattempts = 9\nmax_body = 10 MB\nmax_wait = 11s\n"
    "[gpu-box]\nkind = mlx\nurl = https://box.example:8443/mlx/\napi_key = s3cret\n"
    "max_requests = 12\nnum_ctx = 8192\n[ollama]\n";

static void each_key_is_read(void **state) {
    (void)state;
    lm_router_config c = {0};
    lm_err err = {0};
    expect_ok(parse(whole, &c, &err), err);
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.port, 1234);
    assert_string_equal(c.origins, "http://a.example, http://b.example");
    assert_false(c.hygiene);
    assert_int_equal(c.check_ms, 1500);
    assert_int_equal(c.check_timeout_ms, 700);
    assert_int_equal(c.fall, 4);
    assert_int_equal(c.rise, 5);
    assert_int_equal(c.breaker_failures, 6);
    assert_int_equal(c.breaker_ms, 7000);
    assert_int_equal(c.connect_ms, 8000);
    assert_int_equal(c.first_ms, 90000);
    assert_int_equal(c.whole_ms, 7200000);
    assert_int_equal(c.silent_ms, 0);
    assert_int_equal(c.attempts, 9);
    assert_int_equal(c.max_body, 10u << 20);
    assert_int_equal(c.max_wait_ms, 11000);
    assert_int_equal(c.n_backends, 2);
    assert_string_equal(c.backends[0].name, "gpu-box");
    assert_string_equal(c.backends[0].url, "https://box.example:8443/mlx");
    assert_string_equal(c.backends[0].api_key, "s3cret");
    assert_int_equal(c.backends[0].max_requests, 12);
    assert_int_equal(c.backends[0].num_ctx, 8192);
    assert_string_equal(c.backends[1].url, "http://127.0.0.1:11434");
    lm_router_config_release(&c);
}

static void mistakes_are_named_with_file_and_line_and_what_is_right(void **state) {
    (void)state;
    const struct {
        const char *text, *words;
    } cases[] = {
        {"[router]\nprot = 1\n", "r.ini line 2: unknown key prot, there are host, port"},
        {"[a]\nkind = mlx\nurl = http://a\nkey = 1\n",
         "r.ini line 4: unknown key key, there are kind, url, api_key"},
        {"[router]\nport = 0\n", "r.ini line 2: port is \"0\": it must be a whole number from 1 to 65535"},
        {"[router]\nport = 70000\n", "from 1 to 65535"},
        {"[router]\nport = \n", "port is \"\""},
        {"[router]\nport = -1\n", "whole number"},
        {"[router]\nfall = 0\n", "fall is \"0\""},
        {"[router]\ncheck = 5\n",
         "check is \"5\": it must be a time with its unit, as 500ms, 5s or 2m, from 100ms to 60m"},
        {"[router]\ncheck = 1ms\n", "from 100ms"},
        {"[router]\ncheck = -5s\n", "a time with its unit"},
        {"[router]\nmax_wait = 1us\n", "max_wait is \"1us\""},
        {"[router]\nmax_body = many\n", "max_body is \"many\": it must be a size as 64MB"},
        {"[router]\nmax_body = 999999999999GB\n", "must be a size"},
        {"[router]\nmax_body = MB\n", "must be a size"},
        {"[router]\nhygiene = maybe\n", "hygiene is \"maybe\": it must be on or off"},
        {"[router]\nhost = a b\n", "host is \"a b\": it must be an address of this machine"},
        {"[router]\nhost =\n", "must be an address"},
        {"[router]\nport = 1\nport = 2\n", "r.ini line 3: port is set twice: take one away"},
        {"[router]\n[router]\n", "r.ini line 2: [router] is there twice"},
        {"[mlx]\n[mlx]\n", "r.ini line 2: [mlx] is there twice"},
        {"port = 1\n", "r.ini line 1: a line before any section: begin with [router]"},
        {"[Big Box]\n", "[Big Box] is no name for a backend"},
        {"[]\n", "[] is no name for a backend"},
        {"[a]\nkind = vllm\n", "r.ini line 2: kind is \"vllm\": it must be ollama or mlx"},
        {"[a]\nurl = http://a\n", "r.ini: [a] needs a kind: add kind = ollama"},
        {"[a]\nkind = mlx\n", "r.ini: [a] needs a url: add url = http://HOST:PORT"},
        {"[mlx]\nurl = ftp://a\n", "it must be as http://127.0.0.1:11434"},
        {"[mlx]\nurl = http://\n", "it must be as"},
        {"[mlx]\nurl = http://u:p@a\n", "without a user"},
        {"[mlx]\nurl = http://a/?x=1\n", "it must be as"},
        {"[mlx]\nurl = http://a:0\n", "it must be as"},
        {"[mlx]\nurl = http://a:12x\n", "it must be as"},
        {"[mlx]\nurl = http://[::1\n", "it must be as"},
        {"[mlx]\nurl = http://a b\n", "it must be as"},
        {"[mlx]\napi_key = a b\n", "api_key may have at most 4096 visible characters, no blanks"},
        {"[mlx]\napi_key = a\tb\n", "visible characters"},
        {"[mlx]\nurl = http://localhost:11436/\n", "[mlx] has the router's own address"},
        {"[mlx]\nurl = http://127.0.0.1:11434\n[ollama]\n", "[mlx] and [ollama] have the same address"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_router_config c = {0};
        lm_err err = {0};
        expect_fail(parse(cases[i].text, &c, &err), LM_INVALID, err, cases[i].words);
        lm_router_config_release(&c);
    }
}

static void more_backends_than_there_is_room_for_are_refused(void **state) {
    (void)state;
    lm_router_config c = {0};
    lm_err err = {0};
    lm_buf b;
    lm_buf_init(&b, 1 << 16);
    for (int i = 0; i <= LM_ROUTER_MAX_BACKENDS; i++)
        lm_buf_printf(&b, "[b%d]\nkind = mlx\nurl = http://b%d\n", i, i);
    expect_fail(parse(b.ptr, &c, &err), LM_INVALID, err, "more than 16 backends");
    lm_router_config_release(&c);
    lm_buf_release(&b);
}

/* Whatever is set and shown reads back as it was: nothing of the table is written otherwise than it is read. */
static void what_holds_now_is_such_a_file(void **state) {
    (void)state;
    lm_router_config a = {0}, b = {0};
    lm_err err = {0};
    lm_buf first, second;
    lm_buf_init(&first, 1 << 16);
    lm_buf_init(&second, 1 << 16);
    expect_ok(parse(whole, &a, &err), err);
    lm_router_config_text(&a, &first);
    assert_null(strstr(first.ptr, "s3cret"));
    assert_non_null(strstr(first.ptr, "# api_key is set, and not shown\n"));
    expect_ok(parse(first.ptr, &b, &err), err);
    b.backends[0].api_key = lm_strdup("other");
    lm_router_config_text(&b, &second);
    assert_string_equal(first.ptr, second.ptr);

    json_t *json = lm_router_config_json(&a);
    char *text = json_dumps(json, JSON_COMPACT);
    assert_null(strstr(text, "s3cret"));
    assert_non_null(strstr(text, "\"api_key\":true"));
    assert_non_null(strstr(text, "\"first_timeout\":\"90s\""));
    free(text);
    json_decref(json);
    lm_buf_release(&first);
    lm_buf_release(&second);
    lm_router_config_release(&a);
    lm_router_config_release(&b);
}

static void the_environment_wins_and_is_checked(void **state) {
    (void)state;
    lm_router_config c = {0};
    lm_err err = {0};
    char *path = lm_path_join(test_dir(), "router.ini");
    put_file(test_dir(), "router.ini", LM_STR("[router]\nport = 5000\n"));
    setenv("MLX_ROUTER_HOST", "0.0.0.0:6000", 1);
    expect_ok(lm_router_config_read(path, &c, &err), err);
    assert_string_equal(c.host, "0.0.0.0");
    assert_int_equal(c.port, 6000);
    lm_router_config_release(&c);
    setenv("MLX_ROUTER_PORT", "7000", 1);
    expect_ok(lm_router_config_read(path, &c, &err), err);
    assert_int_equal(c.port, 7000);
    lm_router_config_release(&c);
    setenv("MLX_ROUTER_PORT", "x", 1);
    expect_fail(lm_router_config_read(path, &c, &err), LM_INVALID, err, "MLX_ROUTER_PORT is \"x\"");
    lm_router_config_release(&c);
    setenv("MLX_ROUTER_PORT", "11435", 1);
    expect_fail(lm_router_config_read(path, &c, &err), LM_INVALID, err, "[mlx] has the router's own address");
    lm_router_config_release(&c);
    unsetenv("MLX_ROUTER_HOST");
    unsetenv("MLX_ROUTER_PORT");
    free(path);
}

static void the_users_file_is_found_and_one_that_was_named_must_be_there(void **state) {
    (void)state;
    lm_router_config c = {0};
    lm_err err = {0};
    setenv("XDG_CONFIG_HOME", test_dir(), 1);
    expect_ok(lm_router_config_read(NULL, &c, &err), err);
    assert_int_equal(c.port, 11436);
    lm_router_config_release(&c);
    char *dir = lm_path_join(test_dir(), "mlx-ollama");
    expect_ok(lm_dir_make(dir, &err), err);
    put_file(dir, "router.ini", LM_STR("[router]\nport = 4999\n"));
    expect_ok(lm_router_config_read(NULL, &c, &err), err);
    assert_int_equal(c.port, 4999);
    lm_router_config_release(&c);
    assert_int_equal(lm_router_config_read("/nonexistent/r.ini", &c, &err), LM_NOT_FOUND);
    lm_router_config_release(&c);
    free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_file_there_are_ollama_and_mlx),
        cmocka_unit_test(each_key_is_read),
        cmocka_unit_test(mistakes_are_named_with_file_and_line_and_what_is_right),
        cmocka_unit_test(more_backends_than_there_is_room_for_are_refused),
        cmocka_unit_test(what_holds_now_is_such_a_file),
        cmocka_unit_test(the_environment_wins_and_is_checked),
        cmocka_unit_test(the_users_file_is_found_and_one_that_was_named_must_be_there),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
