/* test_backend.h (tests of ops only) - what cpu/support.h takes instead of the CPU backend: MLX's CPU device,
 * which is f32 throughout, as the CPU's exact set. */
#ifndef LM_MLX_TEST_BACKEND_H
#define LM_MLX_TEST_BACKEND_H

#include "base/test.h"
#include "mlx/backend.h"

static inline const lm_backend *test_backend(void) {
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &mlx, &err), err);
    return mlx;
}

static inline const char *const *test_features(void) {
    static const char *const exact[] = {"reference", NULL};
    return exact;
}

#endif
