/* init.h - the machine's own init system: launchd or systemd, where the service is installed there. */
#ifndef LM_SERVICE_INIT_H
#define LM_SERVICE_INIT_H

#include "service/service.h"

typedef struct service_init {
    enum { INIT_SYSTEMD, INIT_LAUNCHD } kind;
    bool system;       /* for the machine, not for this user */
    char label[100];   /* "systemd user service", for people */
    char path[1100];   /* of the unit */
    char socket[1100]; /* of the socket's unit; empty: none */
} service_init;

/* Where the unit of this user (or, with o->system, of the machine) lies, whether it is there or not. */
lm_status service_init_where(const service_options *o, service_init *out, lm_err *err) LM_CHECKED;
/* It is installed there. */
bool service_init_find(const service_options *o, service_init *out);
/* "start" or "stop". LM_IO with the tool's own words. */
lm_status service_init_do(const service_init *i, const char *verb, lm_err *err) LM_CHECKED;

/* ---- owner.c: whom the machine's service runs as */

/* --user, else whom the installed unit names, else who has called sudo. False: nobody. */
bool service_owner_name(const service_options *o, char out[256]);
/* With o->system, and before the configuration is read: its home is that user's, and root is that user until service_owner_leave.
 * Without anybody to become: nothing. LM_DENIED: it is somebody else's, and we are not root (with `installs` that is for the
 * command to say). */
lm_status service_owner_take(const service_options *o, bool installs, lm_err *err) LM_CHECKED;
void service_owner_leave(void);
void service_owner_again(void);

int service_install(service_config *c, const service_options *o);
int service_uninstall(service_config *c, const service_options *o);
int service_diff(service_config *c, const service_options *o);

/* ---- units.c: the same on every machine, so that each can be looked at anywhere */

typedef struct service_unit_facts {
    const char *program; /* this one */
    const char *config;  /* the file, NULL: the user's own */
    const char *user;    /* of a system service */
    const char *home;    /* of whom it runs as */
    bool system, socket; /* socket: the init system opens it */
} service_unit_facts;
void service_unit_launchd(const service_config *c, const service_unit_facts *f, lm_buf *out);
void service_unit_systemd(const service_config *c, const service_unit_facts *f, lm_buf *out);
void service_unit_socket(const service_config *c, const service_unit_facts *f, lm_buf *out);

#endif
