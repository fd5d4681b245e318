#include "bridge/bridge.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/client.h"

#define DEFAULT_PORT 11434
#define MAX_PARALLEL 1024
#define SECOND_NS    INT64_C(1000000000)

void bridge_usage(void) {
    puts(
        "Usage: mlx-ollama-bridge [serve] [options]\n"
        "       mlx-ollama-bridge import FILE.gguf [NAME]   make an MLX model of a GGUF file, in the own "
        "store\n"
        "       mlx-ollama-bridge import NAME               the same of a model in Ollama's or LM Studio's "
        "store\n"
        "       mlx-ollama-bridge pull NAME [--insecure] [--json]   fetch a model from the Hugging Face hub "
        "or "
        "an Ollama registry\n"
        "       mlx-ollama-bridge push NAME [--insecure] [--json]   send one there\n"
        "       mlx-ollama-bridge export NAME DIRECTORY [--json]   a model as a plain directory for mlx-lm\n"
        "       mlx-ollama-bridge list [--json]             the models on this disk\n"
        "       mlx-ollama-bridge --list-devices [--json]   what there is to compute on, and what is chosen\n"
        "\n"
        "Serves Ollama's API over MLX-format models.\n"
        "\n"
        "  --port N             port to listen on (11434)\n"
        "  --host ADDRESS       address to listen on (127.0.0.1)\n"
        "  --models DIR         the own store (~/.mlx-ollama/models)\n"
        "  --root DIR           a further directory that holds model directories; may be repeated\n"
        "  --import-gguf WHEN   GGUF models in the stores of Ollama and LM Studio are imported on-use (when "
        "one is first\n"
        "                       used), after you ask (ask: with the command import), or never, and not "
        "listed\n"
        "                       (on-use)\n"
        "  --backend NAME       what computes: cpu (our kernels), mlx (Apple's MLX), or auto: MLX where it "
        "has a\n"
        "                       GPU (Metal, CUDA), else the CPU (auto)\n"
        "  --device NAME        where MLX computes: gpu, gpu:1 (the second one), cpu (slow), or auto: its "
        "GPU\n"
        "                       (auto)\n"
        "  --kv-cache-type T    how keys and values are kept: f16, q8_0 or q4_0; the CPU kernels have f16 "
        "only\n"
        "                       (f16)\n"
        "  --cpu-features SET   force a set of CPU kernels: reference, portable, avx2, avx512, "
        "avx512-bf16,\n"
        "                       neon, neon-dotprod, neon-i8mm (the best this processor runs)\n"
        "  --distributed FILE   compute with several processes, on GPUs of this machine or on several "
        "machines: a "
        "hostfile\n"
        "                       as mlx.launch takes it, this process is rank 0 and starts the others (ssh)\n"
        "  --distributed-mode M how a model is dealt out: tensor (each has a part of every layer), pipeline "
        "(each has\n"
        "                       some layers), or auto: tensor where the model allows it (auto)\n"
        "  --distributed-port N first port of the connections between the processes (32323)\n"
        "  --threads N          threads for arithmetic (all cores)\n"
        "  --listen-fd N        listen on a socket that is open already, in place of --host and --port (LISTEN_FDS of "
        "systemd,\n"
        "                       too)\n"
        "  --step-limit SECONDS, --load-limit SECONDS  what the watchdog of systemd or mlx-server-startup lets one "
        "step of a\n"
        "                       model, and loading one, take (120, 1800)\n"
        "  --drain SECONDS      how long running answers may go on after SIGTERM (30)\n"
        "  --insecure           pull from a registry, push to one over http as well\n"
        "  --json               progress of pull, push and export as lines of JSON on standard output; the list as JSON\n"
        "  --verbose            log more\n"
        "  --help, --version\n"
        "\n"
        "Environment (options win):\n"
        "  MLX_BRIDGE_PORT           port\n"
        "  MLX_BRIDGE_IMPORT         as --import-gguf\n"
        "  OLLAMA_MODELS             Ollama's own store, whose models are used too (~/.ollama/models)\n"
        "  OLLAMA_HOST               host, host:port, :port or a URL\n"
        "  OLLAMA_KEEP_ALIVE         how long an idle model stays loaded: 5m, 300 (seconds), -1 for ever, 0 "
        "not at all (5m)\n"
        "  OLLAMA_NUM_PARALLEL       requests that a model works on together (4)\n"
        "  OLLAMA_MAX_QUEUE          requests that may wait (512)\n"
        "  OLLAMA_MAX_LOADED_MODELS  models loaded at a time (as memory allows)\n"
        "  OLLAMA_CONTEXT_LENGTH     num_ctx when a request says nothing (4096)\n"
        "  OLLAMA_KV_CACHE_TYPE      as --kv-cache-type\n"
        "  OLLAMA_ORIGINS            further origins that browsers may call from, separated by commas\n"
        "  OLLAMA_DEBUG              1: as --verbose\n"
        "  OLLAMA_MAX_TRANSFER_STREAMS  files that a pull or a push has on the way at a time (4)\n"
        "  HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE  of pulls and pushes, as the Hugging Face tools have them\n"
        "  SSL_CERT_FILE, SSL_CERT_DIR  whom to trust over https, in place of the system's certificates\n"
        "  MLX_BRIDGE_SECRET         what all ranks of --distributed know, when mlx.launch starts them\n"
        "\n"
        "Exit codes: 0 ended as asked, 1 failed, 2 wrong usage, 3 the address cannot be listened on (port "
        "in use).");
}

