/* order.c - the user's order of backends, and what was measured. */
#include "router/order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/ini.h"

#define STATE_FILE "switch.ini"
#define MAX_BYTES  (1u << 20)
#define MAX_ITEMS  4096

static const char *const words[] = {
    [LM_ORDER_AUTO] = "auto", [LM_ORDER_OLLAMA] = "ollama", [LM_ORDER_MLX] = "mlx"};
#define N_WORDS (sizeof words / sizeof *words)

const char *lm_order_name(lm_order o) {
    return (size_t)o < N_WORDS ? words[o] : "auto";
}

lm_status lm_order_parse(lm_str word, lm_order *out, lm_err *err) {
    for (size_t i = 0; i < N_WORDS; i++) {
        if (!lm_str_eq_nocase(word, lm_str_of(words[i]))) continue;
        *out = (lm_order)i;
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID, "\"%.*s\" is none of auto, ollama, mlx", LM_STR_ARG(word));
}

/* ---- the table */

static order_entry *find(const orders *o, const lm_name *name, bool measured) {
    for (uint32_t i = 0; i < o->n; i++)
        if (o->items[i].measured == measured && lm_name_same(&o->items[i].name, name)) return &o->items[i];
    return NULL;
}

/* The entry of that name, made if there was none; NULL: the table is full. */
static order_entry *take(orders *o, const lm_name *name, bool measured) {
    order_entry *e = find(o, name, measured);
    if (e || o->n == MAX_ITEMS) return e;
    if (o->n == o->room) {
        o->room = o->room ? o->room * 2 : 16;
        o->items = lm_realloc(o->items, o->room * sizeof *o->items);
    }
    e = &o->items[o->n++];
    *e = (order_entry){.name = *name, .measured = measured};
    return e;
}

void orders_release(orders *o) {
    free(o->items);
    *o = (orders){0};
}

lm_order orders_of(const orders *o, const lm_name *name) {
    const order_entry *e = name ? find(o, name, false) : NULL;
    return e ? e->order : o->general;
}

const char *orders_measured(const orders *o, const lm_name *name) {
    const order_entry *e = find(o, name, true);
    return e ? e->backend : NULL;
}

/* ---- the file */

static bool names_backend(lm_str s) {
    if (!s.len || s.len >= sizeof((order_entry *)0)->backend) return false;
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] >= 0x7f) return false;
    return true;
}

static lm_status read_model(orders *o, bool measured, lm_str key, lm_str value, lm_err *err) {
    lm_name name;
    lm_order order = LM_ORDER_AUTO;
    if (lm_name_parse(key, &name, NULL) != LM_OK)
        return lm_fail(err, LM_INVALID, "'%.*s' is not a model name", LM_STR_ARG(key));
    if (!measured) {
        lm_status st = lm_order_parse(value, &order, err);
        if (st != LM_OK) return st;
    } else if (!names_backend(value)) {
        return lm_fail(err, LM_INVALID, "'%.*s' is not a backend's name", LM_STR_ARG(value));
    }
    order_entry *e = take(o, &name, measured);
    if (!e) return lm_fail(err, LM_TOO_LARGE, "more than %d models", MAX_ITEMS);
    e->order = order;
    snprintf(e->backend, sizeof e->backend, "%.*s", measured ? (int)value.len : 0,
             value.ptr ? value.ptr : "");
    return LM_OK;
}

static lm_status read_line(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err) {
    orders *o = ctx;
    bool models = lm_str_eq(section, LM_STR("models")), measured = lm_str_eq(section, LM_STR("measured"));
    if (!models && !measured && !lm_str_eq(section, LM_STR("order")))
        return lm_fail(err, LM_INVALID, "unknown section [%.*s], there are [order], [models] and [measured]",
                       LM_STR_ARG(section));
    if (!key.len) return LM_OK;
    if (models || measured) return read_model(o, measured, key, value, err);
    if (!lm_str_eq(key, LM_STR("default")))
        return lm_fail(err, LM_INVALID, "unknown key %.*s, there is default", LM_STR_ARG(key));
    return lm_order_parse(value, &o->general, err);
}

lm_status orders_parse(const char *name, lm_str text, orders *out, lm_err *err) {
    return lm_ini_parse(name, text, read_line, out, err);
}

lm_status orders_read(orders *out, lm_err *err) {
    char *path = lm_path_state(STATE_FILE);
    lm_buf text;
    lm_buf_init(&text, MAX_BYTES + 1);
    lm_status st = lm_file_read(path, MAX_BYTES, &text, err);
    if (st == LM_OK) {
        orders o = {0};
        st = orders_parse(path, lm_buf_view(&text), &o, err);
        if (st == LM_OK)
            *out = o;
        else
            orders_release(&o);
        if (st == LM_INVALID) lm_fail_in(err, st, "correct it, or delete the file");
    } else if (st == LM_NOT_FOUND) {
        *out = (orders){0};
        st = LM_OK;
    }
    lm_buf_release(&text);
    free(path);
    return st;
}

void orders_look(orders_stamp *out) {
    char *path = lm_path_state(STATE_FILE);
    struct stat s;
    *out = (orders_stamp){0};
    if (stat(path, &s) == 0) {
#ifdef __APPLE__
        struct timespec t = s.st_mtimespec;
#else
        struct timespec t = s.st_mtim;
#endif
        *out = (orders_stamp){true, (uint64_t)s.st_ino, (uint64_t)s.st_size,
                              t.tv_sec * INT64_C(1000000000) + t.tv_nsec};
    }
    free(path);
}

