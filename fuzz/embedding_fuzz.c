/* The files that say how a model's states become embeddings, from a hostile hand: whatever they hold, there
 * is a pooling to go by or a text that says why there is none.
 *
 * Input: a byte that chooses the file, then its bytes; the other files are sound. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/graph.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
    const char *name, *sound;
} files[] = {{"modules.json",
              "[{\"type\":\"x.Transformer\",\"path\":\"\"},{\"type\":\"x.Pooling\",\"path\":\"1_Pooling\"}]"},
             {"1_Pooling/config.json", "{\"pooling_mode_mean_tokens\":true}"},
             {"sentence_bert_config.json", "{\"max_seq_length\":256}"}};
#define N_FILES (sizeof files / sizeof *files)

static char dir[] = "/tmp/lm-fuzz-embedding-XXXXXX";
static int fds[N_FILES];

static void fill(size_t i, const void *bytes, size_t n) {
    if (ftruncate(fds[i], 0) != 0 || pwrite(fds[i], bytes, n, 0) != (ssize_t)n) abort();
}

static void set_up(void) {
    char to[128], from[64];
    if (!mkdtemp(dir)) abort();
    snprintf(to, sizeof to, "%s/1_Pooling", dir);
    if (mkdir(to, 0700) != 0) abort();
    for (size_t i = 0; i < N_FILES; i++) {
        fds[i] = memfd_create(files[i].name, MFD_CLOEXEC);
        snprintf(from, sizeof from, "/proc/self/fd/%d", fds[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i].name);
        if (fds[i] < 0 || symlink(from, to) != 0) abort();
        fill(i, files[i].sound, strlen(files[i].sound));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!fds[0]) set_up();
    if (!size || size > 1 << 16) return 0;
    size_t which = data[0] % N_FILES;
    fill(which, data + 1, size - 1);
    lm_embedding_info info = {0};
    lm_embedding_read(&info, dir, size % 2);
    if (info.pooling < LM_POOL_MEAN || info.pooling > LM_POOL_LAST) abort();
    if (info.n_max > LM_MAX_CONTEXT || !memchr(info.problem, '\0', sizeof info.problem)) abort();
    fill(which, files[which].sound, strlen(files[which].sound));
    return 0;
}
