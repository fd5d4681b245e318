/* Which kernels this machine can run. The order below is the order of preference. */
#include "cpu.h"
#include "kernels.h"

#include <string.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static const char *const known[] = {"reference"};

static const lm_kernels *const tables[] = {
    &lm_kernels_reference,
};
#define N_TABLES (sizeof tables / sizeof *tables)

static bool runs_here(const lm_kernels *k) {
    (void)k;
    return true;
}

const char *const *lm_cpu_features(void) {
    static const char *names[N_TABLES + 1];
    /* Written the same by every thread that asks. */
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_TABLES; i++)
        if (runs_here(tables[i])) names[n++] = tables[i]->name;
    return names;
}

lm_status lm_kernels_choose(const char *features, const lm_kernels **out, lm_err *err) {
    for (uint32_t i = 0; i < N_TABLES; i++) {
        if (features && strcmp(features, tables[i]->name) != 0) continue;
        if (runs_here(tables[i])) {
            *out = tables[i];
            return LM_OK;
        }
        if (features) break;
    }
    for (uint32_t i = 0; i < sizeof known / sizeof *known; i++)
        if (features && strcmp(features, known[i]) == 0)
            return lm_fail(
                err, LM_UNSUPPORTED,
                "this processor cannot run the feature set %s; leave it out to get the best it can",
                features);
    return lm_fail(err, LM_INVALID,
                   "no feature set is called '%s'; known are reference, portable, avx2, avx512, neon",
                   features ? features : "");
}
