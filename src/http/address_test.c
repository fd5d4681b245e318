#include "base/test.h"
#include "http/client.h"

static void expect_host(const char *text, const char *host, uint16_t port) {
    char got[256];
    uint16_t n = 0;
    lm_address_parse(text, 11434, got, &n);
    if (strcmp(got, host) || n != port) fail_msg("%s gives %s and %u", text, got, n);
}

static void an_address_is_read_in_all_of_ollamas_forms(void **state) {
    (void)state;
    expect_host("1.2.3.4", "1.2.3.4", 11434);
    expect_host("1.2.3.4:5678", "1.2.3.4", 5678);
    expect_host(":1234", "0.0.0.0", 1234);
    expect_host("example.com", "example.com", 11434);
    expect_host("http://example.com", "example.com", 80);
    expect_host("https://example.com", "example.com", 443);
    expect_host("https://example.com:99/a/b", "example.com", 99);
    expect_host("example.com/ollama", "example.com", 11434);
    expect_host("[::1]", "::1", 11434);
    expect_host("[::1]:1234", "::1", 1234);
    expect_host("::1", "::1", 11434);
    expect_host("http://", "127.0.0.1", 80);
    expect_host("1.2.3.4:66000", "1.2.3.4", 11434);
    expect_host("1.2.3.4:x", "1.2.3.4", 11434);
    expect_host("1.2.3.4:", "1.2.3.4", 11434);
    expect_host("1.2.3.4:65535", "1.2.3.4", 65535);
    expect_host("1.2.3.4:00080", "1.2.3.4", 80);
    expect_host("1.2.3.4:123456789012", "1.2.3.4", 11434);
    expect_host("", "127.0.0.1", 11434);
}

static void expect_url(const char *text, uint16_t port, const char *want) {
    char got[512];
    lm_err err = {0};
    expect_ok(lm_address_url(text, 11434, port, got, &err), err);
    assert_string_equal(got, want);
}

static void an_address_becomes_what_a_client_asks(void **state) {
    (void)state;
    lm_err err = {0};
    char got[512];
    expect_url(NULL, 0, "http://127.0.0.1:11434");
    expect_url(" \"gpu-box:80\" ", 0, "http://gpu-box:80");
    expect_url("0.0.0.0", 0, "http://127.0.0.1:11434");
    expect_url("[::]:99", 0, "http://[::1]:99");
    expect_url("https://example.com/ollama//", 0, "https://example.com:443/ollama");
    expect_url("example.com:7", 12, "http://example.com:12");
    expect_fail(lm_address_url("ftp://x", 1, 0, got, &err), LM_INVALID, err, "http:// or https://");
    expect_fail(lm_address_url("a b", 1, 0, got, &err), LM_INVALID, err, "no address");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_becomes_what_a_client_asks),
        cmocka_unit_test(an_address_is_read_in_all_of_ollamas_forms),
    };
    return cmocka_run_group_tests_name("http.address", tests, NULL, NULL);
}
