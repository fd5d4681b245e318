/* child.c - a bridge is started: what it inherits, and what it must not. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/file.h"
#include "service/service.h"

#define LISTEN_FD     3
#define NOTIFY_PREFIX "/tmp/mlx-bridge-notify-"

extern char **environ;

/* ---- pipes, and the socket of its word */

static lm_status open_notify(service_pipes *p, lm_err *err) {
    strcpy(p->notify_dir, NOTIFY_PREFIX "XXXXXX");
    if (!mkdtemp(p->notify_dir)) {
        p->notify_dir[0] = '\0';
        return lm_fail(err, LM_IO, "cannot make a directory in /tmp: %s", strerror(errno));
    }
    snprintf(p->notify_path, sizeof p->notify_path, "%.90s/socket", p->notify_dir);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, p->notify_path,
           strlen(p->notify_path) + 1 < sizeof a.sun_path ? strlen(p->notify_path) + 1 : sizeof a.sun_path);
    p->notify = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (p->notify < 0 || bind(p->notify, (struct sockaddr *)&a, sizeof a))
        return lm_fail(err, LM_IO, "cannot listen at %s: %s", p->notify_path, strerror(errno));
    (void)fcntl(p->notify, F_SETFD, FD_CLOEXEC);
    (void)fcntl(p->notify, F_SETFL, O_NONBLOCK);
    return LM_OK;
}

static lm_status open_pipe(int ends[2], lm_err *err) {
    if (pipe(ends)) {
        ends[0] = ends[1] = -1;
        return lm_fail(err, LM_IO, "cannot make a pipe: %s", strerror(errno));
    }
    for (int i = 0; i < 2; i++) (void)fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK); /* the bridge waits for room, we never do */
    return LM_OK;
}

lm_status service_pipes_open(service_pipes *p, lm_err *err) {
    *p = (service_pipes){.out = {-1, -1}, .err = {-1, -1}, .notify = -1};
    lm_status st = open_pipe(p->out, err);
    if (st == LM_OK) st = open_pipe(p->err, err);
    if (st == LM_OK) st = open_notify(p, err);
    if (st != LM_OK) service_pipes_close(p);
    return st;
}

void service_notify_remove(const char *dir) {
    struct stat info;
    if (strncmp(dir, NOTIFY_PREFIX, strlen(NOTIFY_PREFIX)) != 0 || strchr(dir + strlen(NOTIFY_PREFIX), '/'))
        return;
    if (lstat(dir, &info) || !S_ISDIR(info.st_mode) || info.st_uid != geteuid()) return;
    char *path = lm_path_join(dir, "socket");
    unlink(path);
    rmdir(dir);
    free(path);
}

void service_pipes_close(service_pipes *p) {
    int *const fds[] = {&p->out[0], &p->out[1], &p->err[0], &p->err[1], &p->notify};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0) close(*fds[i]);
        *fds[i] = -1;
    }
    if (p->notify_dir[0]) service_notify_remove(p->notify_dir);
    p->notify_dir[0] = '\0';
}

/* ---- what it is told */

typedef struct list {
    char **items;
    size_t n;
} list;

static void add(list *l, const char *format, ...) LM_PRINTF(2, 3);
static void add(list *l, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) lm_bug(__FILE__, __LINE__, "no memory");
    va_end(args);
    l->items = lm_realloc(l->items, (l->n + 2) * sizeof *l->items);
    l->items[l->n++] = text;
    l->items[l->n] = NULL;
}

static void free_list(list *l) {
    for (size_t i = 0; i < l->n; i++) free(l->items[i]);
    free(l->items);
}

static list arguments(const service_config *c, const char *program) {
    list l = {0};
    add(&l, "%s", program);
    add(&l, "--host");
    add(&l, "%s", service_text(c, SET_HOST));
    add(&l, "--port");
    add(&l, "%s", service_text(c, SET_PORT));
    add(&l, "--listen-fd");
    add(&l, "%d", LISTEN_FD);
    const struct {
        const char *option;
        service_key key;
    } times[] = {{"--drain", SET_DRAIN}, {"--step-limit", SET_STEP_LIMIT}, {"--load-limit", SET_LOAD_LIMIT}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        int64_t ns = service_number(c, times[i].key);
        add(&l, "%s", times[i].option);
        add(&l, "%lld", (long long)((ns + SERVICE_SECOND_NS - 1) / SERVICE_SECOND_NS));
    }
    for (uint32_t i = 0; i < c->n_options; i++) add(&l, "%s", c->options[i]);
    return l;
}

/* Ours of what init systems tell us is not for the bridge. */
static bool replaced(const service_config *c, const char *entry) {
    static const char *const names[] = {
        "NOTIFY_SOCKET=", "WATCHDOG_USEC=",  "WATCHDOG_PID=",          "LISTEN_FDS=",
        "LISTEN_PID=",    "LISTEN_FDNAMES=", "MLX_BRIDGE_SUPERVISOR=", "MAINPID="};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(entry, names[i], strlen(names[i]))) return true;
    for (uint32_t i = 0; i < c->n_environment; i++) {
        size_t n = strlen(c->environment[i].name);
        if (!strncmp(entry, c->environment[i].name, n) && entry[n] == '=') return true;
    }
    return false;
}

static list environment(const service_config *c, const service_pipes *p) {
    list l = {0};
    for (char **e = environ; *e; e++)
        if (!replaced(c, *e)) add(&l, "%s", *e);
    for (uint32_t i = 0; i < c->n_environment; i++)
        add(&l, "%s=%s", c->environment[i].name, c->environment[i].value);
    add(&l, "NOTIFY_SOCKET=%s", p->notify_path);
    add(&l, "MLX_BRIDGE_SUPERVISOR=%d", (int)getpid());
    int64_t watchdog = service_number(c, SET_WATCHDOG);
    if (watchdog) add(&l, "WATCHDOG_USEC=%lld", (long long)(watchdog / 1000));
    return l;
}

/* Between fork and exec: system calls only. */
LM_NORETURN static void become(char **argv, char **envp, const service_pipes *p, int listen_fd,
                               pid_t supervisor) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0); /* a terminal's Ctrl-C is for the supervisor: it stops the bridge */
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* killed, the supervisor cannot do it */
#endif
    if (getppid() != supervisor) _exit(127);
    int null = open("/dev/null", O_RDONLY);
    /* Numbers of ours may lie where a copy goes: above all of them first. */
    int fds[4] = {null, p->out[1], p->err[1], listen_fd};
    for (int i = 0; i < 4; i++) fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 4; i++)
        if (dup2(fds[i], i) < 0) _exit(127);
    execve(argv[0], argv, envp);
    const char *why = strerror(errno);
    if (write(STDERR_FILENO, argv[0], strlen(argv[0])) < 0 || write(STDERR_FILENO, ": ", 2) < 0 ||
        write(STDERR_FILENO, why, strlen(why)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(127);
    _exit(127);
}

lm_status service_child_start(const service_config *c, const service_pipes *p, int listen_fd, pid_t *pid,
                              lm_err *err) {
    char *program = NULL;
    lm_status st = service_bridge_program(c, &program, err);
    if (st != LM_OK) return st;
    list argv = arguments(c, program), envp = environment(c, p);
    pid_t self = getpid(), got = fork();
    if (got == 0) become(argv.items, envp.items, p, listen_fd, self);
    if (got < 0)
        st = lm_fail(err, LM_NO_MEMORY, "the system gives no more processes: %s", strerror(errno));
    else
        *pid = got;
    free_list(&argv);
    free_list(&envp);
    free(program);
    return st;
}
