/* weights.cpp - weights as MLX arrays over the mapped file.
 *
 * Metal addresses the caller's memory only in whole pages, and tensors of a file begin anywhere; so an array
 * is made of the pages around a tensor, and the tensor is a view into it. MLX copies where its allocator
 * can't wrap the memory (CUDA, the build without a GPU; lm_backend_info.copies_weights), and this file where
 * the pages around a tensor are too many for MLX's 32-bit shapes.
 */
#include <unistd.h>

#include <cstring>

#include "module.hpp"

namespace {

std::optional<mx::Dtype> dtype_of(lm_dtype t) {
    switch (t) {
    case LM_F32: return mx::float32;
    case LM_F16: return mx::float16;
    case LM_BF16: return mx::bfloat16;
    case LM_U32: return mx::uint32;
    case LM_U8: return mx::uint8;
    default: return std::nullopt;
    }
}

mx::Shape shape_of(std::initializer_list<uint64_t> dims) {
    mx::Shape shape;
    for (uint64_t d : dims) {
        if (d > INT32_MAX) throw std::invalid_argument("a dimension beyond MLX's 32 bits");
        shape.push_back(static_cast<mx::ShapeElem>(d));
    }
    return shape;
}

/* n_bytes at data as an array of that shape and type. */
mx::array view_of(const lm_device *dev, const void *data, uint64_t n_bytes, mx::Shape shape,
                  mx::Dtype dtype) {
    auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    auto at = reinterpret_cast<uintptr_t>(data);
    uintptr_t base = at / page * page, end = (at + n_bytes + page - 1) / page * page;
    auto nothing = [](void *) {};
    if (at % dtype.size() || end - base > INT32_MAX) {
        void *copy = nullptr;
        if (posix_memalign(&copy, page, n_bytes)) throw std::bad_alloc();
        std::memcpy(copy, data, n_bytes);
        return mx::array(copy, std::move(shape), dtype, [](void *p) { free(p); });
    }
    mx::array pages(reinterpret_cast<void *>(base), shape_of({end - base}), mx::uint8, nothing);
    auto first = static_cast<mx::ShapeElem>(at - base);
    mx::array bytes = mx::slice(pages, {first}, {first + static_cast<mx::ShapeElem>(n_bytes)}, dev->where);
    return mx::reshape(mx::view(bytes, dtype, dev->where), std::move(shape), dev->where);
}

/* Shape with the experts in front when there are some. */
mx::Shape stacked(uint64_t n_experts, uint64_t rows, uint64_t width) {
    return n_experts > 1 ? shape_of({n_experts, rows, width}) : shape_of({rows, width});
}

mx::array numbers_of(const lm_device *dev, const lm_view *v, mx::Shape shape) {
    auto dtype = dtype_of(v->dtype);
    if (!dtype) throw std::invalid_argument(std::string("a vector of ") + lm_dtype_name(v->dtype));
    mx::array a =
        mx::astype(view_of(dev, v->data, v->bytes, std::move(shape), *dtype), mx::float32, dev->where);
    mx::eval(a);
    return a;
}

void make_linear(lm_device *dev, const lm_matrix *m, const lm_view *bias, lm_linear **out) {
    uint64_t rows = static_cast<uint64_t>(m->n_experts) * m->rows, width = m->row_bytes / 4;
    bool plain = m->quant.kind == LM_QUANT_NONE;
    auto numbers = dtype_of(m->dtype);
    if (!numbers) throw std::invalid_argument(std::string("a weight of ") + lm_dtype_name(m->dtype));
    bool on_cpu = dev->where == mx::Device::cpu;
    mx::array codes =
        plain
            ? view_of(dev, m->codes, rows * m->row_bytes, stacked(m->n_experts, m->rows, m->cols), *numbers)
            : view_of(dev, m->codes, rows * m->row_bytes, stacked(m->n_experts, m->rows, width), mx::uint32);
    if (plain && on_cpu) codes = mx::astype(codes, mx::float32, dev->where);
    auto w = std::make_unique<lm_linear>(lm_linear{
        dev, codes, {}, {}, {}, m->quant, lm_quant_mode(m->quant.kind), m->n_experts, m->rows, m->cols, 0});
    std::vector<mx::array> made{w->codes};
    if (!plain) {
        uint64_t groups = m->cols / m->quant.group;
        bool floats = lm_quant_is_float(m->quant.kind); /* u8 scales, which say nothing of a type */
        mx::Dtype type = floats ? mx::uint8 : *numbers;
        auto take = [&](const void *data) {
            mx::array a =
                view_of(dev, data, rows * groups * type.size(), stacked(m->n_experts, m->rows, groups), type);
            return on_cpu && !floats ? mx::astype(a, mx::float32, dev->where) : a;
        };
        w->scales = take(m->scales);
        made.push_back(*w->scales);
        if (!floats) made.push_back(*(w->biases = take(m->biases)));
    }
    /* As MLX itself makes numbers of the floating-point forms. */
    mx::Dtype type = lm_quant_is_float(m->quant.kind) ? mx::bfloat16 : *numbers;
    if (!dev->dtype) dev->dtype = on_cpu ? mx::float32 : type;
    if (bias)
        made.push_back(*(w->bias = mx::astype(numbers_of(dev, bias, stacked(m->n_experts, 1, m->rows)),
                                              dev->dtype.value_or(mx::float32), dev->where)));
    mx::eval(made);
    for (const mx::array &a : made) w->bytes += a.nbytes();
    dev->weight_bytes += w->bytes;
    *out = w.release();
}

} // namespace

