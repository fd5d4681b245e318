#include "base/test.h"
#include "service/service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char *path_of(const char *name) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    return path;
}

static void refuse(const char *name, const char *words) {
    lm_err err = {0};
    int fd = -1;
    expect_fail(service_open_ours(path_of(name), &fd, &err), LM_DENIED, err, words);
    assert_non_null(strstr(err.text, "logs = state"));
    assert_int_equal(fd, -1);
}

static void a_file_of_ours_is_made_for_us_alone(void **state) {
    (void)state;
    lm_err err = {0};
    struct stat info;
    int fd = -1;
    expect_ok(service_open_ours(path_of("new/log"), &fd, &err), err);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    close(fd);
    assert_int_equal(chmod(path_of("new/log"), 0666), 0);
    expect_ok(service_open_ours(path_of("new/log"), &fd, &err), err);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    close(fd);
}

static void what_somebody_may_have_laid_out_for_us_is_refused(void **state) {
    (void)state;
    put_file(test_dir(), "victim", LM_STR("precious\n"));
    char victim[200];
    strcpy(victim, path_of("victim"));
    assert_int_equal(symlink(victim, path_of("link")), 0);
    refuse("link", "is a symbolic link");
    assert_int_equal(symlink("/nowhere/at/all", path_of("dangling")), 0);
    refuse("dangling", "is a symbolic link");
    assert_int_equal(link(victim, path_of("twin")), 0);
    refuse("twin", "second name");
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    refuse("fifo", "is no regular file");
    assert_int_equal(mkdir(path_of("dir"), 0700), 0);
    refuse("dir", "is a directory");
    lm_buf text;
    lm_err err = {0};
    lm_buf_init(&text, 100);
    expect_ok(lm_file_read(victim, 100, &text, &err), err);
    assert_string_equal(text.ptr, "precious\n");
    lm_buf_release(&text);
    if (geteuid() == 0) { /* only root can make somebody else's file */
        put_file(test_dir(), "theirs", LM_STR("x"));
        assert_int_equal(chown(path_of("theirs"), 12345, 12345), 0);
        refuse("theirs", "belongs to somebody else");
    }
}

/* Takes the lock in a process of its own, which ends when its pipe does. */
static pid_t hold(const char *path, int *end) {
    int go[2], ready[2];
    char byte = 0;
    assert_int_equal(pipe(go) | pipe(ready), 0);
    pid_t pid = fork(), holder;
    if (!pid) {
        int fd;
        close(go[1]);
        byte = service_lock_take(path, &fd, &holder, NULL) == LM_OK;
        if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) < 0) _exit(1);
        _exit(0); /* without a word, as if killed */
    }
    close(go[0]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    assert_int_equal(byte, 1);
    *end = go[1];
    return pid;
}

static void one_process_has_the_lock_and_the_system_says_which(void **state) {
    (void)state;
    lm_err err = {0};
    pid_t who = -5;
    int end, fd = -1;
    bool left = true;
    char path[200];
    strcpy(path, path_of("pid"));
    expect_ok(service_lock_holder(path, &who, &left, &err), err);
    assert_int_equal(who, 0);
    assert_false(left);
    pid_t holder = hold(path, &end);
    expect_ok(service_lock_holder(path, &who, &left, &err), err);
    assert_int_equal(who, holder);
    expect_fail(service_lock_take(path, &fd, &who, &err), LM_BUSY, err, "running already");
    assert_int_equal(who, holder);
    close(end);
    waitpid(holder, NULL, 0);
    expect_ok(service_lock_holder(path, &who, &left, &err), err);
    assert_int_equal(who, 0);
    assert_true(left); /* it was killed: the file is still there */
    expect_ok(service_lock_take(path, &fd, &who, &err), err);
    service_lock_give(path, fd);
    assert_false(lm_path_is_file(path));
}

static void a_pid_file_that_names_somebody_else_means_nothing(void **state) {
    (void)state;
    lm_err err = {0};
    pid_t who = -5;
    bool left = false;
    char text[32];
    snprintf(text, sizeof text, "%d\n", (int)getppid());
    put_file(test_dir(), "pid", lm_str_of(text));
    expect_ok(service_lock_holder(path_of("pid"), &who, &left, &err), err);
    assert_int_equal(who, 0);
    assert_true(left);
}

static void a_process_has_a_beginning_until_it_ends(void **state) {
    (void)state;
    uint64_t mine = service_process_began(getpid());
    assert_true(mine > 0);
    assert_int_equal(service_process_began(getpid()), mine);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (!child) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) < 0);
    }
    assert_true(service_process_began(child) >= mine);
    close(ends[0]);
    close(ends[1]);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(service_process_began(child), 0); /* ended, and nobody has asked yet */
    waitpid(child, NULL, 0);
    assert_int_equal(service_process_began(child), 0);
    assert_int_equal(service_process_began(0), 0);
}

#define with_dir(test) cmocka_unit_test_setup_teardown(test, make_test_dir, remove_test_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_dir(a_file_of_ours_is_made_for_us_alone),
        with_dir(what_somebody_may_have_laid_out_for_us_is_refused),
        with_dir(one_process_has_the_lock_and_the_system_says_which),
        with_dir(a_pid_file_that_names_somebody_else_means_nothing),
        cmocka_unit_test(a_process_has_a_beginning_until_it_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
