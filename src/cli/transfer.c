/* transfer.c - pull, push, and what create shares with them. */
#include "cli/transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/say.h"
#include "cli/term.h"

void transfer_open(transfer *t, wire *w, bool json) {
    *t = (transfer){.w = w, .json = json};
    if (json) return;
    progress_open(&t->shown);
    w->idle = progress_draw;
    w->idle_ctx = &t->shown;
}

bool transfer_event(void *ctx, const json_t *event) {
    transfer *t = ctx;
    t->success = !strcmp(json_text(event, "status"), "success");
    if (!t->json) {
        progress_event(&t->shown, event);
        return true;
    }
    char *line = json_dumps(event, JSON_COMPACT);
    term_write(lm_str_of(line));
    term_write(LM_STR("\n"));
    free(line);
    return true;
}

lm_status transfer_run(transfer *t, const char *verb, const json_t *body, lm_err *err) {
    char path[32];
    snprintf(path, sizeof path, "/api/%s", verb);
    lm_status st = wire_stream(t->w, path, body, transfer_event, t, err);
    if (st == LM_OK && !t->success)
        return lm_fail(err, LM_IO, "the server ended it without saying that it is whole: %s it again", verb);
    return st;
}

void transfer_close(transfer *t) {
    t->w->idle = NULL;
    if (!t->json) progress_close(&t->shown);
}

int transfer_refused(const cli_args *a, wire *w, lm_status st, const lm_err *err, const char *name) {
    /* Registries say it in these words, in the middle of a stream. */
    bool missing = name && (strstr(err->text, "not found") || strstr(err->text, "does not exist"));
    int code = wire_exit(w, st);
    if (code > CLI_SIGNAL) return code;
    char meant[200];
    if (missing && say_meant(w, name, meant))
        return say_failed(a, CLI_NO_MODEL, "%s. Did you mean %s, which is there?", err->text, meant);
    if (missing)
        return say_failed(a, CLI_NO_MODEL, "%s. Is %s spelled as its registry has it?", err->text, name);
    return say_refused(a, w, st, err, name);
}

static lm_status move(wire *w, const char *verb, const char *name, bool insecure, bool json, lm_err *err) {
    transfer t;
    json_t *body = json_pack("{s:s}", "model", name);
    if (insecure) json_object_set_new(body, "insecure", json_true());
    transfer_open(&t, w, json);
    lm_status st = transfer_run(&t, verb, body, err);
    transfer_close(&t);
    json_decref(body);
    return st;
}

/* ---- pull */

int pull_model(const cli_args *a, wire *w, const char *name, bool insecure, bool json) {
    lm_err err = {0};
    lm_status st = move(w, "pull", name, insecure, json, &err);
    if (st == LM_OK) return CLI_OK;
    return transfer_refused(a, w, st, &err, name);
}

int command_pull(const cli_args *a) {
    wire w;
    int code = wire_reach(a, &w);
    if (code == CLI_OK) code = pull_model(a, &w, a->operand[0], cli_flag(a, "insecure"), say_as_json(a));
    wire_close(&w);
    return code;
}

/* ---- push */

/* What the server says, and what could be done about it. */
static int push_refused(const cli_args *a, wire *w, lm_status st, lm_err *err) {
    const char *name = a->operand[0];
    int code = wire_exit(w, st);
    if (code > CLI_SIGNAL || code == CLI_NO_SERVER || term_broken()) return say_refused(a, w, st, err, NULL);
    char meant[200];
    bool here = !strstr(err->text, "not found") || !say_meant(w, name, meant);
    if (!here) return say_failed(a, CLI_NO_MODEL, "%s. Did you mean %s?", err->text, meant);
    bool denied = strstr(err->text, "access denied") || strstr(err->text, "unauthorized");
    if (denied)
        return say_failed(
            a, code,
            "%s. Nothing may be pushed to this namespace with the server's key: give the model a "
            "name below one of yours (" CLI_PROGRAM " cp %s YOU/NAME) and push that",
            err->text, name);
    return say_refused(a, w, st, err, NULL);
}

int command_push(const cli_args *a) {
    wire w;
    lm_err err = {0};
    int code = wire_reach(a, &w);
    if (code == CLI_OK) {
        lm_status st = move(&w, "push", a->operand[0], cli_flag(a, "insecure"), say_as_json(a), &err);
        if (st != LM_OK) code = push_refused(a, &w, st, &err);
    }
    wire_close(&w);
    return code;
}
