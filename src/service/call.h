/* call.h - the init systems' tools, for init.c and install.c. */
#ifndef LM_SERVICE_CALL_H
#define LM_SERVICE_CALL_H

#include "service/init.h"

#define SERVICE_LABEL "com.mlx.ollama.bridge" /* of launchd */
#define SERVICE_UNIT  "mlx-ollama-bridge"     /* of systemd */

/* Runs a program to its end. What it says is appended to said (NULL allowed), or is the error's text. LM_NOT_FOUND: there is no
 * such program; LM_IO: it failed. */
lm_status service_call(char *const argv[], lm_buf *said, lm_err *err) LM_CHECKED;
/* systemctl [--user] verb [more] [what] */
lm_status service_systemctl(bool system, const char *verb, const char *what, const char *more,
                            lm_err *err) LM_CHECKED;
lm_status service_launchctl(const char *verb, const char *a, const char *b, lm_err *err) LM_CHECKED;
lm_status service_launchd_bootstrap(const service_init *i, lm_err *err) LM_CHECKED;
lm_status service_launchd_bootout(const service_init *i, lm_err *err) LM_CHECKED;

#endif
