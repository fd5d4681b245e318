/* init.c - asks launchctl or systemctl to start and stop what is installed there.
 *
 * launchd, macOS: a job of this user lies in ~/Library/LaunchAgents and runs in the domain gui/UID (somebody is logged in at
 * the screen) or user/UID (over ssh, say); one of the machine in /Library/LaunchDaemons, domain system. Sources: launchctl(1),
 * launchd.plist(5). systemd, Linux: ~/.config/systemd/user and /etc/systemd/system; systemctl(1), systemd.unit(5).
 */
#include "service/init.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "service/call.h"

extern char **environ;

#ifdef __APPLE__
#define OURS "launchd"
#else
#define OURS "systemd"
#endif

static void take(char out[1100], char *path) {
    snprintf(out, 1100, "%s", path);
    free(path);
}

static void where_launchd(service_init *i) {
    i->kind = INIT_LAUNCHD;
    if (i->system)
        take(i->path, lm_strdup("/Library/LaunchDaemons/" SERVICE_LABEL ".plist"));
    else
        take(i->path, lm_path_home("Library/LaunchAgents/" SERVICE_LABEL ".plist"));
    snprintf(i->label, sizeof i->label, "launchd %s", i->system ? "daemon" : "agent");
}

static void where_systemd(service_init *i) {
    i->kind = INIT_SYSTEMD;
    const char *config = getenv("XDG_CONFIG_HOME");
    char *dir = i->system                    ? lm_strdup("/etc/systemd/system")
                : config && config[0] == '/' ? lm_path_join(config, "systemd/user")
                                             : lm_path_home(".config/systemd/user");
    take(i->path, lm_path_join(dir, SERVICE_UNIT ".service"));
    take(i->socket, lm_path_join(dir, SERVICE_UNIT ".socket"));
    free(dir);
    snprintf(i->label, sizeof i->label, "systemd %s service", i->system ? "system" : "user");
}

lm_status service_init_where(const service_options *o, service_init *out, lm_err *err) {
    service_init i = {.system = o->system};
    const char *home = getenv("HOME");
    if (!i.system && (!home || home[0] != '/' || strlen(home) > 900))
        return lm_fail(err, LM_INVALID,
                       "HOME is no whole path: it is where services of this user are installed");
    const char *kind = o->init_system ? o->init_system : OURS;
    if (!strcmp(kind, "none"))
        return lm_fail(err, LM_UNSUPPORTED, "--init-system none: there is nothing to be installed");
    if (!strcmp(kind, "launchd"))
        where_launchd(&i);
    else
        where_systemd(&i);
    *out = i;
    return LM_OK;
}

bool service_init_find(const service_options *o, service_init *out) {
    service_init i;
    if (o->config || service_init_where(o, &i, NULL) != LM_OK || !lm_path_is_file(i.path)) return false;
    *out = i;
    return true;
}

/* ---- the tool's words */

lm_status service_call(char *const argv[], lm_buf *said, lm_err *err) {
    int ends[2];
    if (pipe(ends)) return lm_fail(err, LM_IO, "cannot make a pipe: %s", strerror(errno));
    for (int i = 0; i < 2; i++) (void)fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, ends[1], STDERR_FILENO);
    pid_t pid = 0;
    int code = posix_spawnp(&pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    close(ends[1]);
    lm_buf words;
    lm_buf_init(&words, 4096);
    char piece[1024];
    for (ssize_t n; !code && ((n = read(ends[0], piece, sizeof piece)) > 0 || (n < 0 && errno == EINTR));)
        if (n > 0 && words.len + (size_t)n < 4000) lm_buf_add(&words, piece, (size_t)n);
    close(ends[0]);
    int status = 0;
    while (!code && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    lm_str text = lm_str_trim(lm_buf_view(&words));
    lm_status st = LM_OK;
    if (code)
        st = lm_fail(err, LM_NOT_FOUND, "cannot run %s: %s", argv[0], strerror(code));
    else if (!WIFEXITED(status) || WEXITSTATUS(status))
        st = lm_fail(err, LM_IO, "%s %s%s%s failed: %.*s", argv[0], argv[1], argv[2] ? " " : "",
                     argv[2] ? argv[2] : "", LM_STR_ARG(text));
    else if (said)
        lm_buf_str(said, text);
    lm_buf_release(&words);
    return st;
}

lm_status service_systemctl(bool system, const char *verb, const char *what, const char *more, lm_err *err) {
    char *argv[8];
    int n = 0;
    argv[n++] = (char *)(uintptr_t) "systemctl";
    if (!system) argv[n++] = (char *)(uintptr_t) "--user";
    argv[n++] = (char *)(uintptr_t)verb;
    if (more) argv[n++] = (char *)(uintptr_t)more;
    if (what) argv[n++] = (char *)(uintptr_t)what;
    argv[n] = NULL;
    return service_call(argv, NULL, err);
}

lm_status service_launchctl(const char *verb, const char *a, const char *b, lm_err *err) {
    char *const argv[] = {(char *)(uintptr_t) "launchctl", (char *)(uintptr_t)verb, (char *)(uintptr_t)a,
                          (char *)(uintptr_t)b, NULL};
    return service_call(argv, NULL, err);
}

/* The domain that takes the job: the screen's, else the user's without one. */
lm_status service_launchd_bootstrap(const service_init *i, lm_err *err) {
    char domain[64];
    if (i->system) return service_launchctl("bootstrap", "system", i->path, err);
    snprintf(domain, sizeof domain, "gui/%u", (unsigned)getuid());
    if (service_launchctl("bootstrap", domain, i->path, err) == LM_OK) return LM_OK;
    snprintf(domain, sizeof domain, "user/%u", (unsigned)getuid());
    return service_launchctl("bootstrap", domain, i->path, err);
}

lm_status service_launchd_bootout(const service_init *i, lm_err *err) {
    char target[160];
    if (i->system) return service_launchctl("bootout", "system/" SERVICE_LABEL, NULL, err);
    snprintf(target, sizeof target, "gui/%u/" SERVICE_LABEL, (unsigned)getuid());
    if (service_launchctl("bootout", target, NULL, err) == LM_OK) return LM_OK;
    snprintf(target, sizeof target, "user/%u/" SERVICE_LABEL, (unsigned)getuid());
    return service_launchctl("bootout", target, NULL, err);
}

/* A job that is loaded runs; one that was stopped is not loaded any more. */
static lm_status launchd_do(const service_init *i, const char *verb, lm_err *err) {
    return !strcmp(verb, "stop") ? service_launchd_bootout(i, err) : service_launchd_bootstrap(i, err);
}

/* Stopped means that connections start nothing either, so its socket goes, too. */
static lm_status systemd_do(const service_init *i, const char *verb, lm_err *err) {
    if (lm_path_is_file(i->socket)) {
        lm_status st = service_systemctl(i->system, verb, SERVICE_UNIT ".socket", NULL, err);
        if (st != LM_OK) return st;
    }
    return service_systemctl(i->system, verb, SERVICE_UNIT ".service", NULL, err);
}

lm_status service_init_do(const service_init *i, const char *verb, lm_err *err) {
    service_owner_leave();
    lm_status st = i->kind == INIT_LAUNCHD ? launchd_do(i, verb, err) : systemd_do(i, verb, err);
    service_owner_again();
    return st;
}
