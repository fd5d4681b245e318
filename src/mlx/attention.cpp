/* attention.cpp - q, k and v of a step: normed, turned, appended to their sequences' arrays, attended.
 *
 * Sequences that all decode (one row each) are normed and turned together, each with its own position; the
 * products with keys and values, which differ in length, run one sequence at a time.
 */
#include <cmath>

#include "module.hpp"

namespace {

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
    mx::array cap(a->softcap, q.dtype());
    mx::array scores = mx::matmul(grouped, k, where);
    scores = mx::multiply(mx::tanh(mx::divide(scores, cap, where), where), cap, where);
    if (mask) scores = mx::where(*mask, scores, mx::array(-INFINITY, scores.dtype()), where);
    mx::array out = mx::matmul(mx::softmax(scores, -1, true, where), v, where);
    return mx::reshape(out, {1, kv * group, n_q, dim}, where);
}

/* Appends k and v (1, kv heads, n, dim) to the sequence and attends with q; (n, heads * dim). */
mx::array attend(lm_step *s, const lm_attention *a, lm_seq *seq, const mx::array &q, const mx::array &k,
                 const mx::array &v) {
    mx::Device where = s->dev->where;
    int kv = static_cast<int>(a->n_kv_heads), dim = static_cast<int>(a->head_dim), n = q.shape(2);
    int from = static_cast<int>(seq->len), to = from + n;
    auto append = [&](mx::array &all, const mx::array &more) {
        mx::array old = std::move(all);
        all = mx::slice_update(old, mx::astype(more, old.dtype(), where), mx::Shape{0, 0, from, 0},
                               mx::Shape{1, kv, to, dim}, where);
    };
    append(seq->keys[a->layer], k);
    append(seq->values[a->layer], v);
    int first =
        n == 1 && a->window && to > static_cast<int>(a->window) ? to - static_cast<int>(a->window) : 0;
    auto seen = [&](const mx::array &all) {
        return mx::astype(mx::slice(all, {0, 0, first, 0}, {1, kv, to, dim}, where), q.dtype(), where);
    };
    mx::array keys = seen(seq->keys[a->layer]), values = seen(seq->values[a->layer]);
    std::optional<mx::array> sinks;
    if (a->sinks) sinks = lm_mlx_numbers(a->sinks, q.dtype());
    mx::array out = [&] {
        if (a->softcap != 0) return capped(s, a, q, keys, values, mask_of(a, n, to, where));
        if (n > 1 && !a->window)
            return mx::fast::scaled_dot_product_attention(q, keys, values, a->scale, "causal", {}, sinks,
                                                          false, where);
        std::optional<mx::array> mask = mask_of(a, n, to, where);
        return mx::fast::scaled_dot_product_attention(q, keys, values, a->scale, mask ? "array" : "", mask,
                                                      sinks, false, where);
    }();
    return mx::reshape(mx::transpose(out, {0, 2, 1, 3}, where), {n, static_cast<int>(a->n_heads) * dim},
                       where);
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
