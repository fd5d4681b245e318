#include "doctor/doctor.h"

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)

static const char *const state_names[] = {"passed", "failed", "skipped"};

/* ---- results */

/* Servers' words end up here: one line, and nothing that a terminal obeys. */
static void make_harmless(char out[512]) {
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = ' ';
    bool bad = false;
    lm_str s = lm_str_of(out);
    size_t valid = lm_utf8_valid(s, &bad);
    while (valid < s.len) {
        if (!bad) { /* cut inside a character */
            out[valid] = '\0';
            break;
        }
        out[valid] = '?';
        valid += 1 + lm_utf8_valid((lm_str){s.ptr + valid + 1, s.len - valid - 1}, &bad);
    }
}

static void write_text(char out[512], const char *format, va_list args) {
    vsnprintf(out, 512, format, args);
    make_harmless(out);
}

#define WRITE(field)                                                                                         \
    do {                                                                                                     \
        va_list args;                                                                                        \
        va_start(args, format);                                                                              \
        write_text(field, format, args);                                                                     \
        va_end(args);                                                                                        \
    } while (0)

void doctor_passed(doctor_result *r, const char *format, ...) {
    *r = (doctor_result){.state = DOCTOR_PASSED};
    WRITE(r->detail);
}

void doctor_skipped(doctor_result *r, const char *format, ...) {
    *r = (doctor_result){.state = DOCTOR_SKIPPED};
    WRITE(r->detail);
}

bool doctor_failed(doctor_result *r, const char *remedy, const char *format, ...) {
    *r = (doctor_result){.state = DOCTOR_FAILED};
    WRITE(r->detail);
    snprintf(r->remedy, sizeof r->remedy, "%s", remedy);
    make_harmless(r->remedy);
    return false;
}

void doctor_differs(doctor_result *r, const char *where, const char *expected, const char *got) {
    doctor_failed(r, "", "%.200s: expected %.140s, got %.140s", where, expected, got);
    struct {
        char *out;
        const char *text;
    } const fields[] = {{r->where, where}, {r->expected, expected}, {r->got, got}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char text[512];
        snprintf(text, sizeof text, "%.240s", fields[i].text);
        make_harmless(text);
        snprintf(fields[i].out, sizeof r->where, "%.255s", text);
    }
}

void doctor_advise(doctor_result *r, const char *format, ...) {
    WRITE(r->remedy);
}

/* ---- progress */

void report_open(doctor_report *r, const doctor_config *c) {
    const char *no_colour = getenv("NO_COLOR"), *terminal = getenv("TERM");
    bool dumb = terminal && !strcmp(terminal, "dumb");
    *r = (doctor_report){.form = c->json ? REPORT_JSON : c->tap ? REPORT_TAP : REPORT_LINES};
    (void)setlocale(LC_CTYPE, ""); /* of characters alone: numbers keep their points */
    r->ascii = strcmp(nl_langinfo(CODESET), "UTF-8") != 0;
    r->colour = isatty(STDOUT_FILENO) && !(no_colour && no_colour[0]) && !dumb;
    r->progress = isatty(STDERR_FILENO) && !dumb;
    if (r->form == REPORT_JSON) r->checks = json_array();
    if (r->form == REPORT_TAP) puts("TAP version 13");
    setvbuf(stdout, NULL, _IOLBF, 0);
}

void report_begin(doctor_report *r, const char *title) {
    r->doing = title;
    r->since_ns = lm_now_ns();
}

void report_quiet(doctor_report *r) {
    if (r->shown_ns) fputs("\r\033[K", stderr);
    r->shown_ns = 0;
}

void report_tick(doctor_report *r) {
    uint64_t now = lm_now_ns();
    if (!r->progress || !r->doing || now - r->since_ns < SECOND_NS || now - r->shown_ns < SECOND_NS / 4)
        return;
    fprintf(stderr, "\r\033[K%s %s (%.0f s)", r->ascii ? "..." : "…", r->doing,
            (double)(now - r->since_ns) / 1e9);
    fflush(stderr);
    r->shown_ns = now;
}

/* ---- one result */

