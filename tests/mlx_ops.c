/* Every op of tensor.h on two backends with the same random inputs: MLX on its CPU device, and the CPU's
 * exact set. Each trial draws what it needs from a seed, so that both backends get the same numbers; what
 * they give is compared relative to the largest number. */
#include <math.h>

#include "base/test.h"
#include "cpu/cpu.h"
#include "mlx/backend.h"

enum { MAX_ROWS = 96, MAX_OUT = 1 << 17 };
#define NEAR 5e-6

/* ---- random inputs */

typedef struct rng {
    uint64_t state;
} rng;

static uint32_t draw(rng *r) {
    r->state = r->state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(r->state >> 33);
}
static uint32_t below(rng *r, uint32_t n) {
    return draw(r) % n;
}
static float number(rng *r) {
    return (float)draw(r) / 1073741824.0f - 1;
}

/* A form that weights come in. */
typedef struct form {
    lm_quant_spec quant;
    lm_dtype dtype;
} form;

static uint32_t all_forms(form out[64]) {
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};
    static const lm_dtype types[] = {LM_F32, LM_F16, LM_BF16};
    uint32_t n = 0;
    for (int t = 0; t < 3; t++) out[n++] = (form){{LM_QUANT_NONE, 0, 0}, types[t]};
    for (int b = 0; b < 6; b++)
        for (uint32_t group = 32; group <= 128; group *= 2, n++)
            out[n] = (form){{LM_QUANT_AFFINE, bits[b], group}, types[n % 3]};
    for (int kind = LM_QUANT_MXFP4; kind < LM_QUANT_KINDS; kind++)
        out[n++] = (form){lm_quant_float_spec((lm_quant)kind), LM_U8};
    return n;
}

/* What a trial has made, freed together. */
typedef struct bed {
    const lm_backend *b;
    lm_device *dev;
    rng r;
    void *memory[64];
    lm_linear *linears[64];
    lm_vector *vectors[16];
    uint32_t n_memory, n_linears, n_vectors;
    lm_seq *seqs[3];
    lm_step *step;
} bed;

static void *take(bed *d, size_t bytes) {
    assert_true(d->n_memory < 64);
    return d->memory[d->n_memory++] = test_calloc(bytes ? bytes : 1, 1);
}

static float *floats(bed *d, size_t n, float scale) {
    float *x = take(d, n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * number(&d->r);
    return x;
}

/* n numbers in a type. */
static void *stored(bed *d, size_t n, lm_dtype type, float scale, float middle) {
    uint8_t *out = take(d, n * lm_dtype_size(type));
    for (size_t i = 0; i < n; i++) {
        float f = middle + scale * number(&d->r);
        uint16_t h = type == LM_F16 ? lm_f32_to_f16(f) : lm_f32_to_bf16(f);
        if (type == LM_F32)
            memcpy(out + 4 * i, &f, 4);
        else
            memcpy(out + 2 * i, &h, 2);
    }
    return out;
}

static lm_linear *keep_linear(bed *d, const lm_matrix *m, const float *bias) {
    lm_err err = {0};
    lm_view v = {.dtype = LM_F32, .n_dims = 2, .dims = {m->n_experts, m->rows}, .data = bias};
    v.bytes = (uint64_t)m->n_experts * m->rows * sizeof(float);
    assert_true(d->n_linears < 64);
    expect_ok(d->b->linear(d->dev, m, bias ? &v : NULL, &d->linears[d->n_linears], &err), err);
    return d->linears[d->n_linears++];
}

/* A weight in form f whose products with numbers around 1 are around 1. */
static lm_linear *weight(bed *d, form f, uint32_t n_experts, uint32_t rows, uint32_t cols, bool bias) {
    lm_matrix m = {.quant = f.quant, .dtype = f.dtype, .n_experts = n_experts, .rows = rows, .cols = cols};
    size_t all = (size_t)n_experts * rows;
    float reach = sqrtf(3.0f / (float)cols);
    if (f.quant.kind == LM_QUANT_NONE) {
        m.row_bytes = (uint64_t)cols * lm_dtype_size(f.dtype);
        m.codes = stored(d, all * cols, f.dtype, reach, 0);
        return keep_linear(d, &m, bias ? floats(d, all, 1) : NULL);
    }
    m.row_bytes = (uint64_t)cols * f.quant.bits / 8;
    uint32_t *codes = take(d, all * m.row_bytes);
    for (size_t i = 0; i < all * m.row_bytes / 4; i++) {
        codes[i] = draw(&d->r) ^ draw(&d->r) << 1;
        if (f.quant.kind == LM_QUANT_MXFP8) codes[i] = (codes[i] & 0x9f9f9f9fu) | 0x20202020u; /* no NaN */
    }
    m.codes = codes;
    size_t groups = all * cols / f.quant.group;
    if (f.quant.kind == LM_QUANT_AFFINE) {
        float top = (float)((1u << f.quant.bits) - 1);
        m.scales = stored(d, groups, f.dtype, reach / top, 2 * reach / top);
        m.biases = stored(d, groups, f.dtype, reach / 4, -reach);
    } else {
        uint8_t *scales = take(d, groups);
        int exponent = (int)lrintf(log2f(reach / 3)) + 127;
        for (size_t i = 0; i < groups; i++)
            scales[i] = f.quant.kind == LM_QUANT_NVFP4 ? (uint8_t)(1 + below(&d->r, 40)) /* up to 0.2 */
                                                       : (uint8_t)(exponent + (int)below(&d->r, 3) - 1);
        m.scales = scales;
    }
    return keep_linear(d, &m, bias ? floats(d, all, 1) : NULL);
}

static lm_vector *vector(bed *d, uint32_t n, lm_dtype type, float scale, float middle, float offset) {
    lm_err err = {0};
    lm_view v = {.dtype = type, .n_dims = 1, .dims = {n}, .bytes = (uint64_t)n * lm_dtype_size(type)};
    v.data = stored(d, n, type, scale, middle);
    assert_true(d->n_vectors < 16);
    expect_ok(d->b->vector(d->dev, &v, offset, &d->vectors[d->n_vectors], &err), err);
    return d->vectors[d->n_vectors++];
}

static void begin(bed *d, const uint32_t *counts, uint32_t n) {
    lm_err err = {0};
    lm_slice slices[3];
    uint32_t n_slices = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!counts[i]) continue;
        expect_ok(d->b->seq_reserve(d->seqs[i], counts[i], &err), err);
        slices[n_slices++] = (lm_slice){d->seqs[i], counts[i]};
    }
    expect_ok(d->b->begin(d->dev, slices, n_slices, NULL, &d->step, &err), err);
}

