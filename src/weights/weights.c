/* How a directory becomes one table: every file is mapped, its header checked, its tensors appended in file
 * order; a hash index over the names then answers lm_weights_find, so that a duplicate name, in one file or
 * over several, is met while the index is built. */
#include "weights/weights.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "weights/safetensors.h"

#define INDEX_JSON_MAX (64u << 20)
#define FILES_MAX      16384 /* Ollama's own MLX models have one for each tensor */

struct lm_weights {
    lm_map *maps; /* n_files */
    char **files; /* n_files names below the directory */
    uint32_t n_files;
    lm_tensor_entry *entries;
    uint32_t n;
    uint32_t *slots; /* hash index: entry + 1, 0 = free */
    uint32_t mask;
    uint64_t bytes;
};

static uint32_t hash(const char *s) { /* FNV-1a */
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h ^ h >> 15;
}

static uint32_t *slot_of(const lm_weights *w, const char *name) {
    uint32_t i = hash(name) & w->mask;
    while (w->slots[i] && strcmp(w->entries[w->slots[i] - 1].name, name) != 0) i = (i + 1) & w->mask;
    return &w->slots[i];
}

static void add_file(lm_weights *w, const char *name) {
    w->files = lm_realloc(w->files, (w->n_files + 1) * sizeof *w->files);
    w->files[w->n_files++] = lm_strdup(name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has_file(const lm_weights *w, const char *name) {
    for (uint32_t i = 0; i < w->n_files; i++) {
        if (strcmp(w->files[i], name) == 0) return true;
    }
    return false;
}

/* The files that the index names, each once. A path that leads out of the directory is refused. */
static lm_status files_of_index(lm_weights *w, const char *path, const json_t *index, lm_err *err) {
    json_t *map = json_object_get(index, "weight_map");
    const char *name, *last = "";
    json_t *file;

    if (!json_is_object(map)) return lm_fail(err, LM_CORRUPT, "%s: no weight_map", path);
    json_object_foreach(map, name, file) {
        const char *f = json_string_value(file);
        if (!f || !*f || strchr(f, '/') || f[0] == '.') {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %s: not a file name in this directory", path, name);
        }
        if (strcmp(f, last) == 0 || has_file(w, f)) continue;
        if (w->n_files == FILES_MAX) {
            return lm_fail(err, LM_CORRUPT, "%s: names more than %d files", path, FILES_MAX);
        }
        add_file(w, f);
        last = f;
    }
    qsort(w->files, w->n_files, sizeof *w->files, by_name);
    return LM_OK;
}

static lm_status files_of_dir(lm_weights *w, const char *dir, lm_err *err) {
    DIR *d = opendir(dir);
    if (!d) {
        return lm_fail(err, errno == ENOENT || errno == ENOTDIR ? LM_NOT_FOUND : LM_IO, "%s: %s", dir,
                       strerror(errno));
    }
    lm_status st = LM_OK;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || !lm_str_ends(lm_str_of(e->d_name), LM_STR(".safetensors"))) continue;
        if (w->n_files == FILES_MAX) {
            st = lm_fail(err, LM_CORRUPT, "%s: more than %d safetensors files", dir, FILES_MAX);
            break;
        }
        add_file(w, e->d_name);
    }
    closedir(d);
    if (st != LM_OK) return st;
    if (w->n_files) qsort(w->files, w->n_files, sizeof *w->files, by_name);
    if (w->n_files == 0)
        return lm_fail(err, LM_NOT_FOUND, "%s: no *.safetensors file: not an MLX model directory", dir);
    return LM_OK;
}

/* What belongs to a matrix in the MLX models of Ollama's store, and what MLX calls it. */
static const struct {
    const char *theirs, *ours;
} companions[] = {{".weight.scale", ".scales"}, {".weight.bias", ".biases"}};

/* Ollama's names become MLX's, which are shorter. One that would change the numbers is refused. */
static lm_status take_names(lm_tensor_entry *entries, uint32_t n, const char *path, lm_err *err) {
    for (uint32_t i = 0; i < n; i++) {
        lm_str name = lm_str_of(entries[i].name);
        if (lm_str_ends(name, LM_STR(".weight.global_scale")))
            return lm_fail(err, LM_UNSUPPORTED,
                           "%s: tensor %s: a scale over a whole nvfp4 matrix is not supported: pull the "
                           "model in MLX format from the hub",
                           path, entries[i].name);
        for (size_t k = 0; k < sizeof companions / sizeof *companions; k++) {
            if (!lm_str_ends(name, lm_str_of(companions[k].theirs))) continue;
            strcpy(entries[i].name + name.len - strlen(companions[k].theirs), companions[k].ours);
            break;
        }
    }
    return LM_OK;
}

