/* sticky.h - which backend a conversation was with, so that the keys and values it keeps of it are used again. Private to the room.
 *
 * A conversation is known by hashes over its beginnings (facts.h): the next request of the same one begins with what this one
 * was, so the longest beginning that is known says where to go. Bounded: the least recently used goes; none lives longer than
 * STICKY_TTL_NS after its last use.
 *
 * Threads: the owner locks. `now` in nanoseconds.
 */
#ifndef LM_ROUTER_STICKY_H
#define LM_ROUTER_STICKY_H

#include "router/facts.h"

#define STICKY_MAX    8192
#define STICKY_TTL_NS (UINT64_C(600) * 1000000000)

typedef struct sticky sticky;
sticky *sticky_open(void);
void sticky_close(sticky *s); /* NULL allowed */
/* The backend that has the longest beginning; -1: none is known. *depth: how many beginnings it has. */
int sticky_find(sticky *s, const router_facts *f, uint64_t now, uint32_t *depth);
void sticky_note(sticky *s, const router_facts *f, uint32_t backend, uint64_t now);
uint32_t sticky_count(const sticky *s);

#endif
