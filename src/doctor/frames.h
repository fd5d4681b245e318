/* frames.h - an answer in pieces: NDJSON and server-sent events. Private to the room. The bytes are a server's. */
#ifndef LM_DOCTOR_FRAMES_H
#define LM_DOCTOR_FRAMES_H

#include <jansson.h>

#include "base/base.h"

/* The values of an NDJSON body, as an array; what follows a fault is left out. wrong says what is wrong with the framing ("line 3 is
 * no JSON"), empty: nothing. The caller's to json_decref. */
json_t *frames_of_lines(lm_str body, char wrong[200]);

/* The same of server-sent events: [{"event": NAME, "data": VALUE}], event only where it was named, data as JSON, or a text if it is
 * none. Comments are passed over. */
json_t *frames_of_events(lm_str body, char wrong[200]);

#endif
