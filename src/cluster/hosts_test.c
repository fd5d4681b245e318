#include "base/test.h"
#include "cluster/cluster.h"

#include <stdlib.h>
#include <unistd.h>

static void refused(const char *text, lm_status want, const char *words) {
    lm_hosts h = {0};
    lm_err err = {0};
    expect_fail(lm_hosts_parse(lm_str_of(text), &h, &err), want, err, words);
    assert_int_equal(h.n, 0);
}

static lm_hosts good(const char *text) {
    lm_hosts h = {0};
    lm_err err = {0};
    expect_ok(lm_hosts_parse(lm_str_of(text), &h, &err), err);
    return h;
}

#define A "{\"ssh\":\"one\",\"ips\":[\"10.0.0.1\"]}"
#define B "{\"ssh\":\"two\",\"ips\":[\"10.0.0.2\"]}"

static void both_forms_of_mlx_launch_are_read(void **state) {
    (void)state;
    lm_hosts h = good("[" A "," B "]");
    assert_int_equal(h.n, 2);
    assert_string_equal(h.kind, "ring");
    assert_string_equal(h.host[1].ssh, "two");
    assert_string_equal(h.host[1].ips[0], "10.0.0.2");
    lm_hosts_release(&h);
    h = good("{\"backend\":\"nccl\",\"envs\":[\"A=b c\"],\"hosts\":[" A ",{\"ssh\":\"two\"}]}");
    assert_string_equal(h.kind, "nccl");
    assert_int_equal(h.n_envs, 1);
    assert_string_equal(h.envs[0], "A=b c");
    assert_int_equal(h.host[1].n_ips, 0);
    lm_hosts_release(&h);
}

static void rdma_devices_become_a_table(void **state) {
    (void)state;
    lm_hosts h = good("{\"backend\":\"jaccl\",\"hosts\":[{\"ssh\":\"a\",\"ips\":[\"10.0.0.1\"],\"rdma\":["
                      "null,\"rdma_en2\"]},"
                      "{\"ssh\":\"b\",\"rdma\":[\"rdma_en5\",null]}]}");
    assert_string_equal(h.rdma, "[[null,\"rdma_en2\"],[\"rdma_en5\",null]]");
    lm_hosts_release(&h);
    refused("{\"backend\":\"jaccl\",\"hosts\":[" A "," B "]}", LM_INVALID, "\"rdma\" must name a device");
    refused("{\"backend\":\"jaccl\",\"hosts\":[{\"ssh\":\"a\",\"ips\":[\"10.0.0.1\"],\"rdma\":[\"x\",\"y\"]},"
            "{\"ssh\":\"b\",\"rdma\":[\"x\",null]}]}",
            LM_INVALID, "null towards itself");
}

static void the_ring_gets_addresses_and_ports_in_order(void **state) {
    (void)state;
    lm_hosts h = good("[{\"ssh\":\"a\",\"ips\":[\"10.0.0.1\",\"10.1.0.1\"]},{\"ssh\":\"b\",\"ips\":[\"10.0.0."
                      "2\",\"10.1.0.2\"]}]");
    lm_buf b;
    lm_buf_init(&b, 1000);
    lm_hosts_ring(&h, 5000, &b);
    assert_string_equal(b.ptr,
                        "[[\"10.0.0.1:5000\",\"10.1.0.1:5001\"],[\"10.0.0.2:5002\",\"10.1.0.2:5003\"]]");
    lm_buf_release(&b);
    lm_hosts_release(&h);
}

