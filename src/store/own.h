/* own.h - the own store's files: what docs/STORE.md describes, for the files of this room that write it.
 *
 *     OWN/.lock               held while manifests, tombstones or directories change, and while pruning
 *     OWN/.users              held shared by everybody who has something in the making; pruning wants it alone
 *     OWN/blobs/sha256-HEX    content, never changed once it is there
 *     OWN/manifests/HOST/NAMESPACE/MODEL/TAG
 *     OWN/views/HEX           of the manifest with that sha256: the model directory, links into blobs
 *     OWN/linked/HEX          the same of a model in Ollama's store, with that digest: links into its blobs
 *     OWN/removed/            manifests that a delete or a replacement took away: their blobs may go
 *     OWN/work/               what is in the making; of no use to anybody when .users is free
 *     OWN/partial/            downloads that may go on
 *
 * Order of locks: .users before .lock; pruning has .lock and only tries .users.
 */
#ifndef LM_STORE_OWN_H
#define LM_STORE_OWN_H

#include "store/private.h"

#define LM_OWN_BLOBS     "blobs"
#define LM_OWN_MANIFESTS "manifests"
#define LM_OWN_VIEWS     "views"
#define LM_OWN_LINKED    "linked"
#define LM_OWN_REMOVED   "removed"
#define LM_OWN_WORK      "work"
#define LM_OWN_PARTIAL   "partial"

/* ---- own.c: places and locks */
bool lm_own_reserved(const char *file); /* one of the directories above: no host of plain directories */
lm_status lm_own_lock(const char *own, int *fd, lm_err *err) LM_CHECKED; /* .lock; close(fd) gives it back */
lm_status lm_own_use(const char *own, int *fd, lm_err *err) LM_CHECKED;  /* .users, shared; the same */
bool lm_own_alone(const char *own, int *fd);                             /* .users alone, if nobody has it */
/* A path in OWN/work that nobody else uses; the directory exists. The caller frees. */
lm_status lm_own_temp(const char *own, char **path, lm_err *err) LM_CHECKED;
/* LM_NO_SPACE for a full disk, a quota and a limit of file sizes, else LM_IO, from errno. */
lm_status lm_own_fail(lm_err *err, const char *doing, const char *path);
lm_status lm_own_sync_dir(const char *dir, lm_err *err) LM_CHECKED;

/* ---- files.c: a model's directory */
typedef struct lm_files {
    char **items; /* paths in it, ordered; what hides is nobody's */
    uint32_t n;
    uint64_t bytes; /* of all of them */
} lm_files;
/* LM_IO: it can't be read. The caller releases *out after LM_OK. */
lm_status lm_files_list(const char *dir, lm_files *out, lm_err *err) LM_CHECKED;
void lm_files_release(lm_files *f); /* a zeroed one is allowed */
/* What a conversion writes anew: weights, their index, config.json. */
bool lm_file_is_converted(const char *name);
/* Makes `to`, the new and empty file at temp, a clone of `from`, the file at path: no room is taken, and later changes of one do not
 * reach the other. False: the file system can't; temp may be gone then. */
bool lm_file_clone(int from, const char *path, int to, const char *temp);

/* ---- blobs.c */
char *lm_blob_path(const char *own, const char *digest); /* the caller frees */
/* Size of the blob, false when it is not there. */
bool lm_blob_look(const char *own, const char *digest, uint64_t *bytes);
/* Makes a blob of text, of the file at path. The caller holds .users. *existing: it was there before. */
lm_status lm_blob_put(const char *own, lm_str text, char digest[LM_DIGEST_SIZE], bool *existing,
                      lm_err *err) LM_CHECKED;
lm_status lm_blob_take(const char *own, const char *path, lm_take take, const char *want,
                       lm_store_progress *progress, void *ctx, char digest[LM_DIGEST_SIZE], bool *existing,
                       lm_err *err) LM_CHECKED;
/* The same of a file of OWN/work, which is moved, and whose digest is known. */
lm_status lm_blob_keep(const char *own, const char *path, const char *digest, bool *existing,
                       lm_err *err) LM_CHECKED;
void lm_blob_hex(lm_str text, char out[65]); /* sha256 */
void lm_blob_raw_hex(const unsigned char raw[32], char out[65]);

/* ---- manifest.c */
#define LM_TYPE_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define LM_TYPE_CONFIG   "application/vnd.docker.container.image.v1+json"
#define LM_TYPE_IMAGE    "application/vnd.ollama.image."

#define LM_TYPE_TENSOR LM_TYPE_IMAGE "tensor" /* a safetensors file of one tensor: Ollama's MLX models */
#define LM_TYPE_MODEL  LM_TYPE_IMAGE "model"  /* a GGUF file */
#define LM_GGUF_FILE   "model.gguf"           /* in a view */

