# Sources of the matrix products and the flags that each needs; src/cpu/CMakeLists.txt includes this and hands
# LM_MATMUL_SRC to lm_module. Kernels are compiled with -O3 in every build type: the tests run them thousands of times.
set(LM_MATMUL_SRC act.c matmul_reference.c matmul_portable.c)
set_source_files_properties(matmul_portable.c PROPERTIES COMPILE_OPTIONS "-O3")
