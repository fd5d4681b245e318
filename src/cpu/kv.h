/* kv.h (private to cpu/) - keys and values: pages of LM_KV_PAGE tokens, shared by sequences by reference.
 *
 * All pages lie in one reservation of address space; the system backs a page when it is first written. A page
 * holds its tokens for every layer:
 *
 *     (layer, kv_head, keys|values, LM_KV_PAGE, head_dim)    f16, or f32 for the reference
 *
 * so that the keys of a head are contiguous. A full page may belong to several sequences; one that is partly
 * used has one owner before it is written: fork copies it, and reserve does after a trim into a shared page.
 *
 * Threads: as the device, one at a time.
 */
#ifndef LM_CPU_KV_H
#define LM_CPU_KV_H

#include "kernels.h"

typedef struct lm_kv {
    lm_kv_shape shape;
    uint32_t element;  /* bytes: 2 or 4 */
    size_t page_bytes; /* a multiple of the system's page */
    uint8_t *base;     /* n_pages * page_bytes, reserved */
    uint32_t n_pages;
    uint32_t *refs; /* (n_pages) sequences that hold it */
    uint32_t *free; /* stack of free pages: touched ones on top of those that the system has back */
    uint32_t n_free;
    uint32_t n_touched; /* of the free ones, those at the top that still hold memory */
} lm_kv;

struct lm_seq {
    lm_kv *kv;
    uint32_t *pages; /* (n_pages) */
    uint32_t n_pages, room;
    uint32_t len; /* tokens */
    bool in_step; /* takes part in the step in progress */
};

/* LM_INVALID: a dimension of 0. LM_NO_MEMORY: not one page fits in bytes, or the system refuses to reserve.
 */
lm_status lm_kv_open(lm_kv *kv, lm_kv_shape shape, bool f32, uint64_t bytes, lm_err *err) LM_CHECKED;
void lm_kv_close(lm_kv *kv);
uint64_t lm_kv_used(const lm_kv *kv); /* bytes of pages that sequences hold */

/* Address of the keys (or values) of one kv head in a page: LM_KV_PAGE * head_dim elements. */
static inline uint8_t *lm_kv_at(const lm_kv *kv, uint32_t page, uint32_t layer, uint32_t head, bool values) {
    size_t block = (size_t)LM_KV_PAGE * kv->shape.head_dim * kv->element;
    return kv->base + page * kv->page_bytes +
           (((size_t)layer * kv->shape.n_kv_heads + head) * 2 + values) * block;
}

/* tensor.h's seq_*, same meaning. */
lm_status lm_kv_seq_open(lm_kv *kv, lm_seq **out, lm_err *err) LM_CHECKED;
void lm_kv_seq_close(lm_seq *seq);
void lm_kv_seq_trim(lm_seq *seq, uint32_t n_tokens);
lm_status lm_kv_seq_fork(lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) LM_CHECKED;
lm_status lm_kv_seq_reserve(lm_seq *seq, uint32_t n_tokens, lm_err *err) LM_CHECKED;
/* True when n_tokens more fit and the page that the next one goes to is the sequence's alone. */
bool lm_kv_seq_ready(const lm_seq *seq, uint32_t n_tokens);

#endif
