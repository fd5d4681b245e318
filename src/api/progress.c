#include "api/progress.h"

#include "api/ollama.h"

#define MAX_LINE 65536
#define EVERY_NS UINT64_C(100000000)
#define NO_DIGEST                                                                                            \
    "0000000000000000000" /* Ollama's, of work that belongs to no layer: its command line draws a bar for it \
                           */

static void write_line(ollama_progress *p, const lm_buf *line) {
    if (!p->begun) lm_http_stream(p->call->x, 200, TYPE_NDJSON);
    p->begun = true;
    lm_status st = lm_http_write(p->call->x, lm_buf_view(line));
    if (st != LM_OK) return; /* gone: seen by who asks next */
}

/* {"KEY": TEXT} */
static void text_line(ollama_progress *p, const char *key, const char *text) {
    lm_buf b;
    lm_buf_init(&b, MAX_LINE);
    lm_buf_char(&b, '{');
    ollama_write_text(&b, key, text);
    lm_buf_text(&b, "}\n");
    write_line(p, &b);
    lm_buf_release(&b);
}

void ollama_progress_status(ollama_progress *p, const char *status) {
    if (p->stream) text_line(p, "status", status);
}

bool ollama_progress_bytes(void *ctx, uint64_t done, uint64_t total) {
    ollama_progress *p = ctx;
    uint64_t now = lm_now_ns();
    if (lm_call_gone(p->call)) return false;
    if (!p->stream || (done != total && now - p->shown_ns < EVERY_NS)) return true;
    p->shown_ns = now;
    lm_buf b;
    lm_buf_init(&b, MAX_LINE);
    lm_buf_char(&b, '{');
    ollama_write_text(&b, "status", p->reading);
    lm_buf_printf(&b, ",\"digest\":\"" NO_DIGEST "\",\"total\":%llu", (unsigned long long)total);
    if (done) lm_buf_printf(&b, ",\"completed\":%llu", (unsigned long long)done);
    lm_buf_text(&b, "}\n");
    write_line(p, &b);
    lm_buf_release(&b);
    return true;
}

void ollama_progress_layer(ollama_progress *p, const char *doing, const char *digest, uint64_t total,
                           uint64_t completed) {
    if (!p->stream) return;
    lm_buf b;
    lm_buf_init(&b, MAX_LINE);
    lm_buf_printf(&b, "{\"status\":\"%s %.12s\",\"digest\":\"%s\",\"total\":%llu", doing, digest + 7, digest,
                  (unsigned long long)total);
    if (completed) lm_buf_printf(&b, ",\"completed\":%llu", (unsigned long long)completed);
    lm_buf_text(&b, "}\n");
    write_line(p, &b);
    lm_buf_release(&b);
}

static void error_line(ollama_progress *p, const char *text) {
    text_line(p, "error", text);
    lm_call_note_error(p->call, lm_str_of(text));
}

void ollama_progress_end(ollama_progress *p, lm_status st, const char *text) {
    if (st == LM_CANCELLED && !lm_http_gone(p->call->x)) text = "the server is shutting down";
    if (st == LM_OK && p->stream)
        ollama_progress_status(p, "success");
    else if (st == LM_OK)
        lm_http_reply(p->call->x, 200, TYPE_JSON, LM_STR("{\"status\":\"success\"}"));
    else if (p->begun)
        error_line(p, text);
    else
        ollama_error(p->call, st, text);
    if (p->begun) lm_http_end(p->call->x);
}

void ollama_progress_refuse(ollama_progress *p, const char *text) {
    if (!p->stream) {
        ollama_error(p->call, LM_INTERNAL, text);
        return;
    }
    error_line(p, text);
    lm_http_end(p->call->x);
}
