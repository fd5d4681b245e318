/* matmul_avx512_test.c - matmul_test.c once more with the AVX-512 kernels executed through SIMDe
 * (libsimde-dev), so that their logic is tested on processors without AVX-512. Where the processor has it,
 * matmul_test.c runs the real ones. */
#if defined(__AVX2__) && defined(__has_include)
#if __has_include(<simde/x86/avx512.h>)
#define LM_AVX512_EMULATED
#endif
#endif

#if defined(LM_AVX512_EMULATED)
#define lm_matmul_avx512 lm_matmul_avx512_emulated
#include "cpu/matmul.h"
#undef lm_matmul_avx512
lm_matmul_fn lm_matmul_avx512_emulated;
#define lm_matmul_avx512 lm_matmul_avx512_emulated
/* SIMDe's own inline functions don't keep to our warnings. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wundef"
#include "cpu/matmul_avx512.c"
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
