/* devices.cpp - what MLX says about a device, the limits that it is run with, and the memory that it counts.
 */
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "module.hpp"

namespace {

/* Of MLX's cache of freed buffers: a small share of what models may take, no more than is of use. */
constexpr uint64_t CACHE_MOST = 512u << 20, CACHE_LEAST = 32u << 20, CACHE_SHARE = 32;

/* Rows of a prompt's part: what mlx-lm takes on a GPU; a CPU is busy with fewer, and scores grow with them.
 */
constexpr uint32_t GPU_ROWS = 2048, CPU_ROWS = 512;

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

/* Bytes that models should stay below: Metal recommends a working set; a GPU with memory of its own has all
 * of it but for what the driver and the display take. 0: the machine's memory counts. */
uint64_t room_of(mx::Device where) {
    if (where == mx::Device::cpu) return 0;
    if (uint64_t set = number_of(where, "max_recommended_working_set_size")) return set;
    uint64_t all = number_of(where, "total_memory");
    return all / 10 * 9;
}

uint64_t machine_memory() {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) : 0;
}

/* Whether MLX has to copy memory that it did not allocate: only some of its allocators can wrap it. */
bool copies() {
    auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *probe = nullptr;
    if (posix_memalign(&probe, page, page)) return true;
    mx::allocator::Buffer wrapped = mx::allocator::make_buffer(probe, page);
    bool can = wrapped.ptr() != nullptr;
    if (can) mx::allocator::release(wrapped);
    free(probe);
    return !can;
}

} // namespace

std::string lm_mlx_describe(mx::Device where) {
    return "mlx " + std::string(mx::version()) + " " + name_of(where);
}

void lm_mlx_info(mx::Device where, lm_backend_info *out) {
    *out = {};
    out->gpu = where == mx::Device::gpu;
    out->max_batch = out->gpu ? GPU_ROWS : CPU_ROWS;
    out->kv_quantised = true;
    lm_err ignored;
    (void)lm_mlx_guard(&ignored, [&] {
        std::string name = name_of(where);
        name.copy(out->device, sizeof out->device - 1);
        out->memory = room_of(where);
        out->copies_weights = copies();
    });
}

void lm_mlx_limit(mx::Device where) {
    uint64_t room = room_of(where), all = room ? room : machine_memory();
    /* MLX keeps freed buffers for later ones of the same size, by default without a bound that others would
     * notice. */
    mx::set_cache_limit(std::clamp(all / CACHE_SHARE, CACHE_LEAST, CACHE_MOST));
    /* On Metal what models use stays wired, as far as the system recommends. */
    if (where == mx::Device::gpu)
        if (uint64_t most = number_of(where, "max_recommended_working_set_size")) mx::set_wired_limit(most);
}

void lm_mlx_memory(const lm_device *dev, lm_memory *out) {
    *out = {.weights = dev->weight_bytes,
            .kv = dev->kv_used,
            .kv_room = dev->kv_bytes,
            .scratch = 0, /* MLX's counters are of all devices together */
            .active = mx::get_active_memory(),
            .cache = mx::get_cache_memory(),
            .peak = mx::get_peak_memory()};
}

void lm_mlx_idle(lm_device *dev) {
    (void)dev;
    lm_err ignored;
    (void)lm_mlx_guard(&ignored, [] { mx::clear_cache(); });
}
