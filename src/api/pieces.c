#include "api/pieces.h"

#include <stdio.h>
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

static void get_random(unsigned char *out, size_t n) {
    if (!getentropy(out, n)) return;
    uint64_t now = lm_now_ns();
    memcpy(out, &now, n < sizeof now ? n : sizeof now);
}

void lm_call_id(char out[16]) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char random[8];
    get_random(random, sizeof random);
    memcpy(out, "call_", 5);
    for (int i = 0; i < 8; i++) out[5 + i] = letters[random[i] % 36];
    out[13] = '\0';
}

void lm_hex_id(const char *prefix, char out[32]) {
    unsigned char random[12] = {0};
    get_random(random, sizeof random);
    int n = snprintf(out, 32, "%.6s_", prefix);
    for (size_t i = 0; i < sizeof random; i++) snprintf(out + n + 2 * i, 3, "%02x", random[i]);
}

bool lm_gap_pass(lm_gap *g, int kind, lm_str *text) {
    if (g->kind != kind) lm_buf_clear(&g->held);
    g->kind = kind;
    lm_buf_str(&g->held, *text);
    *text = lm_buf_view(&g->held);
    return lm_str_trim(*text).len > 0;
}
