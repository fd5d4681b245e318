/* attention.cpp - q, k and v of a step: normed, turned, appended to their sequences' arrays, attended.
 *
 * Sequences that all decode (one row each) are normed and turned together, each with its own position; the
 * products with keys and values, which differ in length, run one sequence at a time.
 */
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

/* Norm and turn of (batch, heads, tokens, dim) from `position` on: a number, or one for each of the batch. */
mx::array turned(const lm_step *s, const lm_attention *a, mx::array x, const lm_vector *norm,
                 const mx::array &position) {
    mx::Device where = s->dev->where;
    if (norm) x = mx::fast::rms_norm(x, lm_mlx_numbers(norm, x.dtype()), a->norm_eps, where);
    if (!a->rope || !a->rope->n_dims) return x;
    int dims = static_cast<int>(a->rope->n_dims), dim = static_cast<int>(a->head_dim);
    std::vector<float> wavelength(a->rope->n_dims / 2);
    for (size_t i = 0; i < wavelength.size(); i++) wavelength[i] = 1 / a->rope->inv_freq[i];
    mx::array freqs(wavelength.data(), {dims / 2}, mx::float32);
    if (a->rope->mscale != 1) {
        std::vector<float> factor(a->head_dim, 1);
        for (int i = 0; i < dims; i++) factor[i] = a->rope->mscale;
        x = mx::multiply(x, mx::astype(mx::array(factor.data(), {dim}, mx::float32), x.dtype(), where),
                         where);
    }
    return mx::fast::rope(x, dims, a->rope->interleaved, std::nullopt, 1.0f, position, freqs, where);
}

/* Which of the n keys the last n_q tokens see; nothing where the last token sees all and there is but one. */
std::optional<mx::array> mask_of(const lm_attention *a, int n_q, int n, mx::Device where) {
    if (n_q == 1) return std::nullopt; /* keys were cut to the window */
    mx::array rows = mx::expand_dims(mx::arange(n - n_q, n, mx::int32, where), 1, where);
    mx::array keys = mx::expand_dims(mx::arange(0, n, mx::int32, where), 0, where);
    mx::array sees = mx::less_equal(keys, rows, where);
    if (!a->window) return sees;
    mx::array oldest = mx::subtract(rows, mx::array(static_cast<int>(a->window)), where);
    return mx::logical_and(sees, mx::greater(keys, oldest, where), where);
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

/* With plain numbers, q (1, heads, n_q, dim), keys and values (1, kv heads, n, dim). */
mx::array with_numbers(const lm_step *s, const lm_attention *a, const mx::array &q, const mx::array &keys,
                       const mx::array &values) {
    mx::Device where = s->dev->where;
    int n_q = q.shape(2), n = keys.shape(2);
    if (a->softcap != 0) return capped(s, a, q, keys, values, mask_of(a, n_q, n, where));
    std::optional<mx::array> sinks;
    if (a->sinks) sinks = lm_mlx_numbers(a->sinks, q.dtype());
    if (n_q > 1 && !a->window)
        return mx::fast::scaled_dot_product_attention(q, keys, values, a->scale, "causal", {}, sinks, false,
                                                      where);
    std::optional<mx::array> mask = mask_of(a, n_q, n, where);
    return mx::fast::scaled_dot_product_attention(q, keys, values, a->scale, mask ? "array" : "", mask, sinks,
                                                  false, where);
}

/* Appends k and v (1, kv heads, n, dim) to the sequence and attends with q; (n, heads * dim). */
mx::array attend(lm_step *s, const lm_attention *a, lm_seq *seq, const mx::array &q, const mx::array &k,
                 const mx::array &v) {
    const lm_device *dev = s->dev;
    int n = q.shape(2), from = static_cast<int>(seq->len), to = from + n;
    int window = static_cast<int>(a->window), first = n == 1 && window && to > window ? to - window : 0;
    auto seen = [&](lm_stored &all, const mx::array &more) {
        lm_mlx_kv_append(dev, all, more, from);
        return lm_mlx_kv_part(dev, all, first, to);
    };
    lm_stored keys = seen(seq->keys[a->layer], k), values = seen(seq->values[a->layer], v);
    mx::array out = dev->kv_bits && n <= FEW_ROWS
                        ? with_codes(s, a, q, keys, values, mask_of(a, n, to, dev->where))
                        : with_numbers(s, a, q, lm_mlx_kv_plain(dev, keys, q.dtype()),
                                       lm_mlx_kv_plain(dev, values, q.dtype()));
    return mx::reshape(mx::transpose(out, {0, 2, 1, 3}, dev->where),
                       {n, static_cast<int>(a->n_heads * a->head_dim)}, dev->where);
}

} // namespace

lm_tensor *lm_mlx_attention(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k,
                            const lm_tensor *v) {
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        auto n_slices = static_cast<uint32_t>(s->slices.size());
        std::vector<mx::array> out;
        auto part = [&](const mx::array &all,
                        uint32_t i) { /* of a batch, entry i */
                                      mx::Shape from{static_cast<int>(i), 0, 0, 0},
                                          to{static_cast<int>(i) + 1, all.shape(1), all.shape(2),
                                             all.shape(3)};
                                      return n_slices == 1 ? all : mx::slice(all, from, to, where);
        };
        if (s->decoding) {
            mx::array tq = turned(s, a, by_head(q->a, 0, s->n_rows, n_slices, a->n_heads, a->head_dim, where),
                                  a->q_norm, *s->positions);
            mx::array tk =
                turned(s, a, by_head(k->a, 0, s->n_rows, n_slices, a->n_kv_heads, a->head_dim, where),
                       a->k_norm, *s->positions);
            mx::array tv = by_head(v->a, 0, s->n_rows, n_slices, a->n_kv_heads, a->head_dim, where);
            for (uint32_t i = 0; i < n_slices; i++)
                out.push_back(attend(s, a, s->slices[i].seq, part(tq, i), part(tk, i), part(tv, i)));
        } else {
            for (uint32_t i = 0; i < n_slices; i++) {
                uint32_t first = s->first_row[i], n = s->slices[i].n_tokens;
                mx::array at(static_cast<int>(s->slices[i].seq->len));
                out.push_back(attend(
                    s, a, s->slices[i].seq,
                    turned(s, a, by_head(q->a, first, n, 1, a->n_heads, a->head_dim, where), a->q_norm, at),
                    turned(s, a, by_head(k->a, first, n, 1, a->n_kv_heads, a->head_dim, where), a->k_norm,
                           at),
                    by_head(v->a, first, n, 1, a->n_kv_heads, a->head_dim, where)));
            }
        }
        return out.size() == 1 ? out[0] : mx::concatenate(out, 0, where);
    });
}
