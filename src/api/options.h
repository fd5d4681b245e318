/* options.h - the parts of Ollama's requests that have rules of their own: options, keep_alive, think,
 * format. */
#ifndef LM_API_OPTIONS_H
#define LM_API_OPTIONS_H

#include "base/json.h"
#include "engine/engine.h"

/* The "options" object into request->options and request->stops. Unknown keys are ignored, null is absent.
 * LM_INTERNAL with Ollama's text for a wrong type: it answers 500 there. LM_INVALID: a stop string with a
 * NUL. */
lm_status lm_options_read(const json_t *options, lm_request *request, lm_err *err) LM_CHECKED;

/* What the makers of the model say, under Ollama's names, over what is in o. */
void lm_options_suggest(const lm_text_sampling *makers, lm_options *o);

/* A number of seconds, or Go's duration text. Negative: for ever (-1). LM_INVALID with Go's text. */
lm_status lm_keep_alive_read(const json_t *value, int64_t *ns, lm_err *err) LM_CHECKED;

/* true, false, or a level; sets request->thinking and think_level. LM_INVALID: "invalid think value: ...". */
lm_status lm_think_read(const json_t *value, lm_request *request, lm_err *err) LM_CHECKED;

/* "json", a schema, or "" for none; sets request->constrained and schema. LM_INVALID: "invalid format: ...".
 */
lm_status lm_format_read(const json_t *value, lm_request *request, lm_err *err) LM_CHECKED;

#endif
