/* private.h - what the files of this room share. */
#ifndef LM_HUB_PRIVATE_H
#define LM_HUB_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "http/client.h"
#include "hub/hub.h"

#define LM_HUB_MAX_FILES  512  /* each is an open file while it is fetched */
#define LM_HUB_MAX_LAYERS 4096 /* of a registry's manifest */
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
    _Atomic bool hashed; /* digest is known now, of a file that had only oid */
    bool have; /* on this disk already: in path, which stays, or as a blob of the store when that is NULL */
    struct lm_remote *same; /* an earlier file of the same content, which is fetched instead */
    bool told;
    uint64_t shown; /* bytes, of the last time that it was told */
} lm_remote;

/* ---- listing.c: what /api/models/ORG/REPO/revision/REV?blobs=true says */
typedef struct lm_listing {
    char commit[65];
    lm_remote *files;
    uint32_t n;
    bool readme; /* there is a README.md, which is not among files */
} lm_listing;
/* LM_CORRUPT: not a listing, or one with names or sizes that are not to be trusted. */
lm_status lm_listing_parse(lm_str text, lm_listing *out, lm_err *err) LM_CHECKED;
void lm_listing_release(
    lm_listing *l); /* frees url and path and closes fd of each file; a zeroed one is allowed */
/* Keeps what a model directory needs: the makers' files, or, of a repository of GGUF files, the one of that
 * form (tag "latest": Q4_K_M, else the first), or all of its parts in their order. *gguf says which.
 * LM_UNSUPPORTED: neither. LM_NOT_FOUND: no such form. LM_CORRUPT: a part is missing. */
lm_status lm_listing_choose(lm_listing *l, const char *tag, bool *gguf, lm_err *err) LM_CHECKED;

/* ---- oci.c: a manifest of a registry, in the same form: its layers, and then its config, if it has one */
lm_status lm_oci_parse(lm_str text, lm_listing *out, lm_err *err) LM_CHECKED;

/* ---- request.c */
#define LM_HUB_AGENT "User-Agent: mlx-ollama"
typedef struct lm_auth lm_auth;
typedef struct lm_origin { /* who is asked, and what it may know */
    const char *base;      /* "https://huggingface.co" */
    const char *token;     /* goes to base's origin alone; NULL: none */
    lm_auth *auth;       /* of a registry: gets tokens when it is asked for one; NULL: nothing of the kind */
    const lm_pull *pull; /* is asked whether to go on; NULL in threads that are not the caller's */
    atomic_bool *stop;   /* somebody else has failed, or the pull is over; may be NULL */
} lm_origin;

/* Not more than this many waits for one answer, each this long at most. */
#define LM_HUB_ATTEMPTS   6
#define LM_HUB_MAX_WAIT   120000 /* ms */
#define LM_HUB_PROCESS_MS 300000 /* what a server may do with gigabytes before it answers */

/* One request, with our limits of time. */
lm_status lm_hub_ask(lm_client *c, const lm_origin *o, const lm_ask *ask, lm_answer *out,
                     lm_err *err) LM_CHECKED;
/* One request (GET where no method is given) with redirects of GET and HEAD, with signing in to a registry,
 * and with retries of what may pass: 429 and 5xx (Retry-After is obeyed), lost and refused connections.
 * Without callbacks: on_wait is ours. LM_OK with any other HTTP status. */
lm_status lm_hub_get(lm_client *c, const lm_origin *o, lm_ask *ask, lm_answer *out, lm_err *err) LM_CHECKED;
/* The same once: *again says whether it is worth another attempt after *wait_ms. */
lm_status lm_hub_try(lm_client *c, const lm_origin *o, const lm_ask *ask, lm_answer *out, bool *again,
                     uint64_t *wait_ms, lm_err *err) LM_CHECKED;
