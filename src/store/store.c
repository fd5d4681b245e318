/* store.c - the places, the walk through them, and finding and listing on top of it. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/own.h"

#define MAX_DEPTH 4

/* ---- open ------------------------------------------------------------------------------------------------ */

/* Takes dir over. */
static void add_place(lm_store *s, char *dir, lm_place_kind kind) {
    s->places = lm_realloc(s->places, (s->n_places + 1) * sizeof *s->places);
    s->places[s->n_places++] = (lm_place){dir, kind, kind == LM_PLACE_OWN ? dir : s->places[0].dir};
}

static const char *env(const char *name) {
    const char *v = getenv(name);
    return v && v[0] ? v : NULL;
}

char *lm_store_hub_cache(void) {
    if (env("HF_HUB_CACHE")) return lm_strdup(env("HF_HUB_CACHE"));
    if (env("HUGGINGFACE_HUB_CACHE")) return lm_strdup(env("HUGGINGFACE_HUB_CACHE"));
    if (env("HF_HOME")) return lm_path_join(env("HF_HOME"), "hub");
    if (env("XDG_CACHE_HOME")) return lm_path_join(env("XDG_CACHE_HOME"), "huggingface/hub");
    return lm_path_home(".cache/huggingface/hub");
}

/* Links lead there from views in the own store, so its path is a whole one. Our own store is none of
 * Ollama's. */
static void add_ollama(lm_store *s, const char *dir) {
    char *real = realpath(dir, NULL), *own = realpath(s->places[0].dir, NULL);
    if (!real && dir[0] == '/') real = lm_strdup(dir); /* it may come later */
    if (real && strcmp(real, own ? own : s->places[0].dir))
        add_place(s, real, LM_PLACE_OLLAMA);
    else
        free(real);
    free(own);
}

/* As Ollama looks for it: a user's, and the one of a service on Linux. */
static void add_ollamas(lm_store *s) {
    if (env("OLLAMA_MODELS")) {
        add_ollama(s, env("OLLAMA_MODELS"));
        return;
    }
    char *home = lm_path_home(".ollama/models");
    add_ollama(s, home);
    add_ollama(s, "/usr/share/ollama/.ollama/models");
    free(home);
}

lm_status lm_store_open(lm_store **out, const lm_store_config *config, lm_err *err) {
    const lm_store_config none = {0};
    if (!config) config = &none;

    lm_store *s = lm_alloc(sizeof *s);
    s->gguf = config->gguf;
    add_place(s, config->own_dir ? lm_strdup(config->own_dir) : lm_path_home(".mlx-ollama/models"),
              LM_PLACE_OWN);
    for (uint32_t i = 0; i < config->n_roots; i++) {
        char *real = realpath(config->roots[i], NULL); /* a later chdir must not matter */
        add_place(s, real ? real : lm_strdup(config->roots[i]), LM_PLACE_DIRS);
    }
    add_place(s, lm_path_home("workspace/mlx"), LM_PLACE_DIRS);
    add_place(s, lm_path_home(".lmstudio/models"), LM_PLACE_STUDIO);
    add_place(s, lm_path_home(".cache/lm-studio/models"), LM_PLACE_STUDIO);
    add_place(s, lm_store_hub_cache(), LM_PLACE_DIRS);
    add_ollamas(s);

    lm_status st = lm_aliases_open(&s->aliases, config->aliases, err);
    if (st != LM_OK) {
        lm_store_close(s);
        return st;
    }
    *out = s;
    return LM_OK;
}

void lm_store_close(lm_store *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->n_places; i++) free(s->places[i].dir);
    free(s->places);
    lm_aliases_release(&s->aliases);
    free(s);
}

/* ---- walk ------------------------------------------------------------------------------------------------ */

typedef struct walk {
    const lm_place *place;
    const lm_name *want;
    lm_place_visit *visit;
    void *ctx;
    uint32_t max_depth;
    bool stop;
    const char *parts[MAX_DEPTH]; /* directory names from the place down */
    struct stat above[MAX_DEPTH]; /* of the directories that are open now, to see a link that leads back up */
} walk;

