/* fields.h - reading a request's JSON as Go's decoder does: field names without regard to case, absent and
 * null alike, unknown fields ignored, a wrong type refused in Go's words.
 *
 * A reader remembers its first failure; later reads then do nothing. Check `st` once at the end. */
#ifndef LM_API_FIELDS_H
#define LM_API_FIELDS_H

#include "base/json.h"

typedef struct lm_fields {
    const json_t *object;
    const char *type; /* Go's name of the outermost struct, for texts: "ChatRequest" */
    const char *path; /* from there to the object: "messages.tool_calls." */
    lm_status st;
    lm_err err;
} lm_fields;

lm_fields lm_fields_of(const json_t *object, const char *type);
lm_fields lm_fields_in(const json_t *object, const char *type, const char *path);

json_t *lm_field(const json_t *object, const char *name); /* borrowed; NULL when absent or null */

void lm_field_bool(lm_fields *f, const char *name, bool *out);
void lm_field_int(lm_fields *f, const char *name, int64_t *out);
void lm_field_float(lm_fields *f, const char *name, double *out);
/* Borrowed from the object. May hold NUL characters: *len (NULL allowed) is its length; without len a NUL is
 * refused. */
void lm_field_str(lm_fields *f, const char *name, const char **out, size_t *len);
json_t *lm_field_array(lm_fields *f, const char *name, const char *go_type);  /* borrowed, or NULL */
json_t *lm_field_object(lm_fields *f, const char *name, const char *go_type); /* borrowed, or NULL */
/* A failure of the caller's own; the first one counts. */
void lm_fields_fail(lm_fields *f, lm_status st, const char *format, ...) LM_PRINTF(3, 4);
void lm_fields_adopt(lm_fields *f, const lm_fields *inner); /* of an object within, after it has been read */
void lm_field_wrong(lm_fields *f, const char *name, const json_t *value, const char *go_type);

/* Body of a request to an object. What is no character in its strings becomes U+FFFD. 400 texts: "missing
 * request body", Go's "invalid character ..." replaced by ours. */
lm_status lm_fields_parse(lm_str body, const char *type, json_t **out, lm_err *err) LM_CHECKED;

#endif
