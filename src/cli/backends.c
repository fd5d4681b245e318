/* backends.c - which backend is preferred, and whether the bridge runs: switch, start-mlx, stop-mlx. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/say.h"
#include "names/names.h"
#include "router/router.h"

#define SERVICE "mlx-server-startup"

/* ---- switch */

static const char *meaning(lm_order o) {
    switch (o) {
    case LM_ORDER_OLLAMA:
        return "requests go to Ollama first, and to the bridge when Ollama cannot serve them";
    case LM_ORDER_MLX:
        return "requests go to the bridge first, and to Ollama when the bridge cannot serve them";
    case LM_ORDER_AUTO: break;
    }
    return "each request goes where it is served best";
}

static int say_order(const cli_args *a, const char *model, lm_order o) {
    if (say_as_json(a)) {
        json_t *out = json_pack("{s:s, s:s}", "order", lm_order_name(o), "meaning", meaning(o));
        if (model) json_object_set_new(out, "model", json_string(model));
        return say_json(out);
    }
    say("%s%s%s: %s\n", model ? model : "", model ? ": " : "", lm_order_name(o), meaning(o));
    if (!wire_router_runs())
        say("The router is not running: it will hold when it does (" CLI_PROGRAM " serve).\n");
    return CLI_OK;
}

int command_switch(const cli_args *a) {
    lm_order o;
    lm_err err = {0};
    lm_name parsed;
    char name[700];
    const char *model = NULL;
    lm_status st = LM_OK;
    if (a->n_operands > 1) {
        st = lm_name_parse(lm_str_of(a->operand[1]), &parsed, &err);
        if (st != LM_OK) return say_failed(a, CLI_USAGE, "%s: %s", a->operand[1], err.text);
        lm_name_short(&parsed, name);
        model = name;
    }
    if (a->n_operands) st = lm_order_parse(lm_str_of(a->operand[0]), &o, &err);
    if (st != LM_OK) return say_failed(a, CLI_USAGE, "%s", err.text);
    st = a->n_operands ? lm_order_set(model, o, &err) : lm_order_get(NULL, &o, &err);
    if (st != LM_OK) return say_failed(a, CLI_FAILED, "%s", err.text);
    return say_order(a, model, o);
}

/* ---- the service */

/* The program becomes mlx-server-startup: the one beside it, else the one of PATH. */
static int become_service(const cli_args *a, const char *verb) {
    char path[PATH_MAX];
    char **argv = lm_alloc((a->n_operands + 3) * sizeof *argv);
    argv[0] = lm_strdup(SERVICE);
    argv[1] = lm_strdup(verb);
    for (uint32_t i = 0; i < a->n_operands; i++) argv[2 + i] = lm_strdup(a->operand[i]);
    char *slash = lm_program_path(path) ? strrchr(path, '/') : NULL;
    if (slash && (size_t)(slash + 1 - path) + sizeof SERVICE <= sizeof path) {
        strcpy(slash + 1, SERVICE);
        execv(path, argv);
    }
    if (!slash || errno == ENOENT) execvp(SERVICE, argv);
    int why = errno;
    for (uint32_t i = 0; argv[i]; i++) free(argv[i]);
    free(argv);
    if (why == ENOENT)
        return say_failed(a, CLI_FAILED,
                          SERVICE
                          " is neither beside this program nor in PATH: install it, or %s the bridge by hand "
                          "(mlx-ollama-bridge --port 11435)",
                          verb);
    return say_failed(a, CLI_FAILED, SERVICE " cannot be started: %s", strerror(why));
}

int command_start_mlx(const cli_args *a) {
    return become_service(a, "start");
}

int command_stop_mlx(const cli_args *a) {
    return become_service(a, "stop");
}
