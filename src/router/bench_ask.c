/* bench_ask.c - the requests of a measurement, and what the clock says.
 *
 * Time is this side's clock, from the request to each line; only the counts of tokens are the server's. Each prompt begins with a
 * number of its own, so that no cache of an earlier run makes its beginning cheap. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/lines.h"
#include "http/client.h"
#include "router/bench.h"

#define LOAD_MS   (15u * 60 * 1000)
#define ANSWER_MS (10u * 60 * 1000)
#define SILENT_MS (3u * 60 * 1000)
#define MAX_LINE  (4u << 20)

static const char text[] = "The lighthouse keeper writes a log. Monday: wind from the west, four ships, the "
                           "lamp was cleaned. Tuesday: fog until noon, "
                           "the horn ran for seven hours, no ships were seen, one was heard. Wednesday: a "
                           "calm sea, two fishing boats came near and "
                           "asked for water. Thursday: the supply boat brought oil, flour, coffee and three "
                           "letters. Friday: a storm from the north, the "
                           "glass of the lamp broke on the seaward side and was mended with a board. "
                           "Saturday: clear sight, eleven ships, the new glass was "
                           "put in. Sunday: rest, a long walk with the dog, a seal on the rocks. Write the "
                           "log of the next week, day by day, in the same "
                           "manner, with more detail for each day.";

typedef struct stream {
    uint64_t began_ns, first_ns, last_ns; /* 0: no token came */
    uint32_t prompt_tokens, tokens;
    bool done;
    char error[300];
    lm_lines lines;
    lm_err err;
} stream;

static bool take_line(void *ctx, lm_str line) {
    stream *s = ctx;
    json_t *o = NULL;
    uint64_t now = lm_now_ns();
    if (!lm_str_trim(line).len) return true;
    if (lm_json_parse(line, &o, NULL) != LM_OK) {
        snprintf(s->error, sizeof s->error, "a line of its answer is no JSON");
        return false;
    }
    const char *error = json_string_value(json_object_get(o, "error")),
               *said = json_string_value(json_object_get(o, "response")),
               *thought = json_string_value(json_object_get(o, "thinking"));
    if (error) snprintf(s->error, sizeof s->error, "%s", error);
    if ((said && said[0]) || (thought && thought[0])) {
        if (!s->first_ns) s->first_ns = now;
        s->last_ns = now;
    }
    if (json_is_true(json_object_get(o, "done"))) {
        json_int_t prompt = json_integer_value(json_object_get(o, "prompt_eval_count"));
        json_int_t tokens = json_integer_value(json_object_get(o, "eval_count"));
        s->done = true;
        s->prompt_tokens = prompt > 0 && prompt < UINT32_MAX ? (uint32_t)prompt : 0;
        s->tokens = tokens > 0 && tokens <= BENCH_TOKENS ? (uint32_t)tokens : 0;
    }
    json_decref(o);
    return !error;
}

static bool take_piece(void *ctx, lm_str piece) {
    stream *s = ctx;
    return lm_lines_add(&s->lines, piece, take_line, s, &s->err) == LM_OK;
}

static lm_status post(lm_client *c, const lm_router_backend *b, const json_t *body, uint32_t total_ms,
                      stream *s, lm_err *err) {
    char url[600], bearer[4200], words[300];
    const char *headers[] = {bearer, NULL};
    lm_buf out;
    lm_answer a = {0};
    snprintf(url, sizeof url, "%s/api/generate", b->url);
    snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", b->api_key ? b->api_key : "");
    lm_buf_init(&out, 64 << 10);
    lm_json_write_value(&out, body);
    lm_ask ask = {.method = "POST",
                  .url = url,
                  .headers = b->api_key ? headers : NULL,
                  .body = lm_buf_view(&out),
                  .silent_ms = s ? SILENT_MS : 0,
                  .total_ms = total_ms,
                  .on_body = s ? take_piece : NULL,
                  .ctx = s};
    if (s) s->began_ns = lm_now_ns();
    lm_status st = lm_client_ask(c, &ask, &a, err);
    if (s && s->error[0]) {
        st = lm_fail(err, LM_IO, "%s", s->error);
    } else if (st == LM_OK && a.status != 200) {
        lm_answer_error(&a, words, sizeof words);
        st = lm_fail(err, LM_IO, "answers %d: %s", a.status, words);
    }
    lm_answer_release(&a);
    lm_buf_release(&out);
    return st;
}

