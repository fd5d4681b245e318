/* ranks.c - starting the other ranks' processes, their output, and their end.
 *
 * A rank on this machine is a child that gets its environment directly. A rank elsewhere is `ssh HOST sh -s`,
 * with a script on its standard input that sets the environment and becomes the program: nothing of it, the
 * secret least of all, is seen in a list of processes. Nobody is left behind: a rank whose link to rank 0
 * closes ends by itself. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster/cluster.h"

extern char **environ;

enum { MAX_LINE = 4096, MAX_SCRIPT = 1 << 20 };

typedef struct child {
    pid_t pid;  /* 0: has been waited for */
    int output; /* its standard output and error, -1: closed */
    char line[MAX_LINE];
    size_t len;
    char last[256]; /* what it said last, for texts */
    int ended;      /* of waitpid, when pid is 0 */
} child;

struct lm_ranks {
    child children[LM_MAX_RANKS]; /* by rank; 0 is unused */
    uint32_t size;
    pthread_t thread; /* copies their output */
    bool running;
    atomic_bool stop;
    pthread_mutex_t lock; /* guards pid, ended, last */
};

/* ---- what they say */

static void say(lm_ranks *r, uint32_t rank, const char *line, size_t n) {
    char out[MAX_LINE + 32];
    int len = snprintf(out, sizeof out, "[rank %u] %.*s\n", rank, (int)n, line);
    if (write(STDERR_FILENO, out, (size_t)len) < 0) (void)0; /* nobody listens */
    pthread_mutex_lock(&r->lock);
    if (n) snprintf(r->children[rank].last, sizeof r->children[rank].last, "%.*s", (int)n, line);
    pthread_mutex_unlock(&r->lock);
}

static void hear(lm_ranks *r, uint32_t rank) {
    child *c = &r->children[rank];
    ssize_t n = read(c->output, c->line + c->len, sizeof c->line - c->len);
    if (n < 0 && errno == EINTR) return;
    if (n <= 0) {
        if (c->len) say(r, rank, c->line, c->len);
        close(c->output);
        c->output = -1;
        return;
    }
    c->len += (size_t)n;
    for (char *end; (end = memchr(c->line, '\n', c->len));) {
        size_t used = (size_t)(end - c->line) + 1;
        say(r, rank, c->line, used - 1);
        memmove(c->line, c->line + used, c->len - used);
        c->len -= used;
    }
    if (c->len == sizeof c->line) { /* a line without an end */
        say(r, rank, c->line, c->len);
        c->len = 0;
    }
}

static void *output_main(void *arg) {
    lm_ranks *r = arg;
    for (bool last = false; !last;) {
        last = atomic_load(&r->stop); /* once more then, for what they said at the end */
        struct pollfd fds[LM_MAX_RANKS];
        uint32_t of[LM_MAX_RANKS];
        nfds_t n = 0;
        for (uint32_t i = 1; i < r->size; i++) {
            if (r->children[i].output < 0) continue;
            fds[n] = (struct pollfd){.fd = r->children[i].output, .events = POLLIN};
            of[n++] = i;
        }
        (void)poll(fds, n, last ? 0 : 200);
        for (nfds_t i = 0; i < n; i++)
            if (fds[i].revents) hear(r, of[i]);
    }
    return NULL;
}

/* ---- beginning */

/* 'text' for a shell */
static void quote(lm_buf *b, const char *text) {
    lm_buf_char(b, '\'');
    for (const char *p = text; *p; p++) {
        if (*p == '\'')
            lm_buf_text(b, "'\\''");
        else
            lm_buf_char(b, *p);
    }
    lm_buf_char(b, '\'');
}

static void export(lm_buf *b, const char *env) {
    const char *equals = strchr(env, '=');
    lm_buf_printf(b, "export %.*s=", (int)(equals - env), env);
    quote(b, equals + 1);
    lm_buf_char(b, '\n');
}

