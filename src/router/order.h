/* order.h - switch.ini, the state file of whom the user prefers and what was measured. Private to the room.
 *
 *     [order]
 *     default = auto              auto, ollama or mlx
 *     [models]
 *     qwen3:8b = mlx              wins over the default
 *     [measured]
 *     qwen3:8b = mlx-two          a backend's name, written by `bench --choose`; counts where the order is auto
 *
 * Written by programs only, atomically and under a lock; names are compared as model names.
 */
#ifndef LM_ROUTER_ORDER_H
#define LM_ROUTER_ORDER_H

#include <jansson.h>
#include <sys/stat.h>

#include "names/names.h"
#include "router/router.h"

typedef struct order_entry {
    lm_name name;
    bool measured;
    lm_order order;   /* of [models] */
    char backend[64]; /* of [measured] */
} order_entry;

typedef struct orders {
    lm_order general;
    order_entry *items;
    uint32_t n, room;
} orders;

/* LM_INVALID names file and line. Zeroed before, released by the caller in any case. */
lm_status orders_parse(const char *name, lm_str text, orders *out, lm_err *err) LM_CHECKED;
/* The state file; absent is empty. */
lm_status orders_read(orders *out, lm_err *err) LM_CHECKED;
void orders_release(orders *o);
lm_order orders_of(const orders *o, const lm_name *name); /* name NULL: in general */
/* The backend that was quickest for this model; NULL: not measured. */
const char *orders_measured(const orders *o, const lm_name *name);
/* backend NULL: forget what was measured. */
lm_status orders_set_measured(const char *model, const char *backend, lm_err *err) LM_CHECKED;
/* "order", "orders" and "measured" into an object. */
void orders_json(const orders *o, json_t *into);

/* The file as it was when looked at: other values mean that it was written again. */
typedef struct orders_stamp {
    bool there;
    uint64_t inode, size;
    int64_t written_ns;
} orders_stamp;
void orders_look(orders_stamp *out);
bool orders_same(const orders_stamp *a, const orders_stamp *b);

#endif
