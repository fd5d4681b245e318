/* probe.h - one look at a backend: is it there, what version is it, which models does it have, what is loaded. Private to the room.
 *
 * GET /api/version, /api/tags, /api/ps, then POST /api/show for models whose abilities no listing told, once for each: nothing that
 * makes a server load a model. Answers are capped and checked; the words for what went wrong name no address.
 *
 * Threads: a probe belongs to one thread; probe_stop may come from any.
 */
#ifndef LM_ROUTER_PROBE_H
#define LM_ROUTER_PROBE_H

#include <stdatomic.h>

#include "router/catalog.h"
#include "router/health.h"

#define PROBE_SHOWS 16 /* that are asked for in one round: the next check must not wait for a hundred */

typedef struct probe probe;

typedef struct probe_result {
    check_end end;
    uint32_t retry_after_s; /* of CHECK_BUSY */
    char version[64];
    uint64_t latency_ns; /* of /api/version */
    catalog *models;     /* of CHECK_OK; the caller's */
    char error[256];     /* of the others */
} probe_result;

/* Borrows both. */
lm_status probe_open(probe **out, const lm_router_backend *backend, const lm_router_config *config,
                     lm_err *err) LM_CHECKED;
void probe_close(probe *p); /* NULL allowed */
/* before: the models of the last look, whose abilities are taken over where the digest is the same; NULL: none. */
void probe_look(probe *p, const catalog *before, probe_result *out);
/* false: the backend does not say, or not now (*later: ask again another time). */
bool probe_show(probe *p, const char *model, catalog_show *out, bool *later);
/* Ends what runs and all that follows. */
void probe_stop(probe *p);

#endif
