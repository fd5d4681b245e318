#include "doctor/doctor.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OLLAMA_PORT 11434

void doctor_usage(void) {
    /* clang-format off */
    puts("Usage: test-mlx-integration [options]              check the installation, then the server that runs; if there\n"
         "                                                   is none, one of its own on a spare port\n"
         "       test-mlx-integration --installation         check the installation alone, nothing live\n"
         "       test-mlx-integration --url URL [options]    check that server alone\n"
         "       test-mlx-integration --start [options]      check a bridge that it starts itself\n"
         "       test-mlx-integration --conformance URL      hold a server against what Ollama does, and print the differences\n"
         "       test-mlx-integration --bench [options]      measure, beside Ollama and mlx-lm where they are\n"
         "\n"
         "  --url URL            the server (OLLAMA_HOST, else http://127.0.0.1:11434, else the ports that the service\n"
         "                       and the router are told)\n"
         "  --start              start the mlx-ollama-bridge that lies beside this program on a spare port, stop it\n"
         "                       at the end\n"
         "  --model NAME         the model to ask (the smallest there is)\n"
         "  --timeout SECONDS    how long the server may be silent (120)\n"
         "  --json               one JSON document at the end\n"
         "  --tap                the Test Anything Protocol\n"
         "\n"
         "  --conformance URL    replay Ollama's wire against that server, a real Ollama too; nothing is pulled, deleted\n"
         "                       or written\n"
         "  --case ID            only the cases whose ID begins so\n"
         "  --write              write, too: a blob of six bytes, a copy of the model and one made from it, deleted again\n"
         "\n"
         "  --bench              the figures of the README, as a Markdown table (--json: as JSON); it starts a bridge\n"
         "                       of its own unless --url names one\n"
         "  --bench-model NAME   the model of the bench, as --model\n"
         "  --ollama URL         a real Ollama to compare with (http://127.0.0.1:11434, if one answers there)\n"
         "  --ollama-model NAME  the same model's name there (as here)\n"
         "  --mlx-lm PYTHON      a Python that has mlx_lm, to compare with (python3, if it has)\n"
         "  --mlx-lm-model DIR   the model's directory (the one that the bridge uses)\n"
         "  --peer NAME=URL      another server of Ollama's wire to compare with, a router for example; may be repeated\n"
         "  --repeat N           runs, of which the median counts (3)\n"
         "\n"
         "  -- OPTIONS           what follows is for the bridge that it starts, for example -- --backend mlx\n"
         "  --help, --version\n"
         "\n"
         "The model that is asked is unloaded at the end.\n"
         "Exit codes: 0 everything passed (or was measured); 1 to 100 so many checks failed, or differences (100: or more);\n"
         "101 wrong usage, 102 nothing could be checked, 130 interrupted.");
    /* clang-format on */
}

/* ---- addresses */

/* As the bridge: OLLAMA_HOST says where, MLX_BRIDGE_PORT wins over its port. */
static lm_status read_environment(doctor_config *c, lm_err *err) {
    const char *text = getenv("MLX_BRIDGE_PORT"), *host = getenv("OLLAMA_HOST");
    uint64_t port = 0;
    if (text && text[0] && !lm_str_number(lm_str_of(text), 1, 65535, &port))
        return lm_fail(err, LM_INVALID, "MLX_BRIDGE_PORT is \"%s\": it must be a number from 1 to 65535",
                       text);
    lm_status st = lm_address_url(host, OLLAMA_PORT, (uint16_t)port, c->url, err);
    return st == LM_OK ? LM_OK : lm_fail_in(err, st, "OLLAMA_HOST");
}

/* ---- command line */

enum {
    URL = 256,
    START,
    INSTALLATION,
    CONFORMANCE,
    CASE,
    WRITE,
    MODEL,
    TIMEOUT,
    JSON,
    TAP,
    BENCH,
    BENCH_MODEL,
    OLLAMA,
    OLLAMA_MODEL,
    MLX_LM,
    MLX_LM_MODEL,
    PEER,
    REPEAT,
    HELP,
    VERSION
};

static const struct option options[] = {
    {"url", required_argument, NULL, URL},
    {"start", no_argument, NULL, START},
    {"model", required_argument, NULL, MODEL},
    {"timeout", required_argument, NULL, TIMEOUT},
    {"json", no_argument, NULL, JSON},
    {"tap", no_argument, NULL, TAP},
    {"bench", no_argument, NULL, BENCH},
    {"bench-model", required_argument, NULL, BENCH_MODEL},
    {"ollama", required_argument, NULL, OLLAMA},
    {"ollama-model", required_argument, NULL, OLLAMA_MODEL},
    {"mlx-lm", required_argument, NULL, MLX_LM},
    {"mlx-lm-model", required_argument, NULL, MLX_LM_MODEL},
    {"repeat", required_argument, NULL, REPEAT},
    {"installation", no_argument, NULL, INSTALLATION},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {"peer", required_argument, NULL, PEER},
    {"conformance", required_argument, NULL, CONFORMANCE},
    {"write", no_argument, NULL, WRITE},
    {"case", required_argument, NULL, CASE},
    {NULL, 0, NULL, 0},
};

