/* A GGUF file through the whole importer: any bytes give a model directory that opens, or an error that
 * leaves nothing. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store.h"
#include "weights/gguf.h"
#include "weights/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fd = -1;
static char input[64], place[64], output[80];

static void set_up(void) {
    fd = memfd_create("gguf", MFD_CLOEXEC);
    snprintf(input, sizeof input, "/proc/self/fd/%d", fd);
    /* in memory where there is such a place: the importer syncs every file to the disk */
    snprintf(place, sizeof place, "%s/lm-fuzz-gguf-XXXXXX", lm_path_is_dir("/dev/shm") ? "/dev/shm" : "/tmp");
    if (fd < 0 || !mkdtemp(place)) abort();
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_err err = {0};
    lm_gguf *g = NULL;
    if (fd < 0) set_up();
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    if (lm_gguf_open(&g, input, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !g);
        return 0;
    }
    read_all(g);
    lm_gguf_close(g);

    if (lm_import_gguf(input, output, NULL, NULL, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !lm_path_is_dir(output));
        return 0;
    }
    lm_weights *w = NULL;
    LM_ASSERT(lm_weights_open(&w, output, &err) == LM_OK);
    lm_weights_close(w);
    LM_ASSERT(lm_dir_remove(output, &err) == LM_OK);
    return 0;
}
