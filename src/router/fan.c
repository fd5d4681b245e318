/* fan.c - everything but fan_start runs on the pump's thread, so nothing is locked. */
#include "router/fan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fan fan;

typedef struct branch {
    fan *fan;
    lm_flow *flow;
    bool ended;
    char url[1200];
    fan_answer answer;
} branch;

struct fan {
    call *call;
    fan_ask ask;
    lm_buf path, body;
    branch branches[LM_ROUTER_MAX_BACKENDS];
    uint32_t n_running;
    bool told;
    uint32_t refs; /* the time limit's, and one until all branches have ended */
    void (*done)(call *c, fan_answer *answers, void *ctx);
    void *ctx;
};

static void unref(fan *f) {
    if (--f->refs) return;
    for (uint32_t i = 0; i < LM_ROUTER_MAX_BACKENDS; i++) {
        lm_flow_unref(f->branches[i].flow);
        lm_buf_release(&f->branches[i].answer.body);
    }
    lm_buf_release(&f->path);
    lm_buf_release(&f->body);
    free(f);
}

static void finish(fan *f) {
    if (f->n_running || f->told) return;
    f->told = true;
    fan_answer answers[LM_ROUTER_MAX_BACKENDS];
    for (uint32_t i = 0; i < LM_ROUTER_MAX_BACKENDS; i++) answers[i] = f->branches[i].answer;
    f->done(f->call, answers, f->ctx);
    unref(f);
}

static bool on_head(void *ctx, const lm_answer *a) {
    branch *b = ctx;
    b->answer.status = a->status;
    return true;
}

static bool on_body(void *ctx, lm_str piece) {
    branch *b = ctx;
    lm_buf_str(&b->answer.body, piece);
    if (b->answer.body.failed && b->flow) lm_flow_cancel(b->flow);
    return true;
}

static void on_end(void *ctx, lm_status st, const char *text) {
    branch *b = ctx;
    b->ended = true;
    b->answer.whole = st == LM_OK && !b->answer.body.failed;
    if (!b->answer.whole)
        snprintf(b->answer.error, sizeof b->answer.error, "%s",
                 b->answer.body.failed ? "its answer is too large"
                 : st == LM_CANCELLED  ? "it did not answer in time"
                                       : text);
    b->fan->n_running--;
    finish(b->fan);
}

static void on_limit(void *ctx) {
    fan *f = ctx;
    for (uint32_t i = 0; i < LM_ROUTER_MAX_BACKENDS; i++)
        if (f->branches[i].flow && !f->branches[i].ended) lm_flow_cancel(f->branches[i].flow);
    unref(f);
}

static void begin(void *ctx) {
    fan *f = ctx;
    call *c = f->call;
    const lm_router_config *config = backends_config(c->gen->backends);
    f->n_running = 1; /* ours, until all have begun */
    for (uint32_t i = 0; i < config->n_backends; i++) {
        branch *b = &f->branches[i];
        if (!(f->ask.backends & 1u << i) ||
            !target_url(&config->backends[i], lm_buf_view(&f->path), b->url, sizeof b->url))
            continue;
        b->fan = f;
        b->answer.asked = true;
        lm_buf_init(&b->answer.body, f->ask.max_body);
        target_headers(c, &config->backends[i], true); /* copied by the pump */
        lm_flow_ask ask = {.method = f->ask.method,
                           .url = b->url,
                           .headers = c->headers,
                           .body = f->body.len ? lm_buf_view(&f->body) : (lm_str){0},
                           .connect_ms = config->connect_ms,
                           .first_ms = f->ask.limit_ms,
                           .silent_ms = f->ask.limit_ms,
                           .on_head = on_head,
                           .on_body = on_body,
                           .on_end = on_end,
                           .ctx = b};
        f->n_running++;
        b->flow = lm_pump_start(c->router->pump, &ask);
    }
    lm_pump_later(c->router->pump, f->ask.limit_ms, on_limit, f);
    f->n_running--;
    finish(f);
}

void fan_start(call *c, const fan_ask *ask, void (*done)(call *c, fan_answer *answers, void *ctx),
               void *ctx) {
    fan *f = lm_alloc(sizeof *f);
    *f = (fan){.call = c, .ask = *ask, .refs = 2, .done = done, .ctx = ctx};
    lm_buf_init(&f->path, 4096);
    lm_buf_init(&f->body, SIZE_MAX / 2);
    lm_buf_str(&f->path, ask->path);
    lm_buf_str(&f->body, ask->body);
    lm_pump_later(c->router->pump, 0, begin, f);
}