/* ---- environment */

/* As Ollama reads variables: trimmed of blanks and quotes. */
static lm_str env(const char *name) {
    lm_str v = lm_str_trim(lm_str_of(getenv(name)));
    while (v.len && (v.ptr[0] == '"' || v.ptr[0] == '\'')) {
        v.ptr++;
        v.len--;
    }
    while (v.len && (v.ptr[v.len - 1] == '"' || v.ptr[v.len - 1] == '\'')) v.len--;
    return v;
}

static lm_status env_u32(const char *name, uint32_t *out, lm_err *err) {
    lm_str v = env(name);
    if (!v.len) return LM_OK;
    uint64_t n = 0;
    if (!lm_str_number(v, 0, UINT32_MAX, &n))
        return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a whole number", name, LM_STR_ARG(v));
    *out = (uint32_t)n;
    return LM_OK;
}

static lm_status env_keep_alive(int64_t *out, lm_err *err) {
    lm_str v = env("OLLAMA_KEEP_ALIVE");
    if (!v.len) return LM_OK;
    char *text = lm_str_dup(v), *end = NULL;
    long long seconds = strtoll(text, &end, 10);
    lm_status st = LM_OK;
    if (*end == '\0')
        *out = seconds < 0 ? -1 : seconds > INT64_MAX / SECOND_NS ? INT64_MAX : seconds * SECOND_NS;
    else
        st = lm_duration_parse(v, out, err);
    if (st != LM_OK) st = lm_fail_in(err, st, "OLLAMA_KEEP_ALIVE");
    if (*out < 0) *out = -1;
    free(text);
    return st;
}

static lm_status kv_type(const char *name, lm_str value, lm_kv_type *out, lm_err *err) {
    for (int t = 0; t < LM_KV_TYPES; t++) {
        if (!lm_str_eq_nocase(value, lm_str_of(lm_kv_type_name((lm_kv_type)t)))) continue;
        *out = (lm_kv_type)t;
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID, "%s is \"%.*s\": there are f16, q8_0 and q4_0", name, LM_STR_ARG(value));
}

static lm_status read_environment(bridge_config *c, lm_err *err) {
    lm_str v = env("OLLAMA_HOST");
    if (v.len) {
        char *text = lm_str_dup(v);
        lm_address_parse(text, DEFAULT_PORT, c->host, &c->port);
        free(text);
    }
    uint32_t port = c->port;
    lm_status st = env_u32("MLX_BRIDGE_PORT", &port, err);
    if (st == LM_OK && port > 65535)
        st = lm_fail(err, LM_INVALID, "MLX_BRIDGE_PORT is %u: ports end at 65535", port);
    c->port = (uint16_t)port;
    if (st == LM_OK) st = env_keep_alive(&c->keep_alive_ns, err);
    if (st == LM_OK) st = env_u32("OLLAMA_NUM_PARALLEL", &c->n_parallel, err);
    if (st == LM_OK && c->n_parallel > MAX_PARALLEL)
        st = lm_fail(err, LM_INVALID, "OLLAMA_NUM_PARALLEL is %u: at most %d work together", c->n_parallel,
                     MAX_PARALLEL);
    if (st == LM_OK) st = env_u32("OLLAMA_MAX_QUEUE", &c->max_queue, err);
    if (st == LM_OK) st = env_u32("OLLAMA_MAX_LOADED_MODELS", &c->max_models, err);
    if (st == LM_OK) st = env_u32("OLLAMA_CONTEXT_LENGTH", &c->default_ctx, err);
    if (!c->n_parallel) c->n_parallel = 4;
    v = env("OLLAMA_KV_CACHE_TYPE");
    if (st == LM_OK && v.len) st = kv_type("OLLAMA_KV_CACHE_TYPE", v, &c->kv_type, err);
    c->origins = getenv("OLLAMA_ORIGINS");
    v = env("OLLAMA_DEBUG");
    c->verbose = v.len && !lm_str_eq(v, LM_STR("0")) && !lm_str_eq_nocase(v, LM_STR("false"));
    return st;
}

