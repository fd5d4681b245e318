/* weights.h - tensors on disk: safetensors (read, write), GGUF (read), and MLX's quantised matrices as views of them.
 *
 * A weights set maps every file of a model directory and hands out views into the maps: nothing is copied, nothing
 * re-laid. Views live until lm_weights_close.
 *
 * Formats: safetensors (huggingface.co/docs/safetensors: 8-byte little-endian header length, JSON header, data);
 * an index file model.safetensors.index.json maps names to files. The MLX models of Ollama's store have one file for
 * each tensor, W, with W.scale and W.bias in it (its x/create, v0.33): they go by MLX's names here. MLX affine quantisation: for a matrix (rows, cols),
 *     name.weight  u32 (rows, cols * bits / 32)   codes, packed from the lowest bit up, a row is one bit stream
 *     name.scales  f16|bf16|f32 (rows, cols / group)
 *     name.biases  the same shape and type       value = scale * code + bias
 * mxfp4: name.scales u8 (rows, cols / 32) E8M0 exponents, codes are E2M1, no biases (OCP MX spec 1.0).
 * mxfp8: the same with E4M3 codes, four to a word. nvfp4: E2M1 codes, scales u8 (rows, cols / 16) are E4M3 numbers.
 *
 * Hostile files: every offset, shape and count is checked against the file before a view exists; nothing is
 * allocated in proportion to a number that the file merely claims.
 *
 * Threads: open and close by one; views are read-only and free to share.
 */
#ifndef LM_WEIGHTS_H
#define LM_WEIGHTS_H

#include "base/base.h"

typedef enum lm_dtype {
    LM_F32, LM_F16, LM_BF16, LM_U32, LM_I32, LM_U8, LM_I8, LM_U16, LM_I16, LM_I64, LM_U64, LM_F64, LM_BOOL, LM_F8
} lm_dtype;
uint32_t lm_dtype_size(lm_dtype t);      /* bytes */
const char *lm_dtype_name(lm_dtype t);   /* as safetensors spells it: "BF16" */

#define LM_MAX_DIMS 5 /* a 3-D convolution of a vision tower has five; text models have at most three */

typedef struct lm_view {
    lm_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[LM_MAX_DIMS]; /* row-major, outermost first */
    const void *data;           /* aligned to the element as the file has it: readers use unaligned loads */
    uint64_t bytes;
} lm_view;

typedef struct lm_weights lm_weights;

/* Opens model.safetensors, or the files of model.safetensors.index.json, or every *.safetensors of dir.
 * LM_NOT_FOUND: no weights there. LM_CORRUPT: names the file and what is wrong. LM_UNSUPPORTED: unknown element type. */
lm_status lm_weights_open(lm_weights **out, const char *dir, lm_err *err) LM_CHECKED;
/* The same for one file of dir, whatever its name. */
lm_status lm_weights_open_file(lm_weights **out, const char *dir, const char *file, lm_err *err) LM_CHECKED;
void lm_weights_close(lm_weights *w); /* NULL allowed */
bool lm_weights_find(const lm_weights *w, const char *name, lm_view *out);
uint32_t lm_weights_count(const lm_weights *w);
const char *lm_weights_name(const lm_weights *w, uint32_t i, lm_view *out); /* in file order */
uint32_t lm_weights_index(const lm_weights *w, const char *name); /* its number there; UINT32_MAX: none */
uint64_t lm_weights_bytes(const lm_weights *w); /* sum of all tensors, for admission before anything is touched */
void lm_weights_drop(const lm_weights *w);      /* gives resident pages back to the system */

/* ---- matrices -------------------------------------------------------------------------------------------- */

typedef enum lm_quant {
    LM_QUANT_NONE,   /* codes holds plain numbers of dtype */
    LM_QUANT_AFFINE, /* bits 2,3,4,5,6,8; group 32,64,128 */
    LM_QUANT_MXFP4,  /* bits 4, group 32; scales u8 */
    LM_QUANT_MXFP8,  /* bits 8, group 32; scales u8 */
    LM_QUANT_NVFP4,  /* bits 4, group 16; scales u8 */
    LM_QUANT_KINDS
} lm_quant;

typedef struct lm_quant_spec {
    lm_quant kind;
    uint32_t bits;
    uint32_t group;
} lm_quant_spec;

const char *lm_quant_mode(lm_quant kind); /* MLX's name, as in config.json: "affine", "nvfp4"; NONE is "none" */
bool lm_quant_known(lm_quant_spec spec);  /* whether MLX has that kind with these bits and groups */
/* The floating-point kinds: u8 scales, no biases, one spec each. */
static inline bool lm_quant_is_float(lm_quant kind) {
    return kind == LM_QUANT_MXFP4 || kind == LM_QUANT_MXFP8 || kind == LM_QUANT_NVFP4;
}
/* The spec of such a kind; zeros for the others. */
lm_quant_spec lm_quant_float_spec(lm_quant kind);

/* A matrix (or a stack of n_experts of them) in one of the forms above; y = x · Wᵀ with x (cols), y (rows). */
typedef struct lm_matrix {
    lm_quant_spec quant;
    lm_dtype dtype;        /* NONE: of the numbers; AFFINE: of scales and biases */
    uint32_t n_experts;    /* 1 for a plain matrix; expert e lies e * rows further on in each array */
    uint32_t rows, cols;
    const void *codes;
    uint64_t row_bytes;    /* of codes */
    const void *scales;    /* (n_experts, rows, cols / group) */
    const void *biases;    /* the same, AFFINE only */
} lm_matrix;

/* Finds name.weight (+ .scales, .biases) and checks its shapes against quant (kind NONE where no scales exist).
 * rows and cols of 0 are taken from the file, others must agree. n_experts 0 or 1: two dims; more: three.
 * LM_NOT_FOUND, LM_CORRUPT (shapes that disagree). */
lm_status lm_weights_matrix(const lm_weights *w, const char *name, lm_quant_spec quant, uint32_t n_experts, uint32_t rows,
                            uint32_t cols, lm_matrix *out, lm_err *err) LM_CHECKED;

/* Which part of each of a stack's matrices: rows [first_row, first_row + n_rows), columns likewise. */
typedef struct lm_cut {
    uint32_t first_row, n_rows, first_col, n_cols;
} lm_cut;

/* That part as a matrix of its own. Whole rows of a single matrix stay where they are (*memory NULL); anything else is copied,
 * reading nothing but the part, to page-aligned memory of whole pages that the caller frees. Columns must begin and end at quantisation
 * groups: LM_UNSUPPORTED. LM_NO_MEMORY. */
lm_status lm_matrix_cut(const lm_matrix *m, const lm_cut *part, lm_matrix *out, void **memory, lm_err *err) LM_CHECKED;

/* One row as f32, the meaning of every form: what kernels are tested against. out holds cols floats. */
void lm_matrix_row(const lm_matrix *m, uint32_t expert, uint32_t row, float *out);

float lm_f16_to_f32(uint16_t h); /* IEEE 754 binary16, exact, subnormals and NaN too */
uint16_t lm_f32_to_f16(float f); /* round to nearest even */
static inline float lm_bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t lm_f32_to_bf16(float f); /* round to nearest even */

#endif
