/* install_settings.c - what the programs are told, each asked of the program that reads it, and who has the ports. */
#include "doctor/install.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define PORT_S 3 /* for whoever listens on a port of this machine */

static const uint16_t usual_ports[N_PORTS] = {11434, 11435, 11436};

/* ---- models and aliases.ini: the bridge */

void check_aliases(installation *i, doctor_result *r) {
    lm_err err = {0};
    const char *as = i->words ? ", as service.ini tells the bridge" : "";
    if (bridge_list(&i->told, i->report, &i->models, &err) != LM_OK) {
        doctor_failed(r,
                      i->words
                          ? "correct what it names; mlx-ollama-bridge OPTIONS list tries it again, with the "
                            "options and the environment of service.ini"
                          : "correct what it names; mlx-ollama-bridge list tries it again",
                      "%s", err.text);
        return;
    }
    size_t n = json_array_size(json_object_get(i->models, "models"));
    doctor_passed(r, "%zu models on this disk%s", n, as);
    if (!n)
        doctor_advise(r, "get one: ./quickstart, mlx-ollama-bridge pull NAME, or mlx-ollama-bridge import "
                         "FILE.gguf NAME");
}

/* ---- service.ini and router.ini */

/* A failure of a program that does not take its settings; one that does not know our words is skipped. */
static void refuse(int k, const char *word, int status, const char *text, doctor_result *r) {
    if (strstr(text, ".ini"))
        doctor_failed(r, "correct that line; the page of the program in docs/ has all settings", "%s", text);
    else
        doctor_skipped(r, "%s %s ends with status %d: %s", program_names[k], word, status,
                       text[0] ? text : "it says nothing");
}

/* Runs a program whose answer is a JSON object, whatever its status says; NULL: r says why there is none. */
static json_t *ask(installation *i, int k, char *const words[], doctor_result *r) {
    char *argv[6] = {i->programs[k]}, last[256];
    size_t n = 1;
    for (; words[n - 1] && n < 5; n++) argv[n] = words[n - 1];
    lm_buf said;
    lm_err err = {0};
    json_t *o = NULL;
    int status = 0;
    lm_buf_init(&said, 4u << 20);
    lm_status st = process_run(argv, install_patience(i), i->report, &said, &status, last, &err);
    bool object = st == LM_OK && lm_json_parse(lm_buf_view(&said), &o, NULL) == LM_OK && json_is_object(o);
    const char *error = json_string_value(json_object_get(o, "error"));
    lm_buf_release(&said);
    if (object && !error) return o;
    if (st != LM_OK)
        doctor_failed(r, "run it by hand: it hangs, or cannot be started", "%s %s: %s", program_names[k],
                      words[0], err.text);
    else if (status || error)
        refuse(k, words[0], status, error ? error : last, r);
    else
        doctor_failed(r, "install all four together: cmake --install build/release, or the package",
                      "%s %s says no JSON", program_names[k], words[0]);
    json_decref(o);
    return NULL;
}

/* Its options before those of the command line, which then have the last word. */
static void tell_words(installation *i, const json_t *words) {
    const json_t *one;
    size_t k, n = 0, n_given = 0;
    while (i->config->bridge_args[n_given]) n_given++;
    i->words = lm_alloc((json_array_size(words) + n_given + 1) * sizeof *i->words);
    json_array_foreach(words, k, one) if (json_is_string(one)) i->words[n++] =
        (char *)(uintptr_t)json_string_value(one); /* nobody writes there; it lives as long as i->service */
    memcpy(i->words + n, i->config->bridge_args, n_given * sizeof *i->words);
    i->told.bridge_args = i->words;
}

