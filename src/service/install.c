/* install.c - puts units in place, takes them away, and says what has changed since. */
#include <errno.h>
#include <jansson.h>
#include <libgen.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "service/call.h"

#define MAX_UNIT 65536

static int fail(const lm_err *err) {
    fprintf(stderr, "mlx-server-startup: %s\n", err->text);
    return EXIT_FAILED;
}

/* ---- facts */

typedef struct place {
    service_init init;
    service_unit_facts facts;
    char program[PATH_MAX], home[1024], user[256];
} place;

/* Root only when it is named. */
static lm_status find_user(const service_options *o, place *p, lm_err *err) {
    if (!service_owner_name(o, p->user))
        return lm_fail(err, LM_INVALID,
                       "whom shall it run as? --user NAME (root, too, only when it is named)");
    const struct passwd *who = getpwnam(p->user);
    if (!who || strlen(who->pw_dir) >= sizeof p->home)
        return lm_fail(err, LM_NOT_FOUND, "there is no user \"%.100s\"", p->user);
    strcpy(p->home, who->pw_dir);
    return LM_OK;
}

static bool wants_socket(const service_config *c, bool systemd) {
    const char *word = service_text(c, SET_SOCKET);
    return !strcmp(word, "yes") || (systemd && !strcmp(word, "auto"));
}