/* An empty prompt loads; keep_alive 0 unloads. */
static lm_status load(lm_client *c, const lm_router_backend *b, const char *model, bool keep, lm_err *err) {
    json_t *body = json_pack("{s:s, s:b}", "model", model, "stream", 0);
    if (!body) return lm_fail(err, LM_INVALID, "the model's name is no UTF-8 text");
    if (!keep) json_object_set_new(body, "keep_alive", json_integer(0));
    lm_status st = post(c, b, body, LOAD_MS, NULL, err);
    json_decref(body);
    return st;
}

static lm_status run_once(lm_client *c, const lm_router_backend *b, const char *model, bench_run *out,
                          lm_err *err) {
    static uint32_t turn;
    char prompt[sizeof text + 40];
    stream s = {0};
    snprintf(prompt, sizeof prompt, "%llu. %s", (unsigned long long)(lm_now_ns() / 1000 + 7919 * ++turn),
             text);
    json_t *body = json_pack("{s:s, s:s, s:b, s:{s:i, s:i, s:i}}", "model", model, "prompt", prompt, "stream",
                             1, "options", "temperature", 0, "seed", 1, "num_predict", BENCH_TOKENS);
    if (!body) return lm_fail(err, LM_INVALID, "the model's name is no UTF-8 text");
    lm_lines_init(&s.lines, MAX_LINE);
    lm_status st = post(c, b, body, ANSWER_MS, &s, err);
    lm_str rest = lm_lines_rest(&s.lines);
    if (st == LM_OK && rest.len && !take_line(&s, rest)) st = lm_fail(err, LM_IO, "%s", s.error);
    if (st == LM_OK && (!s.done || !s.first_ns || s.tokens < 2 || s.last_ns <= s.first_ns))
        st = lm_fail(err, LM_IO, "said nothing that can be measured (%u tokens)", s.tokens);
    if (st == LM_OK)
        *out = (bench_run){.first_s = (double)(s.first_ns - s.began_ns) / 1e9,
                           .tokens_per_s = (s.tokens - 1) / ((double)(s.last_ns - s.first_ns) / 1e9),
                           .prompt_tokens = s.prompt_tokens,
                           .tokens = s.tokens};
    lm_lines_release(&s.lines);
    json_decref(body);
    return st;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(const double *values, uint32_t n) {
    double sorted[64];
    if (!n || n > 64) return NAN;
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

lm_status bench_measure(const lm_router_backend *b, const char *model, bool loaded, bench_figures *out,
                        lm_err *err) {
    lm_client *c = NULL;
    bench_figures f = {.loaded_before = loaded};
    double firsts[BENCH_RUNS], rates[BENCH_RUNS], answers[BENCH_RUNS];
    bench_run warm;
    lm_status st = lm_client_open(&c, err);
    if (st != LM_OK) return st;
    uint64_t began = lm_now_ns();
    st = load(c, b, model, true, err);
    f.load_s = (double)(lm_now_ns() - began) / 1e9;
    if (st == LM_OK) st = run_once(c, b, model, &warm, err);
    for (int i = 0; st == LM_OK && i < BENCH_RUNS; i++) {
        st = run_once(c, b, model, &f.runs[i], err);
        firsts[i] = f.runs[i].first_s;
        rates[i] = f.runs[i].tokens_per_s;
        answers[i] = firsts[i] + BENCH_ANSWER / rates[i];
    }
    /* The next backend needs the memory, and what was not there before does not stay. */
    if (!loaded && load(c, b, model, false, NULL) != LM_OK) (void)0;
    lm_client_close(c);
    if (st != LM_OK) return st;
    f.first_s = bench_median(firsts, BENCH_RUNS);
    f.tokens_per_s = bench_median(rates, BENCH_RUNS);
    f.answer_s = bench_median(answers, BENCH_RUNS);
    f.least_s = f.most_s = answers[0];
    for (int i = 1; i < BENCH_RUNS; i++) {
        if (answers[i] < f.least_s) f.least_s = answers[i];
        if (answers[i] > f.most_s) f.most_s = answers[i];
    }
    *out = f;
    return LM_OK;
}
