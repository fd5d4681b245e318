/* install_room.c - memory and disk against what each model needs.
 *
 * What a model takes in memory the bridge says: its weights, and room for the keys and values of a request that says no num_ctx. Of
 * one that must be imported first only its size is known. On the disk a model needs room only if it is imported before it can run. */
#include "doctor/install.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_FREE UINT64_C(1000000000) /* bytes on the disk: below, nothing worth having can be pulled */

static double gb(uint64_t bytes) {
    return (double)bytes / 1e9;
}

void judge_needs(const need *needs, size_t n, uint64_t there, const char *what, const char *remedy,
                 doctor_result *r) {
    char large[400] = "";
    size_t n_large = 0;
    uint64_t most = 0;
    const char *parts = "";
    for (size_t i = 0; i < n; i++) {
        if (needs[i].bytes > most) {
            most = needs[i].bytes;
            parts = needs[i].parts;
        }
        if (needs[i].bytes <= there) continue;
        n_large++;
        size_t at = strlen(large);
        if (at < sizeof large - 120)
            snprintf(large + at, sizeof large - at, "%s%.90s needs %.1f GB%s", at ? ", " : "", needs[i].name,
                     gb(needs[i].bytes), at ? "" : needs[i].parts); /* of the first: room is short */
    }
    if (n_large == n) {
        doctor_failed(r, remedy, "%.1f GB of %s: no model fits: %s", gb(there), what, large);
    } else if (n_large) {
        doctor_passed(r, "%.1f GB of %s: %zu of %zu models fit", gb(there), what, n - n_large, n);
        doctor_advise(r, "too large: %s", large);
    } else {
        doctor_passed(r, "%.1f GB of %s: all %zu models fit, the largest needs %.1f GB%s", gb(there), what, n,
                      gb(most), parts);
    }
}

static double part(const json_t *memory, const char *key) {
    double v = json_number_value(json_object_get(memory, key));
    return v > 0 && v < 1e18 ? v : 0;
}

/* What the bridge says of the memory that a model takes goes over its size. */
static void read_memory(const json_t *memory, need *out) {
    double weights = part(memory, "weights"), kv = part(memory, "kv"), scratch = part(memory, "scratch");
    if (!(weights > 0)) return;
    out->bytes = (uint64_t)(weights + kv + scratch);
    snprintf(out->parts, sizeof out->parts,
             " (%.1f weights, %.1f keys and values of %.0f x %.0f tokens, %.1f a step)", weights / 1e9,
             kv / 1e9, part(memory, "parallel"), part(memory, "context"), scratch / 1e9);
}

/* Those of the list that `import` says, or what all of them take in memory; *n of them, the caller frees. */
static need *needs_of(const json_t *models, bool import, size_t *n) {
    const json_t *list = json_object_get(models, "models"), *m;
    need *out = lm_alloc((json_array_size(list) + 1) * sizeof *out);
    size_t i;
    *n = 0;
    json_array_foreach(list, i, m) {
        const char *name = json_string_value(json_object_get(m, "name"));
        double size = json_number_value(json_object_get(m, "size"));
        if (!name || !(size > 0) || size > 1e18) continue;
        if (import && !json_is_true(json_object_get(m, "needs_import"))) continue;
        need one = {.name = name, .bytes = (uint64_t)size};
        if (!import) read_memory(json_object_get(m, "memory"), &one);
        out[(*n)++] = one;
    }
    return out;
}

static uint64_t memory_there(const json_t *devices) {
    const json_t *d;
    size_t i;
    json_array_foreach(devices, i, d) {
        double bytes = json_number_value(json_object_get(d, "memory"));
        if (json_is_true(json_object_get(d, "chosen")) && bytes > 0 && bytes < 1e18) return (uint64_t)bytes;
    }
    return machine_memory();
}

void check_memory(installation *i, doctor_result *r) {
    size_t n = 0;
    uint64_t there = memory_there(i->devices);
    need *needs = needs_of(i->models, false, &n);
    if (!i->models)
        doctor_skipped(r, "the list of the models is not known");
    else if (!there)
        doctor_skipped(r, "the system does not say how much there is");
    else if (!n)
        doctor_skipped(r, "there is no model yet (%.1f GB of memory)", gb(there));
    else
        judge_needs(
            needs, n, there, "memory",
            "pull a smaller model, or one with fewer bits: docs/FAMILIES.md; or let contexts be shorter "
            "(OLLAMA_CONTEXT_LENGTH); or add memory",
            r);
    free(needs);
}

void judge_space(const char *store, uint64_t there, const need *needs, size_t n, doctor_result *r) {
    if (there < LEAST_FREE)
        doctor_failed(r, "delete what nobody needs (ollama rm), or move the store: --models DIR",
                      "%.1f GB are free for %s", gb(there), store);
    else if (n)
        judge_needs(needs, n, there, "free disk for imports", "free space, or move the store: --models DIR",
                    r);
    else
        doctor_passed(r, "%.1f GB are free for %s", gb(there), store);
}

void check_space(installation *i, doctor_result *r) {
    const char *store = json_string_value(json_object_get(i->models, "store"));
    size_t n = 0;
    uint64_t there = 0;
    need *needs = needs_of(i->models, true, &n);
    if (!store)
        doctor_skipped(r, "where the models lie is not known");
    else if (!disk_free(store, &there))
        doctor_skipped(r, "the system does not say how much of the disk of %s is free", store);
    else
        judge_space(store, there, needs, n, r);
    free(needs);
}
