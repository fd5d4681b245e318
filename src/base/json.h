/* json.h - jansson with typed, checked reading and the writing that the wire formats need.
 *
 * Reading: a reader that fails says where ("options.num_ctx must be an integer"). Absent and null are the same.
 * Writing: lm_json_write_* append to an lm_buf, for lines that are written once a token (no tree, no allocation).
 */
#ifndef LM_JSON_H
#define LM_JSON_H

#include <jansson.h>

#include "base/base.h"

#define LM_JSON_DEPTH 512 /* jansson is built with a parser limit of 2048; deeper input than this is refused */

/* Parses one document (any value). LM_INVALID with line and column; the caller json_decref()s. */
lm_status lm_json_parse(lm_str text, json_t **out, lm_err *err) LM_CHECKED;
/* Reads and parses a file of at most max_bytes. LM_NOT_FOUND, LM_TOO_LARGE, LM_CORRUPT (bad JSON), LM_IO. */
lm_status lm_json_load(const char *path, size_t max_bytes, json_t **out, lm_err *err) LM_CHECKED;

/* Members with a default; a value of another type gives LM_INVALID naming the key. *out is untouched when absent. */
lm_status lm_json_get_bool(const json_t *object, const char *key, bool *out, lm_err *err) LM_CHECKED;
lm_status lm_json_get_int(const json_t *object, const char *key, int64_t *out, lm_err *err) LM_CHECKED;     /* 3.0 is 3 */
lm_status lm_json_get_u32(const json_t *object, const char *key, uint32_t *out, lm_err *err) LM_CHECKED;    /* range-checked */
lm_status lm_json_get_float(const json_t *object, const char *key, float *out, lm_err *err) LM_CHECKED;     /* finite */
lm_status lm_json_get_str(const json_t *object, const char *key, const char **out, lm_err *err) LM_CHECKED; /* borrowed from object */

void lm_json_write_string(lm_buf *b, lm_str s); /* with quotes; invalid UTF-8 becomes U+FFFD */
void lm_json_write_double(lm_buf *b, double v); /* shortest form that reads back the same; NaN and infinities become null */
void lm_json_write_float(lm_buf *b, float v); /* the same for a float: short, and quick where there are many */
/* Compact, key order kept; a number in its shortest form: 1.0 is 1. */
void lm_json_write_value(lm_buf *b, const json_t *value);
/* The same, but what was read as a real is read as one again: 1.0 stays 1.0. For what somebody else said and a third one reads. */
void lm_json_write_same(lm_buf *b, const json_t *value);

#endif
