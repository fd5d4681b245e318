/* safetensors.h - the header of one safetensors file (private to this room).
 *
 * File: u64 header length (little endian), the header (one JSON object: name -> {dtype, shape, data_offsets},
 * and
 * "__metadata__"), then the data that data_offsets count from.
 */
#ifndef LM_WEIGHTS_SAFETENSORS_H
#define LM_WEIGHTS_SAFETENSORS_H

#include "base/file.h"
#include "weights/weights.h"

/* The format allows 100 MB; the largest real headers stay below 10. The parsed tree is some 30 times as
 * large. */
#define LM_SAFETENSORS_HEADER_MAX (25u << 20)

typedef struct lm_tensor_entry {
    char *name; /* owned */
    lm_view view;
    uint32_t file; /* index of the file, filled by the caller */
} lm_tensor_entry;

/* Checks the whole header of the mapped file and appends one entry per tensor, in the order of their data.
 * path is for messages. *entries is grown by realloc; the caller frees the names and the array, also on
 * failure. */
lm_status lm_safetensors_entries(const lm_map *map, const char *path, lm_tensor_entry **entries, uint32_t *n,
                                 lm_err *err) LM_CHECKED;

/* The type that safetensors calls `name`; false when this version doesn't know it. */
bool lm_dtype_parse(const char *name, lm_dtype *out);

#endif
