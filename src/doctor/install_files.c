/* install_files.c - directories and log files: whose they are, and who may write to them.
 *
 * What somebody else may write to is somebody else's program: a configuration names commands and servers, a store is
 * loaded into memory. In a shared /tmp a log's name may be a link that somebody has put there. */
#include "doctor/install.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* ---- directories */

/* Without the last part of a path; the caller frees. */
static char *above(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return lm_strdup(".");
    return lm_str_dup((lm_str){path, slash == path ? 1 : (size_t)(slash - path)});
}

/* Where a directory that does not exist would be made. */
static bool can_be_made(const char *dir, const char *what, doctor_result *r) {
    char *there = lm_strdup(dir);
    struct stat s;
    while (stat(there, &s) && strcmp(there, "/") && strcmp(there, ".")) {
        char *up = above(there);
        free(there);
        there = up;
    }
    bool ok = S_ISDIR(s.st_mode) && !access(there, W_OK | X_OK);
    char remedy[512];
    snprintf(remedy, sizeof remedy, "make it: mkdir -p %.200s, or give yourself the right to", dir);
    if (!ok) doctor_failed(r, remedy, "%s: %s does not exist and cannot be made in %s", what, dir, there);
    free(there);
    return ok;
}

/* A directory or a file in it. */
static bool is_ours_alone(const char *path, const struct stat *s, const char *what, doctor_result *r) {
    char remedy[512];
    if (s->st_uid != geteuid() && s->st_uid != 0) {
        snprintf(remedy, sizeof remedy, "run it as that user, or: sudo chown %u %.400s", (unsigned)geteuid(),
                 path);
        return doctor_failed(r, remedy, "%s: %s belongs to user %u, this is user %u", what, path,
                             (unsigned)s->st_uid, (unsigned)geteuid());
    }
    if (s->st_mode & S_IWOTH) {
        snprintf(remedy, sizeof remedy, "chmod o-w %.400s", path);
        return doctor_failed(r, remedy, "%s: anybody may write to %s", what, path);
    }
    return true;
}

static bool judge_directory(const char *dir, const char *what, doctor_result *r) {
    struct stat s;
    char remedy[512];
    if (stat(dir, &s)) {
        if (errno == ENOENT) return can_be_made(dir, what, r);
        snprintf(remedy, sizeof remedy, "look at it: ls -ld %.400s", dir);
        return doctor_failed(r, remedy, "%s: %s: %s", what, dir, strerror(errno));
    }
    if (!S_ISDIR(s.st_mode)) {
        snprintf(remedy, sizeof remedy, "move it away: mv %.200s %.200s.old", dir, dir);
        return doctor_failed(r, remedy, "%s: %s is no directory", what, dir);
    }
    if (!is_ours_alone(dir, &s, what, r)) return false;
    if (!access(dir, R_OK | W_OK | X_OK)) return true;
    snprintf(remedy, sizeof remedy, "chmod u+rwx %.400s", dir);
    return doctor_failed(r, remedy, "%s: %s cannot be written to", what, dir);
}

static bool judge_settings(doctor_result *r) {
    static const char *const files[] = {"router.ini", "service.ini", "aliases.ini"};
    bool ok = true;
    for (size_t k = 0; ok && k < sizeof files / sizeof *files; k++) {
        char *path = lm_path_config(files[k]);
        struct stat s;
        if (!stat(path, &s)) ok = is_ours_alone(path, &s, "settings", r);
        free(path);
    }
    return ok;
}

void check_directories(installation *i, doctor_result *r) {
    const char *store = json_string_value(json_object_get(i->models, "store"));
    char *config_file = lm_path_config("x"), *state_file = lm_path_state("x");
    char *config = above(config_file), *state = above(state_file);
    if (judge_directory(config, "settings", r) && judge_settings(r) && judge_directory(state, "state", r) &&
        (!store || judge_directory(store, "models", r)))
        doctor_passed(r, "settings %s, state %s, models %s", config, state, store ? store : "not known");
    free(config);
    free(state);
    free(config_file);
    free(state_file);
}

/* ---- logs */

static bool judge_log(const char *file, doctor_result *r) {
    struct stat s;
    char remedy[512];
    snprintf(remedy, sizeof remedy, "look at it (ls -l %.180s), then delete it: rm %.180s", file, file);
    if (lstat(file, &s)) {
        char *dir = above(file);
        struct stat d;
        if (stat(dir, &d) && errno == ENOENT) { /* the service makes it */
            bool can = can_be_made(dir, "logs", r);
            free(dir);
            return can;
        }
        bool ok = !stat(dir, &d) && S_ISDIR(d.st_mode) && !access(dir, W_OK | X_OK);
        bool sticky = ok && (!(d.st_mode & S_IWOTH) || (d.st_mode & S_ISVTX));
        if (!ok) doctor_failed(r, "make it, or name another in service.ini", "%s cannot be written to", dir);
        if (ok && !sticky) {
            snprintf(remedy, sizeof remedy, "chmod +t %.400s", dir);
            doctor_failed(r, remedy, "in %s anybody may replace the others' files", dir);
        }
        free(dir);
        return ok && sticky;
    }
    if (S_ISLNK(s.st_mode))
        return doctor_failed(r, remedy, "%s is a link: what is logged goes elsewhere", file);
    if (!S_ISREG(s.st_mode)) return doctor_failed(r, remedy, "%s is no ordinary file", file);
    if (s.st_uid != geteuid())
        return doctor_failed(r, remedy, "%s belongs to user %u, this is user %u", file, (unsigned)s.st_uid,
                             (unsigned)geteuid());
    if (s.st_mode & (S_IWGRP | S_IWOTH)) {
        snprintf(remedy, sizeof remedy, "chmod 600 %.400s", file);
        return doctor_failed(r, remedy, "others may write to %s", file);
    }
    return true;
}

/* The service's own words say where, else it is where it puts them by itself. */
void check_logs(installation *i, doctor_result *r) {
    static const struct {
        const char *key, *file;
    } logs[] = {{"log", "/tmp/mlx-bridge.log"},
                {"error-log", "/tmp/mlx-bridge-error.log"},
                {"pid", "/tmp/mlx-bridge.pid"}};
    const char *files[3];
    for (size_t k = 0; k < 3; k++) {
        const char *said = install_setting(i, "logs", logs[k].key);
        files[k] = said && said[0] ? said : logs[k].file;
        if (!judge_log(files[k], r)) return;
    }
    doctor_passed(r, "%s, %s, %s", files[0], files[1], files[2]);
}
