/* slash.c - what begins with a slash in a chat. The words and what they do are those of ollama's chat. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/term.h"
#include "cli/text.h"

#define MAX_WORDS 32
#define MAX_SHOW  (32u << 20)

/* ---- help */

static const char help_all[] = "Commands:\n"
                               "  /set            change how this session answers\n"
                               "  /show           what the model is\n"
                               "  /load NAME      another model, or a session that was saved\n"
                               "  /save NAME      keep this session as a model\n"
                               "  /list           the models that are there\n"
                               "  /clear          forget what was said\n"
                               "  /bye            leave (also /exit, Ctrl + d)\n"
                               "  /?, /help       this; /? set, /? show, /? parameter, /? shortcuts\n"
                               "\n"
                               "\"\"\" begins a message of several lines, and ends it.\n";

static const char help_images[] = "Pictures: write the path of a .jpg, .png or .webp file in the message.\n";

static const char help_set[] =
    "Commands:\n"
    "  /set parameter NAME VALUE   a parameter (/? parameter lists them)\n"
    "  /set system TEXT            the system message; \"\"\" for several lines\n"
    "  /set history                keep what is typed\n"
    "  /set nohistory              do not\n"
    "  /set wordwrap               break lines between words\n"
    "  /set nowordwrap             leave that to the terminal\n"
    "  /set format json            answer in JSON; a JSON schema does, too\n"
    "  /set noformat               answer freely\n"
    "  /set verbose                show times and rates\n"
    "  /set quiet                  do not\n"
    "  /set think [LEVEL]          think first; low, medium or high where the model has levels\n"
    "  /set nothink                do not\n";

static const char help_show[] = "Commands:\n"
                                "  /show info         the model: its size, its form, what it can\n"
                                "  /show license      its license\n"
                                "  /show modelfile    its Modelfile\n"
                                "  /show parameters   its parameters, and those of this session\n"
                                "  /show system       the system message\n"
                                "  /show template     the template of its prompts\n";

static const char help_parameters[] =
    "Parameters:\n"
    "  /set parameter seed N               the same seed gives the same answer\n"
    "  /set parameter num_predict N        at most so many tokens\n"
    "  /set parameter top_k N              choose among the N likeliest\n"
    "  /set parameter top_p X              among the likeliest that together have probability X\n"
    "  /set parameter min_p X              among those at least X times as likely as the likeliest\n"
    "  /set parameter num_ctx N            the context, in tokens\n"
    "  /set parameter temperature X        0 always takes the likeliest\n"
    "  /set parameter repeat_penalty X     above 1: less of what was said already\n"
    "  /set parameter repeat_last_n N      how far back that looks\n"
    "  /set parameter stop WORD...         end before these\n";

static const char help_shortcuts[] =
    "Keys:\n"
    "  Ctrl + a, Home      to the line's beginning\n"
    "  Ctrl + e, End       to its end\n"
    "   Alt + b            one word back\n"
    "   Alt + f            one word on\n"
    "  Ctrl + k            cut what is behind the cursor\n"
    "  Ctrl + u            cut what is before it\n"
    "  Ctrl + w            cut the word before it\n"
    "  Up, Down            earlier lines\n"
    "  Ctrl + r            search them\n"
    "  Ctrl + l            clear the screen\n"
    "  Ctrl + g            write in an editor (OLLAMA_EDITOR, VISUAL, EDITOR)\n"
    "  Ctrl + c            stop the answer\n"
    "  Ctrl + d            leave\n";

/* ---- words */

typedef struct words {
    char *copy;
    const char *w[MAX_WORDS];
    const char *from[MAX_WORDS]; /* in the line: from this word to its end */
    uint32_t n;
} words;

static void split(const char *line, words *out) {
    *out = (words){.copy = lm_strdup(line)};
    for (char *p = out->copy; *p && out->n < MAX_WORDS;) {
        p += strspn(p, " \t");
        if (!*p) break;
        out->from[out->n] = line + (p - out->copy);
        out->w[out->n++] = p;
        p += strcspn(p, " \t");
        if (*p) *p++ = '\0';
    }
}

static const char *word(const words *w, uint32_t i) {
    return i < w->n ? w->w[i] : "";
}

/* ---- /set */

static void set_parameter(chat *c, const words *w) {
    lm_err err = {0};
    if (w->n < 4) {
        say("%s", help_parameters);
    } else if (session_set_option(c->s, w->w[2], &w->w[3], w->n - 3, &err) != LM_OK) {
        say("Couldn't set parameter: %s\n", err.text);
    } else {
        lm_buf b;
        lm_buf_init(&b, 1u << 20);
        for (uint32_t i = 3; i < w->n; i++) lm_buf_printf(&b, "%s%s", i > 3 ? ", " : "", w->w[i]);
        say("Set parameter '%s' to '%s'\n", w->w[2], b.ptr);
        lm_buf_release(&b);
    }
}

