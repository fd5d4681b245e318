/* Whatever stands in Ollama's store as a manifest (or a list of them): it is passed over or listed, nothing
 * leads out of the store, and what is listed can be found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/own.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char home[64], manifest[300];

static void put(const char *path, lm_str bytes) {
    if (lm_file_write(path, bytes, NULL) != LM_OK) abort();
}

static void put_blob(const char *dir, lm_str bytes) {
    char hex[65], path[300];
    lm_blob_hex(bytes, hex);
    snprintf(path, sizeof path, "%s/sha256-%s", dir, hex);
    put(path, bytes);
}

/* A store whose blobs the seeds' manifests name: make_seeds.py has the same texts. */
static void set_up(void) {
    char dir[200];
    snprintf(home, sizeof home, "/tmp/lm-fuzz-XXXXXX");
    if (!mkdtemp(home)) abort();
    snprintf(dir, sizeof dir, "%s/theirs/manifests/registry.ollama.ai/library/m", home);
    if (lm_dir_make(dir, NULL) != LM_OK) abort();
    snprintf(manifest, sizeof manifest, "%s/latest", dir);
    snprintf(dir, sizeof dir, "%s/theirs/blobs", home);
    if (lm_dir_make(dir, NULL) != LM_OK) abort();
    put_blob(dir, LM_STR("{}"));
    put_blob(dir, LM_STR("GGUF"));
    put_blob(dir, LM_STR("tensor"));
    put_blob(dir, LM_STR("be kind"));
    snprintf(dir, sizeof dir, "%s/theirs", home);
    if (setenv("HOME", home, 1) || setenv("OLLAMA_MODELS", dir, 1)) abort();
    snprintf(dir, sizeof dir, "%s/a.ini", home);
    put(dir, LM_STR("[aliases]\n"));
}

/* The same bytes as a tensor's blob: what its header says of its form becomes JSON, or nothing. */
static void as_blob(lm_str bytes) {
    char store[100], hex[65], *path;
    lm_manifest m = {0};
    lm_buf out;
    lm_buf_init(&out, 16u << 20);
    snprintf(store, sizeof store, "%s/theirs", home);
    lm_blob_hex(LM_STR("{}"), hex);
    snprintf(lm_manifest_add(&m, LM_TYPE_IMAGE "json", "config.json")->digest, LM_DIGEST_SIZE, "sha256:%s",
             hex);
    lm_blob_hex(LM_STR("any"), hex);
    snprintf(lm_manifest_add(&m, LM_TYPE_TENSOR, "a.weight")->digest, LM_DIGEST_SIZE, "sha256:%s", hex);
    path = lm_blob_path(store, m.layers[1].digest);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes.ptr, 1, bytes.len, f) != bytes.len || fclose(f)) abort();
    if (lm_ollama_config(store, &m, &out) && (!out.len || out.ptr[0] != '{')) abort();
    unlink(path);
    free(path);
    lm_manifest_release(&m);
    lm_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool ready;
    if (!ready) set_up();
    ready = true;
    FILE *f = fopen(manifest, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();

    char aliases[100], own[100], out[160];
    lm_store *s = NULL;
    lm_entry *list = NULL, found;
    uint32_t n = 0;
    snprintf(aliases, sizeof aliases, "%s/a.ini", home);
    snprintf(own, sizeof own, "%s/own", home);
    snprintf(out, sizeof out, "%s/evil", home);
    lm_store_config config = {.own_dir = own, .aliases = aliases};
    if (lm_store_open(&s, &config, NULL) != LM_OK || lm_store_list(s, &list, &n, NULL) != LM_OK || n > 1)
        abort();
    if (n && lm_store_find(s, list[0].name, &found, NULL) != LM_OK && !list[0].gguf) abort();
    if (n && strncmp(list[0].dir, own, strlen(own))) abort();
    if (access(out, F_OK) == 0) abort();
    free(list);
    lm_store_close(s);
    if (lm_dir_remove(own, NULL) != LM_OK) abort();
    as_blob((lm_str){(const char *)data, size});
    return 0;
}
