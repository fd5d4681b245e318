/* Bodies as the router reads them: whatever comes, facts are found within their bounds, hygiene leaves JSON, and what is
 * clean stays as it is. The first byte chooses the route. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "router/hygiene.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const paths[] = {
    "/api/generate",   "/api/chat",      "/api/embed",    "/v1/chat/completions",
    "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
    "/api/show",       "/api/pull"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    router_facts f;
    hygiene_report report, again;
    const char *path = paths[data[0] % (sizeof paths / sizeof *paths)];
    facts_of(&f, LM_STR("POST"), lm_str_of(path), (lm_str){(const char *)data + 1, size - 1});
    if (f.n_prefixes > FACTS_PREFIXES || strlen(f.model) >= sizeof f.model) abort();
    hygiene_clean(f.body, f.wire, &report);
    if (report.n_markers && !report.changed) abort();
    hygiene_clean(f.body, f.wire, &again);
    if (again.changed) abort();
    facts_count(&f);
    if (f.n_prompt > size) abort();
    if (f.body) {
        lm_buf text;
        json_t *back = NULL;
        lm_buf_init(&text, size * 8 + 1000);
        lm_json_write_same(&text, f.body);
        if (!text.failed && lm_json_parse(lm_buf_view(&text), &back, NULL) == LM_OK &&
            !json_equal(back, f.body))
            abort();
        json_decref(back);
        lm_buf_release(&text);
    }
    facts_release(&f);
    return 0;
}