static void set_system(chat *c, const words *w) {
    char *message = NULL;
    if (w->n < 3) {
        say("%s", help_set);
        return;
    }
    if (!lines_take(&c->typed, w->from[2], false, &message)) {
        c->sets_system = true;
        return;
    }
    session_set_system(c->s, message ? message : "");
    free(message);
    say("Set system message.\n");
}

/* A model that cannot think is told before it refuses. */
static void set_think(chat *c, const char *level) {
    lm_err err = {0};
    if (session_set_think(c->s, level, &err) != LM_OK) {
        say("%s\n", err.text);
        return;
    }
    if (!c->s->thinks && strcmp(level, "false")) say("warning: %s is not known to think\n", c->s->model);
    if (!strcmp(level, "false"))
        say("Set 'nothink' mode.\n");
    else if (level[0])
        say("Set 'think' mode to '%s'.\n", level);
    else
        say("Set 'think' mode.\n");
}

static void set_format(chat *c, const words *w) {
    lm_err err = {0};
    if (w->n < 3)
        say("Invalid or missing format. For 'json' mode use '/set format json'\n");
    else if (session_set_format(c->s, w->from[2], &err) != LM_OK)
        say("%s\n", err.text);
    else
        say("Set format to '%s' mode.\n", json_is_string(c->s->format) ? "json" : "schema");
}

static void set_switch(bool *what, bool on, const char *name) {
    *what = on;
    say("Set '%s' mode.\n", name);
}

static void slash_set(chat *c, const words *w) {
    const char *what = word(w, 1);
    session *s = c->s;
    if (!what[0])
        say("%s", help_set);
    else if (!strcmp(what, "parameter"))
        set_parameter(c, w);
    else if (!strcmp(what, "system"))
        set_system(c, w);
    else if (!strcmp(what, "history") || !strcmp(what, "nohistory"))
        edit_keep_history(c->e, what[0] == 'h');
    else if (!strcmp(what, "wordwrap") || !strcmp(what, "nowordwrap"))
        set_switch(&s->wrap_words, what[0] == 'w', what);
    else if (!strcmp(what, "verbose") || !strcmp(what, "quiet"))
        set_switch(&s->verbose, what[0] == 'v', what);
    else if (!strcmp(what, "format"))
        set_format(c, w);
    else if (!strcmp(what, "noformat")) {
        if (session_set_format(s, "", NULL) == LM_OK) say("Disabled format.\n");
    } else if (!strcmp(what, "think"))
        set_think(c, word(w, 2));
    else if (!strcmp(what, "nothink"))
        set_think(c, "false");
    else
        say("Unknown command '/set %s'. Type /? for help\n", what);
}

/* ---- /show */

