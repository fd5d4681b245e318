/* lm-perplexity: the perplexity of a model directory over token ids from a file, to hold against another
 * engine's.
 *
 *     lm-perplexity --model DIR --ids FILE [--window 512] [--threads 0] [--features NAME]
 *
 * ids are decimal numbers with white space between them. The text is cut into windows of that many tokens,
 * each a sequence of its own from position 0; every token but the first of each is predicted. Prints exp(mean
 * negative log likelihood). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cpu/cpu.h"
#include "model/model.h"

enum { CHUNK = 64 /* rows of logits at a time: 64 x 256k floats are 64 MiB */, MAX_IDS_BYTES = 64 << 20 };

static LM_NORETURN void die(const char *what, const lm_err *err) {
    fprintf(stderr, "lm-perplexity: %s: %s\n", what, err->text);
    exit(1);
}

static int32_t *read_ids(const char *path, uint32_t *n) {
    lm_buf text;
    lm_err err = {0};
    lm_buf_init(&text, MAX_IDS_BYTES);
    if (lm_file_read(path, MAX_IDS_BYTES, &text, &err) != LM_OK) die("ids", &err);
    int32_t *ids = lm_alloc((text.len / 2 + 1) * sizeof *ids);
    *n = 0;
    for (char *at = text.ptr, *end; at; at = end) {
        long id = strtol(at, &end, 10);
        if (end == at) break;
        ids[(*n)++] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
    }
    lm_buf_release(&text);
    return ids;
}

/* -log softmax(logits)[token] */
static double loss(const float *logits, uint32_t n, int32_t token) {
    float top = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < n; i++) top = fmaxf(top, logits[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp((double)logits[i] - top);
    return log(sum) + top - logits[token];
}

/* Sum of losses of tokens 1..n-1. */
static double window_loss(lm_model *m, const int32_t *ids, uint32_t n) {
    const lm_backend *b = lm_model_backend(m);
    uint32_t vocab = lm_model_get_info(m)->n_vocab, rows[CHUNK];
    lm_seq *seq = NULL;
    lm_err err = {0};
    double sum = 0;

    for (uint32_t i = 0; i < CHUNK; i++) rows[i] = i;
    if (b->seq_open(lm_model_device(m), &seq, &err) != LM_OK) die("sequence", &err);
    for (uint32_t at = 0; at + 1 < n; at += CHUNK) {
        uint32_t count = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;
        const float *logits = NULL;
        lm_slice slice = {seq, count};
        if (lm_model_step(m, &slice, 1, ids + at, rows, count, &logits, &err) != LM_OK) die("step", &err);
        for (uint32_t i = 0; i < count; i++) {
            int32_t next = ids[at + i + 1];
            if (next < 0 || (uint32_t)next >= vocab) {
                fprintf(stderr, "lm-perplexity: token %" PRId32 " is not in the vocabulary\n", next);
                exit(1);
            }
            sum += loss(logits + (size_t)i * vocab, vocab, next);
        }
    }
    b->seq_close(seq);
    return sum;
}

int main(int argc, char **argv) {
    const char *dir = NULL, *ids_path = NULL, *features = NULL;
    unsigned long window = 512, threads = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--model"))
            dir = argv[i + 1];
        else if (!strcmp(argv[i], "--ids"))
            ids_path = argv[i + 1];
        else if (!strcmp(argv[i], "--features"))
            features = argv[i + 1];
        else if (!strcmp(argv[i], "--window"))
            window = strtoul(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--threads"))
            threads = strtoul(argv[i + 1], NULL, 10);
        else
            dir = NULL, i = argc;
    }
    if (!dir || !ids_path || argc % 2 == 0 || window < 2 || window > 1 << 20 || threads > 1024) {
        fputs("usage: lm-perplexity --model DIR --ids FILE [--window 512] [--threads 0] [--features NAME]\n",
              stderr);
        return 2;
    }
    uint32_t n = 0, predicted = 0;
    int32_t *ids = read_ids(ids_path, &n);
    lm_model *m = NULL;
    lm_err err = {0};
    lm_model_config config = {.n_threads = (uint32_t)threads,
                              .features = features,
                              .n_ctx = (uint32_t)window,
                              .n_parallel = 1,
                              .max_batch = CHUNK};
    if (lm_model_open(&m, &lm_cpu_backend, dir, &config, &err) != LM_OK) die("open", &err);
    double sum = 0;
    for (uint32_t at = 0; at + 1 < n; at += (uint32_t)window) {
        uint32_t count = n - at < window ? n - at : (uint32_t)window;
        sum += window_loss(m, ids + at, count);
        predicted += count - 1;
    }
    if (predicted == 0) {
        fprintf(stderr, "lm-perplexity: %s holds fewer than two tokens\n", ids_path);
        return 1;
    }
    printf("{\"perplexity\": %.6f, \"tokens\": %u, \"device\": \"%s\"}\n", exp(sum / predicted), predicted,
           lm_model_backend(m)->describe(lm_model_device(m)));
    lm_model_close(m);
    free(ids);
    return 0;
}
