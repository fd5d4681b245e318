/* store.h - which models there are, under which names, and how GGUF files become MLX directories.
 *
 * Names and the alias table, which maps Ollama names to Hugging Face repositories, tried in order, are names/names.h.
 *
 * Places, first match wins: the own store (~/.mlx-ollama/models), configured roots, ~/workspace/mlx, LM Studio's folders, the
 * Hugging Face cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub), Ollama's store (OLLAMA_MODELS, else
 * ~/.ollama/models and /usr/share/ollama/.ollama/models), which is never written to. Last of all come the GGUF files of
 * Ollama and LM Studio, which have to be imported. Nothing is copied or indexed on disk: a listing looks.
 *
 * Threads: any; the functions that write lock the own store between processes.
 */
#ifndef LM_STORE_H
#define LM_STORE_H

#include "base/base.h"
#include "names/names.h"
#include "weights/weights.h"

typedef struct lm_store lm_store;

/* What is done with GGUF files in the stores of Ollama and LM Studio. */
typedef enum lm_gguf_use {
    LM_GGUF_ON_USE, /* listed, and imported when one is first used */
    LM_GGUF_ASK,    /* listed; a use is refused with the command that imports it */
    LM_GGUF_NEVER,  /* neither listed nor found */
} lm_gguf_use;

typedef struct lm_store_config {
    const char *own_dir;        /* NULL: ~/.mlx-ollama/models */
    const char *const *roots;   /* further directories that hold model directories, n_roots */
    uint32_t n_roots;
    const char *aliases;        /* NULL: the installed table and the user's */
    lm_gguf_use gguf;
} lm_store_config;

lm_status lm_store_open(lm_store **out, const lm_store_config *config, lm_err *err) LM_CHECKED;
void lm_store_close(lm_store *s);

/* done and total in bytes of the source; called now and then from the thread that works. Return false to
 * cancel: LM_CANCELLED. */
typedef bool lm_store_progress(void *ctx, uint64_t done, uint64_t total);

/* ---- models on this disk */
/* Where the Hugging Face tools keep what they fetched, by their own rules; the caller frees. */
char *lm_store_hub_cache(void);
typedef struct lm_entry {
    char name[700];        /* as lists show it */
    char dir[1024];        /* the model directory */
    char digest[65];       /* 64 hex digits: sha256 of its manifest, or over names, sizes and times of its files */
    uint64_t size;         /* bytes */
    int64_t modified_ns;   /* wall clock */
    bool owned;            /* lies in the own store: delete removes the files */
    bool managed;          /* of it: a manifest names the files, dir is a view of links to them */
    bool gguf;             /* runs after lm_store_ready only: dir holds what comes with the file (template, system, ...), once
                              lm_store_find has found it, and the rest is known without looking into the file */
    char file[1024];       /* gguf: the GGUF file */
    char family[32], parameters[16], quantization[16]; /* gguf: as its place says, "" where it says nothing */
} lm_entry;
/* All models, newest first; *out is malloc'd, the caller frees. */
lm_status lm_store_list(lm_store *s, lm_entry **out, uint32_t *n, lm_err *err) LM_CHECKED;
/* By a name as a user types it, aliases included. LM_NOT_FOUND: "model 'NAME' not found". LM_INVALID: malformed. */
lm_status lm_store_find(lm_store *s, const char *name, lm_entry *out, lm_err *err) LM_CHECKED;
/* The repositories of the Hugging Face hub that a name stands for, best first: those of the alias table, or the name
 * itself when it is a repository's. Returns how many of room were filled. */
uint32_t lm_store_repos(const lm_store *s, const lm_name *name, lm_name *out, uint32_t room);
/* As lm_store_find, but only this very name in the own store. */
lm_status lm_store_find_own(lm_store *s, const char *name, lm_entry *out, lm_err *err) LM_CHECKED;
/* Makes a GGUF model that lies elsewhere one of the own store, under its name, and puts that into *model; any other model is
 * ready as it is. Waits for whoever imports already; a file that was imported under another name is not imported again.
 * LM_INVALID: GGUF_ASK, the text names the command. LM_UNSUPPORTED: adapters, several files, what the importer does not know.
 * LM_CORRUPT: the file is not the one that its digest promises. LM_CANCELLED, LM_NO_SPACE. */
