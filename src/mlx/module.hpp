/* module.hpp (private to mlx/) - what lies behind tensor.h's handles, and how exceptions become errors. */
#ifndef LM_MLX_MODULE_HPP
#define LM_MLX_MODULE_HPP

#include <mlx/mlx.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

extern "C" {
#include "tensor/tensor.h"
}

namespace mx = mlx::core;

/* A rotation as MLX wants it. */
struct lm_turn {
    mx::array wavelengths;          /* (n_dims / 2) f32 */
    std::optional<mx::array> scale; /* (head_dim) f32, unless it is 1 everywhere */
};

/* Which keys [first, from + n) the tokens [from, from + n) of a sequence see in layers with that window. */
struct lm_mask {
    int from, n, first, window; /* window 0: none */
    mx::array sees;
};

struct lm_device {
    mx::Device where = mx::Device::cpu;
    std::string description;
    lm_kv_shape kv = {};
    lm_kv_type kv_type = LM_KV_F16;
    int kv_bits = 0, kv_group = 0; /* of codes; 0: plain numbers */
    uint64_t kv_bytes = 0;         /* that sequences may take */
    uint64_t kv_used = 0;
    uint64_t weight_bytes = 0;
    uint32_t max_batch = 0;         /* rows of a step */
    std::optional<mx::Dtype> dtype; /* of activations: that of the first scales, f32 on the CPU device */
    bool in_step = false;
    std::map<const lm_rope *, lm_turn> turns;
    uint64_t n_waits = 0; /* how often the host has waited for the device */
};

/* Whether what a step wrote can be trusted: its sequences and its flight share it. */
struct lm_fate {
    std::string lost;                 /* MLX's text, should it have broken off half-way */
    std::shared_ptr<lm_fate> earlier; /* of a step that was on its way when this one was handed over */
    const std::string *why_lost() const {
        return !lost.empty() ? &lost : earlier ? earlier->why_lost() : nullptr;
    }
};

struct lm_linear {
    lm_device *dev;
    mx::array codes; /* (rows, ...), with n_experts > 1 (n_experts, rows, ...) */
    std::optional<mx::array> scales, biases, bias;
    lm_quant_spec quant;
    const char *mode; /* MLX's name of the form */
    uint32_t n_experts, rows, cols;
    uint64_t bytes;
};

struct lm_vector {
    lm_device *dev;
    mx::array numbers;             /* f32 */
    std::optional<mx::array> cast; /* in the type that asked last */
    uint64_t bytes;
};

/* Keys or values of one layer: plain numbers (1, n_kv_heads, room, head_dim), or codes (.., head_dim * bits /
 * 32) with scales and biases (.., head_dim / group). */
struct lm_stored {
    mx::array codes;
    std::optional<mx::array> scales, biases;
};

/* Keys and values of a sequence, an entry for each layer. Of the `room` tokens `len` are meant. */
struct lm_seq {
    lm_device *dev;
    uint32_t len = 0, room = 0;
    bool in_step = false;
    std::shared_ptr<lm_fate> fate; /* of the step that wrote them last */
    std::vector<lm_stored> keys, values;
};

struct lm_tensor {
    mx::array a; /* (n_rows, width) */
};

struct lm_step {
    lm_device *dev;
    std::vector<lm_slice> slices;
    std::vector<uint32_t> first_row;
    uint32_t n_rows = 0;
    uint32_t n_single = 0; /* slices of one row, before all others */
    bool computed = false;
    const lm_flight *before = nullptr;
    std::shared_ptr<lm_fate> fate;
    std::optional<mx::array> positions; /* of the slices' first rows, (n_slices) */
    std::vector<lm_mask> masks;         /* made so far */
    std::deque<lm_tensor> tensors;
    std::vector<mx::array> read; /* what read() gave pointers into */
    std::vector<mx::array> sent; /* to other processes: computed with the rest */
    lm_status status = LM_OK;
    lm_err err = {};
};