/* Random numbers that become an activation in a step; made before it begins, as weights are. */
static lm_linear *source(bed *d, uint32_t rows, uint32_t width) {
    static const form plain = {{LM_QUANT_NONE, 0, 0}, LM_F32};
    return weight(d, plain, 1, rows, width, false);
}

/* The first n rows of it. */
static lm_tensor *flow(bed *d, const lm_linear *from, uint32_t n) {
    int32_t ids[MAX_ROWS];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)i;
    return d->b->embed(d->step, from, ids, n, 5);
}

/* Appends what x holds to out. */
static uint32_t give(bed *d, const lm_tensor *x, uint32_t rows, uint32_t width, float *out, uint32_t n) {
    const float *y = d->b->read(d->step, x);
    if (!y) {
        lm_err err = {0};
        expect_ok(d->b->end(d->step, true, &err), err);
    }
    assert_true(n + rows * width <= MAX_OUT);
    memcpy(out + n, y, (size_t)rows * width * sizeof *out);
    return n + rows * width;
}

static void end(bed *d, bool abandon) {
    lm_err err = {0};
    expect_ok(d->b->end(d->step, abandon, &err), err);
}

/* ---- trials: each fills out and returns how many numbers */

typedef uint32_t trial(bed *d, uint32_t variant, float *out);

static form form_of(uint32_t variant) {
    form all[64];
    uint32_t n = all_forms(all);
    return all[variant % n];
}

static uint32_t try_embed(bed *d, uint32_t variant, float *out) {
    uint32_t rows = 1 + below(&d->r, 40), width = 128 * (1 + below(&d->r, 4)), n = 1 + below(&d->r, 30);
    int32_t ids[MAX_ROWS];
    lm_linear *table = weight(d, form_of(variant), 1, rows, width, false);
    begin(d, &n, 1);
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)below(&d->r, rows);
    uint32_t got = give(d, d->b->embed(d->step, table, ids, n, variant % 2 ? 1 : 11.3f), n, width, out, 0);
    end(d, true);
    return got;
}

static uint32_t try_linears(bed *d, uint32_t variant, float *out) {
    uint32_t cols = 128 * (1 + below(&d->r, 4)), n = 1 + below(&d->r, variant % 3 ? 5 : 60),
             k = 1 + below(&d->r, 3);
    const lm_linear *w[3];
    lm_tensor *y[3];
    uint32_t rows[3], got = 0;
    if (form_of(variant).quant.kind == LM_QUANT_NONE) cols -= below(&d->r, 100); /* any width */
    for (uint32_t i = 0; i < k; i++) {
        rows[i] = 1 + below(&d->r, 150);
        w[i] = weight(d, form_of(variant), 1, rows[i], cols, below(&d->r, 2));
    }
    lm_linear *x = source(d, n, cols);
    begin(d, &n, 1);
    d->b->linears(d->step, flow(d, x, n), w, k, y);
    for (uint32_t i = 0; i < k; i++) got = give(d, y[i], n, rows[i], out, got);
    end(d, true);
    return got;
}

