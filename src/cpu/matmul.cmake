# Sources of the matrix products and the flags that each needs; src/cpu/CMakeLists.txt includes this and hands
# LM_MATMUL_SRC to lm_module. Kernels are compiled with -O3 in every build type: the tests run them thousands of times.
set(LM_MATMUL_SRC act.c matmul_reference.c matmul_portable.c)
set_source_files_properties(matmul_portable.c PROPERTIES COMPILE_OPTIONS "-O3")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(lm_matmul_avx2 act_avx2.c matmul_avx2.c matmul_avx2_direct.c matmul_avx2_many.c matmul_avx2_plain.c)
    list(APPEND LM_MATMUL_SRC ${lm_matmul_avx2})
    set_source_files_properties(${lm_matmul_avx2} PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma;-mf16c")
    set(lm_avx512 "-O3;-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni")
    list(APPEND LM_MATMUL_SRC matmul_avx512.c matmul_avx512_direct.c matmul_avx512_bf16.c)
    set_source_files_properties(matmul_avx512.c matmul_avx512_direct.c PROPERTIES COMPILE_OPTIONS "${lm_avx512}")
    set_source_files_properties(matmul_avx512_bf16.c PROPERTIES COMPILE_OPTIONS "${lm_avx512};-mavx512bf16")
    # This test runs the AVX-512 kernels on AVX2 through SIMDe where it is installed. It has one thread.
    set_source_files_properties(matmul_avx512_test.c PROPERTIES COMPILE_OPTIONS "-O1;-mavx2;-mfma;-mf16c;-Wno-psabi")
    if(LM_SANITIZE MATCHES thread)
        set_source_files_properties(matmul_avx512_test.c PROPERTIES COMPILE_DEFINITIONS LM_NO_EMULATION)
    endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    list(APPEND LM_MATMUL_SRC act_neon.c matmul_neon.c matmul_neon_dot.c matmul_neon_i8mm.c)
    set_source_files_properties(act_neon.c matmul_neon.c PROPERTIES COMPILE_OPTIONS "-O3")
    set_source_files_properties(matmul_neon_dot.c PROPERTIES COMPILE_OPTIONS "-O3;-march=armv8.2-a+dotprod")
    set_source_files_properties(matmul_neon_i8mm.c PROPERTIES COMPILE_OPTIONS "-O3;-march=armv8.2-a+dotprod+i8mm")
endif()
# Unrolled kernels under the sanitizers take minutes each to compile. Heap and globals stay checked; their own stack arrays,
# all of fixed size, and undefined behaviour are what the portable version of the same arithmetic is checked for.
if(LM_SANITIZE MATCHES address AND CMAKE_C_COMPILER_ID STREQUAL GNU)
    foreach(file ${lm_matmul_avx2} matmul_avx512.c matmul_avx512_direct.c matmul_avx512_bf16.c matmul_avx512_test.c)
        set_property(SOURCE ${file} APPEND PROPERTY COMPILE_OPTIONS --param asan-stack=0 -fno-sanitize=undefined)
    endforeach()
    # Checks as calls and no names of variables for a debugger: slower, but compiled in seconds.
    set_property(SOURCE matmul_avx512_test.c APPEND PROPERTY COMPILE_OPTIONS --param asan-instrumentation-with-call-threshold=0 -g1)
endif()
