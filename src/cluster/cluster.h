/* cluster.h - the processes of one server that computes on several GPUs or machines: which there are (the hostfile), how the
 * others are started, and the link over which rank 0 tells them what to do.
 *
 * Arithmetic travels over MLX's own connections. The link is a TCP connection from each other rank to rank 0: frames in order,
 * small and at once, heartbeats both ways. MLX never notices that a peer has gone; the link does, within seconds: a
 * closed connection or LM_LINK_SILENCE_NS without a word is a lost rank, and a lost rank is for good.
 *
 * Who joins must know the secret: both sides prove it (HMAC-SHA256 over each other's random bytes) before anything else is read.
 * Frames are not encrypted, and MLX's connections are neither: the network between the hosts must be trusted.
 *
 * Wire: u32 length (little-endian, of what follows the kind), u8 kind, bytes. Hostile input: a peer that has not proved itself may send 64
 * bytes and has LM_LINK_PATIENCE_NS for it; lengths are checked before memory is taken.
 */
#ifndef LM_CLUSTER_H
#define LM_CLUSTER_H

#include "base/base.h"

enum {
    LM_MAX_RANKS = 64,
    LM_LINK_MAX_FRAME = 8 << 20, /* bytes, from rank 0 */
    LM_LINK_MAX_ANSWER = 1024,   /* bytes, to rank 0 */
    LM_LEAST_SECRET = 16,        /* characters */
};
#define LM_LINK_BEAT_NS     INT64_C(1000000000)
#define LM_LINK_SILENCE_NS  INT64_C(10000000000)
#define LM_LINK_PATIENCE_NS INT64_C(5000000000)

/* ---- the hostfile, in the form of mlx.launch ------------------------------------------------------------------------------ */

typedef struct lm_host {
    char *ssh; /* what ssh is called with */
    char **ips;
    uint32_t n_ips;
} lm_host;

typedef struct lm_hosts {
    char kind[16]; /* "ring", "jaccl", "jaccl-ring", "nccl", "mpi" */
    lm_host host[LM_MAX_RANKS];
    uint32_t n;
    char **envs; /* "NAME=value" for every rank */
    uint32_t n_envs;
    char *rdma; /* JSON for MLX_IBV_DEVICES, jaccl only */
} lm_hosts;

/* Either a list of {"ssh": name, "ips": [...]} in the order of the ranks, or an object with "hosts" (that list, perhaps with "rdma" in each),
 * "backend" and "envs". LM_NOT_FOUND, LM_CORRUPT (not JSON), LM_INVALID (says what is wrong with it). */
lm_status lm_hosts_load(const char *path, lm_hosts *out, lm_err *err) LM_CHECKED;
lm_status lm_hosts_parse(lm_str text, lm_hosts *out, lm_err *err) LM_CHECKED;
void lm_hosts_release(lm_hosts *h); /* zeroed allowed */
/* Whether rank r's process runs on this machine. */
bool lm_host_is_here(const lm_host *h);
/* What MLX_HOSTFILE holds for the ring: one list of "ip:port" for each rank; ports count up from first_port. */
void lm_hosts_ring(const lm_hosts *h, uint32_t first_port, lm_buf *out);

/* ---- the link ---------------------------------------------------------------------------------------------------------------- */

typedef struct lm_link lm_link;

typedef struct lm_link_config {
    const char *address; /* of rank 0 */
    uint16_t port;       /* rank 0: 0 lets the system choose */
    uint32_t rank, size;
    const char *secret;
    const lm_hosts *hosts; /* rank 0: names for the texts, or NULL; outlives the link */
    /* Once, from a thread of the link: a rank is gone and the cluster with it. Rank 0: text names the rank. */
    void (*lost)(void *ctx, uint32_t rank, const char *text);
    /* Rank 0, in lm_link_accept: somebody was sent away. NULL allowed. */
    void (*refused)(void *ctx, const char *why);
    void *ctx;
} lm_link_config;

/* 64 hex digits from the system's random numbers. */
lm_status lm_link_secret(char out[65], lm_err *err) LM_CHECKED;

/* Rank 0: listens. LM_IO. */
lm_status lm_link_listen(lm_link **out, const lm_link_config *config, lm_err *err) LM_CHECKED;
uint16_t lm_link_port(const lm_link *l);
/* Waits until every other rank has joined, at most wait_ns; refuses whoever cannot prove to be one. check (NULL allowed) is asked several times
 * a second whether it is still worth it. LM_TIMEOUT names who is missing. Nobody can join afterwards. */
lm_status lm_link_accept(lm_link *l, int64_t wait_ns, lm_status (*check)(void *ctx, lm_err *err), void *ctx, lm_err *err) LM_CHECKED;

/* Other ranks: connects (tries again for wait_ns) and proves itself. LM_DENIED: the secret is another one. */
lm_status lm_link_join(lm_link **out, const lm_link_config *config, int64_t wait_ns, lm_err *err) LM_CHECKED;

/* Rank 0, one thread at a time: a frame to every other rank. After a loss: LM_BUSY with its text. */
lm_status lm_link_tell(lm_link *l, const void *frame, size_t n, lm_err *err) LM_CHECKED;
/* Waits for an answer of each to the last frame. The first that is not LM_OK is the result, its text begins with the rank; who does not
 * answer in wait_ns is lost. */
lm_status lm_link_answers(lm_link *l, int64_t wait_ns, lm_err *err) LM_CHECKED;
/* Rank 0: its own part of the work broke off. That is how a rank that is gone shows first; so this waits a little for a connection
 * that closes, and declares rank 0 lost when none does. */
void lm_link_broke(lm_link *l, const char *why);
/* Ranks that were lost (the one that was first; the others are sent away). Returns how many, 0: all is well. */
uint32_t lm_link_lost(lm_link *l, uint32_t ranks[LM_MAX_RANKS], lm_err *text);

/* Other ranks: the next frame, valid until the next call. LM_CANCELLED: rank 0 says goodbye. LM_IO: rank 0 is lost. */
lm_status lm_link_next(lm_link *l, lm_str *frame, lm_err *err) LM_CHECKED;
/* st LM_OK or what went wrong (text). */
lm_status lm_link_answer(lm_link *l, lm_status st, const char *text, lm_err *err) LM_CHECKED;
/* This rank cannot go on: rank 0 hears why. */
void lm_link_give_up(lm_link *l, const char *why);

/* Rank 0 says goodbye. NULL allowed. */
void lm_link_close(lm_link *l);

/* ---- starting the others -------------------------------------------------------------------------------------------------- */

typedef struct lm_ranks lm_ranks;

typedef struct lm_ranks_config {
    const lm_hosts *hosts;
    char *const *argv;       /* of every other rank's process, NULL-terminated; argv[0] is the program's path on every host */
    const char *const *envs; /* "NAME=value", NULL-terminated; the hostfile's come on top, and MLX_RANK */
} lm_ranks_config;

/* Starts ranks 1 and up: here directly, elsewhere by ssh, which gets the environment through its standard input. Their
 * output comes out on our standard error with the rank in front of each line. */
lm_status lm_ranks_start(lm_ranks **out, const lm_ranks_config *config, lm_err *err) LM_CHECKED;
/* LM_OK while all run; else says who has ended and how. For lm_link_accept. */
lm_status lm_ranks_check(void *ranks, lm_err *err);
/* Waits until they have ended, at most wait_ns, then kills what is left. NULL allowed. */
void lm_ranks_stop(lm_ranks *r, int64_t wait_ns);

#endif
