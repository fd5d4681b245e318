/* What other programs print is read as they print it, and nothing else is taken for it. */
#include "base/test.h"
#include "doctor/foreign.h"

static void a_version_stands_behind_the_programs_name(void **state) {
    (void)state;
    char v[64];
    assert_true(foreign_version(LM_STR("mlx-server-startup 0.1.0\n"), "mlx-server-startup", v));
    assert_string_equal(v, "0.1.0");
    assert_true(foreign_version(LM_STR("prog 1.2.3-rc1 (built here)\nmore"), "prog", v));
    assert_string_equal(v, "1.2.3-rc1");
    assert_true(foreign_version(LM_STR("prog 1\x1b[31m"), "prog", v));
    assert_string_equal(v, "1?[31m");
    assert_false(foreign_version(LM_STR("prog: unknown option\n"), "prog", v));
    assert_false(foreign_version(LM_STR("program 1.0\n"), "prog", v));
    assert_false(foreign_version(LM_STR("prog \n"), "prog", v));
    assert_false(foreign_version(LM_STR("\nprog 1.0\n"), "prog", v));
    assert_false(foreign_version(LM_STR(""), "prog", v));
    char far[200];
    memset(far, '1', sizeof far);
    memcpy(far, "prog ", 5);
    assert_false(foreign_version((lm_str){far, sizeof far}, "prog", v));
}

static void ldd_names_what_is_not_found(void **state) {
    (void)state;
    char missing[256];
    assert_int_equal(foreign_ldd_missing(LM_STR("\tlinux-vdso.so.1 (0x00007)\n"
                                                "\tlibmlx.so => not found\n"
                                                "\tlibc.so.6 => /lib/libc.so.6 (0x0007)\n"
                                                "\tlibcurl.so.4 => not found\n"),
                                         missing),
                     2);
    assert_string_equal(missing, "libmlx.so libcurl.so.4");
    assert_int_equal(foreign_ldd_missing(LM_STR("\tnot a dynamic executable\n"), missing), 0);
    assert_string_equal(missing, "");
}

static void many_missing_libraries_are_counted_and_the_first_are_named(void **state) {
    (void)state;
    char text[4000] = "", missing[256];
    for (int i = 0; i < 100; i++) strcat(text, "\tlibsomething.so => not found\n");
    assert_int_equal(foreign_ldd_missing(lm_str_of(text), missing), 100);
    assert_true(strlen(missing) < 256);
}

static bool only_one(const char *path) {
    return !strcmp(path, "/opt/homebrew/lib/libjansson.4.dylib");
}

static void otool_names_what_the_disk_must_have(void **state) {
    (void)state;
    char missing[256];
    assert_int_equal(
        foreign_otool_missing(LM_STR("/gone/mlx-ollama-bridge:\n"
                                     "\t/opt/homebrew/lib/libjansson.4.dylib (compatibility version 19.0.0, "
                                     "current version 19.1.0)\n"
                                     "\t/opt/homebrew/lib/libmlx.dylib (compatibility version 0.0.0)\n"
                                     "\t@rpath/libx.dylib (compatibility version 0.0.0)\n"
                                     "\t/usr/lib/libSystem.B.dylib (compatibility version 1.0.0)\n"
                                     "\t/System/Library/Frameworks/Metal.framework/Metal (x)\n"),
                              only_one, missing),
        1);
    assert_string_equal(missing, "/opt/homebrew/lib/libmlx.dylib");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_version_stands_behind_the_programs_name),
        cmocka_unit_test(ldd_names_what_is_not_found),
        cmocka_unit_test(many_missing_libraries_are_counted_and_the_first_are_named),
        cmocka_unit_test(otool_names_what_the_disk_must_have),
    };
    return cmocka_run_group_tests_name("doctor.foreign", tests, NULL, NULL);
}
