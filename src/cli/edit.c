#include "cli/edit.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/args.h"
#include "cli/history.h"
#include "cli/term.h"
#include "cli/text.h"

#define MAX_PASTE (16u << 20)
#define MAX_DRAFT (16u << 20)

struct edit {
    EditLine *line; /* NULL: no terminal */
    History *entries;
    char *history; /* the file; NULL: none */
    bool keeps;
    const char *prompt;
    edit_event key; /* what a key of ours has asked for while a line was typed */
    char *rest;     /* what was pasted behind the line that came last, or shall be the next; NULL: nothing */
};

/* ---- keys of ours: each ends the line as Enter does, with a word of what it meant */

static edit *owner(EditLine *el) {
    edit *e = NULL;
    el_get(el, EL_CLIENTDATA, &e);
    return e;
}

static unsigned char end_line(EditLine *el, edit_event key) {
    owner(el)->key = key;
    el_push(el, "\n");
    return CC_NORM;
}

static unsigned char on_interrupt(EditLine *el, int c) {
    (void)c;
    return end_line(el, EDIT_INTERRUPT);
}

static unsigned char on_editor(EditLine *el, int c) {
    (void)c;
    return end_line(el, EDIT_EDITOR);
}

static void add_character(lm_buf *b, wchar_t c) {
    char bytes[MB_LEN_MAX];
    int n = wctomb(bytes, c);
    if (n > 0) lm_buf_add(b, bytes, (size_t)n);
}

/* The terminal says where a paste ends. */
static unsigned char on_paste(EditLine *el, int c) {
    (void)c;
    static const char end[] = "\033[201~";
    lm_buf raw, clean;
    lm_buf_init(&raw, MAX_PASTE);
    wchar_t w;
    while (el_wgetc(el, &w) == 1) {
        add_character(&raw, w == L'\r' ? L'\n' : w);
        if (lm_str_ends(lm_buf_view(&raw), LM_STR("\033[201~"))) {
            raw.len -= sizeof end - 1;
            break;
        }
    }
    lm_buf_init(&clean, 3 * MAX_PASTE);
    text_clean(&clean, lm_buf_view(&raw), false);
    lm_buf_release(&raw);
    lm_buf_char(&clean, '\0');
    char *newline = strchr(clean.ptr, '\n');
    if (newline) {
        *newline = '\0';
        edit *e = owner(el);
        free(e->rest);
        e->rest = lm_strdup(newline + 1);
        e->key = EDIT_MORE;
    }
    if (clean.ptr[0]) el_insertstr(el, clean.ptr);
    if (newline) el_push(el, "\n");
    lm_buf_release(&clean);
    return CC_REFRESH;
}

static char *prompt_of(EditLine *el) {
    return (char *)(uintptr_t)owner(el)->prompt;
}

/* ---- life */

static void remember(void *ctx, const char *line) {
    edit *e = ctx;
    HistEvent event;
    history(e->entries, &event, H_ENTER, line);
}

