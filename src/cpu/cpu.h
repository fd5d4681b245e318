/* cpu.h - the CPU backend: tensor.h's op table in C, with kernels for the instruction sets chosen at run
 * time.
 *
 * Feature sets (lm_device_config.features, --cpu-features): "reference" is exact: f32 activations, f32 keys
 * and values, weights dequantised one by one; what everything else is measured against. "portable" is plain C
 * with the same arithmetic as the fast ones: 8-bit activations, f16 keys and values. "avx2", "avx512",
 * "avx512-bf16", "neon", "neon-dotprod" and "neon-i8mm" are that with intrinsics; each name says what the
 * processor must have.
 */
#ifndef LM_CPU_H
#define LM_CPU_H

#include "tensor/tensor.h"

extern const lm_backend lm_cpu_backend;

/* Names of the feature sets that this machine can run, best first, NULL-terminated. */
const char *const *lm_cpu_features(void);

#endif
