/* Which kernels this machine can run. The table below is in the order of preference. */
#include "cpu.h"
#include "kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
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
static bool has_avx512_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#define X86(name) &lm_kernels_##name, has_##name
#else
#define X86(name) NULL, NULL
#endif

#if defined(__aarch64__)
#if defined(__APPLE__)
static bool has_feature(const char *name) {
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname(name, &has, &size, NULL, 0) == 0 && has;
}
#define has_neon_dotprod always /* every Apple processor that runs macOS */
static bool has_neon_i8mm(void) {
    return has_feature("hw.optional.arm.FEAT_I8MM");
}
#elif defined(__linux__)
/* Numbers of the kernel's interface; old headers don't name them all. */
static bool has_neon_dotprod(void) {
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
}
static bool has_neon_i8mm(void) {
    return has_neon_dotprod() && getauxval(AT_HWCAP2) >> 13 & 1; /* HWCAP2_I8MM */
}
#else
static bool never(void) {
    return false;
}
#define has_neon_dotprod never
#define has_neon_i8mm    never
#endif
#define has_neon  always
#define ARM(name) &lm_kernels_##name, has_##name
#else
#define ARM(name) NULL, NULL
#endif

#define ANY(name) &lm_kernels_##name, always

static const choice choices[] = {
    {"avx512-bf16", X86(avx512_bf16)},
    {"avx512", X86(avx512)},
    {"avx2", X86(avx2)},
    {"neon-i8mm", ARM(neon_i8mm)},
    {"neon-dotprod", ARM(neon_dotprod)},
    {"neon", ARM(neon)},
    {"portable", ANY(portable)},
    {"reference", ANY(reference)},
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
    char known[128] = "";
    for (uint32_t i = 0, at = 0; i < N_CHOICES; i++)
        at += (uint32_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", choices[i].name);
    return lm_fail(err, LM_INVALID, "no feature set is called '%s'; known are %s", features ? features : "",
                   known);
}
