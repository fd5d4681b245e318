/* kv.cpp - keys and values: arrays of their own for each sequence and layer, grown ROOM tokens at a time. A
 * fork shares the arrays; MLX copies an array that two hold when one of them writes.
 *
 * Quantised ones are MLX's affine form along a head, made when tokens are appended and never changed after,
 * so that a token's codes don't depend on what came with it.
 */
#include "module.hpp"

namespace {

constexpr uint32_t ROOM = 256;

int size(uint64_t n) {
    return static_cast<int>(n);
}

int bits_of(lm_kv_type type) {
    return type == LM_KV_Q8_0 ? 8 : type == LM_KV_Q4_0 ? 4 : 0;
}

/* Elements that share a scale; 0: no group of MLX's divides a head. */
int group_of(uint32_t head_dim) {
    return head_dim % 64 == 0 ? 64 : head_dim % 32 == 0 ? 32 : 0;
}

/* Of plain numbers, and of scales. */
uint64_t number_bytes(bool on_gpu) {
    return on_gpu ? 2 : 4;
}

uint64_t token_bytes(lm_kv_shape kv, int bits, bool on_gpu) {
    uint64_t head = kv.head_dim * number_bytes(on_gpu);
    if (bits) {
        uint64_t group = static_cast<uint64_t>(group_of(kv.head_dim));
        if (!group) return 0;
        head = kv.head_dim / group * (group * static_cast<uint64_t>(bits) / 8 + 2 * number_bytes(on_gpu));
    }
    return 2ull * kv.n_layers * kv.n_kv_heads * head;
}

uint64_t token_bytes(const lm_device *dev) {
    return token_bytes(dev->kv, dev->kv_bits, dev->where == mx::Device::gpu);
}

/* 16 bits on a GPU, whatever the activations are. */
mx::Dtype kv_dtype(const lm_device *dev) {
    if (dev->where == mx::Device::cpu) return mx::float32;
    return dev->dtype == mx::bfloat16 ? mx::bfloat16 : mx::float16;
}

/* Nothing yet, for `room` tokens of one layer. */
lm_stored blank(const lm_device *dev, uint64_t room) {
    int heads = size(dev->kv.n_kv_heads), dim = size(dev->kv.head_dim), n = size(room);
    mx::Dtype type = kv_dtype(dev);
    if (!dev->kv_bits) return {mx::zeros({1, heads, n, dim}, type, dev->where), {}, {}};
    mx::array numbers = mx::zeros({1, heads, n, dim / dev->kv_group}, type, dev->where);
    return {mx::zeros({1, heads, n, dim * dev->kv_bits / 32}, mx::uint32, dev->where), numbers, numbers};
}

mx::array joined(const lm_device *dev, const mx::array &a, const mx::array &b) {
    return mx::concatenate({a, b}, 2, dev->where);
}

lm_stored longer(const lm_device *dev, const lm_stored &old, const lm_stored &more) {
    lm_stored out{joined(dev, old.codes, more.codes), {}, {}};
    if (old.scales) {
        out.scales = joined(dev, *old.scales, *more.scales);
        out.biases = joined(dev, *old.biases, *more.biases);
    }
    return out;
}

/* What stood in `all` is the graph's alone afterwards, so that MLX writes in place. */
void write(const lm_device *dev, mx::array &all, const mx::array &x, int from) {
    all = mx::slice_update(all, mx::astype(x, all.dtype(), dev->where), mx::Shape{0, 0, from, 0},
                           mx::Shape{1, all.shape(1), from + x.shape(2), all.shape(3)}, dev->where);
}

mx::array tokens_of(const lm_device *dev, const mx::array &all, int from, int to) {
    return mx::slice(all, {0, 0, from, 0}, {1, all.shape(1), to, all.shape(3)}, dev->where);
}

} // namespace

uint64_t lm_mlx_kv_token_bytes(const lm_device_config *config, bool on_gpu) {
    return token_bytes(config->kv, bits_of(config->kv_type), on_gpu);
}

lm_status lm_mlx_kv_choose(lm_device *dev, const lm_device_config *config, lm_err *err) {
    dev->kv = config->kv;
    dev->kv_bytes = config->kv_bytes;
    dev->kv_type = config->kv_type;
    dev->kv_bits = bits_of(config->kv_type);
    dev->kv_group = dev->kv_bits ? group_of(config->kv.head_dim) : 0;
    if (dev->kv_bits && !dev->kv_group)
        return lm_fail(err, LM_UNSUPPORTED,
                       "keys and values of %u elements a head cannot be stored as %s, which takes groups of "
                       "32 or 64; use --kv-cache-type f16",
                       config->kv.head_dim, lm_kv_type_name(config->kv_type));
    return LM_OK;
}

