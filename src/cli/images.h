/* images.h - paths of pictures in a prompt become the pictures. Private to the room. */
#ifndef LM_CLI_IMAGES_H
#define LM_CLI_IMAGES_H

#include <jansson.h>

#include "base/base.h"

/* Finds paths (they begin with /, ./, ../ or ~/, and end in .jpg, .jpeg, .png or .webp) of files that are there, takes them
 * out of the text and reads them. Blanks in a path may be escaped, or not; the path may stand in quotes. Without any,
 * *images is NULL and *rest the text. LM_INVALID: such a file is no picture; LM_TOO_LARGE; LM_IO. The caller frees. */
lm_status images_take(const char *text, char **rest, json_t **images, lm_err *err) LM_CHECKED;

#endif