/* ---- command line */

enum {
    PORT = 256,
    HOST,
    MODELS,
    ROOT,
    BACKEND,
    DEVICE,
    CPU_FEATURES,
    THREADS,
    DRAIN,
    LISTEN_FD,
    STEP_LIMIT,
    LOAD_LIMIT,
    VERBOSE,
    INSECURE,
    IMPORT_GGUF,
    KV_CACHE_TYPE,
    LIST_DEVICES,
    JSON,
    DISTRIBUTED,
    DISTRIBUTED_MODE,
    DISTRIBUTED_PORT,
    HELP,
    VERSION
};

static const struct option options[] = {
    {"port", required_argument, NULL, PORT},
    {"host", required_argument, NULL, HOST},
    {"models", required_argument, NULL, MODELS},
    {"root", required_argument, NULL, ROOT},
    {"backend", required_argument, NULL, BACKEND},
    {"cpu-features", required_argument, NULL, CPU_FEATURES},
    {"threads", required_argument, NULL, THREADS},
    {"drain", required_argument, NULL, DRAIN},
    {"listen-fd", required_argument, NULL, LISTEN_FD},
    {"step-limit", required_argument, NULL, STEP_LIMIT},
    {"load-limit", required_argument, NULL, LOAD_LIMIT},
    {"verbose", no_argument, NULL, VERBOSE},
    {"insecure", no_argument, NULL, INSECURE},
    {"import-gguf", required_argument, NULL, IMPORT_GGUF},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {"device", required_argument, NULL, DEVICE},
    {"kv-cache-type", required_argument, NULL, KV_CACHE_TYPE},
    {"list-devices", no_argument, NULL, LIST_DEVICES},
    {"json", no_argument, NULL, JSON},
    {"distributed", required_argument, NULL, DISTRIBUTED},
    {"distributed-mode", required_argument, NULL, DISTRIBUTED_MODE},
    {"distributed-port", required_argument, NULL, DISTRIBUTED_PORT},
    {NULL, 0, NULL, 0},
};

static lm_status number(const char *option, const char *text, uint64_t max, uint64_t *out, lm_err *err) {
    if (lm_str_number(lm_str_of(text), 0, max, out)) return LM_OK;
    return lm_fail(err, LM_INVALID, "%s %s: it must be a number from 0 to %llu", option, text,
                   (unsigned long long)max);
}

/* One of three words, as its number. */
static lm_status one_of(const char *option, const char *value, const char *const words[3], uint64_t *out,
                        lm_err *err) {
    for (*out = 0; *out < 3; ++*out)
        if (!strcmp(value, words[*out])) return LM_OK;
    return lm_fail(err, LM_INVALID, "%s %s: there are %s, %s and %s", option, value, words[0], words[1],
                   words[2]);
}

static lm_status import_gguf(const char *option, const char *value, lm_gguf_use *out, lm_err *err) {
    uint64_t n = 0;
    lm_status st = one_of(option, value, (const char *const[]){"on-use", "ask", "never"}, &n, err);
    if (st == LM_OK) *out = (lm_gguf_use)n;
    return st;
}

