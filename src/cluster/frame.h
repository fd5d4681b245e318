/* frame.h (private to cluster/) - frames on a socket, and the proof that a peer knows the secret. */
#ifndef LM_CLUSTER_FRAME_H
#define LM_CLUSTER_FRAME_H

#include "cluster/cluster.h"

typedef enum lm_frame_type {
    LM_LINK_HELLO = 1, /* rank 1..: magic, version, rank, nonce */
    LM_LINK_CHALLENGE, /* rank 0: nonce, proof */
    LM_LINK_PROOF,     /* rank 1..: proof */
    LM_LINK_WELCOME,   /* rank 0: size */
    LM_LINK_BEAT,
    LM_LINK_DATA,    /* rank 0 */
    LM_LINK_ANSWER,  /* rank 1..: status, text */
    LM_LINK_GIVE_UP, /* rank 1..: text */
    LM_LINK_BYE,     /* rank 0 */
} lm_frame_type;

enum { LM_FRAME_HEAD = 5, LM_NONCE = 32, LM_PROOF = 32, LM_MAX_HANDSHAKE = 128 };

typedef struct lm_frame {
    uint8_t kind;
    lm_str body;
    size_t total; /* bytes with the head; 0: not all of it is there yet */
} lm_frame;

/* The first frame of `bytes`. LM_CORRUPT: its length is over max, or its kind is none. */
lm_status lm_frame_parse(lm_str bytes, size_t max, lm_frame *out, lm_err *err) LM_CHECKED;

/* Blocks until sent, at most until deadline_ns (lm_now_ns). LM_IO, LM_TIMEOUT. */
lm_status lm_frame_send(int fd, lm_frame_type kind, const void *body, size_t n, uint64_t deadline_ns,
                        lm_err *err) LM_CHECKED;
/* Waits for exactly one frame of that kind with a body of n bytes. For the handshake. */
lm_status lm_frame_expect(int fd, lm_frame_type kind, void *body, size_t n, uint64_t deadline_ns,
                          lm_err *err) LM_CHECKED;

/* Both sides of the handshake. *rank: who it is. LM_DENIED: the secret is another one; LM_INVALID: not one of
 * ours. */
lm_status lm_handshake_accept(int fd, const char *secret, uint32_t size, uint32_t *rank,
                              lm_err *err) LM_CHECKED;
lm_status lm_handshake_join(int fd, const char *secret, uint32_t rank, uint32_t size, lm_err *err) LM_CHECKED;

#endif
