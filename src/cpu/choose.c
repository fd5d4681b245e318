/* Which kernels this machine can run. The table below is in the order of preference. */
#include "cpu.h"
#include "kernels.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef struct choice {
    const char *name;
    const lm_kernels *table; /* NULL: not for this kind of processor */
    bool (*runs)(void);
} choice;

static bool always(void) {
    return true;
}

#if defined(__x86_64__)
/* The builtin also asks whether the system saves the wide registers. */
static bool has_avx2(void) {
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#define X86(name) &lm_kernels_##name, has_##name
#else
#define X86(name) NULL, NULL
#endif

#if defined(__aarch64__)
#define ARM(name) &lm_kernels_##name, always
#else
#define ARM(name) NULL, NULL
#endif

#define ANY(name) &lm_kernels_##name, always

static const choice choices[] = {
    {"avx512", X86(avx512)},     {"avx2", X86(avx2)},           {"neon", ARM(neon)},
    {"portable", ANY(portable)}, {"reference", ANY(reference)},
};
#define N_CHOICES (sizeof choices / sizeof *choices)

static bool runs_here(const choice *c) {
    return c->table && c->runs();
}

static const char *names[N_CHOICES + 1];

static void list_names(void) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_CHOICES; i++)
        if (runs_here(&choices[i])) names[n++] = choices[i].name;
}

const char *const *lm_cpu_features(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, list_names);
    return names;
}

lm_status lm_kernels_choose(const char *features, const lm_kernels **out, lm_err *err) {
    for (uint32_t i = 0; i < N_CHOICES; i++) {
        const choice *c = &choices[i];
        if (features && strcmp(features, c->name) != 0) continue;
        if (runs_here(c)) {
            *out = c->table;
            return LM_OK;
        }
        if (features)
            return lm_fail(
                err, LM_UNSUPPORTED,
                "this processor cannot run the feature set %s; name none and the best it can is taken",
                features);
    }
    return lm_fail(err, LM_INVALID,
                   "no feature set is called '%s'; known are avx512, avx2, neon, portable, reference",
                   features ? features : "");
}
