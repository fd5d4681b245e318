/* lm-bench: how fast a model directory prefills and decodes, through model.h alone: no server, no tokenizer.
 *
 *     lm-bench --model DIR [--prefill 512] [--decode 128] [--depth 0] [--parallel 1] [--threads 0] [--batch
 * 512]
 *              [--features NAME] [--repeat 5] [--json]
 *
 * A round fills --parallel sequences with --depth tokens (not timed), prefills --prefill tokens into each
 * (timed), then decodes --decode tokens in all of them together (timed). Tokens are pseudo-random, as
 * llama-bench does; the decoded ones too, so that every run does the same work. Reported is the median of the
 * rounds, in tokens per second of all sequences together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/base.h"
#include "cpu/cpu.h"
#include "model/model.h"

enum { MAX_REPEAT = 101, MAX_PARALLEL = 256 };

typedef struct options {
    const char *model, *features;
    uint32_t prefill, decode, depth, parallel, threads, batch, repeat;
    bool json;
} options;

typedef struct bench {
    lm_model *model;
    const lm_backend *backend;
    options o;
    lm_seq *seqs[MAX_PARALLEL];
    int32_t *tokens; /* (batch) */
    uint32_t noise;
} bench;

static LM_NORETURN void die(const char *what, const lm_err *err) {
    fprintf(stderr, "lm-bench: %s: %s\n", what, err->text);
    exit(1);
}

static void fill_tokens(bench *b, uint32_t n) {
    uint32_t vocab = lm_model_get_info(b->model)->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        b->noise = b->noise * 1664525 + 1013904223;
        b->tokens[i] = (int32_t)((b->noise >> 8) % vocab);
    }
}

static void run_step(bench *b, const lm_slice *slices, uint32_t n_slices, uint32_t n_tokens,
                     const uint32_t *rows, uint32_t n_rows) {
    lm_err err = {0};
    const float *logits;
    fill_tokens(b, n_tokens);
    if (lm_model_step(b->model, slices, n_slices, b->tokens, rows, n_rows, &logits, &err) != LM_OK)
        die("step", &err);
}

/* n tokens into one sequence, in chunks; logits of the last row of the last one, as a real prompt needs. */
static void prefill(bench *b, lm_seq *seq, uint32_t n) {
    for (uint32_t at = 0; at < n; at += b->o.batch) {
        uint32_t chunk = n - at < b->o.batch ? n - at : b->o.batch;
        uint32_t row = chunk - 1;
        run_step(b, &(lm_slice){seq, chunk}, 1, chunk, &row, at + chunk == n);
    }
}

static void decode(bench *b, uint32_t n) {
    lm_slice slices[MAX_PARALLEL];
    uint32_t rows[MAX_PARALLEL];
    for (uint32_t i = 0; i < b->o.parallel; i++) {
        slices[i] = (lm_slice){b->seqs[i], 1};
        rows[i] = i;
    }
    for (uint32_t i = 0; i < n; i++) run_step(b, slices, b->o.parallel, b->o.parallel, rows, b->o.parallel);
}

