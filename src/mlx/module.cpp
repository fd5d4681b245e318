/* module.cpp - devices and steps of the MLX backend, and the table that the program gets. */
#include <memory>

#include "module.hpp"

namespace {

constexpr size_t CACHE_BYTES = 512u << 20;

std::string name_of(mx::Device where) {
    if (where == mx::Device::cpu) return "cpu";
    for (const char *key : {"device_name", "architecture"}) {
        const auto &info = mx::device_info(where);
        auto found = info.find(key);
        if (found != info.end() && std::holds_alternative<std::string>(found->second))
            return std::get<std::string>(found->second);
    }
    return "gpu";
}

/* Number `key` of what MLX says about the device, 0 when it says nothing. */
uint64_t number_of(mx::Device where, const char *key) {
    const auto &info = mx::device_info(where);
    auto found = info.find(key);
    return found != info.end() && std::holds_alternative<size_t>(found->second)
               ? std::get<size_t>(found->second)
               : 0;
}

void info_on(mx::Device where, lm_backend_info *out) {
    *out = {};
    out->gpu = where == mx::Device::gpu;
    lm_err ignored;
    (void)lm_mlx_guard(&ignored, [&] {
        std::string name = name_of(where);
        name.copy(out->device, sizeof out->device - 1);
        if (out->gpu) out->memory = number_of(where, "max_recommended_working_set_size");
    });
}

void info_gpu(lm_backend_info *out) {
    info_on(mx::Device::gpu, out);
}
void info_cpu(lm_backend_info *out) {
    info_on(mx::Device::cpu, out);
}

lm_status open_on(mx::Device where, lm_device **out, const lm_device_config *config, lm_err *err) {
    *out = nullptr;
    if (!config->kv.n_layers || !config->kv.n_kv_heads || !config->kv.head_dim)
        return lm_fail(err, LM_INVALID, "keys and values of no layers, heads or elements");
    return lm_mlx_guard(err, [&] {
        auto dev = std::make_unique<lm_device>();
        dev->where = where;
        dev->description = "mlx " + std::string(mx::version()) + " " + name_of(where);
        dev->kv = config->kv;
        dev->kv_bytes = config->kv_bytes;
        dev->max_batch = config->max_batch;
        /* MLX keeps freed buffers for later ones of the same size, by default without a bound that others
         * would notice; on Metal what models use stays wired, as far as the system recommends. */
        mx::set_cache_limit(CACHE_BYTES);
        if (where == mx::Device::gpu)
            if (uint64_t most = number_of(where, "max_recommended_working_set_size"))
                mx::set_wired_limit(most);
        *out = dev.release();
    });
}

lm_status open_gpu(lm_device **out, const lm_device_config *config, lm_err *err) {
    return open_on(mx::Device::gpu, out, config, err);
}
lm_status open_cpu(lm_device **out, const lm_device_config *config, lm_err *err) {
    return open_on(mx::Device::cpu, out, config, err);
}

void close_device(lm_device *dev) {
    if (!dev) return;
    delete dev;
    lm_err ignored;
    (void)lm_mlx_guard(&ignored, [] { mx::clear_cache(); });
}

void memory_of(const lm_device *dev, lm_memory *out) {
    uint64_t active = mx::get_active_memory();
    *out = {.weights = dev->weight_bytes, .kv = dev->kv_used, .kv_room = dev->kv_bytes, .scratch = 0};
    uint64_t known = out->weights + out->kv;
    out->scratch = active > known ? active - known : 0;
}

const char *describe(const lm_device *dev) {
    return dev->description.c_str();
}

/* One slice joins the step; what is wrong with it otherwise. */
lm_status join(lm_step *s, const lm_slice &slice, lm_err *err) {
    lm_seq *seq = slice.seq;
    if (!slice.n_tokens) return lm_fail(err, LM_INVALID, "a slice without tokens");
    if (seq->in_step) return lm_fail(err, LM_INVALID, "a sequence is in one step twice");
    if (seq->lost) return lm_fail(err, LM_INTERNAL, "a sequence lost its keys and values in a failed step");
    if (seq->room - seq->len < slice.n_tokens)
        return lm_fail(err, LM_INVALID, "a sequence has no room for %u tokens: reserve it first",
                       slice.n_tokens);
    seq->in_step = true;
    s->slices.push_back(slice);
    s->first_row.push_back(s->n_rows);
    s->n_rows += slice.n_tokens;
    s->decoding = s->decoding && slice.n_tokens == 1;
    return LM_OK;
}

lm_status begin(lm_device *dev, const lm_slice *slices, uint32_t n_slices, const lm_flight *before,
                lm_step **out, lm_err *err) {
    *out = nullptr;
    (void)before;
    if (dev->in_step) return lm_fail(err, LM_INVALID, "a step has not ended yet");
    lm_step *s = nullptr;
    lm_status st = lm_mlx_guard(err, [&] {
        s = new lm_step();
        s->dev = dev;
        s->slices.reserve(n_slices);
        s->first_row.reserve(n_slices);
        std::vector<int32_t> positions;
        for (uint32_t i = 0; i < n_slices; i++) positions.push_back(static_cast<int32_t>(slices[i].seq->len));
        s->positions = mx::array(positions.data(), {static_cast<int>(n_slices)}, mx::int32);
    });
    for (uint32_t i = 0; i < n_slices && st == LM_OK; i++) st = join(s, slices[i], err);
    if (st == LM_OK && !s->n_rows) st = lm_fail(err, LM_INVALID, "a step without tokens");
    if (st == LM_OK && s->n_rows > dev->max_batch)
        st = lm_fail(err, LM_TOO_LARGE, "a step of %u rows, the device was opened for %u", s->n_rows,
                     dev->max_batch);
    if (st == LM_OK) {
        dev->in_step = true;
        *out = s;
        return LM_OK;
    }
    for (size_t i = 0; s && i < s->slices.size(); i++) s->slices[i].seq->in_step = false;
    delete s;
    return st;
}

lm_status end(lm_step *s, bool abandon, lm_err *err) {
    if (!abandon && !s->computed) lm_mlx_compute(s, {}); /* nobody wanted logits: a part of a prompt */
    lm_status status = s->status;
    if (status != LM_OK) lm_fail(err, status, "%s", s->err.text);
    for (lm_slice &slice : s->slices) {
        slice.seq->in_step = false;
        if (status == LM_OK && !abandon) slice.seq->len += slice.n_tokens;
    }
    s->dev->in_step = false;
    delete s;
    return status;
}

lm_backend table(lm_status (*open)(lm_device **, const lm_device_config *, lm_err *),
                 void (*info)(lm_backend_info *)) {
    return {.name = "mlx",
            .info = info,
            .open = open,
            .close = close_device,
            .memory = memory_of,
            .describe = describe,
            .linear = lm_mlx_linear,
            .vector = lm_mlx_vector,
            .linear_free = lm_mlx_linear_free,
            .vector_free = lm_mlx_vector_free,
            .seq_open = lm_mlx_seq_open,
            .seq_close = lm_mlx_seq_close,
            .seq_len = lm_mlx_seq_len,
            .seq_trim = lm_mlx_seq_trim,
            .seq_fork = lm_mlx_seq_fork,
            .seq_reserve = lm_mlx_seq_reserve,
            .begin = begin,
            .end = end,
            .embed = lm_mlx_embed,
            .rms_norm = lm_mlx_rms_norm,
            .linears = lm_mlx_linears,
            .columns = lm_mlx_columns,
            .rows = lm_mlx_rows,
            .attention = lm_mlx_attention,
            .mlp = lm_mlx_mlp,
            .moe = lm_mlx_moe,
            .keep = lm_mlx_keep,
            .add = lm_mlx_add,
            .scale = lm_mlx_scale,
            .read = lm_mlx_read,
            .launch = nullptr,
            .pick = nullptr,
            .wait = nullptr,
            .flight_free = nullptr,
            .n_waits = nullptr};
}

} // namespace

/* What load.c looks up. NULL: MLX has no such device here. */
extern "C" __attribute__((visibility("default"))) const lm_backend *lm_mlx_table(bool gpu) {
    static const lm_backend on_gpu = table(open_gpu, info_gpu), on_cpu = table(open_cpu, info_cpu);
    if (!gpu) return &on_cpu;
    try {
        return mx::is_available(mx::Device::gpu) ? &on_gpu : nullptr;
    } catch (...) {
        return nullptr;
    }
}