/* Waits before attempt n (from 1); false: to be stopped. */
bool lm_hub_pause(const lm_origin *o, uint32_t attempt, uint64_t wait_ms);
bool lm_hub_stopped(const lm_origin *o);
/* An HTTP status that is not the one hoped for, as an error. LM_NOT_FOUND, LM_DENIED, LM_IO. */
lm_status lm_hub_refused(const lm_origin *o, const char *url, const lm_answer *a, lm_err *err);
/* The same of what goes there. */
lm_status lm_hub_not_taken(const lm_origin *o, const char *url, const lm_answer *a, lm_err *err);
/* What its body says is wrong; nothing when it says nothing. */
void lm_hub_said(const lm_answer *a, lm_buf *out);

/* ---- auth.c */
lm_auth *lm_auth_open(void);
void lm_auth_close(lm_auth *a); /* NULL allowed */
/* The token that there is, NULL before the first; the caller frees. From any thread. */
char *lm_auth_token(lm_auth *a, uint32_t *turn);
/* Asks for another one as a 401 says, unless somebody has since that turn. LM_DENIED. */
lm_status lm_auth_renew(lm_client *c, const lm_origin *o, const lm_answer *refusal, uint32_t turn,
                        lm_err *err) LM_CHECKED;

typedef struct lm_challenge {
    char realm[1024], service[256], scope[1024];
} lm_challenge;
/* Of WWW-Authenticate. False: none that asks for a token. */
bool lm_challenge_parse(lm_str header, lm_challenge *out);
typedef struct lm_ssh_key { /* ed25519 */
    unsigned char seed[32], public[32];
} lm_ssh_key;
/* A file of ssh-keygen's. LM_CORRUPT: not one, or locked, or of another type. */
lm_status lm_ssh_key_parse(lm_str text, lm_ssh_key *out, lm_err *err) LM_CHECKED;
/* Adds PUBLIC:SIGNATURE, both in base64. */
lm_status lm_ssh_sign(const lm_ssh_key *key, lm_str text, lm_buf *out, lm_err *err) LM_CHECKED;

/* ---- crew.c: several files at a time, each by one thread with one connection */
typedef lm_status lm_crew_work(void *ctx, lm_client *c, const lm_origin *o, uint32_t i, lm_err *err);
/* Calls work for 0 .. n - 1, OLLAMA_MAX_TRANSFER_STREAMS of them at a time; the first failure ends all.
 * Meanwhile files, n of them, are told of from the caller's thread. */
lm_status lm_crew_run(const lm_origin *o, lm_remote *files, uint32_t n, lm_crew_work *work, void *ctx,
                      lm_err *err) LM_CHECKED;

/* ---- fetch.c */
/* Opens a partial file, or waits for who has it. */
lm_status lm_hub_partial(lm_store *s, const lm_origin *o, const char *key, int *fd, char **path,
                         lm_err *err) LM_CHECKED;
/* Fetches all that is not there, several files at a time, and tells. Files have url, size and digest or oid;
 * their content is checked against oid alone: digests are what the store checks. */
lm_status lm_hub_fetch(lm_store *s, const lm_origin *o, lm_remote *files, uint32_t n, lm_err *err) LM_CHECKED;

/* ---- send.c */
typedef struct lm_piece {
    int fd;
    uint64_t from, size; /* bytes of the file */
    lm_remote *f;        /* whose done follows; NULL: nobody's */
    unsigned char *md5;  /* of the piece, 16 bytes, once it is sent; NULL: not asked for */
} lm_piece;
/* As lm_hub_try, with a piece of a file as the body. */
lm_status lm_hub_send(lm_client *c, const lm_origin *o, const char *method, const char *url,
                      const char *const *headers, lm_piece *p, lm_answer *out, bool *again, uint64_t *wait_ms,
                      lm_err *err) LM_CHECKED;
/* The same until it is taken in (PUT, 2xx), tried again as pulls are. etag: of the answer, malloc'd; NULL: of no interest. */
lm_status lm_hub_put(lm_client *c, const lm_origin *o, const char *url, const char *const *headers,
                     lm_piece *p, char **etag, lm_err *err) LM_CHECKED;
