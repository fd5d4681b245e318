/* An adapter as somebody uploads it: adapter_config.json, a NUL, then the file of weights (safetensors or
 * GGUF). Any bytes give a file that the model's reader takes whole, or an error that leaves nothing. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/json.h"
#include "model/adapter.h"
#include "store/adapter_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fd = -1;
static char input[64], place[64], output[100];

static void set_up(void) {
    fd = memfd_create("adapter", MFD_CLOEXEC);
    snprintf(input, sizeof input, "/proc/self/fd/%d", fd);
    snprintf(place, sizeof place, "%s/lm-fuzz-adapter-XXXXXX",
             lm_path_is_dir("/dev/shm") ? "/dev/shm" : "/tmp");
    if (fd < 0 || !mkdtemp(place)) abort();
    snprintf(output, sizeof output, "%s/" LM_ADAPTER_FILE, place);
}

/* What was written is what was listed, to whoever opens a model with it. */
static void check_written(const lm_loras *l) {
    lm_err err = {0};
    lm_adapter *a = NULL;
    LM_ASSERT(lm_adapter_open(&a, place, &err) == LM_OK && a);
    for (uint32_t i = 0; i < l->n; i++) {
        const lm_lora *p = &l->items[i];
        if (p->b.rows > UINT32_MAX || p->a.cols > UINT32_MAX) continue;
        lm_matrix w = {.n_experts = p->a.n_experts ? (uint32_t)p->a.n_experts : 1,
                       .rows = (uint32_t)p->b.rows,
                       .cols = (uint32_t)p->a.cols};
        lm_adapter_pair pair;
        bool there = false;
        lm_status st = lm_adapter_find(a, p->name, &w, &pair, &there, &err);
        if (p->a.n_experts == 1) continue; /* no model has that */
        LM_ASSERT(st == LM_OK && there && pair.scale == p->scale && pair.a.rows == p->a.rows);
        LM_ASSERT(pair.a.rows <= lm_adapter_rank(a));
    }
    LM_ASSERT(lm_adapter_used_up(a, &err) == LM_OK);
    lm_adapter_close(a);
}

static lm_status take(const lm_loras *l, lm_err *err) {
    lm_status st = lm_loras_check(l, err);
    if (st == LM_OK) st = lm_loras_write(l, output, err);
    if (st == LM_OK) check_written(l);
    if (st == LM_OK && unlink(output) != 0) abort();
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const lm_model_info base = {.family = "llama", .n_heads = 4, .n_kv_heads = 2};
    const uint8_t *end = memchr(data, 0, size);
    size_t n = end ? (size_t)(end - data) : size, rest = end ? size - n - 1 : 0;
    json_t *config = NULL;
    lm_loras l = {0};
    lm_weights *w = NULL;
    lm_gguf *g = NULL;
    lm_err err = {0};
    if (fd < 0) set_up();
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data + size - rest, rest, 0) != (ssize_t)rest) abort();
    lm_status st = n ? lm_json_parse((lm_str){(const char *)data, n}, &config, &err) : LM_OK;
    if (st == LM_OK && lm_gguf_open(&g, input, &err) == LM_OK)
        st = lm_loras_gguf(&l, g, &base, &err);
    else if (st == LM_OK && (st = lm_weights_open_file(&w, "/proc/self/fd", input + 14, &err)) == LM_OK)
        st = lm_loras_safetensors(&l, w, config, &err);
    if (st == LM_OK) st = take(&l, &err);
    LM_ASSERT(st == LM_OK || (err.text[0] && !lm_path_is_file(output)));
    lm_loras_release(&l);
    lm_weights_close(w);
    lm_gguf_close(g);
    json_decref(config);
    return 0;
}
