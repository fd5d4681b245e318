/* A safetensors file: any bytes give checked views or an error. Every byte that a view names is read, every
 * tensor that could be a matrix is opened as one in every form. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A directory whose model.safetensors is a file in memory. */
static int file_of(const char **dir) {
    static char place[] = "/tmp/lm-fuzz-safetensors-XXXXXX";
    static int fd = -1;
    if (fd < 0) {
        char from[64], to[64];
        fd = memfd_create("model", MFD_CLOEXEC);
        if (fd < 0 || !mkdtemp(place)) abort();
        snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
        snprintf(to, sizeof to, "%s/model.safetensors", place);
        if (symlink(from, to) != 0) abort();
    }
    *dir = place;
    return fd;
}

static void try_matrix(const lm_weights *w, const char *name, const lm_view *v) {
    static const uint32_t bits[] = {0, 2, 3, 4, 5, 6, 8};
    static float row[1 << 16];
    char stem[600];
    size_t n = strlen(name);
    if (n < 8 || n >= sizeof stem || strcmp(name + n - 7, ".weight") != 0) return;
    memcpy(stem, name, n - 7);
    stem[n - 7] = 0;
    for (uint32_t b = 0; b < 7; b++) {
        for (uint32_t group = 32; group <= 128; group *= 2) {
            lm_quant_spec spec = {b             ? LM_QUANT_AFFINE
                                  : group == 32 ? LM_QUANT_MXFP4
                                                : LM_QUANT_NONE,
                                  b ? bits[b] : 4, group};
            lm_matrix m;
            lm_err err = {0};
            uint32_t experts = v->n_dims == 3 && v->dims[0] < 1000 ? (uint32_t)v->dims[0] : 1;
            if (lm_weights_matrix(w, stem, spec, experts, 0, 0, &m, &err) != LM_OK || m.cols > 1 << 16)
                continue;
            lm_matrix_row(&m, m.n_experts - 1, m.rows - 1, row);
            lm_matrix_row(&m, 0, 0, row);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *dir;
    int fd = file_of(&dir);
    lm_weights *w = NULL;
    lm_err err = {0};
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    if (lm_weights_open(&w, dir, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !w);
        return 0;
    }
    uint64_t sum = 0;
    unsigned touched = 0;
    for (uint32_t i = 0; i < lm_weights_count(w); i++) {
        lm_view v, found;
        const char *name = lm_weights_name(w, i, &v);
        LM_ASSERT(lm_weights_find(w, name, &found) && found.data == v.data);
        for (uint64_t k = 0; k < v.bytes; k++) touched += ((const uint8_t *)v.data)[k];
        sum += v.bytes;
        try_matrix(w, name, &v);
    }
    LM_ASSERT(sum == lm_weights_bytes(w) && sum <= size && touched <= 255 * size);
    lm_weights_close(w);
    return 0;
}
