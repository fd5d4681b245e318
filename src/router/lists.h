/* lists.h - lists of models from several backends as one. Private to the room. */
#ifndef LM_ROUTER_LISTS_H
#define LM_ROUTER_LISTS_H

#include <jansson.h>

#include "router/router.h"

enum { LIST_TAGS, LIST_PS, LIST_V1, LIST_KINDS };

typedef struct list_kind {
    const char *path, *members, *name, *when; /* of an item: its name, and what it is sorted by */
} list_kind;
extern const list_kind list_kinds[LIST_KINDS];

/* In which order backends are tried for a model; returns how many. */
typedef uint32_t lists_choose(void *ctx, const char *model, uint32_t order[LM_ROUTER_MAX_BACKENDS]);

/* lists[b]: the items that backend b has, NULL: none. Items are shared. Newest modified first; of /api/ps, latest expiry
 * first. The caller json_decref()s. */
json_t *lists_merge(json_t *const *lists, uint32_t n_lists, size_t kind, lists_choose *chooses, void *ctx);

/* What two spellings of one name share: full, in small letters. The caller frees. */
char *lists_key(const char *name);

/* RFC 3339 as microseconds since 1970; INT64_MIN: it is none. Three centuries ahead, as never-ending models have it, fit. */
int64_t lists_time(const char *text);

#endif
