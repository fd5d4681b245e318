/* Who holds what: every head, column and layer belongs to somebody, and nobody's part is empty. */
#include "base/test.h"
#include "model/frames.h"
#include "model/split.h"

static const lm_family plain = {.type = "plain"}, wide = {.type = "wide", .flags = LM_FAM_WIDE_NORM};

static lm_config heads(uint32_t n_heads, uint32_t n_kv_heads) {
    lm_config c = {
        .family = &plain, .n_heads = n_heads, .n_kv_heads = n_kv_heads, .n_layers = 10, .head_dim = 64};
    strcpy(c.type, "plain");
    return c;
}

static lm_share share(const lm_config *c, uint32_t rank, uint32_t size, lm_split split) {
    lm_world w = {.rank = rank, .size = size};
    lm_share s;
    lm_err err = {0};
    expect_ok(lm_share_plan(c, &w, split, &s, &err), err);
    return s;
}

/* Heads in order without a gap, and each with the key/value head of its group. */
static void expect_all_heads(uint32_t n_heads, uint32_t n_kv_heads, uint32_t size) {
    lm_config c = heads(n_heads, n_kv_heads);
    uint32_t next = 0, group = n_heads / n_kv_heads;
    for (uint32_t r = 0; r < size; r++) {
        lm_share s = share(&c, r, size, LM_SPLIT_TENSOR);
        assert_int_equal(s.first_head, next);
        assert_true(s.n_heads > 0 && s.n_kv_heads > 0);
        assert_int_equal(s.n_heads % s.n_kv_heads, 0); /* all of its groups are alike */
        for (uint32_t h = 0; h < s.n_heads; h++)
            assert_int_equal((s.first_head + h) / group, s.first_kv_head + h / (s.n_heads / s.n_kv_heads));
        assert_int_equal(s.n_layers, c.n_layers);
        next += s.n_heads;
    }
    assert_int_equal(next, n_heads);
}

static void every_head_belongs_to_one_rank(void **state) {
    (void)state;
    expect_all_heads(32, 8, 2);
    expect_all_heads(32, 8, 4);
    expect_all_heads(32, 8, 8);
    expect_all_heads(32, 8, 16); /* two ranks with the same keys and values */
    expect_all_heads(32, 8, 32);
    expect_all_heads(14, 2, 2);
    expect_all_heads(16, 16, 3); /* unequal parts */
    expect_all_heads(64, 8, 5);
    expect_all_heads(8, 1, 4);
    expect_all_heads(64, 8, 64);
}

static void heads_that_cannot_be_dealt_out_are_named(void **state) {
    (void)state;
    lm_share s;
    lm_err err = {0};
    lm_world w = {.rank = 0, .size = 4};
    lm_config c = heads(14, 2); /* seven heads a group */
    expect_fail(lm_share_plan(&c, &w, LM_SPLIT_TENSOR, &s, &err), LM_UNSUPPORTED, err,
                "14 heads over 2 of keys");
    c = heads(24, 3);
    expect_fail(lm_share_plan(&c, &w, LM_SPLIT_TENSOR, &s, &err), LM_UNSUPPORTED, err,
                "cannot be dealt out to 4 ranks");
    c = heads(32, 8);
    c.family = &wide;
    expect_fail(lm_share_plan(&c, &w, LM_SPLIT_TENSOR, &s, &err), LM_UNSUPPORTED, err,
                "norms all heads together");
}

static void a_pipeline_ends_at_rank_0(void **state) {
    (void)state;
    lm_config c = heads(8, 8);
    for (uint32_t size = 2; size <= 10; size++) {
        uint32_t next = 0;
        for (uint32_t r = size; r-- > 0;) {
            lm_share s = share(&c, r, size, LM_SPLIT_PIPELINE);
            assert_int_equal(s.first_layer, next);
            assert_true(s.n_layers > 0);
            assert_true(lm_share_has_layer(&s, next));
            assert_false(lm_share_has_layer(&s, next + s.n_layers));
            assert_false(next && lm_share_has_layer(&s, next - 1));
            assert_int_equal(s.n_heads, 8);
            next += s.n_layers;
        }
        assert_int_equal(next, c.n_layers);
    }
    lm_share s;
    lm_err err = {0};
    lm_world w = {.rank = 0, .size = 11};
    expect_fail(lm_share_plan(&c, &w, LM_SPLIT_PIPELINE, &s, &err), LM_UNSUPPORTED, err,
                "10 layers cannot be dealt out to 11");
}

