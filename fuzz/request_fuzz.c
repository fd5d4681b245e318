/* Bodies of /api/generate and /api/chat: whatever comes, the reader refuses it with a text or makes a
 * request. */
#include <stdlib.h>
#include <string.h>

#include "api/ollama.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str body = {(const char *)data, size};
    for (int form = OLLAMA_GENERATE; form <= OLLAMA_CHAT; form++) {
        ollama_request r = {0};
        lm_err err = {0};
        lm_status st = ollama_request_read(body, (ollama_form)form, &r, &err);
        if (st == LM_OK) {
            if (!r.model || !r.request || err.text[0]) abort();
            lm_text_sampling makers = {.temperature = 0.5};
            if (ollama_request_options(&r, &makers, &err) != LM_OK && !err.text[0]) abort();
            if (r.request->top_logprobs > 20) abort();
            if (r.request->kind == LM_REQUEST_CHAT && !json_is_array(r.request->messages)) abort();
        } else if (!err.text[0] || r.request) {
            abort();
        }
        ollama_request_release(&r);
    }
    return 0;
}
