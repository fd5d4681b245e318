#include "api/pieces.h"

#include <string.h>
#include <sys/random.h>

#include "base/json.h"

static void write_one(lm_buf *b, const lm_logprob *p) {
    lm_buf_text(b, "\"token\":");
    lm_json_write_string(b, p->bytes);
    lm_buf_text(b, ",\"logprob\":");
    lm_json_write_double(b, (double)p->logprob);
    lm_buf_text(b, ",\"bytes\":[");
    for (size_t i = 0; i < p->bytes.len; i++)
        lm_buf_printf(b, "%s%u", i ? "," : "", (unsigned char)p->bytes.ptr[i]);
    lm_buf_char(b, ']');
}

void lm_write_logprobs(lm_buf *b, const lm_token_logprobs *p, bool top) {
    lm_buf_char(b, '{');
    write_one(b, &p->chosen);
    if (top) lm_buf_text(b, ",\"top_logprobs\":[");
    for (uint32_t i = 0; top && i < p->n_top; i++) {
        lm_buf_text(b, i ? ",{" : "{");
        write_one(b, &p->top[i]);
        lm_buf_char(b, '}');
    }
    lm_buf_text(b, top ? "]}" : "}");
}

void lm_call_id(char out[16]) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char random[8];
    if (getentropy(random, sizeof random)) {
        uint64_t now = lm_now_ns();
        memcpy(random, &now, sizeof random);
    }
    memcpy(out, "call_", 5);
    for (int i = 0; i < 8; i++) out[5 + i] = letters[random[i] % 36];
    out[13] = '\0';
}
