/* sources.h - the files that FROM and ADAPTER of a Modelfile mean, as they are uploaded for /api/create. Private to the room.
 *
 * A path to a file is that file. Of a directory it is the first of these forms that is there:
 *
 *     model*.safetensors, consolidated*.safetensors, adapters.safetensors, adapter_model.safetensors, *.safetensors,
 *     pytorch_model*.bin, consolidated*.pth
 *         with *.json of it and of the directories in it, tokenizer.model, *.tiktoken, *.jinja, merges.txt, vocab.txt, LICENSE*
 *     *.gguf
 *         alone
 *
 * Names are relative to the directory, with '/'. Empty files, and what begins with a dot, are left out.
 *
 * Source: filesForModel in parser/parser.go of Ollama 0.17, which knows neither *.safetensors of the other names nor the text files but
 * *.json and tokenizer.model, and gives a file of a directory within the name that it has there.
 */
#ifndef LM_CLI_SOURCES_H
#define LM_CLI_SOURCES_H

#include "base/base.h"

typedef struct source {
    char *name, *path; /* as the server shall call it; where it is */
    uint64_t bytes;
    char digest[72]; /* "sha256:..", "": not known yet */
} source;

typedef struct sources {
    source *files;
    uint32_t n, room;
} sources;

/* Where a value of FROM or ADAPTER points to, seen from the Modelfile's directory: ~ and ~user are homes. The caller frees. */
char *sources_path(const char *value, const char *dir);
/* It can only be meant as a path: it begins with '/', '.' or '~', or ends like a file of weights. */
bool sources_is_path(const char *value);

/* Adds what the path means.
 *   LM_NOT_FOUND  it is not there
 *   LM_INVALID    a directory without a model, a name that is there twice, a git-lfs pointer in place of a file, a link that
 *                 leads out of the directory (Hugging Face's cache, whose snapshots are such links, is allowed)
 *   LM_IO, LM_TOO_LARGE */
lm_status sources_add(sources *s, const char *path, lm_err *err) LM_CHECKED;
void sources_release(sources *s); /* a zeroed one is allowed */

/* Fills in the digest. progress is called now and then with how much of the file has been read; false ends it (LM_CANCELLED).
 * LM_IO: it cannot be read, or is not as long as it was. */
lm_status source_hash(source *f, bool (*progress)(void *ctx, uint64_t done), void *ctx,
                      lm_err *err) LM_CHECKED;

#endif
