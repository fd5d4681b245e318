/* install.c - the list of the checks of an installation, and their run. */
#include "doctor/install.h"

#include <stdlib.h>

const char *const program_names[N_PROGRAMS] = {"mlx-ollama-bridge", "ollama-to-mlx-router",
                                               "mlx-server-startup", "test-mlx-integration"};

typedef struct check {
    const char *id, *title;
    int needs; /* a program; N_PROGRAMS: none */
    void (*run)(installation *i, doctor_result *r);
} check;

static const check checks[] = {
    {"programs", "the four programs", N_PROGRAMS, check_programs},
    {"versions", "versions of the programs", N_PROGRAMS, check_versions},
    {"libraries", "shared libraries", N_PROGRAMS, check_libraries},
    {"service-config", "service.ini", SERVICE,
     check_service_config}, /* first: it tells the bridge what to say */
    {"devices", "what there is to compute on", BRIDGE, check_devices},
    {"aliases", "models and aliases.ini", BRIDGE, check_aliases},
    {"router-config", "router.ini", ROUTER, check_router_config},
    {"directories", "directories, and whose they are", N_PROGRAMS, check_directories},
    {"logs", "log and PID files", N_PROGRAMS, check_logs},
    {"service-unit", "the installed service", SERVICE, check_service_unit},
    {"ports", "ports", N_PROGRAMS, check_ports},
    {"memory", "memory for the models", BRIDGE, check_memory},
    {"space", "space on the disk", BRIDGE, check_space},
};

uint32_t install_patience(const installation *i) {
    return i->config->timeout_s < 20 ? i->config->timeout_s : 20;
}

void install_check(installation *i) {
    i->told = *i->config;
    for (size_t k = 0; k < sizeof checks / sizeof *checks && !process_interrupted(); k++) {
        const check *c = &checks[k];
        doctor_result r = {0};
        report_begin(i->report, c->title);
        if (c->needs < N_PROGRAMS && !i->programs[c->needs])
            doctor_skipped(&r, "there is no %s to ask", program_names[c->needs]);
        else
            c->run(i, &r);
        if (!process_interrupted()) report_add(i->report, c->id, c->title, &r);
    }
}

void install_release(installation *i) {
    for (int k = 0; k < N_PROGRAMS; k++) free(i->programs[k]);
    for (size_t k = 0; i->variables && i->variables[k]; k++) free(i->variables[k]);
    free(i->variables);
    free(i->words);
    json_decref(i->devices);
    json_decref(i->models);
    json_decref(i->service);
    json_decref(i->router);
}
