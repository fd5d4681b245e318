#include "doctor/doctor.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OLLAMA_PORT 11434

void doctor_usage(void) {
    puts(
        "Usage: test-mlx-integration [options]              check a running server\n"
        "       test-mlx-integration --start [options]      check a bridge that it starts itself\n"
        "       test-mlx-integration --bench [options]      measure, beside Ollama and mlx-lm where they "
        "are\n"
        "\n"
        "  --url URL            the server (OLLAMA_HOST, else http://127.0.0.1:11434)\n"
        "  --start              start the mlx-ollama-bridge that lies beside this program on a spare port, "
        "stop it "
        "at the end\n"
        "  --model NAME         the model to ask (the smallest there is)\n"
        "  --timeout SECONDS    how long the server may be silent (120)\n"
        "  --json               one JSON document at the end\n"
        "  --tap                the Test Anything Protocol\n"
        "\n"
        "  --bench              the figures of the README, as a Markdown table (--json: as JSON); it starts "
        "a bridge "
        "of its\n"
        "                       own unless --url names one\n"
        "  --bench-model NAME   the model of the bench, as --model\n"
        "  --ollama URL         a real Ollama to compare with (http://127.0.0.1:11434, if one answers "
        "there)\n"
        "  --ollama-model NAME  the same model's name there (as here)\n"
        "  --mlx-lm PYTHON      a Python that has mlx_lm, to compare with (python3, if it has)\n"
        "  --mlx-lm-model DIR   the model's directory (the one that the bridge uses)\n"
        "  --repeat N           runs, of which the median counts (3)\n"
        "\n"
        "  -- OPTIONS           what follows is for the bridge that it starts, for example -- --backend mlx\n"
        "  --help, --version\n"
        "\n"
        "The model that is asked is unloaded at the end.\n"
        "Exit codes: 0 everything passed (or was measured), 1 something failed, 2 wrong usage.");
}

/* ---- addresses */

/* URL or address as an URL without a slash at its end. Servers that listen on every address are asked on this
 * one. */
static lm_status as_url(const char *text, uint32_t port_wins, char out[512], lm_err *err) {
    char host[256];
    uint16_t port = 0;
    lm_address_parse(text, OLLAMA_PORT, host, &port);
    if (port_wins) port = (uint16_t)port_wins;
    if (!strcmp(host, "0.0.0.0")) strcpy(host, "127.0.0.1");
    if (!strcmp(host, "::")) strcpy(host, "::1");
    bool tls = !strncmp(text, "https://", 8), v6 = strchr(host, ':') != NULL;
    const char *scheme = strstr(text, "://"), *path = strchr(scheme ? scheme + 3 : text, '/');
    if (scheme && strncmp(text, "http://", 7) && !tls)
        return lm_fail(err, LM_INVALID, "%s is no address of a server: it begins with http:// or https://",
                       text);
    int n = snprintf(out, 512, "%s://%s%s%s:%u%s", tls ? "https" : "http", v6 ? "[" : "", host, v6 ? "]" : "",
                     port, path ? path : "");
    if (n >= 512 || strpbrk(out, " \t\r\n"))
        return lm_fail(err, LM_INVALID, "%.200s is no address of a server", text);
    while (n && out[n - 1] == '/') out[--n] = '\0';
    return LM_OK;
}

static bool whole_number(const char *text, uint32_t least, uint32_t most, uint32_t *out) {
    size_t n = strlen(text);
    if (!n || n > 9 || strspn(text, "0123456789") != n) return false;
    unsigned long v = strtoul(text, NULL, 10);
    if (v < least || v > most) return false;
    *out = (uint32_t)v;
    return true;
}

