/* kernels.c - bench: the matrix products alone, GB/s of weights read and Gop/s, next to what this machine can
 * do.
 *
 *     kernels [--json] [--set NAME] [--threads N] [--form NAME] [--rows M] [--seconds S]
 *
 * --set: a feature set (--cpu-features of the server), the best of this machine without. One result per
 * weight form and number of rows of x (an op is a multiplication or an addition: 2 per weight and row). Each
 * figure is the best of repeats over S seconds (0.5): on a busy machine the best is the one that was least
 * disturbed. With few rows the matrix is larger than the caches, as a model is; with many it is one layer of
 * a model. Peaks are measured here too: GB/s by summing up 256 MB, Gop/s (x86) by vpmaddubsw
 * + vpaddw on registers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"

typedef struct form {
    const char *name;
    lm_quant kind;
    uint32_t bits, group;
    lm_dtype dtype;
} form;

static const form forms[] = {
    {"q4g64", LM_QUANT_AFFINE, 4, 64, LM_F16},      {"q4g32", LM_QUANT_AFFINE, 4, 32, LM_F16},
    {"q4g64bf16", LM_QUANT_AFFINE, 4, 64, LM_BF16}, {"q4g128", LM_QUANT_AFFINE, 4, 128, LM_F16},
    {"q5g32", LM_QUANT_AFFINE, 5, 32, LM_F16},      {"q8g32", LM_QUANT_AFFINE, 8, 32, LM_F16},
    {"q8g64", LM_QUANT_AFFINE, 8, 64, LM_F16},      {"q6g64", LM_QUANT_AFFINE, 6, 64, LM_F16},
    {"q3g64", LM_QUANT_AFFINE, 3, 64, LM_F16},      {"q2g64", LM_QUANT_AFFINE, 2, 64, LM_F16},
    {"mxfp4", LM_QUANT_MXFP4, 4, 32, LM_U8},        {"f16", LM_QUANT_NONE, 0, 0, LM_F16},
    {"bf16", LM_QUANT_NONE, 0, 0, LM_BF16},         {"f32", LM_QUANT_NONE, 0, 0, LM_F32},
};
static const uint32_t row_counts[] = {1, 2, 4, 8, 16, 128, 512};

typedef struct settings {
    bool json;
    const char *set, *form;
    uint32_t threads, rows;
    double seconds;
} settings;

static lm_pool *pool;

static void *memory(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "kernels: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

static uint32_t random_bits(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* ---- what the machine can do ------------------------------------------------------------------------------
 */

typedef struct peak_job {
    const uint64_t *words;
    size_t n; /* per chunk */
    uint64_t sums[64];
} peak_job;