/* What a launched step leaves on the device. */
struct lm_flight {
    lm_device *dev;
    std::shared_ptr<lm_fate> fate;
    uint32_t n_out, top_room = 0;
    std::optional<mx::array> logits; /* (n_out, vocabulary) f32, until tokens are chosen */
    /* (n_out, 1) each, the last two (n_out, top_room); a single marker where n_out is 0 */
    enum { IDS, BEST, LOGPROB, TOP_LOGPROBS, TOP_IDS };
    std::vector<mx::array> results;
    std::vector<uint32_t> n_top; /* of each row; empty: no log probabilities */
};

void lm_mlx_fail(lm_step *s, lm_status status, const char *text);
lm_tensor *lm_mlx_tensor(lm_step *s, mx::array a);
/* Computes `wanted` (may be NULL) and the keys and values that the step has added; false: it has failed. */
bool lm_mlx_compute(lm_step *s, const lm_tensor *wanted);

/* Runs f; an exception becomes LM_NO_MEMORY or LM_INTERNAL with MLX's text. */
template <typename F> lm_status lm_mlx_guard(lm_err *err, F f) {
    try {
        f();
        return LM_OK;
    } catch (const std::bad_alloc &) {
        return lm_fail(err, LM_NO_MEMORY, "MLX has no memory left");
    } catch (const std::exception &e) {
        bool memory = std::string(e.what()).find("alloc") != std::string::npos;
        return lm_fail(err, memory ? LM_NO_MEMORY : LM_INTERNAL, "MLX: %s", e.what());
    } catch (...) {
        return lm_fail(err, LM_INTERNAL, "MLX failed without a text");
    }
}

/* The same within a step: after a failure ops do nothing and give NULL. */
template <typename F> lm_tensor *lm_mlx_op(lm_step *s, F f) {
    if (s->status != LM_OK) return nullptr;
    lm_tensor *out = nullptr;
    lm_err err = {};
    lm_status st = lm_mlx_guard(&err, [&] { out = lm_mlx_tensor(s, f()); });
    if (st != LM_OK) lm_mlx_fail(s, st, err.text);
    return st == LM_OK ? out : nullptr;
}

/* y = x Wᵀ + b for x (..., cols). */
mx::array lm_mlx_product(const mx::array &x, const lm_linear *w);
/* The same for the experts `which` (n, k) of a stack: x (n, 1 or k, 1, cols), y (n, k, 1, rows). */
mx::array lm_mlx_product_of(const mx::array &x, const lm_linear *w, const mx::array &which);
const mx::array &lm_mlx_numbers(const lm_vector *v, mx::Dtype dtype);

/* -- devices.cpp */
std::string lm_mlx_describe(mx::Device where);
void lm_mlx_info(mx::Device where, lm_backend_info *out);
void lm_mlx_limit(mx::Device where); /* sets MLX's limits for what runs there */
void lm_mlx_memory(const lm_device *dev, lm_memory *out);
void lm_mlx_idle(lm_device *dev);

/* -- weights.cpp */
lm_status lm_mlx_linear(lm_device *dev, const lm_matrix *m, const lm_view *bias, lm_linear **out,
                        lm_err *err);
lm_status lm_mlx_vector(lm_device *dev, const lm_view *v, float offset, lm_vector **out, lm_err *err);
void lm_mlx_linear_free(lm_linear *w);
void lm_mlx_vector_free(lm_vector *v);

/* -- kv.cpp */
lm_status lm_mlx_seq_open(lm_device *dev, lm_seq **out, lm_err *err);
void lm_mlx_seq_close(lm_seq *seq);
uint32_t lm_mlx_seq_len(const lm_seq *seq);
void lm_mlx_seq_trim(lm_seq *seq, uint32_t n_tokens);
lm_status lm_mlx_seq_fork(lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err);
lm_status lm_mlx_seq_reserve(lm_seq *seq, uint32_t n_tokens, lm_err *err);
uint64_t lm_mlx_kv_token_bytes(const lm_device_config *config, bool on_gpu);
/* Sets the device's form of keys and values. LM_UNSUPPORTED: heads that the type cannot hold. */
lm_status lm_mlx_kv_choose(lm_device *dev, const lm_device_config *config, lm_err *err);
/* The arrays behind a sequence, appended to out: what a step has to compute. */
void lm_mlx_seq_arrays(const lm_seq *seq, std::vector<mx::array> &out);
/* Writes x (1, n_kv_heads, n, head_dim) at token `from`. */
void lm_mlx_kv_append(const lm_device *dev, lm_stored &all, const mx::array &x, int from);
/* Tokens [from, to) as they are stored; plain numbers again. */
lm_stored lm_mlx_kv_part(const lm_device *dev, const lm_stored &all, int from, int to);
mx::array lm_mlx_kv_plain(const lm_device *dev, const lm_stored &part, mx::Dtype dtype);

