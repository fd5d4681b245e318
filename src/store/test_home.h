/* test_home.h (tests only) - a home of its own for each test of the store, and looking for models in it. */
#ifndef LM_STORE_TEST_HOME_H
#define LM_STORE_TEST_HOME_H

#include <unistd.h>

#include "base/file.h"
#include "base/test.h"
#include "store/store.h"

static char home[64], theirs[128]; /* HOME, and Ollama's store in it */

static inline int fresh_home(void **state) {
    (void)state;
    const char *unset[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME",
                           "XDG_CONFIG_HOME"};
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++) unsetenv(unset[i]);
    snprintf(home, sizeof home, "/tmp/lm-store-XXXXXX");
    if (!mkdtemp(home)) return -1;
    snprintf(theirs, sizeof theirs, "%s/.ollama/models", home);
    return setenv("HOME", home, 1) || setenv("OLLAMA_MODELS", theirs, 1);
}

static inline int no_home(void **state) {
    (void)state;
    return lm_dir_remove(home, NULL) == LM_OK ? 0 : -1;
}

static inline lm_entry find(lm_store *s, const char *name) {
    lm_entry e = {0};
    lm_err err = {0};
    expect_ok(lm_store_find(s, name, &e, &err), err);
    return e;
}

static inline void not_there(lm_store *s, const char *name) {
    lm_entry e;
    lm_err err = {0};
    char words[800];
    snprintf(words, sizeof words, "model '%s' not found", name);
    expect_fail(lm_store_find(s, name, &e, &err), LM_NOT_FOUND, err, words);
}

/* The listed names in order, separated by blanks. What is listed can be had. */
static inline const char *listed(lm_store *s) {
    static char text[8000];
    lm_entry *entries = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    expect_ok(lm_store_list(s, &entries, &n, &err), err);
    text[0] = '\0';
    for (uint32_t i = 0; i < n; i++) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof text - len, "%s%s", i ? " " : "", entries[i].name);
        assert_int_equal(strlen(entries[i].digest), 64);
        lm_entry again = find(s, entries[i].name);
        assert_string_equal(again.name, entries[i].name);
        assert_string_equal(again.digest, entries[i].digest);
        assert_string_equal(again.dir, entries[i].dir);
        assert_string_equal(again.file, entries[i].file);
        assert_int_equal(again.owned, entries[i].owned);
        assert_int_equal(again.gguf, entries[i].gguf);
    }
    free(entries);
    return text;
}

#endif
