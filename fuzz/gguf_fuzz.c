/* A GGUF file through the whole importer: any bytes give a model directory that opens, or an error that
 * leaves nothing. "MANY", a number of files (up to 4), the length of each but the last in 16 bits and their
 * bytes: the parts of one model. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store.h"
#include "weights/gguf.h"
#include "weights/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILES 4
static int fd[FILES] = {-1, -1, -1, -1};
static char input[FILES][64], place[64], output[80];

static void set_up(void) {
    for (int i = 0; i < FILES; i++) {
        fd[i] = memfd_create("gguf", MFD_CLOEXEC);
        if (fd[i] < 0) abort();
        snprintf(input[i], sizeof input[i], "/proc/self/fd/%d", fd[i]);
    }
    /* in memory where there is such a place: the importer syncs every file to the disk */
    snprintf(place, sizeof place, "%s/lm-fuzz-gguf-XXXXXX", lm_path_is_dir("/dev/shm") ? "/dev/shm" : "/tmp");
    if (!mkdtemp(place)) abort();
    snprintf(output, sizeof output, "%s/out", place);
}

/* Asks for everything in every type; what is there must come back, what is not must say so. */
static void read_all(const lm_gguf *g) {
    static const char *const keys[] = {"general.architecture",  "general.alignment", "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.scores", "llama.block_count", "k"};
    unsigned touched = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        lm_err err = {0};
        lm_str s = {NULL, 0}, *strs = NULL;
        int32_t *ints = NULL;
        float *floats = NULL;
        double d = 0;
        uint32_t u = 0, n = 0;
        bool b = false;
        if (lm_gguf_str(g, keys[i], &s, &err) != LM_OK) LM_ASSERT(err.text[0]);
        if (lm_gguf_u32(g, keys[i], &u, &err) != LM_OK) LM_ASSERT(err.text[0]);
        if (lm_gguf_float(g, keys[i], &d, &err) != LM_OK) LM_ASSERT(err.text[0]);
        if (lm_gguf_bool(g, keys[i], &b, &err) != LM_OK) LM_ASSERT(err.text[0]);
        if (lm_gguf_strs(g, keys[i], &strs, &n, &err) == LM_OK && strs) {
            for (uint32_t k = 0; k < n; k++) {
                if (strs[k].len) touched += (unsigned char)strs[k].ptr[strs[k].len - 1];
            }
        }
        if (lm_gguf_i32s(g, keys[i], &ints, &n, &err) == LM_OK && ints && n) touched += (unsigned)ints[n - 1];
        if (lm_gguf_floats(g, keys[i], &floats, &n, &err) == LM_OK && floats && n)
            touched += floats[n - 1] > 0;
        free(strs);
        free(ints);
        free(floats);
    }
    for (uint32_t i = 0; i < lm_gguf_count(g); i++) {
        const lm_gguf_tensor *t = lm_gguf_tensor_at(g, i);
        LM_ASSERT(t->bytes && t->bytes % t->row_bytes == 0);
        touched += t->data[0] + t->data[t->bytes - 1];
    }
    volatile unsigned sink = touched;
    (void)sink;
}

static void put(int i, const uint8_t *data, size_t size) {
    if (ftruncate(fd[i], 0) != 0 || pwrite(fd[i], data, size, 0) != (ssize_t)size) abort();
}

/* Cuts the input into files; how many. */
static uint32_t put_files(const uint8_t *data, size_t size) {
    uint32_t n = size > 5 && memcmp(data, "MANY", 4) == 0 ? data[4] % FILES + 1 : 1;
    size_t at = n > 1 ? 5 + 2 * (n - 1) : 0;
    if (at > size) n = 1, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t left = size - at, want = i + 1 < n ? (size_t)(data[5 + 2 * i] | data[6 + 2 * i] << 8) : left;
        if (want > left) want = left;
        put((int)i, data + at, want);
        at += want;
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_err err = {0};
    lm_gguf *g = NULL;
    char digest[LM_DIGEST_SIZE] = "";
    if (fd[0] < 0) set_up();
    uint32_t n = put_files(data, size);
    const char *const files[FILES] = {input[0], input[1], input[2], input[3]};
    if (lm_gguf_open_parts(&g, files, n, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !g);
        return 0;
    }
    read_all(g);
    lm_gguf_close(g);

    if (lm_import_parts(files, n, output, digest, NULL, NULL, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !lm_path_is_dir(output));
        return 0;
    }
    LM_ASSERT(strlen(digest) == 71);
    lm_weights *w = NULL;
    LM_ASSERT(lm_weights_open(&w, output, &err) == LM_OK);
    lm_weights_close(w);
    LM_ASSERT(lm_dir_remove(output, &err) == LM_OK);
    return 0;
}
