/* images.h - pictures in a request, as base64. No model here sees: what is no base64 is refused as Ollama
 * refuses it, what is one counts until the model is known. */
#ifndef LM_API_IMAGES_H
#define LM_API_IMAGES_H

#include "api/fields.h"

/* LM_INVALID, in Go's words: "illegal base64 data at input byte 4". Line ends are skipped (RFC 4648 section
 * 4). */
lm_status lm_base64_check(lm_str text, lm_err *err) LM_CHECKED;
/* The member "images" of Ollama's requests and messages; true: there are some. */
bool lm_field_images(lm_fields *f);
/* Of a URL in OpenAI's requests. False: f says what is wrong with it. */
bool lm_image_url_check(lm_fields *f, const char *url);

#endif
