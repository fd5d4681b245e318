/* What the files of sentence-transformers say of a directory: which modules follow the transformer, how its
 * states are pooled, how long a text may be. Source: the files that sentence-transformers 2 to 5 write.
 *
 * A final Normalize asks for what the API does anyway; where the API wants the raw embedding (Ollama's older
 * endpoint) it is left out, as Ollama does. include_prompt concerns prompts that the server would add: it
 * adds none. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/graph.h"

enum { MAX_FILE = 1 << 20, MAX_MODULES = 16 };

/* NULL: not there, or not readable, which *problem then says. */
static json_t *load(const char *dir, const char *folder, const char *name, lm_embedding_info *out) {
    char *inner = lm_path_join(dir, folder), *path = lm_path_join(inner, name);
    json_t *value = NULL;
    lm_err err = {0};
    lm_status st = lm_json_load(path, MAX_FILE, &value, &err);
    if (st != LM_OK && st != LM_NOT_FOUND) snprintf(out->problem, sizeof out->problem, "%.200s", err.text);
    free(inner);
    free(path);
    return st == LM_OK ? value : NULL;
}

LM_PRINTF(2, 3) static void refuse(lm_embedding_info *out, const char *format, ...) {
    va_list args;
    if (out->problem[0]) return;
    va_start(args, format);
    vsnprintf(out->problem, sizeof out->problem, format, args);
    va_end(args);
}

/* One of the flags, or pooling_mode as newer versions write it. */
static void read_pooling(const json_t *o, lm_embedding_info *out) {
    static const struct {
        const char *flag, *mode;
        int pooling; /* 0: not one of ours */
    } known[] = {
        {"pooling_mode_mean_tokens", "mean", LM_POOL_MEAN},
        {"pooling_mode_cls_token", "cls", LM_POOL_CLS},
        {"pooling_mode_lasttoken", "lasttoken", LM_POOL_LAST},
        {"pooling_mode_max_tokens", "max", 0},
        {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", 0},
        {"pooling_mode_weightedmean_tokens", "weightedmean", 0},
    };
    const char *mode = json_string_value(json_object_get(o, "pooling_mode"));
    const char *found = NULL;
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!json_is_true(json_object_get(o, known[i].flag)) && !(mode && !strcmp(mode, known[i].mode)))
            continue;
        n++;
        found = known[i].mode;
        if (known[i].pooling) out->pooling = (lm_pooling)known[i].pooling;
        if (!known[i].pooling)
            refuse(out, "its embeddings are pooled by \"%s\"; known are mean, cls and lasttoken", found);
    }
    if (n > 1) refuse(out, "its embeddings are several poolings side by side, which is not supported");
    if (!n) refuse(out, "its pooling module names no pooling: see 1_Pooling/config.json");
}

/* The last part of "sentence_transformers.models.Pooling". */
static const char *class_of(const json_t *module) {
    const char *type = json_string_value(json_object_get(module, "type"));
    const char *dot = type ? strrchr(type, '.') : NULL;
    return dot ? dot + 1 : type ? type : "";
}

/* A folder of the directory itself, nothing above it. */
static const char *folder_of(const json_t *module) {
    const char *path = json_string_value(json_object_get(module, "path"));
    if (!path) return "";
    return path[0] == '/' || strstr(path, "..") ? NULL : path;
}

static void read_modules(const json_t *modules, const char *dir, lm_embedding_info *out) {
    const json_t *module;
    size_t i;
    bool pooled = false, normalised = false;
    if (!json_is_array(modules) || json_array_size(modules) > MAX_MODULES) {
        refuse(out, "modules.json must be an array of at most %d modules", MAX_MODULES);
        return;
    }
    json_array_foreach((json_t *)(uintptr_t)modules, i, module) {
        const char *class = class_of(module), *folder = folder_of(module);
        if (!folder) {
            refuse(out, "modules.json names a folder outside the model's directory");
        } else if (!strcmp(class, "Pooling") && !pooled && i == 1) {
            json_t *o = load(dir, folder, "config.json", out);
            read_pooling(o, out);
            json_decref(o);
            pooled = true;
        } else if (!strcmp(class, "Normalize") && pooled && !normalised) {
            normalised = true;
        } else if (strcmp(class, "Transformer") || i) {
            refuse(out, "its embeddings go through a module \"%.60s\" that is not supported here", class);
        }
    }
}

void lm_embedding_read(lm_embedding_info *out, const char *dir, bool encoder) {
    *out = (lm_embedding_info){.pooling = encoder ? LM_POOL_MEAN : LM_POOL_LAST};
    json_t *modules = load(dir, "", "modules.json", out);
    json_t *pooling = modules ? NULL : load(dir, "1_Pooling", "config.json", out);
    json_t *length = load(dir, "", "sentence_bert_config.json", out);
    if (modules) read_modules(modules, dir, out);
    if (pooling) read_pooling(pooling, out);
    out->said = modules || pooling || encoder;
    json_int_t n = json_integer_value(json_object_get(length, "max_seq_length"));
    if (n > 0 && n <= LM_MAX_CONTEXT) out->n_max = (uint32_t)n;
    json_decref(modules);
    json_decref(pooling);
    json_decref(length);
}