static lm_status open_files(lm_weights *w, const char *dir, lm_err *err) {
    w->maps = lm_alloc(w->n_files * sizeof *w->maps);
    for (uint32_t i = 0; i < w->n_files; i++) {
        char *path = lm_path_join(dir, w->files[i]);
        uint32_t first = w->n;
        lm_status st = lm_map_open(&w->maps[i], path, err);
        if (st == LM_OK) st = lm_safetensors_entries(&w->maps[i], path, &w->entries, &w->n, err);
        if (st == LM_OK && w->n > first) st = take_names(w->entries + first, w->n - first, path, err);
        free(path);
        if (st != LM_OK) return st;
        for (uint32_t k = first; k < w->n; k++) {
            w->entries[k].file = i;
            w->bytes += w->entries[k].view.bytes; /* no overflow: every part lies in a file */
        }
    }
    return LM_OK;
}

static lm_status build_index(lm_weights *w, const char *dir, lm_err *err) {
    uint32_t room = 16;
    while (room < 2 * (uint64_t)w->n) room *= 2;
    w->slots = lm_try_alloc(room, sizeof *w->slots);
    if (!w->slots) return lm_fail(err, LM_NO_MEMORY, "%s: no memory to index %u tensors", dir, w->n);
    w->mask = room - 1;
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t *slot = slot_of(w, w->entries[i].name);
        if (*slot) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %s is in both %s and %s", dir, w->entries[i].name,
                           w->files[w->entries[*slot - 1].file], w->files[w->entries[i].file]);
        }
        *slot = i + 1;
    }
    return LM_OK;
}

/* What the index promises must be where it says. */
static lm_status check_index(const lm_weights *w, const char *path, const json_t *index, lm_err *err) {
    const char *name;
    json_t *file;
    json_object_foreach(json_object_get(index, "weight_map"), name, file) {
        uint32_t slot = *slot_of(w, name);
        if (!slot || strcmp(w->files[w->entries[slot - 1].file], json_string_value(file)) != 0) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %s is not in %s", path, name,
                           json_string_value(file));
        }
    }
    return LM_OK;
}

lm_status lm_weights_open(lm_weights **out, const char *dir, lm_err *err) {
    lm_weights *w = lm_alloc(sizeof *w);
    char *single = lm_path_join(dir, "model.safetensors");
    char *index_path = lm_path_join(dir, "model.safetensors.index.json");
    json_t *index = NULL;
    lm_status st = LM_OK;

    if (lm_path_is_file(single)) {
        add_file(w, "model.safetensors");
    } else if (lm_path_is_file(index_path)) {
        st = lm_json_load(index_path, INDEX_JSON_MAX, &index, err);
        if (st == LM_OK) st = files_of_index(w, index_path, index, err);
    } else {
        st = files_of_dir(w, dir, err);
    }
    if (st == LM_OK) st = open_files(w, dir, err);
    if (st == LM_OK) st = build_index(w, dir, err);
    if (st == LM_OK && index) st = check_index(w, index_path, index, err);

    json_decref(index);
    free(single);
    free(index_path);
    if (st != LM_OK) {
        lm_weights_close(w);
        return st;
    }
    *out = w;
    return LM_OK;
}

lm_status lm_weights_open_file(lm_weights **out, const char *dir, const char *file, lm_err *err) {
    lm_weights *w = lm_alloc(sizeof *w);
    add_file(w, file);
    lm_status st = open_files(w, dir, err);
    if (st == LM_OK) st = build_index(w, dir, err);
    if (st != LM_OK) {
        lm_weights_close(w);
        return st;
    }
    *out = w;
    return LM_OK;
}

void lm_weights_close(lm_weights *w) {
    if (!w) return;
    for (uint32_t i = 0; i < w->n; i++) free(w->entries[i].name);
    for (uint32_t i = 0; i < w->n_files; i++) {
        if (w->maps) lm_map_close(&w->maps[i]);
        free(w->files[i]);
    }
    free(w->entries);
    free(w->slots);
    free(w->maps);
    free(w->files);
    free(w);
}

bool lm_weights_find(const lm_weights *w, const char *name, lm_view *out) {
    uint32_t slot = *slot_of(w, name);
    if (slot) *out = w->entries[slot - 1].view;
    return slot != 0;
}

uint32_t lm_weights_index(const lm_weights *w, const char *name) {
    return *slot_of(w, name) - 1;
}

uint32_t lm_weights_count(const lm_weights *w) {
    return w->n;
}

const char *lm_weights_name(const lm_weights *w, uint32_t i, lm_view *out) {
    LM_ASSERT(i < w->n);
    if (out) *out = w->entries[i].view;
    return w->entries[i].name;
}

uint64_t lm_weights_bytes(const lm_weights *w) {
    return w->bytes;
}

void lm_weights_drop(const lm_weights *w) {
    for (uint32_t i = 0; i < w->n_files; i++) lm_map_drop(&w->maps[i]);
}
