/* doctor.h - the program test-mlx-integration: is this installation sound (checks), and how fast is it
 * (bench).
 *
 * A check looks at one thing of the installation, or asks a running server one thing as a client would, and
 * ends in a result: passed, failed with what to do about it, or skipped with the reason. The report prints
 * results as they come (lines or TAP) or as one JSON document at the end. The bench measures the bridge, a
 * real Ollama and mlx-lm with the same prompts and prints the table of the README.
 *
 * Threads: one. A signal ends running requests and the processes that the doctor has started.
 */
#ifndef LM_DOCTOR_H
#define LM_DOCTOR_H

#include <jansson.h>

#include "base/base.h"
#include "http/client.h"

/* What the program's exit says; --help repeats it. From 1 to EXIT_MOST it is how many have failed. */
enum { EXIT_PASSED = 0, EXIT_MOST = 100, EXIT_USAGE = 101, EXIT_BROKEN = 102, EXIT_INTERRUPTED = 130 };

#ifndef LM_VERSION
#define LM_VERSION "unversioned" /* CMakeLists.txt gives the project's */
#endif

/* ---- configuration: config.c */

#define DOCTOR_MAX_PEERS 8

typedef struct doctor_config {
    enum { DOCTOR_CHECK, DOCTOR_BENCH, DOCTOR_CONFORMANCE, DOCTOR_HELP, DOCTOR_VERSION } command;
    char url[512];         /* of the server, without a slash at its end */
    bool url_given;        /* by --url */
    bool start;            /* a bridge of our own, on a spare port */
    bool installation;     /* only that, nothing live */
    bool write;            /* --conformance may change the store */
    const char *only_case; /* the beginning of the IDs of its cases; NULL: all */
    const char *model;     /* NULL: the smallest that the server has */
    bool json, tap;
    uint32_t timeout_s; /* how long a server may be silent */

    char ollama_url[512]; /* http://127.0.0.1:11434 unless it was given */
    bool ollama_given;
    const char *ollama_model; /* NULL: as the bridge's */
    const char *mlx_lm;       /* a Python that has mlx_lm; NULL: python3 */
    const char *mlx_lm_model; /* a directory; NULL: the one that the bridge uses */
    struct {
        char name[41], url[512];
    } peers[DOCTOR_MAX_PEERS]; /* other servers of Ollama's wire */
    uint32_t n_peers;
    uint32_t repeat;
    char **bridge_args; /* for a bridge of our own, ended by NULL */
    char **bridge_env;  /* "NAME=VALUE", what bridge_json adds to its environment, ended by NULL; NULL: nothing */
} doctor_config;

/* Defaults, then the environment (OLLAMA_HOST, MLX_BRIDGE_PORT, read as the bridge reads them), then the
 * command line. LM_INVALID: says what is wrong. Strings are borrowed from argv and the environment. */
lm_status doctor_config_read(int argc, char **argv, doctor_config *out, lm_err *err) LM_CHECKED;
void doctor_usage(void);

/* ---- report: report.c */

typedef enum doctor_state { DOCTOR_PASSED, DOCTOR_FAILED, DOCTOR_SKIPPED } doctor_state;

typedef struct doctor_result {
    doctor_state state;
    char detail[512]; /* what was seen, what is wrong, or why it was skipped */
    char remedy[512]; /* what to do; of a passed check: advice, often empty */
    /* of a difference from what Ollama does: where, what it does, what came; else empty */
    char where[256], expected[256], got[256];
} doctor_result;

void doctor_passed(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);
void doctor_skipped(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);
/* Returns false, for functions that end with it. The remedy first, the detail as printf text. */
bool doctor_failed(doctor_result *r, const char *remedy, const char *format, ...) LM_PRINTF(3, 4);
/* A failure that is a difference; its detail is made of the three. */
void doctor_differs(doctor_result *r, const char *where, const char *expected, const char *got);
void doctor_advise(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);

typedef struct doctor_report {
    enum { REPORT_LINES, REPORT_TAP, REPORT_JSON } form;
    bool colour;   /* of lines, on stdout */
    bool ascii;    /* the locale is no UTF-8 */
    bool progress; /* stderr is a terminal */
    uint32_t n_passed, n_failed, n_skipped;
    json_t *checks; /* for JSON: the results so far */
    const char *doing;
    uint64_t since_ns, shown_ns;
} doctor_report;

