#include "kv.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* Free pages that may keep their memory, for the next sequence to take without page faults. */
#define KEEP_BYTES (32u << 20)

lm_status lm_kv_open(lm_kv *kv, lm_kv_shape shape, bool f32, uint64_t bytes, lm_err *err) {
    if (!shape.n_layers || !shape.n_kv_heads || !shape.head_dim || shape.n_layers > 4096 ||
        shape.n_kv_heads > 4096 || shape.head_dim > 4096)
        return lm_fail(err, LM_INVALID,
                       "a cache of %u layers, %u kv heads of %u elements: each must be 1 to 4096",
                       shape.n_layers, shape.n_kv_heads, shape.head_dim);
    uint32_t element = f32 ? 4 : 2;
    uint64_t system_page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t page = (uint64_t)shape.n_layers * shape.n_kv_heads * 2 * LM_KV_PAGE * shape.head_dim * element;
    page = (page + system_page - 1) / system_page * system_page;
    uint64_t n_pages = bytes / page;
    if (n_pages == 0)
        return lm_fail(err, LM_NO_MEMORY,
                       "%llu bytes for keys and values hold not even one page of %llu; give more memory",
                       (unsigned long long)bytes, (unsigned long long)page);
    if (n_pages > UINT32_MAX / 2) n_pages = UINT32_MAX / 2;
    if (n_pages * page > SIZE_MAX / 2)
        return lm_fail(err, LM_NO_MEMORY,
                       "%llu bytes for keys and values are beyond this machine's addresses",
                       (unsigned long long)bytes);

    uint32_t *lists = lm_try_alloc(n_pages, 2 * sizeof(uint32_t));
    void *base = lists ? mmap(NULL, n_pages * page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                       : MAP_FAILED;
    if (base == MAP_FAILED) {
        free(lists);
        return lm_fail(err, LM_NO_MEMORY,
                       "the system will not reserve %llu bytes for keys and values; lower num_ctx",
                       (unsigned long long)(n_pages * page));
    }
    *kv = (lm_kv){.shape = shape,
                  .element = element,
                  .page_bytes = page,
                  .base = base,
                  .n_pages = (uint32_t)n_pages,
                  .refs = lists,
                  .free = lists + n_pages,
                  .n_free = (uint32_t)n_pages};
    /* Lowest addresses on top: a lightly used cache stays small. */
    for (uint32_t i = 0; i < kv->n_pages; i++) kv->free[i] = kv->n_pages - 1 - i;
    return LM_OK;
}

void lm_kv_close(lm_kv *kv) {
    if (kv->base) munmap(kv->base, (size_t)kv->n_pages * kv->page_bytes);
    free(kv->refs);
    memset(kv, 0, sizeof *kv);
}

uint64_t lm_kv_used(const lm_kv *kv) {
    return (uint64_t)(kv->n_pages - kv->n_free) * kv->page_bytes;
}

static uint32_t take_page(lm_kv *kv) {
    uint32_t page = kv->free[--kv->n_free];
    if (kv->n_touched) kv->n_touched--;
    kv->refs[page] = 1;
    return page;
}

static void drop_page(lm_kv *kv, uint32_t page) {
    if (--kv->refs[page]) return;
    if ((uint64_t)(kv->n_touched + 1) * kv->page_bytes <= KEEP_BYTES) {
        kv->free[kv->n_free++] = page;
        kv->n_touched++;
        return;
    }
    madvise(kv->base + page * kv->page_bytes, kv->page_bytes, MADV_DONTNEED);
    /* Below the touched ones: the lowest of those changes places with it. */
    uint32_t lowest = kv->n_free - kv->n_touched;
    kv->free[kv->n_free++] = kv->n_touched ? kv->free[lowest] : page;
    kv->free[lowest] = page;
}

static uint32_t pages_for(uint64_t n_tokens) {
    return (uint32_t)((n_tokens + LM_KV_PAGE - 1) / LM_KV_PAGE);
}

/* Copies the first n_tokens of a page, every layer and head. */
static void copy_tokens(lm_kv *kv, uint32_t to, uint32_t from, uint32_t n_tokens) {
    size_t bytes = (size_t)n_tokens * kv->shape.head_dim * kv->element;
    for (uint32_t layer = 0; layer < kv->shape.n_layers; layer++) {
        for (uint32_t head = 0; head < kv->shape.n_kv_heads; head++) {
            memcpy(lm_kv_at(kv, to, layer, head, false), lm_kv_at(kv, from, layer, head, false), bytes);
            memcpy(lm_kv_at(kv, to, layer, head, true), lm_kv_at(kv, from, layer, head, true), bytes);
        }
    }
}

static bool grow_table(lm_seq *seq, uint32_t n_pages) {
    if (n_pages <= seq->room) return true;
    uint32_t room = seq->room * 2 > n_pages ? seq->room * 2 : n_pages;
    uint32_t *pages = realloc(seq->pages, room * sizeof *pages);
    if (!pages) return false;
    seq->pages = pages;
    seq->room = room;
    return true;
}

lm_status lm_kv_seq_open(lm_kv *kv, lm_seq **out, lm_err *err) {
    lm_seq *seq = lm_try_alloc(1, sizeof *seq);
    if (!seq) return lm_fail(err, LM_NO_MEMORY, "no memory for a sequence");
    seq->kv = kv;
    *out = seq;
    return LM_OK;
}

static void drop_from(lm_seq *seq, uint32_t n_pages) {
    while (seq->n_pages > n_pages) drop_page(seq->kv, seq->pages[--seq->n_pages]);
}

void lm_kv_seq_close(lm_seq *seq) {
    if (!seq) return;
    LM_ASSERT(!seq->in_step);
    drop_from(seq, 0);
    free(seq->pages);
    free(seq);
}

void lm_kv_seq_trim(lm_seq *seq, uint32_t n_tokens) {
    LM_ASSERT(!seq->in_step);
    if (n_tokens < seq->len) seq->len = n_tokens;
    drop_from(seq, pages_for(seq->len));
}

static lm_status too_few(const lm_kv *kv, uint32_t need, lm_err *err) {
    return lm_fail(err, LM_BUSY, "the cache needs %u more pages of %d tokens, %u of %u are free", need,
                   LM_KV_PAGE, kv->n_free, kv->n_pages);
}

lm_status lm_kv_seq_fork(lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) {
    lm_kv *kv = src->kv;
    LM_ASSERT(!src->in_step);
    if (n_tokens > src->len)
        return lm_fail(err, LM_INVALID, "a fork at token %u of a sequence of %u", n_tokens, src->len);
    uint32_t shared = n_tokens / LM_KV_PAGE, rest = n_tokens % LM_KV_PAGE;
    if (rest && kv->n_free == 0) return too_few(kv, 1, err);
    lm_seq *seq = NULL;
    lm_status st = lm_kv_seq_open(kv, &seq, err);
    if (st != LM_OK) return st;
    if (!grow_table(seq, shared + 1)) {
        free(seq);
        return lm_fail(err, LM_NO_MEMORY, "no memory for a sequence of %u pages", shared + 1);
    }
    for (uint32_t i = 0; i < shared; i++) {
        seq->pages[i] = src->pages[i];
        kv->refs[src->pages[i]]++;
    }
    seq->n_pages = shared;
    if (rest) {
        seq->pages[seq->n_pages++] = take_page(kv);
        copy_tokens(kv, seq->pages[shared], src->pages[shared], rest);
    }
    seq->len = n_tokens;
    *out = seq;
    return LM_OK;
}

/* The sequence's last page when it is partly used and not its alone (after a trim). */
static bool must_copy(const lm_seq *seq) {
    return seq->len % LM_KV_PAGE && seq->kv->refs[seq->pages[seq->len / LM_KV_PAGE]] > 1;
}

lm_status lm_kv_seq_reserve(lm_seq *seq, uint32_t n_tokens, lm_err *err) {
    lm_kv *kv = seq->kv;
    LM_ASSERT(!seq->in_step);
    if (n_tokens == 0) return LM_OK;
    uint64_t len = (uint64_t)seq->len + n_tokens;
    if (len > INT32_MAX)
        return lm_fail(err, LM_TOO_LARGE, "a sequence of %llu tokens", (unsigned long long)len);
    uint32_t want = pages_for(len);
    uint32_t need = (want > seq->n_pages ? want - seq->n_pages : 0) + must_copy(seq);
    if (need > kv->n_free) return too_few(kv, need, err);
    if (!grow_table(seq, want))
        return lm_fail(err, LM_NO_MEMORY, "no memory for a sequence of %u pages", want);
    if (must_copy(seq)) {
        uint32_t *last = &seq->pages[seq->len / LM_KV_PAGE];
        uint32_t page = take_page(kv);
        copy_tokens(kv, page, *last, seq->len % LM_KV_PAGE);
        drop_page(kv, *last);
        *last = page;
    }
    while (seq->n_pages < want) seq->pages[seq->n_pages++] = take_page(kv);
    return LM_OK;
}

bool lm_kv_seq_ready(const lm_seq *seq, uint32_t n_tokens) {
    return (uint64_t)seq->len + n_tokens <= (uint64_t)seq->n_pages * LM_KV_PAGE && !must_copy(seq);
}
