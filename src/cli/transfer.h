/* transfer.h - what a server tells while it pulls, pushes or makes a model: shown, or handed on with --json. Private to the
 * room. */
#ifndef LM_CLI_TRANSFER_H
#define LM_CLI_TRANSFER_H

#include "cli/progress.h"
#include "cli/wire.h"

typedef struct transfer {
    progress shown;
    wire *w;
    bool json;
    bool success; /* the last event said so */
} transfer;

/* From here on until it is closed, requests of w show what the transfer is at. */
void transfer_open(transfer *t, wire *w, bool json);
bool transfer_event(void *ctx, const json_t *event); /* as a wire_event; events of our own, too */
/* POST to /api/VERB, and all its events. LM_IO: it ended without success. */
lm_status transfer_run(transfer *t, const char *verb, const json_t *body, lm_err *err) LM_CHECKED;
void transfer_close(transfer *t);

/* Says why a transfer failed that had to fetch the model `name` (NULL: none); returns the exit status. */
int transfer_refused(const cli_args *a, wire *w, lm_status st, const lm_err *err, const char *name);

#endif