void report_open(doctor_report *r, const doctor_config *c);
void report_begin(doctor_report *r, const char *title); /* of what is done from now on */
void report_tick(doctor_report *r);                     /* shows it once it takes longer than a second */
void report_quiet(doctor_report *r);                    /* takes that line away */
void report_add(doctor_report *r, const char *id, const char *title, const doctor_result *result);
void report_close(doctor_report *r, const char *url); /* totals, or the JSON document; url may be empty */
int report_exit(const doctor_report *r); /* how many have failed, as far as an exit status can say it */

/* ---- processes: process.c */

typedef struct doctor_process doctor_process;

/* Starts argv[0] (found by PATH if it has no slash). Its stderr, and without talk its stdout too, goes to a
 * log that process_log reads; with talk, process_say writes to its stdin and process_hear reads its stdout.
 */
lm_status process_start(doctor_process **out, char *const argv[], bool talk, lm_err *err) LM_CHECKED;
int process_pid(const doctor_process *p);
bool process_alive(doctor_process *p);
void process_log(doctor_process *p, lm_buf *out); /* appends what of it fits */
/* The last line of the log that says something, for error texts. */
void process_last_words(doctor_process *p, char out[256]);
lm_status process_say(doctor_process *p, lm_str bytes, lm_err *err) LM_CHECKED;
/* One line without its end. LM_TIMEOUT, LM_CANCELLED (a signal came), LM_IO: the process ended. */
lm_status process_hear(doctor_process *p, uint32_t timeout_s, doctor_report *ticking, lm_buf *line,
                       lm_err *err) LM_CHECKED;
/* SIGTERM, after grace_s SIGKILL; the exit status, or 128 + the signal that ended it. Frees p; NULL gives 0.
 */
int process_stop(doctor_process *p, uint32_t grace_s);
/* Runs a program to its end: what it wrote on stdout is appended to out, its exit status as of process_stop,
 * and the last line of its stderr. LM_NOT_FOUND: there is none. LM_TIMEOUT: it was killed. LM_TOO_LARGE: it
 * says more than out takes, and was killed. LM_CANCELLED: a signal came. */
lm_status process_run(char *const argv[], uint32_t timeout_s, doctor_report *ticking, lm_buf *out,
                      int *status, char words[256], lm_err *err) LM_CHECKED;
/* SIGINT and SIGTERM are passed on to what was started and noted here. */
void process_watch_signals(void);
bool process_interrupted(void);

/* ---- the machine and other processes: machine.c */

/* "Apple M2, 8 cores, 16 GB" */
void machine_name(char out[256]);

uint64_t machine_memory(void); /* bytes; 0: not known */
/* Bytes that a user without privileges may write below path, which need not exist yet; false: not known. */
bool disk_free(const char *path, uint64_t *bytes);
/* The file name of a process's program; false when the system does not say. */
bool process_name(int pid, char out[64]);
/* Resident bytes of a process and all below it; 0 when the system does not say. */
uint64_t memory_of_tree(int pid);
/* The process that listens on this port of this machine; 0 when the system does not say. */
int process_on_port(uint16_t port);

/* ---- the programs beside this one: bridge.c */

/* In the directory of this program, whether it can be executed or not, else by PATH. NULL: nowhere. The caller
 * frees. */
char *program_find(const char *name);
/* mlx-ollama-bridge, found so; its bare name when it is nowhere. The caller frees. */
char *bridge_program(void);
/* `mlx-ollama-bridge list --json` of a bridge with the configuration's arguments: {"store", "models": [{"name",
 * "digest", "size", "modified_at", "place", "needs_import", "memory": {"weights", "kv", "scratch", "context", "parallel"} or
 * absent}]}, the caller's to json_decref. LM_NOT_FOUND,
 * LM_TIMEOUT, LM_CANCELLED; LM_IO: it failed, the text has its last words. LM_CORRUPT. */
lm_status bridge_list(const doctor_config *c, doctor_report *ticking, json_t **out, lm_err *err) LM_CHECKED;
/* Any other question whose answer is JSON: the arguments of the configuration, then words, ended by NULL. */
lm_status bridge_json(const doctor_config *c, doctor_report *ticking, char *const words[], json_t **out,
                      lm_err *err) LM_CHECKED;
/* Started with --host 127.0.0.1 --port 0 and the arguments of the configuration; url is where it listens. */
lm_status bridge_start(const doctor_config *c, doctor_report *ticking, doctor_process **out, char url[512],
                       lm_err *err) LM_CHECKED;

/* ---- the three things it does: check.c, conform.c, bench.c. They return what the program's exit shall say. */

int doctor_check(const doctor_config *c);
int doctor_conform(const doctor_config *c);
int doctor_bench(const doctor_config *c);

#endif