typedef struct lm_layer {
    char type[96];
    char digest[LM_DIGEST_SIZE];
    uint64_t size;  /* bytes */
    char name[256]; /* of a file; "" for other layers */
    char *from;     /* the model that it came from, or NULL */
    bool existing;  /* drafts: it was there before */
} lm_layer;

typedef struct lm_manifest {
    lm_layer config;
    lm_layer *layers;
    uint32_t n, room;
} lm_manifest;

/* LM_CORRUPT: no manifest, or one whose names, digests or number of layers are not to be trusted. */
lm_status lm_manifest_parse(lm_str text, lm_manifest *out, lm_err *err) LM_CHECKED;
void lm_manifest_release(lm_manifest *m); /* a zeroed one is allowed */
void lm_manifest_write(const lm_manifest *m, lm_buf *out);
lm_layer *lm_manifest_add(lm_manifest *m, const char *type,
                          const char *name); /* digest and size are the caller's */
/* What a layer is: by its type, or by the name of a file. LM_LAYER_KINDS: nothing that this version runs. */
lm_layer_kind lm_layer_kind_of(const lm_layer *layer);
bool lm_layer_file_ok(const char *path);            /* as the name of a file of a model directory */
const char *lm_layer_kind_name(lm_layer_kind kind); /* "template": of the media type and of the file */
lm_status lm_manifest_load(const char *path, lm_buf *text, lm_manifest *out, lm_err *err) LM_CHECKED;
/* Each manifest below dir (OWN/manifests), with or without its blobs. Return false to end the walk. */
typedef bool lm_manifest_visit(void *ctx, const lm_name *name, const char *path);
void lm_manifests_walk_dir(const char *dir, const lm_name *want, lm_manifest_visit *visit, void *ctx);
void lm_manifests_walk(const char *own, const lm_name *want, lm_manifest_visit *visit, void *ctx);
/* Where the manifest of this name is, or would go, in the spelling that is there already. The caller frees.
 */
char *lm_manifest_path(const char *own, const lm_name *name);

/* ---- publish.c */
/* Makes the manifest that of the name, in place of the one that it had. Its blobs are on the disk. */
lm_status lm_own_publish(lm_store *s, const lm_name *name, lm_str manifest, lm_err *err) LM_CHECKED;

/* ---- views.c */
/* The entry of a manifest whose blobs are all there; makes its view when there is none. False: not whole. */
bool lm_view_entry(const char *own, const char *manifest, lm_entry *out);
/* Fills the new directory dir with what a manifest says. */
lm_status lm_view_make(const char *own, const lm_manifest *m, const char *dir, lm_err *err) LM_CHECKED;
/* The view of a model in another store, OWN/linked/HEX: made when there is none, or it is not whole. config:
 * what its config.json has to be, called for when a view is made; NULL: it has none. False: it cannot be
 * made. */
typedef bool lm_view_config(const char *store, const lm_manifest *m, lm_buf *out);
bool lm_view_link(const char *own, const char *store, const lm_manifest *m, const char *hex,
                  lm_view_config *config);

/* ---- ollama_config.c: config.json with the forms that the blobs' headers have */
lm_view_config lm_ollama_config;

/* ---- ollama.c */
/* The manifest with this digest that NAME has in an Ollama store; a list of several gives the one that runs
 * here. The caller releases m. LM_NOT_FOUND: it has gone. */
lm_status lm_ollama_manifest(const lm_place *place, const lm_name *name, const char *hex, lm_manifest *m,
                             lm_err *err) LM_CHECKED;

/* ---- draft.c, of the importer of other stores */
/* Gives the files of the draft an origin ("sha256:.." of a GGUF file), which their manifest keeps. */
void lm_draft_note_origin(lm_draft *d, const char *origin);
/* Takes the files that some model of the own store has from this origin. False: there is none. */
bool lm_draft_from_origin(lm_draft *d, const char *origin);

/* ---- delete.c, with .lock held */
/* Notes the manifest at path so that what only it names is pruned, and removes it unless it is to be
 * replaced. LM_NOT_FOUND: there is none. */
lm_status lm_own_retire(const char *own, const char *path, bool remove, lm_err *err) LM_CHECKED;
void lm_own_note_removed(const char *own,
                         lm_str manifest); /* as if a model of this manifest had been removed */
lm_status lm_own_remove_dir(const char *own, const char *dir, lm_err *err) LM_CHECKED;

/* ---- prune.c */
void lm_own_prune(const char *own, int64_t now); /* seconds, as time() */

#endif
