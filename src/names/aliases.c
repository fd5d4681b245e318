/* aliases.c - the table of Ollama names and the repositories behind them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/ini.h"
#include "names/names.h"

#define MAX_BYTES   (1u << 20)
#define MAX_ALIASES 8192

static void *grow(void *items, uint32_t n, uint32_t *room, size_t size) {
    if (n < *room) return items;
    *room = *room ? *room * 2 : 32;
    return lm_realloc(items, *room * size);
}

/* "7b-instruct-q4_K_M", "8b-q8_0", "1b-fp16" */
static bool names_a_form(const char *tag) {
    static const char *const forms[] = {"-q4_K_M", "-q8_0", "-fp16"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (lm_str_ends(lm_str_of(tag), lm_str_of(forms[i]))) return true;
    return false;
}

/* "org/one, org/two" into repos, which has room for LM_MAX_CANDIDATES. */
static lm_status read_repos(lm_str value, lm_name *repos, uint32_t *n_repos, lm_err *err) {
    *n_repos = 0;
    while (value.len) {
        const char *comma = memchr(value.ptr, ',', value.len);
        size_t len = comma ? (size_t)(comma - value.ptr) : value.len;
        lm_str repo = lm_str_trim((lm_str){value.ptr, len});
        size_t used = comma ? len + 1 : len;
        value = (lm_str){value.ptr + used, value.len - used};

        if (*n_repos == LM_MAX_CANDIDATES)
            return lm_fail(err, LM_INVALID, "more than %d repositories for one name", LM_MAX_CANDIDATES);
        lm_name *n = &repos[*n_repos];
        if (lm_name_parse(repo, n, NULL) != LM_OK || strcmp(n->ns, LM_DEFAULT_NS) == 0)
            return lm_fail(err, LM_INVALID,
                           "'" LM_STR_FMT "' is not a repository, write organisation/repository",
                           LM_STR_ARG(repo));
        snprintf(n->host, sizeof n->host, "%s", LM_DEFAULT_HOST);
        ++*n_repos;
    }
    return LM_OK;
}

static lm_status add_alias(lm_aliases *a, lm_str key, lm_str value, lm_err *err) {
    lm_alias alias = {.shipped = a->n_files == 0};
    lm_name repos[LM_MAX_CANDIDATES];
    if (lm_name_parse(key, &alias.name, NULL) != LM_OK)
        return lm_fail(err, LM_INVALID, "'" LM_STR_FMT "' is not a model name", LM_STR_ARG(key));
    lm_status st = read_repos(value, repos, &alias.n_repos, err);
    if (st != LM_OK) return st;
    alias.form = alias.shipped && names_a_form(alias.name.tag);

    uint32_t at = 0;
    while (at < a->n && !lm_name_same(&a->items[at].name, &alias.name)) at++;
    if (at == MAX_ALIASES) return lm_fail(err, LM_TOO_LARGE, "more than %d aliases", MAX_ALIASES);
    alias.repos = lm_alloc(alias.n_repos * sizeof *repos);
    memcpy(alias.repos, repos, alias.n_repos * sizeof *repos);
    if (at < a->n) {
        free(a->items[at].repos);
        a->items[at] = alias;
        return LM_OK;
    }
    a->items = grow(a->items, a->n, &a->room, sizeof *a->items);
    a->items[a->n++] = alias;
    return LM_OK;
}

static lm_status add_default_tag(lm_aliases *a, lm_str key, lm_str value, lm_err *err) {
    lm_default_tag tag = {0};
    lm_name check;
    char name[200];

    if (lm_name_parse(key, &tag.name, NULL) != LM_OK || strcmp(tag.name.tag, LM_DEFAULT_TAG) != 0)
        return lm_fail(err, LM_INVALID, "'" LM_STR_FMT "' is not a model name without a tag",
                       LM_STR_ARG(key));
    snprintf(name, sizeof name, "m:%.*s", (int)(value.len < 100 ? value.len : 100), value.ptr);
    if (lm_name_parse(lm_str_of(name), &check, NULL) != LM_OK)
        return lm_fail(err, LM_INVALID, "'" LM_STR_FMT "' is not a tag", LM_STR_ARG(value));
    for (uint32_t i = 0; i < a->n_tags; i++) {
        lm_name plain = a->tags[i].name;
        snprintf(plain.tag, sizeof plain.tag, "%s", LM_DEFAULT_TAG);
        if (!lm_name_same(&plain, &tag.name)) continue;
        snprintf(a->tags[i].name.tag, sizeof check.tag, "%s", check.tag);
        return LM_OK;
    }
    if (a->n_tags == MAX_ALIASES) return lm_fail(err, LM_TOO_LARGE, "more than %d default tags", MAX_ALIASES);
    snprintf(tag.name.tag, sizeof tag.name.tag, "%s", check.tag);
    a->tags = grow(a->tags, a->n_tags, &a->room_tags, sizeof *a->tags);
    a->tags[a->n_tags++] = tag;
    return LM_OK;
}

static lm_status add_line(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err) {
    lm_aliases *a = ctx;
    bool aliases = lm_str_eq(section, LM_STR("aliases")), tags = lm_str_eq(section, LM_STR("default-tags"));
    if (!section.len)
        return lm_fail(err, LM_INVALID, "write [aliases] or [default-tags] before the first entry");
    if (!aliases && !tags)
        return lm_fail(err, LM_INVALID,
                       "unknown section [" LM_STR_FMT "], there are [aliases] and [default-tags]",
                       LM_STR_ARG(section));
    if (!key.len) return LM_OK;
    if (!value.len) return lm_fail(err, LM_INVALID, "expected: name = value");
    return aliases ? add_alias(a, key, value, err) : add_default_tag(a, key, value, err);
}

lm_status lm_aliases_read(lm_aliases *a, const char *path, lm_err *err) {
    lm_status st = lm_ini_read(path, MAX_BYTES, add_line, a, err);
    a->n_files++;
    return st;
}

/* ../share/mlx-ollama/aliases.ini, seen from the running program; the build lays the same tree. */
static lm_status installed(char **path, lm_err *err) {
    char program[PATH_MAX];
    if (!lm_program_path(program)) return lm_fail(err, LM_IO, "cannot find out where this program lies");
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(program, '/');
        if (slash) *slash = '\0';
    }
    *path = lm_path_join(program, "share/mlx-ollama/aliases.ini");
    return LM_OK;
}

