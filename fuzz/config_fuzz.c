/* config.json: any bytes give a description or an error, never a crash, and a description keeps its own
 * promises. */
#include <math.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static float inv_freq[LM_MAX_HEAD_DIM / 2];
    lm_config c = {0};
    lm_err err = {0};
    lm_rope rope;

    if (lm_config_parse(&c, (lm_str){(const char *)data, size}, &err) != LM_OK) {
        LM_ASSERT(err.text[0] && !c.root);
        return 0;
    }
    LM_ASSERT(c.n_layers && c.n_layers <= LM_MAX_LAYERS && c.head_dim % 2 == 0);
    LM_ASSERT(c.n_heads % c.n_kv_heads == 0 && c.top_k <= c.n_experts);
    for (int i = 0; i < LM_ROPE_COUNT; i++) {
        if (i == LM_ROPE_LOCAL && !c.local_rope) continue;
        if (c.family->encoder && !c.ropes[i].n_dims) continue; /* it looks its positions up */
        LM_ASSERT(c.ropes[i].n_dims >= 2 && c.ropes[i].n_dims <= c.head_dim && c.ropes[i].n_dims % 2 == 0);
        lm_rope_make(&c.ropes[i], 1 << 20, inv_freq, &rope);
        for (uint32_t n = 0; n < rope.n_dims / 2; n++) LM_ASSERT(isfinite(inv_freq[n]));
        LM_ASSERT(isfinite(rope.mscale));
    }
    for (uint32_t i = 0; i < c.n_layers; i++) LM_ASSERT(c.layers[i].rope <= LM_ROPE_NONE);
    lm_config_release(&c);
    return 0;
}
