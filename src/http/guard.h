/* guard.h - who may ask, as Ollama decides it: the Host header (against DNS rebinding) and the Origin header (CORS); and what
 * is said to paths and methods that there are not.
 *
 * Every server of ours that browsers may reach asks lm_guard_pass before anything else.
 *
 * Threads: any; a guard does not change.
 */
#ifndef LM_HTTP_GUARD_H
#define LM_HTTP_GUARD_H

#include "http/http.h"

typedef struct lm_guard lm_guard;

/* origins: further ones, comma-separated, each with at most one '*', as OLLAMA_ORIGINS has them; NULL: none. host: where the
 * server listens: names of other machines are refused where that is a loopback address. LM_INVALID: names the origin. */
lm_status lm_guard_open(lm_guard **out, const char *host, const char *origins, lm_err *err) LM_CHECKED;
void lm_guard_close(lm_guard *g); /* NULL allowed */

/* true when the request may go on; false when it has been answered (403, or 204 to a preflight). */
bool lm_guard_pass(const lm_guard *g, lm_http *x);

/* As gin answers: 405 where other methods are allowed (a list for the Allow header), the way to the path without its last
 * slash where `without_slash` says that there is one, else 404. */
void lm_http_no_route(lm_http *x, const char *allowed, bool without_slash);

bool lm_host_is_loopback(const char *host); /* "127.0.0.1", "::1", "localhost" */

#endif
