/* modelfile.h - what a Modelfile added to a model, read from the model's directory: small files beside the
 * makers' own, named as Ollama names the layers (template, system, params, messages, license). */
#ifndef LM_STORE_MODELFILE_H
#define LM_STORE_MODELFILE_H

#include <jansson.h>

#include "base/base.h"

typedef struct lm_modelfile {
    json_t *params;   /* object: option -> value, "stop" a list; NULL: none */
    json_t *messages; /* array of {role, content}; NULL: none */
    char *system;     /* NULL: none */
    char *template;   /* Go's text/template; NULL: none */
    char *requires;   /* which Ollama can run it; NULL: any */
} lm_modelfile;

/* LM_CORRUPT, LM_TOO_LARGE: names the file. *out is written on success only; the caller releases it. */
lm_status lm_modelfile_read(lm_modelfile *out, const char *dir, lm_err *err) LM_CHECKED;
void lm_modelfile_release(lm_modelfile *m); /* a zeroed one is allowed */

#endif
