/* easy.h - what every request over libcurl has in common, whoever runs it. Private to the room.
 *
 * An easy handle is set up here with a method, an address, headers and a body in memory; who runs it adds what is
 * done with the bytes that come. */
#ifndef LM_HTTP_EASY_H
#define LM_HTTP_EASY_H

#include <curl/curl.h>

#include "http/client.h"

#define EASY_CONNECT_MS  5000
#define EASY_MAX_HEADERS (256u << 10) /* bytes of an answer's head */

/* Before anything else of libcurl's; from any thread, any number of times. */
lm_status lm_easy_library(lm_err *err) LM_CHECKED;

typedef struct easy_ask {
    const char *method;
    const char *url;            /* copied */
    const char *const *headers; /* NULL: none; copied into *list */
    lm_str body;         /* ptr NULL: none; else JSON unless headers say another Content-Type; borrowed */
    uint32_t connect_ms; /* 0: EASY_CONNECT_MS */
} easy_ask;

/* LM_INVALID: the address is none of ours. *list has to live as long as the request, and is the caller's to free, in any
 * case. */
lm_status lm_easy_prepare(CURL *e, const easy_ask *ask, struct curl_slist **list, lm_err *err) LM_CHECKED;

typedef enum easy_head { EASY_HEAD_GOES_ON, EASY_HEAD_WHOLE, EASY_HEAD_TOO_LARGE } easy_head;

/* A line of the answer's head, as CURLOPT_HEADERFUNCTION has it. libcurl itself takes a head that is cut off for a whole one:
 * who was not told EASY_HEAD_WHOLE has none. */
easy_head lm_easy_header(lm_answer *a, lm_str line);
/* Status, type, Retry-After: what curl has read of the head. */
void lm_easy_note(CURL *e, lm_answer *a);

/* What a failure means. who: "http://..." or a word for it; why: curl's own text, NULL: its general one, which names no
 * address. */
lm_status lm_easy_explain(CURLcode code, const char *who, const char *why, lm_err *err);

#endif
