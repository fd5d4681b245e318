/* Streams and whole answers of backends: whatever comes, events are whole, the same wherever the bytes are cut, and JSON stays
 * JSON when the model's name is put back. The first byte chooses the wire and whether a name is, the second where to cut. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "router/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct heard {
    lm_buf log;
    router_wire wire;
    bool first_seen;
} heard;

static void expect_json(lm_str text) {
    json_t *tree = NULL;
    if (lm_json_parse(text, &tree, NULL) != LM_OK) abort();
    json_decref(tree);
}

static bool note(void *ctx, const event *e) {
    heard *h = ctx;
    if (!e->bytes.len || e->bytes.ptr[e->bytes.len - 1] != '\n') abort();
    if (e->end && e->kind != EVENT_GOOD) abort();
    if ((e->kind == EVENT_ERROR) != (e->text[0] != '\0')) abort();
    if (h->wire == WIRE_OLLAMA && e->kind == EVENT_GOOD && !h->first_seen) {
        h->first_seen = true;
        expect_json(e->bytes);
    }
    lm_buf_printf(&h->log, "%d%d%s:", (int)e->kind, e->end, e->text);
    lm_buf_str(&h->log, e->bytes);
    return true;
}

static void run(router_wire wire, bool echo, lm_str first, lm_str second, heard *h) {
    events e;
    *h = (heard){.wire = wire};
    lm_buf_init(&h->log, 64 << 20);
    events_init(&e, wire, echo ? "org/tiny" : NULL, echo ? "a \"name\"" : NULL);
    if (events_feed(&e, first, note, h, NULL) != LM_OK) abort();
    if (events_feed(&e, second, note, h, NULL) != LM_OK) abort();
    events_release(&e);
}

static void run_whole(router_wire wire, bool echo, lm_str body) {
    lm_buf out;
    event said;
    lm_buf_init(&out, 64 << 20);
    events_whole(wire, body, false, echo ? "org/tiny" : NULL, echo ? "a \"name\"" : NULL, &out, &said);
    if (said.kind == EVENT_NOISE && wire != WIRE_ANTHROPIC) abort();
    if (said.kind == EVENT_GOOD) expect_json(said.bytes);
    lm_buf_clear(&out);
    events_whole(wire, body, true, echo ? "org/tiny" : NULL, echo ? "a \"name\"" : NULL, &out, &said);
    if (said.kind != EVENT_GOOD) abort();
    lm_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    router_wire wire = (router_wire)(data[0] & 3);
    bool echo = data[0] & 4;
    lm_str all = {(const char *)data + 2, size - 2};
    size_t cut = data[1] < all.len ? data[1] : all.len;
    heard whole, parts;
    run(wire, echo, all, (lm_str){0}, &whole);
    run(wire, echo, (lm_str){all.ptr, cut}, (lm_str){all.ptr + cut, all.len - cut}, &parts);
    if (!lm_str_eq(lm_buf_view(&whole.log), lm_buf_view(&parts.log))) abort();
    lm_buf_release(&whole.log);
    lm_buf_release(&parts.log);
    run_whole(wire, echo, all);
    return 0;
}
