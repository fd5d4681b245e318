/* parameter.h - Ollama's parameters (num_ctx, stop ...), read from words that somebody typed. Private to the room. */
#ifndef LM_CLI_PARAMETER_H
#define LM_CLI_PARAMETER_H

#include <jansson.h>

#include "base/base.h"

/* The value that Ollama's client would send: an integer, a real that is a float's (a whole one as an integer), a boolean, or an
 * array of n strings (stop). The others take one word. LM_INVALID says what would do. The caller json_decref()s. */
lm_status parameter_read(const char *name, const char *const *words, uint32_t n, json_t **out,
                         lm_err *err) LM_CHECKED;
/* Ollama knew it once and leaves it out today. */
bool parameter_is_old(const char *name);

#endif