lm_status lm_hub_no_md5(lm_err *err);
lm_status lm_hub_source(const lm_remote *f, int *fd, lm_err *err) LM_CHECKED;
void lm_hub_outgoing(const lm_content *part, lm_remote *out); /* path is malloc'd */
/* Bytes of one request's body, of a file of that size: as Ollama's, or MLX_BRIDGE_PUSH_PART. */
uint64_t lm_hub_part_size(uint64_t size);

/* ---- verify.c: sha256 of the file at path, and whether it is git's blob of that sha1. LM_CORRUPT. */
lm_status lm_hub_hash(const char *path, uint64_t size, const char *oid, char digest[LM_DIGEST_SIZE],
                      const lm_origin *o, lm_err *err) LM_CHECKED;

void lm_hub_sha256(lm_str text, char hex[65]);

/* ---- lfs.c: the hub's way with large files */
typedef struct lm_lfs { /* what it says of one */
    char *href;         /* PUT it there; or, with parts, POST what came of them. NULL: it is there already */
    char *verify;       /* POST there in the end, or NULL */
    char **headers;     /* n_headers, of that PUT */
    char **parts;       /* n_parts addresses of `chunk` bytes each, the last one of the rest */
    uint64_t chunk;     /* 0: in one piece */
    uint32_t n_headers, n_parts;
} lm_lfs;
/* The answer to a batch of those files, all of which have a digest; out has room for n. Addresses are
 * relative to url. LM_CORRUPT, LM_DENIED. */
lm_status lm_lfs_parse(lm_str text, const char *url, lm_remote *const *files, uint32_t n, lm_lfs *out,
                       lm_err *err) LM_CHECKED;
void lm_lfs_release(lm_lfs *l); /* a zeroed one is allowed */
lm_status lm_lfs_ask(lm_client *c, const lm_origin *o, const char *repo, const char *revision,
                     lm_remote *const *files, uint32_t n, lm_lfs *out, lm_err *err) LM_CHECKED;
lm_status lm_lfs_send(lm_client *c, const lm_origin *o, lm_remote *f, const lm_lfs *how,
                      lm_err *err) LM_CHECKED;

/* ---- hf.c, registry.c */
char *lm_hf_endpoint(void); /* without a '/' at its end; the caller frees */
char *lm_hf_token(void);    /* NULL: none; the caller frees */
lm_status lm_hf_listing(const lm_origin *o, const lm_name *repo, const char *revision, lm_listing *out,
                        lm_err *err) LM_CHECKED;
lm_status lm_hf_pull(lm_store *s, const lm_pull *pull, const lm_name *repo, lm_err *err) LM_CHECKED;
lm_status lm_registry_pull(lm_store *s, const lm_pull *pull, const lm_name *name, lm_err *err) LM_CHECKED;
/* "https://HOST", or http where that is allowed. LM_DENIED. */
lm_status lm_registry_base(const lm_pull *pull, const lm_name *name, char out[400], lm_err *err) LM_CHECKED;

/* ---- registry_push.c, hf_push.c */
lm_status lm_registry_push(const lm_pull *push, const lm_name *name, const lm_contents *parts,
                           lm_err *err) LM_CHECKED;
lm_status lm_hf_push(const lm_pull *push, const lm_name *repo, const lm_contents *parts,
                     lm_err *err) LM_CHECKED;

/* ---- hub.c */
/* The file at path has another digest: removed, if it is a partial file. LM_CORRUPT. */
lm_status lm_hub_mismatch(const lm_remote *f, lm_err *err);
/* A model that was made of a GGUF file, or of weights in their makers' form, keeps "pulled.json": what it was made of. */
bool lm_hub_is_made_of(lm_store *s, const char *name, const char *digest);
lm_status lm_hub_note_source(lm_draft *d, const char *source, const char *digest, lm_err *err) LM_CHECKED;
/* A model of a GGUF file, or of all of its parts, imported. */
lm_status lm_hub_import(lm_draft *d, lm_remote *files, uint32_t n, const lm_pull *pull,
                        lm_err *err) LM_CHECKED;

#endif
