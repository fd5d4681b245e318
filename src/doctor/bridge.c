/* bridge.c - the programs beside this one; a bridge of our own: started on a port that the system chooses,
 * which its log then names. */
#include "doctor/doctor.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

#define NAME     "mlx-ollama-bridge"
#define MAX_ARGS 64
#define UP_S     60 /* opening looks at every model directory of the disk */

/* ---- programs */

static char *beside(const char *name) {
    char path[PATH_MAX];
    if (!lm_program_path(path)) return NULL;
    char *slash = strrchr(path, '/');
    if (slash) *slash = '\0';
    char *file = lm_path_join(path, name);
    if (lm_path_is_file(file)) return file;
    free(file);
    return NULL;
}

char *program_find(const char *name) {
    char *file = beside(name);
    const char *path = getenv("PATH");
    while (!file && path && *path) {
        size_t n = strcspn(path, ":");
        char *dir = lm_str_dup((lm_str){path, n});
        file = lm_path_join(n ? dir : ".", name);
        free(dir);
        if (!lm_path_is_file(file) || access(file, X_OK)) {
            free(file);
            file = NULL;
        }
        path += n + (path[n] == ':');
    }
    return file;
}

char *bridge_program(void) {
    char *file = program_find(NAME);
    return file ? file : lm_strdup(NAME);
}

/* ---- questions that it answers with JSON */

static size_t count(char *const words[]) {
    size_t n = 0;
    while (words && words[n]) n++;
    return n;
}

static size_t append(char *argv[], size_t n, char *const words[]) {
    for (size_t i = 0; words && words[i]; i++) argv[n++] = words[i];
    return n;
}

lm_status bridge_json(const doctor_config *c, doctor_report *ticking, char *const words[], json_t **out,
                      lm_err *err) {
    char *program = bridge_program(), last[256],
         env[] = "/usr/bin/env"; /* which sets variables, and is it then */
    char **argv = lm_alloc((count(c->bridge_env) + count(c->bridge_args) + count(words) + 3) * sizeof *argv);
    size_t n = 0;
    int status = 0;
    if (c->bridge_env) argv[n++] = env;
    n = append(argv, n, c->bridge_env);
    argv[n++] = program;
    n = append(argv, n, c->bridge_args);
    append(argv, n, words);
    lm_buf said;
    lm_buf_init(&said, 16u << 20);
    lm_status st = process_run(argv, c->timeout_s, ticking, &said, &status, last, err);
    if (st == LM_OK && status) st = lm_fail(err, LM_IO, "%s", last[0] ? last : "it failed without a word");
    if (st == LM_OK && lm_json_parse(lm_buf_view(&said), out, err) != LM_OK)
        st = lm_fail_in(err, LM_CORRUPT, "what %s says is no JSON", NAME);
    lm_buf_release(&said);
    free(program);
    free(argv);
    return st;
}

lm_status bridge_list(const doctor_config *c, doctor_report *ticking, json_t **out, lm_err *err) {
    json_t *o = NULL;
    lm_status st = bridge_json(c, ticking, (char *[]){"list", "--json", NULL}, &o, err);
    if (st != LM_OK) return st;
    if (!json_is_string(json_object_get(o, "store")) || !json_is_array(json_object_get(o, "models"))) {
        json_decref(o);
        return lm_fail(err, LM_CORRUPT, "this is not the list of a " NAME " of this version");
    }
    *out = o;
    return LM_OK;
}

/* ---- one of our own */

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