static void tell_variables(installation *i, const json_t *all) {
    const char *name;
    const json_t *value;
    size_t n = 0;
    i->variables = lm_alloc((json_object_size(all) + 1) * sizeof *i->variables);
    json_object_foreach(WIRE_MUTABLE(all), name, value) {
        lm_buf b;
        if (!json_is_string(value) || !strcmp(json_string_value(value), "(hidden)")) continue;
        lm_buf_init(&b, 1u << 20);
        lm_buf_text(&b, name);
        lm_buf_char(&b, '=');
        lm_buf_text(&b, json_string_value(value));
        i->variables[n++] = b.ptr;
    }
    i->told.bridge_env = i->variables;
}

static void tell(installation *i) {
    const json_t *settings = json_object_get(json_object_get(i->service, "settings"), "bridge"),
                 *words = json_object_get(json_object_get(settings, "options"), "words"),
                 *variables = json_object_get(i->service, "environment");
    if (!json_array_size(words) && !json_object_size(variables)) return;
    tell_words(i, words);
    tell_variables(i, variables);
}

void check_service_config(installation *i, doctor_result *r) {
    i->service = ask(i, SERVICE, (char *[]){"config", "--json", NULL}, r);
    if (!i->service) return;
    tell(i);
    doctor_passed(r, "read without a fault");
}

void check_router_config(installation *i, doctor_result *r) {
    i->router = ask(i, ROUTER, (char *[]){"status", "--json", NULL}, r);
    if (i->router) doctor_passed(r, "read without a fault");
}

/* ---- the service's unit */

void check_service_unit(installation *i, doctor_result *r) {
    if (!i->service) {
        doctor_skipped(r, "the service's settings are not known");
        return;
    }
    json_t *o = ask(i, SERVICE, (char *[]){"diff", "--json", NULL}, r);
    const char *file = json_string_value(json_object_get(o, "file"));
    if (!o) return;
    if (!file)
        doctor_failed(r, "install all four together: cmake --install build/release, or the package",
                      "mlx-server-startup diff does not say which file it means");
    else if (!json_is_true(json_object_get(o, "installed")))
        doctor_skipped(r, "it is not installed (mlx-server-startup install-service would do it): %s", file);
    else if (json_is_true(json_object_get(o, "differs")))
        doctor_failed(r, "see mlx-server-startup diff; mlx-server-startup install-service writes it anew",
                      "%s is not what this version and configuration would write", file);
    else
        doctor_passed(r, "%s is what this version and configuration would write", file);
    json_decref(o);
}

/* ---- ports */

const char *install_setting(const installation *i, const char *section, const char *key) {
    const json_t *all = json_object_get(i->service, "settings");
    return json_string_value(json_object_get(json_object_get(json_object_get(all, section), key), "value"));
}

/* "11435", or an URL; 0: neither. */
static uint16_t port_of(const char *text) {
    char host[256], address[300];
    uint16_t port = 0;
    if (!text || !text[0]) return 0;
    snprintf(address, sizeof address, "%s%.290s", strspn(text, "0123456789") == strlen(text) ? ":" : "",
             text);
    lm_address_parse(address, 0, host, &port);
    return port;
}

void install_urls(const installation *i, char urls[N_PORTS][512]) {
    uint16_t bridge = port_of(install_setting(i, "bridge", "port"));
    uint16_t router =
        port_of(json_string_value(json_object_get(json_object_get(i->router, "router"), "url")));
    snprintf(urls[PORT_CLIENTS], 512, "%s", i->config->url);
    snprintf(urls[PORT_BRIDGE], 512, "http://127.0.0.1:%u", bridge ? bridge : usual_ports[PORT_BRIDGE]);
    snprintf(urls[PORT_ROUTER], 512, "http://127.0.0.1:%u", router ? router : usual_ports[PORT_ROUTER]);
}

typedef enum listener { NOBODY, OUR_BRIDGE, OUR_ROUTER, AN_OLLAMA, A_STRANGER } listener;

static bool says(const lm_answer *a, const char *words) {
    return a->status == 200 && a->body.ptr && strstr(a->body.ptr, words);
}

