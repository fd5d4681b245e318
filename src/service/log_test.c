#include "base/test.h"
#include "service/service.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define LIMIT 65536

static service_log log_;
static char path[200], old[200];

static int setup(void **state) {
    make_test_dir(state);
    snprintf(path, sizeof path, "%s/log", test_dir());
    snprintf(old, sizeof old, "%s/log.old", test_dir());
    return service_log_open(&log_, path, LIMIT, NULL) == LM_OK ? 0 : -1;
}

static int teardown(void **state) {
    service_log_close(&log_);
    return remove_test_dir(state);
}

static char *text_of(const char *file) {
    lm_buf text;
    lm_err err = {0};
    lm_buf_init(&text, 1 << 22);
    expect_ok(lm_file_read(file, 1 << 22, &text, &err), err);
    return text.ptr ? lm_buf_take(&text) : lm_strdup("");
}

static void expect_text(const char *file, const char *want) {
    char *got = text_of(file);
    assert_string_equal(got, want);
    free(got);
}

static void lines_are_whole_however_they_come(void **state) {
    (void)state;
    service_log_add(&log_, LM_STR("one\ntw"));
    expect_text(path, "one\n");
    service_log_add(&log_, LM_STR("o\nthree"));
    expect_text(path, "one\ntwo\n");
    service_log_end_line(&log_);
    service_log_end_line(&log_);
    expect_text(path, "one\ntwo\nthree\n");
}

/* The numbers in a file, which must follow each other; returns what comes next. */
static long follow_numbers(const char *file, long next) {
    char *text = text_of(file);
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        long n = strtol(line, NULL, 10);
        if (next >= 0) assert_int_equal(n, next);
        next = n + 1;
    }
    free(text);
    return next;
}

static void a_log_turns_over_between_two_lines_and_loses_none(void **state) {
    (void)state;
    struct stat info;
    for (long i = 0; i < 20000; i++) {
        char line[64];
        int n = snprintf(line, sizeof line, "%ld of many\n", i);
        service_log_add(&log_, (lm_str){line, (size_t)n / 2});
        service_log_add(&log_, (lm_str){line + n / 2, (size_t)(n - n / 2)});
        if (i % 1000 == 0) {
            assert_int_equal(stat(path, &info), 0);
            assert_true(info.st_size <= LIMIT);
        }
    }
    assert_int_equal(stat(old, &info), 0);
    assert_true(info.st_size <= LIMIT && info.st_size > LIMIT - 100);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(follow_numbers(path, follow_numbers(old, -1)), 20000);
}

static void an_endless_line_is_cut_and_not_lost(void **state) {
    (void)state;
    char *much = lm_alloc(200001);
    memset(much, 'x', 200000);
    service_log_close(&log_);
    assert_int_equal(service_log_open(&log_, path, 1 << 20, NULL), LM_OK);
    service_log_add(&log_, (lm_str){much, 200000});
    service_log_end_line(&log_);
    char *got = text_of(path);
    size_t n = 0, lines = 0;
    for (char *c = got; *c; c++) *c == 'x' ? n++ : lines++;
    assert_int_equal(n, 200000);
    assert_int_equal(lines, 4);
    free(got);
    free(much);
}

static void a_full_disk_is_counted_and_told_when_there_is_room_again(void **state) {
    (void)state;
    struct rlimit before, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 25;
    service_log_add(&log_, LM_STR("before the disk is full\n")); /* 24 bytes */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    service_log_add(&log_, LM_STR("lost one\nlost two\n"));
    service_log_add(&log_, LM_STR("lost three\n"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    expect_text(path, "before the disk is full\n"); /* and no half of a line */
    service_log_add(&log_, LM_STR("room again\n"));
    expect_text(path,
                "before the disk is full\n"
                "level=WARN msg=\"the disk was full: 3 lines (29 bytes) are missing here\"\nroom again\n");
}

static void a_file_that_is_taken_away_is_made_anew(void **state) {
    (void)state;
    service_log_add(&log_, LM_STR("one\n"));
    assert_int_equal(unlink(path), 0);
    log_.looked_ns = 0; /* as if a second had passed */
    service_log_add(&log_, LM_STR("two\n"));
    expect_text(path, "two\n");
}

static void a_log_goes_on_where_it_ended(void **state) {
    (void)state;
    service_log_add(&log_, LM_STR("one\n"));
    service_log_close(&log_);
    assert_int_equal(service_log_open(&log_, path, LIMIT, NULL), LM_OK);
    service_log_add(&log_, LM_STR("two\n"));
    expect_text(path, "one\ntwo\n");
    assert_int_equal(log_.size, 8);
}

static void news_and_trouble_go_different_ways(void **state) {
    (void)state;
    lm_err err = {0};
    service_log errors = {0};
    expect_ok(service_log_open(&errors, old, LIMIT, &err), err);
    service_split split = {.log = &log_, .errors = &errors};
    service_split_add(&split, LM_STR("time=T level=INFO msg=a\ntime=T level=ERROR msg=b\nlevel=INFO of "
                                     "something else\ntime=T level=DE"));
    service_split_add(&split, LM_STR("BUG msg=c\nabort"));
    service_split_end_line(&split);
    expect_text(path, "time=T level=INFO msg=a\ntime=T level=DEBUG msg=c\n");
    expect_text(old, "time=T level=ERROR msg=b\nlevel=INFO of something else\nabort\n");
    service_log_close(&errors);
    lm_buf_release(&split.held);
}

#define with_log(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_log(lines_are_whole_however_they_come),
        with_log(a_log_turns_over_between_two_lines_and_loses_none),
        with_log(an_endless_line_is_cut_and_not_lost),
        with_log(a_full_disk_is_counted_and_told_when_there_is_room_again),
        with_log(a_file_that_is_taken_away_is_made_anew),
        with_log(a_log_goes_on_where_it_ended),
        with_log(news_and_trouble_go_different_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