static void what_is_wrong_is_said(void **state) {
    (void)state;
    refused("not json", LM_INVALID, "line 1");
    refused("", LM_INVALID, "");
    refused("{}", LM_INVALID, "must be a list of hosts");
    refused("7", LM_INVALID, "must be a list of hosts");
    refused("[]", LM_INVALID, "names 0 hosts");
    refused("[" A "]", LM_INVALID, "names 1 host: one alone needs no --distributed");
    refused("[" A ",7]", LM_INVALID, "rank 1: each host is");
    refused("[" A ",{\"ips\":[\"10.0.0.2\"]}]", LM_INVALID, "rank 1: each host is");
    refused("[" A ",{\"ssh\":\"-oProxyCommand=x\",\"ips\":[\"10.0.0.2\"]}]", LM_INVALID,
            "must be the name of a host");
    refused("[" A ",{\"ssh\":\"a b\",\"ips\":[\"10.0.0.2\"]}]", LM_INVALID, "must be the name of a host");
    refused("[" A ",{\"ssh\":\"two\",\"ips\":\"10.0.0.2\"}]", LM_INVALID, "must be a list");
    refused("[" A ",{\"ssh\":\"two\",\"ips\":[\"fe80::1\"]}]", LM_INVALID, "is not an IPv4 address");
    refused("[" A ",{\"ssh\":\"two\",\"ips\":[\"10.0.0.2:99\"]}]", LM_INVALID, "is not an IPv4 address");
    refused("[" A ",{\"ssh\":\"two\"}]", LM_INVALID, "rank 1 has no \"ips\"");
    refused("[" A ",{\"ssh\":\"two\",\"ips\":[\"10.0.0.2\",\"10.0.0.3\"]}]", LM_INVALID,
            "rank 1 has 2 \"ips\", rank 0 has 1");
    refused("{\"backend\":\"smoke\",\"hosts\":[" A "," B "]}", LM_INVALID, "there are ring, jaccl");
    refused("{\"envs\":[\"no value\"],\"hosts\":[" A "," B "]}", LM_INVALID, "is not NAME=value");
    refused("{\"envs\":[\"A=b\\nB=c\"],\"hosts\":[" A "," B "]}", LM_INVALID, "is not NAME=value");
}

static void ranks_come_once_and_in_order(void **state) {
    (void)state;
    refused("[" A ",{\"ssh\":\"two\",\"rank\":0,\"ips\":[\"10.0.0.2\"]}]", LM_INVALID,
            "host 1 says that it is rank 0");
    lm_hosts h = good("[" A ",{\"ssh\":\"two\",\"rank\":1,\"ips\":[\"10.0.0.2\"]}]");
    lm_hosts_release(&h);
}

static void there_may_be_too_many(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 10000);
    for (int i = 0; i <= LM_MAX_RANKS; i++) lm_buf_text(&b, i ? "," B : "[" A);
    lm_buf_text(&b, "]");
    refused(b.ptr, LM_INVALID, "names 65 hosts, 64 are possible");
    lm_buf_release(&b);
}

static void a_file_that_is_not_there_or_no_json_is_named(void **state) {
    (void)state;
    lm_hosts h = {0};
    lm_err err = {0};
    expect_fail(lm_hosts_load("/nowhere/hosts.json", &h, &err), LM_NOT_FOUND, err, "/nowhere/hosts.json");
    char path[] = "/tmp/lm-hosts-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "[1,", 3) == 3);
    close(fd);
    expect_fail(lm_hosts_load(path, &h, &err), LM_CORRUPT, err, path);
    unlink(path);
}

static void a_host_is_here_by_name_or_address(void **state) {
    (void)state;
    lm_hosts h = good(
        "[{\"ssh\":\"localhost\",\"ips\":[\"192.0.2.1\"]},{\"ssh\":\"127.0.0.5\",\"ips\":[\"192.0.2.1\"]},"
        "{\"ssh\":\"elsewhere\",\"ips\":[\"127.0.0.1\"]},{\"ssh\":\"elsewhere\",\"ips\":[\"192.0.2.1\"]}]");
    assert_true(lm_host_is_here(&h.host[0]));
    assert_true(lm_host_is_here(&h.host[1]));
    assert_true(lm_host_is_here(&h.host[2]));
    assert_false(lm_host_is_here(&h.host[3]));
    lm_hosts_release(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_of_mlx_launch_are_read),
        cmocka_unit_test(rdma_devices_become_a_table),
        cmocka_unit_test(the_ring_gets_addresses_and_ports_in_order),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(ranks_come_once_and_in_order),
        cmocka_unit_test(there_may_be_too_many),
        cmocka_unit_test(a_file_that_is_not_there_or_no_json_is_named),
        cmocka_unit_test(a_host_is_here_by_name_or_address),
    };
    return cmocka_run_group_tests_name("cluster.hosts", tests, NULL, NULL);
}