static void read_chunk(void *arg, uint32_t chunk, uint32_t thread) {
    peak_job *job = arg;
    const uint64_t *p = job->words + chunk * job->n;
    uint64_t s[8] = {0};
    (void)thread;
    for (size_t i = 0; i < job->n; i += 8)
        for (int j = 0; j < 8; j++) s[j] += p[i + j];
    job->sums[chunk] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static double best_seconds(lm_pool_job *job, void *arg, uint32_t chunks, double seconds) {
    uint64_t best = UINT64_MAX, start = lm_now_ns(), now = start;
    do {
        uint64_t before = now;
        lm_pool_run(pool, job, arg, chunks);
        now = lm_now_ns();
        if (now - before < best) best = now - before;
    } while ((double)(now - start) < seconds * 1e9);
    return (double)best * 1e-9;
}

static double peak_bandwidth(double seconds) {
    size_t bytes = (size_t)256 << 20;
    uint64_t *words = memory(bytes);
    peak_job job = {.words = words, .n = bytes / 8 / 64};
    memset(words, 1, bytes);
    double best = best_seconds(read_chunk, &job, 64, seconds);
    free(words);
    return (double)bytes / best * 1e-9;
}

#if defined(__x86_64__)
enum { SPINS = 1000, STEPS = 6 };

#define STEP(product, sum)                                                                                   \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm" #product "\n vpaddw %%ymm" #sum ", %%ymm" #sum ", %%ymm" #sum "\n"

static void multiply_registers(void *arg, uint32_t chunk, uint32_t thread) {
    (void)arg;
    (void)chunk;
    (void)thread;
    for (int n = 0; n < SPINS; n++)
        __asm__ volatile(STEP(0, 6) STEP(1, 7) STEP(2, 8) STEP(3, 9) STEP(4, 10) STEP(5, 11)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11");
}

static double peak_ops(double seconds) {
    if (!__builtin_cpu_supports("avx2")) return 0;
    double best = best_seconds(multiply_registers, NULL, 32, seconds);
    return 32.0 * SPINS * STEPS * 64 / best * 1e-9;
}
#else
static double peak_ops(double seconds) {
    (void)seconds;
    return 0;
}
#endif

/* ---- products -------------------------------------------------------------------------------------------
 */

static lm_matrix random_matrix(form f, uint32_t rows, uint32_t cols) {
    lm_matrix m = {
        .quant = {f.kind, f.bits, f.group}, .dtype = f.dtype, .n_experts = 1, .rows = rows, .cols = cols};
    size_t each = f.dtype == LM_F32 ? 4 : 2;
    m.row_bytes = f.kind == LM_QUANT_NONE ? cols * each : (uint64_t)cols * f.bits / 8;
    uint16_t one = f.dtype == LM_BF16 ? 0x3c00 : 0x2000; /* about 0.008 */
    uint8_t *codes = memory(rows * m.row_bytes);
    for (size_t i = 0; i < rows * m.row_bytes; i++) codes[i] = (uint8_t)random_bits();
    if (f.kind == LM_QUANT_NONE) /* random bits can be NaN, which some processors multiply slowly */
        for (size_t i = 0; i < (size_t)rows * cols * each / 2; i++) memcpy(codes + 2 * i, &one, 2);
    m.codes = codes;
    if (f.kind == LM_QUANT_NONE) return m;
    size_t n = (size_t)rows * (cols / f.group);
    uint8_t *scales = memory(2 * n), *biases = memory(2 * n);
    for (size_t i = 0; i < n; i++) memcpy(scales + 2 * i, &one, 2), memcpy(biases + 2 * i, &one, 2);
    if (f.kind == LM_QUANT_MXFP4) memset(scales, 120, n);
    m.scales = scales;
    m.biases = biases;
    return m;
}

static void free_matrix(lm_matrix *m) {
    const void *all[] = {m->codes, m->scales, m->biases};
    for (int i = 0; i < 3; i++) {
        void *p;
        memcpy(&p, &all[i], sizeof p);
        free(p);
    }
}

static double weight_bytes(const lm_matrix *m) {
    double scales = m->quant.kind == LM_QUANT_NONE    ? 0
                    : m->quant.kind == LM_QUANT_MXFP4 ? 1.0
                    : m->dtype == LM_F32              ? 8.0
                                                      : 4.0;
    return (double)m->rows * ((double)m->row_bytes + (scales > 0 ? scales * m->cols / m->quant.group : 0));
}

typedef struct product {
    const lm_kernels *set;
    const lm_matrix *w;
    char *acts, *scratch;
    size_t act_stride, scratch_bytes;
    uint32_t n_rows, step;
    float *y;
    uint64_t *best; /* ns of each piece, NULL: not wanted */
} product;

static void multiply(void *arg, uint32_t chunk, uint32_t thread) {
    product *p = arg;
    uint32_t n0 = chunk * p->step, n1 = n0 + p->step < p->w->rows ? n0 + p->step : p->w->rows;
    uint64_t before = p->best ? lm_now_ns() : 0;
    p->set->matmul(p->w, 0, p->acts, p->act_stride, p->n_rows, n0, n1, p->y, p->w->rows,
                   p->scratch + thread * p->scratch_bytes);
    if (!p->best) return;
    uint64_t ns = lm_now_ns() - before;
    if (ns < p->best[chunk]) p->best[chunk] = ns;
}

typedef struct prepare_job {
    product *p;
    const float *x;
} prepare_job;

static void prepare(void *arg, uint32_t chunk, uint32_t thread) {
    prepare_job *j = arg;
    (void)thread;
    j->p->set->act_prepare(j->p->set->act_kind(j->p->w), j->x + (size_t)chunk * j->p->w->cols, j->p->w->cols,
                           j->p->acts + chunk * j->p->act_stride);
}

/* One thread: the sum of every piece's best, which a busy machine disturbs least; several: the best whole. */
static double multiply_seconds(product *p, uint32_t chunks, double seconds) {
    uint64_t sum = 0;
    if (lm_pool_threads(pool) > 1) return best_seconds(multiply, p, chunks, seconds);
    p->best = memory(chunks * sizeof(uint64_t));
    memset(p->best, 0xff, chunks * sizeof(uint64_t));
    best_seconds(multiply, p, chunks, seconds);
    for (uint32_t c = 0; c < chunks; c++) sum += p->best[c];
    free(p->best);
    p->best = NULL;
    return (double)sum * 1e-9;
}

static void measure(const settings *s, const lm_kernels *set, form f, uint32_t n_rows, double peak_gb,
                    double peak_gop) {
    uint32_t cols = 2048, rows = n_rows <= 16 ? 32768 : 512;
    lm_matrix w = random_matrix(f, rows, cols);
    product p = {.set = set, .w = &w, .n_rows = n_rows, .step = n_rows <= 4 ? 256 : 64};
    float *x = memory((size_t)n_rows * cols * 4);
    for (size_t i = 0; i < (size_t)n_rows * cols; i++) x[i] = (float)random_bits() / (float)(1 << 23) - 1;
    p.act_stride = set->act_bytes(set->act_kind(&w), cols);
    p.scratch_bytes = (set->matmul_scratch(cols) + 63) / 64 * 64;
    p.acts = memory(n_rows * p.act_stride);
    p.scratch = memory(lm_pool_threads(pool) * p.scratch_bytes);
    p.y = memory((size_t)n_rows * rows * 4);
    prepare_job prep = {&p, x};
    double prepare_s = best_seconds(prepare, &prep, n_rows, 0.02);
    double best = multiply_seconds(&p, (rows + p.step - 1) / p.step, s->seconds);
    double gb = weight_bytes(&w) / best * 1e-9, gop = 2.0 * rows * cols * n_rows / best * 1e-9;
    if (s->json)
        printf("{\"bench\":\"kernels\",\"set\":\"%s\",\"threads\":%u,\"form\":\"%s\",\"rows\":%u,\"gb_s\":%."
               "2f,\"gop_s\":%.1f,"
               "\"peak_gb_s\":%.2f,\"peak_gop_s\":%.1f,\"prepare_gb_s\":%.2f}\n",
               set->name, lm_pool_threads(pool), f.name, n_rows, gb, gop, peak_gb, peak_gop,
               4e-9 * n_rows * cols / prepare_s);
    else
        printf("%-9s %-10s %4u rows %8.2f GB/s of %5.1f %9.1f Gop/s of %6.1f  prepare %5.1f GB/s\n",
               set->name, f.name, n_rows, gb, peak_gb, gop, peak_gop, 4e-9 * n_rows * cols / prepare_s);
    fflush(stdout);
    free(x), free(p.acts), free(p.scratch), free(p.y);
    free_matrix(&w);
}

/* ---- main ---------------------------------------------------------------------------------------------- */

static bool parse(int argc, char **argv, settings *s) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--json")) {
            s->json = true;
            continue;
        }
        if (!value) return false;
        if (!strcmp(argv[i], "--set"))
            s->set = value;
        else if (!strcmp(argv[i], "--form"))
            s->form = value;
        else if (!strcmp(argv[i], "--threads"))
            s->threads = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--rows"))
            s->rows = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--seconds"))
            s->seconds = strtod(value, NULL);
        else
            return false;
        i++;
    }
    return s->seconds > 0 && s->rows <= 65536;
}

int main(int argc, char **argv) {
    settings s = {.seconds = 0.5};
    lm_err err = {0};
    if (!parse(argc, argv, &s)) {
        fprintf(
            stderr,
            "usage: kernels [--json] [--set NAME] [--threads N] [--form NAME] [--rows M] [--seconds S]\n");
        return 2;
    }
    const lm_kernels *set = NULL;
    if (lm_kernels_choose(s.set, &set, &err) != LM_OK) {
        fprintf(stderr, "kernels: %s\n", err.text);
        return 2;
    }
    if (lm_pool_open(&pool, s.threads, &err) != LM_OK) {
        fprintf(stderr, "kernels: %s\n", err.text);
        return 1;
    }
    double gb = peak_bandwidth(s.seconds), gop = peak_ops(s.seconds);
    uint32_t done = 0;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (s.form && strcmp(s.form, forms[f].name) != 0) continue;
        for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
            if (s.rows && row_counts[r] != s.rows) continue;
            measure(&s, set, forms[f], row_counts[r], gb, gop);
            done++;
        }
    }
    lm_pool_close(pool);
    if (!done) fprintf(stderr, "kernels: nothing matches --form and --rows\n");
    return done ? 0 : 2;
}