lm_status lm_store_ready(lm_store *s, lm_entry *model, lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;
bool lm_store_needs_asking(const lm_store *s); /* lm_store_ready refuses: nothing is imported without having been asked for */
/* The same, whatever the setting says: for whom has asked for it. */
lm_status lm_store_adopt(lm_store *s, lm_entry *model, lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;
/* Owned: removes the manifest, and then what nothing else needs of it. Linked: forgets it (a tombstone in the own store), the
 * user's files stay. */
lm_status lm_store_delete(lm_store *s, const char *name, lm_err *err) LM_CHECKED;
/* The same model under another name: a manifest more, the blobs are shared. A model that lies elsewhere becomes
 * one of the own store that way. LM_NOT_FOUND: model "SOURCE" not found. */
lm_status lm_store_copy(lm_store *s, const char *source, const char *destination, lm_store_progress *progress,
                        void *ctx, lm_err *err) LM_CHECKED;
/* Removes what no manifest names: blobs (uploaded ones an hour after they came), views, what killed processes
 * left. Does nothing while anybody, in any process, has a draft or a blob open: who is last does it. */
void lm_store_prune(lm_store *s);

/* ---- blobs: files of the own store by the sha256 of their content (docs/STORE.md) */
#define LM_DIGEST_SIZE 72 /* "sha256:", 64 hex digits in small letters, NUL */
/* "sha256:" or "sha256-" and 64 hex digits. LM_INVALID: "invalid digest format". */
lm_status lm_digest_parse(lm_str text, char out[LM_DIGEST_SIZE], lm_err *err) LM_CHECKED;
/* True when it is there; it then stays for another hour although no manifest names it. */
bool lm_store_has_blob(lm_store *s, const char *digest);
/* Whether a blob that is there begins as GGUF files do. */
bool lm_store_blob_is_gguf(lm_store *s, const char *digest);

typedef struct lm_blob lm_blob; /* one that is being written, by one thread at a time */
/* bytes: how many will come, 0 when that is not known. LM_NO_SPACE: they do not fit. */
lm_status lm_blob_open(lm_blob **out, lm_store *s, uint64_t bytes, lm_err *err) LM_CHECKED;
lm_status lm_blob_write(lm_blob *b, lm_str bytes, lm_err *err) LM_CHECKED;
/* Puts it into the store. LM_INVALID: 'digest mismatch, expected "..", got ".."'. */
lm_status lm_blob_commit(lm_blob *b, const char *digest, lm_err *err) LM_CHECKED;
void lm_blob_close(lm_blob *b); /* drops what was not committed; NULL allowed */

/* ---- conversion (docs/CONVERT.md) */

/* What shall become of a model's numbers. */
typedef struct lm_conversion {
    char name[16];       /* as it was asked for, in capitals: "Q4_K_M" */
    lm_quant_spec quant; /* NONE: numbers of dtype */
    lm_dtype dtype;      /* of quant NONE */
    bool mixed;          /* the layers that lose most get 6 bits */
} lm_conversion;
/* Ollama's and MLX's names, without regard to case. LM_INVALID: Ollama's text, with the names that there are. */
lm_status lm_conversion_parse(const char *name, lm_conversion *out, lm_err *err) LM_CHECKED;

/* What a model directory's weights are. */
typedef struct lm_form_info {
    char form[16];  /* "F16", "BF16", "F32": what most of them are; "" when they are quantised already */
    bool foreign;   /* they have to be converted (how NULL) before they run here or in mlx-lm */
} lm_form_info;
lm_status lm_convert_look(const char *dir, lm_form_info *out, lm_err *err) LM_CHECKED;

/* Writes the weights of the model directory `from` and its config.json, converted, into the directory `to`, which has
 * neither; other files are left to the caller. how NULL: in the form that MLX has, numbers as they are. Memory is
 * independent of the model's size; what is half done is the caller's to remove. LM_UNSUPPORTED: cannot be converted. */
lm_status lm_convert_dir(const char *from, const char *to, const lm_conversion *how, lm_store_progress *progress, void *ctx,
                         lm_err *err) LM_CHECKED;

/* NAME as a plain model directory at dir, which must not exist: it appears whole or not at all. Files are cloned where the file
 * system can, else copied: they are the caller's to change. Foreign weights are converted, a GGUF model of another store is imported first
 * (lm_store_ready; progress then has two rounds). LM_NOT_FOUND, LM_INVALID,
 * LM_NO_SPACE, LM_BUSY: another export to this place is running. */
lm_status lm_store_export(lm_store *s, const char *name, const char *dir, lm_store_progress *progress, void *ctx,
                          lm_err *err) LM_CHECKED;

/* ---- drafts: a model of the own store in the making. It appears whole, with commit, or not at all.
 * While a draft is open nothing that it has taken in can be pruned. By one thread at a time. */
typedef struct lm_draft lm_draft;

/* What a Modelfile adds to the files of a model. */
typedef enum lm_layer_kind {
    LM_LAYER_FILE,
    LM_LAYER_TEMPLATE,
    LM_LAYER_SYSTEM,
    LM_LAYER_PARAMS,   /* JSON: option -> value */
    LM_LAYER_MESSAGES, /* JSON: [{role, content}] */
    LM_LAYER_ADAPTER,  /* a LoRA adapter in the form that model.h's LM_ADAPTER_FILE has; at most one */
    LM_LAYER_LICENSE,  /* any number */
    LM_LAYER_KINDS
} lm_layer_kind;

/* How a file comes into the store. */
typedef enum lm_take {
    LM_TAKE_LINK, /* stays where it is: shared by clone or hard link where the file system can, else copied */
    LM_TAKE_MOVE, /* is moved; must lie in a place of lm_draft_staging's or lm_store_partial's */
} lm_take;

lm_status lm_draft_open(lm_draft **out, lm_store *s, lm_err *err) LM_CHECKED;
/* Gives back what it holds, and prunes. NULL allowed. */
void lm_draft_close(lm_draft *d);
/* progress: bytes that have been read so far of this call's; may be NULL. */
lm_status lm_draft_from(lm_draft *d, const lm_entry *model, lm_store_progress *progress, void *ctx,
                        lm_err *err) LM_CHECKED;
/* One file of the model directory. digest: what it must have ("sha256:.."), or NULL. LM_INVALID: a name that a
 * model directory cannot have. LM_CORRUPT: another digest. */
lm_status lm_draft_file(lm_draft *d, const char *name, const char *path, lm_take take, const char *digest,
                        lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;
/* The same from a blob. LM_NOT_FOUND: there is no such blob. */
lm_status lm_draft_blob(lm_draft *d, const char *name, const char *digest, lm_err *err) LM_CHECKED;
/* A GGUF model, imported (lm_import_parts): one file, or all parts in any order. Each lies at path, or is the blob of
 * that digest where path is NULL. LM_NOT_FOUND: there is no such blob. */
typedef struct lm_gguf_file {
    const char *path, *digest;
} lm_gguf_file;
lm_status lm_draft_import(lm_draft *d, const lm_gguf_file *files, uint32_t n, lm_store_progress *progress, void *ctx,
                          lm_err *err) LM_CHECKED;
/* A LoRA adapter for the model that the draft has, by the names and digests of its files. What it is: one GGUF file, or
 * safetensors with adapter_config.json as PEFT and mlx-lm write them (what else lies beside them in a directory is passed over), or
 * what /api/show names. LM_INVALID: "unknown type", "only one adapter is currently supported". LM_NOT_FOUND: no such blob. */
typedef struct lm_named_blob {
    const char *name;
    char digest[LM_DIGEST_SIZE];
} lm_named_blob;
typedef struct lm_adapter_source {
    bool gguf;
    char weights[LM_DIGEST_SIZE];
    char config[LM_DIGEST_SIZE]; /* "": none */
} lm_adapter_source;
lm_status lm_adapter_source_of(lm_store *s, const lm_named_blob *files, uint32_t n, lm_adapter_source *out, lm_err *err)
    LM_CHECKED;
/* Converts it (lm_import_adapter) and adds it. Fails as loading would where it doesn't fit the model. */
lm_status lm_draft_adapter(lm_draft *d, const lm_adapter_source *source, lm_err *err) LM_CHECKED;
/* Converts the weights that the draft has so far (lm_convert_dir). */
lm_status lm_draft_convert(lm_draft *d, const lm_conversion *how, lm_store_progress *progress, void *ctx,
                           lm_err *err) LM_CHECKED;
/* lm_draft_from and lm_draft_convert in one, for a model that lies elsewhere: its weights as they are never come into the store. */
lm_status lm_draft_from_converted(lm_draft *d, const lm_entry *model, const lm_conversion *how, lm_store_progress *progress,
                                  void *ctx, lm_err *err) LM_CHECKED;
/* What they are (lm_convert_look). */
lm_status lm_draft_look(lm_draft *d, lm_form_info *out, lm_err *err) LM_CHECKED;
/* The text of a kind that the draft has so far into out; nothing when it has none. */
lm_status lm_draft_text(lm_draft *d, lm_layer_kind kind, lm_buf *out, lm_err *err) LM_CHECKED;
void lm_draft_drop(lm_draft *d, lm_layer_kind kind);
/* Adds to what there is: drop first to replace. */
lm_status lm_draft_add(lm_draft *d, lm_layer_kind kind, lm_str text, lm_err *err) LM_CHECKED;
void lm_draft_requires(lm_draft *d, const char *version); /* which Ollama can run it */
/* Fails as loading would: no config.json, unknown architecture, damaged weights. */
lm_status lm_draft_check(lm_draft *d, lm_err *err) LM_CHECKED;
/* A new empty directory within the store for files that are made or fetched for this draft; it goes with the
 * draft. Owned by the draft. */
lm_status lm_draft_staging(lm_draft *d, const char **dir, lm_err *err) LM_CHECKED;
/* Called for each layer in their order: was it there before this draft? Then with NULL: the manifest is written. */
typedef void lm_draft_layer(void *ctx, const char *digest, bool existing);
lm_status lm_draft_commit(lm_draft *d, const char *name, lm_draft_layer *layer, void *ctx, lm_err *err) LM_CHECKED;

/* The other way: a model as it was made elsewhere, to the byte. First its blobs, from files; then the manifest, which
 * names them, in place of layers: LM_CORRUPT: none, or a blob of it is missing. */
lm_status lm_draft_take(lm_draft *d, const char *path, lm_take take, const char *digest, lm_store_progress *progress,
                        void *ctx, lm_err *err) LM_CHECKED;
lm_status lm_draft_adopt(lm_draft *d, lm_str manifest, lm_err *err) LM_CHECKED;

/* What a model is made of, to send it elsewhere: its blobs and the manifest over them. A model that lies elsewhere is read
 * once for its digests, and shares its files with the store meanwhile, as with lm_draft_from. All of it stays until the
 * draft, which must be empty, is closed. */
typedef struct lm_content {
    lm_layer_kind kind; /* LM_LAYER_KINDS: the config, which is the last, or what this version does not know */
    char type[96];
    char name[256]; /* of a file; "" for others */
    char digest[LM_DIGEST_SIZE];
    uint64_t size; /* bytes */
    char *path;    /* where they lie */
    char *from;    /* the model that it came from, or NULL */
} lm_content;
typedef struct lm_contents {
    lm_content *items;
    uint32_t n;
    lm_buf manifest;
} lm_contents;
lm_status lm_draft_contents(lm_draft *d, const lm_entry *model, lm_store_progress *progress, void *ctx, lm_contents *out,
                         lm_err *err) LM_CHECKED;
void lm_contents_release(lm_contents *p); /* a zeroed one is allowed */

/* All of the above in one: files become the model NAME, in place of what had that name. */
typedef struct lm_store_file {
    const char *name, *path;
    lm_take take;
    const char *digest; /* NULL: not known */
} lm_store_file;
lm_status lm_store_commit(lm_store *s, const char *name, const lm_store_file *files, uint32_t n,
                          lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;

/* A file that is fetched in parts, possibly by several processes one after the other: OWN/partial/<sha256 of key>, made
 * when absent, kept until it is taken (LM_TAKE_MOVE) or a week old. *fd is open for reading and writing, and holds
 * a lock: LM_BUSY while another process has it. The caller closes fd and frees path. */
lm_status lm_store_partial(lm_store *s, const char *key, int *fd, char **path, lm_err *err) LM_CHECKED;

/* ---- import */
/* Converts one GGUF model into a new MLX model directory at dir (which must not exist; it appears whole or not at all).
 * Memory is independent of the model's size. files: one, whose further parts are looked for beside it, or all parts
 * of a model in any order. sha256: digest of model.safetensors, which costs little while it is written; NULL: not
 * wanted. LM_CORRUPT, LM_UNSUPPORTED, LM_NO_SPACE, LM_CANCELLED, LM_NOT_FOUND (a part is missing). */
lm_status lm_import_parts(const char *const *files, uint32_t n, const char *dir, char sha256[LM_DIGEST_SIZE],
                          lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;
lm_status lm_import_gguf(const char *gguf, const char *dir, lm_store_progress *progress, void *ctx, lm_err *err) LM_CHECKED;
/* Converts a LoRA adapter for the model in base_dir into the new file path (model.h's LM_ADAPTER_FILE). weights: a GGUF or a
 * safetensors file; config: adapter_config.json, or NULL. LM_CORRUPT; LM_UNSUPPORTED: names what of it this version doesn't do. */
lm_status lm_import_adapter(const char *weights, const char *config, const char *base_dir, const char *path, lm_err *err) LM_CHECKED;

#endif
