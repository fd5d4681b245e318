/* store.h - which models there are, under which names, and how GGUF files become MLX directories.
 *
 * Names: [host/][namespace/]model[:tag], looked up without regard to case, ":latest" when no tag is written. An alias
 * table (share/aliases.ini, then ~/.config/mlx-ollama/aliases.ini, later entries win) maps Ollama names to one or more
 * Hugging Face repositories, tried in order.
 *
 * Places, first match wins: the own store (~/.mlx-ollama/models), configured roots, ~/workspace/mlx, the Hugging Face cache
 * (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub). Nothing is copied or indexed on disk: a listing looks.
 *
 * Threads: any; the functions that write lock the own store between processes.
 */
#ifndef LM_STORE_H
#define LM_STORE_H

#include "base/base.h"

typedef struct lm_store lm_store;

typedef struct lm_store_config {
    const char *own_dir;        /* NULL: ~/.mlx-ollama/models */
    const char *const *roots;   /* further directories that hold model directories, n_roots */
    uint32_t n_roots;
    const char *aliases;        /* NULL: the installed table and the user's */
} lm_store_config;

lm_status lm_store_open(lm_store **out, const lm_store_config *config, lm_err *err) LM_CHECKED;
void lm_store_close(lm_store *s);

/* ---- names */
typedef struct lm_name {
    char host[352];
    char ns[84];
    char model[84];
    char tag[84];
} lm_name;
/* LM_INVALID: "invalid model name". Case is kept. Also hf.co/org/repo[:quant] and plain org/repo. */
lm_status lm_name_parse(lm_str text, lm_name *out, lm_err *err) LM_CHECKED;
void lm_name_short(const lm_name *n, char out[700]); /* as lists show it: default host and namespace left out, tag always there */
void lm_name_full(const lm_name *n, char out[700]);  /* registry.ollama.ai/library/llama3.2:latest */

/* ---- models on this disk */
typedef struct lm_entry {
    char name[700];        /* as lists show it */
    char dir[1024];        /* the model directory */
    char digest[65];       /* 64 hex digits: sha256 over names, sizes and times of its files */
    uint64_t size;         /* bytes */
    int64_t modified_ns;   /* wall clock */
    bool owned;            /* lies in the own store: delete removes the files */
} lm_entry;
/* All models, newest first; *out is malloc'd, the caller frees. */
lm_status lm_store_list(lm_store *s, lm_entry **out, uint32_t *n, lm_err *err) LM_CHECKED;
/* By a name as a user types it, aliases included. LM_NOT_FOUND: "model 'NAME' not found". LM_INVALID: malformed. */
lm_status lm_store_find(lm_store *s, const char *name, lm_entry *out, lm_err *err) LM_CHECKED;
/* Owned: removes the directory atomically (renamed away first). Linked: forgets it (a tombstone in the own store), the
 * user's files stay. */
lm_status lm_store_delete(lm_store *s, const char *name, lm_err *err) LM_CHECKED;
/* Where a new model of this name goes; its parent directories exist. The caller frees. */
lm_status lm_store_place(lm_store *s, const char *name, char **dir, lm_err *err) LM_CHECKED;

/* ---- import */
/* done and total in bytes of the source; called now and then from the importing thread. Return false to cancel. */
typedef bool lm_import_progress(void *ctx, uint64_t done, uint64_t total);
/* Converts one GGUF file into a new MLX model directory at dir (which must not exist; it appears whole or not at all).
 * Memory is independent of the model's size. LM_CORRUPT, LM_UNSUPPORTED, LM_NO_SPACE, LM_CANCELLED. */
lm_status lm_import_gguf(const char *gguf, const char *dir, lm_import_progress *progress, void *ctx, lm_err *err) LM_CHECKED;

#endif