/* NAME=URL; the name becomes a column of the table and a key in JSON. */
static lm_status take_peer(doctor_config *c, const char *value, lm_err *err) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    static const char *const taken[] = {"mlx_ollama", "ollama", "mlx_lm"};
    size_t n = strspn(value, letters);
    if (!n || n > 40 || value[n] != '=' || !value[n + 1])
        return lm_fail(err, LM_INVALID,
                       "--peer %.100s: it must be NAME=URL, the name of letters, digits and . _ -", value);
    if (c->n_peers == DOCTOR_MAX_PEERS)
        return lm_fail(err, LM_INVALID, "more than %d times --peer", DOCTOR_MAX_PEERS);
    char *name = c->peers[c->n_peers].name;
    snprintf(name, sizeof c->peers->name, "%.*s", (int)n, value);
    bool again = false;
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) again |= !strcmp(name, taken[i]);
    for (uint32_t i = 0; i < c->n_peers; i++) again |= !strcmp(name, c->peers[i].name);
    if (again) return lm_fail(err, LM_INVALID, "--peer %s: there is one of this name, choose another", name);
    return lm_address_url(value + n + 1, OLLAMA_PORT, 0, c->peers[c->n_peers++].url, err);
}

static lm_status take_option(doctor_config *c, int option, const char *value, lm_err *err) {
    uint64_t n = 0;
    switch (option) {
    case URL: c->url_given = true; return lm_address_url(value, OLLAMA_PORT, 0, c->url, err);
    case START: c->start = true; break;
    case INSTALLATION: c->installation = true; break;
    case CONFORMANCE:
        c->command = DOCTOR_CONFORMANCE;
        c->url_given = true;
        return lm_address_url(value, OLLAMA_PORT, 0, c->url, err);
    case CASE: c->only_case = value; break;
    case WRITE: c->write = true; break;
    case MODEL:
    case BENCH_MODEL:
        if (!value[0] || strlen(value) > 500) return lm_fail(err, LM_INVALID, "--model needs a model's name");
        c->model = value;
        break;
    case TIMEOUT:
        if (!lm_str_number(lm_str_of(value), 1, 86400, &n))
            return lm_fail(err, LM_INVALID, "--timeout %s: it must be seconds, from 1 to 86400", value);
        c->timeout_s = (uint32_t)n;
        break;
    case JSON: c->json = true; break;
    case TAP: c->tap = true; break;
    case BENCH: c->command = DOCTOR_BENCH; break;
    case OLLAMA: c->ollama_given = true; return lm_address_url(value, OLLAMA_PORT, 0, c->ollama_url, err);
    case OLLAMA_MODEL: c->ollama_model = value; break;
    case MLX_LM: c->mlx_lm = value; break;
    case MLX_LM_MODEL: c->mlx_lm_model = value; break;
    case PEER: return take_peer(c, value, err);
    case REPEAT:
        if (!lm_str_number(lm_str_of(value), 1, 100, &n))
            return lm_fail(err, LM_INVALID, "--repeat %s: it must be a number from 1 to 100", value);
        c->repeat = (uint32_t)n;
        break;
    case HELP: c->command = DOCTOR_HELP; break;
    case VERSION: c->command = DOCTOR_VERSION; break;
    default: return lm_fail(err, LM_INVALID, "see test-mlx-integration --help");
    }
    return LM_OK;
}

static lm_status check_together(const doctor_config *c, int argc, char **argv, bool after_dashes,
                                lm_err *err) {
    if (c->installation &&
        (c->start || c->url_given || c->command == DOCTOR_BENCH)) /* --conformance names one, too */
        return lm_fail(err, LM_INVALID,
                       "--installation looks at this machine alone: without --url, --start and --bench");
    if (c->start && c->url_given)
        return lm_fail(err, LM_INVALID,
                       "--start checks a server of its own, --url one that runs: choose one");
    if ((c->write || c->only_case) && c->command != DOCTOR_CONFORMANCE)
        return lm_fail(err, LM_INVALID, "--write and --case are for --conformance URL");
    if (c->json && c->tap) return lm_fail(err, LM_INVALID, "--json and --tap: choose one");
    if (c->n_peers && c->command != DOCTOR_BENCH) return lm_fail(err, LM_INVALID, "--peer is for --bench");
    if (c->tap && c->command == DOCTOR_BENCH)
        return lm_fail(err, LM_INVALID, "--bench has figures, no --tap: --json");
    if (optind < argc && !after_dashes)
        return lm_fail(err, LM_INVALID, "what is \"%s\"? See test-mlx-integration --help", argv[optind]);
    if (optind < argc && c->url_given && c->command < DOCTOR_HELP)
        return lm_fail(err, LM_INVALID,
                       "options after -- are for a bridge of its own, not for the one of --url");
    return LM_OK;
}

lm_status doctor_config_read(int argc, char **argv, doctor_config *out, lm_err *err) {
    doctor_config c = {
        .command = DOCTOR_CHECK, .timeout_s = 120, .repeat = 3, .ollama_url = "http://127.0.0.1:11434"};
    lm_status st = LM_OK;
    for (int option; st == LM_OK && (option = getopt_long(argc, argv, "+", options, NULL)) >= 0;)
        st = take_option(&c, option, optarg, err);
    if (st == LM_OK) st = check_together(&c, argc, argv, optind > 1 && !strcmp(argv[optind - 1], "--"), err);
    if (st == LM_OK && !c.url_given) st = read_environment(&c, err);
    if (st != LM_OK) return st;
    c.bridge_args = argv + optind;
    *out = c;
    return LM_OK;
}