lm_status lm_mlx_linear(lm_device *dev, const lm_matrix *m, const lm_view *bias, lm_linear **out,
                        lm_err *err) {
    *out = nullptr;
    return lm_mlx_guard(err, [&] { make_linear(dev, m, bias, out); });
}

lm_status lm_mlx_vector(lm_device *dev, const lm_view *v, float offset, lm_vector **out, lm_err *err) {
    *out = nullptr;
    return lm_mlx_guard(err, [&] {
        uint64_t n = v->bytes / lm_dtype_size(v->dtype);
        mx::array a = numbers_of(dev, v, shape_of({n}));
        if (offset != 0) {
            a = mx::add(a, mx::array(offset), dev->where);
            mx::eval(a);
        }
        *out = new lm_vector{dev, a, {}, n * sizeof(float)};
        dev->weight_bytes += (*out)->bytes;
    });
}

void lm_mlx_linear_free(lm_linear *w) {
    if (!w) return;
    w->dev->weight_bytes -= w->bytes;
    delete w;
}

void lm_mlx_vector_free(lm_vector *v) {
    if (!v) return;
    v->dev->weight_bytes -= v->bytes;
    delete v;
}

const mx::array &lm_mlx_numbers(const lm_vector *v, mx::Dtype dtype) {
    if (dtype == mx::float32) return v->numbers;
    auto *mutable_v = const_cast<lm_vector *>(v); /* a cache: the numbers stay the same */
    if (!v->cast || v->cast->dtype() != dtype) mutable_v->cast = mx::astype(v->numbers, dtype, v->dev->where);
    return *v->cast;
}

mx::array lm_mlx_product(const mx::array &x, const lm_linear *w) {
    mx::Device where = w->dev->where;
    mx::array y =
        w->quant.kind == LM_QUANT_NONE
            ? mx::matmul(x, mx::transpose(w->codes, where), where)
            : mx::quantized_matmul(x, w->codes, *w->scales, w->biases, true, static_cast<int>(w->quant.group),
                                   static_cast<int>(w->quant.bits), w->mode, where);
    return w->bias ? mx::add(y, *w->bias, where) : y;
}

mx::array lm_mlx_product_of(const mx::array &x, const lm_linear *w, const mx::array &which) {
    mx::Device where = w->dev->where;
    mx::array y =
        w->quant.kind == LM_QUANT_NONE
            ? mx::gather_mm(x, mx::swapaxes(w->codes, -1, -2, where), std::nullopt, which, false, where)
            : mx::gather_qmm(x, w->codes, *w->scales, w->biases, std::nullopt, which, true,
                             static_cast<int>(w->quant.group), static_cast<int>(w->quant.bits), w->mode,
                             std::nullopt, false, where);
    if (!w->bias) return y;
    return mx::add(y, mx::take(*w->bias, which, 0, where), where); /* (n, k, 1, rows) */
}
