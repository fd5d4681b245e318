/* check.c - the list of the checks, and their run. */
#include "doctor/check.h"

#include <stdio.h>
#include <string.h>

#define BRIEF_S 10
#define DRAIN_S 40 /* the bridge gives running answers 30 */

typedef struct check {
    const char *id, *title;
    enum { ALWAYS, IF_REACHABLE, WITH_MODEL } when;
    void (*run)(doctor *d, doctor_result *r);
} check;

static const check checks[] = {
    {"reachable", "the server answers", ALWAYS, check_reachable},
    {"health", "what computes", IF_REACHABLE, check_health},
    {"head", "HEAD /, the heartbeat of ollama's command line", IF_REACHABLE, check_head},
    {"version", "GET /api/version", IF_REACHABLE, check_version},
    {"models", "GET /api/tags", IF_REACHABLE, check_models},
    {"show", "POST /api/show", WITH_MODEL, check_show},
    {"unknown-model", "a model that does not exist", IF_REACHABLE, check_unknown},
    {"generate", "POST /api/generate", WITH_MODEL, check_generate},
    {"stream", "POST /api/generate, streaming", WITH_MODEL, check_stream},
    {"chat", "POST /api/chat, streaming", WITH_MODEL, check_chat},
    {"embed", "POST /api/embed", WITH_MODEL, check_embed},
    {"openai", "POST /v1/chat/completions", WITH_MODEL, check_openai},
    {"leaving", "a client that leaves in the middle", WITH_MODEL, check_leaving},
    {"unload", "keep_alive 0 unloads", WITH_MODEL, check_unload},
};

static void run(doctor *d, const check *c) {
    doctor_result r = {0};
    report_begin(&d->report, c->title);
    if (c->when != ALWAYS && !d->reachable)
        doctor_skipped(&r, "the server does not answer");
    else if (c->when == WITH_MODEL && !d->model[0])
        doctor_skipped(&r, "there is no model to ask");
    else
        c->run(d, &r);
    if (!process_interrupted()) report_add(&d->report, c->id, c->title, &r);
}

static bool start_bridge(doctor *d, doctor_process **bridge) {
    static const char title[] = "the bridge starts";
    doctor_result r = {0};
    lm_err err = {0};
    report_begin(&d->report, title);
    uint64_t began = lm_now_ns();
    lm_status st = bridge_start(d->config, &d->report, bridge, d->url, &err);
    if (st == LM_OK)
        doctor_passed(&r, "on %s, process %d, after %.2f s", d->url, process_pid(*bridge),
                      (double)(lm_now_ns() - began) / 1e9);
    else if (st == LM_NOT_FOUND)
        doctor_failed(&r, "install mlx-ollama-bridge beside this program, or build it: ./quickstart", "%s",
                      err.text);
    else
        doctor_failed(&r, "its last words say why; mlx-ollama-bridge --help has its options", "%s", err.text);
    if (!process_interrupted()) report_add(&d->report, "start", title, &r);
    return st == LM_OK;
}

static void stop_bridge(doctor *d, doctor_process *bridge) {
    static const char title[] = "the bridge stops";
    doctor_result r = {0};
    report_begin(&d->report, title);
    bool alive = process_alive(bridge);
    char words[256];
    process_last_words(bridge, words);
    int status = process_stop(bridge, DRAIN_S);
    if (!alive)
        doctor_failed(&r, "its last words say why; report it", "it had ended before (%d): %s", status, words);
    else if (status == 128 + 9)
        doctor_failed(&r, "something in it hangs: report it with the log of mlx-ollama-bridge --verbose",
                      "it had to be killed, %d s after SIGTERM", DRAIN_S);
    else if (status)
        doctor_failed(&r, "report it with the log of mlx-ollama-bridge --verbose", "it ended with status %d",
                      status);
    else
        doctor_passed(&r, "by SIGTERM, with status 0");
    if (!process_interrupted()) report_add(&d->report, "stop", title, &r);
}

int doctor_check(const doctor_config *c) {
    doctor d = {.config = c};
    doctor_process *bridge = NULL;
    lm_client *client = NULL;
    lm_err err = {0};
    if (lm_client_open(&client, &err) != LM_OK) {
        fprintf(stderr, "test-mlx-integration: %s\n", err.text);
        return EXIT_FAILED;
    }
    report_open(&d.report, c);
    strcpy(d.url, c->url);
    snprintf(d.model, sizeof d.model, "%s", c->model ? c->model : "");
    d.wire = (wire){client, d.url, c->timeout_s, 0, &d.report};
    d.brief = d.wire;
    if (d.brief.timeout_s > BRIEF_S) d.brief.timeout_s = BRIEF_S;
    d.brief.total_s = 3 * d.brief.timeout_s; /* also of one that sends a byte now and then */

    if (!c->start || start_bridge(&d, &bridge))
        for (size_t i = 0; i < sizeof checks / sizeof *checks && !process_interrupted(); i++)
            run(&d, &checks[i]);
    if (bridge) stop_bridge(&d, bridge);
    report_close(&d.report, d.url);
    lm_client_close(client);
    if (process_interrupted()) return EXIT_INTERRUPTED;
    return d.report.n_failed ? EXIT_FAILED : EXIT_PASSED;
}
