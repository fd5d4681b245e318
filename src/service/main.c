#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "service/init.h"
#include "service/service.h"

static void usage(void) {
    puts("Usage: mlx-server-startup COMMAND [options]\n"
         "\n"
         "Keeps mlx-ollama-bridge running: as a service of launchd or systemd where it is installed there, "
         "else by itself.\n"
         "\n"
         "  start              start it and wait until it answers\n"
         "  stop               let running answers finish, then end it\n"
         "  restart            the same, and a new one; the port stays open, connections wait\n"
         "  reload             read the configuration again; restart what has changed\n"
         "  status             how it is\n"
         "  logs [-f] [-n N]   the log's last lines (100); -f: and what comes\n"
         "  error-logs [-f] [-n N]   the same of what went wrong\n"
         "  install-service    let launchd (macOS) or systemd (Linux) start it at login\n"
         "  uninstall-service  undo that\n"
         "  diff               how the installed service differs from what install-service would write now\n"
         "  config             what is configured, and where each value comes from\n"
         "  run                the supervisor in the foreground: what units execute\n"
         "  help               this text\n"
         "\n"
         "  --config FILE      another configuration (~/.config/mlx-ollama/service.ini)\n"
         "  --json             status, config and diff for programs\n"
         "  --init             of config: write a file with all settings, commented out, if there is none\n"
         "  --system, --daemon the machine's service, not this user's (as root); it is asked and told with "
         "the "
         "configuration, logs and notes of whom it runs as\n"
         "  --user NAME        of install-service --system: whom it runs as\n"
         "  --linger           of install-service on Linux: let it run while this user is not logged in\n"
         "  --print KIND       of install-service: the text for launchd, systemd or socket, to standard "
         "output; nothing is installed\n"
         "  --init-system NAME launchd, systemd, or none: ask no init system (this machine's)\n"
         "  --give-up-ok       of run: exit with 0 after too many failures, so that launchd leaves it be\n"
         "\n"
         "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 6 (run) gave up after too many "
         "failures.\n"
         "status: 0 it runs and answers, 1 it was killed and left its PID file, 3 it is stopped, 4 unknown,\n"
         "150 it is supervised but does not answer now. diff: 0 no difference, 1 there are some, 3 not "
         "installed.");
}

enum {
    CONFIG = 256,
    JSON,
    INIT,
    INIT_SYSTEM,
    SYSTEM,
    USER,
    LINGER,
    PRINT,
    GIVE_UP_OK,
    TELL_FD,
    HELP,
    VERSION
};

static const struct option options[] = {{"config", required_argument, NULL, CONFIG},
                                        {"json", no_argument, NULL, JSON},
                                        {"init", no_argument, NULL, INIT},
                                        {"init-system", required_argument, NULL, INIT_SYSTEM},
                                        {"system", no_argument, NULL, SYSTEM},
                                        {"daemon", no_argument, NULL, SYSTEM},
                                        {"user", required_argument, NULL, USER},
                                        {"linger", no_argument, NULL, LINGER},
                                        {"print", required_argument, NULL, PRINT},
                                        {"give-up-ok", no_argument, NULL, GIVE_UP_OK},
                                        {"tell-fd", required_argument, NULL, TELL_FD}, /* of `start` */
                                        {"follow", no_argument, NULL, 'f'},
                                        {"lines", required_argument, NULL, 'n'},
                                        {"help", no_argument, NULL, HELP},
                                        {"version", no_argument, NULL, VERSION},
                                        {NULL, 0, NULL, 0}};

static int wrong(const char *what) {
    fprintf(stderr, "mlx-server-startup: %s (mlx-server-startup help)\n", what);
    return EXIT_USAGE;
}

static bool number(const char *text, uint32_t *out) {
    if (!text[0] || strlen(text) > 9 || strspn(text, "0123456789") != strlen(text)) return false;
    *out = (uint32_t)strtoul(text, NULL, 10);
    return true;
}