/* The name that n directory parts spell. */
static bool spell(const char *const *parts, uint32_t n, lm_name *out) {
    lm_name name = {LM_DEFAULT_HOST, LM_DEFAULT_NS, "", LM_DEFAULT_TAG};
    if (n <= 2) {
        bool ok = n == 1 || lm_name_part(parts[0], true, name.ns);
        if (!ok || !lm_name_part(parts[n - 1], false, name.model)) return false;
        *out = name;
        return true;
    }
    char text[1100];
    int len = snprintf(text, sizeof text, "%s/%s/%s%s%s", parts[0], parts[1], parts[2], n == 4 ? ":" : "",
                       n == 4 ? parts[3] : "");
    return len > 0 && (size_t)len < sizeof text &&
           lm_name_parse((lm_str){text, (size_t)len}, out, NULL) == LM_OK;
}

/* Could a directory of `depth` parts below these n be the wanted model? */
static bool leads_to(const walk *w, uint32_t n, uint32_t depth) {
    const lm_name *want = w->want;
    const char *full[MAX_DEPTH] = {want->host, want->ns, want->model, want->tag};
    char ns[84];
    if (depth == 2) return lm_name_part(w->parts[0], true, ns) && strcasecmp(ns, want->ns) == 0;
    for (uint32_t i = 0; i < n; i++) {
        if (strcasecmp(w->parts[i], full[i]) != 0) return false;
    }
    return true;
}

static bool descend(const walk *w, uint32_t n) {
    if (!w->want) return n < w->max_depth;
    for (uint32_t depth = n + 1; depth <= w->max_depth; depth++) {
        if (leads_to(w, n, depth)) return true;
    }
    return false;
}

static void found(walk *w, const lm_name *name, const char *dir) {
    lm_entry entry;
    if (!lm_look(dir, &entry)) return;
    entry.owned = w->place->kind == LM_PLACE_OWN;
    lm_name_short(name, entry.name);
    w->stop = !w->visit(w->ctx, name, &entry);
}

/* models--org--repo */
static void visit_hub(walk *w, const char *dir, const char *file) {
    char org[84], dirs[1024];
    const char *rest = file + strlen("models--"), *cut = strstr(rest, "--");
    const char *parts[2] = {org, cut ? cut + 2 : rest};
    lm_name name;

    if (cut) {
        if ((size_t)(cut - rest) >= sizeof org) return;
        snprintf(org, sizeof org, "%.*s", (int)(cut - rest), rest);
    }
    if (!spell(cut ? parts : parts + 1, cut ? 2 : 1, &name)) return;
    if (w->want && !lm_name_same(w->want, &name)) return;
    if (lm_look_hub(dir, dirs)) found(w, &name, dirs);
}

static void walk_dir(walk *w, const char *dir, uint32_t depth);

static void visit_entry(walk *w, const char *dir, const char *file, uint32_t depth) {
    lm_name name;
    char *path = lm_path_join(dir, file), *config = lm_path_join(path, "config.json");

    if (depth == 0 && w->place->kind != LM_PLACE_OWN && lm_str_starts(lm_str_of(file), LM_STR("models--"))) {
        visit_hub(w, path, file);
    } else {
        w->parts[depth] = file;
        if (access(config, F_OK) == 0) {
            if (spell(w->parts, depth + 1, &name) && (!w->want || lm_name_same(w->want, &name)))
                found(w, &name, path);
        } else if (descend(w, depth + 1)) {
            walk_dir(w, path, depth + 1);
        }
    }
    free(path);
    free(config);
}

static void walk_dir(walk *w, const char *dir, uint32_t depth) {
    DIR *d = opendir(dir);
    if (!d) return;
    struct stat *here = &w->above[depth];
    bool back = fstat(dirfd(d), here) != 0;
    for (uint32_t i = 0; i < depth && !back; i++) {
        back = w->above[i].st_dev == here->st_dev && w->above[i].st_ino == here->st_ino;
    }
    uint32_t seen = 0;
    for (struct dirent *e; !back && !w->stop && seen < LM_MAX_ENTRIES && (e = readdir(d)); seen++) {
        bool maybe = e->d_type == DT_DIR || e->d_type == DT_LNK || e->d_type == DT_UNKNOWN;
        if (depth == 0 && w->place->kind == LM_PLACE_OWN && lm_own_reserved(e->d_name)) continue;
        if (e->d_name[0] != '.' && maybe) visit_entry(w, dir, e->d_name, depth);
    }
    closedir(d);
}