/* As the bridge: OLLAMA_HOST says where, MLX_BRIDGE_PORT wins over its port. */
static lm_status read_environment(doctor_config *c, lm_err *err) {
    const char *text = getenv("MLX_BRIDGE_PORT"), *host = getenv("OLLAMA_HOST");
    uint32_t port = 0;
    if (text && text[0] && !whole_number(text, 1, 65535, &port))
        return lm_fail(err, LM_INVALID, "MLX_BRIDGE_PORT is \"%s\": it must be a number from 1 to 65535",
                       text);
    lm_str h = lm_str_trim(lm_str_of(host));
    while (h.len && (h.ptr[0] == '"' || h.ptr[0] == '\'')) h.ptr++, h.len--;
    while (h.len && (h.ptr[h.len - 1] == '"' || h.ptr[h.len - 1] == '\'')) h.len--;
    char *copy = lm_str_dup(h.len ? h : LM_STR("127.0.0.1"));
    lm_status st = as_url(copy, port, c->url, err);
    free(copy);
    return st == LM_OK ? LM_OK : lm_fail_in(err, st, "OLLAMA_HOST");
}

/* ---- command line */

enum {
    URL = 256,
    START,
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
    REPEAT,
    HELP,
    VERSION
};

static const struct option options[] = {
    {"url", required_argument, NULL, URL},       {"start", no_argument, NULL, START},
    {"model", required_argument, NULL, MODEL},   {"timeout", required_argument, NULL, TIMEOUT},
    {"json", no_argument, NULL, JSON},           {"tap", no_argument, NULL, TAP},
    {"bench", no_argument, NULL, BENCH},         {"bench-model", required_argument, NULL, BENCH_MODEL},
    {"ollama", required_argument, NULL, OLLAMA}, {"ollama-model", required_argument, NULL, OLLAMA_MODEL},
    {"mlx-lm", required_argument, NULL, MLX_LM}, {"mlx-lm-model", required_argument, NULL, MLX_LM_MODEL},
    {"repeat", required_argument, NULL, REPEAT}, {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},     {NULL, 0, NULL, 0},
};

static lm_status take_option(doctor_config *c, int option, const char *value, lm_err *err) {
    switch (option) {
    case URL: c->url_given = true; return as_url(value, 0, c->url, err);
    case START: c->start = true; break;
    case MODEL:
    case BENCH_MODEL:
        if (!value[0] || strlen(value) > 500) return lm_fail(err, LM_INVALID, "--model needs a model's name");
        c->model = value;
        break;
    case TIMEOUT:
        if (!whole_number(value, 1, 86400, &c->timeout_s))
            return lm_fail(err, LM_INVALID, "--timeout %s: it must be seconds, from 1 to 86400", value);
        break;
    case JSON: c->json = true; break;
    case TAP: c->tap = true; break;
    case BENCH: c->command = DOCTOR_BENCH; break;
    case OLLAMA: c->ollama_given = true; return as_url(value, 0, c->ollama_url, err);
    case OLLAMA_MODEL: c->ollama_model = value; break;
    case MLX_LM: c->mlx_lm = value; break;
    case MLX_LM_MODEL: c->mlx_lm_model = value; break;
    case REPEAT:
        if (!whole_number(value, 1, 100, &c->repeat))
            return lm_fail(err, LM_INVALID, "--repeat %s: it must be a number from 1 to 100", value);
        break;
    case HELP: c->command = DOCTOR_HELP; break;
    case VERSION: c->command = DOCTOR_VERSION; break;
    default: return lm_fail(err, LM_INVALID, "see test-mlx-integration --help");
    }
    return LM_OK;
}

static lm_status check_together(const doctor_config *c, int argc, char **argv, bool after_dashes,
                                lm_err *err) {
    bool starts = c->start || (c->command == DOCTOR_BENCH && !c->url_given);
    if (c->start && c->url_given)
        return lm_fail(err, LM_INVALID,
                       "--start checks a server of its own, --url one that runs: choose one");
    if (c->json && c->tap) return lm_fail(err, LM_INVALID, "--json and --tap: choose one");
    if (c->tap && c->command == DOCTOR_BENCH)
        return lm_fail(err, LM_INVALID, "--bench has figures, no --tap: --json");
    if (optind < argc && !after_dashes)
        return lm_fail(err, LM_INVALID, "what is \"%s\"? See test-mlx-integration --help", argv[optind]);
    if (optind < argc && !starts && c->command < DOCTOR_HELP)
        return lm_fail(err, LM_INVALID, "options after -- are for a bridge that --start or --bench starts");
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
