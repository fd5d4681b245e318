/* check.h - the checks of a server, in two files by what they ask. Private to the room.
 *
 * A check fills r, whatever happens. Those that need a model are not called when there is none. */
#ifndef LM_DOCTOR_CHECK_H
#define LM_DOCTOR_CHECK_H

#include "doctor/wire.h"

typedef struct doctor {
    const doctor_config *config;
    doctor_report report;
    wire wire;  /* with the patience for a model's answer */
    wire brief; /* for what no model has to think about */
    char url[512];
    char model[512]; /* empty: none to be had */
    bool reachable;
    bool ours;  /* /health says that it is mlx-ollama-bridge */
    bool tools; /* /api/show says that the model calls tools */
} doctor;

/* ---- the server: check_server.c */
void check_reachable(doctor *d, doctor_result *r);
void check_health(doctor *d, doctor_result *r);
/* What /health says, whatever its status; NULL: nothing that is JSON. Our bridge has "backend" there, our router "backends". The
 * caller's to json_decref. */
json_t *check_ask_health(const wire *w, doctor_result *r);
void check_head(doctor *d, doctor_result *r);
void check_version(doctor *d, doctor_result *r);
void check_models(doctor *d, doctor_result *r); /* chooses the model */
void check_show(doctor *d, doctor_result *r);
void check_unknown(doctor *d, doctor_result *r);

/* ---- its answers: check_answers.c */
void check_generate(doctor *d, doctor_result *r);
void check_stream(doctor *d, doctor_result *r);
void check_chat(doctor *d, doctor_result *r);
void check_tools(doctor *d, doctor_result *r);
void check_embed(doctor *d, doctor_result *r);
void check_openai(doctor *d, doctor_result *r);
void check_leaving(doctor *d, doctor_result *r);
void check_unload(doctor *d, doctor_result *r);

#endif