/* With what the locale cannot show replaced. */
static void print_text(const doctor_report *r, const char *before, const char *text) {
    char plain[512];
    size_t n = 0;
    for (const char *p = text; *p && n + 1 < sizeof plain; p++) {
        bool shown = (unsigned char)*p < 0x80 || !r->ascii, first = ((unsigned char)*p & 0xc0) != 0x80;
        if (shown || first) plain[n++] = shown ? *p : '?';
    }
    plain[n] = '\0';
    printf("%s%s", before, plain);
}

static const char *arrow(const doctor_report *r) {
    return r->ascii ? "->" : "→";
}

static void print_line(const doctor_report *r, const char *title, const doctor_result *c) {
    static const char *const marks[] = {"✓", "✗", "–"}, *const plain[] = {"ok  ", "FAIL", "skip"},
                             *const colours[] = {"\033[32m", "\033[31m", "\033[2m"};
    const char *on = r->colour ? colours[c->state] : "", *off = r->colour ? "\033[0m" : "";
    printf("%s%s%s %s%s", on, r->ascii ? plain[c->state] : marks[c->state], off, title,
           c->detail[0] ? ": " : "");
    print_text(r, c->state == DOCTOR_SKIPPED ? "skipped, " : "", c->detail);
    putchar('\n');
    if (!c->remedy[0]) return;
    printf("  %s", arrow(r));
    print_text(r, " ", c->remedy);
    putchar('\n');
}

static void print_tap(const doctor_report *r, const char *id, const doctor_result *c) {
    uint32_t n = r->n_passed + r->n_failed + r->n_skipped;
    printf("%sok %u - %s%s%s\n", c->state == DOCTOR_FAILED ? "not " : "", n, id,
           c->state == DOCTOR_SKIPPED ? " # SKIP " : "", c->state == DOCTOR_SKIPPED ? c->detail : "");
    if (c->state != DOCTOR_SKIPPED && c->detail[0]) printf("# %s\n", c->detail);
    if (c->remedy[0]) printf("# %s %s\n", arrow(r), c->remedy);
}

static json_t *as_json(const char *id, const doctor_result *c, double seconds) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:f}", "check", id, "state", state_names[c->state], "detail",
                          c->detail, "remedy", c->remedy, "seconds", seconds);
    if (c->where[0])
        json_object_update_new(
            o, json_pack("{s:s, s:s, s:s}", "where", c->where, "expected", c->expected, "got", c->got));
    return o;
}

void report_add(doctor_report *r, const char *id, const char *title, const doctor_result *c) {
    report_quiet(r);
    r->n_passed += c->state == DOCTOR_PASSED;
    r->n_failed += c->state == DOCTOR_FAILED;
    r->n_skipped += c->state == DOCTOR_SKIPPED;
    double seconds = r->doing ? (double)(lm_now_ns() - r->since_ns) / 1e9 : 0;
    switch (r->form) {
    case REPORT_LINES: print_line(r, title, c); break;
    case REPORT_TAP: print_tap(r, id, c); break;
    case REPORT_JSON: json_array_append_new(r->checks, as_json(id, c, seconds)); break;
    }
    r->doing = NULL;
}

void report_close(doctor_report *r, const char *url) {
    report_quiet(r);
    switch (r->form) {
    case REPORT_LINES:
        printf("\n%u passed, %u failed, %u skipped%s%s%s\n", r->n_passed, r->n_failed, r->n_skipped,
               url[0] ? " (" : "", url, url[0] ? ")" : "");
        break;
    case REPORT_TAP: printf("1..%u\n", r->n_passed + r->n_failed + r->n_skipped); break;
    case REPORT_JSON: {
        json_t *all = json_pack("{s:s, s:b, s:i, s:i, s:i, s:o}", "url", url, "ok", r->n_failed == 0,
                                "passed", (int)r->n_passed, "failed", (int)r->n_failed, "skipped",
                                (int)r->n_skipped, "checks", r->checks);
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(all);
        r->checks = NULL;
        break;
    }
    }
    fflush(stdout);
}

int report_exit(const doctor_report *r) {
    return r->n_failed < EXIT_MOST ? (int)r->n_failed : EXIT_MOST;
}
