/* config.c - service.ini, read by one table of settings. */
#include "base/ini.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "service/service.h"

#define MAX_FILE        (1u << 20)
#define MAX_OPTIONS     256
#define MAX_ENVIRONMENT 256

typedef enum kind {
    KIND_WORD,
    KIND_TEXT,
    KIND_PATH,
    KIND_NUMBER,
    KIND_TIME,
    KIND_SIZE,
    KIND_PLACE,
    KIND_CHOICE
} kind;

static const struct setting {
    const char *section, *key;
    kind kind;
    const char *value;
    int64_t least, most;
    const char *help;
} settings[SET_COUNT] = {
#define X(name, section, key, kind, value, least, most, help)                                                \
    {section, key, KIND_##kind, value, least, most, help},
    SERVICE_SETTINGS(X)
#undef X
};

/* ---- words */

static lm_status take_word(lm_str *rest, lm_buf *word, lm_err *err) {
    char quote = 0;
    while (rest->len) {
        char c = rest->ptr[0];
        if (!quote && (c == ' ' || c == '\t')) return LM_OK;
        *rest = (lm_str){rest->ptr + 1, rest->len - 1};
        if (quote ? c == quote : c == '"' || c == '\'') {
            quote = quote ? 0 : c;
        } else if (c == '\\' && quote != '\'' && rest->len) {
            lm_buf_char(word, rest->ptr[0]);
            *rest = (lm_str){rest->ptr + 1, rest->len - 1};
        } else {
            lm_buf_char(word, c);
        }
    }
    return quote ? lm_fail(err, LM_INVALID, "a quote (%c) is not closed", quote) : LM_OK;
}

lm_status service_words(lm_str text, char ***words, uint32_t *n, lm_err *err) {
    lm_status st = LM_OK;
    char **list = lm_alloc((MAX_OPTIONS + 1) * sizeof *list);
    uint32_t count = 0;
    lm_str rest = lm_str_trim(text);
    while (st == LM_OK && rest.len) {
        lm_buf word;
        lm_buf_init(&word, MAX_FILE);
        st = count == MAX_OPTIONS ? lm_fail(err, LM_INVALID, "more than %d words", MAX_OPTIONS)
                                  : take_word(&rest, &word, err);
        if (st == LM_OK) list[count++] = word.ptr ? lm_buf_take(&word) : lm_strdup("");
        lm_buf_release(&word);
        rest = lm_str_trim(rest);
    }
    if (st != LM_OK) {
        while (count) free(list[--count]);
        free(list);
        return st;
    }
    *words = list;
    *n = count;
    return LM_OK;
}

/* ---- one value */

static lm_status take_number(lm_str v, const struct setting *s, int64_t *out, lm_err *err) {
    uint64_t n;
    if (!lm_str_number(v, (uint64_t)s->least, (uint64_t)s->most, &n))
        return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a whole number from %lld to %lld", s->key,
                       LM_STR_ARG(v), (long long)s->least, (long long)s->most);
    *out = (int64_t)n;
    return LM_OK;
}

static lm_status take_time(lm_str v, const struct setting *s, int64_t *out, lm_err *err) {
    int64_t ns = -1;
    uint64_t n;
    if (lm_str_number(v, 0, (uint64_t)s->most, &n))
        ns = (int64_t)n * SERVICE_SECOND_NS;
    else if (lm_duration_parse(v, &ns, NULL) != LM_OK)
        ns = -1;
    if (ns < s->least * SERVICE_SECOND_NS && !(ns > 0 && s->least <= 1)) ns = -1;
    if (ns < 0 || ns > s->most * SERVICE_SECOND_NS)
        return lm_fail(err, LM_INVALID,
                       "%s is \"%.*s\": it must be a time as 90s, 5m or 1h30m, from %llds to %llds", s->key,
                       LM_STR_ARG(v), (long long)s->least, (long long)s->most);
    *out = ns;
    return LM_OK;
}

