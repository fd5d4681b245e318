/* What other programs print: any bytes give a version and names that fit and can be shown, or nothing. */
#include <string.h>

#include "doctor/foreign.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool nothing_is_there(const char *path) {
    LM_ASSERT(path[0] == '/');
    return false;
}

static void expect_shown(const char *text, size_t room) {
    LM_ASSERT(strlen(text) < room);
    for (const char *p = text; *p; p++) LM_ASSERT(*p >= 0x20 && *p < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str text = {(const char *)data, size};
    char version[64], names[256];
    if (foreign_version(text, "prog", version)) {
        LM_ASSERT(version[0]);
        expect_shown(version, sizeof version);
    }
    LM_ASSERT((foreign_ldd_missing(text, names) > 0) == (names[0] != '\0'));
    expect_shown(names, sizeof names);
    LM_ASSERT((foreign_otool_missing(text, nothing_is_there, names) > 0) == (names[0] != '\0'));
    expect_shown(names, sizeof names);
    return 0;
}