/* Every rank's environment beyond what the machine gives: calls take for each. */
static void each_env(const lm_ranks_config *c, uint32_t rank, void (*take)(lm_buf *, const char *),
                     lm_buf *to) {
    char text[64];
    for (uint32_t i = 0; i < c->hosts->n_envs; i++) take(to, c->hosts->envs[i]);
    for (uint32_t i = 0; c->envs[i]; i++) take(to, c->envs[i]);
    if (!strcmp(c->hosts->kind, "nccl")) { /* one GPU a process: the how-manieth on its host it is */
        uint32_t before = 0;
        for (uint32_t i = 0; i < rank; i++)
            before += !strcmp(c->hosts->host[i].ssh, c->hosts->host[rank].ssh);
        snprintf(text, sizeof text, "CUDA_VISIBLE_DEVICES=%u", before);
        take(to, text);
    }
    snprintf(text, sizeof text, "MLX_RANK=%u", rank);
    take(to, text);
}

static void make_script(const lm_ranks_config *c, uint32_t rank, lm_buf *b) {
    each_env(c, rank, export, b);
    lm_buf_text(b, "exec");
    for (char *const *a = c->argv; *a; a++) {
        lm_buf_char(b, ' ');
        quote(b, *a);
    }
    lm_buf_text(b, " </dev/null\n");
}

/* A list of environment texts, one after the other with their NULs. */
static void add_env(lm_buf *b, const char *env) {
    lm_buf_add(b, env, strlen(env) + 1);
}

/* Ours without what `more` sets again, then more; pointers into both. */
static char **merged_env(const lm_buf *more) {
    size_t n = 0, n_more = 0;
    while (environ[n]) n++;
    for (size_t i = 0; i < more->len; i++) n_more += !more->ptr[i];
    char **all = lm_alloc((n + n_more + 1) * sizeof *all);
    size_t k = 0;
    for (char **e = environ; *e; e++) {
        size_t name = strcspn(*e, "=") + 1;
        bool again = false;
        for (size_t i = 0; i < more->len; i += strlen(more->ptr + i) + 1)
            again = again || !strncmp(*e, more->ptr + i, name);
        if (!again) all[k++] = *e;
    }
    for (size_t i = 0; i < more->len; i += strlen(more->ptr + i) + 1) all[k++] = more->ptr + i;
    return all;
}

static void cloexec(int fd) {
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* The child's signals are as a program expects them, and a ctrl-C in the terminal is ours alone: we end the
 * others. */
static int spawn(child *c, char *const *argv, char *const *env, int input) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none, usual;
    int out[2];
    if (pipe(out)) return errno;
    cloexec(out[0]);
    cloexec(out[1]);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&how);
    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    if (input >= 0)
        posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
    else
        posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, out[1], STDERR_FILENO);
    posix_spawnattr_setsigmask(&how, &none);
    posix_spawnattr_setsigdefault(&how, &usual);
    posix_spawnattr_setpgroup(&how, 0);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    int e = posix_spawnp(&c->pid, argv[0], &files, &how, argv, env);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    close(out[1]);
    if (e) {
        close(out[0]);
        c->pid = 0;
    } else {
        c->output = out[0];
    }
    return e;
}

static lm_status start_here(child *c, const lm_ranks_config *config, uint32_t rank, lm_err *err) {
    lm_buf more;
    lm_buf_init(&more, MAX_SCRIPT);
    each_env(config, rank, add_env, &more);
    lm_status st = lm_buf_status(&more, "the environment of a rank", err);
    if (st == LM_OK) {
        char **env = merged_env(&more);
        int e = spawn(c, config->argv, env, -1);
        if (e) st = lm_fail(err, LM_IO, "cannot start rank %u, %s: %s", rank, config->argv[0], strerror(e));
        free(env);
    }
    lm_buf_release(&more);
    return st;
}

/* A pipe holds 64 KiB at least before it blocks on Linux, 16 on macOS: a script is far shorter, or ssh reads
 * meanwhile. */
