/* test_config.h (tests only) - a configuration of two backends, "ollama" and "mlx", on ports of this machine. */
#ifndef LM_ROUTER_TEST_CONFIG_H
#define LM_ROUTER_TEST_CONFIG_H

#include <stdio.h>

#include "router/router.h"

static inline lm_router_config two_backends(uint16_t ollama, uint16_t mlx) {
    lm_router_config c = {.host = "127.0.0.1",
                          .check_ms = 60000,
                          .check_timeout_ms = 5000,
                          .fall = 3,
                          .rise = 2,
                          .breaker_failures = 3,
                          .breaker_ms = 150,
                          .connect_ms = 5000,
                          .n_backends = 2};
    snprintf(c.backends[0].name, sizeof c.backends[0].name, "ollama");
    snprintf(c.backends[1].name, sizeof c.backends[1].name, "mlx");
    c.backends[1].kind = LM_KIND_MLX;
    snprintf(c.backends[0].url, sizeof c.backends[0].url, "http://127.0.0.1:%u", ollama);
    snprintf(c.backends[1].url, sizeof c.backends[1].url, "http://127.0.0.1:%u", mlx);
    return c;
}

#endif
