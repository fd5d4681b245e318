/* cluster.h (private to bridge/) - what a server with several ranks has beside the usual. */
#ifndef LM_BRIDGE_CLUSTER_H
#define LM_BRIDGE_CLUSTER_H

#include <pthread.h>
#include <stdatomic.h>

#include "bridge/bridge.h"
#include "cluster/cluster.h"
#include "engine/engine.h"

enum { BRIDGE_MAX_ENVS = 16 };

typedef struct bridge_cluster {
    bool starts; /* the others are ours to start; else somebody like mlx.launch does */
    char kind[16];
    char secret[256];
    lm_hosts hosts;
    uint16_t port;     /* the first of MLX's own connections */
    char *ring, *rdma; /* for MLX_HOSTFILE and MLX_IBV_DEVICES, NULL: they are set or not needed */
    char *envs[BRIDGE_MAX_ENVS];
    uint32_t n_envs;
    lm_link *link;
    lm_ranks *ranks;
    lm_world world;
    lm_mirror mirror;
    atomic_bool met;

    pthread_mutex_t lock;
    lm_engine *engine; /* guarded by lock; NULL: still starting */
} bridge_cluster;

/* Rank 0, in this order: reads the hostfile, listens, sets the environment (before a backend is loaded);
 * starts the others, lets them and MLX find each other; tells whom to call when a rank is lost. */
lm_status bridge_cluster_prepare(const bridge_config *c, bridge_cluster *cl, lm_err *err) LM_CHECKED;
lm_status bridge_cluster_start(const bridge_config *c, bridge_cluster *cl, const lm_backend *backend,
                               lm_err *err) LM_CHECKED;
void bridge_cluster_serves(bridge_cluster *cl, lm_engine *engine);
bool bridge_cluster_lost(bridge_cluster *cl);
/* Sends the others home and waits for those that we started. */
void bridge_cluster_end(bridge_cluster *cl);

/* Where rank 0 listens when the ranks are started by somebody else. */
uint16_t bridge_control_port(const bridge_config *c);

#endif
