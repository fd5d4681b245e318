/* attention.cpp - q, k and v of a step: normed, turned, appended to their sequences' arrays, attended.
 *
 * Sequences that decode (one row each, in front of the step) are normed and turned together, each with its
 * own position; the products with keys and values, which differ in length, run one sequence at a time.
 */
#include <algorithm>
#include <array>
#include <cmath>

#include "module.hpp"

namespace {

/* Up to so many rows of a sequence multiply with the codes of quantised keys and values. More rows would need
 * all their scores in memory at once; for them a layer's keys and values become numbers for the time of one
 * layer, and the fused kernel runs. */
constexpr int FEW_ROWS = 8;

/* Rows [first, first + n) of (rows, n_heads * dim) -> (batch, n_heads, n / batch, dim). */
mx::array by_head(const mx::array &x, uint32_t first, uint32_t n, uint32_t batch, uint32_t n_heads,
                  uint32_t dim, mx::Device where) {
    auto size = [](uint32_t v) { return static_cast<int>(v); };
    mx::array part = first == 0 && x.shape(0) == size(n)
                         ? x
                         : mx::slice(x, {size(first), 0}, {size(first + n), x.shape(1)}, where);
    return mx::transpose(mx::reshape(part, {size(batch), size(n / batch), size(n_heads), size(dim)}, where),
                         {0, 2, 1, 3}, where);
}

const lm_turn &turn_of(lm_device *dev, const lm_attention *a) {
    auto found = dev->turns.find(a->rope);
    if (found != dev->turns.end()) return found->second;
    const lm_rope *r = a->rope;
    int half = static_cast<int>(r->n_dims / 2), dim = static_cast<int>(a->head_dim);
    std::vector<float> wavelength(r->n_dims / 2), scale(a->head_dim, 1);
    for (int i = 0; i < half; i++) wavelength[i] = 1 / r->inv_freq[i];
    for (int i = 0; i < 2 * half; i++) scale[i] = r->mscale;
    lm_turn turn{mx::array(wavelength.data(), {half}, mx::float32), {}};
    if (r->mscale != 1) turn.scale = mx::array(scale.data(), {dim}, mx::float32);
    return dev->turns.emplace(r, turn).first->second;
}

/* Norm and turn of (batch, heads, tokens, dim) from `position` on: a number, or one for each of the batch. */
mx::array turned(const lm_step *s, const lm_attention *a, mx::array x, const lm_vector *norm,
                 const mx::array &position) {
    mx::Device where = s->dev->where;
    if (norm) x = mx::fast::rms_norm(x, lm_mlx_numbers(norm, x.dtype()), a->norm_eps, where);
    if (!a->rope || !a->rope->n_dims) return x;
    const lm_turn &turn = turn_of(s->dev, a);
    if (turn.scale) x = mx::multiply(x, mx::astype(*turn.scale, x.dtype(), where), where);
    return mx::fast::rope(x, static_cast<int>(a->rope->n_dims), a->rope->interleaved, std::nullopt, 1.0f,
                          position, turn.wavelengths, where);
}

/* Which of the keys [first, from + n) the tokens [from, from + n) see; nothing where there is but one token,
 * whose keys were cut to its window. The same for all layers of a kind. */
std::optional<mx::array> mask_of(lm_step *s, int window, int from, int n, int first) {
    mx::Device where = s->dev->where;
    if (n == 1) return std::nullopt;
    for (const lm_mask &m : s->masks)
        if (m.from == from && m.n == n && m.first == first && m.window == window) return m.sees;
    mx::array rows = mx::expand_dims(mx::arange(from, from + n, mx::int32, where), 1, where);
    mx::array keys = mx::expand_dims(mx::arange(first, from + n, mx::int32, where), 0, where);
    mx::array sees = mx::less_equal(keys, rows, where);
    if (window) {
        mx::array oldest = mx::subtract(rows, mx::array(window), where);
        sees = mx::logical_and(sees, mx::greater(keys, oldest, where), where);
    }
    s->masks.push_back({from, n, first, window, sees});
    return sees;
}

/* Scores (.., n_q, n) to weights, in the way that MLX's fused kernel lacks: capped first, and with sinks (kv
 * heads * group) that take part in the sum only. */
mx::array weights_of(const lm_step *s, const lm_attention *a, mx::array scores,
                     const std::optional<mx::array> &mask) {
    mx::Device where = s->dev->where;
    if (a->softcap != 0) {
        mx::array cap(a->softcap, scores.dtype());
        scores = mx::multiply(mx::tanh(mx::divide(scores, cap, where), where), cap, where);
    }
    if (mask) scores = mx::where(*mask, scores, mx::array(-INFINITY, scores.dtype()), where);
    if (!a->sinks) return mx::softmax(scores, -1, true, where);
    mx::Shape one = scores.shape();
    int n = one[4];
    one[4] = 1;
    mx::array sinks = mx::reshape(lm_mlx_numbers(a->sinks, scores.dtype()), {1, one[1], one[2], 1, 1}, where);
    scores = mx::concatenate({scores, mx::broadcast_to(sinks, one, where)}, -1, where);
    return mx::slice(mx::softmax(scores, -1, true, where), {0, 0, 0, 0, 0}, {1, one[1], one[2], one[3], n},
                     where);
}

/* Products with codes: q (1, heads, n_q, dim), keys and values of n tokens as they are stored. Query heads
 * that share a key/value head are rows of one product. */
mx::array with_codes(const lm_step *s, const lm_attention *a, const mx::array &q, const lm_stored &keys,
                     const lm_stored &values, const std::optional<mx::array> &mask) {
    const lm_device *dev = s->dev;
    mx::Device where = dev->where;
    int kv = static_cast<int>(a->n_kv_heads), group = static_cast<int>(a->n_heads / a->n_kv_heads);
    int n_q = q.shape(2), dim = q.shape(3), n = keys.codes.shape(2);
    auto product = [&](const mx::array &x, const lm_stored &w, bool transposed) {
        auto in = [&](const mx::array &part) { return mx::astype(part, x.dtype(), where); };
        return mx::quantized_matmul(x, w.codes, in(*w.scales), in(*w.biases), transposed, dev->kv_group,
                                    dev->kv_bits, "affine", where);
    };
    mx::array rows =
        mx::reshape(mx::multiply(q, mx::array(a->scale, q.dtype()), where), {1, kv, group * n_q, dim}, where);
    mx::array scores = mx::reshape(product(rows, keys, true), {1, kv, group, n_q, n}, where);
    mx::array weights = mx::reshape(weights_of(s, a, scores, mask), {1, kv, group * n_q, n}, where);
    return mx::reshape(product(weights, values, false), {1, kv * group, n_q, dim}, where);
}

/* With a soft cap, which MLX's fused kernel lacks: q (1, heads, n_q, dim), keys and values (1, kv heads, n,
 * dim). */
mx::array capped(const lm_step *s, const lm_attention *a, const mx::array &q, const mx::array &keys,
                 const mx::array &values, const std::optional<mx::array> &mask) {
    mx::Device where = s->dev->where;
    int kv = static_cast<int>(a->n_kv_heads), group = static_cast<int>(a->n_heads / a->n_kv_heads);
    int n_q = q.shape(2), dim = q.shape(3);
    mx::array grouped =
        mx::reshape(mx::multiply(q, mx::array(a->scale, q.dtype()), where), {1, kv, group, n_q, dim}, where);
    mx::array k = mx::expand_dims(mx::swapaxes(keys, -1, -2, where), 2, where),
              v = mx::expand_dims(values, 2, where);
    mx::array out = mx::matmul(weights_of(s, a, mx::matmul(grouped, k, where), mask), v, where);
    return mx::reshape(out, {1, kv * group, n_q, dim}, where);
}

/* With plain numbers, q (1, heads, n_q, dim), keys and values (1, kv heads, n, dim). causal: the mask is that
 * and nothing else, which the kernel does faster by itself. */
mx::array with_numbers(const lm_step *s, const lm_attention *a, const mx::array &q, const mx::array &keys,
                       const mx::array &values, const std::optional<mx::array> &mask, bool causal) {
    mx::Device where = s->dev->where;
    if (a->softcap != 0) return capped(s, a, q, keys, values, mask);
    std::optional<mx::array> sinks;
    if (a->sinks) sinks = lm_mlx_numbers(a->sinks, q.dtype());
    return mx::fast::scaled_dot_product_attention(q, keys, values, a->scale,
                                                  causal ? "causal"
                                                  : mask ? "array"
                                                         : "",
                                                  causal ? std::nullopt : mask, sinks, false, where);
}

/* Appends k and v (1, kv heads, n, dim) to the sequence and attends with q; (n, heads * dim). */
mx::array attend(lm_step *s, const lm_attention *a, lm_seq *seq, const mx::array &q, const mx::array &k,
                 const mx::array &v) {
    const lm_device *dev = s->dev;
    int n = q.shape(2), from = static_cast<int>(seq->len), to = from + n;
    int window = a->window && static_cast<uint32_t>(to) > a->window ? static_cast<int>(a->window) : 0;
    /* What the first token's window begins with is the oldest that anybody sees. */
    int first = window ? std::max(0, from + 1 - window) : 0;
    auto seen = [&](lm_stored &all, const mx::array &more) {
        lm_mlx_kv_append(dev, all, more, from);
        return lm_mlx_kv_part(dev, all, first, to);
    };
    lm_stored keys = seen(seq->keys[a->layer], k), values = seen(seq->values[a->layer], v);
    std::optional<mx::array> mask;
    if (!a->both_ways) mask = mask_of(s, window, from, n, first);
    mx::array out = dev->kv_bits && n <= FEW_ROWS
                        ? with_codes(s, a, q, keys, values, mask)
                        : with_numbers(s, a, q, lm_mlx_kv_plain(dev, keys, q.dtype()),
                                       lm_mlx_kv_plain(dev, values, q.dtype()), mask, mask && !window);
    return mx::reshape(mx::transpose(out, {0, 2, 1, 3}, dev->where),
                       {n, static_cast<int>(a->n_heads * a->head_dim)}, dev->where);
}

/* Entry i of a batch. */
mx::array entry(const mx::array &all, uint32_t i, mx::Device where) {
    auto at = static_cast<int>(i);
    if (all.shape(0) == 1) return all;
    return mx::slice(all, {at, 0, 0, 0}, {at + 1, all.shape(1), all.shape(2), all.shape(3)}, where);
}

} // namespace