/* systemd and launchd read these as text of their own. */
static lm_status check_path(const char *what, const char *path, lm_err *err) {
    for (const char *c = path; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return lm_fail(err, LM_INVALID, "%s holds a control character", what);
    return LM_OK;
}

/* A package manager's link on PATH outlives an upgrade; what it leads to may have the version in its name. */
static void prefer_path(char program[PATH_MAX]) {
    char *dirs = lm_strdup(getenv("PATH") ? getenv("PATH") : ""), *rest = dirs, real[PATH_MAX];
    const char *name = strrchr(program, '/') + 1;
    for (char *dir; (dir = strsep(&rest, ":"));) {
        if (dir[0] != '/') continue;
        char *there = lm_path_join(dir, name);
        bool same = realpath(there, real) && !strcmp(real, program) && strlen(there) < PATH_MAX;
        if (same) strcpy(program, there);
        free(there);
        if (same) break;
    }
    free(dirs);
}

static lm_status find_place(const service_config *c, const service_options *o, place *p, lm_err *err) {
    *p = (place){.facts = {.system = o->system}};
    lm_status st = service_init_where(o, &p->init, err);
    if (st == LM_OK && o->system) st = find_user(o, p, err);
    if (st != LM_OK) return st;
    if (!lm_program_path(p->program))
        return lm_fail(err, LM_IO, "the system does not say where this program lies");
    prefer_path(p->program);
    p->facts.program = p->program;
    p->facts.config = o->config;
    p->facts.user = p->user;
    p->facts.home = p->home;
    p->facts.socket = wants_socket(c, p->init.kind == INIT_SYSTEMD);
    st = check_path("the program's path", p->program, err);
    if (st == LM_OK && o->config) st = check_path("--config", o->config, err);
    return st;
}

/* ---- files */

typedef struct unit {
    const char *path;
    lm_buf text;
    bool wanted; /* else it must not be there */
} unit;

/* The service, and where it may have one its socket. Returns how many. */
static int write_units(const service_config *c, const place *p, unit out[2]) {
    for (int i = 0; i < 2; i++) lm_buf_init(&out[i].text, MAX_UNIT);
    out[0].path = p->init.path;
    out[0].wanted = true;
    if (p->init.kind == INIT_LAUNCHD) {
        service_unit_launchd(c, &p->facts, &out[0].text);
        return 1;
    }
    service_unit_systemd(c, &p->facts, &out[0].text);
    out[1].path = p->init.socket;
    out[1].wanted = p->facts.socket;
    if (p->facts.socket) service_unit_socket(c, &p->facts, &out[1].text);
    return 2;
}

static void free_units(unit units[2]) {
    for (int i = 0; i < 2; i++) lm_buf_release(&units[i].text);
}

static lm_status put_unit(const unit *u, lm_err *err) {
    if (!u->wanted) {
        if (unlink(u->path) && errno != ENOENT)
            return lm_fail(err, LM_IO, "remove %s: %s", u->path, strerror(errno));
        return LM_OK;
    }
    char *copy = lm_strdup(u->path);
    lm_status st = lm_dir_make(dirname(copy), err);
    free(copy);
    if (st == LM_OK) st = lm_file_write(u->path, lm_buf_view(&u->text), err);
    if (st == LM_OK) printf("wrote %s\n", u->path);
    return st;
}

/* ---- install */

static int print_unit(const service_config *c, const place *p, const char *kind) {
    service_unit_facts f = p->facts;
    lm_buf text;
    lm_buf_init(&text, MAX_UNIT);
    f.socket = wants_socket(c, strcmp(kind, "launchd") != 0);
    if (!strcmp(kind, "launchd")) {
        service_unit_launchd(c, &f, &text);
    } else if (!strcmp(kind, "systemd")) {
        service_unit_systemd(c, &f, &text);
    } else if (!strcmp(kind, "socket")) {
        service_unit_socket(c, &f, &text);
    } else {
        fprintf(stderr, "mlx-server-startup: --print %s: there are launchd, systemd and socket\n", kind);
        return EXIT_USAGE;
    }
    fputs(text.ptr, stdout);
    lm_buf_release(&text);
    return EXIT_DONE;
}

static lm_status enable_systemd(const place *p, lm_err *err) {
    bool system = p->init.system;
    lm_status st = service_systemctl(system, "daemon-reload", NULL, NULL, err);
    if (st == LM_OK && p->facts.socket)
        st = service_systemctl(system, "enable", SERVICE_UNIT ".socket", NULL, err);
    if (st == LM_OK) st = service_systemctl(system, "enable", SERVICE_UNIT ".service", NULL, err);
    /* The socket of one that runs already would be bound twice; a new configuration wants a new process anyway. */
    if (st == LM_OK) st = service_systemctl(system, "stop", SERVICE_UNIT ".service", NULL, err);
    if (st == LM_OK && p->facts.socket)
        st = service_systemctl(system, "restart", SERVICE_UNIT ".socket", NULL, err);
    if (st == LM_OK) st = service_systemctl(system, "restart", SERVICE_UNIT ".service", NULL, err);
    return st;
}

static lm_status enable_launchd(const place *p, lm_err *err) {
    (void)!service_launchd_bootout(&p->init, NULL); /* an older one; there may be none */
    return service_launchd_bootstrap(&p->init, err);
}

static bool lingers(void) {
    const struct passwd *me = getpwuid(getuid());
    if (!me) return false;
    char path[400];
    snprintf(path, sizeof path, "/var/lib/systemd/linger/%.300s", me->pw_name);
    return access(path, F_OK) == 0;
}

static void explain_linger(const service_options *o) {
    if (lingers()) return;
    lm_err err = {0};
    if (o->enable_linger) {
        char *const argv[] = {(char *)(uintptr_t) "loginctl", (char *)(uintptr_t) "enable-linger", NULL};
        if (service_call(argv, NULL, &err) == LM_OK) {
            puts("it runs while you are not logged in, too (loginctl disable-linger undoes that)");
            return;
        }
        fprintf(stderr, "mlx-server-startup: %s\n", err.text);
        return;
    }
    puts("note: a user's services end when their user logs out. `loginctl enable-linger` lets them run from "
         "boot on;\n"
         "      `mlx-server-startup install-service --linger` does that, too.");
}

/* One that we have started ourselves has lock and port. */
static lm_status stop_own(const service_config *c, lm_err *err) {
    pid_t holder = 0;
    lm_status st = service_lock_holder(service_text(c, SET_PID), &holder, NULL, err);
    if (st == LM_OK && holder)
        st = lm_fail(err, LM_BUSY, "it runs without being a service: `mlx-server-startup stop` first");
    return st;
}

int service_install(service_config *c, const service_options *o) {
    place p;
    lm_err err = {0};
    if (o->system && !o->print && getuid() != 0) {
        fprintf(
            stderr,
            "mlx-server-startup: --system is for root: sudo mlx-server-startup install-service --system\n");
        return EXIT_FAILED;
    }
    if (find_place(c, o, &p, &err) != LM_OK) return fail(&err);
    if (o->print) return print_unit(c, &p, o->print);
    if (!o->system && geteuid() == 0 && !(o->user && !strcmp(o->user, "root"))) {
        fprintf(stderr, "mlx-server-startup: it does not run as root unless it is asked to: run this without "
                        "sudo, or with --system "
                        "--user NAME, or with --user root\n");
        return EXIT_FAILED;
    }
    bool again = lm_path_is_file(p.init.path);
    lm_status st = again ? LM_OK : stop_own(c, &err);
    unit units[2] = {0};
    int n = st == LM_OK ? write_units(c, &p, units) : 0;
    service_owner_leave();
    for (int i = 0; i < n && st == LM_OK; i++) st = put_unit(&units[i], &err);
    free_units(units);
    if (st != LM_OK) return fail(&err);
    uint64_t from = service_log_size(service_text(c, SET_ERROR_LOG));
    st = p.init.kind == INIT_SYSTEMD ? enable_systemd(&p, &err) : enable_launchd(&p, &err);
    if (st != LM_OK) {
        fail(&err);
        if (service_log_size(service_text(c, SET_ERROR_LOG)) != from) service_say_last_words(c, from);
        return EXIT_FAILED;
    }
    printf("%s installed: it starts %s\n", p.init.label, p.init.system ? "at boot" : "at login");
    if (p.init.kind == INIT_SYSTEMD && !p.init.system) explain_linger(o);
    return EXIT_DONE;
}

int service_uninstall(service_config *c, const service_options *o) {
    (void)c;
    service_init i;
    lm_err err = {0};
    if (service_init_where(o, &i, &err) != LM_OK) return fail(&err);
    if (!lm_path_is_file(i.path) && !(i.socket[0] && lm_path_is_file(i.socket))) {
        printf("no %s is installed (%s)\n", i.label, i.path);
        return EXIT_DONE;
    }
    if (i.system && getuid() != 0) {
        fprintf(
            stderr,
            "mlx-server-startup: --system is for root: sudo mlx-server-startup uninstall-service --system\n");
        return EXIT_FAILED;
    }
    service_owner_leave();
    /* What the tool does not like must not keep the files in place; it is told, though. */
    bool well = true;
    if (i.kind == INIT_LAUNCHD) {
        well = service_launchd_bootout(&i, &err) == LM_OK;
    } else {
        if (lm_path_is_file(i.socket))
            well = service_systemctl(i.system, "disable", SERVICE_UNIT ".socket", "--now", &err) == LM_OK;
        if (well)
            well = service_systemctl(i.system, "disable", SERVICE_UNIT ".service", "--now", &err) == LM_OK;
    }
    if (!well) fprintf(stderr, "mlx-server-startup: %s\n", err.text);
    const char *const paths[] = {i.path, i.socket};
    for (int n = 0; n < 2; n++) {
        if (!paths[n][0]) continue;
        if (!unlink(paths[n])) {
            printf("removed %s\n", paths[n]);
        } else if (errno != ENOENT) {
            fprintf(stderr, "mlx-server-startup: remove %s: %s\n", paths[n], strerror(errno));
            well = false;
        }
    }
    if (i.kind == INIT_SYSTEMD && service_systemctl(i.system, "daemon-reload", NULL, NULL, &err) != LM_OK) {
        fprintf(stderr, "mlx-server-startup: %s\n", err.text);
        well = false;
    }
    return well ? EXIT_DONE : EXIT_FAILED;
}

/* ---- diff */

/* Lines of one that the other has not, at the same place: units are short, and written by us line for line. */
static void print_lines(lm_str a, lm_str b) {
    char *left = lm_str_dup(a), *right = lm_str_dup(b);
    char *l = left, *r = right;
    while (l || r) {
        char *one = l ? strsep(&l, "\n") : NULL, *other = r ? strsep(&r, "\n") : NULL;
        if (one && other && !strcmp(one, other)) continue;
        /* one line too many, or too few, must not make all that follow differ */
        if (one && other && l && !strncmp(l, other, strlen(other)) &&
            (l[strlen(other)] == '\n' || !l[strlen(other)])) {
            printf("-%s\n", one);
            strsep(&l, "\n");
        } else if (one && other && r && !strncmp(r, one, strlen(one)) &&
                   (r[strlen(one)] == '\n' || !r[strlen(one)])) {
            printf("+%s\n", other);
            strsep(&r, "\n");
        } else {
            if (one && (one[0] || other)) printf("-%s\n", one);
            if (other && (other[0] || one)) printf("+%s\n", other);
        }
    }
    free(left);
    free(right);
}

/* True: they differ. */
static bool compare(const unit *u, json_t *list, lm_err *err, lm_status *st) {
    lm_buf there;
    lm_buf_init(&there, MAX_UNIT + 1);
    lm_status got = lm_file_read(u->path, MAX_UNIT, &there, err);
    bool missing = got == LM_NOT_FOUND, differs = missing ? u->wanted : !u->wanted;
    if (got != LM_OK && !missing) *st = got;
    if (!missing && u->wanted) differs = !lm_str_eq(lm_buf_view(&there), lm_buf_view(&u->text));
    if (differs && list) {
        json_array_append_new(list, json_pack("{s:s,s:s}", "file", u->path, "is",
                                              missing     ? "missing"
                                              : u->wanted ? "different"
                                                          : "not wanted"));
    } else if (differs) {
        printf("--- %s%s\n+++ what install-service would write%s\n", u->path, missing ? " (missing)" : "",
               u->wanted ? "" : ": nothing");
        print_lines(lm_buf_view(&there), lm_buf_view(&u->text));
    }
    lm_buf_release(&there);
    return differs;
}

int service_diff(service_config *c, const service_options *o) {
    place p;
    lm_err err = {0};
    if (find_place(c, o, &p, &err) != LM_OK) return fail(&err);
    unit units[2] = {0};
    int n = write_units(c, &p, units);
    bool installed = lm_path_is_file(p.init.path), differs = false;
    json_t *list = o->json ? json_array() : NULL;
    lm_status st = LM_OK;
    for (int i = 0; i < n && st == LM_OK && installed; i++)
        if (compare(&units[i], list, &err, &st)) differs = true;
    free_units(units);
    if (st != LM_OK) {
        json_decref(list);
        return fail(&err);
    }
    if (o->json) {
        json_t *doc = json_pack("{s:b,s:b,s:s,s:o}", "installed", installed, "differs", differs, "file",
                                p.init.path, "differences", list);
        json_dumpf(doc, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(doc);
    } else if (!installed) {
        fprintf(stderr, "no %s is installed (%s)\n", p.init.label, p.init.path);
    } else if (differs) {
        fprintf(stderr,
                "the %s is not what this version and configuration would write: mlx-server-startup "
                "install-service writes it anew\n",
                p.init.label);
    } else {
        printf("%s is what install-service would write\n", p.init.path);
    }
    return !installed ? EXIT_STOPPED : differs ? EXIT_FAILED : EXIT_DONE;
}
