/* load.c - finds the module beside the program and asks it for its table. */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "mlx/backend.h"

#define MODULE "mlx-ollama-mlx.so"

#ifdef __APPLE__
#define REMEDY "install MLX (brew install mlx) and build again with ./quickstart, or use --backend cpu"
#else
#define REMEDY                                                                                               \
    "build again where CMake finds MLX (pip install mlx-cuda-13 or mlx-cpu, then cmake "                     \
    "-DMLX_ROOT=$(python3 "                                                                                  \
    "-m mlx --cmake-dir)), or use --backend cpu"
#endif

typedef const char *misfit_fn(void);
typedef const lm_backend *table_fn(bool gpu, unsigned index);

static struct {
    pthread_mutex_t lock;
    table_fn *table;
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool lm_mlx_likely(void) {
#if defined(__APPLE__) && defined(__aarch64__)
    return true;
#else
    return access("/dev/nvidiactl", R_OK) == 0;
#endif
}

/* Beside the program, as it is built, or where an installation puts it. */
static lm_status open_module(table_fn **out, lm_err *err) {
    static const char *const places[] = {MODULE, "../lib/mlx-ollama/" MODULE};
    char program[PATH_MAX], path[PATH_MAX + sizeof "../lib/mlx-ollama/" MODULE];
    if (!lm_program_path(program)) return lm_fail(err, LM_IO, "cannot find out where this program lies");
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s", program, places[i]);
        if (access(path, F_OK)) continue;
        void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!module)
            return lm_fail(err, LM_NOT_FOUND, "the MLX backend cannot be loaded: %s; " REMEDY, dlerror());
        /* ISO C has no cast from an object to a function. */
        void *symbol = dlsym(module, "lm_mlx_table"), *check = dlsym(module, "lm_mlx_misfit");
        if (!symbol || !check)
            return lm_fail(err, LM_CORRUPT, "%s is not this program's MLX backend; " REMEDY, path);
        misfit_fn *misfit;
        memcpy(&misfit, &check, sizeof check);
        memcpy(out, &symbol, sizeof symbol);
        if (misfit()) return lm_fail(err, LM_CORRUPT, "the MLX backend was %s; " REMEDY, misfit());
        return LM_OK;
    }
    return lm_fail(err, LM_NOT_FOUND, "this build has no MLX backend; " REMEDY);
}

lm_status lm_mlx_load(lm_mlx_where where, const lm_backend **out, lm_err *err) {
    return lm_mlx_load_at(where, 0, out, err);
}

lm_status lm_mlx_load_at(lm_mlx_where where, uint32_t index, const lm_backend **out, lm_err *err) {
    *out = NULL;
    pthread_mutex_lock(&loaded.lock);
    table_fn *table = NULL;
    lm_status st = loaded.table ? LM_OK : open_module(&table, err);
    if (table && st == LM_OK) loaded.table = table;
    pthread_mutex_unlock(&loaded.lock);
    if (st != LM_OK) return st;
    *out = loaded.table(where == LM_MLX_GPU, index);
    if (*out) return LM_OK;
    uint32_t n = 0;
    while (n < index && loaded.table(where == LM_MLX_GPU, n)) n++;
    if (!n)
        return lm_fail(err, LM_UNSUPPORTED,
                       "MLX finds no GPU here (Metal or CUDA); use --device cpu or --backend cpu");
    return lm_fail(err, LM_UNSUPPORTED, "MLX finds %u %s here, counted from 0: there is no %u", n,
                   where == LM_MLX_GPU ? "GPUs" : "CPUs", index);
}
