/* private.h - what the files of this room share.
 *
 * A name on disk is a chain of directories below a place: model, namespace/model, host/namespace/model or
 * host/namespace/model/tag (the own store writes the last form; the others are what people and tools make),
 * or one directory of the Hugging Face cache, models--namespace--model. lm_place_walk visits them; a wanted
 * name prunes the walk, so that looking one model up lists a few directories and stats the files of one.
 */
#ifndef LM_STORE_PRIVATE_H
#define LM_STORE_PRIVATE_H

#include "store/store.h"

/* Limits on what a directory tree may make us do. */
#define LM_MAX_ENTRIES 16384 /* looked at in one directory */
#define LM_MAX_MODELS  8192  /* in one listing */

/* ---- look.c: one model directory */
struct stat;
int64_t lm_file_time_ns(const struct stat *st); /* of its last change */
/* True when dir holds a whole model; fills size, modified and, unless fast, the digest. */
bool lm_look(const char *dir, lm_entry *out);
/* True when dir (models--a--b) has a whole snapshot; its path in out: refs/main first, else the newest. */
bool lm_look_hub(const char *dir, char out[1024]);

/* ---- store.c */
typedef enum lm_place_kind {
    LM_PLACE_OWN,
    LM_PLACE_DIRS,   /* plain directories, or the Hugging Face cache */
    LM_PLACE_STUDIO, /* the same, with GGUF files among them: LM Studio's */
    LM_PLACE_OLLAMA,
} lm_place_kind;

typedef struct lm_place {
    char *dir;
    lm_place_kind kind;
    const char *own; /* where the own store is */
} lm_place;

struct lm_store {
    lm_place *places; /* places[0] is the own store */
    uint32_t n_places;
    lm_aliases aliases;
    lm_gguf_use gguf;
};

/* Called for each model; entry.name is full. Return false to end the walk. */
typedef bool lm_place_visit(void *ctx, const lm_name *name, const lm_entry *entry);
/* want NULL: everything. Directories that are absent or unreadable are passed over. */
void lm_place_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx);
/* The GGUF files of a place, in the same way. */
void lm_gguf_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx);
/* As lm_store_find, but only this very name (aliases included) and without the default tag. */
bool lm_store_find_exact(lm_store *s, const lm_name *name, lm_entry *out);
bool lm_store_find_gguf(lm_store *s, const lm_name *name, lm_entry *out); /* the same among GGUF files */

bool lm_file_is_gguf(const char *path); /* by how it begins: blobs.c */

/* ---- ollama.c, studio.c: stores of others */
void lm_ollama_walk(const lm_place *place, bool gguf, const lm_name *want, lm_place_visit *visit, void *ctx);
void lm_studio_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx);

/* ---- delete.c: names that the user has unlinked, one line each in OWN/.unlinked */
typedef struct lm_tombs {
    char *text; /* whole file, NUL-terminated */
} lm_tombs;
void lm_tombs_load(lm_tombs *t, const char *own_dir); /* an unreadable file holds nothing */
void lm_tombs_release(lm_tombs *t);
bool lm_tombs_has(const lm_tombs *t, const lm_name *name, const char *dir);

#endif
