/* conform.h - --conformance: what Ollama's wire is, as cases, held against any server. Private to the room.
 *
 * The cases are data: conformance.json, in this program. A case:
 *
 *     "id"
 *     "needs"   "write": it changes the store, or would of a server that takes what it should refuse; "here": the server is on this
 *               machine, and listens to it alone
 *     "after"   the ID of a case before it, without whose success it is not asked
 *     "method" (GET, POST with a body), "path", "headers", "body" (JSON) or "raw" (text)
 *     "status" (200), "type" (the Content-Type), "head" (headers)
 *     and one of
 *     "text"    the very bytes
 *     "json"    a shape (shape.h)
 *     "lines"   NDJSON: "each" and, behind them, "last", which may be "each" left out; "before": the one before the last
 *     "events"  server-sent events: "each" of their data, "last", "end" (the text of the very last), "order" (their names, repetitions
 *               left out; a ping may come anywhere), "named" {NAME: the data of all of that name}, "numbered" (a key of their data,
 *               which counts them from 0)
 *     "keep"    {NAME: KEY}: values of the answer for the cases behind it
 *
 * $names stand for what was found out about the server: $model (asked; $upper in capitals, $segment if it has no slash), $embedder,
 * and $no_tools, $no_think, $no_insert: one without, $..._full with registry and namespace; $missing; $throwaway and $made, what may be
 * made of $model; $new_blob, unless it is there already. A case with a name that has no value is skipped.
 */
#ifndef LM_DOCTOR_CONFORM_H
#define LM_DOCTOR_CONFORM_H

#include "doctor/check.h"

/* The cases; the caller's to json_decref. */
json_t *conform_cases(void);
/* Whether a case is written as above says; out is where it is not. */
bool conform_case_is_valid(const json_t *c, char out[200]);

/* conform_models.c: what $names stand for, asked of the server. Never NULL. */
json_t *conform_values(const wire *w, const char *model);

#endif