/* Who answers, and in words: "mlx-ollama-bridge 0.1.0". */
static listener who_listens(const wire *w, const char *process, char out[128]) {
    doctor_result ignored;
    lm_answer a;
    lm_err err = {0};
    char url[600];
    snprintf(url, sizeof url, "%s/", w->url);
    lm_ask q = {.method = "GET",
                .url = url,
                .silent_ms = PORT_S * 1000,
                .total_ms = PORT_S * 1000,
                .connect_ms = PORT_S * 1000};
    lm_status st = lm_client_ask(w->client, &q, &a, &err);
    bool ollamas = st == LM_OK && says(&a, "Ollama is running");
    lm_answer_release(&a);
    snprintf(out, 128, "free");
    if (st == LM_NOT_FOUND) return NOBODY;
    snprintf(out, 128, "%s", process[0] ? process : "another program");
    if (!ollamas) return A_STRANGER;
    json_t *health = check_ask_health(w, &ignored);
    const char *version = json_string_value(json_object_get(health, "version"));
    bool bridge = json_object_get(health, "backend") != NULL,
         router = json_object_get(health, "backends") != NULL;
    if (bridge || router)
        snprintf(out, 128, "%s %.40s", program_names[bridge ? BRIDGE : ROUTER], version ? version : "");
    else
        snprintf(out, 128, "Ollama");
    json_decref(health);
    return bridge ? OUR_BRIDGE : router ? OUR_ROUTER : AN_OLLAMA;
}

/* One port; false: r has failed. What is found is added to list. */
static bool judge_port(installation *i, int which, const char *url, char *list, size_t room, char *advice,
                       doctor_result *r) {
    char host[256], who[128], process[64] = "", number[48] = "";
    uint16_t port = 0;
    lm_address_parse(url, 0, host, &port);
    int pid = process_on_port(port);
    if (pid) {
        (void)process_name(pid, process);
        snprintf(number, sizeof number, " (process %d)", pid);
    }
    wire w = {i->client, url, PORT_S, PORT_S, i->report};
    listener l = who_listens(&w, process, who);
    size_t at = strlen(list);
    snprintf(list + at, room - at, "%s%u %s%s", at ? ", " : "", port, who, l == NOBODY ? "" : number);
    if ((l == OUR_BRIDGE || l == OUR_ROUTER) && !strstr(who, LM_VERSION))
        snprintf(advice, 256, "%s runs on port %u, this is %s: restart it", who, port, LM_VERSION);
    static const char *const wanted[] = {"what clients of Ollama look for",
                                         "where the bridge listens behind a router",
                                         "where the router listens"};
    bool right = l == NOBODY || (which == PORT_CLIENTS  ? l != A_STRANGER
                                 : which == PORT_BRIDGE ? l == OUR_BRIDGE
                                                        : l == OUR_ROUTER);
    if (right) return true;
    char remedy[256];
    snprintf(remedy, sizeof remedy, "stop it%s, or choose another port in %s", number,
             which == PORT_ROUTER   ? "router.ini"
             : which == PORT_BRIDGE ? "service.ini, and in router.ini"
                                    : "OLLAMA_HOST");
    return doctor_failed(r, remedy, "port %u, %s, is taken by %s%s", port, wanted[which], who, number);
}

void check_ports(installation *i, doctor_result *r) {
    char urls[N_PORTS][512], list[400] = "", advice[256] = "";
    install_urls(i, urls);
    for (int k = 0; k < N_PORTS; k++) {
        uint16_t port = 0;
        bool again = !wire_is_here(urls[k], &port); /* nor anybody else's machine */
        for (int before = 0; before < k; before++) again |= !strcmp(urls[before], urls[k]);
        if (!again && !judge_port(i, k, urls[k], list, sizeof list, advice, r)) return;
    }
    doctor_passed(r, "%s", list);
    if (advice[0]) doctor_advise(r, "%s", advice);
}
