#include "doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_PROCESSES 8
#define MAX_LINE      (1u << 20)
#define POLL_MS       100

extern char **environ;

struct doctor_process {
    pid_t pid;
    bool ended;
    int status;   /* of waitpid, once ended */
    int log;      /* a file without a name */
    int in, out;  /* pipes to stdin and from stdout, or -1 */
    lm_buf heard; /* not yet taken */
};

/* ---- signals */

static volatile sig_atomic_t interrupted;
static volatile pid_t running[MAX_PROCESSES]; /* 0: free; the handler reads it */

static void on_signal(int sig) {
    if (interrupted) _exit(EXIT_INTERRUPTED); /* the second time: at once */
    interrupted = sig;
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (running[i]) kill(running[i], SIGTERM);
}

void process_watch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE, SIG_IGN); /* writing to a process that has ended is an error, not our end */
}

bool process_interrupted(void) {
    return interrupted != 0;
}

static void note(pid_t old, pid_t new) {
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (running[i] == old) {
            running[i] = new;
            return;
        }
}

/* ---- start */

static int nameless_file(void) {
    const char *dir = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/test-mlx-integration-XXXXXX", dir && dir[0] ? dir : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) return -1;
    unlink(path);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void)fcntl(fd, F_SETFL, O_APPEND); /* stdout and stderr write to it */
    return fd;
}

