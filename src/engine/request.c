/* request.c - a request's life before anybody works on it: defaults in, everything freed at the end. */
#include <stdlib.h>

#include "engine/engine.h"

void lm_options_default(lm_options *o) {
    *o = (lm_options){
        .num_predict = -1,
        .num_ctx = 0,
        .num_keep = 4,
        .seed = -1,
        .temperature = 0.8f,
        .top_k = 40,
        .top_p = 0.9f,
        .min_p = 0.0f,
        .typical_p = 1.0f,
        .repeat_last_n = 64,
        .repeat_penalty = 1.0f,
        .presence_penalty = 0.0f,
        .frequency_penalty = 0.0f,
    };
}

lm_request *lm_request_new(void) {
    lm_request *r = lm_alloc(sizeof(*r));
    lm_options_default(&r->options);
    r->kind = LM_REQUEST_RAW;
    r->thinking = -1;
    r->truncate = true;
    r->shift = true;
    r->keep_alive_ns = LM_KEEP_ALIVE_DEFAULT;
    return r;
}

void lm_request_free(lm_request *r) {
    if (!r) return;
    free(r->prompt);
    free(r->suffix);
    free(r->template);
    json_decref(r->messages);
    json_decref(r->tools);
    free(r->context);
    free(r->schema);
    free(r->biases);
    for (uint32_t i = 0; i < r->n_stops; i++) free(r->stops[i]);
    free(r->stops);
    for (uint32_t i = 0; i < r->n_inputs; i++) {
        free(r->inputs[i].text);
        free(r->inputs[i].ids);
    }
    free(r->inputs);
    free(r);
}
