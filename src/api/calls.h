/* calls.h - a tool call that the client insists on, kept by the grammar.
 *
 * The answer has to be {"name": ..., "arguments": {...}} of one of the tools, the form in which most families
 * write their calls. Where a model has another one the parser leaves the object as text, and it is found
 * there. */
#ifndef LM_API_CALLS_H
#define LM_API_CALLS_H

#include "engine/engine.h"

/* Makes r's answer a call of one of r->tools ({"function":{"name", "parameters"}}), or of the one that is
 * named only; what else the answer should have been is forgotten. LM_INVALID: there is no such tool. */
lm_status lm_force_call(lm_request *r, const char *only, lm_err *err) LM_CHECKED;

/* Whether the whole answer is such a call; name and arguments are new then, for free(). */
bool lm_forced_call(lm_str answer, char **name, char **arguments);

#endif
