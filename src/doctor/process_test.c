/* Processes that the doctor starts, and what the system says of them. */
#include "base/test.h"
#include "doctor/doctor.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

static doctor_process *start(const char *shell, bool talk) {
    char *argv[] = {"sh", "-c", lm_strdup(shell), NULL};
    doctor_process *p = NULL;
    lm_err err = {0};
    expect_ok(process_start(&p, argv, talk, &err), err);
    free(argv[2]);
    return p;
}

static void a_process_is_heard_line_by_line(void **state) {
    (void)state;
    doctor_process *p = start("read x; echo \"one $x\"; echo two; echo three >&2", true);
    lm_buf line;
    lm_err err = {0};
    lm_buf_init(&line, 100);
    expect_ok(process_say(p, LM_STR("word\n"), &err), err);
    expect_ok(process_hear(p, 20, NULL, &line, &err), err);
    assert_string_equal(line.ptr, "one word");
    expect_ok(process_hear(p, 20, NULL, &line, &err), err);
    assert_string_equal(line.ptr, "two");
    expect_fail(process_hear(p, 20, NULL, &line, &err), LM_IO, err, "three"); /* its last words */
    assert_int_equal(process_stop(p, 20), 0);
    lm_buf_release(&line);
}

static void a_silent_process_is_not_waited_for_without_an_end(void **state) {
    (void)state;
    doctor_process *p = start("exec sleep 1000", true);
    lm_buf line;
    lm_err err = {0};
    lm_buf_init(&line, 100);
    expect_fail(process_hear(p, 0, NULL, &line, &err), LM_TIMEOUT, err, "said nothing");
    assert_true(process_alive(p));
    assert_int_equal(process_stop(p, 20), 128 + SIGTERM);
    lm_buf_release(&line);
}

static void one_that_does_not_want_to_end_is_killed(void **state) {
    (void)state;
    doctor_process *p = start("trap '' TERM; echo ready; while :; do sleep 0.05; done", true);
    lm_buf line;
    lm_err err = {0};
    lm_buf_init(&line, 100);
    expect_ok(process_hear(p, 20, NULL, &line, &err), err);
    assert_int_equal(process_stop(p, 0), 128 + SIGKILL);
    lm_buf_release(&line);
}

static void its_status_and_last_words_are_kept(void **state) {
    (void)state;
    doctor_process *p = start("echo first; echo the cause >&2; exit 3", false);
    while (process_alive(p)) usleep(1000);
    char words[256];
    process_last_words(p, words);
    assert_string_equal(words, "the cause");
    assert_int_equal(process_stop(p, 0), 3);
    assert_int_equal(process_stop(NULL, 0), 0);
}

static void a_program_that_is_not_there_is_not_found(void **state) {
    (void)state;
    char *argv[] = {"/no/such/program", NULL};
    doctor_process *p = NULL;
    lm_err err = {0};
    expect_fail(process_start(&p, argv, false, &err), LM_NOT_FOUND, err, "/no/such/program");
    assert_null(p);
}

static void memory_is_of_a_process_and_all_below_it(void **state) {
    (void)state;
    enum { SIZE = 64 << 20 };
    uint64_t before = memory_of_tree(getpid());
    assert_true(before > 100000);
    char *more = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    assert_true(more != MAP_FAILED);
    memset(more, 1, SIZE);
    assert_true(memory_of_tree(getpid()) > before + SIZE / 2);
    munmap(more, SIZE);

    doctor_process *p =
        start("sh -c 'echo up; sleep 1000; :'; :", true); /* a shell below a shell, and sleep */
    lm_buf line;
    lm_err err = {0};
    lm_buf_init(&line, 100);
    expect_ok(process_hear(p, 20, NULL, &line, &err), err);
    uint64_t tree = memory_of_tree(process_pid(p));
    assert_true(tree > 0);
    assert_true(memory_of_tree(getpid()) >= tree);
    assert_int_equal(memory_of_tree(0), 0);
    kill(process_pid(p), SIGKILL);
    assert_int_equal(process_stop(p, 20), 128 + SIGKILL);
    lm_buf_release(&line);
}

static void the_process_on_a_port_is_found(void **state) {
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    assert_int_equal(process_on_port(ntohs(at.sin_port)), 0); /* nobody listens yet */
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(process_on_port(ntohs(at.sin_port)), getpid());
    close(fd);
}

static int run(const char *shell, uint32_t timeout_s, size_t room, lm_buf *out, char words[256],
               lm_status want) {
    char *argv[] = {"sh", "-c", lm_strdup(shell), NULL};
    lm_err err = {0};
    int status = -1;
    lm_buf_init(out, room);
    lm_status st = process_run(argv, timeout_s, NULL, out, &status, words, &err);
    free(argv[2]);
    if (st != want) fail_msg("%s: %s", shell, err.text);
    return status;
}

static void a_whole_run_gives_output_status_and_last_words(void **state) {
    (void)state;
    lm_buf out;
    char words[256];
    assert_int_equal(
        run("echo one; echo two; echo first >&2; echo the cause >&2; exit 7", 20, 100, &out, words, LM_OK),
        7);
    assert_string_equal(out.ptr, "one\ntwo\n");
    assert_string_equal(words, "the cause");
    lm_buf_release(&out);
    assert_int_equal(run("exec >&-; sleep 0.3; exit 5", 20, 100, &out, words, LM_OK),
                     5); /* lives on without stdout */
    lm_buf_release(&out);
}

static void a_run_without_an_end_is_ended(void **state) {
    (void)state;
    lm_buf out;
    char words[256];
    run("exec sleep 1000", 0, 100, &out, words, LM_TIMEOUT);
    lm_buf_release(&out);
    run("while :; do echo more and more; done", 60, 1000, &out, words, LM_TOO_LARGE);
    lm_buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_run_gives_output_status_and_last_words),
        cmocka_unit_test(a_run_without_an_end_is_ended),
        cmocka_unit_test(a_process_is_heard_line_by_line),
        cmocka_unit_test(a_silent_process_is_not_waited_for_without_an_end),
        cmocka_unit_test(one_that_does_not_want_to_end_is_killed),
        cmocka_unit_test(its_status_and_last_words_are_kept),
        cmocka_unit_test(a_program_that_is_not_there_is_not_found),
        cmocka_unit_test(memory_is_of_a_process_and_all_below_it),
        cmocka_unit_test(the_process_on_a_port_is_found),
    };
    return cmocka_run_group_tests_name("doctor.process", tests, NULL, NULL);
}
