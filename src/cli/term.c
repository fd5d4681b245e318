#include "cli/term.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/args.h"

static volatile sig_atomic_t came;
static int write_errno;

static void on_signal(int sig) {
    came = sig;
}

void term_open(void) {
    /* Names as C.UTF-8 differ between systems; what matters is that characters are Unicode's. */
    static const char *const locales[] = {"", "C.UTF-8", "en_US.UTF-8", "UTF-8"};
    for (size_t i = 0; i < sizeof locales / sizeof *locales; i++)
        if (setlocale(LC_CTYPE, locales[i]) && MB_CUR_MAX > 1) break;
    struct sigaction a = {.sa_handler = on_signal}; /* no SA_RESTART: a read that waits ends */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

void term_obey_signals(void) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

bool term_is(FILE *f) {
    const char *kind = getenv("TERM");
    return isatty(fileno(f)) && !(kind && !strcmp(kind, "dumb"));
}

bool term_colours(FILE *f) {
    const char *no = getenv("NO_COLOR");
    return term_is(f) && !(no && no[0]);
}

void term_size(FILE *f, uint32_t *columns, uint32_t *lines) {
    struct winsize w = {0};
    bool known = ioctl(fileno(f), TIOCGWINSZ, &w) == 0;
    *columns = known && w.ws_col ? w.ws_col : 80;
    *lines = known && w.ws_row ? w.ws_row : 24;
}

const char *term_style(FILE *f, const char *sequence) {
    return term_colours(f) ? sequence : "";
}

int term_signal(void) {
    return came;
}

void term_forget(void) {
    if (came == SIGINT) came = 0;
}

lm_status term_read(int fd, const char *what, lm_buf *out, lm_err *err) {
    char piece[65536];
    for (;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR && !term_signal()) continue;
        if (n < 0 && term_signal()) return lm_fail(err, LM_CANCELLED, "interrupted");
        if (n < 0) return lm_fail(err, LM_IO, "%s cannot be read: %s", what, strerror(errno));
        if (n == 0) return LM_OK;
        lm_buf_add(out, piece, (size_t)n);
        lm_status st = lm_buf_status(out, what, err);
        if (st != LM_OK) return st;
    }
}

void term_write(lm_str s) {
    if (write_errno || !s.len) return;
    if (fwrite(s.ptr, 1, s.len, stdout) != s.len || fflush(stdout)) write_errno = errno ? errno : EIO;
}

bool term_broken(void) {
    return write_errno != 0;
}

bool term_finish(void) {
    errno = 0;
    if ((fflush(stdout) || ferror(stdout)) && !write_errno) write_errno = errno ? errno : EIO;
    if (write_errno && write_errno != EPIPE)
        fprintf(stderr, CLI_PROGRAM ": the output cannot be written: %s\n", strerror(write_errno));
    return !write_errno;
}
