/* module.cpp - devices and steps of the MLX backend, and the table that the program gets. */
#include <memory>

#include "module.hpp"

namespace {

lm_status open_on(mx::Device where, lm_device **out, const lm_device_config *config, lm_err *err) {
    *out = nullptr;
    if (!config->kv.n_layers || !config->kv.n_kv_heads || !config->kv.head_dim)
        return lm_fail(err, LM_INVALID, "keys and values of no layers, heads or elements");
    auto dev = std::make_unique<lm_device>();
    lm_status st = lm_mlx_kv_choose(dev.get(), config, err);
    if (st != LM_OK) return st;
    return lm_mlx_guard(err, [&] {
        dev->where = where;
        dev->description = lm_mlx_describe(where);
        dev->max_batch = config->max_batch;
        lm_mlx_limit(where);
        *out = dev.release();
    });
}

void close_device(lm_device *dev) {
    if (!dev) return;
    delete dev;
    lm_mlx_idle(nullptr);
}

const char *describe(const lm_device *dev) {
    return dev->description.c_str();
}

/* One slice joins the step; what is wrong with it otherwise. */
lm_status join(lm_step *s, const lm_slice &slice, lm_err *err) {
    lm_seq *seq = slice.seq;
    if (!slice.n_tokens) return lm_fail(err, LM_INVALID, "a slice without tokens");
    if (seq->in_step) return lm_fail(err, LM_INVALID, "a sequence is in one step twice");
    if (const std::string *why = seq->fate ? seq->fate->why_lost() : nullptr)
        return lm_fail(err, LM_INTERNAL, "a sequence lost its keys and values: %s", why->c_str());
    if (seq->room - seq->len < slice.n_tokens)
        return lm_fail(err, LM_INVALID, "a sequence has no room for %u tokens: reserve it first",
                       slice.n_tokens);
    seq->in_step = true;
    s->slices.push_back(slice);
    s->first_row.push_back(s->n_rows);
    s->n_rows += slice.n_tokens;
    if (slice.n_tokens == 1 && s->n_single + 1 == s->slices.size()) s->n_single++;
    return LM_OK;
}

lm_status begin(lm_device *dev, const lm_slice *slices, uint32_t n_slices, const lm_flight *before,
                lm_step **out, lm_err *err) {
    *out = nullptr;
    if (dev->in_step) return lm_fail(err, LM_INVALID, "a step has not ended yet");
    lm_step *s = nullptr;
    lm_status st = lm_mlx_guard(err, [&] {
        s = new lm_step();
        s->dev = dev;
        s->before = before;
        s->fate = std::make_shared<lm_fate>();
        if (before) s->fate->earlier = before->fate;
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
    if (!abandon && !s->computed) lm_mlx_compute(s, nullptr); /* nobody wanted logits: a part of a prompt */
    lm_status status = s->status;
    if (status != LM_OK) lm_fail(err, status, "%s", s->err.text);
    lm_mlx_leave(s, status == LM_OK && !abandon);
    return status;
}

/* The functions that have to know their device before it is open. */
template <mx::Device::DeviceType TYPE, int INDEX> struct at {
    static mx::Device where() { return mx::Device(TYPE, INDEX); }
    static void info(lm_backend_info *out) { lm_mlx_info(where(), out); }
    static uint64_t kv_token_bytes(const lm_device_config *config) {
        return lm_mlx_kv_token_bytes(config, TYPE == mx::Device::gpu);
    }
    static lm_status open(lm_device **out, const lm_device_config *config, lm_err *err) {
        return open_on(where(), out, config, err);
    }
};

template <typename AT> lm_backend table() {
    return {.name = "mlx",
            .info = AT::info,
            .kv_token_bytes = AT::kv_token_bytes,
            .open = AT::open,
            .close = close_device,
            .memory = lm_mlx_memory,
            .idle = lm_mlx_idle,
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
            .layer_norm = lm_mlx_layer_norm,
            .linears = lm_mlx_linears,
            .columns = lm_mlx_columns,
            .rows = lm_mlx_rows,
            .attention = lm_mlx_attention,
            .mlp = lm_mlx_mlp,
            .gated = lm_mlx_gated,
            .moe = lm_mlx_moe,
            .keep = lm_mlx_keep,
            .add = lm_mlx_add,
            .scale = lm_mlx_scale,
            .join = lm_mlx_join,
            .all_sum = lm_mlx_all_sum,
            .send = lm_mlx_send,
            .receive = lm_mlx_receive,
            .read = lm_mlx_read,
            .launch = lm_mlx_launch,
            .pick = lm_mlx_pick,
            .wait = lm_mlx_wait,
            .flight_free = lm_mlx_flight_free,
            .n_waits = lm_mlx_n_waits};
}

constexpr int MAX_GPUS = 16;

template <int... I> const lm_backend *gpu_table(int index, std::integer_sequence<int, I...>) {
    static const lm_backend all[] = {table<at<mx::Device::gpu, I>>()...};
    return &all[index];
}

} // namespace

void lm_mlx_leave(lm_step *s, bool ok) {
    for (lm_slice &slice : s->slices) {
        slice.seq->in_step = false;
        if (ok) slice.seq->len += slice.n_tokens;
        if (ok || !s->fate->lost.empty()) slice.seq->fate = s->fate;
    }
    s->dev->in_step = false;
    delete s;
}

/* What load.c looks up first. MLX promises nothing about binaries from one version to the next: a module that
 * was built for another one than is installed now would crash somewhere. NULL: it fits; else what differs. */
extern "C" __attribute__((visibility("default"))) const char *lm_mlx_misfit(void) {
#define TEXT(x)    #x
#define VERSION(x) TEXT(x)
    static const std::string built =
        VERSION(MLX_VERSION_MAJOR) "." VERSION(MLX_VERSION_MINOR) "." VERSION(MLX_VERSION_PATCH);
    static const std::string found = mx::version();
    static const std::string text = "built for MLX " + built + ", installed is " + found;
    return found.compare(0, built.size(), built) == 0 ? nullptr : text.c_str();
}

/* What it looks up then. NULL: MLX has no such device here. */
extern "C" __attribute__((visibility("default"))) const lm_backend *lm_mlx_table(bool gpu, unsigned index) {
    static const lm_backend on_cpu = table<at<mx::Device::cpu, 0>>();
    if (!gpu) return index ? nullptr : &on_cpu;
    try {
        if (index >= MAX_GPUS || static_cast<int>(index) >= mx::device_count(mx::Device::gpu)) return nullptr;
        int i = static_cast<int>(index);
        if (!mx::is_available(mx::Device(mx::Device::gpu, i))) return nullptr;
        return gpu_table(i, std::make_integer_sequence<int, MAX_GPUS>{});
    } catch (...) {
        return nullptr;
    }
}
