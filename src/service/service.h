/* service.h - the parts of the program mlx-server-startup: it keeps the bridge running. Private to it.
 *
 *     config.c      service.ini: one table of settings, their defaults, and where each value comes from
 *     files.c       files in a /tmp that others write to as well; the PID file's lock; a process's beginning
 *     log.c         lines into a file that is rotated
 *     state.c       what the supervisor notes for the other commands
 *     child.c       one bridge: started with the listening socket, its output, its word
 *     probe.c       GET /health without waiting
 *     supervise.c   the command `run`: all of that in one loop
 *     control.c     start, stop, restart, reload, status; logs.c shows logs
 *     units.c       texts of units for launchd and systemd; install.c puts them in place, init.c asks for them
 *     owner.c       whom the machine's service runs as
 *
 * Who is in charge: the supervisor is the process that holds the lock of the PID file, whatever that file says; the system
 * tells its PID. It owns the listening socket, which each bridge inherits: connections that come while there is none wait
 * in the socket's queue. Every process here has one thread.
 */
#ifndef LM_SERVICE_H
#define LM_SERVICE_H

#include <sys/types.h>

#include "base/base.h"

/* What the program's exit says; --help repeats it. 1, 3 and 4 of `status` are LSB's. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* status: ended without a word, its PID file is left */
    EXIT_USAGE = 2,
    EXIT_STOPPED = 3,
    EXIT_UNKNOWN = 4,
    EXIT_GAVE_UP = 6,
    EXIT_NOT_READY = 150
};

#ifndef LM_VERSION
#define LM_VERSION "unversioned" /* CMakeLists.txt gives the project's */
#endif

#define SERVICE_SECOND_NS INT64_C(1000000000)

/* ---- config.c */

/* name, section, key, kind, default, least, most (seconds, bytes or a number), help of one line */
#define SERVICE_SETTINGS(X)                                                                                  \
    X(PROGRAM, "bridge", "program", PATH, "", 0, 0,                                                          \
      "the bridge; empty: mlx-ollama-bridge beside this program, or on PATH")                                \
    X(HOST, "bridge", "host", WORD, "127.0.0.1", 0, 0, "address to listen on")                               \
    X(PORT, "bridge", "port", NUMBER, "11435", 1, 65535, "port to listen on")                                \
    X(OPTIONS, "bridge", "options", TEXT, "", 0, 0, "more options for the bridge, as on a command line")     \
    X(DRAIN, "bridge", "drain", TIME, "30s", 0, 3600,                                                        \
      "how long running answers may go on after a stop or restart")                                          \
    X(PLACE, "logs", "logs", PLACE, "tmp", 0, 0,                                                             \
      "where the three files below lie: tmp (/tmp), or state (~/.mlx-ollama)")                               \
    X(LOG, "logs", "log", PATH, "", 0, 0, "what happens; empty: mlx-bridge.log there")                       \
    X(ERROR_LOG, "logs", "error-log", PATH, "", 0, 0, "what goes wrong; empty: mlx-bridge-error.log there")  \
    X(PID, "logs", "pid", PATH, "", 0, 0, "the PID file; empty: mlx-bridge.pid there")                       \
    X(ROTATE, "logs", "rotate", SIZE, "10MB", 65536, INT64_C(1) << 40,                                       \
      "a log that would grow beyond this becomes .old")                                                      \
    X(STATE, "logs", "state", PATH, "", 0, 0, "the supervisor's notes; empty: ~/.mlx-ollama/service.json")   \
    X(BACKOFF, "supervisor", "backoff", TIME, "1s", 0, 3600,                                                 \
      "wait before the first new attempt; doubles each time")                                                \
    X(BACKOFF_MAX, "supervisor", "backoff-max", TIME, "1m", 0, 86400, "the longest such wait")               \
    X(FAILURES, "supervisor", "failures", NUMBER, "5", 1, 1000, "give up after so many failures ...")        \
    X(FAILURES_WITHIN, "supervisor", "failures-within", TIME, "10m", 1, 604800, "... within this time")      \
    X(START_LIMIT, "supervisor", "start-limit", TIME, "2m", 1, 86400,                                        \
      "how long the bridge may take until it is ready")                                                      \
    X(WATCHDOG, "supervisor", "watchdog", TIME, "30s", 0, 86400,                                             \
      "a bridge that is silent for so long is restarted; 0: never")                                          \
    X(STEP_LIMIT, "supervisor", "step-limit", TIME, "2m", 1, 86400,                                          \
      "it is silent when one step of a model takes longer ...")                                              \
    X(LOAD_LIMIT, "supervisor", "load-limit", TIME, "30m", 1, 86400, "... or loading one does")              \
    X(HEALTH, "supervisor", "health", TIME, "30s", 0, 86400, "ask GET /health so often; 0: not by time")     \
    X(HEALTH_REQUESTS, "supervisor", "health-requests", NUMBER, "1000", 0, INT64_C(1) << 40,                 \
      "and after so many requests; 0: not")                                                                  \
    X(HEALTH_LIMIT, "supervisor", "health-limit", TIME, "10s", 1, 3600, "how long the answer may take")      \
    X(HEALTH_FAILURES, "supervisor", "health-failures", NUMBER, "3", 1, 1000,                                \
      "restart after so many failures in a row")                                                             \
    X(SOCKET, "units", "socket", CHOICE, "auto", 0, 0,                                                       \
      "the init system opens the socket: yes, no, auto (systemd yes, launchd no)")