static lm_status start_there(child *c, const lm_ranks_config *config, uint32_t rank, lm_err *err) {
    char *argv[] = {"ssh",
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "ServerAliveInterval=5",
                    "--",
                    config->hosts->host[rank].ssh,
                    "exec /bin/sh -s",
                    NULL};
    lm_buf script;
    int input[2];
    lm_buf_init(&script, MAX_SCRIPT);
    make_script(config, rank, &script);
    lm_status st = lm_buf_status(&script, "the environment of a rank", err);
    if (st == LM_OK && pipe(input))
        st = lm_fail(err, LM_IO, "no pipe for rank %u: %s", rank, strerror(errno));
    if (st == LM_OK) {
        cloexec(input[0]);
        cloexec(input[1]);
        int e = spawn(c, argv, environ, input[0]);
        close(input[0]);
        if (e) st = lm_fail(err, LM_IO, "cannot start rank %u over ssh: %s", rank, strerror(e));
        for (size_t at = 0; !e && at < script.len;) {
            ssize_t n = write(input[1], script.ptr + at, script.len - at);
            if (n < 0 && errno != EINTR) break; /* it has ended: lm_ranks_check says how */
            if (n > 0) at += (size_t)n;
        }
        close(input[1]);
    }
    lm_buf_release(&script);
    return st;
}

lm_status lm_ranks_start(lm_ranks **out, const lm_ranks_config *config, lm_err *err) {
    lm_ranks *r = lm_alloc(sizeof *r);
    lm_status st = LM_OK;
    r->size = config->hosts->n;
    LM_ASSERT(pthread_mutex_init(&r->lock, NULL) == 0);
    for (uint32_t i = 0; i < r->size; i++) r->children[i].output = -1;
    for (uint32_t i = 1; i < r->size && st == LM_OK; i++) {
        bool here = lm_host_is_here(&config->hosts->host[i]);
        st =
            here ? start_here(&r->children[i], config, i, err) : start_there(&r->children[i], config, i, err);
    }
    if (st == LM_OK) {
        r->running = pthread_create(&r->thread, NULL, output_main, r) == 0;
        if (!r->running)
            st = lm_fail(err, LM_NO_MEMORY, "the system gives no more threads: raise its limit (ulimit -u)");
    }
    if (st == LM_OK)
        *out = r;
    else
        lm_ranks_stop(r, 0);
    return st;
}

/* ---- the end */

/* Whether the child has ended, without waiting. */
static bool has_ended(lm_ranks *r, child *c) {
    int status = 0;
    bool ended = true;
    pthread_mutex_lock(&r->lock);
    if (c->pid) {
        ended = waitpid(c->pid, &status, WNOHANG) == c->pid;
        if (ended) {
            c->pid = 0;
            c->ended = status;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return ended;
}

lm_status lm_ranks_check(void *ranks, lm_err *err) {
    lm_ranks *r = ranks;
    for (uint32_t i = 1; i < r->size; i++) {
        child *c = &r->children[i];
        if (!has_ended(r, c)) continue;
        usleep(200000); /* its last words are on their way */
        pthread_mutex_lock(&r->lock);
        lm_status st = lm_fail(err, LM_IO, "rank %u has ended already (%s %d): %s", i,
                               WIFSIGNALED(c->ended) ? "signal" : "exit code",
                               WIFSIGNALED(c->ended) ? WTERMSIG(c->ended) : WEXITSTATUS(c->ended), c->last);
        pthread_mutex_unlock(&r->lock);
        return st;
    }
    return LM_OK;
}

void lm_ranks_stop(lm_ranks *r, int64_t wait_ns) {
    if (!r) return;
    uint64_t end = lm_now_ns() + (uint64_t)wait_ns;
    for (uint32_t i = 1; i < r->size; i++) {
        child *c = &r->children[i];
        while (c->pid && !has_ended(r, c)) {
            if (lm_now_ns() >= end) kill(c->pid, SIGKILL);
            usleep(10000);
        }
    }
    atomic_store(&r->stop, true);
    if (r->running) pthread_join(r->thread, NULL);
    for (uint32_t i = 0; i < r->size; i++)
        if (r->children[i].output >= 0) close(r->children[i].output);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
