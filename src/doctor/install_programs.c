/* install_programs.c - are the programs there, do they start, and can they compute. */
#include "doctor/install.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "doctor/foreign.h"

/* Adds "x" or ", x". */
static void add(char *list, size_t room, const char *word) {
    size_t n = strlen(list);
    snprintf(list + n, room - n, "%s%s", n ? ", " : "", word);
}

/* ---- files and permissions */

void check_programs(installation *i, doctor_result *r) {
    char missing[200] = "", stuck[512] = "", open[512] = "";
    for (int k = 0; k < N_PROGRAMS; k++) {
        struct stat s;
        char *file = program_find(program_names[k]);
        if (!file || stat(file, &s)) {
            add(missing, sizeof missing, program_names[k]);
        } else {
            if (s.st_mode & S_IWOTH) add(open, sizeof open, file);
            if (!access(file, X_OK)) {
                i->programs[k] = file;
                continue;
            }
            add(stuck, sizeof stuck, file);
        }
        free(file);
    }
    char remedy[512];
    if (stuck[0]) {
        snprintf(remedy, sizeof remedy, "chmod +x %.480s", stuck);
        doctor_failed(r, remedy, "not executable: %s", stuck);
    } else if (open[0]) {
        snprintf(remedy, sizeof remedy, "chmod o-w %.480s", open);
        doctor_failed(r, remedy, "anybody may write to %s", open);
    } else if (missing[0]) {
        doctor_failed(r, "install all four together: cmake --install build/release, or the package",
                      "neither beside this program nor on PATH: %s", missing);
    } else {
        char *slash = strrchr(i->programs[BRIDGE], '/');
        doctor_passed(r, "%.*s", (int)(slash - i->programs[BRIDGE]), i->programs[BRIDGE]);
        for (int k = 0; k < N_PROGRAMS; k++)
            if (strncmp(i->programs[k], i->programs[BRIDGE], (size_t)(slash - i->programs[BRIDGE]) + 1))
                doctor_advise(r, "%s is elsewhere: %s", program_names[k], i->programs[k]);
    }
}

/* ---- versions */

/* "0.1.0" of a program; false: r says why there is none. */
static bool ask_version(installation *i, int k, char out[64], doctor_result *r) {
    char *argv[] = {i->programs[k], "--version", NULL}, words[256];
    lm_buf said;
    lm_err err = {0};
    int status = 0;
    lm_buf_init(&said, 1u << 16);
    lm_status st = process_run(argv, install_patience(i), i->report, &said, &status, words, &err);
    bool ok = st == LM_OK && !status && foreign_version(lm_buf_view(&said), program_names[k], out);
    lm_buf_release(&said);
    if (ok) return true;
    static const char remedy[] = "install it again, with what it needs: see the README";
    if (st != LM_OK) return doctor_failed(r, remedy, "%s --version: %s", program_names[k], err.text);
    if (status)
        return doctor_failed(r, remedy, "%s --version ends with status %d: %s", program_names[k], status,
                             words[0] ? words : "it says nothing");
    return doctor_failed(r, "another program has this name: put ours before it on PATH",
                         "%s does not say \"%s\" and a version", i->programs[k], program_names[k]);
}

void check_versions(installation *i, doctor_result *r) {
    char version[64], others[512] = "";
    int n = 0;
    for (int k = 0; k < N_PROGRAMS; k++) {
        if (!i->programs[k]) continue;
        if (!ask_version(i, k, version, r)) return;
        n++;
        if (!strcmp(version, LM_VERSION)) continue;
        char one[160];
        snprintf(one, sizeof one, "%s is %s", program_names[k], version);
        add(others, sizeof others, one);
    }
    if (others[0])
        doctor_failed(r, "install all four together: cmake --install build/release, or the package",
                      "this is %s, but %s", LM_VERSION, others);
    else
        doctor_passed(r, "%s, of %d programs", LM_VERSION, n);
}

/* ---- libraries */

#ifdef __APPLE__
#define LISTER "/usr/bin/otool"
#else
#define LISTER "ldd"
#endif

