/* Imports large enough for several threads: the digest that follows the writing, failures and cancels in the
 * middle. */
#include <openssl/evp.h>
#include <stdatomic.h>

#include "store/import_make.h"

#define COLS      4096
#define ROWS      2100 /* 36 MB of Q8_0 in all: more than one thread is given */
#define ROW_BYTES (COLS / 32 * 34)

static uint8_t *blocks;

static int make_blocks(void **state) {
    blocks = lm_alloc((size_t)ROWS * ROW_BYTES);
    for (size_t i = 0; i < (size_t)ROWS * ROW_BYTES; i += 34) {
        blocks[i + 1] = 0x20 + (uint8_t)(i / 34 % 16); /* the scale */
        for (size_t k = 2; k < 34; k++) blocks[i + k] = (uint8_t)((i + k) * 2654435761u >> 24);
    }
    return make_test_dir(state);
}

static int free_blocks(void **state) {
    free(blocks);
    return remove_test_dir(state);
}

static void large_model(gguf_make *m) {
    static const char *const names[] = {"token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight",
                                        "output.weight"};
    gguf_make_init(m);
    gguf_make_str(m, "general.architecture", "llama");
    gguf_make_u32(m, "llama.block_count", 1);
    gguf_make_u32(m, "llama.context_length", 128);
    gguf_make_u32(m, "llama.embedding_length", COLS);
    gguf_make_u32(m, "llama.feed_forward_length", ROWS);
    gguf_make_u32(m, "llama.attention.head_count", 21);
    gguf_make_u32(m, "llama.attention.key_length", 100);
    gguf_make_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
    gguf_make_str(m, "tokenizer.ggml.pre", "qwen2");
    gguf_make_array(m, "tokenizer.ggml.tokens", 8, 3);
    gguf_make_text(&m->keys, "a");
    gguf_make_text(&m->keys, "b");
    gguf_make_text(&m->keys, "ab");
    gguf_make_array(m, "tokenizer.ggml.token_type", 5, 3);
    for (int i = 0; i < 3; i++) gguf_make_int(&m->keys, 1, 4);
    gguf_make_array(m, "tokenizer.ggml.merges", 8, 1);
    gguf_make_text(&m->keys, "a b");
    tiny_tensor(m, "output_norm.weight", 1, COLS);
    for (int i = 0; i < 4; i++)
        gguf_make_tensor(m, names[i], LM_GGML_Q8_0, 2, (uint64_t[]){COLS, ROWS}, blocks,
                         (size_t)ROWS * ROW_BYTES);
}

static void digest_of(const char *path, char out[LM_DIGEST_SIZE]) {
    unsigned char raw[32];
    lm_err err = {0};
    lm_map map;
    expect_ok(lm_map_open(&map, path, &err), err);
    assert_int_equal(EVP_Digest(map.data, map.size, raw, NULL, EVP_sha256(), NULL), 1);
    lm_map_close(&map);
    strcpy(out, "sha256:");
    for (int i = 0; i < 32; i++) snprintf(out + 7 + 2 * i, 3, "%02x", raw[i]);
}

static bool count(void *ctx, uint64_t done, uint64_t total) {
    uint64_t *last = ctx;
    assert_true(done >= *last && done <= total);
    *last = done;
    return true;
}

static void several_threads_write_what_one_would(void **state) {
    (void)state;
    lm_err err = {0};
    gguf_make m;
    large_model(&m);
    char *in = put(&m), *out = lm_path_join(test_dir(), "out"), got[LM_DIGEST_SIZE], want[LM_DIGEST_SIZE];
    const char *const files[] = {in};
    uint64_t last = 0;
    expect_ok(lm_import_parts(files, 1, out, got, count, &last, &err), err);
    assert_int_equal(last, 4 * (uint64_t)ROWS * ROW_BYTES + 4 * COLS);

    char *weights = lm_path_join(out, "model.safetensors");
    digest_of(weights, want);
    assert_string_equal(got, want);
    lm_weights *w = NULL;
    lm_matrix q;
    expect_ok(lm_weights_open(&w, out, &err), err);
    float row[COLS];
    for (uint32_t r = 0; r < ROWS; r += 7) {
        expect_ok(
            lm_weights_matrix(w, "lm_head", (lm_quant_spec){LM_QUANT_AFFINE, 8, 32}, 1, ROWS, COLS, &q, &err),
            err);
        lm_matrix_row(&q, 0, r, row);
        for (uint32_t i = 0; i < COLS; i++) {
            const uint8_t *b = blocks + (size_t)r * ROW_BYTES + i / 32 * 34;
            float scale = lm_f16_to_f32((uint16_t)(b[0] | b[1] << 8));
            if (row[i] != scale * (float)(int8_t)b[2 + i % 32])
                fail_msg("row %u, number %u: %g", r, i, row[i]);
        }
    }
    lm_weights_close(w);
    free(weights);
    free(in);
    free(out);
    gguf_make_release(&m);
}

static void a_damaged_block_in_the_middle_ends_all_threads(void **state) {
    (void)state;
    uint8_t *scale = blocks + (size_t)(ROWS - 3) * ROW_BYTES;
    gguf_make m;
    scale[1] = 0x7c; /* infinity */
    large_model(&m);
    expect_refused(&m, LM_CORRUPT, "scales that are not finite");
    gguf_make_release(&m);
}

static bool cancel(void *ctx, uint64_t done, uint64_t total) {
    uint32_t *left = ctx;
    (void)done, (void)total;
    return (*left)-- > 0;
}

static void a_cancelled_import_of_several_threads_leaves_nothing(void **state) {
    (void)state;
    gguf_make m;
    large_model(&m);
    char *in = put(&m), *out = lm_path_join(test_dir(), "out"), digest[LM_DIGEST_SIZE];
    const char *const files[] = {in};
    for (uint32_t after = 0; after < 2; after++) {
        lm_err err = {0};
        uint32_t left = after;
        expect_fail(lm_import_parts(files, 1, out, digest, cancel, &left, &err), LM_CANCELLED, err,
                    "cancelled");
        leaves_nothing(out);
    }
    free(in);
    free(out);
    gguf_make_release(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(several_threads_write_what_one_would, make_blocks, free_blocks),
        cmocka_unit_test_setup_teardown(a_damaged_block_in_the_middle_ends_all_threads, make_blocks,
                                        free_blocks),
        cmocka_unit_test_setup_teardown(a_cancelled_import_of_several_threads_leaves_nothing, make_blocks,
                                        free_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