static void columns_are_cut_between_groups_only(void **state) {
    (void)state;
    lm_config c = heads(32, 32);
    static const struct {
        uint32_t all, unit, size;
    } cases[] = {{11008, 64, 2}, {11008, 128, 4}, {4864, 64, 3}, {2880, 32, 7}, {100, 1, 32}, {64, 64, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t next = 0, first = 0, n = 0;
        for (uint32_t r = 0; r < cases[i].size; r++) {
            lm_share s = {.rank = r, .size = cases[i].size, .split = LM_SPLIT_TENSOR};
            lm_err err = {0};
            expect_ok(lm_share_of(&s, cases[i].all, cases[i].unit, "it", &first, &n, &err), err);
            assert_int_equal(first, next);
            assert_int_equal(n % cases[i].unit, 0);
            assert_true(n > 0);
            next += n;
        }
        assert_int_equal(next, cases[i].all);
    }
    lm_share s = share(&c, 0, 4, LM_SPLIT_TENSOR);
    lm_err err = {0};
    uint32_t first = 0, n = 0;
    expect_fail(lm_share_of(&s, 192, 64, "the MLP", &first, &n, &err), LM_UNSUPPORTED, err,
                "the MLP: 192 columns in groups of 64");
    expect_fail(lm_share_of(&s, 1000, 64, "the MLP", &first, &n, &err), LM_UNSUPPORTED, err, "groups of 64");
}

static void alone_is_everything(void **state) {
    (void)state;
    lm_config c = heads(32, 8);
    lm_share s;
    lm_err err = {0};
    expect_ok(lm_share_plan(&c, NULL, LM_SPLIT_TENSOR, &s, &err), err);
    assert_int_equal(s.size, 1);
    assert_int_equal(s.n_heads, 32);
    assert_int_equal(s.n_kv_heads, 8);
    assert_int_equal(s.n_layers, 10);
    assert_false(lm_share_tensor(&s));
}

/* ---- what a follower is told may be anything */

static void messages_without_sense_are_refused(void **state) {
    (void)state;
    static const lm_backend none = {.name = "none"};
    lm_world w = {.rank = 1, .size = 2};
    lm_follower *f = lm_follower_new(&none, &w, UINT64_MAX);
    bool answers = false;
    lm_err err = {0};
    uint8_t frame[64] = {0};
    expect_fail(lm_follower_do(f, frame, 0, &answers, &err), LM_CORRUPT, err, "makes no sense");
    for (int kind = 0; kind < 256; kind++)
        for (size_t n = 1; n <= sizeof frame; n += 9) {
            memset(frame, n & 1 ? 0xff : 0, sizeof frame);
            frame[0] = (uint8_t)kind;
            lm_status want = kind == LM_FRAME_CLOSE ? LM_OK : LM_CORRUPT; /* closing nothing is nothing */
            assert_int_equal(lm_follower_do(f, frame, n, &answers, &err), want);
            assert_int_equal(answers, kind == LM_FRAME_OPEN);
        }
    lm_follower_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_belongs_to_one_rank),
        cmocka_unit_test(heads_that_cannot_be_dealt_out_are_named),
        cmocka_unit_test(a_pipeline_ends_at_rank_0),
        cmocka_unit_test(columns_are_cut_between_groups_only),
        cmocka_unit_test(alone_is_everything),
        cmocka_unit_test(messages_without_sense_are_refused),
    };
    return cmocka_run_group_tests_name("model.split", tests, NULL, NULL);
}
