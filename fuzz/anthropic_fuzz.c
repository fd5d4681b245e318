/* Bodies of /v1/messages and count_tokens: whatever comes, the reader refuses it with a text or makes a
 * request. */
#include <stdlib.h>

#include "api/anthropic.h"
#include "api/calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str body = {(const char *)data, size};
    for (int form = ANTHROPIC_MESSAGES; form <= ANTHROPIC_COUNT; form++) {
        anthropic_request r = {0};
        lm_err err = {0};
        lm_status st = anthropic_request_read(body, (anthropic_form)form, &r, &err);
        if (st == LM_OK) {
            if (!r.model || !r.model[0] || !r.request || err.text[0]) abort();
            lm_text_sampling makers = {.temperature = 0.5};
            if (anthropic_request_options(&r, &makers, &err) != LM_OK && !err.text[0]) abort();
            if (!json_array_size(r.request->messages) && !r.images) abort();
            if (r.forced &&
                (!r.request->constrained || !r.request->schema || !json_array_size(r.request->tools)))
                abort();
        } else if (!err.text[0] || r.request) {
            abort();
        }
        anthropic_request_release(&r);
    }
    char *name, *arguments;
    if (lm_forced_call(body, &name, &arguments)) {
        if (!name || !arguments) abort();
        free(name);
        free(arguments);
    }
    return 0;
}