/* rms_norm, layer_norm, columns, rows, add, scale and keep, one after the other. */
static uint32_t try_small(bed *d, uint32_t variant, float *out) {
    static const lm_dtype types[] = {LM_F32, LM_F16, LM_BF16};
    uint32_t n = 2 + below(&d->r, 20), width = 2 * (4 + below(&d->r, 300)), part = width / 2,
             at = below(&d->r, part);
    lm_vector *norm =
        variant % 4 ? vector(d, width, types[variant % 3], 0.5f, 1, variant % 2 ? 1.0f : 0.0f) : NULL;
    lm_linear *first = source(d, n, width), *second = source(d, n, width);
    begin(d, &n, 1);
    lm_tensor *x = d->b->rms_norm(d->step, flow(d, first, n), norm, variant % 5 ? 1e-5f : 0.3f);
    uint32_t got = give(d, x, n, width, out, 0);
    x = d->b->add(d->step, x, flow(d, second, n), variant % 3 ? 1 : -0.7f);
    lm_vector *weight = vector(d, width, types[variant % 3], 0.5f, 1, 0),
              *bias = vector(d, width, LM_F32, 0.5f, 0, 0);
    got = give(d, d->b->layer_norm(d->step, x, weight, bias, 1e-5f), n, width, out, got);
    x = d->b->keep(d->step, x);
    lm_tensor *y = d->b->columns(d->step, x, at, part);
    got = give(d, y, n, part, out, got);
    uint32_t index[8], n_index = 1 + below(&d->r, 8);
    for (uint32_t i = 0; i < n_index; i++) index[i] = below(&d->r, n);
    y = d->b->rows(d->step, x, index, n_index);
    got = give(d, y, n_index, width, out, got);
    y = d->b->scale(d->step, y, variant % 2 ? 0.37f : 1, variant % 3 ? 0 : 1.5f);
    got = give(d, y, n_index, width, out, got);
    end(d, true);
    return got;
}

static lm_mlp mlp_of(bed *d, uint32_t variant, uint32_t experts, uint32_t width, uint32_t inner) {
    form f = form_of(variant);
    bool bias = below(&d->r, 2), fused = experts == 1 && below(&d->r, 2);
    lm_mlp m = {.act = (lm_glu)(variant / 24 % 4)}; /* each form with each */
    if (fused) {
        m.fused = weight(d, f, experts, 2 * inner, width, bias);
    } else {
        if (experts > 1 || below(&d->r, 3)) m.gate = weight(d, f, experts, inner, width, bias);
        m.up = weight(d, f, experts, inner, width, bias);
    }
    m.down = weight(d, f, experts, width, inner, bias);
    return m;
}

static uint32_t try_mlp(bed *d, uint32_t variant, float *out) {
    uint32_t n = 1 + below(&d->r, 20), width = 128 * (1 + below(&d->r, 2)),
             inner = 128 * (1 + below(&d->r, 3));
    lm_mlp m = mlp_of(d, variant, 1, width, inner);
    lm_linear *x = source(d, n, width);
    begin(d, &n, 1);
    uint32_t got = give(d, d->b->mlp(d->step, flow(d, x, n), &m), n, width, out, 0);
    end(d, true);
    return got;
}

static uint32_t try_moe(bed *d, uint32_t variant, float *out) {
    static const form plain = {{LM_QUANT_NONE, 0, 0}, LM_F32};
    uint32_t n = 1 + below(&d->r, 20), width = 128, inner = 128 * (1 + below(&d->r, 2)),
             experts = 2 + below(&d->r, 6);
    lm_moe m = {.experts = mlp_of(d, variant, experts, width, inner), .n_experts = experts};
    m.top_k = 1 + below(&d->r, experts);
    m.softmax_first = below(&d->r, 2);
    m.renorm = below(&d->r, 2);
    m.router = weight(d, plain, 1, experts, width, below(&d->r, 2));
    lm_linear *x = source(d, n, width);
    begin(d, &n, 1);
    uint32_t got = give(d, d->b->moe(d->step, flow(d, x, n), &m), n, width, out, 0);
    end(d, true);
    return got;
}

enum { KV_HEADS = 2, HEAD = 32, LAYERS = 2 };

