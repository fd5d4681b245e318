/* shape.h - what a JSON value must look like, written as JSON. Private to the room.
 *
 * A text in <> stands for a kind of value, everything else for itself:
 *
 *     "<str>" "<text>" (not empty) "<int>" (0 and more) "<count>" (1 and more) "<ns>" (a duration: an integer above 0)
 *     "<num>" "<bool>" "<any>" "<object>" "<array>"
 *     "<time>" as RFC 3339 has it, "<utc>" one that ends with Z, "<digest>" 64 hex digits, "<tagged>" a name with a tag
 *     "<of stop length>" one of these texts, "<begins chatcmpl->" a text that begins so, "<has x>" one that has this in it
 *     {"<json>": SHAPE}  a text that is JSON of this shape
 *
 * A '?' before the '>' ("<str?>"): the key may be absent. An object has its keys in this order and no others, unless it has
 * the key "..." (others too, in any order) or "<any order>" (no others). An array of one shape is of values of this shape, one at least; with "..." behind it
 * it may be empty; otherwise it is of exactly these values.
 */
#ifndef LM_DOCTOR_SHAPE_H
#define LM_DOCTOR_SHAPE_H

#include <jansson.h>

#include "base/base.h"

/* One difference: where ("json.models[0].digest"), what should be there, what is. Texts live for the call. */
typedef void shape_differs(void *ctx, const char *where, const char *expected, const char *got);

/* How many differences; each is told. Of an array only those of the first value that differs. value NULL: it is absent. */
uint32_t shape_compare(const json_t *shape, const json_t *value, const char *where, shape_differs *differs,
                       void *ctx);

/* Whether a shape is written as above says; out is where it is not. */
bool shape_is_valid(const json_t *shape, char out[200]);

/* A copy in which each text "$name" is the value of that name, and each "$name" within a text its text. Names are of
 * small letters and '_'. NULL: a name is unknown, out has it. */
json_t *shape_fill(const json_t *template, const json_t *values, char out[64]);

#endif