lm_tensor *lm_mlx_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k,
                            const lm_tensor *v) {
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        std::vector<mx::array> out;
        /* Rows [first, first + n) as a batch of sequences at those positions. */
        auto rows = [&](uint32_t first, uint32_t n, uint32_t batch, const mx::array &at) {
            return std::array<mx::array, 3>{
                turned(s, a, by_head(q->a, first, n, batch, a->n_heads, a->head_dim, where), a->q_norm, at),
                turned(s, a, by_head(k->a, first, n, batch, a->n_kv_heads, a->head_dim, where), a->k_norm,
                       at),
                by_head(v->a, first, n, batch, a->n_kv_heads, a->head_dim, where)};
        };
        if (uint32_t n = s->n_single) {
            auto [tq, tk, tv] = rows(0, n, n, mx::slice(*s->positions, {0}, {static_cast<int>(n)}, where));
            for (uint32_t i = 0; i < n; i++)
                out.push_back(attend(s, a, s->slices[i].seq, entry(tq, i, where), entry(tk, i, where),
                                     entry(tv, i, where)));
        }
        for (uint32_t i = s->n_single; i < s->slices.size(); i++) {
            const lm_slice &slice = s->slices[i];
            auto [tq, tk, tv] =
                rows(s->first_row[i], slice.n_tokens, 1, mx::array(static_cast<int>(slice.seq->len)));
            out.push_back(attend(s, a, slice.seq, tq, tk, tv));
        }
        return out.size() == 1 ? out[0] : mx::concatenate(out, 0, where);
    });
}