lm_status lm_aliases_open(lm_aliases *a, const char *given, lm_err *err) {
    if (given) return lm_aliases_read(a, given, err);

    char *path = NULL;
    lm_status st = installed(&path, err);
    if (st == LM_OK) st = lm_aliases_read(a, path, err);
    if (st == LM_NOT_FOUND) lm_fail(err, st, "%s is missing: install mlx-ollama again", path);
    free(path);
    if (st != LM_OK) return st;

    path = lm_path_config("aliases.ini");
    st = lm_path_is_file(path) ? lm_aliases_read(a, path, err) : LM_OK;
    free(path);
    return st;
}

void lm_aliases_release(lm_aliases *a) {
    for (uint32_t i = 0; i < a->n; i++) free(a->items[i].repos);
    free(a->items);
    free(a->tags);
    *a = (lm_aliases){0};
}

const lm_alias *lm_aliases_find(const lm_aliases *a, const lm_name *name) {
    for (uint32_t i = 0; i < a->n; i++) {
        if (lm_name_same(&a->items[i].name, name)) return &a->items[i];
    }
    return NULL;
}

const char *lm_aliases_default_tag(const lm_aliases *a, const lm_name *name) {
    for (uint32_t i = 0; i < a->n_tags; i++) {
        lm_name plain = a->tags[i].name;
        snprintf(plain.tag, sizeof plain.tag, "%s", LM_DEFAULT_TAG);
        if (lm_name_same(&plain, name)) return a->tags[i].name.tag;
    }
    return NULL;
}