bool orders_same(const orders_stamp *a, const orders_stamp *b) {
    return a->there == b->there && a->inode == b->inode && a->size == b->size &&
           a->written_ns == b->written_ns;
}

static void write_section(const orders *o, bool measured, lm_buf *out) {
    bool any = false;
    char name[700];
    for (uint32_t i = 0; i < o->n; i++) {
        const order_entry *e = &o->items[i];
        if (e->measured != measured) continue;
        if (!any) lm_buf_text(out, measured ? "\n[measured]\n" : "\n[models]\n");
        any = true;
        lm_name_short(&e->name, name);
        lm_buf_printf(out, "%s = %s\n", name, measured ? e->backend : lm_order_name(e->order));
    }
}

static lm_status write_file(const orders *o, const char *path, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, MAX_BYTES);
    lm_buf_printf(&text,
                  "# Written by `ollama-to-mlx-router switch` and `bench --choose`.\n[order]\ndefault = %s\n",
                  lm_order_name(o->general));
    write_section(o, false, &text);
    write_section(o, true, &text);
    lm_status st = lm_buf_status(&text, path, err);
    if (st == LM_OK) st = lm_file_write(path, lm_buf_view(&text), err);
    lm_buf_release(&text);
    return st;
}

/* Two who write at a time must not lose each other's change. */
static lm_status lock(const char *state, int *out, lm_err *err) {
    char *path = lm_path_state(STATE_FILE ".lock");
    const char *slash = strrchr(state, '/');
    char *dir = lm_str_dup((lm_str){state, slash ? (size_t)(slash - state) : 0});
    lm_status st = lm_dir_make(slash ? dir : ".", err);
    if (st == LM_OK) {
        int fd = lm_file_lock(path, LOCK_EX);
        if (fd < 0) st = lm_fail(err, LM_IO, "lock %s: %s", path, strerror(errno));
        *out = fd;
    }
    free(dir);
    free(path);
    return st;
}

/* One change of the file, from reading to writing alone. */
typedef struct change {
    const lm_name *name; /* NULL: the general order */
    lm_order order;
    bool measured;
    const char *backend; /* NULL: forget */
} change;

static lm_status apply(orders *o, const change *c, lm_err *err) {
    if (!c->name) {
        o->general = c->order;
        return LM_OK;
    }
    order_entry *e = find(o, c->name, c->measured);
    if (c->measured && !c->backend) {
        if (e) *e = o->items[--o->n];
        return LM_OK;
    }
    e = take(o, c->name, c->measured);
    if (!e) return lm_fail(err, LM_TOO_LARGE, "more than %d models have an order of their own", MAX_ITEMS);
    e->order = c->order;
    snprintf(e->backend, sizeof e->backend, "%s", c->backend ? c->backend : "");
    return LM_OK;
}

static lm_status change_file(const change *c, lm_err *err) {
    char *path = lm_path_state(STATE_FILE);
    orders o = {0};
    int fd = -1;
    lm_status st = lock(path, &fd, err);
    if (st == LM_OK) st = orders_read(&o, err);
    if (st == LM_OK) st = apply(&o, c, err);
    if (st == LM_OK) st = write_file(&o, path, err);
    orders_release(&o);
    if (fd >= 0) close(fd);
    free(path);
    return st;
}

static lm_status name_of(const char *model, lm_name *out, lm_err *err) {
    if (lm_name_parse(lm_str_of(model), out, NULL) == LM_OK) return LM_OK;
    return lm_fail(err, LM_INVALID, "'%s' is not a model name, write it as in the list of models", model);
}

lm_status lm_order_set(const char *model, lm_order order, lm_err *err) {
    lm_name name;
    lm_status st = model ? name_of(model, &name, err) : LM_OK;
    return st == LM_OK ? change_file(&(change){.name = model ? &name : NULL, .order = order}, err) : st;
}

lm_status orders_set_measured(const char *model, const char *backend, lm_err *err) {
    lm_name name;
    lm_status st = name_of(model, &name, err);
    return st == LM_OK ? change_file(&(change){.name = &name, .measured = true, .backend = backend}, err)
                       : st;
}

lm_status lm_order_get(const char *model, lm_order *out, lm_err *err) {
    orders o = {0};
    lm_name name;
    lm_status st = model ? name_of(model, &name, err) : LM_OK;
    if (st == LM_OK) st = orders_read(&o, err);
    if (st == LM_OK) *out = orders_of(&o, model ? &name : NULL);
    orders_release(&o);
    return st;
}

void orders_json(const orders *o, json_t *into) {
    json_t *models = json_object(), *measured = json_object();
    char name[700];
    for (uint32_t i = 0; i < o->n; i++) {
        const order_entry *e = &o->items[i];
        lm_name_short(&e->name, name);
        json_object_set_new(e->measured ? measured : models, name,
                            json_string(e->measured ? e->backend : lm_order_name(e->order)));
    }
    json_object_set_new(into, "order", json_string(lm_order_name(o->general)));
    json_object_set_new(into, "orders", models);
    json_object_set_new(into, "measured", measured);
}