typedef enum service_key {
#define X(name, section, key, kind, value, least, most, help) SET_##name,
    SERVICE_SETTINGS(X)
#undef X
        SET_COUNT
} service_key;

typedef struct service_value {
    char *text;    /* as it takes effect; paths are whole */
    int64_t n;     /* NUMBER; TIME in ns; SIZE in bytes */
    uint32_t line; /* of the file; 0: the default */
} service_value;

typedef struct service_pair {
    char *name, *value;
    uint32_t line;
} service_pair;

typedef struct service_config {
    char *path; /* of the file */
    bool found; /* there is one */
    service_value v[SET_COUNT];
    char **options; /* of the bridge, in words, ended by NULL */
    uint32_t n_options;
    service_pair *environment;
    uint32_t n_environment;
} service_config;

/* path NULL: the user's own. No file is no error: the defaults. LM_INVALID names file and line. */
lm_status service_config_read(const char *path, service_config *out, lm_err *err) LM_CHECKED;
/* The same of a text, for tests and fuzzing; name stands for the path. */
lm_status service_config_parse(const char *name, lm_str text, service_config *out, lm_err *err) LM_CHECKED;
void service_config_release(service_config *c); /* zeroed allowed */
static inline const char *service_text(const service_config *c, service_key k) {
    return c->v[k].text;
}
static inline int64_t service_number(const service_config *c, service_key k) {
    return c->v[k].n;
}
/* Something differs that a running bridge knows only from its start. */
bool service_config_other_bridge(const service_config *a, const service_config *b);
void service_config_print(const service_config *c, bool json);
void service_config_template(lm_buf *out); /* a file with every setting, commented out */
/* "a 'b c' d" in words, with quotes and backslashes as a shell has them. LM_INVALID: a quote is not closed. */
lm_status service_words(lm_str text, char ***words, uint32_t *n, lm_err *err) LM_CHECKED;
/* The bridge's program: the caller frees. LM_NOT_FOUND says where it was looked for. */
lm_status service_bridge_program(const service_config *c, char **path, lm_err *err) LM_CHECKED;

/* ---- files.c */

/* Opens or makes a file that is ours alone, for appending: no symbolic link, regular, one name, owned by us; its mode
 * becomes 0600, its directory is made. LM_DENIED says what is wrong with it and what to do. */
lm_status service_open_ours(const char *path, int *fd, lm_err *err) LM_CHECKED;

/* Who holds the PID file's lock, by the system's word: 0 nobody (also without a file), -1 somebody whom this process cannot
 * see. *left (NULL allowed): there is a file. */
lm_status service_lock_holder(const char *path, pid_t *pid, bool *left, lm_err *err) LM_CHECKED;
/* Takes the lock and writes our PID; *fd is kept open as long as it is held. LM_BUSY: *holder has it. A process must not open
 * and close the file itself while it holds the lock: that would give it back (POSIX, fcntl). */
lm_status service_lock_take(const char *path, int *fd, pid_t *holder, lm_err *err) LM_CHECKED;
void service_lock_give(const char *path, int fd); /* removes the file first */

/* When a process began, in the system's own unit; 0: there is none, or it is not to be seen. */
uint64_t service_process_began(pid_t pid);

/* ---- log.c */

typedef struct service_log {
    char *path;
    uint64_t limit, size;              /* bytes; size of whole lines in the file */
    int fd;                            /* -1: it cannot be opened now */
    lm_buf held;                       /* a line without its end */
    uint64_t n_dropped, dropped_bytes; /* lines that found no room, since the last that did */
    uint64_t looked_ns;                /* when it was last seen that path is still this file */
    bool stuck;                        /* it cannot be rotated; has been said */
} service_log;

lm_status service_log_open(service_log *l, const char *path, uint64_t limit, lm_err *err) LM_CHECKED;
/* Whole lines go to the file, one that is longer than 64 KiB in pieces. Never fails: what finds no room is counted, and the
 * file says so when there is room again. */