static lm_status take_option(bridge_config *c, int option, const char *value, lm_err *err) {
    uint64_t n = 0;
    lm_status st = LM_OK;
    switch (option) {
    case PORT:
        st = number("--port", value, 65535, &n, err);
        c->port = (uint16_t)n;
        break;
    case HOST:
        if (!value[0] || strlen(value) >= sizeof c->host)
            return lm_fail(err, LM_INVALID, "--host: it must be an address");
        strcpy(c->host, value);
        break;
    case MODELS: c->models = value; break;
    case ROOT: c->roots[c->n_roots++] = value; break;
    case BACKEND:
        st = one_of("--backend", value, (const char *const[]){"auto", "cpu", "mlx"}, &n, err);
        c->backend = n;
        break;
    case DEVICE:
        if (!strncmp(value, "gpu:", 4)) {
            st = number("--device gpu:", value + 4, 255, &n, err);
            c->device = DEVICE_GPU;
            c->device_index = (uint32_t)n;
            break;
        }
        st = one_of("--device", value, (const char *const[]){"auto", "cpu", "gpu"}, &n, err);
        c->device = n;
        c->device_index = 0;
        break;
    case KV_CACHE_TYPE: return kv_type("--kv-cache-type", lm_str_of(value), &c->kv_type, err);
    case LIST_DEVICES: c->command = BRIDGE_DEVICES; break;
    case JSON: c->json = true; break;
    case DISTRIBUTED:
        c->distributed = value;
        if (c->backend == BACKEND_AUTO) c->backend = BACKEND_MLX; /* nothing else can */
        break;
    case DISTRIBUTED_MODE:
        st =
            one_of("--distributed-mode", value, (const char *const[]){"auto", "tensor", "pipeline"}, &n, err);
        c->distributed_mode = n;
        break;
    case DISTRIBUTED_PORT:
        st = number("--distributed-port", value, 65535, &n, err);
        c->distributed_port = (uint16_t)n;
        break;
    case CPU_FEATURES: c->cpu_features = value; break;
    case THREADS:
        st = number("--threads", value, 1024, &n, err);
        c->n_threads = (uint32_t)n;
        break;
    case DRAIN:
        st = number("--drain", value, 86400, &n, err);
        c->drain_ns = (int64_t)n * SECOND_NS;
        break;
    case LISTEN_FD:
        st = number("--listen-fd", value, 65535, &n, err);
        if (st == LM_OK && n < 3) return lm_fail(err, LM_INVALID, "--listen-fd: 0, 1 and 2 are taken");
        c->listen_fd = (int)n;
        break;
    case STEP_LIMIT:
        st = number("--step-limit", value, 86400, &n, err);
        c->step_ns = (int64_t)n * SECOND_NS;
        break;
    case LOAD_LIMIT:
        st = number("--load-limit", value, 86400, &n, err);
        c->load_ns = (int64_t)n * SECOND_NS;
        break;
    case IMPORT_GGUF: return import_gguf("--import-gguf", value, &c->import_gguf, err);
    case VERBOSE: c->verbose = true; break;
    case INSECURE: c->insecure = true; break;
    case HELP: c->command = BRIDGE_HELP; break;
    case VERSION: c->command = BRIDGE_VERSION; break;
    default: return lm_fail(err, LM_INVALID, "see mlx-ollama-bridge --help");
    }
    return st;
}

static lm_status take_command(bridge_config *c, int n, char **words, lm_err *err) {
    if (n == 0) return LM_OK;
    if (!strcmp(words[0], "serve") && n == 1) return LM_OK;
    if (!strcmp(words[0], "list") && n == 1) {
        c->command = BRIDGE_LIST;
        return LM_OK;
    }
    if (!strcmp(words[0], "import")) {
        if (n < 2 || n > 3)
            return lm_fail(err, LM_INVALID, "import needs a file: mlx-ollama-bridge import FILE.gguf [NAME]");
        c->command = BRIDGE_IMPORT;
        c->file = words[1];
        c->name = n == 3 ? words[2] : NULL;
        return LM_OK;
    }
    if (!strcmp(words[0], "pull") || !strcmp(words[0], "push")) {
        if (n != 2)
            return lm_fail(err, LM_INVALID, "%s needs a name: mlx-ollama-bridge %s NAME", words[0], words[0]);
        c->command = !strcmp(words[0], "pull") ? BRIDGE_PULL : BRIDGE_PUSH;
        c->name = words[1];
        return LM_OK;
    }
    if (!strcmp(words[0], "export")) {
        if (n != 3)
            return lm_fail(err, LM_INVALID,
                           "export needs a name and a directory: mlx-ollama-bridge export NAME DIRECTORY");
        c->command = BRIDGE_EXPORT;
        c->name = words[1];
        c->file = words[2];
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID,
                   "unknown command \"%s\": there are serve, pull, push, import, export and list", words[0]);
}

lm_status bridge_config_read(int argc, char **argv, bridge_config *out, lm_err *err) {
    bridge_config c = {.command = BRIDGE_SERVE,
                       .host = "127.0.0.1",
                       .port = DEFAULT_PORT,
                       .n_parallel = 4,
                       .max_queue = 512,
                       .keep_alive_ns = 300 * SECOND_NS,
                       .drain_ns = 30 * SECOND_NS,
                       .step_ns = 120 * SECOND_NS,
                       .load_ns = 1800 * SECOND_NS};
    c.roots = lm_alloc((size_t)(argc + 1) * sizeof *c.roots);
    lm_status st = read_environment(&c, err);
    const char *import = getenv("MLX_BRIDGE_IMPORT");
    if (st == LM_OK && import && import[0])
        st = import_gguf("MLX_BRIDGE_IMPORT", import, &c.import_gguf, err);
    while (st == LM_OK) {
        int option = getopt_long(argc, argv, "", options, NULL);
        if (option < 0) break;
        st = take_option(&c, option, optarg, err);
    }
    if (st == LM_OK && c.command == BRIDGE_SERVE) st = take_command(&c, argc - optind, argv + optind, err);
    if (st != LM_OK) {
        free(c.roots);
        return st;
    }
    *out = c;
    return LM_OK;
}