static lm_status take_size(lm_str v, const struct setting *s, int64_t *out, lm_err *err) {
    static const struct {
        const char *name;
        int64_t bytes;
    } units[] = {{"KB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"K", 1 << 10},
                 {"M", 1 << 20},  {"G", 1 << 30},  {"B", 1},        {"", 1}};
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t len = strlen(units[i].name);
        if (v.len < len || !lm_str_eq_nocase((lm_str){v.ptr + v.len - len, len}, lm_str_of(units[i].name)))
            continue;
        if (!lm_str_number(lm_str_trim((lm_str){v.ptr, v.len - len}), 0, (uint64_t)(s->most / units[i].bytes),
                           &n))
            break;
        int64_t bytes = (int64_t)n * units[i].bytes;
        if (bytes < s->least) break;
        *out = bytes;
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a size as 64KB or 10MB, from %lld bytes on",
                   s->key, LM_STR_ARG(v), (long long)s->least);
}

static lm_status take_path(lm_str v, const struct setting *s, char **out, lm_err *err) {
    if (v.len && v.ptr[0] != '/' && !lm_str_starts(v, LM_STR("~/")))
        return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a whole path, from / or ~/ on", s->key,
                       LM_STR_ARG(v));
    if (v.len > 3000 || (v.len && memchr(v.ptr, '\0', v.len)))
        return lm_fail(err, LM_INVALID, "%s is too long", s->key);
    char *text = lm_str_dup(v);
    if (text[0] == '~') {
        *out = lm_path_home(text + 2);
        free(text);
    } else {
        *out = text;
    }
    return LM_OK;
}

static lm_status take_choice(lm_str v, const struct setting *s, const char *const words[], lm_err *err) {
    for (int i = 0; words[i]; i++)
        if (lm_str_eq(v, lm_str_of(words[i]))) return LM_OK;
    return lm_fail(err, LM_INVALID, "%s is \"%.*s\": there are %s, %s%s%s", s->key, LM_STR_ARG(v), words[0],
                   words[1], words[2] ? " and " : "", words[2] ? words[2] : "");
}

static lm_status take_value(service_config *c, service_key k, lm_str v, uint32_t line, lm_err *err) {
    const struct setting *s = &settings[k];
    service_value got = {.line = line};
    lm_status st = LM_OK;
    if (v.len && memchr(v.ptr, '\0', v.len)) return lm_fail(err, LM_INVALID, "%s holds a NUL byte", s->key);
    switch (s->kind) {
    case KIND_NUMBER: st = take_number(v, s, &got.n, err); break;
    case KIND_TIME: st = take_time(v, s, &got.n, err); break;
    case KIND_SIZE: st = take_size(v, s, &got.n, err); break;
    case KIND_PATH: st = take_path(v, s, &got.text, err); break;
    case KIND_PLACE: st = take_choice(v, s, (const char *const[]){"tmp", "state", NULL}, err); break;
    case KIND_CHOICE: st = take_choice(v, s, (const char *const[]){"auto", "yes", "no", NULL}, err); break;
    case KIND_WORD:
        if (!v.len || v.len > 255 || memchr(v.ptr, ' ', v.len))
            st = lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be one word", s->key, LM_STR_ARG(v));
        break;
    case KIND_TEXT: break;
    }
    if (st != LM_OK) return st;
    if (!got.text) got.text = lm_str_dup(v);
    free(c->v[k].text);
    c->v[k] = got;
    return LM_OK;
}

/* ---- the file */

typedef struct reading {
    service_config *c;
    const char *text; /* of the whole file: a key that lies in it tells its line */
} reading;

static uint32_t line_of(const reading *r, const char *at) {
    uint32_t n = 1;
    for (const char *p = r->text; p < at; p++) n += *p == '\n';
    return n;
}

static lm_status add_options(service_config *c, lm_str v, lm_err *err) {
    char **words = NULL;
    uint32_t n = 0;
    lm_status st = service_words(v, &words, &n, err);
    if (st != LM_OK) return lm_fail_in(err, st, "options");
    if (c->n_options + n > MAX_OPTIONS) {
        for (uint32_t i = 0; i < n; i++) free(words[i]);
        free(words);
        return lm_fail(err, LM_INVALID, "options: more than %d words", MAX_OPTIONS);
    }
    c->options = lm_realloc(c->options, (c->n_options + n + 1) * sizeof *c->options);
    for (uint32_t i = 0; i < n; i++) c->options[c->n_options++] = words[i];
    c->options[c->n_options] = NULL;
    free(words);
    return LM_OK;
}

