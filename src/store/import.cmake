# The GGUF importer's part of this room; CMakeLists.txt includes it.
set(import_sources newdir.c import.c import_family.c import_meta.c import_config.c import_encoder.c import_tensors.c import_stream.c
    import_blocks.c import_regrid.c import_vocab.c import_tokenizer.c import_pretokens.c import_spm.c import_wordpiece.c import_unigram.c)

# Loops over blocks are written for the compiler to vectorise.
set_source_files_properties(import_blocks.c import_regrid.c PROPERTIES COMPILE_OPTIONS "-O3")

# The importer alone, for scripts and checks: mlx-ollama-import FILE.gguf DIRECTORY. It is built from its own files, so
# that it needs neither the tokenizer library nor a model.
add_executable(mlx-ollama-import import_main.c ${import_sources})
target_include_directories(mlx-ollama-import PRIVATE ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(mlx-ollama-import PRIVATE lm_weights PkgConfig::CRYPTO PkgConfig::JANSSON)
