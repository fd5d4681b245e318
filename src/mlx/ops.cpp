/* ops.cpp - the ops of tensor.h but for attention: each records a part of MLX's graph, read() computes it. */
#include <cstring>

#include "module.hpp"

void lm_mlx_fail(lm_step *s, lm_status status, const char *text) {
    if (s->status != LM_OK) return;
    s->status = lm_fail(&s->err, status, "%s", text);
}

lm_tensor *lm_mlx_tensor(lm_step *s, mx::array a) {
    return &s->tensors.emplace_back(lm_tensor{std::move(a)});
}

namespace {

using arrays = std::vector<mx::array>;
using chain = std::function<arrays(const arrays &)>;

/* Chains of element-wise ops, each compiled to one kernel for every shape. */
const chain &glu_of(lm_glu kind) {
    static const chain silu =
        mx::compile([](const arrays &x) { return arrays{x[0] * mx::sigmoid(x[0]) * x[1]}; }, true);
    static const chain gelu_tanh = mx::compile(
        [](const arrays &x) {
            auto number = [&](float f) { return mx::array(f, x[0].dtype()); };
            auto inner = number(0.7978845608f) * (x[0] + number(0.044715f) * x[0] * x[0] * x[0]);
            return arrays{number(0.5f) * x[0] * (number(1) + mx::tanh(inner)) * x[1]};
        },
        true);
    static const chain gelu = mx::compile(
        [](const arrays &x) {
            auto number = [&](float f) { return mx::array(f, x[0].dtype()); };
            return arrays{number(0.5f) * x[0] * (number(1) + mx::erf(x[0] * number(0.70710678118f))) * x[1]};
        },
        true);
    static const chain oss = mx::compile(
        [](const arrays &x) {
            auto number = [&](float f) { return mx::array(f, x[0].dtype()); };
            auto gate = mx::minimum(x[0], number(7)), up = mx::clip(x[1], number(-7), number(7));
            return arrays{gate * mx::sigmoid(number(1.702f) * gate) * (up + number(1))};
        },
        true);
    switch (kind) {
    case LM_GLU_GELU_TANH: return gelu_tanh;
    case LM_GLU_GELU: return gelu;
    case LM_GLU_OSS: return oss;
    default: return silu;
    }
}

/* act(gate) * up, both (..., width). */
mx::array gated(const lm_mlp *m, const mx::array &gate, const mx::array &up) {
    return glu_of(m->act)({gate, up})[0];
}

std::pair<mx::array, mx::array> halves(const mx::array &both, mx::Device where) {
    arrays parts = mx::split(both, 2, -1, where);
    return {parts[0], parts[1]};
}

/* Columns [first, first + width) of the last axis. */
mx::array columns_of(const mx::array &x, uint32_t first, uint32_t width, mx::Device where) {
    return mx::slice(x, {0, static_cast<int>(first)}, {x.shape(0), static_cast<int>(first + width)}, where);
}

/* y + scale * more, in y's type. */
mx::array with_delta(const mx::array &y, const mx::array &more, float scale, mx::Device where) {
    mx::array scaled = scale == 1 ? more : mx::multiply(more, mx::array(scale, more.dtype()), where);
    return mx::add(y, mx::astype(scaled, y.dtype(), where), where);
}

mx::array indices(const uint32_t *index, uint32_t n) {
    return mx::array(index, {static_cast<int>(n)}, mx::uint32);
}

} // namespace

lm_tensor *lm_mlx_embed(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale) {
    for (uint32_t i = 0; i < n && s->status == LM_OK; i++)
        if ((tokens[i] < 0 && !s->before) || tokens[i] >= static_cast<int64_t>(table->rows)) {
            lm_err err = {};
            lm_status st =
                lm_fail(&err, LM_INVALID, "token %d; the model knows 0 to %u", tokens[i], table->rows - 1);
            lm_mlx_fail(s, st, err.text);
        }
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        mx::array ids = lm_mlx_tokens(tokens, n, s->before, where);
        mx::array x = mx::take(table->codes, ids, 0, where);
        if (table->quant.kind != LM_QUANT_NONE) {
            std::optional<mx::array> biases;
            if (table->biases) biases = mx::take(*table->biases, ids, 0, where);
            x = mx::dequantize(x, mx::take(*table->scales, ids, 0, where), biases,
                               static_cast<int>(table->quant.group), static_cast<int>(table->quant.bits),
                               table->mode, std::nullopt, std::nullopt, where);
        }
        x = mx::astype(x, s->dev->dtype.value_or(mx::float32), where);
        return scale == 1 ? x : mx::multiply(x, mx::array(scale, x.dtype()), where);
    });
}

lm_tensor *lm_mlx_rms_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, float eps) {
    return lm_mlx_op(s, [&] {
        std::optional<mx::array> w;
        if (weight) w = lm_mlx_numbers(weight, x->a.dtype());
        return mx::fast::rms_norm(x->a, w, eps, s->dev->where);
    });
}

lm_tensor *lm_mlx_layer_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, const lm_vector *bias,
                             float eps) {
    return lm_mlx_op(s, [&] {
        mx::Dtype type = x->a.dtype();
        return mx::fast::layer_norm(x->a, lm_mlx_numbers(weight, type), lm_mlx_numbers(bias, type), eps,
                                    s->dev->where);
    });
}

void lm_mlx_linears(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out) {
    for (uint32_t i = 0; i < n; i++)
        out[i] = x ? lm_mlx_op(s, [&] { return lm_mlx_product(x->a, w[i]); }) : nullptr;
}