static lm_status add_environment(service_config *c, lm_str name, lm_str value, uint32_t line, lm_err *err) {
    bool good = name.len < 200 && (name.ptr[0] < '0' || name.ptr[0] > '9');
    for (size_t i = 0; good && i < name.len; i++) {
        char ch = name.ptr[i];
        good = (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '_';
    }
    if (!good) return lm_fail(err, LM_INVALID, "\"%.*s\" is no name of a variable", LM_STR_ARG(name));
    if (value.len && memchr(value.ptr, '\0', value.len))
        return lm_fail(err, LM_INVALID, "%.*s holds a NUL byte", LM_STR_ARG(name));
    if (c->n_environment == MAX_ENVIRONMENT)
        return lm_fail(err, LM_INVALID, "more than %d variables", MAX_ENVIRONMENT);
    c->environment = lm_realloc(c->environment, (c->n_environment + 1) * sizeof *c->environment);
    c->environment[c->n_environment++] = (service_pair){lm_str_dup(name), lm_str_dup(value), line};
    return LM_OK;
}

static lm_status unknown(lm_str section, lm_str key, lm_err *err) {
    for (int k = 0; k < SET_COUNT; k++)
        if (lm_str_eq(key, lm_str_of(settings[k].key)))
            return lm_fail(err, LM_INVALID, "%s belongs into [%s]", settings[k].key, settings[k].section);
    return lm_fail(err, LM_INVALID,
                   "there is no setting \"%.*s\" in [%.*s]: `mlx-server-startup config` shows all there are",
                   LM_STR_ARG(key), LM_STR_ARG(section));
}

static lm_status take_line(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err) {
    reading *r = ctx;
    if (!key.len) {
        bool known = lm_str_eq(section, LM_STR("environment"));
        for (int k = 0; k < SET_COUNT && !known; k++)
            known = lm_str_eq(section, lm_str_of(settings[k].section));
        return known ? LM_OK
                     : lm_fail(err, LM_INVALID,
                               "there is no section [%.*s]: there are bridge, environment, logs, supervisor "
                               "and units",
                               LM_STR_ARG(section));
    }
    if (lm_str_eq(section, LM_STR("environment")))
        return add_environment(r->c, key, value, line_of(r, key.ptr), err);
    for (int k = 0; k < SET_COUNT; k++) {
        if (!lm_str_eq(section, lm_str_of(settings[k].section)) ||
            !lm_str_eq(key, lm_str_of(settings[k].key)))
            continue;
        lm_status st = k == SET_OPTIONS ? add_options(r->c, value, err) : LM_OK;
        return st == LM_OK ? take_value(r->c, (service_key)k, value, line_of(r, key.ptr), err) : st;
    }
    return unknown(section, key, err);
}

static void place_file(service_config *c, service_key k, const char *name) {
    if (c->v[k].text[0]) return;
    bool state = k == SET_STATE || !strcmp(service_text(c, SET_PLACE), "state");
    free(c->v[k].text);
    c->v[k].text = state ? lm_path_state(name) : lm_path_join("/tmp", name);
}

lm_status service_config_parse(const char *name, lm_str text, service_config *out, lm_err *err) {
    service_config c = {.path = lm_strdup(name)};
    lm_status st = LM_OK;
    c.options = lm_alloc(sizeof *c.options);
    for (int k = 0; k < SET_COUNT && st == LM_OK; k++)
        st = take_value(&c, (service_key)k, lm_str_of(settings[k].value), 0, err);
    LM_ASSERT(st == LM_OK);
    reading r = {&c, text.ptr};
    st = lm_ini_parse(name, text, take_line, &r, err);
    if (st == LM_OK && service_number(&c, SET_BACKOFF_MAX) < service_number(&c, SET_BACKOFF))
        st = lm_fail(err, LM_INVALID, "%s: backoff-max is shorter than backoff", name);
    if (st != LM_OK) {
        service_config_release(&c);
        return st;
    }
    place_file(&c, SET_LOG, "mlx-bridge.log");
    place_file(&c, SET_ERROR_LOG, "mlx-bridge-error.log");
    place_file(&c, SET_PID, "mlx-bridge.pid");
    place_file(&c, SET_STATE, "service.json");
    *out = c;
    return LM_OK;
}

lm_status service_config_read(const char *path, service_config *out, lm_err *err) {
    char *own = path ? lm_strdup(path) : lm_path_config("service.ini");
    lm_buf text;
    lm_buf_init(&text, MAX_FILE + 1);
    lm_status st = lm_file_read(own, MAX_FILE, &text, err);
    bool found = st == LM_OK;
    if (st == LM_NOT_FOUND && !path) st = LM_OK; /* one that was named must be there */
    if (st == LM_OK) st = service_config_parse(own, lm_buf_view(&text), out, err);
    if (st == LM_OK) out->found = found;
    lm_buf_release(&text);
    free(own);
    return st;
}

void service_config_release(service_config *c) {
    for (int k = 0; k < SET_COUNT; k++) free(c->v[k].text);
    for (uint32_t i = 0; i < c->n_options; i++) free(c->options[i]);
    for (uint32_t i = 0; i < c->n_environment; i++) {
        free(c->environment[i].name);
        free(c->environment[i].value);
    }
    free(c->options);
    free(c->environment);
    free(c->path);
    *c = (service_config){0};
}

bool service_config_other_bridge(const service_config *a, const service_config *b) {
    static const service_key keys[] = {SET_PROGRAM,  SET_HOST,       SET_PORT,      SET_DRAIN,
                                       SET_WATCHDOG, SET_STEP_LIMIT, SET_LOAD_LIMIT};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (a->v[keys[i]].n != b->v[keys[i]].n || strcmp(a->v[keys[i]].text, b->v[keys[i]].text) != 0)
            return true;
    if (a->n_options != b->n_options || a->n_environment != b->n_environment) return true;
    for (uint32_t i = 0; i < a->n_options; i++)
        if (strcmp(a->options[i], b->options[i]) != 0) return true;
    for (uint32_t i = 0; i < a->n_environment; i++)
        if (strcmp(a->environment[i].name, b->environment[i].name) != 0 ||
            strcmp(a->environment[i].value, b->environment[i].value) != 0)
            return true;
    return false;
}

lm_status service_bridge_program(const service_config *c, char **path, lm_err *err) {
    const char *named = service_text(c, SET_PROGRAM);
    if (named[0]) {
        if (access(named, X_OK) || !lm_path_is_file(named))
            return lm_fail(err, LM_NOT_FOUND, "%s is no program that can be run: see `program` in %s", named,
                           c->path);
        *path = lm_strdup(named);
        return LM_OK;
    }
    char self[PATH_MAX];
    if (lm_program_path(self)) {
        char *slash = strrchr(self, '/');
        if (slash) *slash = '\0';
        char *beside = lm_path_join(self, "mlx-ollama-bridge");
        if (!access(beside, X_OK) && lm_path_is_file(beside)) {
            *path = beside;
            return LM_OK;
        }
        free(beside);
    }
    char *dirs = lm_strdup(getenv("PATH") ? getenv("PATH") : "/usr/local/bin:/usr/bin:/bin"), *rest = dirs;
    for (char *dir; (dir = strsep(&rest, ":"));) {
        if (dir[0] != '/') continue;
        char *there = lm_path_join(dir, "mlx-ollama-bridge");
        if (!access(there, X_OK) && lm_path_is_file(there)) {
            free(dirs);
            *path = there;
            return LM_OK;
        }
        free(there);
    }
    free(dirs);
    return lm_fail(
        err, LM_NOT_FOUND,
        "mlx-ollama-bridge is neither beside this program nor on PATH: install it, or set `program` in %s",
        c->path);
}

/* ---- shown */

/* A name that looks as if its value should not be read by others. */
static bool looks_secret(const char *name) {
    return strstr(name, "TOKEN") || strstr(name, "SECRET") || strstr(name, "PASSWORD") ||
           strstr(name, "API_KEY");
}

/* The options of all lines, each as the bridge gets it. */
static json_t *words_of(const service_config *c) {
    json_t *words = json_array();
    for (uint32_t i = 0; i < c->n_options; i++) json_array_append_new(words, json_string(c->options[i]));
    return words;
}

static void print_json(const service_config *c) {
    json_t *doc = json_object(), *all = json_object(), *env = json_object();
    for (int k = 0; k < SET_COUNT; k++) {
        json_t *section = json_object_get(all, settings[k].section);
        if (!section) json_object_set_new(all, settings[k].section, section = json_object());
        json_t *one = json_pack("{s:s?,s:b}", "value", c->v[k].text, "default", c->v[k].line == 0);
        if (one && c->v[k].line) json_object_set_new(one, "line", json_integer(c->v[k].line));
        if (one && k == SET_OPTIONS) json_object_set_new(one, "words", words_of(c));
        json_object_set_new(section, settings[k].key, one ? one : json_null());
    }
    for (uint32_t i = 0; i < c->n_environment; i++)
        json_object_set_new(
            env, c->environment[i].name,
            json_string(looks_secret(c->environment[i].name) ? "(hidden)" : c->environment[i].value));
    json_object_set_new(doc, "file", json_string(c->path));
    json_object_set_new(doc, "found", json_boolean(c->found));
    json_object_set_new(doc, "settings", all);
    json_object_set_new(doc, "environment", env);
    json_dumpf(doc, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(doc);
}

void service_config_print(const service_config *c, bool json) {
    if (json) {
        print_json(c);
        return;
    }
    printf("# %s%s\n", c->path,
           c->found ? "" : " (there is none: `mlx-server-startup config --init` writes one)");
    for (int k = 0; k < SET_COUNT; k++) {
        if (k == 0 || strcmp(settings[k].section, settings[k - 1].section) != 0)
            printf("\n[%s]\n", settings[k].section);
        char from[32] = "default";
        if (c->v[k].line) snprintf(from, sizeof from, "line %u", c->v[k].line);
        if (k == SET_OPTIONS && c->n_options) {
            printf("options =");
            for (uint32_t i = 0; i < c->n_options; i++) printf(" %s", c->options[i]);
            printf("    # %s\n", from);
            continue;
        }
        printf("%s = %s    # %s\n", settings[k].key, c->v[k].text, from);
    }
    printf("\n[environment]\n");
    for (uint32_t i = 0; i < c->n_environment; i++)
        printf("%s = %s    # line %u\n", c->environment[i].name,
               looks_secret(c->environment[i].name) ? "(hidden)" : c->environment[i].value,
               c->environment[i].line);
}

void service_config_template(lm_buf *out) {
    lm_buf_text(out, "# Configuration of mlx-server-startup: how it keeps mlx-ollama-bridge running.\n"
                     "# Everything here is the default. `mlx-server-startup config` shows what is in effect, "
                     "and from where;\n"
                     "# `mlx-server-startup reload` takes changes over. Upgrades leave this file alone.\n");
    for (int k = 0; k < SET_COUNT; k++) {
        if (k == 0 || strcmp(settings[k].section, settings[k - 1].section) != 0)
            lm_buf_printf(out, "\n[%s]\n", settings[k].section);
        lm_buf_printf(out, "# %s\n# %s = %s\n", settings[k].help, settings[k].key, settings[k].value);
    }
    lm_buf_text(out,
                "\n[environment]\n"
                "# Variables for the bridge (mlx-ollama-bridge --help lists those it reads). No secrets: a "
                "token for the\n"
                "# Hugging Face hub is read from ~/.cache/huggingface/token, where others cannot see it.\n"
                "# OLLAMA_KEEP_ALIVE = 5m\n");
}