void lm_mlx_seq_arrays(const lm_seq *seq, std::vector<mx::array> &out) {
    for (const auto *list : {&seq->keys, &seq->values})
        for (const lm_stored &one : *list) {
            out.push_back(one.codes);
            if (one.scales) out.push_back(*one.scales);
            if (one.biases) out.push_back(*one.biases);
        }
}

void lm_mlx_kv_append(const lm_device *dev, lm_stored &all, const mx::array &x, int from) {
    if (!dev->kv_bits) {
        write(dev, all.codes, x, from);
        return;
    }
    std::vector<mx::array> parts = mx::quantize(mx::astype(x, kv_dtype(dev), dev->where), dev->kv_group,
                                                dev->kv_bits, "affine", std::nullopt, dev->where);
    write(dev, all.codes, parts[0], from);
    write(dev, *all.scales, parts[1], from);
    write(dev, *all.biases, parts[2], from);
}

lm_stored lm_mlx_kv_part(const lm_device *dev, const lm_stored &all, int from, int to) {
    lm_stored out{tokens_of(dev, all.codes, from, to), {}, {}};
    if (all.scales) {
        out.scales = tokens_of(dev, *all.scales, from, to);
        out.biases = tokens_of(dev, *all.biases, from, to);
    }
    return out;
}

mx::array lm_mlx_kv_plain(const lm_device *dev, const lm_stored &part, mx::Dtype dtype) {
    mx::array x = part.codes;
    if (part.scales)
        x = mx::dequantize(x, *part.scales, part.biases, dev->kv_group, dev->kv_bits, "affine", std::nullopt,
                           std::nullopt, dev->where);
    return mx::astype(x, dtype, dev->where);
}

/* ---- sequences -------------------------------------------------------------------------------------------
 */

lm_status lm_mlx_seq_open(lm_device *dev, lm_seq **out, lm_err *err) {
    return lm_mlx_guard(err, [&] {
        *out = new lm_seq{};
        (*out)->dev = dev;
    });
}

void lm_mlx_seq_close(lm_seq *seq) {
    if (!seq) return;
    seq->dev->kv_used -= seq->room * token_bytes(seq->dev);
    delete seq;
}

uint32_t lm_mlx_seq_len(const lm_seq *seq) {
    return seq->len;
}

void lm_mlx_seq_trim(lm_seq *seq, uint32_t n_tokens) {
    if (n_tokens < seq->len) seq->len = n_tokens;
}

lm_status lm_mlx_seq_fork(lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) {
    lm_device *dev = src->dev;
    uint64_t bytes = src->room * token_bytes(dev);
    *out = nullptr;
    if (const std::string *why = src->fate ? src->fate->why_lost() : nullptr)
        return lm_fail(err, LM_INTERNAL, "the sequence lost its keys and values: %s", why->c_str());
    if (n_tokens > src->len) return lm_fail(err, LM_INVALID, "a fork of %u tokens of %u", n_tokens, src->len);
    if (dev->kv_used + bytes > dev->kv_bytes)
        return lm_fail(err, LM_BUSY, "no room for the keys and values of another sequence");
    return lm_mlx_guard(err, [&] {
        *out = new lm_seq(*src);
        (*out)->len = n_tokens;
        (*out)->in_step = false;
        dev->kv_used += bytes;
    });
}

lm_status lm_mlx_seq_reserve(lm_seq *seq, uint32_t n_tokens, lm_err *err) {
    lm_device *dev = seq->dev;
    uint64_t want = (static_cast<uint64_t>(seq->len) + n_tokens + ROOM - 1) / ROOM * ROOM;
    if (want <= seq->room) return LM_OK;
    uint64_t more = (want - seq->room) * token_bytes(dev);
    if (want > INT32_MAX || dev->kv_used + more > dev->kv_bytes)
        return lm_fail(err, LM_BUSY, "no room for the keys and values of %u more tokens", n_tokens);
    return lm_mlx_guard(err, [&] {
        lm_stored fresh = blank(dev, want - seq->room);
        std::vector<lm_stored> keys, values;
        for (uint32_t l = 0; l < dev->kv.n_layers; l++) {
            keys.push_back(seq->room ? longer(dev, seq->keys[l], fresh) : fresh);
            values.push_back(seq->room ? longer(dev, seq->values[l], fresh) : fresh);
        }
        seq->keys = std::move(keys);
        seq->values = std::move(values);
        seq->room = static_cast<uint32_t>(want);
        dev->kv_used += more;
    });
}