static void show_parameters(const chat *c, const json_t *shown) {
    const char *own = json_text(shown, "parameters"), *name;
    say("Model defined parameters:\n");
    if (!own[0]) say("  No additional parameters were specified for this model.\n");
    for (const char *p = own; *p;) {
        size_t n = strcspn(p, "\n");
        say("  %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    say("\n");
    if (!json_object_size(c->s->options)) return;
    say("User defined parameters:\n");
    json_t *v;
    json_object_foreach(c->s->options, name, v) {
        lm_buf b;
        lm_buf_init(&b, 1u << 20);
        lm_json_write_value(&b, v);
        say("  %-30s %s\n", name, b.ptr);
        lm_buf_release(&b);
    }
    say("\n");
}

static void show_text(const char *text, const char *none) {
    say("%s\n", text[0] ? text : none);
}

static void show_part(const chat *c, const char *what, const json_t *shown) {
    if (!strcmp(what, "info")) {
        lm_buf b;
        lm_buf_init(&b, MAX_SHOW);
        show_model(shown, false, &b);
        say_buf(&b);
    } else if (!strcmp(what, "license"))
        show_text(json_text(shown, "license"), "No license was specified for this model.");
    else if (!strcmp(what, "modelfile"))
        show_text(json_text(shown, "modelfile"), "No Modelfile was made for this model.");
    else if (!strcmp(what, "parameters"))
        show_parameters(c, shown);
    else if (!strcmp(what, "system"))
        show_text(c->s->system ? c->s->system : json_text(shown, "system"),
                  "No system message was specified for this model.");
    else if (!strcmp(what, "template"))
        show_text(json_text(shown, "template"), "No prompt template was specified for this model.");
    else
        say("Unknown command '/show %s'. Type /? for help\n", what);
}

static lm_status ask_show(chat *c, const char *model, json_t **shown, lm_err *err) {
    json_t *body = json_pack("{s:s}", "model", model);
    lm_status st = body ? wire_json(c->w, "POST", "/api/show", body, shown, err)
                        : lm_fail(err, LM_INVALID, "a model's name is UTF-8 text");
    json_decref(body);
    return st;
}

static void slash_show(chat *c, const words *w) {
    json_t *shown = NULL;
    lm_err err = {0};
    if (w->n < 2)
        say("%s", help_show);
    else if (ask_show(c, c->s->model, &shown, &err) != LM_OK)
        say("Couldn't ask for the model: %s\n", err.text);
    else
        show_part(c, w->w[1], shown);
    json_decref(shown);
}

/* ---- /load, /save, /list */

static void slash_load(chat *c, const words *w) {
    json_t *shown = NULL;
    lm_err err = {0};
    if (w->n != 2) {
        say("Usage:\n  /load NAME\n");
        return;
    }
    say("Loading model '%s'\n", w->w[1]);
    lm_status st = ask_show(c, w->w[1], &shown, &err);
    if (st != LM_OK) {
        char meant[200];
        if (st != LM_NOT_FOUND || !c->w->status)
            say("Couldn't load model '%s': %s\n", w->w[1], err.text);
        else if (say_meant(c->w, w->w[1], meant))
            say("Couldn't find model '%s': did you mean %s?\n", w->w[1], meant);
        else
            say("Couldn't find model '%s'\n", w->w[1]);
        return;
    }
    char *before = lm_strdup(c->s->model);
    json_t *said = json_copy(c->s->messages);
    session_change_model(c->s, w->w[1]);
    session_learn(c->s, shown);
    json_decref(shown);
    if (load_model(c->w, c->s, &err) != LM_OK) {
        say("Couldn't load model '%s': %s\n", w->w[1], err.text);
        term_forget();
        session_change_model(c->s, before);
        json_array_extend(c->s->messages, said);
        if (ask_show(c, before, &shown, &err) == LM_OK) {
            session_learn(c->s, shown);
            json_decref(shown);
        }
    }
    json_decref(said);
    free(before);
}

static bool on_created(void *ctx, const json_t *event) {
    bool *success = ctx;
    *success = !strcmp(json_text(event, "status"), "success");
    return true;
}

static void slash_save(chat *c, const words *w) {
    lm_err err = {0};
    bool success = false;
    if (w->n != 2) {
        say("Usage:\n  /save NAME\n");
        return;
    }
    if (lm_utf8_valid(lm_str_of(w->w[1]), NULL) != strlen(w->w[1])) {
        say("error: a model's name is UTF-8 text\n");
        return;
    }
    json_t *body = session_save_request(c->s, w->w[1]);
    lm_status st = wire_stream(c->w, "/api/create", body, on_created, &success, &err);
    json_decref(body);
    if (st != LM_OK)
        say("Couldn't save '%s': %s\n", w->w[1], err.text);
    else if (!success)
        say("Couldn't save '%s': the server did not say that it is made\n", w->w[1]);
    else
        say("Created new model '%s'\n", w->w[1]);
    term_forget();
}

static void slash_list(chat *c, const words *w) {
    cli_args a = *c->args;
    const char *prefix[] = {word(w, 1)};
    a.operand = prefix;
    a.n_operands = w->n > 1;
    list_models(&a, c->w);
}

/* ---- which one */

static void slash_help(const chat *c, const words *w) {
    const char *what = word(w, 1);
    what += *what == '/';
    if (!strcmp(what, "set"))
        say("%s", strcmp(word(w, 2), "parameter") ? help_set : help_parameters);
    else if (!strcmp(what, "show"))
        say("%s", help_show);
    else if (!strcmp(what, "parameter") || !strcmp(what, "parameters"))
        say("%s", help_parameters);
    else if (!strcmp(what, "shortcut") || !strcmp(what, "shortcuts"))
        say("%s", help_shortcuts);
    else
        say("%s%s", help_all, c->s->sees ? help_images : "");
}

/* A path is no command: one that has another slash. */
static bool is_path(const chat *c, const char *first) {
    return c->s->sees && strchr(first + 1, '/');
}

bool slash_run(chat *c, const char *line, bool *leave) {
    if (line[0] != '/') return false;
    words w;
    split(line, &w);
    const char *first = word(&w, 0);
    bool known = true;
    if (!strcmp(first, "/set"))
        slash_set(c, &w);
    else if (!strcmp(first, "/show"))
        slash_show(c, &w);
    else if (!strcmp(first, "/load"))
        slash_load(c, &w);
    else if (!strcmp(first, "/save"))
        slash_save(c, &w);
    else if (!strcmp(first, "/list"))
        slash_list(c, &w);
    else if (!strcmp(first, "/clear")) {
        session_clear(c->s);
        say("Cleared session context\n");
    } else if (!strcmp(first, "/bye") || !strcmp(first, "/exit"))
        *leave = true;
    else if (!strcmp(first, "/?") || !strcmp(first, "/help"))
        slash_help(c, &w);
    else if (is_path(c, first))
        known = false;
    else
        say("Unknown command '%s'. Type /? for help\n", first);
    free(w.copy);
    return known;
}