/* Steps over three sequences with all that attention knows. */
static uint32_t try_attention(bed *d, uint32_t variant, float *out) {
    uint32_t group = 1 + below(&d->r, 4), heads = KV_HEADS * group, got = 0;
    float inv_freq[HEAD / 2];
    for (int i = 0; i < HEAD / 2; i++) inv_freq[i] = powf(10000, -(float)i / (HEAD / 2));
    lm_rope rope = {.n_dims = variant % 3 ? HEAD : HEAD / 2,
                    .interleaved = below(&d->r, 2),
                    .inv_freq = inv_freq,
                    .mscale = variant % 4 ? 1 : 1.2f};
    lm_attention a = {.layer = variant % LAYERS, .n_heads = heads, .n_kv_heads = KV_HEADS, .head_dim = HEAD};
    a.scale = 0.2f;
    a.norm_eps = 1e-5f;
    a.window = variant % 2 ? 3 + below(&d->r, 20) : 0;
    a.softcap = variant / 2 % 2 ? 2.5f : 0;
    if (variant / 4 % 2) a.sinks = vector(d, heads, LM_BF16, 2, 0, 0);
    if (variant / 8 % 2) {
        a.q_norm = vector(d, HEAD, LM_F16, 0.5f, 1, 0);
        a.k_norm = vector(d, HEAD, LM_F32, 0.5f, 1, 0);
    }
    a.both_ways = !a.window && variant / 16 % 2;
    if (variant % 5) a.rope = &rope;
    for (uint32_t s = 0; s < 5; s++) {
        uint32_t counts[3], n = 0;
        bool decoding = s == 3; /* all of them, one row each */
        for (int i = 0; i < 3; i++) n += counts[i] = decoding ? 1 : below(&d->r, 3) ? below(&d->r, 30) : 1;
        if (!n) continue;
        lm_linear *q = source(d, n, heads * HEAD), *k = source(d, n, KV_HEADS * HEAD),
                  *v = source(d, n, KV_HEADS * HEAD);
        begin(d, counts, 3);
        lm_tensor *y = d->b->attention(d->step, &a, flow(d, q, n), flow(d, k, n), flow(d, v, n));
        got = give(d, y, n, heads * HEAD, out, got);
        end(d, false);
    }
    return got;
}

/* ---- comparing */

static uint32_t run(const lm_backend *b, trial *t, uint32_t variant, float *out) {
    lm_err err = {0};
    bed d = {.b = b, .r = {variant * 977u + 13}};
    lm_device_config config = {.n_threads = 2,
                               .features = b == &lm_cpu_backend ? "reference" : NULL,
                               .kv_bytes = 16 << 20,
                               .max_batch = MAX_ROWS,
                               .kv = {LAYERS, KV_HEADS, HEAD}};
    expect_ok(b->open(&d.dev, &config, &err), err);
    for (int i = 0; i < 3; i++) expect_ok(b->seq_open(d.dev, &d.seqs[i], &err), err);
    uint32_t n = t(&d, variant, out);
    for (int i = 0; i < 3; i++) b->seq_close(d.seqs[i]);
    for (uint32_t i = 0; i < d.n_linears; i++) b->linear_free(d.linears[i]);
    for (uint32_t i = 0; i < d.n_vectors; i++) b->vector_free(d.vectors[i]);
    b->close(d.dev);
    for (uint32_t i = 0; i < d.n_memory; i++) test_free(d.memory[i]);
    return n;
}

static void compare(trial *t, uint32_t n_variants, const char *name) {
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &mlx, &err), err);
    float *want = test_malloc(MAX_OUT * sizeof *want), *got = test_malloc(MAX_OUT * sizeof *got);
    double most = 0;
    for (uint32_t v = 0; v < n_variants; v++) {
        uint32_t n = run(&lm_cpu_backend, t, v, want);
        assert_int_equal(run(mlx, t, v, got), n);
        assert_true(n > 0);
        double largest = 0;
        for (uint32_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
        assert_true(largest > 1e-3 && isfinite(largest));
        for (uint32_t i = 0; i < n; i++) {
            double off = fabs((double)got[i] - want[i]) / largest;
            if (!(off <= NEAR))
                fail_msg("%s, variant %u: number %u of %u is %.9g, the CPU's is %.9g", name, v, i, n,
                         (double)got[i], (double)want[i]);
            most = fmax(most, off);
        }
    }
    print_message("%s: %u variants, off by %.1e at most\n", name, n_variants, most);
    test_free(want);
    test_free(got);
}

#define TEST(op, variants)                                                                                   \
    static void op##_gives_the_same(void **state) {                                                          \
        (void)state;                                                                                         \
        compare(try_##op, variants, #op);                                                                    \
    }
TEST(embed, 72) /* every form three times */
TEST(linears, 120)
TEST(small, 60)
TEST(mlp, 96)
TEST(moe, 96)
TEST(attention, 160)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_gives_the_same), cmocka_unit_test(linears_gives_the_same),
        cmocka_unit_test(small_gives_the_same), cmocka_unit_test(mlp_gives_the_same),
        cmocka_unit_test(moe_gives_the_same),   cmocka_unit_test(attention_gives_the_same),
    };
    return cmocka_run_group_tests_name("ops on MLX and on the CPU", tests, NULL, NULL);
}
