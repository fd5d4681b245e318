/* check.c - the list of the checks of a server, and the whole run: the installation, then what is live. */
#include "doctor/check.h"
#include "doctor/install.h"

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
    {"tools", "POST /api/chat with a tool", WITH_MODEL, check_tools},
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

/* ---- the whole */

/* The first of the places where a server of ours may be expected that answers as Ollama; false: none does. */
static bool find_running(doctor *d, const installation *i) {
    char urls[N_PORTS][512];
    install_urls(i, urls);
    report_begin(&d->report, "is there a server");
    for (int k = 0; k < N_PORTS && !d->reachable; k++) {
        doctor_result ignored;
        strcpy(d->url, urls[k]);
        check_reachable(d, &ignored);
    }
    report_quiet(&d->report);
    return d->reachable;
}

static void check_live(doctor *d, const installation *i) {
    const doctor_config *c = d->config;
    doctor_process *bridge = NULL;
    bool own = c->start || (!c->url_given && !find_running(d, i));
    if (process_interrupted() || (own && !start_bridge(d, &bridge))) return;
    d->reachable = false;
    for (size_t k = 0; k < sizeof checks / sizeof *checks && !process_interrupted(); k++) run(d, &checks[k]);
    if (bridge) stop_bridge(d, bridge);
}

int doctor_check(const doctor_config *c) {
    doctor d = {.config = c};
    lm_client *client = NULL;
    lm_err err = {0};
    if (lm_client_open(&client, &err) != LM_OK) {
        fprintf(stderr, "test-mlx-integration: %s\n", err.text);
        return EXIT_BROKEN;
    }
    report_open(&d.report, c);
    snprintf(d.model, sizeof d.model, "%s", c->model ? c->model : "");
    d.wire = (wire){client, d.url, c->timeout_s, 0, &d.report};
    d.brief = d.wire;
    if (d.brief.timeout_s > BRIEF_S) d.brief.timeout_s = BRIEF_S;
    d.brief.total_s = 3 * d.brief.timeout_s; /* also of one that sends a byte now and then */

    installation i = {.config = c, .report = &d.report, .client = client};
    if (!c->start && !c->url_given) install_check(&i);
    if (!c->installation) {
        strcpy(d.url, c->url);
        check_live(&d, &i);
    }
    report_close(&d.report, d.url);
    install_release(&i);
    lm_client_close(client);
    return process_interrupted() ? EXIT_INTERRUPTED : report_exit(&d.report);
}
