/* safetensors_write.h - writes one safetensors file whose tensors arrive in pieces and in any order.
 *
 * All names, types and shapes are known first: the header is written at once, the file gets its full size on
 * the disk (a full disk is found out before any work is done), and every piece then goes to its place. Memory
 * stays proportional to the number of tensors. The data part starts at a multiple of 64 bytes; tensors whose
 * size is a multiple of 64 come first, so that they start at one too.
 *
 * Threads: lm_writer_put, _front and _read may be called by several at a time; each byte is put once.
 * Everything else belongs to one thread.
 */
#ifndef LM_WEIGHTS_SAFETENSORS_WRITE_H
#define LM_WEIGHTS_SAFETENSORS_WRITE_H

#include "weights/weights.h"

typedef struct lm_tensor_spec {
    const char *name; /* borrowed until lm_writer_open returns */
    lm_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[LM_MAX_DIMS];
} lm_tensor_spec;

typedef struct lm_writer lm_writer;

/* Creates path, which must not exist. LM_INVALID: two tensors of one name, or a size past 2^63. LM_NO_SPACE:
 * says how much is needed and how much is free. LM_IO. On failure no file is left. */
lm_status lm_writer_open(lm_writer **out, const char *path, const lm_tensor_spec *specs, uint32_t n,
                         lm_err *err) LM_CHECKED;

uint64_t lm_writer_bytes(const lm_writer *w); /* of the whole file */

/* Puts n bytes at byte `at` of tensor i (its index in specs). LM_INVALID: past its end. LM_NO_SPACE, LM_IO.
 */
lm_status lm_writer_put(lm_writer *w, uint32_t i, uint64_t at, const void *bytes, uint64_t n,
                        lm_err *err) LM_CHECKED;

/* How many bytes from the beginning of the file are what they will be; and some of them. Who wants a digest
 * can follow the writing with it. */
uint64_t lm_writer_front(lm_writer *w);
lm_status lm_writer_read(const lm_writer *w, uint64_t at, void *bytes, uint64_t n, lm_err *err) LM_CHECKED;

/* Flushes to the disk and closes. LM_INTERNAL when a tensor has not received as many bytes as it has.
 * On failure, as on lm_writer_abort, the file is removed. The writer is gone either way. */
lm_status lm_writer_finish(lm_writer *w, lm_err *err) LM_CHECKED;
void lm_writer_abort(lm_writer *w); /* NULL allowed */

#endif
