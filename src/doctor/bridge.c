/* bridge.c - a bridge of our own: started on a port that the system chooses, which its log then names. */
#include "doctor/doctor.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define NAME     "mlx-ollama-bridge"
#define MAX_ARGS 64
#define UP_S     60 /* opening looks at every model directory of the disk */

char *bridge_program(void) {
    char path[PATH_MAX];
    if (lm_program_path(path)) {
        char *slash = strrchr(path, '/');
        if (slash) *slash = '\0';
        char *beside = lm_path_join(path, NAME);
        if (access(beside, X_OK) == 0) return beside;
        free(beside);
    }
    return lm_strdup(NAME);
}

/* The port in the line msg=listening ... port=N; 0: not yet. */
static unsigned listening_port(doctor_process *p) {
    lm_buf log;
    unsigned port = 0;
    lm_buf_init(&log, 1u << 20);
    lm_buf_text(&log, "");
    process_log(p, &log);
    const char *line = strstr(log.ptr, "msg=listening "), *end = line ? strchr(line, '\n') : NULL;
    const char *field = line ? strstr(line, " port=") : NULL;
    if (field && end && field < end) port = (unsigned)strtoul(field + 6, NULL, 10);
    lm_buf_release(&log);
    return port;
}

static lm_status wait_until_up(doctor_process *p, doctor_report *ticking, unsigned *port, lm_err *err) {
    uint64_t end = lm_now_ns() + UP_S * UINT64_C(1000000000);
    while (!(*port = listening_port(p))) {
        bool alive = process_alive(p);
        if (process_interrupted()) return lm_fail(err, LM_CANCELLED, "interrupted");
        if (!alive || lm_now_ns() > end) {
            char words[256];
            process_last_words(p, words);
            return lm_fail(err, LM_IO,
                           alive ? NAME " is not up after a minute: %s" : NAME " ended at once: %s", words);
        }
        report_tick(ticking);
        usleep(5000);
    }
    return LM_OK;
}

lm_status bridge_start(const doctor_config *c, doctor_report *ticking, doctor_process **out, char url[512],
                       lm_err *err) {
    char *program = bridge_program();
    char *argv[MAX_ARGS + 6] = {program, "--host", "127.0.0.1", "--port", "0"};
    size_t n = 5, given = 0;
    for (; c->bridge_args[given] && given < MAX_ARGS; given++) argv[n++] = c->bridge_args[given];
    doctor_process *p = NULL;
    unsigned port = 0;
    lm_status st = c->bridge_args[given] ? lm_fail(err, LM_INVALID, "more than %d options after --", MAX_ARGS)
                                         : process_start(&p, argv, false, err);
    if (st == LM_OK) st = wait_until_up(p, ticking, &port, err);
    free(program);
    if (st != LM_OK) {
        process_stop(p, 5);
        return st;
    }
    snprintf(url, 512, "http://127.0.0.1:%u", port);
    *out = p;
    return LM_OK;
}
