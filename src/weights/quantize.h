/* quantize.h - numbers into MLX's quantised forms, bit for bit as mx.quantize of MLX 0.32.4 gives them on the
 * CPU.
 *
 * Affine, for each group, in f32:
 *     edge   whichever of the group's minimum and maximum lies further from zero (the maximum when both do)
 *     scale  max((maximum - minimum) / (2^bits - 1), 1e-7), negative when the edge is the maximum
 *     k      edge / scale, rounded to even; where it is not zero: scale = edge / k, bias = edge; else bias = 0
 *     code   (number - bias) / scale, rounded to even, kept within 0 .. 2^bits - 1
 * Only what is stored of scale and bias is rounded to the type of the numbers.
 *
 * mxfp4, mxfp8: the scale is the smallest power of two at or above largest / 6 (or / 448), that quotient
 * rounded to the type of the numbers; 1 for a group of zeros. nvfp4: the scale is largest / 6 as E4M3. Codes
 * are the nearest E2M1 number, of two that are as near the smaller one, and zero without a sign; or the
 * nearest E4M3 number, to even.
 *
 * One deviation: below 2^-127 MLX's exponents wrap around and stand for enormous scales; here they stay at
 * 2^-127.
 *
 * Threads: any; the function keeps nothing.
 */
#ifndef LM_WEIGHTS_QUANTIZE_H
#define LM_WEIGHTS_QUANTIZE_H

#include "weights/weights.h"

/* n numbers of dtype F32, F16 or BF16 (at any address), whole groups of spec, whose kind is not NONE. codes:
 * n * bits / 8 bytes. scales, and biases of the affine form: n / group of dtype; scales of the others: n /
 * group bytes, biases unused. False: a number is not finite, or a group's range is beyond f32; what was
 * written then means nothing. */
bool lm_quantize(lm_quant_spec spec, lm_dtype dtype, const void *numbers, uint64_t n, void *codes,
                 void *scales, void *biases);

/* n numbers from one of these types to another, rounded to nearest even. False: one is beyond the new type's
 * range (and was not infinite before). */
bool lm_numbers_cast(lm_dtype from, const void *numbers, uint64_t n, lm_dtype to, void *out);

#endif
