/* Go templates: any source over any chat ends, within its bounds and with valid memory; what was rendered
 * before stays when it fails.
 *
 * Input: the source, a NUL byte, and messages as JSON (when it is no array: a chat of the target's own). */
#include <stdlib.h>
#include <string.h>

#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_OUT ((size_t)1 << 20)

static const lm_str own_chat =
    LM_STR("[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"<u>\"},"
           "{\"role\":\"assistant\",\"content\":\"a\",\"thinking\":\"t\",\"tool_calls\":[{\"id\":\"c\","
           "\"function\":{\"name\":\"f\","
           "\"arguments\":{\"b\":[1,{\"c\":null}],\"a\":1.5}}}]},{\"role\":\"tool\",\"content\":\"r\",\"tool_"
           "name\":\"f\"}]");
static const lm_str tools =
    LM_STR("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{"
           "\"type\":\"object\",\"required\":"
           "[\"a\"],\"properties\":{\"b\":{\"type\":[\"string\",\"null\"],\"enum\":[1,\"x\"]},\"a\":{"
           "\"anyOf\":[{\"type\":\"array\"}]},"
           "\"n\":{\"type\":\"object\",\"properties\":{\"z\":{\"type\":\"integer\"}}}}}}}]");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_go_template *t = NULL;
    lm_err err = {0};
    const uint8_t *nul = memchr(data, 0, size);
    lm_str source = {(const char *)data, nul ? (size_t)(nul - data) : size}, chat = own_chat;
    if (nul) chat = (lm_str){(const char *)nul + 1, size - source.len - 1};
    lm_status st = lm_go_template_open(&t, source, &err);
    LM_ASSERT((st == LM_OK) == (lm_go_template_check(source, NULL) == LM_OK));
    if (st != LM_OK) {
        LM_ASSERT(st == LM_INVALID && err.text[0]);
        return 0;
    }
    const char *open, *close;
    lm_go_template_think_tags(t, &open, &close);
    for (int i = 0; i < 3; i++) {
        lm_buf out;
        lm_buf_init(&out, MAX_OUT);
        lm_buf_text(&out, "before");
        st = i < 2 ? lm_go_template_chat(t, i ? own_chat : chat, i ? tools : (lm_str){0}, i - 1, (lm_str){0},
                                         &out, &err)
                   : lm_go_template_insert(t, LM_STR("p"), LM_STR("s"), 1, LM_STR("low"), &out, &err);
        LM_ASSERT(lm_str_starts(lm_buf_view(&out), LM_STR("before")));
        LM_ASSERT(st == LM_OK || (out.len == 6 && err.text[0]));
        lm_buf_release(&out);
    }
    lm_go_template_close(t);
    return 0;
}
