#include "cli/args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const cli_option help_option = {"help", 'h', CLI_FLAG, NULL, "show this text"};

static uint32_t count_options(const cli_command *c) {
    uint32_t n = 0;
    while (c->options && c->options[n].name) n++;
    LM_ASSERT(n <= CLI_MAX_OPTIONS);
    return n;
}

/* Index of the option that "name" or "name=value" means; the count when it is --help, -1 when it is none. */
static int find_long(const cli_command *c, lm_str name) {
    uint32_t n = count_options(c);
    for (uint32_t i = 0; i < n; i++)
        if (lm_str_eq(name, lm_str_of(c->options[i].name))) return (int)i;
    return lm_str_eq(name, LM_STR("help")) ? (int)n : -1;
}

static int find_letter(const cli_command *c, char letter) {
    uint32_t n = count_options(c);
    for (uint32_t i = 0; i < n; i++)
        if (c->options[i].letter == letter) return (int)i;
    return letter == 'h' ? (int)n : -1;
}

static lm_status unknown_option(const cli_command *c, lm_str name, lm_err *err) {
    const char *names[CLI_MAX_OPTIONS + 1] = {0}, *near;
    for (uint32_t i = 0; i < count_options(c); i++) names[i] = c->options[i].name;
    char *word = lm_str_dup(name);
    near = cli_nearest(word, names);
    lm_status st =
        near ? lm_fail(err, LM_INVALID, "%s has no option --%.60s: did you mean --%s?", c->name, word, near)
             : lm_fail(err, LM_INVALID, "%s has no option --%.60s: see " CLI_PROGRAM " %s --help", c->name,
                       word, c->name);
    free(word);
    return st;
}

/* Takes "flag=true" and so on down to "" or "false". */
static lm_status take_flag(const cli_option *o, const char *given, const char **out, lm_err *err) {
    if (!given || !strcmp(given, "true") || !strcmp(given, "1"))
        *out = "";
    else if (!strcmp(given, "false") || !strcmp(given, "0"))
        *out = "false";
    else
        return lm_fail(err, LM_INVALID, "--%s takes true or false, not \"%.60s\"", o->name, given);
    return LM_OK;
}

/* argv[*i] is an option. */
static lm_status take_option(cli_args *a, int argc, char **argv, int *i, lm_err *err) {
    const cli_command *c = a->command;
    const char *text = argv[*i], *given = NULL;
    int at;
    if (text[1] == '-') {
        const char *equals = strchr(text, '=');
        lm_str name = {text + 2, equals ? (size_t)(equals - text) - 2 : strlen(text) - 2};
        at = find_long(c, name);
        if (at < 0) return unknown_option(c, name, err);
        given = equals ? equals + 1 : NULL;
    } else {
        at = text[2] ? -1 : find_letter(c, text[1]);
        if (at < 0)
            return lm_fail(err, LM_INVALID, "%s has no option %.60s: see " CLI_PROGRAM " %s --help", c->name,
                           text, c->name);
    }
    if (at == (int)count_options(c)) {
        a->help = true;
        return LM_OK;
    }
    const cli_option *o = &c->options[at];
    if (o->kind == CLI_FLAG) return take_flag(o, given, &a->value[at], err);
    if (o->kind == CLI_VALUE && !given) {
        if (*i + 1 >= argc)
            return lm_fail(err, LM_INVALID, "--%s needs a value: --%s %s", o->name, o->name, o->value);
        given = argv[++*i];
    }
    a->value[at] = given ? given : "";
    return LM_OK;
}

lm_status cli_args_read(const cli_command *command, int argc, char **argv, cli_args *out, lm_err *err) {
    *out = (cli_args){.command = command, .operand = lm_alloc(sizeof(char *) * (size_t)(argc + 1))};
    bool options = !command->passes;
    for (int i = 1; i < argc; i++) {
        if (options && !strcmp(argv[i], "--")) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            lm_status st = take_option(out, argc, argv, &i, err);
            if (st != LM_OK) return st;
        } else {
            out->operand[out->n_operands++] = argv[i];
        }
    }
    if (out->help || command->passes) return LM_OK;
    if (out->n_operands < command->least || out->n_operands > command->most)
        return lm_fail(err, LM_INVALID, "%s operands. Usage: " CLI_PROGRAM " %s %s",
                       out->n_operands < command->least ? "too few" : "too many", command->name,
                       command->operands);
    return LM_OK;
}

