/* choose.h - whom a request is sent to: a pure function of what it needs and what is known. Private to the room.
 *
 * Out: who does not have the model under this name or a twin's, who is down or unknown, who is busy, full, or whose breaker is open, and
 * who lacks an ability that another one of those with the model has (if none has it, all may answer: the backend words the
 * error). If nobody lists the model at all, those that are up are asked all the same: listings are some seconds old,
 * and the backend words the 404.
 *
 * Of the others, in this order of weight:
 *   1  an unload goes where the model is loaded; the user's order, of this model or in general: that kind first
 *   2  where the conversation was before
 *   3  where the model is loaded, with a context that will do
 *   4  state: healthy, degraded, warming
 *   5  what `bench --choose` measured (order auto)
 *   6  MLX before Ollama for the same model (order auto), the other way round when MLX would have to import a GGUF file first
 *   7  fewer requests running; the order of the configuration
 * Before all of these: one that can't hold the asked context, and one of which it is known that it ignores the asked format, come
 * after those that can.
 */
#ifndef LM_ROUTER_CHOOSE_H
#define LM_ROUTER_CHOOSE_H

#include "router/backends.h"
#include "router/catalog.h"
#include "router/health.h"

typedef struct choose_view {
    const lm_router_backend *config;
    backend_state state;
    uint64_t busy_ns;       /* of BACKEND_BUSY: how long still */
    uint64_t next_check_ns; /* from now */
    bool restarting;        /* down, but not for long: it may be worth waiting for */
    uint32_t running;       /* requests now */
    const catalog *models;  /* NULL: never seen */
    const breakers *breakers;
    const char *why_down; /* for people; NULL: nothing known */
} choose_view;

typedef struct choose_wish {
    lm_order order;       /* for this model */
    const char *measured; /* a backend's name or NULL */
    int sticky;           /* index or -1 */
    uint32_t sticky_depth;
    uint64_t now_ns; /* of the breakers */
} choose_wish;

/* twins: of f->model; n_twins 0: that is no model name, or empty. out has room for n_views. */
void choose(const router_facts *f, const choose_wish *wish, const twin *twins, uint32_t n_twins,
            const choose_view *views, uint32_t n_views, candidate *out);

/* This request unloads the model: no prompt, and keep_alive 0. */
bool choose_is_unload(const router_facts *f);

#endif