/* -1: go on. */
static int take_option(service_options *o, int option) {
    uint32_t n = 0;
    switch (option) {
    case CONFIG: o->config = optarg; break;
    case JSON: o->json = true; break;
    case INIT: o->init = true; break;
    case INIT_SYSTEM:
        if (strcmp(optarg, "launchd") && strcmp(optarg, "systemd") && strcmp(optarg, "none"))
            return wrong("--init-system: there are launchd, systemd and none");
        o->init_system = optarg;
        break;
    case SYSTEM: o->system = true; break;
    case USER: o->user = optarg; break;
    case LINGER: o->enable_linger = true; break;
    case PRINT: o->print = optarg; break;
    case GIVE_UP_OK: o->run.give_up_ok = true; break;
    case 'f': o->follow = true; break;
    case 'n':
        if (!number(optarg, &o->n_lines)) return wrong("-n must be a number");
        break;
    case TELL_FD:
        if (!number(optarg, &n) || n < 3) return wrong("--tell-fd must be a file descriptor");
        o->run.tell_fd = (int)n;
        (void)fcntl(o->run.tell_fd, F_SETFD, FD_CLOEXEC);
        break;
    case HELP: usage(); return EXIT_DONE;
    case VERSION: printf("mlx-server-startup %s\n", LM_VERSION); return EXIT_DONE;
    default: return wrong("unknown option");
    }
    return -1;
}

static int failed(const char *path, lm_err *err) {
    fprintf(stderr, "mlx-server-startup: %s%s%s\n", path, path[0] ? ": " : "", err->text);
    return EXIT_FAILED;
}

/* A file that is there is the user's: it is left alone. */
static int write_template(const char *named) {
    char *path = named ? lm_strdup(named) : lm_path_config("service.ini"), *slash = strrchr(path, '/');
    lm_buf text;
    lm_err err = {0};
    lm_buf_init(&text, 65536);
    service_config_template(&text);
    int code = EXIT_DONE;
    if (lm_path_is_file(path)) {
        printf("%s is there already, and stays as it is\n", path);
    } else {
        lm_status st = LM_OK;
        if (slash && slash > path) {
            char *dir = lm_str_dup((lm_str){path, (size_t)(slash - path)});
            st = lm_dir_make(dir, &err);
            free(dir);
        }
        if (st == LM_OK) st = lm_file_write(path, lm_buf_view(&text), &err);
        code = st == LM_OK ? EXIT_DONE : failed("", &err);
        if (st == LM_OK) printf("%s has been written\n", path);
    }
    lm_buf_release(&text);
    free(path);
    return code;
}

static int show_config(service_config *c, const service_options *o) {
    service_config_print(c, o->json);
    return EXIT_DONE;
}

static int logs(service_config *c, const service_options *o) {
    return service_logs(c, o, false);
}

static int error_logs(service_config *c, const service_options *o) {
    return service_logs(c, o, true);
}

static int run(service_config *c, const service_options *o) {
    return service_supervise(c, &o->run);
}

static const struct {
    const char *name;
    int (*does)(service_config *c, const service_options *o);
} commands[] = {{"start", service_start},
                {"stop", service_stop},
                {"restart", service_restart},
                {"reload", service_reload},
                {"status", service_status},
                {"logs", logs},
                {"error-logs", error_logs},
                {"install-service", service_install},
                {"uninstall-service", service_uninstall},
                {"diff", service_diff},
                {"config", show_config},
                {"run", run}};

static int carry_out(const char *command, service_options *o) {
    lm_err denied = {0};
    bool installs = !strcmp(command, "install-service") || !strcmp(command, "uninstall-service");
    if (service_owner_take(o, installs, &denied) != LM_OK) return failed("", &denied);
    if (!strcmp(command, "config") && o->init) return write_template(o->config);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(command, commands[i].name) != 0) continue;
        service_config c = {0};
        lm_err err = {0};
        if (service_config_read(o->config, &c, &err) != LM_OK) {
            fprintf(stderr, "mlx-server-startup: %s\n", err.text);
            return EXIT_USAGE;
        }
        int code = commands[i].does(&c, o);
        service_config_release(&c);
        return code;
    }
    char text[200];
    snprintf(text, sizeof text, "unknown command \"%.100s\"", command);
    return wrong(text);
}

int main(int argc, char **argv) {
    service_options o = {.n_lines = 100};
    for (int option; (option = getopt_long(argc, argv, "fn:", options, NULL)) != -1;) {
        int code = take_option(&o, option);
        if (code >= 0) return code;
    }
    if (optind == argc) {
        usage();
        return EXIT_USAGE;
    }
    if (!strcmp(argv[optind], "help")) {
        usage();
        return EXIT_DONE;
    }
    if (argc - optind > 1) return wrong("one command at a time");
    /* The supervisor works in another directory. */
    char whole[PATH_MAX];
    if (o.config && o.config[0] != '/' && realpath(o.config, whole)) o.config = whole;
    return carry_out(argv[optind], &o);
}
