/* cluster.c - this process as one of several that compute together: rank 0, which has the API and starts the
 * others, or another rank, which does what rank 0 says.
 *
 * Environment between the ranks (what mlx.launch sets is MLX's own):
 *     MLX_RANK            which rank this is; absent: rank 0, and the others are to be started
 *     MLX_BRIDGE_SECRET   what all ranks know
 *     MLX_BRIDGE_CONTROL  "address:port" of rank 0's link, from who started us: then the hostfile is not read
 * again MLX_BRIDGE_SIZE, MLX_BRIDGE_KIND, MLX_BRIDGE_RING, MLX_BRIDGE_RDMA   what would follow from it
 */
#include "bridge/cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "bridge/bridge.h"

#define DEFAULT_PORT 32323 /* as mlx.launch */
#define JOIN_NS      INT64_C(60000000000)
#define LOAD_NS      INT64_C(1800000000000) /* the largest models over a slow disk */
#define END_NS       INT64_C(5000000000)

/* The first frame, before those of model/: MLX's own connections are to be made now. */
enum { FRAME_MEET = 0 };

/* ---- what MLX finds in the environment */

/* A file with that text, named by the variable: MLX reads hostfiles from files only. */
static lm_status set_file(const char *name, const char *text, char path[PATH_MAX], lm_err *err) {
    const char *dir = getenv("TMPDIR");
    snprintf(path, PATH_MAX, "%s/mlx-ollama-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(path);
    size_t n = strlen(text);
    bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    if (!ok) lm_fail(err, LM_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    if (ok) setenv(name, path, 1);
    return ok ? LM_OK : LM_IO;
}

/* MLX's connections, made. Its files are gone afterwards. */
static lm_status meet(bridge_cluster *cl, const lm_backend *backend, lm_err *err) {
    char ring[PATH_MAX] = "", rdma[PATH_MAX] = "";
    uint32_t rank = 0, size = 0;
    lm_status st = LM_OK;
    if (cl->ring) st = set_file("MLX_HOSTFILE", cl->ring, ring, err);
    if (st == LM_OK && cl->rdma) st = set_file("MLX_IBV_DEVICES", cl->rdma, rdma, err);
    if (st == LM_OK)
        st = backend->join(!strncmp(cl->kind, "jaccl", 5) ? "jaccl" : cl->kind, &rank, &size, err);
    if (*ring) unlink(ring);
    if (*rdma) unlink(rdma);
    if (st == LM_OK && (rank != cl->world.rank || size != cl->world.size))
        st = lm_fail(err, LM_INVALID,
                     "MLX says rank %u of %u, the hostfile says rank %u of %u: is it the same on every host?",
                     rank, size, cl->world.rank, cl->world.size);
    return st;
}

static lm_status needs_mlx(const lm_backend *backend, lm_err *err) {
    if (backend->join) return LM_OK;
    return lm_fail(err, LM_UNSUPPORTED,
                   "--distributed computes with MLX, not with the %s backend: use --backend mlx",
                   backend->name);
}

/* Which rank we were started as; -1: nobody says. */
static int own_rank(void) {
    static const char *const names[] = {"MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i]);
        if (text && *text) return atoi(text) < 0 ? -1 : atoi(text);
    }
    return -1;
}

bool bridge_follows(const bridge_config *c) {
    return c->distributed && own_rank() > 0;
}

/* ---- rank 0: before the backend is loaded */

static lm_status port_of(uint32_t n, uint16_t *first, lm_err *err) {
    for (int tries = 0; tries < 100; tries++) {
        uint32_t got = 0, base = 0;
        int fds[LM_MAX_RANKS * 8];
        for (; got < n; got++) {
            struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
            socklen_t len = sizeof at;
            if (got) at.sin_port = htons((uint16_t)(base + got));
            fds[got] = base + got > UINT16_MAX ? -1 : socket(AF_INET, SOCK_STREAM, 0);
            if (fds[got] < 0) break;
            if (bind(fds[got], (struct sockaddr *)&at, sizeof at) ||
                getsockname(fds[got], (struct sockaddr *)&at, &len)) {
                close(fds[got]);
                break;
            }
            if (!got) base = ntohs(at.sin_port);
        }
        for (uint32_t i = 0; i < got; i++) close(fds[i]);
        if (got == n) {
            *first = (uint16_t)base;
            return LM_OK;
        }
    }
    return lm_fail(err, LM_IO, "no %u free ports in a row: name some with --distributed-port", n);
}

/* Ports for MLX's own connections: from the system where all ranks run on this machine, else as mlx.launch
 * numbers them. */
static lm_status choose_port(const bridge_config *c, bridge_cluster *cl, lm_err *err) {
    bool here = true;
    uint32_t n = 0;
    for (uint32_t i = 0; i < cl->hosts.n; i++) {
        here = here && lm_host_is_here(&cl->hosts.host[i]);
        n += cl->hosts.host[i].n_ips;
    }
    cl->port = c->distributed_port ? c->distributed_port : DEFAULT_PORT;
    if (c->distributed_port && c->distributed_port + n > UINT16_MAX)
        return lm_fail(err, LM_INVALID, "--distributed-port %u: there are no %u ports from there",
                       c->distributed_port, n);
    return here && !c->distributed_port ? port_of(n, &cl->port, err) : LM_OK;
}

static void add_env(bridge_cluster *cl, const char *format, ...) LM_PRINTF(2, 3);
static void add_env(bridge_cluster *cl, const char *format, ...) {
    lm_buf b;
    char text[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lm_buf_init(&b, sizeof text);
    lm_buf_text(&b, text);
    LM_ASSERT(cl->n_envs + 1 < BRIDGE_MAX_ENVS);
    cl->envs[cl->n_envs++] = lm_buf_take(&b);
}

static void take_env(const char *env) {
    char *copy = lm_strdup(env), *equals = strchr(copy, '=');
    *equals = '\0';
    setenv(copy, equals + 1, 1);
    free(copy);
}

/* What every rank needs to know, and what MLX's engines want; ours is set, too. */
static void make_envs(bridge_cluster *cl) {
    const lm_hosts *h = &cl->hosts;
    const char *zero = h->host[0].ips[0];
    add_env(cl, "MLX_BRIDGE_SECRET=%s", cl->secret);
    add_env(cl, "MLX_BRIDGE_CONTROL=%s:%u", zero, lm_link_port(cl->link));
    add_env(cl, "MLX_BRIDGE_SIZE=%u", h->n);
    add_env(cl, "MLX_BRIDGE_KIND=%s", h->kind);
    if (cl->ring) add_env(cl, "MLX_BRIDGE_RING=%s", cl->ring);
    if (cl->rdma) add_env(cl, "MLX_BRIDGE_RDMA=%s", cl->rdma);
    uint32_t own = cl->n_envs; /* from here on they concern MLX, on rank 0, too */
    if (!strncmp(h->kind, "jaccl", 5)) add_env(cl, "MLX_JACCL_COORDINATOR=%s:%u", zero, cl->port);
    if (!strcmp(h->kind, "jaccl-ring")) add_env(cl, "MLX_JACCL_RING=1");
    if (!strcmp(h->kind, "nccl")) {
        add_env(cl, "NCCL_HOST_IP=%s", zero);
        add_env(cl, "NCCL_PORT=%u", cl->port);
        add_env(cl, "MLX_WORLD_SIZE=%u", h->n);
        setenv("CUDA_VISIBLE_DEVICES", "0", 1);
    }
    for (uint32_t i = own; i < cl->n_envs; i++) take_env(cl->envs[i]);
    for (uint32_t i = 0; i < h->n_envs; i++) take_env(h->envs[i]);
    setenv("MLX_RANK", "0", 1);
}

static void log_why(lm_level level, const char *message, const char *why) {
    lm_buf b;
    lm_buf_init(&b, 1024);
    lm_log_field(&b, "why", lm_str_of(why));
    lm_log(level, message, "%s", b.ptr ? b.ptr : "");
    lm_buf_release(&b);
}

static void lost(void *ctx, uint32_t rank, const char *text) {
    bridge_cluster *cl = ctx;
    log_why(LM_LOG_ERROR, "a rank is lost", text);
    pthread_mutex_lock(&cl->lock);
    lm_engine *engine = cl->engine;
    pthread_mutex_unlock(&cl->lock);
    if (engine) {
        lm_engine_lose(engine, rank, text);
        return;
    }
    /* Still starting: the main thread may wait inside MLX for ever. */
    fprintf(stderr, "mlx-ollama-bridge: %s\n", text);
    _exit(EXIT_FAILED);
}

/* It may be an attack, or a wrong secret. */
static void refused(void *ctx, const char *why) {
    (void)ctx;
    log_why(LM_LOG_WARN, "a connection to the ranks' port was refused", why);
}

static lm_status open_link(const bridge_config *c, bridge_cluster *cl, lm_err *err) {
    const char *secret = getenv("MLX_BRIDGE_SECRET");
    lm_status st = LM_OK;
    if (secret && *secret)
        snprintf(cl->secret, sizeof cl->secret, "%s", secret);
    else if (cl->starts)
        st = lm_link_secret(cl->secret, err);
    else
        st = lm_fail(err, LM_INVALID,
                     "the ranks need a secret that no one else knows: mlx.launch --env "
                     "MLX_BRIDGE_SECRET=$(openssl rand -hex 32)");
    lm_link_config config = {.address = cl->hosts.host[0].ips[0],
                             .port = cl->starts ? 0 : bridge_control_port(c),
                             .rank = 0,
                             .size = cl->hosts.n,
                             .secret = cl->secret,
                             .hosts = &cl->hosts,
                             .lost = lost,
                             .refused = refused,
                             .ctx = cl};
    return st == LM_OK ? lm_link_listen(&cl->link, &config, err) : st;
}

uint16_t bridge_control_port(const bridge_config *c) {
    return (uint16_t)((c->distributed_port ? c->distributed_port : DEFAULT_PORT) - 1);
}

lm_status bridge_cluster_prepare(const bridge_config *c, bridge_cluster *cl, lm_err *err) {
    lm_buf ring;
    *cl = (bridge_cluster){.starts = own_rank() < 0};
    LM_ASSERT(pthread_mutex_init(&cl->lock, NULL) == 0);
    lm_status st = lm_hosts_load(c->distributed, &cl->hosts, err);
    if (st != LM_OK) return st;
    strcpy(cl->kind, cl->hosts.kind);
    if (cl->starts && !strcmp(cl->kind, "mpi"))
        return lm_fail(err, LM_UNSUPPORTED,
                       "MPI's own launcher starts the ranks: mlx.launch --backend mpi --hostfile %s --env "
                       "MLX_BRIDGE_SECRET=... -- mlx-ollama-bridge --distributed %s",
                       c->distributed, c->distributed);
    cl->world = (lm_world){.rank = 0, .size = cl->hosts.n, .split = c->distributed_mode};
    st = open_link(c, cl, err);
    if (st != LM_OK || !cl->starts) return st;
    st = choose_port(c, cl, err);
    if (st != LM_OK) return st;
    if (!strcmp(cl->kind, "ring")) {
        lm_buf_init(&ring, 65536);
        lm_hosts_ring(&cl->hosts, cl->port, &ring);
        cl->ring = lm_buf_take(&ring);
    }
    if (cl->hosts.rdma) cl->rdma = lm_strdup(cl->hosts.rdma);
    make_envs(cl);
    return LM_OK;
}

/* ---- rank 0: starting and meeting the others */

static lm_status start_others(const bridge_config *c, bridge_cluster *cl, const lm_backend *backend,
                              lm_err *err) {
    char program[PATH_MAX], device[16] = "cpu", threads[16];
    lm_backend_info info;
    backend->info(&info);
    if (info.gpu) snprintf(device, sizeof device, "gpu:%u", strcmp(cl->kind, "nccl") ? c->device_index : 0);
    if (!lm_program_path(program)) return lm_fail(err, LM_IO, "cannot find out where this program lies");
    snprintf(threads, sizeof threads, "%u", c->n_threads);
    char *argv[] = {program,
                    "serve",
                    "--distributed",
                    "-",
                    "--backend",
                    "mlx",
                    "--device",
                    device,
                    "--threads",
                    threads,
                    c->verbose ? "--verbose" : NULL,
                    NULL};
    lm_ranks_config config = {.hosts = &cl->hosts, .argv = argv, .envs = (const char *const *)cl->envs};
    return lm_ranks_start(&cl->ranks, &config, err);
}

/* Ctrl-C while it starts: the signals are blocked and taken later, by who serves. */
static bool asked_to_end(void) {
    sigset_t waiting;
    return sigpending(&waiting) == 0 &&
           (sigismember(&waiting, SIGTERM) == 1 || sigismember(&waiting, SIGINT) == 1);
}

static lm_status still_worth_it(void *ctx, lm_err *err) {
    bridge_cluster *cl = ctx;
    if (asked_to_end()) return lm_fail(err, LM_CANCELLED, "ended before all ranks had joined");
    return cl->ranks ? lm_ranks_check(cl->ranks, err) : LM_OK;
}

/* Ends the program when MLX's ranks don't find each other, which MLX itself would wait for without end. */
static void *watch(void *arg) {
    bridge_cluster *cl = arg;
    uint64_t end = lm_now_ns() + (uint64_t)JOIN_NS;
    while (!atomic_load(&cl->met)) {
        bool late = lm_now_ns() > end;
        if (late)
            fprintf(stderr,
                    "mlx-ollama-bridge: MLX's ranks did not find each other in a minute (%s): are the "
                    "addresses and ports of the "
                    "hostfile free, and can every host reach them?\n",
                    cl->kind);
        if (late || asked_to_end()) _exit(EXIT_FAILED);
        usleep(100000);
    }
    return NULL;
}

static lm_status tell(void *ctx, const void *frame, size_t n, lm_err *err) {
    return lm_link_tell(((bridge_cluster *)ctx)->link, frame, n, err);
}

static lm_status answers(void *ctx, lm_err *err) {
    return lm_link_answers(((bridge_cluster *)ctx)->link, LOAD_NS, err);
}

static void broken(void *ctx, const char *why) {
    lm_link_broke(((bridge_cluster *)ctx)->link, why);
}

lm_status bridge_cluster_start(const bridge_config *c, bridge_cluster *cl, const lm_backend *backend,
                               lm_err *err) {
    lm_backend_info info;
    backend->info(&info);
    uint8_t frame[2] = {FRAME_MEET, info.gpu};
    pthread_t watcher;
    lm_status st = needs_mlx(backend, err);
    if (st == LM_OK && cl->starts) st = start_others(c, cl, backend, err);
    if (st == LM_OK) st = lm_link_accept(cl->link, JOIN_NS, still_worth_it, cl, err);
    if (st == LM_OK) st = lm_link_tell(cl->link, frame, sizeof frame, err);
    if (st == LM_OK && pthread_create(&watcher, NULL, watch, cl))
        st = lm_fail(err, LM_NO_MEMORY, "the system gives no more threads: raise its limit (ulimit -u)");
    if (st != LM_OK) return st;
    st = meet(cl, backend, err);
    if (st == LM_OK) st = lm_link_answers(cl->link, JOIN_NS, err);
    atomic_store(&cl->met, true);
    pthread_join(watcher, NULL);
    cl->mirror = (lm_mirror){.ctx = cl, .tell = tell, .answers = answers, .broken = broken};
    cl->world.mirror = &cl->mirror;
    if (st == LM_OK) lm_log(LM_LOG_INFO, "all ranks are here", "ranks=%u over=%s", cl->world.size, cl->kind);
    return st;
}

void bridge_cluster_serves(bridge_cluster *cl, lm_engine *engine) {
    uint32_t ranks[LM_MAX_RANKS];
    lm_err why = {0};
    pthread_mutex_lock(&cl->lock);
    cl->engine = engine;
    pthread_mutex_unlock(&cl->lock);
    if (engine && lm_link_lost(cl->link, ranks, &why)) lm_engine_lose(engine, ranks[0], why.text);
}

bool bridge_cluster_lost(bridge_cluster *cl) {
    uint32_t ranks[LM_MAX_RANKS];
    lm_err why = {0};
    return cl->link && lm_link_lost(cl->link, ranks, &why);
}

void bridge_cluster_end(bridge_cluster *cl) {
    lm_link_close(cl->link);
    lm_ranks_stop(cl->ranks, END_NS);
    cl->link = NULL;
    cl->ranks = NULL;
}

/* ---- the other ranks */

static void rank_0_lost(void *ctx, uint32_t rank, const char *text) {
    (void)ctx;
    (void)rank;
    fprintf(stderr, "mlx-ollama-bridge: %s\n", text);
    _exit(EXIT_FAILED);
}

/* From who started us, or from the hostfile as rank 0 reads it. */
static lm_status find_zero(const bridge_config *c, bridge_cluster *cl, char address[256], uint16_t *port,
                           lm_err *err) {
    const char *control = getenv("MLX_BRIDGE_CONTROL"), *size = getenv("MLX_BRIDGE_SIZE"),
               *kind = getenv("MLX_BRIDGE_KIND");
    if (!control) {
        lm_status st = lm_hosts_load(c->distributed, &cl->hosts, err);
        if (st != LM_OK) return st;
        snprintf(address, 256, "%s", cl->hosts.host[0].ips[0]);
        *port = bridge_control_port(c);
        cl->world.size = cl->hosts.n;
        strcpy(cl->kind, cl->hosts.kind);
        return LM_OK;
    }
    const char *colon = strrchr(control, ':');
    if (!colon || colon - control > 255 || !size || !kind || strlen(kind) >= sizeof cl->kind)
        return lm_fail(err, LM_INVALID,
                       "MLX_BRIDGE_CONTROL, MLX_BRIDGE_SIZE and MLX_BRIDGE_KIND come from rank 0 only");
    snprintf(address, 256, "%.*s", (int)(colon - control), control);
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    cl->world.size = (uint32_t)strtoul(size, NULL, 10);
    strcpy(cl->kind, kind);
    if (getenv("MLX_BRIDGE_RING")) cl->ring = lm_strdup(getenv("MLX_BRIDGE_RING"));
    if (getenv("MLX_BRIDGE_RDMA")) cl->rdma = lm_strdup(getenv("MLX_BRIDGE_RDMA"));
    return LM_OK;
}

static lm_status meet_others(bridge_cluster *cl, const lm_backend *backend, bool gpu, lm_err *err) {
    lm_backend_info info;
    backend->info(&info);
    if (info.gpu != gpu)
        return lm_fail(err, LM_UNSUPPORTED,
                       "this rank computes on a %s, rank 0 on a %s: all must have the same kind",
                       info.gpu ? "GPU" : "CPU", gpu ? "GPU" : "CPU");
    return meet(cl, backend, err);
}

/* As the engine on rank 0 has it. */
static uint64_t budget_of(const lm_backend *backend) {
    lm_backend_info info;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    backend->info(&info);
    if (info.memory) return info.memory;
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 4 * 3 : UINT64_MAX;
}

/* Frames until rank 0 says goodbye. */
static lm_status follow(bridge_cluster *cl, const lm_backend *backend, lm_err *err) {
    lm_follower *f = lm_follower_new(backend, &cl->world, budget_of(backend));
    lm_str frame;
    lm_status st;
    while ((st = lm_link_next(cl->link, &frame, err)) == LM_OK) {
        lm_err why = {0};
        bool answer = true;
        lm_status did = frame.len == 2 && frame.ptr[0] == FRAME_MEET
                            ? meet_others(cl, backend, frame.ptr[1], &why)
                            : lm_follower_do(f, frame.ptr, frame.len, &answer, &why);
        if (answer) {
            st = lm_link_answer(cl->link, did, why.text, err);
        } else if (did != LM_OK) {
            lm_link_give_up(cl->link, why.text);
            st = lm_fail(err, did, "%s", why.text);
        }
        if (st != LM_OK) break;
    }
    if (st == LM_CANCELLED) lm_follower_free(f);
    return st;
}

int bridge_follow(const bridge_config *c) {
    bridge_cluster cl = {0};
    const lm_backend *backend = NULL;
    lm_err err = {0};
    char address[256];
    uint16_t port = 0;
    signal(SIGPIPE, SIG_IGN);
    cl.world.rank = (uint32_t)own_rank();
    lm_status st = find_zero(c, &cl, address, &port, &err);
    const char *secret = getenv("MLX_BRIDGE_SECRET");
    if (st == LM_OK) {
        lm_link_config config = {.address = address,
                                 .port = port,
                                 .rank = cl.world.rank,
                                 .size = cl.world.size,
                                 .secret = secret ? secret : "",
                                 .lost = rank_0_lost};
        st = lm_link_join(&cl.link, &config, JOIN_NS, &err);
    }
    if (st == LM_OK) {
        st = bridge_choose_backend(c, &backend, &err);
        if (st == LM_OK) st = needs_mlx(backend, &err);
        if (st != LM_OK) lm_link_give_up(cl.link, err.text);
    }
    if (st == LM_OK) lm_log(LM_LOG_INFO, "joined", "rank=%u ranks=%u", cl.world.rank, cl.world.size);
    if (st == LM_OK) st = follow(&cl, backend, &err);
    if (st != LM_CANCELLED) fprintf(stderr, "mlx-ollama-bridge: rank %u: %s\n", cl.world.rank, err.text);
    /* MLX's own threads may wait for a rank that has gone: nothing is waited for any more. */
    _exit(st == LM_CANCELLED ? EXIT_OK : EXIT_FAILED);
}
