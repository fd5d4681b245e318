/* doctor.h - the program test-mlx-integration: is this installation sound (checks), and how fast is it
 * (bench).
 *
 * A check asks a running server one thing, as a client would, and ends in a result: passed, failed with what
 * to do about it, or skipped with the reason. The report prints results as they come (lines or TAP) or as one
 * JSON document at the end. The bench measures the bridge, a real Ollama and mlx-lm with the same prompts and
 * prints the table of the README.
 *
 * Threads: one. A signal ends running requests and the processes that the doctor has started.
 */
#ifndef LM_DOCTOR_H
#define LM_DOCTOR_H

#include <jansson.h>

#include "base/base.h"
#include "http/client.h"

/* What the program's exit says; --help repeats it. */
enum { EXIT_PASSED = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

#ifndef LM_VERSION
#define LM_VERSION "unversioned" /* CMakeLists.txt gives the project's */
#endif

/* ---- configuration: config.c */

typedef struct doctor_config {
    enum { DOCTOR_CHECK, DOCTOR_BENCH, DOCTOR_HELP, DOCTOR_VERSION } command;
    char url[512];     /* of the server, without a slash at its end */
    bool url_given;    /* by --url */
    bool start;        /* a bridge of our own, on a spare port */
    const char *model; /* NULL: the smallest that the server has */
    bool json, tap;
    uint32_t timeout_s; /* how long a server may be silent */

    char ollama_url[512]; /* http://127.0.0.1:11434 unless it was given */
    bool ollama_given;
    const char *ollama_model; /* NULL: as the bridge's */
    const char *mlx_lm;       /* a Python that has mlx_lm; NULL: python3 */
    const char *mlx_lm_model; /* a directory; NULL: the one that the bridge uses */
    uint32_t repeat;
    char **bridge_args; /* for a bridge of our own, ended by NULL */
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
} doctor_result;

void doctor_passed(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);
void doctor_skipped(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);
/* Returns false, for functions that end with it. The remedy first, the detail as printf text. */
bool doctor_failed(doctor_result *r, const char *remedy, const char *format, ...) LM_PRINTF(3, 4);
void doctor_advise(doctor_result *r, const char *format, ...) LM_PRINTF(2, 3);

typedef struct doctor_report {
    enum { REPORT_LINES, REPORT_TAP, REPORT_JSON } form;
    bool colour;   /* of lines, on stdout */
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
void report_close(doctor_report *r, const char *url); /* totals, or the JSON document */

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
/* SIGINT and SIGTERM are passed on to what was started and noted here. */
void process_watch_signals(void);
bool process_interrupted(void);

/* ---- the machine and other processes: machine.c */

/* "Apple M2, 8 cores, 16 GB" */
void machine_name(char out[256]);

/* Resident bytes of a process and all below it; 0 when the system does not say. */
uint64_t memory_of_tree(int pid);
/* The process that listens on this port of this machine; 0 when the system does not say. */
int process_on_port(uint16_t port);

/* ---- the bridge beside this program: bridge.c */

/* mlx-ollama-bridge in the directory of this program, else by PATH. The caller frees. */
char *bridge_program(void);
/* Started with --host 127.0.0.1 --port 0 and the arguments of the configuration; url is where it listens. */
lm_status bridge_start(const doctor_config *c, doctor_report *ticking, doctor_process **out, char url[512],
                       lm_err *err) LM_CHECKED;

/* ---- the two things it does: check.c, bench.c. They return what the program's exit shall say. */

int doctor_check(const doctor_config *c);
int doctor_bench(const doctor_config *c);

#endif