/* A model of the own store that a manifest names. */
static bool visit_manifest(void *ctx, const lm_name *name, const char *path) {
    walk *w = ctx;
    lm_entry entry;
    if (!lm_view_entry(w->place->dir, path, &entry)) return true;
    lm_name_short(name, entry.name);
    w->stop = !w->visit(w->ctx, name, &entry);
    return !w->stop;
}

void lm_place_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx) {
    if (place->kind == LM_PLACE_OLLAMA) {
        lm_ollama_walk(place, false, want, visit, ctx);
        return;
    }
    bool own = place->kind == LM_PLACE_OWN;
    walk w = {.place = place, .want = want, .visit = visit, .ctx = ctx, .max_depth = own ? MAX_DEPTH : 2};
    char *config = lm_path_join(place->dir, "config.json");
    lm_name name;

    if (own) lm_manifests_walk(place->dir, want, visit_manifest, &w);
    if (w.stop) {
        free(config);
        return;
    }
    if (!own && access(config, F_OK) == 0) { /* a root may be a model itself */
        const char *slash = strrchr(place->dir, '/'), *last = slash ? slash + 1 : place->dir;
        if (spell(&last, 1, &name) && (!want || lm_name_same(want, &name))) found(&w, &name, place->dir);
    } else {
        walk_dir(&w, place->dir, 0);
    }
    free(config);
}

void lm_gguf_walk(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx) {
    if (place->kind == LM_PLACE_OLLAMA) lm_ollama_walk(place, true, want, visit, ctx);
    if (place->kind == LM_PLACE_STUDIO) lm_studio_walk(place, want, visit, ctx);
}

/* ---- find ------------------------------------------------------------------------------------------------ */

typedef struct lookup {
    const lm_tombs *tombs;
    const lm_name *as; /* the alias that is being followed, or NULL */
    void (*walk)(const lm_place *place, const lm_name *want, lm_place_visit *visit, void *ctx);
    lm_entry *out;
    bool found;
} lookup;

static bool take_first(void *ctx, const lm_name *name, const lm_entry *entry) {
    lookup *l = ctx;
    if (lm_tombs_has(l->tombs, l->as ? l->as : name, entry->dir)) return true;
    *l->out = *entry;
    if (l->as) {
        lm_name_short(l->as, l->out->name);
        l->out->owned = false; /* deleting an alias must not delete what another name owns */
    }
    l->found = true;
    return false;
}

static bool look_up(const lm_store *s, const lm_name *want, lookup *l) {
    for (uint32_t i = 0; i < s->n_places && !l->found; i++) l->walk(&s->places[i], want, take_first, l);
    return l->found;
}

/* A repository goes by org/repo, hf.co/org/repo and, where people keep plain directories, repo. */
static bool look_up_repo(const lm_store *s, const lm_name *repo, bool plain, lookup *l) {
    const char *hosts[] = {LM_DEFAULT_HOST, "hf.co", "huggingface.co"};
    lm_name want = *repo;
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        snprintf(want.host, sizeof want.host, "%s", hosts[i]);
        if (look_up(s, &want, l)) return true;
    }
    if (!plain) return false;
    snprintf(want.host, sizeof want.host, "%s", LM_DEFAULT_HOST);
    snprintf(want.ns, sizeof want.ns, "%s", LM_DEFAULT_NS);
    return look_up(s, &want, l);
}

static bool is_repo(const lm_name *n) {
    return lm_name_is_hub(n) ||
           (strcasecmp(n->host, LM_DEFAULT_HOST) == 0 && strcasecmp(n->ns, LM_DEFAULT_NS) != 0);
}

bool lm_store_find_exact(lm_store *s, const lm_name *name, lm_entry *out) {
    lm_tombs tombs;
    lm_tombs_load(&tombs, s->places[0].dir);
    lookup l = {.tombs = &tombs, .walk = lm_place_walk, .out = out};

    bool ok = look_up(s, name, &l) || (is_repo(name) && look_up_repo(s, name, false, &l));
    const lm_alias *alias = ok ? NULL : lm_aliases_find(&s->aliases, name);
    l.as = alias ? &alias->name : NULL;
    for (uint32_t i = 0; alias && i < alias->n_repos && !ok; i++)
        ok = look_up_repo(s, &alias->repos[i], true, &l);
    lm_tombs_release(&tombs);
    return ok;
}

