#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/say.h"
#include "cli/term.h"
#include "cli/text.h"

#define PATIENCE_NS UINT64_C(300000000) /* what is quicker needs no spinner */
#define DRAW_NS     UINT64_C(100000000)
#define MAX_BARS    1024

/* ---- a wait */

void spinner_start(spinner *s) {
    *s = (spinner){.since_ns = lm_now_ns(), .off = !term_is(stderr)};
}

void spinner_turn(void *ctx) {
    static const char *const faces[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};
    spinner *s = ctx;
    uint64_t now = lm_now_ns();
    if (s->off || now - s->since_ns < PATIENCE_NS || now - s->drawn_ns < DRAW_NS) return;
    s->drawn_ns = now;
    fprintf(stderr, "\r%s \033[K", faces[now / DRAW_NS % (sizeof faces / sizeof *faces)]);
}

void spinner_stop(spinner *s) {
    if (s->drawn_ns) fputs("\r\033[K", stderr);
    s->drawn_ns = 0;
    s->off = true;
}

/* ---- what is fetched */

void progress_open(progress *p) {
    *p = (progress){.terminal = term_is(stderr)};
}

static void draw(progress *p) {
    uint32_t columns, lines;
    uint64_t now = lm_now_ns();
    term_size(stderr, &columns, &lines);
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    /* Lines that have gone over the top cannot be reached: only the last ones are drawn again. */
    uint32_t back = p->shown < lines ? p->shown : lines, n = p->n < lines - 1 ? p->n : lines - 1;
    if (back > 1) lm_buf_printf(&b, "\033[%uA", back - 1);
    lm_buf_char(&b, '\r');
    for (uint32_t i = p->n - n; i < p->n; i++) {
        progress_line(&p->bars[i], now, columns, &b);
        lm_buf_text(&b, i + 1 < p->n ? "\033[K\n" : "\033[K");
    }
    p->shown = n;
    p->drawn_ns = now;
    fwrite(b.ptr, 1, b.len, stderr);
    fflush(stderr);
    lm_buf_release(&b);
}

void progress_draw(void *ctx) {
    progress *p = ctx;
    if (p->terminal && p->n && lm_now_ns() - p->drawn_ns >= DRAW_NS) draw(p);
}

static progress_bar *add_bar(progress *p, const char *name, const char *digest) {
    if (p->n == p->room) {
        p->room = p->room ? 2 * p->room : 16;
        p->bars = lm_realloc(p->bars, p->room * sizeof *p->bars);
    }
    char clean[200];
    text_clean_line(name, clean, sizeof clean);
    progress_bar *b = &p->bars[p->n++];
    *b = (progress_bar){
        .name = lm_strdup(clean), .digest = digest ? lm_strdup(digest) : NULL, .started_ns = lm_now_ns()};
    return b;
}

static void tell_plainly(progress_bar *b) {
    uint32_t tenth = b->total > 0 ? (uint32_t)(b->done / (b->total / 10 + (b->total % 10 > 0))) : 10;
    if (tenth <= b->told && b->told) return;
    b->told = tenth ? tenth : 1;
    char size[16];
    text_bytes(b->total, size);
    int percent = b->total > 0 ? (int)((double)b->done * 100 / (double)b->total) : 100;
    fprintf(stderr, "%s %d%% of %s\n", b->name, percent, size);
}

static void name_bar(const char *status, const char *digest, char out[80]) {
    char clean[64];
    text_clean_line(status, clean, sizeof clean);
    const char *hex = strncmp(digest, "sha256:", 7) ? digest : digest + 7;
    if (clean[0])
        snprintf(out, 80, "%s:", clean);
    else
        snprintf(out, 80, "%.12s:", hex);
}

