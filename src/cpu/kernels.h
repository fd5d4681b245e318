/* kernels.h (private to cpu/) - one table of inner loops per feature set.
 *
 * Matrix products: y = x · Wᵀ with W in one of lm_matrix's forms. x is prepared once per activation and form
 * ("act"): for the integer kernels 8-bit codes with a scale and a sum per block, laid out as the kernel of
 * that weight form reads them; so q, k and v, or gate and up, share one preparation. Weights are read where
 * the file has them: rows of packed codes, no re-laid copy; a product over many rows unpacks a tile of W into
 * the thread's scratch and uses it for all rows.
 *
 * The caller splits [0, rows) of W into pieces for the thread pool; kernels know no threads. No kernel
 * allocates.
 */
#ifndef LM_CPU_KERNELS_H
#define LM_CPU_KERNELS_H

#include "tensor/tensor.h"

/* Tokens of a page of keys or values: the most that `attend` is given at a time. */
#define LM_KV_PAGE 64
/* Floats: the scores, and a page of keys and one of values as f32. */
#define LM_ATTEND_SCRATCH(n_q, head_dim) (LM_KV_PAGE * ((size_t)(n_q) + 2 * (size_t)(head_dim)))

typedef struct lm_kernels {
    const char *name; /* the feature set */
    bool kv_f32;      /* keys and values as f32 (reference) instead of f16 */

    /* -- products (matmul_*.c) */
    /* Which prepared form x needs for w: equal numbers can share. */
    uint32_t (*act_kind)(const lm_matrix *w);
    /* Bytes of one prepared row of cols elements, a multiple of 64. */
    size_t (*act_bytes)(uint32_t kind, uint32_t cols);
    void (*act_prepare)(uint32_t kind, const float *x, uint32_t cols, void *act);
    /* y[m * y_stride + n] = act row m · W row n (of expert) for m < n_rows, n in [n0, n1). n0 is a multiple
     * of matmul_step. scratch: matmul_scratch bytes, 64-aligned, this thread's own. */
    void (*matmul)(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride, uint32_t n_rows,
                   uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch);
    size_t (*matmul_scratch)(uint32_t cols);
    uint32_t matmul_step; /* rows of W that a piece should be a multiple of */
    /* Row of W as f32, for embeddings. */
    void (*row)(const lm_matrix *w, uint32_t expert, uint32_t row, float *out);

    /* -- the rest (vector_*.c, attention_*.c) */
    void (*rms_norm)(const float *x, const float *weight, uint32_t n, float eps,
                     float *out);                                          /* weight NULL: none */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, uint32_t n, float eps,
                       float *out);
    void (*add_scaled)(float *x, const float *y, float scale, uint32_t n); /* x += scale * y */
    void (*glu)(lm_glu act, const float *gate, const float *up, uint32_t n, float *out); /* out may be gate */
    /* cos_sin: the n_dims/2 cosines, then the sines, both already times mscale */
    void (*rope)(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin);
    void (*to_f16)(const float *x, uint32_t n, uint16_t *out);
    /* Online softmax over n_keys keys of one page for n_q query heads that share a kv head (flash attention,
     * arXiv 2205.14135, one block). k, v: (n_keys, head_dim) contiguous per kv head, f16 or f32 as kv_f32
     * says. q (n_q, head_dim) already scaled. state per query: m[i] (running maximum, starts -inf), l[i]
     * (sum), acc (n_q, head_dim). softcap 0: none. scratch: LM_ATTEND_SCRATCH(n_q, head_dim) floats,
     * 64-aligned, this thread's own. */
    void (*attend)(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                   uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch);
} lm_kernels;

extern const lm_kernels lm_kernels_reference;
extern const lm_kernels lm_kernels_portable;
#if defined(__x86_64__)
extern const lm_kernels lm_kernels_avx2;
extern const lm_kernels lm_kernels_avx512, lm_kernels_avx512_bf16;
#endif
#if defined(__aarch64__)
extern const lm_kernels lm_kernels_neon, lm_kernels_neon_dotprod, lm_kernels_neon_i8mm;
#endif

/* The best table of this machine, or the named one. LM_INVALID: unknown name; LM_UNSUPPORTED: not on this
 * machine. */
lm_status lm_kernels_choose(const char *features, const lm_kernels **out, lm_err *err) LM_CHECKED;

#endif