void service_log_add(service_log *l, lm_str bytes);
void service_log_end_line(service_log *l); /* what is held becomes a line */
void service_log_close(service_log *l);    /* zeroed allowed */

/* Two logs behind the bridge's stderr: lines whose level is DEBUG or INFO go to `log`, all others to `errors`. */
typedef struct service_split {
    service_log *log, *errors;
    lm_buf held;
} service_split;
void service_split_add(service_split *s, lm_str bytes);
void service_split_end_line(service_split *s);

/* ---- state.c: written whole by the supervisor at each change, read by everybody else */

typedef enum service_phase {
    PHASE_STARTING,
    PHASE_READY,
    PHASE_STOPPING,
    PHASE_WAITING,
    PHASE_GAVE_UP,
    PHASE_COUNT
} service_phase;
extern const char *const service_phase_names[PHASE_COUNT];

typedef struct service_state {
    service_phase phase;
    pid_t supervisor, bridge;                 /* 0: none */
    uint64_t supervisor_began, bridge_began;  /* service_process_began */
    int64_t since_ns;                         /* wall clock: in this phase */
    uint32_t n_starts, n_failures, n_reloads; /* of bridges, of them since the beginning */
    uint64_t n_requests;
    char url[300];
    char notify[100]; /* the socket's directory */
    char error_log[400];
    char status[300];  /* the bridge's own words */
    char trouble[500]; /* why it was last restarted, or why it gave up; empty: nothing */
    char reload[500];  /* what the last reload came to */
    int64_t stop_ns;   /* how long a stop may take */
} service_state;

lm_status service_state_write(const char *path, const service_state *s, lm_err *err) LM_CHECKED;
lm_status service_state_read(const char *path, service_state *out,
                             lm_err *err) LM_CHECKED; /* LM_NOT_FOUND, LM_CORRUPT */
lm_status service_state_parse(lm_str text, service_state *out, lm_err *err) LM_CHECKED;

/* ---- probe.c */

typedef struct service_probe {
    int fd; /* -1: none runs */
    uint64_t until_ns;
    bool sent;
    char answer[16];
    size_t n;
} service_probe;

typedef enum service_verdict { PROBE_RUNS, PROBE_WELL, PROBE_ILL } service_verdict;
/* Asks GET /health at the address of a listening socket. */
void service_probe_start(service_probe *p, int listen_fd, int64_t limit_ns);
short service_probe_events(const service_probe *p);                   /* what to poll its fd for */
service_verdict service_probe_go_on(service_probe *p, char why[200]); /* ended by a verdict */
void service_probe_stop(service_probe *p);

/* ---- child.c */

/* What every bridge of one supervisor gets. */
typedef struct service_pipes {
    int out[2], err[2]; /* read, write */
    int notify;         /* our end of the datagram socket */
    char notify_dir[100], notify_path[108];
} service_pipes;
lm_status service_pipes_open(service_pipes *p, lm_err *err) LM_CHECKED;
void service_pipes_close(service_pipes *p);
/* A directory that an earlier supervisor has left: only one of ours is removed. */
void service_notify_remove(const char *dir);

/* Starts the bridge. LM_NOT_FOUND: no program. */
lm_status service_child_start(const service_config *c, const service_pipes *p, int listen_fd, pid_t *pid,
                              lm_err *err) LM_CHECKED;

/* ---- supervise.c */

typedef struct service_run {
    int tell_fd;     /* above 0: for `start`, which waits for "ready\n" or "failed: TEXT\n" there */
    bool give_up_ok; /* giving up is exit 0: launchd leaves a job be after nothing else */
} service_run;
int service_supervise(service_config *c, const service_run *how);

/* ---- control.c */

typedef struct service_options {
    const char *config; /* NULL: the user's own */
    bool json, follow, system, init, enable_linger;
    const char *print;       /* launchd, systemd or socket: the text, to stdout */
    const char *user;        /* of system services */
    const char *init_system; /* launchd, systemd or none; NULL: this machine's */
    uint32_t n_lines;
    service_run run;
} service_options;

int service_start(service_config *c, const service_options *o);
int service_stop(service_config *c, const service_options *o);
int service_restart(service_config *c, const service_options *o);
int service_reload(service_config *c, const service_options *o);
int service_status(service_config *c, const service_options *o);
int service_logs(service_config *c, const service_options *o, bool errors);
/* How long a log is, and to stderr, after a start that failed, what the error log has since it was that long, and where it lies. */
uint64_t service_log_size(const char *path);
void service_say_last_words(const service_config *c, uint64_t from);

#endif
