/* A checkpoint to convert: the bytes up to the first zero are config.json, those behind it model.safetensors.
 * It is refused with a text, or the plan's items lie in their sources and can be written. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char place[] = "/dev/shm/lm-fuzz-convert-XXXXXX";

/* A file of the directory that is in memory. */
static int file_of(const char *name) {
    char from[64], to[96];
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) abort();
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    snprintf(to, sizeof to, "%s/%s", place, name);
    if (symlink(from, to) != 0) abort();
    return fd;
}

static void put(int fd, const uint8_t *bytes, size_t n) {
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n) abort();
}

static bool go_on(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    if (done > total) abort();
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int config = -1, weights = -1;
    static const char *const forms[] = {NULL, "q4_k_m", "8bit", "nvfp4", "bf16"};
    char out[128];
    lm_form_info info;
    lm_err err = {0};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    if (!zero) return 0;
    if (config < 0) {
        if (!mkdtemp(place)) abort();
        config = file_of("config.json");
        weights = file_of("model.safetensors");
    }
    put(config, data, (size_t)(zero - data));
    put(weights, zero + 1, size - (size_t)(zero - data) - 1);
    if (lm_convert_look(place, &info, &err) != LM_OK && !err.text[0]) abort();
    snprintf(out, sizeof out, "%s.out", place);
    const char *form = forms[size % 5];
    lm_conversion how;
    if (form && lm_conversion_parse(form, &how, &err) != LM_OK) abort();
    if (lm_dir_remove(out, &err) != LM_OK || lm_dir_make(out, &err) != LM_OK) abort();
    err.text[0] = '\0';
    if (lm_convert_dir(place, out, form ? &how : NULL, go_on, NULL, &err) != LM_OK && !err.text[0]) abort();
    return 0;
}