bool lm_store_find_gguf(lm_store *s, const lm_name *name, lm_entry *out) {
    lm_tombs tombs;
    if (s->gguf == LM_GGUF_NEVER) return false;
    lm_tombs_load(&tombs, s->places[0].dir);
    lookup l = {.tombs = &tombs, .walk = lm_gguf_walk, .out = out};
    bool ok = look_up(s, name, &l) || (is_repo(name) && look_up_repo(s, name, false, &l));
    lm_tombs_release(&tombs);
    return ok;
}

/* What runs as it is comes before what has to be imported first, whatever its tag. */
lm_status lm_store_find(lm_store *s, const char *name, lm_entry *out, lm_err *err) {
    lm_name n, usual;
    lm_entry entry;
    lm_status st = lm_name_parse(lm_str_of(name), &n, err);
    if (st != LM_OK) return st;

    usual = n;
    const char *tag = lm_aliases_default_tag(&s->aliases, &n);
    if (tag) snprintf(usual.tag, sizeof usual.tag, "%s", tag);
    bool ok = lm_store_find_exact(s, &n, &entry) || (tag && lm_store_find_exact(s, &usual, &entry)) ||
              lm_store_find_gguf(s, &n, &entry) || (tag && lm_store_find_gguf(s, &usual, &entry));
    lm_entry made; /* a name may lead to a file that was imported under its whole name */
    if (ok && entry.gguf && lm_store_find_own(s, entry.name, &made, NULL) == LM_OK) entry = made;
    if (!ok) return lm_fail(err, LM_NOT_FOUND, "model '%s' not found", name);
    *out = entry;
    return LM_OK;
}

uint32_t lm_store_repos(const lm_store *s, const lm_name *name, lm_name *out, uint32_t room) {
    lm_name n = *name;
    const lm_alias *alias = lm_aliases_find(&s->aliases, &n);
    const char *tag = alias ? NULL : lm_aliases_default_tag(&s->aliases, &n);
    if (tag) {
        snprintf(n.tag, sizeof n.tag, "%s", tag);
        alias = lm_aliases_find(&s->aliases, &n);
    }
    if (alias) {
        uint32_t k = alias->n_repos < room ? alias->n_repos : room;
        memcpy(out, alias->repos, k * sizeof *out);
        return k;
    }
    if (!room || !is_repo(name)) return 0;
    *out = *name;
    return 1;
}

lm_status lm_store_find_own(lm_store *s, const char *name, lm_entry *out, lm_err *err) {
    lm_name n;
    lm_tombs none = {0};
    lookup l = {.tombs = &none, .out = out};
    lm_status st = lm_name_parse(lm_str_of(name), &n, err);
    if (st != LM_OK) return st;
    lm_place_walk(&s->places[0], &n, take_first, &l);
    return l.found ? LM_OK : lm_fail(err, LM_NOT_FOUND, "model '%s' not found", name);
}

/* ---- list ------------------------------------------------------------------------------------------------ */

typedef struct listing {
    const lm_tombs *tombs;
    lm_entry *entries;
    lm_name *names;
    uint32_t n, room;
    bool no_memory;
} listing;

static const lm_entry *listed(const listing *l, const lm_name *name) {
    for (uint32_t i = 0; i < l->n; i++) {
        if (lm_name_same(&l->names[i], name)) return &l->entries[i];
    }
    return NULL;
}

static bool more_room(listing *l) {
    uint32_t room = l->room ? l->room * 2 : 16;
    lm_entry *entries = realloc(l->entries, room * sizeof *entries);
    if (entries) l->entries = entries;
    lm_name *names = entries ? realloc(l->names, room * sizeof *names) : NULL;
    if (names) l->names = names;
    if (names) l->room = room;
    return names != NULL;
}

static bool add_entry(void *ctx, const lm_name *name, const lm_entry *entry) {
    listing *l = ctx;
    if (l->n == LM_MAX_MODELS) return false;
    if (listed(l, name) || lm_tombs_has(l->tombs, name, entry->dir)) return true; /* the first place wins */
    if (l->n == l->room && !more_room(l)) {
        l->no_memory = true;
        return false;
    }
    l->names[l->n] = *name;
    l->entries[l->n++] = *entry;
    return true;
}

