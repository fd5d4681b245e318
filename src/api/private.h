/* private.h - what the files of this room share: one call, and the answers every format needs. */
#ifndef LM_API_PRIVATE_H
#define LM_API_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/api.h"
#include "api/facts.h"
#include "base/json.h"
#include "http/guard.h"

#define MAX_ANSWER  (256u << 20) /* bytes of one answer that is sent as a whole */
#define TYPE_JSON   "application/json; charset=utf-8"
#define TYPE_NDJSON "application/x-ndjson"
#define TYPE_TEXT   "text/plain"                /* of the router's own answers, as gin's */
#define TYPE_UTF8   "text/plain; charset=utf-8" /* of handlers */

struct lm_api {
    lm_api_config config;
    lm_facts_cache *facts;
    lm_guard *guard;
    atomic_bool refusing; /* the server is on its way out */

    pthread_mutex_t lock; /* guards the rest */
    lm_call *calls;       /* all that are not freed yet */
    uint32_t n_tasks;     /* threads of lm_call_detach */
    pthread_cond_t idle;  /* n_tasks is 0 */
};

/* A request that is answered several times has several jobs. */
typedef struct lm_call_job {
    lm_job *job;
    struct lm_call_job *next;
} lm_call_job;

/* References: the handler's, the exchange's (until it is over), the sink's (until its last event). */
struct lm_call {
    lm_api *api;
    lm_http *x;
    lm_call *prev, *next; /* in api->calls */
    pthread_mutex_t lock; /* guards the rest */
    uint32_t refs;
    lm_call_job *jobs; /* grows at the front, freed with the call */
    bool gone;         /* the client has left: a job that starts after this is cancelled at once */
    char *model;
    char *error;
    uint32_t n_prompt, n_eval;
    uint64_t first_ns, eval_ns;
    /* of lm_call_ready; by the thread that answers alone */
    bool imported;
    lm_status import;
    lm_err import_error;
};

lm_call *lm_call_ref(lm_call *call);
void lm_call_unref(lm_call *call);
void lm_call_note_model(lm_call *call, const char *model);
void lm_call_note_metrics(lm_call *call, const lm_metrics *m);
void lm_call_note_error(lm_call *call, lm_str text);
/* Hands a request to the engine so that a client who leaves cancels it. Several are allowed. On failure
 * nothing has been answered.
 */
lm_status lm_call_submit(lm_call *call, const lm_entry *model, lm_request *request, lm_sink *sink, void *ctx,
                         lm_err *err) LM_CHECKED;
void lm_call_cancel(lm_call *call); /* all of its jobs */
bool lm_call_gone(lm_call *call);   /* nobody waits for the answer: the client has left, or the server ends */
/* Runs work on a thread of its own, for what reads a body as it comes or works for long: the server's few
 * workers are for short work. work owns arg and answers the call. LM_BUSY: as many as there may be run
 * already; arg is still the caller's then. */
lm_status lm_call_detach(lm_call *call, void (*work)(lm_call *call, void *arg), void *arg,
                         lm_err *err) LM_CHECKED;

/* Before a model is used. *later: it has to be imported first, on a thread of its own, which then calls `again` from
 * the beginning: the caller answers nothing, and leaves the body where it is. Any other failure is the answer. */
lm_status lm_call_ready(lm_call *call, const lm_entry *model, lm_api_handler *again, bool *later,
                        lm_err *err) LM_CHECKED;

void lm_reply_text(lm_call *call, int status, const char *text);
void lm_reply_json(lm_call *call, int status, const lm_buf *json); /* a failed buffer becomes an error */
void lm_reply_empty(lm_call *call, int status);

lm_api_handler lm_openapi;

#endif