static void bind_keys(EditLine *el) {
    el_set(el, EL_EDITOR, "emacs");
    /* Ctrl-C is a key while a line is typed; while an answer comes it is a signal. */
    el_set(el, EL_SETTY, "-d", "-isig", NULL);
    /* The narrow form of these copies the words and forgets the copies. */
    el_wset(el, EL_ADDFN, L"mlx-interrupt", L"end the line unread", on_interrupt);
    el_wset(el, EL_ADDFN, L"mlx-editor", L"write in an editor", on_editor);
    el_wset(el, EL_ADDFN, L"mlx-paste", L"take a paste", on_paste);
    static const char *const keys[][2] = {
        {"^C", "mlx-interrupt"},      {"^G", "mlx-editor"},          {"\\e[200~", "mlx-paste"},
        {"^U", "vi-kill-line-prev"},  {"^W", "ed-delete-prev-word"}, {"^R", "em-inc-search-prev"},
        {"\\e[1;5C", "em-next-word"}, {"\\e[1;5D", "ed-prev-word"},  {"\\e[3~", "ed-delete-next-char"},
        {"\\e[H", "ed-move-to-beg"},  {"\\e[F", "ed-move-to-end"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) el_set(el, EL_BIND, keys[i][0], keys[i][1], NULL);
}

lm_status edit_open(edit **out, const char *file, lm_err *err) {
    edit *e = lm_alloc(sizeof *e);
    if (term_is(stdin) && term_is(stdout)) {
        e->line = el_init(CLI_PROGRAM, stdin, stdout, stderr);
        e->entries = history_init();
        if (!e->line || !e->entries) {
            edit_close(e);
            return lm_fail(
                err, LM_INTERNAL,
                "libedit does not know this terminal: set TERM (TERM=xterm), or give the prompt to "
                "the command run");
        }
        HistEvent event;
        history(e->entries, &event, H_SETSIZE, HISTORY_MAX);
        history(e->entries, &event, H_SETUNIQUE, 1);
        el_set(e->line, EL_CLIENTDATA, e);
        el_set(e->line, EL_PROMPT, prompt_of);
        el_set(e->line, EL_HIST, history, e->entries);
        el_set(e->line, EL_SIGNAL, 1); /* for changes of the window's size */
        bind_keys(e->line);
        if (file) {
            e->history = lm_strdup(file);
            e->keeps = true;
            history_read(file, remember, e);
        }
    }
    *out = e;
    return LM_OK;
}

void edit_close(edit *e) {
    if (!e) return;
    if (e->line) el_end(e->line);
    if (e->entries) history_end(e->entries);
    free(e->history);
    free(e->rest);
    free(e);
}

void edit_keep_history(edit *e, bool on) {
    e->keeps = on;
}

/* libedit obeys what is pushed to it, so only letters are. */
static void push_clean(EditLine *el, const char *text) {
    lm_buf b;
    lm_buf_init(&b, 3 * MAX_PASTE);
    text_clean(&b, lm_str_of(text), true);
    if (b.len) el_push(el, b.ptr);
    lm_buf_release(&b);
}

void edit_prefill(edit *e, const char *text) {
    lm_buf b;
    lm_buf_init(&b, 3 * MAX_PASTE);
    text_clean(&b, lm_str_of(text), false);
    free(e->rest);
    e->rest = b.len ? lm_buf_take(&b) : NULL;
    lm_buf_release(&b);
}

/* ---- a line */

/* From a pipe or a file: as it stands there. On a dumb terminal that edits lines itself, with a prompt. */
static edit_event read_plain(const char *prompt, char **line) {
    bool asks = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    size_t room = 0;
    *line = NULL;
    if (asks) term_write(lm_str_of(prompt));
    ssize_t n = getline(line, &room, stdin);
    if (n < 0) {
        bool interrupted = asks && term_signal() == SIGINT;
        clearerr(stdin);
        free(*line);
        *line = interrupted ? lm_strdup("") : NULL;
        if (interrupted) term_forget();
        return interrupted ? EDIT_INTERRUPT : EDIT_END;
    }
    if (n && (*line)[n - 1] == '\n') (*line)[--n] = '\0';
    if (n && (*line)[n - 1] == '\r') (*line)[--n] = '\0';
    return EDIT_LINE;
}

/* The next line of a paste, shown as if it had been typed; false: its last has no end, and is to be edited. */
static bool read_pasted(edit *e, const char *prompt, char **line) {
    char *end = e->rest ? strchr(e->rest, '\n') : NULL;
    if (!end) return false;
    *end = '\0';
    *line = lm_strdup(e->rest);
    char *rest = lm_strdup(end + 1);
    free(e->rest);
    e->rest = rest;
    fprintf(stdout, "%s%s\n", prompt, *line);
    return true;
}

static void keep(edit *e, const char *line) {
    const char *p = line;
    while (*p == ' ' || *p == '\t') p++;
    if (!*p || !e->keeps) return;
    remember(e, line);
    lm_err err = {0};
    if (e->history && history_add(e->history, line, &err) != LM_OK) {
        fprintf(stderr, "%s\n", err.text);
        e->keeps = false; /* said once */
    }
}

edit_event edit_read(edit *e, const char *prompt, char **line) {
    if (!e->line) return read_plain(prompt, line);
    if (read_pasted(e, prompt, line)) {
        keep(e, *line);
        return EDIT_MORE;
    }
    e->prompt = prompt;
    e->key = EDIT_LINE;
    if (e->rest) push_clean(e->line, e->rest);
    free(e->rest);
    e->rest = NULL;
    fputs("\033[?2004h", stdout); /* pastes are told apart */
    fflush(stdout);
    int n = 0;
    const char *typed = el_gets(e->line, &n);
    fputs("\033[?2004l", stdout);
    fflush(stdout);
    if (!typed || n <= 0) {
        bool interrupted = term_signal() == SIGINT;
        if (interrupted) term_forget();
        *line = interrupted ? lm_strdup("") : NULL;
        return interrupted ? EDIT_INTERRUPT : EDIT_END;
    }
    *line = lm_str_dup((lm_str){typed, (size_t)n - (typed[n - 1] == '\n')});
    if (e->key == EDIT_LINE || e->key == EDIT_MORE) keep(e, *line);
    term_forget(); /* one that came when nothing ran any more is not for what comes now */
    return e->key;
}

/* ---- an editor */

static lm_status run_editor(const char *editor, const char *path, lm_err *err) {
    char *command = NULL;
    if (asprintf(&command, "%s \"$1\"", editor) < 0)
        return lm_fail(err, LM_NO_MEMORY, "no memory for a command");
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
        _exit(127);
    }
    free(command);
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    term_forget(); /* Ctrl-C was the editor's */
    if (pid < 0) return lm_fail(err, LM_IO, "the editor cannot be started: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return lm_fail(err, LM_NOT_FOUND, "there is no editor \"%.200s\": set OLLAMA_EDITOR to yours",
                       editor);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return lm_fail(err, LM_CANCELLED, "the editor ended with an error: nothing is sent");
    return LM_OK;
}

lm_status edit_outside(const char *text, char **out, lm_err *err) {
    static const char *const names[] = {"OLLAMA_EDITOR", "VISUAL", "EDITOR"};
    const char *editor = NULL, *temp = getenv("TMPDIR");
    for (size_t i = 0; i < 3 && !(editor && editor[0]); i++) editor = getenv(names[i]);
    if (!editor || !editor[0]) editor = "vi";
    char path[4096];
    snprintf(path, sizeof path, "%s/mlx-prompt-XXXXXX", temp && temp[0] ? temp : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0)
        return lm_fail(err, LM_IO, "a file for the draft cannot be made at %s: %s", path, strerror(errno));
    size_t n = strlen(text);
    bool written = write(fd, text, n) == (ssize_t)n && (!n || write(fd, "\n", 1) == 1);
    close(fd);
    lm_buf b;
    lm_buf_init(&b, MAX_DRAFT + 1);
    lm_status st =
        written ? run_editor(editor, path, err) : lm_fail(err, LM_IO, "the draft %s cannot be written", path);
    if (st == LM_OK) st = lm_file_read(path, MAX_DRAFT, &b, err);
    unlink(path);
    if (st == LM_OK) {
        while (b.len && (b.ptr[b.len - 1] == '\n' || b.ptr[b.len - 1] == '\r')) b.len--;
        *out = lm_str_dup(lm_buf_view(&b));
    }
    lm_buf_release(&b);
    return st;
}