/* Tokens per second of one round; 0 for a part that was not asked for. */
static void run_round(bench *b, double *prefill_rate, double *decode_rate) {
    const options *o = &b->o;
    lm_err err = {0};
    for (uint32_t i = 0; i < o->parallel; i++) {
        if (b->backend->seq_open(lm_model_device(b->model), &b->seqs[i], &err) != LM_OK)
            die("sequence", &err);
        prefill(b, b->seqs[i], o->depth);
    }
    uint64_t start = lm_now_ns();
    for (uint32_t i = 0; i < o->parallel; i++) prefill(b, b->seqs[i], o->prefill);
    uint64_t middle = lm_now_ns();
    decode(b, o->decode);
    uint64_t end = lm_now_ns();
    for (uint32_t i = 0; i < o->parallel; i++) b->backend->seq_close(b->seqs[i]);
    *prefill_rate = o->prefill ? 1e9 * o->prefill * o->parallel / (double)(middle - start) : 0;
    *decode_rate = o->decode ? 1e9 * o->decode * o->parallel / (double)(end - middle) : 0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n) {
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

static long peak_rss_kb(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
#ifdef __APPLE__
    return use.ru_maxrss / 1024;
#else
    return use.ru_maxrss;
#endif
}

static const char usage[] =
    "usage: lm-bench --model DIR [--prefill 512] [--decode 128] [--depth 0] [--parallel 1] [--threads 0]\n"
    "                [--batch 512] [--features NAME] [--repeat 5] [--json]\n";

static options read_options(int argc, char **argv) {
    options o = {.prefill = 512, .decode = 128, .parallel = 1, .batch = 512, .repeat = 5};
    struct {
        const char *name;
        uint32_t *number, low, high;
        const char **text;
    } known[] = {
        {"--model", NULL, 0, 0, &o.model},
        {"--features", NULL, 0, 0, &o.features},
        {"--prefill", &o.prefill, 0, 1 << 20, NULL},
        {"--decode", &o.decode, 0, 1 << 20, NULL},
        {"--depth", &o.depth, 0, 1 << 20, NULL},
        {"--parallel", &o.parallel, 1, MAX_PARALLEL, NULL},
        {"--threads", &o.threads, 0, 1024, NULL},
        {"--batch", &o.batch, 1, 65536, NULL},
        {"--repeat", &o.repeat, 1, MAX_REPEAT, NULL},
    };
    const size_t n_known = sizeof known / sizeof *known;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            o.json = true;
            continue;
        }
        size_t k = 0;
        while (k < n_known && strcmp(argv[i], known[k].name)) k++;
        if (k == n_known || i + 1 == argc) {
            fputs(usage, stderr);
            exit(2);
        }
        const char *value = argv[++i];
        if (known[k].text) {
            *known[k].text = value;
            continue;
        }
        char *end;
        unsigned long n = strtoul(value, &end, 10);
        if (*end || end == value || n < known[k].low || n > known[k].high) {
            fprintf(stderr, "lm-bench: %s takes a number from %u to %u\n", known[k].name, known[k].low,
                    known[k].high);
            exit(2);
        }
        *known[k].number = (uint32_t)n;
    }
    if (!o.model || (o.prefill == 0 && o.decode == 0)) {
        fputs(usage, stderr);
        exit(2);
    }
    if (o.batch < o.parallel) o.batch = o.parallel;
    return o;
}

int main(int argc, char **argv) {
    bench b = {.o = read_options(argc, argv), .backend = &lm_cpu_backend, .noise = 1};
    lm_err err = {0};
    lm_model_config config = {
        .n_threads = b.o.threads,
        .features = b.o.features,
        .n_ctx = b.o.depth + b.o.prefill + b.o.decode,
        .n_parallel = b.o.parallel,
        .max_batch = b.o.batch,
    };
    uint64_t start = lm_now_ns();
    if (lm_model_open(&b.model, b.backend, b.o.model, &config, &err) != LM_OK) die("open", &err);
    double open_ms = (double)(lm_now_ns() - start) / 1e6;
    uint64_t estimate = 0;
    if (lm_model_estimate(b.backend, b.o.model, &config, &estimate, &err) != LM_OK) die("estimate", &err);
    b.tokens = lm_alloc(b.o.batch * sizeof *b.tokens);

    double prefills[MAX_REPEAT], decodes[MAX_REPEAT], unused[2];
    options asked = b.o;
    b.o.prefill = b.o.prefill < 16 ? b.o.prefill : 16; /* warm up: pages, threads, clocks */
    b.o.decode = b.o.decode < 2 ? b.o.decode : 2;
    b.o.depth = 0;
    run_round(&b, &unused[0], &unused[1]);
    b.o = asked;
    for (uint32_t i = 0; i < b.o.repeat; i++) run_round(&b, &prefills[i], &decodes[i]);

    const lm_model_info *info = lm_model_get_info(b.model);
    double p = median(prefills, b.o.repeat), d = median(decodes, b.o.repeat);
    const char *device = b.backend->describe(lm_model_device(b.model));
    double gb_s = d * (double)info->weight_bytes / b.o.parallel / 1e9;
    if (b.o.json)
        printf("{\"family\": \"%s\", \"form\": \"%s\", \"device\": \"%s\", \"prefill\": %u, \"decode\": %u, "
               "\"depth\": %u, "
               "\"parallel\": %u, \"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, \"open_ms\": %.2f, "
               "\"peak_rss_mb\": "
               "%.1f, \"weights_mb\": %.1f, \"estimate_mb\": %.1f}\n",
               info->family, info->quantization, device, b.o.prefill, b.o.decode, b.o.depth, b.o.parallel, p,
               d, open_ms, (double)peak_rss_kb() / 1024, (double)info->weight_bytes / 1048576,
               (double)estimate / 1048576);
    else
        printf("%s %s, %s: prefill %u: %.1f tok/s, decode %u x %u: %.1f tok/s (%.1f GB/s of weights), opened "
               "in %.1f ms, "
               "peak %.0f MiB\n",
               info->family, info->quantization, device, b.o.prefill, p, b.o.decode, b.o.parallel, d, gb_s,
               open_ms, (double)peak_rss_kb() / 1024);
    free(b.tokens);
    lm_model_close(b.model);
    return 0;
}