lm_tensor *lm_mlx_columns(lm_step *s, const lm_tensor *x, uint32_t first, uint32_t width) {
    return lm_mlx_op(s, [&] {
        if (first + width > static_cast<uint32_t>(x->a.shape(1)))
            throw std::invalid_argument("columns beyond a row's end"); /* MLX would give what there is */
        return columns_of(x->a, first, width, s->dev->where);
    });
}

lm_tensor *lm_mlx_rows(lm_step *s, const lm_tensor *x, const uint32_t *index, uint32_t n) {
    return lm_mlx_op(s, [&] { return mx::take(x->a, indices(index, n), 0, s->dev->where); });
}

lm_tensor *lm_mlx_mlp(lm_step *s, const lm_tensor *x, const lm_mlp *m) {
    return lm_mlx_op(s, [&] {
        if (!m->gate && !m->fused) {
            mx::array up = lm_mlx_product(x->a, m->up);
            return lm_mlx_product(gated(m, up, mx::ones_like(up, s->dev->where)), m->down);
        }
        if (m->fused) {
            auto [gate, up] = halves(lm_mlx_product(x->a, m->fused), s->dev->where);
            return lm_mlx_product(gated(m, gate, up), m->down);
        }
        return lm_mlx_product(gated(m, lm_mlx_product(x->a, m->gate), lm_mlx_product(x->a, m->up)), m->down);
    });
}

lm_tensor *lm_mlx_gated(lm_step *s, lm_tensor *gate, const lm_tensor *up, lm_glu act) {
    return lm_mlx_op(s, [&] { return glu_of(act)({gate->a, up->a})[0]; });
}

lm_tensor *lm_mlx_moe(lm_step *s, const lm_tensor *x, const lm_moe *m) {
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        int k = static_cast<int>(m->top_k), n = x->a.shape(0), width = x->a.shape(1);
        mx::array routed = lm_mlx_product(x->a, m->router);
        const lm_delta *deltas = m->deltas;
        if (deltas && deltas[LM_MOE_ROUTER].a) {
            const lm_delta &d = deltas[LM_MOE_ROUTER];
            routed = with_delta(routed, lm_mlx_product(lm_mlx_product(x->a, d.a), d.b), d.scale, where);
        }
        mx::array logits = mx::astype(routed, mx::float32, where);
        if (m->softmax_first) logits = mx::softmax(logits, -1, true, where);
        mx::array which =
            mx::slice(mx::argpartition(mx::negative(logits, where), k - 1, -1, where), {0, 0}, {n, k}, where);
        mx::array share = mx::take_along_axis(logits, which, -1, where);
        if (!m->softmax_first)
            share = mx::softmax(share, -1, true, where);
        else if (m->renorm)
            share = mx::divide(share, mx::sum(share, -1, true, where), where);
        mx::array rows = mx::reshape(x->a, {n, 1, 1, width}, where);
        const lm_mlp *e = &m->experts;
        auto product = [&](const mx::array &in, const lm_linear *w, int what) {
            mx::array y = lm_mlx_product_of(in, w, which);
            if (!deltas || !deltas[what].a) return y;
            mx::array small = lm_mlx_product_of(in, deltas[what].a, which);
            return with_delta(y, lm_mlx_product_of(small, deltas[what].b, which), deltas[what].scale, where);
        };
        auto each = [&] {
            if (e->fused) {
                auto [gate, up] = halves(lm_mlx_product_of(rows, e->fused, which), where);
                return gated(e, gate, up);
            }
            return gated(e, product(rows, e->gate, LM_MOE_GATE), product(rows, e->up, LM_MOE_UP));
        };
        mx::array y = mx::squeeze(product(each(), e->down, LM_MOE_DOWN), 2, where); /* (n, k, width) */
        share = mx::expand_dims(mx::astype(share, y.dtype(), where), -1, where);
        return mx::sum(mx::multiply(y, share, where), 1, false, where);
    });
}

lm_tensor *lm_mlx_keep(lm_step *s, lm_tensor *x) {
    return lm_mlx_op(s, [&] {
        mx::array a = x->a;
        s->tensors.clear();
        return a;
    });
}

lm_tensor *lm_mlx_add(lm_step *s, lm_tensor *x, const lm_tensor *y, float scale) {
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        return with_delta(x->a, y->a, scale, where);
    });
}

lm_tensor *lm_mlx_scale(lm_step *s, lm_tensor *x, float scale, float cap) {
    return lm_mlx_op(s, [&] {
        mx::Device where = s->dev->where;
        mx::array a = scale == 1 ? x->a : mx::multiply(x->a, mx::array(scale, x->a.dtype()), where);
        if (cap == 0) return a;
        mx::array c(cap, a.dtype());
        return mx::multiply(mx::tanh(mx::divide(a, c, where), where), c, where);
    });
}

bool lm_mlx_compute(lm_step *s, const lm_tensor *wanted) {
    if (s->status != LM_OK) return false;
    lm_err err = {};
    lm_status st = lm_mlx_guard(&err, [&] {
        std::vector<mx::array> all = lm_mlx_written(s);
        if (wanted) all.push_back(wanted->a);
        lm_mlx_compute_all(s->dev, all);
    });
    s->computed = true;
    if (st == LM_OK) return true;
    s->fate->lost = err.text;
    lm_mlx_fail(s, st, err.text);
    return false;
}

const float *lm_mlx_read(lm_step *s, const lm_tensor *x) {
    lm_tensor *numbers = !x ? nullptr : lm_mlx_op(s, [&] {
        s->read.push_back(mx::contiguous(mx::astype(x->a, mx::float32, s->dev->where), false, s->dev->where));
        return s->read.back();
    });
    return numbers && lm_mlx_compute(s, numbers) ? s->read.back().data<float>() : nullptr;
}
