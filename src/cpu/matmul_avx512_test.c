/* matmul_avx512_test.c - matmul_test.c once more with the AVX-512 kernels executed through SIMDe
 * (libsimde-dev), so that their logic is tested on processors without AVX-512. Where the processor has it,
 * matmul_test.c runs the real ones. */
#if defined(__AVX2__) && defined(__has_include) && !defined(LM_NO_EMULATION)
#if __has_include(<simde/x86/avx512.h>)
#define LM_AVX512_EMULATED
#endif
#endif

#if defined(LM_AVX512_EMULATED)
/* SIMDe's own inline functions don't keep to our warnings. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wundef"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <string.h>

/* As functions of their own: unrolled into the kernels, the loops behind them take a minute to compile. */
#define APART static __attribute__((noinline))

APART simde__m512i dpbusd(simde__m512i sum, simde__m512i a, simde__m512i b) {
    return simde_mm512_dpbusd_epi32(sum, a, b);
}
APART simde__m512 fmadd(simde__m512 a, simde__m512 b, simde__m512 c) {
    return simde_mm512_fmadd_ps(a, b, c);
}
APART simde__m512 permute(simde__m512i index, simde__m512 v) {
    return simde_mm512_permutexvar_ps(index, v);
}
APART simde__m512i shuffle(simde__m512i table, simde__m512i v) {
    return simde_mm512_shuffle_epi8(table, v);
}
APART simde__m512i shift_each(simde__m512i v, simde__m512i by) {
    return simde_mm512_srlv_epi64(v, by);
}
APART simde__m512 dot_pairs(simde__m512 sum, simde__m512i a, simde__m512i b) {
    simde__m512bh pairs_a, pairs_b;
    memcpy(&pairs_a, &a, sizeof a);
    memcpy(&pairs_b, &b, sizeof b);
    return simde_mm512_dpbf16_ps(sum, pairs_a, pairs_b);
}
/* The one instruction here that SIMDe 0.7 doesn't know. */
APART simde__m512 to_floats(simde__m512i v) {
    int32_t from[16];
    float to[16];
    memcpy(from, &v, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = (float)from[i];
    return simde_mm512_loadu_ps(to);
}
#undef _mm512_dpbusd_epi32
#undef _mm512_fmadd_ps
#undef _mm512_permutexvar_ps
#undef _mm512_shuffle_epi8
#undef _mm512_srlv_epi64
#define _mm512_dpbusd_epi32   dpbusd
#define _mm512_fmadd_ps       fmadd
#define _mm512_permutexvar_ps permute
#define _mm512_shuffle_epi8   shuffle
#define _mm512_srlv_epi64     shift_each
#define _mm512_cvtepi32_ps    to_floats

/* The library's are the real ones. */
#define lm_matmul_avx512           lm_matmul_avx512_emulated
#define lm_matmul_avx512_direct    lm_matmul_avx512_direct_emulated
#define lm_matmul_avx512_many      lm_matmul_avx512_many_emulated
#define lm_matmul_avx512_bf16      lm_matmul_avx512_bf16_emulated
#define lm_act_kind_avx512_bf16    lm_act_kind_avx512_bf16_emulated
#define lm_act_prepare_avx512_bf16 lm_act_prepare_avx512_bf16_emulated
#include "cpu/matmul_avx512.c"
#include "cpu/matmul_avx512_direct.c"
#include "cpu/matmul_avx512_bf16.c"
#pragma GCC diagnostic pop
#undef ROWS
#include "cpu/matmul_test.c"
#else
#include "base/test.h"

static void the_emulated_test_needs_avx2_and_libsimde_dev(void **state) {
    (void)state;
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_emulated_test_needs_avx2_and_libsimde_dev)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
