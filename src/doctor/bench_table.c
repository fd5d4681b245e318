#include "doctor/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECONDS, RATE, BYTES };

static const struct {
    int unit;
    const char *key, *title;
} figures[] = {
#define X(name, unit, key, title) {unit, key, title},
    BENCH_FIGURES(X)
#undef X
};

/* What the README promises, against Ollama on the same machine. */
typedef struct promise {
    const char *text;
    double limit; /* at most, in the figure's unit; 0: none */
    double ratio; /* at least; of memory at most; 0: none */
} promise;

static const promise promises[N_FIGURES] = {
    [FIGURE_LOAD] = {"under 0.5 s, 4-6x Ollama", 0.5, 4},
    [FIGURE_FIRST] = {"under 0.3 s, 3-6x Ollama", 0.3, 3},
    [FIGURE_ANSWER] = {"2x Ollama", 0, 2},
    [FIGURE_MEMORY] = {"half of Ollama's", 0, 0.5},
    [FIGURE_REVIEW] = {"4-6x Ollama", 0, 4},
};

/* ---- numbers */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const bench_peer *p, bench_figure f) {
    double v[BENCH_MAX_RUNS];
    size_t n = 0;
    for (uint32_t i = 0; i < p->n_runs; i++)
        if (!isnan(p->runs[i].figure[f])) v[n++] = p->runs[i].figure[f];
    if (!n) return NAN;
    qsort(v, n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double bench_ratio(const bench *b, int peer, bench_figure f) {
    double ours = bench_median(&b->peers[OURS], f), theirs = bench_median(&b->peers[peer], f);
    if (!(ours > 0) || !(theirs > 0)) return NAN;
    return figures[f].unit == SECONDS ? theirs / ours : ours / theirs;
}

/* 1 kept, 0 broken, -1 not known: without Ollama only a limit can be broken. */
static int is_kept(const bench *b, bench_figure f) {
    const promise *p = &promises[f];
    double ours = bench_median(&b->peers[OURS], f), ratio = bench_ratio(b, OLLAMA, f);
    if (!p->text || isnan(ours)) return -1;
    if (p->limit > 0 && ours > p->limit) return 0;
    if (isnan(ratio)) return -1;
    return figures[f].unit == BYTES ? ratio <= p->ratio : ratio >= p->ratio;
}

/* ---- Markdown */

static void write_value(lm_buf *out, bench_figure f, double v) {
    if (isnan(v))
        lm_buf_text(out, "–");
    else if (figures[f].unit == SECONDS)
        lm_buf_printf(out, v < 0.1 ? "%.3f s" : "%.2f s", v);
    else if (figures[f].unit == RATE)
        lm_buf_printf(out, v < 100 ? "%.1f tokens/s" : "%.0f tokens/s", v);
    else
        lm_buf_printf(out, "%.0f MiB", v / 1048576);
}

static void write_ratio(lm_buf *out, double v) {
    if (isnan(v))
        lm_buf_text(out, "–");
    else
        lm_buf_printf(out, v < 9.95 ? "%.2fx" : "%.0fx", v);
}

/* What the figure is about, in tokens: of our first run, peers' differences are noted below. */
static void write_title(const bench *b, bench_figure f, lm_buf *out) {
    const bench_run *run = &b->peers[OURS].runs[0];
    lm_buf_text(out, figures[f].title);
    if (f == FIGURE_PROMPT) lm_buf_printf(out, " of %u tokens", run->prompt_tokens);
    if (f == FIGURE_ANSWER) lm_buf_printf(out, " of %u tokens", run->answer_tokens);
    if (f == FIGURE_REVIEW) lm_buf_printf(out, ", %u + %u tokens", run->prompt_tokens, run->review_tokens);
}

static bool differs(uint32_t a, uint32_t b) {
    return fabs((double)a - (double)b) > 0.03 * fmax(a, b);
}

static void write_notes(const bench *b, lm_buf *out) {
    lm_buf_text(
        out,
        "\nRatio: how many times faster this is than the other; of memory its share of the other's. Files "
        "are in the page cache.\n");
    for (int i = OLLAMA; i < N_PEERS + b->n_more; i++) {
        const bench_peer *p = &b->peers[i];
        if (p->absent[0]) lm_buf_printf(out, "%s is absent: %s\n", p->name, p->absent);
        if (!p->n_runs) continue;
        if (isnan(bench_median(p, FIGURE_MEMORY)))
            lm_buf_printf(
                out,
                "%s's memory could not be read: its process is not on this machine, or not ours to look at\n",
                p->name);
        const bench_run *ours = &b->peers[OURS].runs[0], *theirs = &p->runs[0];
        if (differs(ours->prompt_tokens, theirs->prompt_tokens) ||
            differs(ours->answer_tokens, theirs->answer_tokens) ||
            differs(ours->review_tokens, theirs->review_tokens))
            lm_buf_printf(out, "%s had other numbers of tokens: prompt %u, answer %u, code review %u\n",
                          p->name, theirs->prompt_tokens, theirs->answer_tokens, theirs->review_tokens);
    }
}

static void write_head(const bench *b, lm_buf *out) {
    char date[40];
    lm_time_rfc3339(lm_wall_ns(), date);
    for (int i = 0; i < N_PEERS + b->n_more; i++)
        if (b->peers[i].n_runs)
            lm_buf_printf(out, "%s%s %s", i ? "; " : "", b->peers[i].name, b->peers[i].version);
    lm_buf_printf(out, "; model %s; %s; median of %u; %.10s\n\n", b->peers[OURS].model, b->machine,
                  b->peers[OURS].n_runs, date);
}

void bench_write_markdown(const bench *b, lm_buf *out) {
    static const char *const kept[] = {"?", "no", "yes"};
    write_head(b, out);
    lm_buf_text(out, "| | promised | measured | Ollama | ratio | kept | mlx-lm | ratio |");
    for (int i = N_PEERS; i < N_PEERS + b->n_more; i++) lm_buf_printf(out, " %s | ratio |", b->peers[i].name);
    lm_buf_text(out, "\n|---|---|---|---|---|---|---|---|");
    for (int i = 0; i < b->n_more; i++) lm_buf_text(out, "---|---|");
    lm_buf_char(out, '\n');
    for (int f = 0; f < N_FIGURES; f++) {
        lm_buf_text(out, "| ");
        write_title(b, f, out);
        lm_buf_printf(out, " | %s | ", promises[f].text ? promises[f].text : "");
        write_value(out, f, bench_median(&b->peers[OURS], f));
        for (int i = OLLAMA; i < N_PEERS + b->n_more; i++) {
            lm_buf_text(out, " | ");
            write_value(out, f, bench_median(&b->peers[i], f));
            lm_buf_text(out, " | ");
            write_ratio(out, bench_ratio(b, i, f));
            if (i == OLLAMA) lm_buf_printf(out, " | %s", promises[f].text ? kept[is_kept(b, f) + 1] : "");
        }
        lm_buf_text(out, " |\n");
    }
    write_notes(b, out);
}

/* ---- JSON */

static json_t *number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *peer_json(const bench_peer *p) {
    json_t *runs = json_array();
    for (uint32_t i = 0; i < p->n_runs; i++) {
        const bench_run *run = &p->runs[i];
        json_t *o = json_object();
        for (int f = 0; f < N_FIGURES; f++) json_object_set_new(o, figures[f].key, number(run->figure[f]));
        json_object_set_new(o, "prompt_tokens", json_integer(run->prompt_tokens));
        json_object_set_new(o, "answer_tokens", json_integer(run->answer_tokens));
        json_object_set_new(o, "review_tokens", json_integer(run->review_tokens));
        json_array_append_new(runs, o);
    }
    return json_pack("{s:s, s:b, s:s, s:s, s:s, s:o}", "name", p->name, "present", p->n_runs > 0, "version",
                     p->version, "model", p->model, "absent", p->absent, "runs", runs);
}

static json_t *figure_json(const bench *b, bench_figure f) {
    static const char *const units[] = {"s", "tokens/s", "bytes"};
    json_t *o = json_pack("{s:s, s:s, s:s}", "figure", figures[f].key, "title", figures[f].title, "unit",
                          units[figures[f].unit]);
    for (int i = 0; i < N_PEERS + b->n_more; i++)
        json_object_set_new(o, b->peers[i].key, number(bench_median(&b->peers[i], f)));
    for (int i = OLLAMA; i < N_PEERS + b->n_more; i++) {
        char key[80];
        snprintf(key, sizeof key, "ratio_%s", b->peers[i].key);
        json_object_set_new(o, key, number(bench_ratio(b, i, f)));
    }
    json_object_set_new(o, "promised", promises[f].text ? json_string(promises[f].text) : json_null());
    int kept = is_kept(b, f);
    json_object_set_new(o, "kept", kept < 0 ? json_null() : json_boolean(kept));
    return o;
}

json_t *bench_json(const bench *b) {
    char date[40];
    lm_time_rfc3339(lm_wall_ns(), date);
    json_t *list = json_array(), *peers = json_object();
    for (int f = 0; f < N_FIGURES; f++) json_array_append_new(list, figure_json(b, f));
    for (int i = 0; i < N_PEERS + b->n_more; i++)
        json_object_set_new(peers, b->peers[i].key, peer_json(&b->peers[i]));
    return json_pack("{s:s, s:s, s:o, s:o}", "machine", b->machine, "date", date, "figures", list, "peers",
                     peers);
}
