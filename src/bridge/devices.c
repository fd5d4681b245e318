/* devices.c - what computes: the choice, and the list of what there is to choose from. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "bridge/bridge.h"
#include "cpu/cpu.h"
#include "mlx/backend.h"

#define MAX_DEVICES 32 /* ours, MLX's CPU, and as many GPUs as a large machine has */

typedef struct device {
    const lm_backend *backend;
    char place[16]; /* as --device takes it: "cpu", "gpu:1" */
    lm_backend_info info;
} device;

static void say_why_not(const char *message, const lm_err *err) {
    lm_buf why;
    lm_buf_init(&why, sizeof err->text + 64);
    lm_log_field(&why, "why", lm_str_of(err->text));
    lm_log(LM_LOG_INFO, message, "%.*s", (int)why.len, why.ptr);
    lm_buf_release(&why);
}

lm_status bridge_choose_backend(const bridge_config *c, const lm_backend **out, lm_err *err) {
    *out = &lm_cpu_backend;
    if (c->backend == BACKEND_CPU || (c->backend == BACKEND_AUTO && !lm_mlx_likely())) return LM_OK;
    lm_status st =
        lm_mlx_load_at(c->device == DEVICE_CPU ? LM_MLX_CPU : LM_MLX_GPU, c->device_index, out, err);
    if (c->backend == BACKEND_MLX && c->device == DEVICE_AUTO && st == LM_UNSUPPORTED) {
        lm_log(LM_LOG_WARN, "MLX finds no GPU, its CPU code is slow",
               "backend=mlx device=cpu faster=\"--backend cpu\"");
        return lm_mlx_load(LM_MLX_CPU, out, err);
    }
    if (c->backend == BACKEND_MLX || st == LM_OK) return st;
    say_why_not("no MLX, the CPU computes", err);
    *out = &lm_cpu_backend;
    return LM_OK;
}

/* ---- the list */

static uint64_t machine_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static void add(device *list, uint32_t *n, const lm_backend *backend, const char *place) {
    device *d = &list[(*n)++];
    *d = (device){.backend = backend};
    snprintf(d->place, sizeof d->place, "%s", place);
    backend->info(&d->info);
    if (!d->info.memory) d->info.memory = machine_memory();
}

/* Every device; MLX's only where `mlx`, since that loads it. features: the set of CPU kernels that is forced. */
static uint32_t find_devices(device list[MAX_DEVICES], bool mlx, const char *features) {
    uint32_t n = 0;
    const lm_backend *backend = NULL;
    lm_err err = {0};
    add(list, &n, &lm_cpu_backend, "cpu");
    if (features) snprintf(list[0].info.device, sizeof list[0].info.device, "%s", features);
    if (!mlx) return n;
    lm_status st = lm_mlx_load(LM_MLX_CPU, &backend, &err);
    if (st != LM_OK) {
        say_why_not("no devices of MLX", &err);
        return n;
    }
    add(list, &n, backend, "cpu");
    for (uint32_t i = 0; n < MAX_DEVICES && lm_mlx_load_at(LM_MLX_GPU, i, &backend, &err) == LM_OK; i++) {
        char place[16];
        snprintf(place, sizeof place, "gpu:%u", i);
        add(list, &n, backend, place);
    }
    return n;
}

static void write_device(lm_buf *out, const device *d, bool chosen) {
    lm_buf_printf(out, "{\"backend\":\"%s\",\"device\":\"%s\",\"name\":", d->backend->name, d->place);
    lm_json_write_string(out, lm_str_of(d->info.device));
    lm_buf_printf(out, ",\"gpu\":%s,\"memory\":%llu,\"chosen\":%s}", d->info.gpu ? "true" : "false",
                  (unsigned long long)d->info.memory, chosen ? "true" : "false");
}

static void write_list(lm_buf *out, const device *list, uint32_t n, const lm_backend *chosen) {
    lm_buf_text(out, "[");
    for (uint32_t i = 0; i < n; i++) {
        if (i) lm_buf_text(out, ",");
        write_device(out, &list[i], list[i].backend == chosen);
    }
    lm_buf_text(out, "]");
}

void bridge_devices_json(const bridge_config *c, const lm_backend *chosen, lm_buf *out) {
    device list[MAX_DEVICES];
    uint32_t n = find_devices(list, chosen != &lm_cpu_backend, c->cpu_features);
    lm_buf_init(out, MAX_DEVICES * 512);
    write_list(out, list, n, chosen);
}

int bridge_list_devices(const bridge_config *c) {
    const lm_backend *chosen = NULL;
    lm_err err = {0};
    if (bridge_choose_backend(c, &chosen, &err) != LM_OK) {
        fprintf(stderr, "mlx-ollama-bridge: %s\n", err.text);
        return EXIT_FAILED;
    }
    device list[MAX_DEVICES];
    uint32_t n = find_devices(list, true, c->cpu_features);
    if (c->json) {
        lm_buf b;
        lm_buf_init(&b, MAX_DEVICES * 512);
        write_list(&b, list, n, chosen);
        printf("%.*s\n", (int)b.len, b.ptr);
        lm_buf_release(&b);
        return EXIT_OK;
    }
    printf("%-8s  %-8s  %-32s  %-10s  %s\n", "BACKEND", "DEVICE", "NAME", "MEMORY", "");
    for (uint32_t i = 0; i < n; i++) {
        char memory[32];
        snprintf(memory, sizeof memory, "%.1f GiB", (double)list[i].info.memory / (double)(1u << 30));
        printf("%-8s  %-8s  %-32s  %-10s  %s\n", list[i].backend->name, list[i].place, list[i].info.device,
               memory, list[i].backend == chosen ? "chosen" : "");
    }
    return EXIT_OK;
}