static void take_size(progress *p, const json_t *event, const char *digest) {
    json_int_t total = json_integer_value(json_object_get(event, "total"));
    json_int_t done = json_integer_value(json_object_get(event, "completed"));
    if (done <= 0 || total < 0) return; /* that it will come is no news yet */
    if (done > total) done = total;
    char name[80];
    name_bar(json_text(event, "status"), digest, name);
    progress_bar *b = NULL; /* work that belongs to no layer has the same digest, whatever it is */
    for (uint32_t i = 0; i < p->n && !b; i++)
        if (p->bars[i].digest && !strcmp(p->bars[i].digest, digest) && !strcmp(p->bars[i].name, name))
            b = &p->bars[i];
    if (!b) {
        b = add_bar(p, name, digest);
        b->at_start = done;
    }
    b->total = total;
    b->done = done;
    if (!p->terminal) tell_plainly(b);
}

void progress_event(progress *p, const json_t *event) {
    const char *status = json_text(event, "status"), *digest = json_text(event, "digest");
    if (p->n >= MAX_BARS) return;
    if (digest[0] || json_object_get(event, "total")) {
        take_size(p, event, digest);
    } else if (status[0]) {
        char clean[200];
        text_clean_line(status, clean, sizeof clean);
        for (uint32_t i = p->n; i-- > 0;)
            if (!p->bars[i].digest && !strcmp(p->bars[i].name, clean)) return;
        add_bar(p, status, NULL);
        if (!p->terminal) fprintf(stderr, "%s\n", clean);
    }
    progress_draw(p);
}

void progress_close(progress *p) {
    if (p->terminal && p->n) {
        draw(p);
        fputc('\n', stderr);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        free(p->bars[i].name);
        free(p->bars[i].digest);
    }
    free(p->bars);
    *p = (progress){0};
}

/* ---- a line */

static void time_left(int64_t seconds, char out[16]) {
    if (seconds >= 100 * 3600)
        snprintf(out, 16, "99h+");
    else if (seconds >= 3600)
        snprintf(out, 16, "%dh%dm", (int)(seconds / 3600), (int)(seconds / 60 % 60));
    else if (seconds >= 60)
        snprintf(out, 16, "%dm%ds", (int)(seconds / 60), (int)(seconds % 60));
    else
        snprintf(out, 16, "%ds", (int)seconds);
}

void progress_line(const progress_bar *b, uint64_t now_ns, uint32_t columns, lm_buf *out) {
    if (!b->digest) {
        lm_str name = lm_str_of(b->name);
        uint32_t code;
        for (size_t i = 0, n; i < name.len; i += n) {
            n = text_char((lm_str){name.ptr + i, name.len - i}, &code);
            if (text_width((lm_str){name.ptr, i + n}) >= columns) {
                name.len = i;
                break;
            }
        }
        lm_buf_str(out, name);
        return;
    }
    char done[16], total[16], rate[16], left[16], tail[80];
    text_bytes(b->done, done);
    text_bytes(b->total, total);
    double seconds = (double)(now_ns - b->started_ns) / 1e9;
    double speed = seconds >= 1 ? (double)(b->done - b->at_start) / seconds : 0;
    double part = b->total > 0 ? (double)b->done / (double)b->total : 1;
    if (b->done >= b->total) {
        snprintf(tail, sizeof tail, "%6s%7s%10s%8s", total, "", "", "");
    } else if (speed < 1) {
        snprintf(tail, sizeof tail, "%6s/%6s%10s%8s", done, total, "", "");
    } else {
        text_bytes((int64_t)speed, rate);
        time_left((int64_t)((double)(b->total - b->done) / speed), left);
        snprintf(tail, sizeof tail, "%6s/%6s  %6s/s  %6s", done, total, rate, left);
    }
    size_t head = strlen(b->name) + 5;
    lm_buf_printf(out, "%s%4.0f%%", b->name, part * 100);
    size_t rest = head + 5 + strlen(tail);
    if (columns > rest + 2) { /* else there is no room for a bar */
        uint32_t width = columns - (uint32_t)rest, full = (uint32_t)(part * width);
        lm_buf_text(out, " ▕");
        for (uint32_t i = 0; i < width; i++) lm_buf_text(out, i < full ? "█" : " ");
        lm_buf_text(out, "▏ ");
    } else {
        lm_buf_char(out, ' ');
    }
    if (columns > head + 1 + strlen(tail)) lm_buf_text(out, tail);
}
