/* names.h - model names, and the table of which MLX repository stands behind an Ollama name.
 *
 * Names: [host/][namespace/]model[:tag], looked up without regard to case, ":latest" when no tag is written.
 *
 * The table is share/aliases.ini, then ~/.config/mlx-ollama/aliases.ini; later entries win:
 *
 *     [aliases]
 *     name:tag = org/repo, org/other     the first that can be had
 *     [default-tags]
 *     name = tag                         what the bare name means
 *
 * Threads: any for reading what nobody changes.
 */
#ifndef LM_NAMES_H
#define LM_NAMES_H

#include "base/base.h"

#define LM_DEFAULT_HOST "registry.ollama.ai"
#define LM_DEFAULT_NS   "library"
#define LM_DEFAULT_TAG  "latest"

typedef struct lm_name {
    char host[352];
    char ns[84];
    char model[84];
    char tag[84];
} lm_name;

/* LM_INVALID: "invalid model name". Case is kept. Also hf.co/org/repo[:quant] and plain org/repo. */
lm_status lm_name_parse(lm_str text, lm_name *out, lm_err *err) LM_CHECKED;
/* As lists show it: default host and namespace left out, the tag always there. */
void lm_name_short(const lm_name *n, char out[700]);
void lm_name_full(const lm_name *n, char out[700]);    /* registry.ollama.ai/library/llama3.2:latest */
bool lm_name_same(const lm_name *a, const lm_name *b); /* without regard to case */
bool lm_name_is_hub(const lm_name *n);                 /* hf.co, huggingface.co */
/* Any directory name as a part of a model name: what the grammar does not allow becomes '-'. False: nothing
 * is left. */
bool lm_name_part(const char *file, bool namespace_part, char out[84]);

/* ---- aliases.c */
#define LM_MAX_CANDIDATES 8

typedef struct lm_alias {
    lm_name name;
    lm_name *repos; /* n_repos: default host, namespace/model, tag latest */
    uint32_t n_repos;
    bool shipped; /* of the first file that was read: the installed table */
    bool form;    /* of it: a name for one quantised form (7b-instruct-q4_K_M), lists prefer the others */
} lm_alias;

typedef struct lm_default_tag {
    lm_name name; /* with the default tag in place of latest */
} lm_default_tag;

typedef struct lm_aliases {
    lm_alias *items;
    uint32_t n, room;
    lm_default_tag *tags;
    uint32_t n_tags, room_tags;
    uint32_t n_files; /* that were read before */
} lm_aliases;

/* The installed table and then the user's, if there is one; or `path` alone. LM_NOT_FOUND: the installation is
 * not whole. Zeroed before, released by the caller in any case. */
lm_status lm_aliases_open(lm_aliases *a, const char *path, lm_err *err) LM_CHECKED;
/* Adds the entries of one file; an entry of the same name is replaced. LM_INVALID and LM_TOO_LARGE name file
 * and line. */
lm_status lm_aliases_read(lm_aliases *a, const char *path, lm_err *err) LM_CHECKED;
void lm_aliases_release(lm_aliases *a);
const lm_alias *lm_aliases_find(const lm_aliases *a, const lm_name *name);
/* The tag that stands for "latest" of this name, NULL when there is none. */
const char *lm_aliases_default_tag(const lm_aliases *a, const lm_name *name);

#endif
