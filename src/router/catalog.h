/* catalog.h - the models of one backend, as its listings told, and which other names mean the same model. Private to the room.
 *
 * Listings come from a network: at most CATALOG_MAX_BODY bytes and CATALOG_MAX_MODELS models, names by names.h's grammar;
 * an item that is none is passed over, a body that is no listing is an error.
 */
#ifndef LM_ROUTER_CATALOG_H
#define LM_ROUTER_CATALOG_H

#include <jansson.h>

#include "names/names.h"
#include "router/facts.h"

#define CATALOG_MAX_BODY   (16u << 20)
#define CATALOG_MAX_MODELS 8192
#define CATALOG_KEY        700

typedef struct catalog_model {
    char *key;   /* the full name in small letters: what models are found by */
    char *shown; /* as the backend writes it */
    char digest[65];
    char format[32]; /* of details: "gguf", "safetensors"; empty: not said */
    uint64_t size;
    bool able_known;
    bool asked;     /* by /api/show, with or without an answer */
    uint32_t able;  /* NEED_COMPLETION ... NEED_INSERT */
    uint32_t n_ctx; /* what it was trained for; 0: not said */
    json_t *item;   /* of /api/tags; owned */
    bool loaded;    /* in /api/ps */
    uint32_t n_ctx_loaded;
    char expires[48]; /* as written there */
} catalog_model;

typedef struct catalog {
    catalog_model *models; /* by key */
    uint32_t n;
    uint32_t n_passed_over;
} catalog;

/* The body of GET /api/tags. LM_CORRUPT: it is no such listing. The caller frees. */
lm_status catalog_read(catalog **out, lm_str tags, lm_err *err) LM_CHECKED;
/* The body of GET /api/ps, over it. */
lm_status catalog_read_ps(catalog *c, lm_str ps, lm_err *err) LM_CHECKED;
void catalog_free(catalog *c);                                            /* NULL allowed */
const catalog_model *catalog_find(const catalog *c, const lm_name *name); /* c NULL: nothing */
const catalog_model *catalog_find_key(const catalog *c, const char *key);
void catalog_key(const lm_name *name, char out[CATALOG_KEY]);

/* What POST /api/show says of a model. */
typedef struct catalog_show {
    bool able_known;
    uint32_t able;
    uint32_t n_ctx;
} catalog_show;
lm_status catalog_read_show(lm_str show, catalog_show *out, lm_err *err) LM_CHECKED;
/* "tools, vision": those of bits. */
void catalog_words(uint32_t bits, char out[120]);

/* ---- twins.c: names that mean the same model, by the alias table */

#define TWINS_MAX 64

typedef enum twin_why {
    TWIN_SELF,
    TWIN_TAG,   /* "latest" stands for this tag, or this tag for "latest" */
    TWIN_HUB,   /* the same repository, spelled with or without hf.co */
    TWIN_ALIAS, /* the MLX repository behind an Ollama name */
    TWIN_NAMED  /* the Ollama name of an MLX repository */
} twin_why;

typedef struct twin {
    lm_name name;
    twin_why why;
} twin;

typedef struct twin_index twin_index;
/* Borrows the table. */
twin_index *twin_index_make(const lm_aliases *aliases);
void twin_index_free(twin_index *t); /* NULL allowed */
/* The name itself and its twins, the nearest first. Returns how many. */
uint32_t twins_of(const twin_index *t, const lm_name *name, twin out[TWINS_MAX]);
/* A repository that the table knows, or one of mlx-community: nothing for Ollama to pull. */
bool twin_is_mlx_repo(const twin_index *t, const lm_name *name);

#endif