/* The entry that lm_store_find would follow this alias to, in the same order; UINT32_MAX: none. */
static uint32_t entry_of_alias(const listing *l, uint32_t n_real, const lm_alias *alias) {
    for (uint32_t i = 0; i < alias->n_repos; i++) {
        const lm_name *repo = &alias->repos[i];
        for (uint32_t k = 0; k < n_real; k++) {
            const lm_name *have = &l->names[k];
            bool plain =
                strcasecmp(have->host, LM_DEFAULT_HOST) == 0 && strcasecmp(have->ns, LM_DEFAULT_NS) == 0;
            bool same = strcasecmp(have->model, repo->model) == 0 && strcasecmp(have->tag, repo->tag) == 0 &&
                        (plain || (is_repo(have) && strcasecmp(have->ns, repo->ns) == 0));
            if (same && !lm_tombs_has(l->tombs, &alias->name, l->entries[k].dir)) return k;
        }
    }
    return UINT32_MAX;
}

/* A name for one quantised form is listed only where the model has no other alias: each has a handful. */
static void add_alias_entry(listing *l, uint32_t n_real, bool *aliased, const lm_alias *alias) {
    uint32_t k = listed(l, &alias->name) ? UINT32_MAX : entry_of_alias(l, n_real, alias);
    if (k == UINT32_MAX || (alias->form && aliased[k])) return;
    aliased[k] = true;
    lm_entry entry = l->entries[k];
    lm_name_short(&alias->name, entry.name);
    entry.owned = false;
    add_entry(l, &alias->name, &entry);
}

static void add_aliases(listing *l, const lm_aliases *a) {
    uint32_t n_real = l->n;
    bool *aliased = lm_alloc(n_real + 1);
    for (int form = 0; form < 2; form++)
        for (uint32_t i = 0; i < a->n; i++)
            if (a->items[i].form == (form == 1)) add_alias_entry(l, n_real, aliased, &a->items[i]);
    free(aliased);
}

static int newest_first(const void *a, const void *b) {
    const lm_entry *x = a, *y = b;
    if (x->modified_ns != y->modified_ns) return x->modified_ns < y->modified_ns ? 1 : -1;
    return strcasecmp(x->name, y->name);
}

/* As lm_store_find: a GGUF file whose name leads to something that runs as it is does not show. */
typedef struct gguf_listing {
    listing *all;
    const lm_aliases *aliases;
    uint32_t n_real;
} gguf_listing;

static bool leads_elsewhere(const gguf_listing *g, const lm_name *name) {
    const lm_alias *alias = lm_aliases_find(g->aliases, name);
    for (uint32_t i = 0; i < g->n_real; i++)
        if (lm_name_same(&g->all->names[i], name)) return true;
    return alias && entry_of_alias(g->all, g->n_real, alias) != UINT32_MAX;
}

static bool add_gguf(void *ctx, const lm_name *name, const lm_entry *entry) {
    const gguf_listing *g = ctx;
    lm_name usual = *name;
    const char *tag = lm_aliases_default_tag(g->aliases, name);
    if (tag) snprintf(usual.tag, sizeof usual.tag, "%s", tag);
    if (leads_elsewhere(g, name) || (tag && leads_elsewhere(g, &usual))) return true;
    return add_entry(g->all, name, entry);
}

lm_status lm_store_list(lm_store *s, lm_entry **out, uint32_t *n, lm_err *err) {
    lm_tombs tombs;
    lm_tombs_load(&tombs, s->places[0].dir);
    listing l = {.tombs = &tombs};

    for (uint32_t i = 0; i < s->n_places; i++) lm_place_walk(&s->places[i], NULL, add_entry, &l);
    gguf_listing g = {&l, &s->aliases, l.n};
    add_aliases(&l, &s->aliases);
    for (uint32_t i = 0; i < s->n_places && s->gguf != LM_GGUF_NEVER; i++)
        lm_gguf_walk(&s->places[i], NULL, add_gguf, &g);
    lm_tombs_release(&tombs);
    free(l.names);
    if (l.no_memory || !(l.entries || (l.entries = lm_try_alloc(1, sizeof *l.entries)))) {
        free(l.entries);
        return lm_fail(err, LM_NO_MEMORY, "not enough memory to list the models");
    }
    qsort(l.entries, l.n, sizeof *l.entries, newest_first);
    *out = l.entries;
    *n = l.n;
    return LM_OK;
}
