/* gguf.h - reads GGUF files (versions 2 and 3), mapped: metadata by key, tensors as views of the file.
 *
 * File: "GGUF", u32 version, u64 tensors, u64 keys; the keys (string, type, value); per tensor its name,
 * dimensions, type and offset; then, aligned, the data. Everything is little endian. A string is a u64 length
 * and its bytes.
 *
 * Hostile files: every count is held against the bytes that are there before anything is allocated for it,
 * arrays of arrays are refused, names and keys must be unique, tensors must lie inside the data and apart
 * from each other. A message starts with the path.
 *
 * Threads: as weights.h: open and close by one, everything else is reading.
 */
#ifndef LM_WEIGHTS_GGUF_H
#define LM_WEIGHTS_GGUF_H

#include "base/base.h"

/* The numbers are the file format's. */
typedef enum lm_ggml_type {
    LM_GGML_F32 = 0,
    LM_GGML_F16 = 1,
    LM_GGML_Q4_0 = 2,
    LM_GGML_Q4_1 = 3,
    LM_GGML_MXFP4_PLAIN = 4, /* Ollama's first gpt-oss: MXFP4 with the nibbles in their order */
    LM_GGML_Q5_0 = 6,
    LM_GGML_Q5_1 = 7,
    LM_GGML_Q8_0 = 8,
    LM_GGML_Q8_1 = 9,
    LM_GGML_Q2_K = 10,
    LM_GGML_Q3_K = 11,
    LM_GGML_Q4_K = 12,
    LM_GGML_Q5_K = 13,
    LM_GGML_Q6_K = 14,
    LM_GGML_Q8_K = 15,
    LM_GGML_IQ2_XXS = 16,
    LM_GGML_IQ2_XS = 17,
    LM_GGML_IQ3_XXS = 18,
    LM_GGML_IQ1_S = 19,
    LM_GGML_IQ4_NL = 20,
    LM_GGML_IQ3_S = 21,
    LM_GGML_IQ2_S = 22,
    LM_GGML_IQ4_XS = 23,
    LM_GGML_I8 = 24,
    LM_GGML_I16 = 25,
    LM_GGML_I32 = 26,
    LM_GGML_I64 = 27,
    LM_GGML_F64 = 28,
    LM_GGML_IQ1_M = 29,
    LM_GGML_BF16 = 30,
    LM_GGML_TQ1_0 = 34,
    LM_GGML_TQ2_0 = 35,
    LM_GGML_MXFP4 = 39,
    LM_GGML_NVFP4 = 40,
    LM_GGML_Q1_0 = 41,
} lm_ggml_type;
const char *lm_ggml_name(lm_ggml_type t);     /* "Q4_K"; "?" for a number that has no name */
uint32_t lm_ggml_block(lm_ggml_type t);       /* elements that are stored together */
uint32_t lm_ggml_block_bytes(lm_ggml_type t); /* and the bytes that they take */

typedef struct lm_gguf lm_gguf;

/* LM_NOT_FOUND, LM_IO; LM_CORRUPT: names what is wrong; LM_UNSUPPORTED: version 1, big endian, unknown tensor
 * type. Of a file that is one part of several the others are looked for beside it (below). */
lm_status lm_gguf_open(lm_gguf **out, const char *path, lm_err *err) LM_CHECKED;
/* One model in several files, as llama.cpp's gguf-split writes them: NAME-00001-of-00003.gguf and so on, each
 * with the keys split.no (from 0), split.count and split.tensors.count and with its own tensors; the first
 * one alone has the other metadata. Given in any order and under any names; what is opened is all of them as
 * one file. LM_NOT_FOUND: one is missing. LM_CORRUPT: one is there twice, or of another model. */
lm_status lm_gguf_open_parts(lm_gguf **out, const char *const *paths, uint32_t n, lm_err *err) LM_CHECKED;
void lm_gguf_close(lm_gguf *g);          /* NULL allowed */
uint64_t lm_gguf_size(const lm_gguf *g); /* bytes of the file, of all parts */
void lm_gguf_drop(const lm_gguf *g);     /* gives resident pages back to the system */

/* ---- metadata */

/* A value of another type than asked for gives LM_CORRUPT naming the key; an absent key leaves *out
 * untouched. Numbers convert between the widths of integers where the value fits, and from any number to
 * double. */
bool lm_gguf_has(const lm_gguf *g, const char *key);
lm_status lm_gguf_str(const lm_gguf *g, const char *key, lm_str *out,
                      lm_err *err) LM_CHECKED; /* borrowed, valid UTF-8 */
lm_status lm_gguf_u32(const lm_gguf *g, const char *key, uint32_t *out, lm_err *err) LM_CHECKED;
lm_status lm_gguf_float(const lm_gguf *g, const char *key, double *out, lm_err *err) LM_CHECKED; /* finite */
lm_status lm_gguf_bool(const lm_gguf *g, const char *key, bool *out, lm_err *err) LM_CHECKED;

/* Arrays: *n elements into *out, malloc'd, the caller frees (never more than a small multiple of the bytes
 * that the array takes in the file). A single number reads as an array of one. */
lm_status lm_gguf_strs(const lm_gguf *g, const char *key, lm_str **out, uint32_t *n,
                       lm_err *err) LM_CHECKED; /* any bytes */
lm_status lm_gguf_i32s(const lm_gguf *g, const char *key, int32_t **out, uint32_t *n,
                       lm_err *err) LM_CHECKED; /* bools too */
lm_status lm_gguf_floats(const lm_gguf *g, const char *key, float **out, uint32_t *n, lm_err *err) LM_CHECKED;

/* ---- tensors */

typedef struct lm_gguf_tensor {
    lm_str name;
    lm_ggml_type type;
    uint32_t n_dims;  /* 1..4 */
    uint64_t dims[4]; /* dims[0] is the length of a row; unused ones are 1 */
    const uint8_t *data;
    uint64_t bytes;
    uint64_t row_bytes;
} lm_gguf_tensor;

uint32_t lm_gguf_count(const lm_gguf *g);
const lm_gguf_tensor *lm_gguf_tensor_at(const lm_gguf *g, uint32_t i);  /* in file order */
const lm_gguf_tensor *lm_gguf_find(const lm_gguf *g, const char *name); /* NULL when absent */

#endif
