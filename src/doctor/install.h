/* install.h - the checks of what is installed on this machine, in four files by what they look at. Private to the
 * room.
 *
 * A check fills r, whatever happens. Those of a program that is missing are not called. The first one
 * finds the programs, some of the later ones note what the ones behind them need. */
#ifndef LM_DOCTOR_INSTALL_H
#define LM_DOCTOR_INSTALL_H

#include "doctor/check.h"

enum { BRIDGE, ROUTER, SERVICE, DOCTOR, N_PROGRAMS };

typedef struct installation {
    const doctor_config *config;
    doctor_config
        told; /* the same, with what service.ini tells its bridge before the command line's options; else as config */
    char **words,
        **variables; /* what told has of its own, NULL: nothing; the texts of the words are in service */
    doctor_report *report;
    lm_client *client;
    char *programs[N_PROGRAMS]; /* where they are; NULL: nowhere */
    json_t *devices;            /* mlx-ollama-bridge --list-devices --json; NULL: not known */
    json_t *models;             /* mlx-ollama-bridge list --json; NULL: not known */
    json_t *service; /* mlx-server-startup config --json; NULL: not known. Asked before the bridge is */
    json_t *router;  /* ollama-to-mlx-router status --json; NULL: not known */
} installation;

extern const char *const program_names[N_PROGRAMS];

/* All checks, told to report. What was found stays in i, for install_ports and the caller; install_release frees it. */
void install_check(installation *i);
void install_release(installation *i);

/* How long a program may take that prints a few lines, in seconds: a first start from a slow disk, too. */
uint32_t install_patience(const installation *i);

/* What the service's configuration says: install_setting(i, "bridge", "port"); NULL: not known. */
const char *install_setting(const installation *i, const char *section, const char *key);

/* Where a server of ours may be expected, the clients' first: "http://127.0.0.1:11434". Each once; how many. */
enum { PORT_CLIENTS, PORT_BRIDGE, PORT_ROUTER, N_PORTS };
void install_urls(const installation *i, char urls[N_PORTS][512]);

/* ---- the programs: install_programs.c */
void check_programs(installation *i, doctor_result *r);
void check_versions(installation *i, doctor_result *r);
void check_libraries(installation *i, doctor_result *r);
void check_devices(installation *i, doctor_result *r);

/* ---- their files: install_files.c */
void check_directories(installation *i, doctor_result *r);
void check_logs(installation *i, doctor_result *r);

/* ---- their settings, and who listens: install_settings.c */
void check_aliases(installation *i, doctor_result *r);
void check_service_config(installation *i, doctor_result *r);
void check_router_config(installation *i, doctor_result *r);
void check_service_unit(installation *i, doctor_result *r);
void check_ports(installation *i, doctor_result *r);

/* ---- what the models need: install_room.c */
void check_memory(installation *i, doctor_result *r);
void check_space(installation *i, doctor_result *r);

/* A model and what it takes. */
typedef struct need {
    const char *name;
    uint64_t bytes;
    char parts[120]; /* " (2.1 weights, 0.5 keys and values of 4 x 4096 tokens, 0.1 a step)", in GB; may be empty */
} need;
/* Says which of n needs fit into so many bytes of what ("memory"). The check fails if none does, and advises if one
 * does not; n > 0. */
void judge_needs(const need *needs, size_t n, uint64_t there, const char *what, const char *remedy,
                 doctor_result *r);
/* So many bytes are free where the store lies, and n models (0 allowed) are to be imported there. */
void judge_space(const char *store, uint64_t there, const need *needs, size_t n, doctor_result *r);

#endif
