/* twins.c - which names mean the same model.
 *
 * The alias table goes both ways here: from an Ollama name to its repositories, and from a repository to the names that
 * have it. Both are asked for with each request, so the table is laid out once as two sorted lists. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "router/catalog.h"

typedef struct entry {
    char *key; /* as catalog_key */
    const lm_alias *alias;
    uint32_t at; /* of repositories: which one of the alias's */
} entry;

typedef struct tag_entry {
    char *key; /* NAME:latest */
    const lm_name *name;
} tag_entry;

struct twin_index {
    entry *names, *repos;
    uint32_t n_names, n_repos;
    tag_entry *tags;
    uint32_t n_tags;
};

static char *key_of(const lm_name *name) {
    char key[CATALOG_KEY];
    catalog_key(name, key);
    return lm_strdup(key);
}

/* The same repository: where it is the first choice before where it is the second; the table's order otherwise. */
static int by_key(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    if (order) return order;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->alias < y->alias ? -1 : x->alias > y->alias;
}

static int tags_by_key(const void *a, const void *b) {
    return strcmp(((const tag_entry *)a)->key, ((const tag_entry *)b)->key);
}

twin_index *twin_index_make(const lm_aliases *aliases) {
    twin_index *t = lm_alloc(sizeof *t);
    size_t n_repos = 0;
    for (uint32_t i = 0; i < aliases->n; i++) n_repos += aliases->items[i].n_repos;
    t->names = lm_alloc((aliases->n + 1) * sizeof *t->names);
    t->repos = lm_alloc((n_repos + 1) * sizeof *t->repos);
    t->tags = lm_alloc((aliases->n_tags + 1) * sizeof *t->tags);
    for (uint32_t i = 0; i < aliases->n; i++) {
        const lm_alias *a = &aliases->items[i];
        t->names[t->n_names++] = (entry){key_of(&a->name), a, 0};
        for (uint32_t k = 0; k < a->n_repos; k++)
            t->repos[t->n_repos++] = (entry){key_of(&a->repos[k]), a, k};
    }
    for (uint32_t i = 0; i < aliases->n_tags; i++) {
        lm_name plain = aliases->tags[i].name;
        snprintf(plain.tag, sizeof plain.tag, "%s", LM_DEFAULT_TAG);
        t->tags[t->n_tags++] = (tag_entry){key_of(&plain), &aliases->tags[i].name};
    }
    qsort(t->names, t->n_names, sizeof *t->names, by_key);
    qsort(t->repos, t->n_repos, sizeof *t->repos, by_key);
    qsort(t->tags, t->n_tags, sizeof *t->tags, tags_by_key);
    return t;
}

void twin_index_free(twin_index *t) {
    if (!t) return;
    for (uint32_t i = 0; i < t->n_names; i++) free(t->names[i].key);
    for (uint32_t i = 0; i < t->n_repos; i++) free(t->repos[i].key);
    for (uint32_t i = 0; i < t->n_tags; i++) free(t->tags[i].key);
    free(t->names);
    free(t->repos);
    free(t->tags);
    free(t);
}

/* The first of those with this name; NULL: none. The others follow it. */
static const entry *first_of(const entry *list, uint32_t n, const lm_name *name) {
    char key[CATALOG_KEY];
    catalog_key(name, key);
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (strcmp(list[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && !strcmp(list[low].key, key) ? &list[low] : NULL;
}

/* ---- the list that is being made */

typedef struct made {
    twin *out;
    uint32_t n;
} made;

static void add(made *m, const lm_name *name, twin_why why) {
    if (m->n == TWINS_MAX) return;
    for (uint32_t i = 0; i < m->n; i++)
        if (lm_name_same(&m->out[i].name, name)) return;
    m->out[m->n++] = (twin){*name, why};
}

static lm_name with_host(const lm_name *name, const char *host) {
    lm_name n = *name;
    snprintf(n.host, sizeof n.host, "%s", host);
    return n;
}

static bool is_default_host(const lm_name *n) {
    return !strcasecmp(n->host, LM_DEFAULT_HOST);
}

/* org/repo, which Ollama's own library does not have. */
static bool is_repo(const lm_name *n) {
    return lm_name_is_hub(n) || (is_default_host(n) && strcasecmp(n->ns, LM_DEFAULT_NS) != 0);
}

static void add_repo(made *m, const lm_name *repo, twin_why plain, twin_why hub) {
    static const char *const hosts[] = {LM_DEFAULT_HOST, "hf.co", "huggingface.co"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        lm_name n = with_host(repo, hosts[i]);
        add(m, &n, i ? hub : plain);
    }
}

/* What "latest" of this name stands for; false: nothing is said. */
static bool tagged(const twin_index *t, const lm_name *name, lm_name *out) {
    char key[CATALOG_KEY];
    catalog_key(name, key);
    tag_entry wanted = {.key = key};
    const tag_entry *found = bsearch(&wanted, t->tags, t->n_tags, sizeof *t->tags, tags_by_key);
    if (found) *out = *found->name;
    return found != NULL;
}

static void add_other_tag(const twin_index *t, made *m, const lm_name *name, twin_why why) {
    lm_name meant, latest = *name;
    snprintf(latest.tag, sizeof latest.tag, "%s", LM_DEFAULT_TAG);
    if (!tagged(t, &latest, &meant)) return;
    if (lm_name_same(name, &latest))
        add(m, &meant, why);
    else if (lm_name_same(name, &meant))
        add(m, &latest, why);
}

static void add_repos_of(const twin_index *t, made *m, const lm_name *name) {
    const entry *e = first_of(t->names, t->n_names, name);
    for (uint32_t i = 0; e && i < e->alias->n_repos; i++)
        add_repo(m, &e->alias->repos[i], TWIN_ALIAS, TWIN_ALIAS);
}

static void add_names_of(const twin_index *t, made *m, const lm_name *repo) {
    lm_name plain = with_host(repo, LM_DEFAULT_HOST);
    const entry *end = t->repos + t->n_repos;
    for (const entry *e = first_of(t->repos, t->n_repos, &plain), *first = e;
         e && e < end && !strcmp(e->key, first->key); e++) {
        add(m, &e->alias->name, TWIN_NAMED);
        add_other_tag(t, m, &e->alias->name, TWIN_NAMED);
    }
}

uint32_t twins_of(const twin_index *t, const lm_name *name, twin out[TWINS_MAX]) {
    made m = {out, 0};
    add(&m, name, TWIN_SELF);
    if (is_repo(name)) add_repo(&m, name, TWIN_HUB, TWIN_HUB);
    add_other_tag(t, &m, name, TWIN_TAG);
    uint32_t own = m.n; /* the name, as it may be spelled */
    for (uint32_t i = 0; i < own; i++) add_repos_of(t, &m, &out[i].name);
    if (is_repo(name)) add_names_of(t, &m, name);
    return m.n;
}

bool twin_is_mlx_repo(const twin_index *t, const lm_name *name) {
    lm_name plain = with_host(name, LM_DEFAULT_HOST);
    return is_repo(name) &&
           (!strcasecmp(name->ns, "mlx-community") || first_of(t->repos, t->n_repos, &plain) != NULL);
}