void cli_args_release(cli_args *a) {
    free(a->operand);
    a->operand = NULL;
}

const char *cli_value(const cli_args *a, const char *name) {
    int at = find_long(a->command, lm_str_of(name));
    LM_ASSERT(at >= 0 && at < (int)count_options(a->command));
    return a->value[at];
}

bool cli_flag(const cli_args *a, const char *name) {
    const char *v = cli_value(a, name);
    return v && !v[0];
}

bool cli_has(const cli_args *a, const char *name) {
    int at = find_long(a->command, lm_str_of(name));
    return at >= 0 && at < (int)count_options(a->command);
}

/* ---- help */

static size_t option_head(const cli_option *o, char out[80]) {
    char letter[8] = "";
    if (o->letter) snprintf(letter, sizeof letter, ", -%c", o->letter);
    const char *open = o->kind == CLI_MAYBE ? "[=" : o->value ? " " : "";
    return (size_t)snprintf(out, 80, "  --%s%s%s%s%s", o->name, open, o->value ? o->value : "",
                            o->kind == CLI_MAYBE ? "]" : "", letter);
}

static void add_option(const cli_option *o, size_t width, lm_buf *out) {
    char head[80];
    option_head(o, head);
    lm_buf_printf(out, "%-*s   %s\n", (int)width, head, o->text);
}

void cli_command_help(const cli_command *c, lm_buf *out) {
    lm_buf_printf(out, "Usage: " CLI_PROGRAM " %s%s%s%s\n\n%s.\n\n", c->name, c->operands[0] ? " " : "",
                  c->operands, c->passes ? "" : " [options]", c->summary);
    if (c->alias) lm_buf_printf(out, "Also called %s.\n\n", c->alias);
    if (!c->passes) {
        char head[80];
        size_t width = option_head(&help_option, head);
        for (uint32_t i = 0; i < count_options(c); i++) {
            size_t n = option_head(&c->options[i], head);
            width = n > width ? n : width;
        }
        for (uint32_t i = 0; i < count_options(c); i++) add_option(&c->options[i], width, out);
        add_option(&help_option, width, out);
    }
    if (c->notes) lm_buf_printf(out, "%s%s\n", c->passes ? "" : "\n", c->notes);
}

/* ---- what was meant */

#define MAX_WORD 128

/* How many letters must be put in, left out, changed or swapped with their neighbour; without regard to case. */
static uint32_t distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD) return UINT32_MAX;
    uint32_t rows[3][MAX_WORD + 1];
    for (size_t j = 0; j <= m; j++) rows[0][j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t *now = rows[i % 3];
        const uint32_t *one = rows[(i + 2) % 3], *two = rows[(i + 1) % 3];
        now[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            bool same = lm_str_eq_nocase((lm_str){a + i - 1, 1}, (lm_str){b + j - 1, 1});
            uint32_t best = one[j - 1] + !same;
            if (one[j] + 1 < best) best = one[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && two[j - 2] + 1 < best)
                best = two[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[n % 3][m];
}

const char *cli_nearest(const char *word, const char *const *list) {
    size_t n = strlen(word);
    uint32_t best = n < 3 ? 1 : n < 7 ? 2 : 3;
    const char *found = NULL;
    for (; *list; list++) {
        uint32_t d = distance(word, *list);
        /* What begins as the word does is meant, too: llama3 for llama3.2:1b. */
        bool begins = n >= 3 && lm_str_starts(lm_str_of(*list), lm_str_of(word));
        if (begins && d > best) d = best;
        if (d < best || (d == best && !found)) {
            best = d;
            found = *list;
        }
    }
    return found;
}
