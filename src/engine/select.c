/* select.c - how the k largest of a row are found without sorting it:
 *
 * The row is cut into blocks of 64 and the maximum of each is taken (one pass, SIMD). The k-th largest of
 * those maxima is a bound that at least k numbers of the row reach; only blocks that reach it can hold one of
 * the k largest, and there are about k of them. What lies at or above the bound in those blocks goes through
 * a heap.
 */
#include "engine/select.h"

#include <math.h>
#include <string.h>

/* Four numbers at a time: a baseline that every machine of its kind has. max4(x, m) is m where x is NaN. */
#if defined(__SSE2__)
#include <emmintrin.h>
typedef __m128 vec4;
#define load4(p)     _mm_loadu_ps(p)
#define store4(p, v) _mm_storeu_ps(p, v)
#define set4(f)      _mm_set1_ps(f)
#define max4(x, m)   _mm_max_ps(x, m)
#elif defined(__aarch64__)
#include <arm_neon.h>
typedef float32x4_t vec4;
#define load4(p)     vld1q_f32(p)
#define store4(p, v) vst1q_f32(p, v)
#define set4(f)      vdupq_n_f32(f)
#define max4(x, m)   vmaxnmq_f32(x, m)
#else
typedef struct vec4 {
    float v[4];
} vec4;
static vec4 load4(const float *p) {
    return (vec4){{p[0], p[1], p[2], p[3]}};
}
static void store4(float *p, vec4 x) {
    memcpy(p, x.v, sizeof(x.v));
}
static vec4 set4(float f) {
    return (vec4){{f, f, f, f}};
}
static vec4 max4(vec4 x, vec4 m) {
    for (int i = 0; i < 4; i++) m.v[i] = x.v[i] > m.v[i] ? x.v[i] : m.v[i];
    return m;
}
#endif

#define LANES 16

/* Largest of n numbers, n a multiple of LANES; -infinity for an empty or all-NaN block. */
static float block_max(const float *x, uint32_t n) {
    vec4 a = set4(-INFINITY), b = a, c = a, d = a;
    for (uint32_t i = 0; i < n; i += LANES) {
        a = max4(load4(x + i), a);
        b = max4(load4(x + i + 4), b);
        c = max4(load4(x + i + 8), c);
        d = max4(load4(x + i + 12), d);
    }
    float m[4];
    store4(m, max4(max4(a, b), max4(c, d)));
    float l = m[0] > m[1] ? m[0] : m[1], r = m[2] > m[3] ? m[2] : m[3];
    return l > r ? l : r;
}

static float tail_max(const float *x, uint32_t n) {
    float m = -INFINITY;
    for (uint32_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

int32_t lm_select_argmax(const float *x, uint32_t n) {
    enum { BLOCK = 1024 };
    float best = -INFINITY;
    uint32_t where = 0, size = 0;
    for (uint32_t i = 0; i < n; i += BLOCK) {
        uint32_t len = n - i < BLOCK ? n - i : BLOCK;
        uint32_t whole = len - len % LANES;
        float m = block_max(x + i, whole);
        float t = tail_max(x + i + whole, len - whole);
        m = t > m ? t : m;
        if (m > best) {
            best = m;
            where = i;
            size = len;
        }
    }
    for (uint32_t i = 0; i < size; i++) {
        if (x[where + i] == best) return (int32_t)(where + i);
    }
    return -1;
}

static bool before(const lm_cand *a, const lm_cand *b) {
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void sift(lm_cand *h, uint32_t i, uint32_t n) {
    lm_cand c = h[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(&h[child + 1], &h[child])) child++;
        if (!before(&h[child], &c)) break;
        h[i] = h[child];
        i = child;
    }
    h[i] = c;
}

void lm_heap_make(lm_cand *h, uint32_t n) {
    for (uint32_t i = n / 2; i-- > 0;) sift(h, i, n);
}

lm_cand lm_heap_pop(lm_cand *h, uint32_t *n) {
    lm_cand top = h[0];
    h[0] = h[--*n];
    if (*n) sift(h, 0, *n);
    return top;
}

/* The k-th largest (k from 1) of v, which is reordered. */
static float kth_largest(float *v, uint32_t n, uint32_t k) {
    uint32_t lo = 0, hi = n - 1, want = k - 1;
    while (lo < hi) {
        float a = v[lo], b = v[lo + (hi - lo) / 2], c = v[hi];
        float pivot = a > b ? (b > c ? b : (a > c ? c : a)) : (a > c ? a : (b > c ? c : b));
        uint32_t i = lo, j = hi;
        for (;;) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i >= j) break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (want <= j) {
            hi = j;
        } else {
            lo = j + 1;
        }
    }
    return v[want];
}

/* Numbers of x[0, n) at or above least, as candidates. */
static uint32_t gather(const float *x, uint32_t first, uint32_t n, float least, lm_cand *out) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] >= least && x[i] > -INFINITY) {
            out[found++] = (lm_cand){.logit = x[i], .key = x[i], .id = (int32_t)(first + i)};
        }
    }
    return found;
}

