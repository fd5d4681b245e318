/* golden_backend.h (tests only) - what a golden program computes on. */
#ifndef LM_TESTS_GOLDEN_BACKEND_H
#define LM_TESTS_GOLDEN_BACKEND_H

#include "base/test.h"
#include "cpu/cpu.h"
#include "mlx/backend.h"

/* With LM_GOLDEN_MLX a program is its twin over MLX's CPU device: nothing but the exact arithmetic, so
 * "features" is nothing there. */
static inline const lm_backend *backend(void) {
#ifdef LM_GOLDEN_MLX
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &mlx, &err), err);
    return mlx;
#else
    return &lm_cpu_backend;
#endif
}

#endif