static bool make_pipe(int ends[2]) {
    if (pipe(ends)) return false;
    for (int i = 0; i < 2; i++) (void)fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    return true;
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static int spawn(doctor_process *p, char *const argv[], int in, int out) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults); /* we ignore it, the child shall not */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    if (in >= 0)
        posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    else
        posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out >= 0 ? out : p->log, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, p->log, STDERR_FILENO);
    int code = posix_spawnp(&p->pid, argv[0], &files, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

static void release(doctor_process *p) {
    close_fd(&p->log);
    close_fd(&p->in);
    close_fd(&p->out);
    lm_buf_release(&p->heard);
    free(p);
}

lm_status process_start(doctor_process **out, char *const argv[], bool talk, lm_err *err) {
    doctor_process *p = lm_alloc(sizeof *p);
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    p->log = p->in = p->out = -1;
    lm_buf_init(&p->heard, MAX_LINE);
    lm_status st = LM_OK;
    int code = 0;
    if ((p->log = nameless_file()) < 0)
        st = lm_fail(err, LM_IO, "no temporary file (%s): set TMPDIR to a directory of yours",
                     strerror(errno));
    else if (talk && (!make_pipe(to) || !make_pipe(from)))
        st = lm_fail(err, LM_IO, "no pipe: %s", strerror(errno));
    else if ((code = spawn(p, argv, to[0], from[1])) != 0)
        st = lm_fail(err, code == ENOENT ? LM_NOT_FOUND : LM_IO, "%s does not start: %s", argv[0],
                     strerror(code));
    close_fd(&to[0]);
    close_fd(&from[1]);
    p->in = to[1];
    p->out = from[0];
    if (st != LM_OK) {
        release(p);
        return st;
    }
    note(0, p->pid);
    *out = p;
    return LM_OK;
}

int process_pid(const doctor_process *p) {
    return p->pid;
}

bool process_alive(doctor_process *p) {
    if (!p->ended && waitpid(p->pid, &p->status, WNOHANG) == p->pid) {
        p->ended = true;
        note(p->pid, 0);
    }
    return !p->ended;
}

/* ---- what it says */

void process_log(doctor_process *p, lm_buf *out) {
    char block[4096];
    ssize_t n;
    for (off_t at = 0; (n = pread(p->log, block, sizeof block, at)) > 0 && !out->failed; at += n)
        lm_buf_add(out, block, (size_t)n);
}

void process_last_words(doctor_process *p, char out[256]) {
    lm_buf log;
    lm_buf_init(&log, 4u << 20);
    process_log(p, &log);
    lm_str rest = lm_str_trim(lm_buf_view(&log));
    size_t start = rest.len;
    while (start && rest.ptr[start - 1] != '\n') start--;
    snprintf(out, 256, "%.*s", (int)(rest.len - start), rest.len ? rest.ptr + start : "");
    lm_buf_release(&log);
}

lm_status process_say(doctor_process *p, lm_str bytes, lm_err *err) {
    while (bytes.len) {
        ssize_t n = write(p->in, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR && !interrupted) continue;
        if (n <= 0) return lm_fail(err, LM_IO, "the process does not listen any more: %s", strerror(errno));
        bytes.ptr += n;
        bytes.len -= (size_t)n;
    }
    return LM_OK;
}

static bool take_line(lm_buf *heard, lm_buf *line) {
    const char *end = heard->len ? memchr(heard->ptr, '\n', heard->len) : NULL;
    if (!end) return false;
    size_t n = (size_t)(end - heard->ptr);
    lm_buf_clear(line);
    lm_buf_add(line, heard->ptr, n);
    memmove(heard->ptr, heard->ptr + n + 1, heard->len - n); /* with the NUL */
    heard->len -= n + 1;
    return true;
}

static lm_status ended_early(doctor_process *p, lm_err *err) {
    char words[256];
    process_last_words(p, words);
    return lm_fail(err, LM_IO, "the process ended: %s", words[0] ? words : "it said nothing");
}

lm_status process_hear(doctor_process *p, uint32_t timeout_s, doctor_report *ticking, lm_buf *line,
                       lm_err *err) {
    uint64_t end = lm_now_ns() + timeout_s * UINT64_C(1000000000);
    while (!take_line(&p->heard, line)) {
        if (interrupted) return lm_fail(err, LM_CANCELLED, "interrupted");
        if (lm_now_ns() > end)
            return lm_fail(err, LM_TIMEOUT, "the process said nothing for %u s", timeout_s);
        if (ticking) report_tick(ticking);
        struct pollfd f = {.fd = p->out, .events = POLLIN};
        if (poll(&f, 1, POLL_MS) <= 0) continue;
        char block[4096];
        ssize_t n = read(p->out, block, sizeof block);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return ended_early(p, err);
        lm_buf_add(&p->heard, block, (size_t)n);
        if (p->heard.failed) return lm_fail(err, LM_TOO_LARGE, "the process says a line without an end");
    }
    return lm_buf_status(line, "a line", err);
}

/* ---- stop */

static bool ends_within(doctor_process *p, uint32_t seconds) {
    uint64_t end = lm_now_ns() + seconds * UINT64_C(1000000000);
    while (process_alive(p)) {
        if (lm_now_ns() > end) return false;
        usleep(10000);
    }
    return true;
}

int process_stop(doctor_process *p, uint32_t grace_s) {
    if (!p) return 0;
    close_fd(&p->in);
    if (process_alive(p)) kill(p->pid, SIGTERM);
    if (!ends_within(p, grace_s)) {
        kill(p->pid, SIGKILL);
        (void)waitpid(p->pid, &p->status, 0);
        note(p->pid, 0);
    }
    int status = p->status;
    release(p);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- a whole run */

#define GRACE_S 2

/* What comes until the program closes its end, or something is wrong. */
static lm_status hear_all(doctor_process *p, const char *name, uint64_t end_ns, doctor_report *ticking,
                          lm_buf *out, lm_err *err) {
    for (;;) {
        if (interrupted) return lm_fail(err, LM_CANCELLED, "interrupted");
        if (lm_now_ns() > end_ns) return lm_fail(err, LM_TIMEOUT, "%s does not come to an end", name);
        if (ticking) report_tick(ticking);
        struct pollfd f = {.fd = p->out, .events = POLLIN};
        if (poll(&f, 1, POLL_MS) <= 0) continue;
        char block[16384];
        ssize_t n = read(p->out, block, sizeof block);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return LM_OK;
        lm_buf_add(out, block, (size_t)n);
        if (out->failed) return lm_fail(err, LM_TOO_LARGE, "%s says more than anybody asked", name);
    }
}

lm_status process_run(char *const argv[], uint32_t timeout_s, doctor_report *ticking, lm_buf *out,
                      int *status, char words[256], lm_err *err) {
    doctor_process *p = NULL;
    uint64_t end = lm_now_ns() + timeout_s * UINT64_C(1000000000);
    lm_status st = process_start(&p, argv, true, err);
    if (st != LM_OK) return st;
    close_fd(&p->in);
    st = hear_all(p, argv[0], end, ticking, out, err);
    while (st == LM_OK && process_alive(p)) { /* it may close its end long before its own */
        if (interrupted) st = lm_fail(err, LM_CANCELLED, "interrupted");
        if (lm_now_ns() > end) st = lm_fail(err, LM_TIMEOUT, "%s does not come to an end", argv[0]);
        usleep(2000);
    }
    process_last_words(p, words);
    *status = process_stop(p, GRACE_S);
    return st;
}