uint32_t lm_select_top(const float *x, uint32_t n, uint32_t k, lm_cand *out, lm_cand *tmp, float *maxima) {
    uint32_t n_blocks = (n + LM_SELECT_BLOCK - 1) / LM_SELECT_BLOCK;
    uint32_t n_tmp = 0;
    if (k > n_blocks / 2) {
        n_tmp = gather(x, 0, n, -INFINITY, tmp);
    } else {
        float *copy = maxima + n_blocks;
        for (uint32_t b = 0; b < n_blocks; b++) {
            uint32_t first = b * LM_SELECT_BLOCK;
            maxima[b] = first + LM_SELECT_BLOCK <= n ? block_max(x + first, LM_SELECT_BLOCK)
                                                     : tail_max(x + first, n - first);
        }
        memcpy(copy, maxima, n_blocks * sizeof(float));
        float least = kth_largest(copy, n_blocks, k);
        for (uint32_t b = 0; b < n_blocks; b++) {
            if (!(maxima[b] >= least)) continue;
            uint32_t first = b * LM_SELECT_BLOCK;
            uint32_t len = n - first < LM_SELECT_BLOCK ? n - first : LM_SELECT_BLOCK;
            n_tmp += gather(x + first, first, len, least, tmp + n_tmp);
        }
    }
    lm_heap_make(tmp, n_tmp);
    uint32_t n_out = 0;
    while (n_out < k && n_tmp) out[n_out++] = lm_heap_pop(tmp, &n_tmp);
    return n_out;
}

/* exp for x <= 0, relative error below 2e-7, 0 below -87: 2^k * 2^f with a polynomial for 2^f on [-0.5, 0.5].
 * Written without branches so that it becomes SIMD. */
static inline float exp_low(float x) {
    float y = x * 1.44269504f;
    y = y > -126.0f ? y : -126.0f; /* NaN goes the same way */
    float k =
        (y + 12582912.0f) - 12582912.0f; /* to the nearest integer: 1.5 * 2^23 pushes the fraction out */
    float f = (x - k * 0.693145752f) - k * 1.42860677e-6f; /* ln 2 in two parts */
    f = y > -126.0f ? f : 0.0f;
    float p = 1.0f / 5040.0f;
    p = p * f + 1.0f / 720.0f;
    p = p * f + 1.0f / 120.0f;
    p = p * f + 1.0f / 24.0f;
    p = p * f + 1.0f / 6.0f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    union {
        int32_t bits;
        float scale;
    } u = {.bits = ((int32_t)k + 127) << 23};
    float e = p * u.scale;
    return y > -126.0f ? e : 0.0f;
}

double lm_select_logsumexp(const float *x, uint32_t n, float max) {
    enum { PIECE = 512, SUMS = 8 };
    float e[PIECE];
    double total = 0;
    uint32_t i = 0;
    for (; i + PIECE <= n; i += PIECE) {
        for (uint32_t j = 0; j < PIECE; j++) e[j] = exp_low(x[i + j] - max);
        float sum[SUMS] = {0};
        for (uint32_t j = 0; j < PIECE; j += SUMS) {
            for (uint32_t l = 0; l < SUMS; l++) sum[l] += e[j + l];
        }
        for (uint32_t l = 0; l < SUMS; l++) total += (double)sum[l];
    }
    for (; i < n; i++) total += (double)exp_low(x[i] - max);
    return (double)max + log(total);
}