/* How many libraries a file lacks; negative: the system's lister does not say, err says why. */
static int missing_libraries(installation *i, const char *file, char out[256], lm_err *err) {
    char *copy = lm_strdup(file), words[256];
#ifdef __APPLE__
    char *argv[] = {LISTER, "-L", copy, NULL};
#else
    char *argv[] = {LISTER, copy, NULL};
#endif
    lm_buf said;
    int status = 0, n = -1;
    lm_buf_init(&said, 1u << 20);
    lm_status st = process_run(argv, install_patience(i), i->report, &said, &status, words, err);
    /* Its status says also that a file is no program or has no libraries: not our question. */
#ifdef __APPLE__
    if (st == LM_OK) n = (int)foreign_otool_missing(lm_buf_view(&said), lm_path_is_file, out);
#else
    if (st == LM_OK) n = (int)foreign_ldd_missing(lm_buf_view(&said), out);
#endif
    lm_buf_release(&said);
    free(copy);
    return n;
}

void check_libraries(installation *i, doctor_result *r) {
    char names[256];
    int asked = 0;
    for (int k = 0; k < N_PROGRAMS; k++) {
        lm_err err = {0};
        if (!i->programs[k]) continue;
        int n = missing_libraries(i, i->programs[k], names, &err);
        if (n < 0) {
            doctor_skipped(r, "%s", err.text);
            return;
        }
        if (n > 0) {
            doctor_failed(r,
                          "install the packages that have them (the README names them), or build again "
                          "here: ./quickstart",
                          "%s needs %s", i->programs[k], names);
            return;
        }
        asked++;
    }
    doctor_passed(r, "those of %d programs are there", asked);
}

/* ---- devices */

static const json_t *chosen_device(const json_t *devices) {
    const json_t *one;
    size_t k;
    json_array_foreach(devices, k, one) if (json_is_true(json_object_get(one, "chosen"))) return one;
    return NULL;
}

static bool any_gpu(const json_t *devices) {
    const json_t *one;
    size_t k;
    json_array_foreach(devices, k, one) if (json_is_true(json_object_get(one, "gpu"))) return true;
    return false;
}

static bool has_mlx(const json_t *devices) {
    const json_t *one;
    size_t k;
    json_array_foreach(devices, k, one) {
        const char *backend = json_string_value(json_object_get(one, "backend"));
        if (backend && !strcmp(backend, "mlx")) return true;
    }
    return false;
}

void check_devices(installation *i, doctor_result *r) {
    lm_err err = {0};
    lm_status st =
        bridge_json(&i->told, i->report, (char *[]){"--list-devices", "--json", NULL}, &i->devices, &err);
    if (st != LM_OK) {
        doctor_failed(r, "mlx-ollama-bridge --list-devices says more; docs/MLX.md has what MLX needs", "%s",
                      err.text);
        return;
    }
    const json_t *d = chosen_device(i->devices);
    if (!wire_fields("mlx-ollama-bridge --list-devices", d, "backend:s name:s gpu:b memory:n", r)) {
        snprintf(r->remedy, sizeof r->remedy,
                 "mlx-ollama-bridge is not of this version: install all four together");
        return;
    }
    bool gpu = json_is_true(json_object_get(d, "gpu"));
    doctor_passed(r, "%s on %s, %s, %.1f GB; MLX %s", json_string_value(json_object_get(d, "backend")),
                  json_string_value(json_object_get(d, "name")), gpu ? "a GPU" : "no GPU",
                  json_number_value(json_object_get(d, "memory")) / 1e9,
                  has_mlx(i->devices) ? "is there" : "is not in this build, or finds nothing here");
    if (!gpu && any_gpu(i->devices))
        doctor_advise(r, "there is a GPU that is not chosen: see --backend and --device");
#if defined(__APPLE__) && defined(__aarch64__)
    else if (!gpu)
        doctor_advise(r, "this Mac has a GPU that is not used: brew install mlx, build again (./quickstart)");
#endif
}
