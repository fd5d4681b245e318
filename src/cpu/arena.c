#include "arena.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN       64
#define FIRST_CHUNK (256 * 1024)

static bool add_chunk(lm_arena *a, size_t bytes) {
    if (a->n_chunks == LM_ARENA_CHUNKS) return false;
    size_t size = bytes > a->total ? bytes : a->total;
    if (size < FIRST_CHUNK) size = FIRST_CHUNK;
    uint8_t *ptr = aligned_alloc(ALIGN, size);
    if (!ptr) return false;
    a->chunks[a->n_chunks].ptr = ptr;
    a->chunks[a->n_chunks++].size = size;
    a->total += size;
    return true;
}

void *lm_arena_take(lm_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes == 0) bytes = ALIGN;
    while (a->at >= a->n_chunks || a->chunks[a->at].size - a->used < bytes) {
        if (a->at + 1 >= a->n_chunks && !add_chunk(a, bytes)) return NULL;
        if (a->at + 1 < a->n_chunks) a->at++;
        a->used = 0;
    }
    void *p = a->chunks[a->at].ptr + a->used;
    a->used += bytes;
    return p;
}

lm_arena_mark lm_arena_mark_now(const lm_arena *a) {
    return (lm_arena_mark){a->at, a->used};
}

void lm_arena_back(lm_arena *a, lm_arena_mark mark) {
    a->at = mark.at;
    a->used = mark.used;
}

void lm_arena_reset(lm_arena *a) {
    a->at = 0;
    a->used = 0;
    if (a->n_chunks <= 1) return;
    size_t total = a->total;
    lm_arena_release(a);
    /* If this fails the arena is simply empty and grows again when it is used. */
    (void)add_chunk(a, total);
}

void lm_arena_release(lm_arena *a) {
    for (uint32_t i = 0; i < a->n_chunks; i++) free(a->chunks[i].ptr);
    memset(a, 0, sizeof *a);
}
