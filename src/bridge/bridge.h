/* bridge.h - the parts of the program mlx-ollama-bridge: its configuration, its commands. Private to
 * it. */
#ifndef LM_BRIDGE_H
#define LM_BRIDGE_H

#include "base/base.h"
#include "engine/engine.h"
#include "model/model.h"
#include "store/store.h"
#include "tensor/tensor.h"

/* What the program's exit says; --help repeats it. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_ADDRESS = 3 };

#ifndef LM_VERSION
#define LM_VERSION "unversioned" /* CMakeLists.txt gives the project's */
#endif

typedef struct bridge_config {
    enum { BRIDGE_SERVE, BRIDGE_IMPORT, BRIDGE_PULL, BRIDGE_PUSH, BRIDGE_EXPORT, BRIDGE_LIST, BRIDGE_DEVICES, BRIDGE_HELP, BRIDGE_VERSION } command;
    const char *file, *name; /* of import; name NULL: from the file's; of pull and push: name; of
                                export: name, file is the directory */
    bool insecure;           /* of pull and push */
    char host[256];
    uint16_t port;
    const char *models; /* the own store, NULL: ~/.mlx-ollama/models */
    const char **roots;
    uint32_t n_roots;
    lm_gguf_use import_gguf; /* of other stores */
    enum { BACKEND_AUTO, BACKEND_CPU, BACKEND_MLX } backend;
    enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_GPU } device; /* of MLX */
    uint32_t device_index;                               /* which GPU, from 0 */
    lm_kv_type kv_type;
    bool json;                /* output of BRIDGE_DEVICES, BRIDGE_LIST, of pull, push and export */
    const char *cpu_features; /* NULL: the best */
    uint32_t n_threads;       /* 0: all cores */
    uint32_t n_parallel, max_queue, max_models, default_ctx;
    int64_t keep_alive_ns;
    int64_t drain_ns;
    int listen_fd;                  /* above 0: a listening socket in place of host and port */
    int64_t step_ns, load_ns;       /* limits of the watchdog: one step, one load */
    const char *origins;
    bool verbose;
    const char *distributed; /* the hostfile, NULL: alone */
    lm_split distributed_mode;
    uint16_t distributed_port; /* 0: as it fits */
} bridge_config;

/* Defaults, then the environment, then the command line. LM_INVALID: says what is wrong and what would be
 * right. Strings are borrowed from argv and the environment; roots is the caller's to free. */
lm_status bridge_config_read(int argc, char **argv, bridge_config *out, lm_err *err) LM_CHECKED;
void bridge_usage(void);

/* ---- devices.c: the one place where it is decided what computes */

/* The backend that the options ask for. With --backend auto MLX is only looked at where it may have a GPU. */
lm_status bridge_choose_backend(const bridge_config *config, const lm_backend **out, lm_err *err) LM_CHECKED;
/* The devices as a JSON array, `chosen` marked. MLX's are among them when it is what was chosen: asking it
 * loads it.
 */
void bridge_devices_json(const bridge_config *config, const lm_backend *chosen, lm_buf *out);

/* ---- notify.c: what watches over this process (systemd, mlx-server-startup) hears how it is. A thread of its own, and
 * only where NOTIFY_SOCKET asks for it; the variables are taken away from processes that are started later. */
typedef struct bridge_notify bridge_notify;
/* NULL: nobody wants to hear. Once, before there are other threads. */
bridge_notify *bridge_notify_open(const bridge_config *c);
void bridge_notify_ready(bridge_notify *n, lm_engine *engine); /* it serves; the engine is asked until stopping */
void bridge_notify_stopping(bridge_notify *n);
void bridge_notify_close(bridge_notify *n);
void bridge_notify_request(void); /* one more has been answered; from any thread */

/* serve.c: the engine that the options ask for, over that backend; alone. */
lm_engine_config bridge_engine_config(const bridge_config *config, const lm_backend *backend);
int bridge_list_devices(const bridge_config *config);
int bridge_serve(const bridge_config *config);
/* ---- cluster.c: one of several ranks */
bool bridge_follows(const bridge_config *config); /* a rank above 0 */
int bridge_follow(const bridge_config *config);
int bridge_import(const bridge_config *config);
int bridge_pull(const bridge_config *config);
int bridge_push(const bridge_config *config);
int bridge_export(const bridge_config *config);
int bridge_list(const bridge_config *config);

#endif
