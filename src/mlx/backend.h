/* backend.h - Apple's MLX as a backend: the op table of tensor.h over libmlx, on Metal, CUDA or MLX's own CPU
 * code.
 *
 * libmlx is C++ and not on every machine, so the backend is a module of its own (mlx-ollama-mlx.so beside the
 * program) that is loaded when it is asked for: a program without the module, or a machine without libmlx,
 * runs the CPU backend. No exception leaves the module; what MLX says goes into lm_err.
 *
 * Arithmetic is MLX's: activations in the type of the model's scales (f32 on MLX's CPU device, whose 16-bit
 * paths are slow), products by quantized_matmul and gather_qmm, attention by
 * fast::scaled_dot_product_attention. Weights are the mapped file itself where the device can address it; MLX
 * copies them where it can't.
 *
 * Threads: as tensor.h; two devices may be used by two threads.
 */
#ifndef LM_MLX_BACKEND_H
#define LM_MLX_BACKEND_H

#include "tensor/tensor.h"

/* Which of MLX's devices. */
typedef enum lm_mlx_where {
    LM_MLX_GPU, /* Metal or CUDA */
    LM_MLX_CPU, /* for tests: slow */
} lm_mlx_where;

/* The backend on that device. LM_NOT_FOUND: no module, or no libmlx (the text says what was tried and what to
 * install). LM_UNSUPPORTED: no such device. Valid until the program ends; loaded once. */
lm_status lm_mlx_load(lm_mlx_where where, const lm_backend **out, lm_err *err) LM_CHECKED;
/* The same for one of several: index counts from 0. */
lm_status lm_mlx_load_at(lm_mlx_where where, uint32_t index, const lm_backend **out, lm_err *err) LM_CHECKED;

/* Whether it is worth asking, without loading anything: Apple silicon, or a machine with NVIDIA's driver. */
bool lm_mlx_likely(void);

#endif