/* -- ops.cpp */
lm_tensor *lm_mlx_embed(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale);
lm_tensor *lm_mlx_rms_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, float eps);
lm_tensor *lm_mlx_layer_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, const lm_vector *bias,
                             float eps);
void lm_mlx_linears(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out);
lm_tensor *lm_mlx_columns(lm_step *s, const lm_tensor *x, uint32_t first, uint32_t width);
lm_tensor *lm_mlx_rows(lm_step *s, const lm_tensor *x, const uint32_t *index, uint32_t n);
lm_tensor *lm_mlx_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m);
lm_tensor *lm_mlx_gated(lm_step *s, lm_tensor *gate, const lm_tensor *up, lm_glu act);
lm_tensor *lm_mlx_moe(lm_step *s, const lm_tensor *x, const lm_moe *m);
lm_tensor *lm_mlx_keep(lm_step *s, lm_tensor *x);
lm_tensor *lm_mlx_add(lm_step *s, lm_tensor *x, const lm_tensor *y, float scale);
lm_tensor *lm_mlx_scale(lm_step *s, lm_tensor *x, float scale, float cap);
const float *lm_mlx_read(lm_step *s, const lm_tensor *x);

/* -- module.cpp: the step ends; its sequences are longer when `ok`. */
void lm_mlx_leave(lm_step *s, bool ok);

/* -- pick.cpp */
/* Tokens as an array (n); those of `before` are on the device only. Throws where LM_FROM_BEFORE means
 * nothing. */
mx::array lm_mlx_tokens(const int32_t *tokens, uint32_t n, const lm_flight *before, mx::Device where);
void lm_mlx_choose(lm_flight *f, const lm_pick *how, const lm_flight *before); /* throws */

/* -- flight.cpp */
void lm_mlx_compute_all(lm_device *dev, std::vector<mx::array> &wanted); /* waits; throws */
std::vector<mx::array>
lm_mlx_written(const lm_step *s); /* keys and values that the step has added to, what it sends */
lm_status lm_mlx_launch(lm_step *s, const lm_tensor *logits, uint32_t n_out, const lm_pick *how,
                        lm_flight **out, lm_err *err);
lm_status lm_mlx_pick(lm_flight *f, const lm_pick *how, lm_err *err);
lm_status lm_mlx_wait(lm_flight *f, lm_picked *out, lm_err *err);
void lm_mlx_flight_free(lm_flight *f);
uint64_t lm_mlx_n_waits(const lm_device *dev);

/* -- world.cpp */
lm_status lm_mlx_join(const char *kind, uint32_t *rank, uint32_t *size, lm_err *err);
lm_tensor *lm_mlx_all_sum(lm_step *s, lm_tensor *x);
lm_tensor *lm_mlx_send(lm_step *s, lm_tensor *x, uint32_t to);
lm_tensor *lm_mlx_receive(lm_step *s, uint32_t n_rows, uint32_t width, uint32_t from);
/* The tokens that rank 0 has chosen, on every rank: the sum of what they have, where the others have zeros.
 * after: the last thing of the step, so that all ranks sum in the same order. */
mx::array lm_mlx_ids_of_all(const mx::array &ids, const mx::array &after);
bool lm_mlx_follows(); /* this process is one above rank 0: what it computes is a part of something */

/* -- attention.cpp */
lm_tensor *lm_mlx_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k,
                            const lm_tensor *v);

#endif
