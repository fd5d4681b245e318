/* mlx-ollama-import FILE.gguf DIRECTORY: the importer alone, for scripts and checks. */
#include "store/import_private.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const char usage[] = "usage: mlx-ollama-import [--tokenizer] FILE.gguf DIRECTORY\n"
                            "Converts a GGUF file into a new MLX model directory.\n"
                            "  --tokenizer  only the tokenizer's files, also into a directory that exists\n";

static bool show(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    if (isatty(2)) {
        fprintf(stderr, "\r%5.1f %% of %.1f MB", total ? 100.0 * (double)done / (double)total : 100.0,
                (double)total / 1e6);
    }
    return true;
}

static lm_status tokenizer_only(const char *gguf, const char *dir, lm_err *err) {
    lm_gguf *g = NULL;
    lm_status st = lm_gguf_open(&g, gguf, err);
    if (st == LM_OK) st = lm_dir_make(dir, err);
    if (st == LM_OK) st = lm_import_tokenizer(g, dir, err);
    lm_gguf_close(g);
    return st;
}

int main(int argc, char **argv) {
    bool tokenizer = argc == 4 && strcmp(argv[1], "--tokenizer") == 0;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc != 3 && !tokenizer) {
        fputs(usage, stderr);
        return 2;
    }
    const char *gguf = argv[argc - 2], *dir = argv[argc - 1];
    lm_err err = {0};
    lm_status st = tokenizer ? tokenizer_only(gguf, dir, &err) : lm_import_gguf(gguf, dir, show, NULL, &err);
    if (isatty(2) && !tokenizer) fputc('\n', stderr);
    if (st != LM_OK) {
        fprintf(stderr, "mlx-ollama-import: %s\n", err.text);
        return 1;
    }
    printf("%s\n", dir);
    return 0;
}
