/* kv.cpp - keys and values: arrays of their own for each sequence and layer, grown ROOM tokens at a time. A
 * fork shares the arrays; MLX copies an array that two hold when one of them writes. */
#include "module.hpp"

namespace {

constexpr uint32_t ROOM = 256;

uint64_t token_bytes(const lm_device *dev) {
    return 2ull * dev->kv.n_layers * dev->kv.n_kv_heads * dev->kv.head_dim * lm_mlx_kv_dtype(dev).size();
}

} // namespace

mx::Dtype lm_mlx_kv_dtype(const lm_device *dev) {
    return dev->where == mx::Device::cpu ? mx::float32 : dev->dtype.value_or(mx::float16);
}

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
    if (src->lost) return lm_fail(err, LM_INTERNAL, "the sequence lost its keys and values in a failed step");
    if (n_tokens > src->len)
        return lm_fail(err, LM_INVALID, "a fork of %u tokens of %u", n_tokens, src->len);
    if (dev->kv_used + bytes > dev->kv_bytes) return lm_fail(err, LM_BUSY, "no room for the keys and values of another sequence");
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
        int heads = static_cast<int>(dev->kv.n_kv_heads), dim = static_cast<int>(dev->kv.head_dim);
        mx::array fresh =
            mx::zeros({1, heads, static_cast<int>(want - seq->room), dim}, lm_mlx_kv_dtype(dev), dev->where);
        std::vector<mx::array> keys, values;
        for (uint32_t l = 0; l < dev->kv.n_layers; l++) {
            keys.push_back(seq->room ? mx::concatenate({seq->keys[l], fresh}, 2, dev->where) : fresh);
            values.push_back(seq->room ? mx::concatenate({seq->values[l], fresh}, 2, dev->where) : fresh);
        }
        seq->keys = std::move(keys);
        seq->values = std::move(values);
        seq->room = static_cast<uint32_t>(want);
        dev->kv_used += more;
    });
}
