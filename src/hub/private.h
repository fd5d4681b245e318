/* private.h - what the files of this room share. */
#ifndef LM_HUB_PRIVATE_H
#define LM_HUB_PRIVATE_H

#include <stdatomic.h>

#include "http/client.h"
#include "hub/hub.h"

#define LM_HUB_MAX_FILES 512                 /* each is an open file while it is fetched */
#define LM_HUB_MAX_BYTES (UINT64_C(1) << 44) /* of one file: a size above is a lie */
#define LM_HUB_UNKNOWN   "pull model manifest: file does not exist"

/* One file to fetch. */
typedef struct lm_remote {
    char name[201];              /* of the model's file, or of the layer's kind */
    char type[96];               /* media type of a layer */
    char digest[LM_DIGEST_SIZE]; /* of its content; "" when only oid is known */
    char oid[41];                /* sha1 of git's blob, or "" */
    uint64_t size;
    /* while it is fetched */
    char *url;
    char *path; /* the partial file, whole when fetched */
    int fd;     /* holds its lock; -1 */
    _Atomic uint64_t done;
    _Atomic bool hashed;    /* digest is known now, of a file that had only oid */
    bool have;              /* on this disk already: in path, or as a blob of the store when that is NULL */
    struct lm_remote *same; /* an earlier file of the same content, which is fetched instead */
    bool told;
    uint64_t shown; /* bytes, of the last time that it was told */
} lm_remote;

/* ---- listing.c: what /api/models/ORG/REPO/revision/REV?blobs=true says */
typedef struct lm_listing {
    char commit[65];
    lm_remote *files;
    uint32_t n;
} lm_listing;
/* LM_CORRUPT: not a listing, or one with names or sizes that are not to be trusted. */
lm_status lm_listing_parse(lm_str text, lm_listing *out, lm_err *err) LM_CHECKED;
void lm_listing_release(
    lm_listing *l); /* frees url and path and closes fd of each file; a zeroed one is allowed */
/* Keeps what a model directory needs: the makers' files, or, of a repository of GGUF files, the one of that
 * form (tag "latest": Q4_K_M, else the first), or all of its parts in their order. *gguf says which.
 * LM_UNSUPPORTED: neither. LM_NOT_FOUND: no such form. LM_CORRUPT: a part is missing. */
lm_status lm_listing_choose(lm_listing *l, const char *tag, bool *gguf, lm_err *err) LM_CHECKED;

/* ---- oci.c: a manifest of a registry, in the same form */
lm_status lm_oci_parse(lm_str text, lm_listing *out, lm_err *err) LM_CHECKED;

/* ---- request.c */
typedef struct lm_origin { /* who is asked, and what it may know */
    const char *base;      /* "https://huggingface.co" */
    const char *token;     /* goes to base's origin alone; NULL: none */
    const lm_pull *pull;   /* is asked whether to go on; NULL in threads that are not the caller's */
    atomic_bool *stop;     /* somebody else has failed, or the pull is over; may be NULL */
} lm_origin;

/* Not more than this many waits for one answer, each this long at most. */
#define LM_HUB_ATTEMPTS 6
#define LM_HUB_MAX_WAIT 120000 /* ms */

/* One GET with redirects, and with retries of what may pass: 429 and 5xx (Retry-After is obeyed), lost and
 * refused connections. Without on_body: on_wait is ours. LM_OK with any other HTTP status. */
lm_status lm_hub_get(lm_client *c, const lm_origin *o, lm_ask *ask, lm_answer *out, lm_err *err) LM_CHECKED;
/* The same once: *again says whether it is worth another attempt after *wait_ms. */
lm_status lm_hub_try(lm_client *c, const lm_origin *o, const lm_ask *ask, lm_answer *out, bool *again,
                     uint64_t *wait_ms, lm_err *err) LM_CHECKED;
/* Waits before attempt n (from 1); false: to be stopped. */
bool lm_hub_pause(const lm_origin *o, uint32_t attempt, uint64_t wait_ms);
bool lm_hub_stopped(const lm_origin *o);
/* An HTTP status that is not the one hoped for, as an error. LM_NOT_FOUND, LM_DENIED, LM_IO. */
lm_status lm_hub_refused(const lm_origin *o, const char *url, const lm_answer *a, lm_err *err);

/* ---- fetch.c */
/* Opens a partial file, or waits for who has it. */
lm_status lm_hub_partial(lm_store *s, const lm_origin *o, const char *key, int *fd, char **path,
                         lm_err *err) LM_CHECKED;
/* Fetches all that is not there, several files at a time, and tells. Files have url, size and digest or oid;
 * their content is checked against oid alone: digests are what the store checks. */
lm_status lm_hub_fetch(lm_store *s, const lm_origin *o, lm_remote *files, uint32_t n, lm_err *err) LM_CHECKED;

/* ---- verify.c: sha256 of the file at path, and whether it is git's blob of that sha1. LM_CORRUPT. */
lm_status lm_hub_hash(const char *path, uint64_t size, const char *oid, char digest[LM_DIGEST_SIZE],
                      const lm_origin *o, lm_err *err) LM_CHECKED;

void lm_hub_sha256(lm_str text, char hex[65]);

/* ---- hf.c, registry.c */
lm_status lm_hf_pull(lm_store *s, const lm_pull *pull, const lm_name *repo, lm_err *err) LM_CHECKED;
lm_status lm_registry_pull(lm_store *s, const lm_pull *pull, const lm_name *name, lm_err *err) LM_CHECKED;

/* ---- hub.c */
/* A model of a GGUF file keeps "pulled.json": which one it was made of. */
bool lm_hub_is_made_of(lm_store *s, const char *name, const char *digest);
lm_status lm_hub_note_source(lm_draft *d, const char *source, const char *digest, lm_err *err) LM_CHECKED;
/* A model of a GGUF file, or of all of its parts, imported. */
lm_status lm_hub_import(lm_draft *d, lm_remote *files, uint32_t n, const lm_pull *pull,
                        lm_err *err) LM_CHECKED;

#endif
