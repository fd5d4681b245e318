/* aliases.c - the table of Ollama names and the repositories behind them, read from plain INI files.
 *
 *     [aliases]
 *     name:tag = org/repo, org/other     the first that is on this disk
 *     [default-tags]
 *     name = tag                         what the bare name means
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/private.h"

#define MAX_BYTES   (1u << 20)
#define MAX_ALIASES 8192

enum ini_section { NO_SECTION, ALIASES, DEFAULT_TAGS };

static lm_str take_line(lm_str *rest) {
    const char *end = memchr(rest->ptr, '\n', rest->len);
    size_t len = end ? (size_t)(end - rest->ptr) : rest->len;
    lm_str line = {rest->ptr, len};
    size_t used = end ? len + 1 : len;
    *rest = (lm_str){rest->ptr + used, rest->len - used};
    return lm_str_trim(line);
}

/* "a = b" in two; false without '=' or with an empty side. */
static bool take_pair(lm_str line, lm_str *key, lm_str *value) {
    const char *eq = memchr(line.ptr, '=', line.len);
    if (!eq) return false;
    *key = lm_str_trim((lm_str){line.ptr, (size_t)(eq - line.ptr)});
    *value = lm_str_trim((lm_str){eq + 1, line.len - (size_t)(eq - line.ptr) - 1});
    return key->len && value->len;
}

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

static lm_status add_line(lm_aliases *a, lm_str line, enum ini_section *section, lm_err *err) {
    lm_str key, value;

    if (line.len == 0 || line.ptr[0] == '#' || line.ptr[0] == ';') return LM_OK;
    if (line.ptr[0] == '[') {
        if (lm_str_eq(line, LM_STR("[aliases]")))
            *section = ALIASES;
        else if (lm_str_eq(line, LM_STR("[default-tags]")))
            *section = DEFAULT_TAGS;
        else
            return lm_fail(err, LM_INVALID,
                           "unknown section " LM_STR_FMT ", there are [aliases] and [default-tags]",
                           LM_STR_ARG(line));
        return LM_OK;
    }
    if (!take_pair(line, &key, &value)) return lm_fail(err, LM_INVALID, "expected: name = value");
    switch (*section) {
    case ALIASES: return add_alias(a, key, value, err);
    case DEFAULT_TAGS: return add_default_tag(a, key, value, err);
    case NO_SECTION: break;
    }
    return lm_fail(err, LM_INVALID, "write [aliases] or [default-tags] before the first entry");
}

lm_status lm_aliases_read(lm_aliases *a, const char *path, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, MAX_BYTES);
    lm_status st = lm_file_read(path, MAX_BYTES, &text, err);
    enum ini_section section = NO_SECTION;
    lm_str rest = lm_buf_view(&text);
    if (lm_str_starts(rest, LM_STR("\xef\xbb\xbf"))) rest = (lm_str){rest.ptr + 3, rest.len - 3};

    for (int line = 1; st == LM_OK && rest.len; line++) {
        st = add_line(a, take_line(&rest), &section, err);
        if (st != LM_OK) lm_fail_in(err, st, "%s line %d", path, line);
    }
    a->n_files++;
    lm_buf_release(&text);
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

lm_status lm_aliases_installed(char **path, lm_err *err) {
    char program[PATH_MAX];
    if (!lm_program_path(program)) return lm_fail(err, LM_IO, "cannot find out where this program lies");
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(program, '/');
        if (slash) *slash = '\0';
    }
    *path = lm_path_join(program, "share/mlx-ollama/aliases.ini");
    return LM_OK;
}
