/* mlx-ollama-import FILE.gguf DIRECTORY: the importer alone, for scripts and checks. */
#include "store/store.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool show(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    if (isatty(2)) {
        fprintf(stderr, "\r%5.1f %% of %.1f MB", total ? 100.0 * (double)done / (double)total : 100.0,
                (double)total / 1e6);
    }
    return true;
}

int main(int argc, char **argv) {
    if (argc != 3 || strcmp(argv[1], "--help") == 0) {
        fprintf(argc == 2 ? stdout : stderr, "usage: mlx-ollama-import FILE.gguf DIRECTORY\n"
                                             "Converts a GGUF file into a new MLX model directory.\n");
        return argc == 2 ? 0 : 2;
    }
    lm_err err = {0};
    lm_status st = lm_import_gguf(argv[1], argv[2], show, NULL, &err);
    if (isatty(2)) fputc('\n', stderr);
    if (st != LM_OK) {
        fprintf(stderr, "mlx-ollama-import: %s\n", err.text);
        return 1;
    }
    printf("%s\n", argv[2]);
    return 0;
}
