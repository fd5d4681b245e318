/* config.c - router.ini.
 *
 * Each setting stands once, in a table: its name, its kind, its limits, its default. Reading, writing and the errors come
 * from there. A key that is not in it is a mistake: a setting that is spelled wrongly must not be one that is silently
 * not there. */
#include "router/config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/ini.h"
#include "http/client.h"

#define MAX_TEXT 4096
#define SECOND   1000u
#define MINUTE   (60 * SECOND)
#define MIB      (UINT64_C(1) << 20)

typedef enum value_kind { K_HOST, K_PORT, K_ORIGINS, K_SWITCH, K_COUNT, K_TIME, K_SIZE } value_kind;

typedef struct setting {
    const char *key;
    value_kind kind;
    size_t at; /* in lm_router_config */
    uint64_t least, most, normal;
} setting;

#define AT(member) offsetof(lm_router_config, member)
static const setting settings[] = {
    {"host", K_HOST, AT(host), 0, 0, 0},
    {"port", K_PORT, AT(port), 1, 65535, LM_ROUTER_PORT},
    {"origins", K_ORIGINS, AT(origins), 0, 0, 0},
    {"hygiene", K_SWITCH, AT(hygiene), 0, 1, 1},
    {"check", K_TIME, AT(check_ms), 100, 60 * MINUTE, 5 * SECOND},
    {"check_timeout", K_TIME, AT(check_timeout_ms), 50, 5 * MINUTE, 2 * SECOND},
    {"fall", K_COUNT, AT(fall), 1, 100, 3},
    {"rise", K_COUNT, AT(rise), 1, 100, 2},
    {"breaker_failures", K_COUNT, AT(breaker_failures), 1, 1000, 5},
    {"breaker_time", K_TIME, AT(breaker_ms), 100, 60 * MINUTE, 30 * SECOND},
    {"connect_timeout", K_TIME, AT(connect_ms), 50, 5 * MINUTE, 2 * SECOND},
    {"first_timeout", K_TIME, AT(first_ms), 0, 24 * 60 * MINUTE, 5 * MINUTE},
    {"whole_timeout", K_TIME, AT(whole_ms), 0, 24 * 60 * MINUTE, 30 * MINUTE},
    {"silent_timeout", K_TIME, AT(silent_ms), 0, 24 * 60 * MINUTE, 2 * MINUTE},
    {"attempts", K_COUNT, AT(attempts), 1, 2 * LM_ROUTER_MAX_BACKENDS, 3},
    {"max_body", K_SIZE, AT(max_body), 1 << 10, UINT64_C(16) << 30, 256 * MIB},
    {"max_wait", K_TIME, AT(max_wait_ms), 0, 60 * MINUTE, 30 * SECOND},
};
#define N_SETTINGS (sizeof settings / sizeof *settings)

static const char *const backend_keys[] = {"kind", "url", "api_key", "max_requests", "num_ctx"};
#define N_BACKEND_KEYS (sizeof backend_keys / sizeof *backend_keys)

static void *place(lm_router_config *c, const setting *s) {
    return (char *)c + s->at;
}

static const void *place_of(const lm_router_config *c, const setting *s) {
    return (const char *)c + s->at;
}

/* ---- values */

static lm_status read_count(const char *key, lm_str v, uint64_t least, uint64_t most, uint64_t *out,
                            lm_err *err) {
    uint64_t n = 0;
    if (!lm_str_number(v, least, most, &n))
        return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a whole number from %llu to %llu", key,
                       LM_STR_ARG(v), (unsigned long long)least, (unsigned long long)most);
    *out = n;
    return LM_OK;
}

static void write_time(uint64_t ms, char out[32]) {
    const bool minutes = ms && ms % MINUTE == 0, seconds = ms % SECOND == 0;
    snprintf(out, 32, "%llu%s",
             (unsigned long long)(minutes   ? ms / MINUTE
                                  : seconds ? ms / SECOND
                                            : ms),
             minutes   ? "m"
             : seconds ? "s"
                       : "ms");
}

/* A plain number could mean seconds as well as milliseconds: the unit must be there. */
static lm_status read_time(const setting *s, lm_str v, uint64_t *out, lm_err *err) {
    int64_t ns = 0;
    if (lm_duration_parse(v, &ns, NULL) == LM_OK && ns >= 0) {
        uint64_t ms = (uint64_t)ns / 1000000;
        if (ms >= s->least && ms <= s->most && (ms || !ns)) {
            *out = ms;
            return LM_OK;
        }
    }
    char least[32], most[32];
    write_time(s->least, least);
    write_time(s->most, most);
    return lm_fail(err, LM_INVALID,
                   "%s is \"%.*s\": it must be a time with its unit, as 500ms, 5s or 2m, from %s to %s",
                   s->key, LM_STR_ARG(v), least, most);
}

static const struct {
    const char *unit;
    uint32_t shift;
} units[] = {{"GB", 30}, {"MB", 20}, {"KB", 10}, {"G", 30}, {"M", 20}, {"K", 10}, {"", 0}};

static lm_status read_size(const setting *s, lm_str v, uint64_t *out, lm_err *err) {
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        lm_str unit = lm_str_of(units[i].unit);
        if (v.len < unit.len || !lm_str_eq_nocase((lm_str){v.ptr + v.len - unit.len, unit.len}, unit))
            continue;
        uint64_t n = 0;
        lm_str number = lm_str_trim((lm_str){v.ptr, v.len - unit.len});
        if (!lm_str_number(number, 0, s->most >> units[i].shift, &n) || n << units[i].shift < s->least) break;
        *out = n << units[i].shift;
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be a size as 64MB, from %lluKB to %lluGB",
                   s->key, LM_STR_ARG(v), (unsigned long long)s->least >> 10,
                   (unsigned long long)s->most >> 30);
}

static lm_status read_switch(const setting *s, lm_str v, bool *out, lm_err *err) {
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!lm_str_eq_nocase(v, lm_str_of(words[i]))) continue;
        *out = i % 2 == 1;
        return LM_OK;
    }
    return lm_fail(err, LM_INVALID, "%s is \"%.*s\": it must be on or off", s->key, LM_STR_ARG(v));
}

static lm_status read_host(const char *key, lm_str v, char out[256], lm_err *err) {
    if (v.len > 2 && v.ptr[0] == '[' && v.ptr[v.len - 1] == ']') v = (lm_str){v.ptr + 1, v.len - 2};
    bool ok = v.len > 0 && v.len < 256;
    for (size_t i = 0; ok && i < v.len; i++)
        ok = isalnum((unsigned char)v.ptr[i]) || strchr(".:-_%", v.ptr[i]);
    for (size_t i = 0; ok && i < v.len; i++) ok = v.ptr[i] != '\0';
    if (!ok)
        return lm_fail(
            err, LM_INVALID,
            "%s is \"%.*s\": it must be an address of this machine, as 127.0.0.1, ::1, or 0.0.0.0 for all",
            key, LM_STR_ARG(v));
    snprintf(out, 256, "%.*s", LM_STR_ARG(v));
    return LM_OK;
}

/* Goes into a header: nothing but what can be seen, and blanks only where they mean something. */
static lm_status read_visible(const char *key, lm_str v, bool blanks, char **out, lm_err *err) {
    bool ok = v.len <= MAX_TEXT;
    for (size_t i = 0; ok && i < v.len; i++)
        ok = (v.ptr[i] > ' ' && v.ptr[i] < 0x7f) || (blanks && v.ptr[i] == ' ');
    if (!ok)
        return lm_fail(err, LM_INVALID, "%s may have at most %d visible characters%s", key, MAX_TEXT,
                       blanks ? "" : ", no blanks");
    free(*out);
    *out = v.len ? lm_str_dup(v) : NULL;
    return LM_OK;
}

static lm_status read_setting(lm_router_config *c, const setting *s, lm_str v, lm_err *err) {
    uint64_t n = 0;
    lm_status st = LM_OK;
    void *to = place(c, s);
    switch (s->kind) {
    case K_HOST: return read_host(s->key, v, to, err);
    case K_ORIGINS: return read_visible(s->key, v, true, to, err);
    case K_SWITCH: return read_switch(s, v, to, err);
    case K_PORT:
        st = read_count(s->key, v, s->least, s->most, &n, err);
        if (st == LM_OK) *(uint16_t *)to = (uint16_t)n;
        return st;
    case K_COUNT:
        st = read_count(s->key, v, s->least, s->most, &n, err);
        if (st == LM_OK) *(uint32_t *)to = (uint32_t)n;
        return st;
    case K_TIME:
        st = read_time(s, v, &n, err);
        if (st == LM_OK) *(uint32_t *)to = (uint32_t)n;
        return st;
    case K_SIZE:
        st = read_size(s, v, &n, err);
        if (st == LM_OK) *(uint64_t *)to = n;
        return st;
    }
    return LM_INTERNAL;
}

/* ---- backends */

/* Scheme, host and port of a URL that has nothing but these and a path. */
static bool split_url(lm_str url, lm_str *host, uint16_t *port) {
    bool tls = url.len > 8 && lm_str_eq_nocase((lm_str){url.ptr, 8}, LM_STR("https://"));
    if (!tls && !(url.len > 7 && lm_str_eq_nocase((lm_str){url.ptr, 7}, LM_STR("http://")))) return false;
    for (size_t i = 0; i < url.len; i++)
        if (url.ptr[i] <= ' ' || url.ptr[i] >= 0x7f || strchr("@?#\\\"<>", url.ptr[i])) return false;
    lm_str rest = {url.ptr + 7 + tls, url.len - 7 - tls};
    const char *slash = memchr(rest.ptr, '/', rest.len);
    if (slash) rest.len = (size_t)(slash - rest.ptr);

    size_t end = 0;
    if (rest.len && rest.ptr[0] == '[') {
        const char *close = memchr(rest.ptr, ']', rest.len);
        if (!close) return false;
        *host = (lm_str){rest.ptr + 1, (size_t)(close - rest.ptr) - 1};
        end = host->len + 2;
    } else {
        const char *colon = memchr(rest.ptr, ':', rest.len);
        end = colon ? (size_t)(colon - rest.ptr) : rest.len;
        *host = (lm_str){rest.ptr, end};
    }
    uint64_t n = tls ? 443 : 80;
    if (end < rest.len && (rest.ptr[end] != ':' ||
                           !lm_str_number((lm_str){rest.ptr + end + 1, rest.len - end - 1}, 1, 65535, &n)))
        return false;
    *port = (uint16_t)n;
    return host->len > 0;
}

static lm_status read_url(lm_router_backend *b, lm_str v, lm_err *err) {
    lm_str host;
    uint16_t port = 0;
    while (v.len && v.ptr[v.len - 1] == '/') v.len--;
    if (v.len >= sizeof b->url || !split_url(v, &host, &port))
        return lm_fail(err, LM_INVALID,
                       "url is \"%.*s\": it must be as http://127.0.0.1:11434, without a user, '?' or '#'",
                       LM_STR_ARG(v));
    snprintf(b->url, sizeof b->url, "%.*s", LM_STR_ARG(v));
    return LM_OK;
}

static const char *kind_name(lm_backend_kind kind) {
    return kind == LM_KIND_MLX ? "mlx" : "ollama";
}

static lm_status read_kind(lm_str v, lm_backend_kind *out, lm_err *err) {
    if (!lm_str_eq(v, LM_STR("ollama")) && !lm_str_eq(v, LM_STR("mlx")))
        return lm_fail(err, LM_INVALID, "kind is \"%.*s\": it must be ollama or mlx", LM_STR_ARG(v));
    *out = lm_str_eq(v, LM_STR("mlx")) ? LM_KIND_MLX : LM_KIND_OLLAMA;
    return LM_OK;
}

static lm_status read_backend(lm_router_backend *b, uint32_t key, lm_str v, lm_err *err) {
    uint64_t n = 0;
    lm_status st = LM_OK;
    switch (key) {
    case 0: return read_kind(v, &b->kind, err);
    case 1: return read_url(b, v, err);
    case 2: return read_visible("api_key", v, false, &b->api_key, err);
    case 3:
        st = read_count(backend_keys[key], v, 0, 100000, &n, err);
        if (st == LM_OK) b->max_requests = (uint32_t)n;
        return st;
    default:
        st = read_count(backend_keys[key], v, 0, UINT32_C(1) << 30, &n, err);
        if (st == LM_OK) b->num_ctx = (uint32_t)n;
        return st;
    }
}

/* ---- the file */

typedef struct reader {
    lm_router_config *c;
    uint32_t seen;                            /* bits of settings that were set */
    uint32_t seen_of[LM_ROUTER_MAX_BACKENDS]; /* bits of backend_keys */
    int now;     /* index of the backend whose section is open; -1: [router]; -2: none */
    bool opened; /* [router] was there */
} reader;

static bool good_name(lm_str s) {
    if (!s.len || s.len >= sizeof((lm_router_backend *)0)->name) return false;
    for (size_t i = 0; i < s.len; i++) {
        char ch = s.ptr[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') ||
              (i && (ch == '.' || ch == '_' || ch == '-'))))
            return false;
    }
    return true;
}

static lm_status open_section(reader *r, lm_str name, lm_err *err) {
    lm_router_config *c = r->c;
    if (lm_str_eq(name, LM_STR("router"))) {
        if (r->opened) return lm_fail(err, LM_INVALID, "[router] is there twice: join the two");
        r->opened = true;
        r->now = -1;
        return LM_OK;
    }
    if (!good_name(name))
        return lm_fail(
            err, LM_INVALID,
            "[%.*s] is no name for a backend: write small letters, digits, '.', '_' and '-', at most 63",
            LM_STR_ARG(name));
    for (uint32_t i = 0; i < c->n_backends; i++)
        if (lm_str_eq(name, lm_str_of(c->backends[i].name)))
            return lm_fail(err, LM_INVALID, "[%.*s] is there twice: give the second one another name",
                           LM_STR_ARG(name));
    if (c->n_backends == LM_ROUTER_MAX_BACKENDS)
        return lm_fail(err, LM_INVALID, "more than %d backends", LM_ROUTER_MAX_BACKENDS);
    r->now = (int)c->n_backends;
    lm_router_backend *b = &c->backends[c->n_backends++];
    *b = (lm_router_backend){0};
    snprintf(b->name, sizeof b->name, "%.*s", LM_STR_ARG(name));
    return LM_OK;
}

static lm_status unknown_key(lm_str key, bool backend, lm_err *err) {
    lm_buf list;
    lm_buf_init(&list, 1024);
    for (size_t i = 0; i < (backend ? N_BACKEND_KEYS : N_SETTINGS); i++)
        lm_buf_printf(&list, "%s%s", i ? ", " : "", backend ? backend_keys[i] : settings[i].key);
    lm_status st = lm_fail(err, LM_INVALID, "unknown key %.*s, there are %s", LM_STR_ARG(key), list.ptr);
    lm_buf_release(&list);
    return st;
}

static lm_status once(uint32_t *seen, uint32_t key, lm_str name, lm_err *err) {
    if (*seen & 1u << key)
        return lm_fail(err, LM_INVALID, "%.*s is set twice: take one away", LM_STR_ARG(name));
    *seen |= 1u << key;
    return LM_OK;
}

static lm_status read_line(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err) {
    reader *r = ctx;
    if (!key.len) return open_section(r, section, err);
    if (r->now == -2) return lm_fail(err, LM_INVALID, "a line before any section: begin with [router]");
    if (r->now >= 0) {
        for (uint32_t i = 0; i < N_BACKEND_KEYS; i++) {
            if (!lm_str_eq(key, lm_str_of(backend_keys[i]))) continue;
            lm_status st = once(&r->seen_of[r->now], i, key, err);
            return st == LM_OK ? read_backend(&r->c->backends[r->now], i, value, err) : st;
        }
        return unknown_key(key, true, err);
    }
    for (uint32_t i = 0; i < N_SETTINGS; i++) {
        if (!lm_str_eq(key, lm_str_of(settings[i].key))) continue;
        lm_status st = once(&r->seen, i, key, err);
        return st == LM_OK ? read_setting(r->c, &settings[i], value, err) : st;
    }
    return unknown_key(key, false, err);
}

static void set_defaults(lm_router_config *c) {
    *c = (lm_router_config){.host = "127.0.0.1"};
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const setting *s = &settings[i];
        void *to = place(c, s);
        if (s->kind == K_PORT) *(uint16_t *)to = (uint16_t)s->normal;
        if (s->kind == K_SWITCH) *(bool *)to = s->normal != 0;
        if (s->kind == K_COUNT || s->kind == K_TIME) *(uint32_t *)to = (uint32_t)s->normal;
        if (s->kind == K_SIZE) *(uint64_t *)to = s->normal;
    }
}

static const struct {
    const char *name;
    lm_backend_kind kind;
    const char *url;
} known[] = {{"ollama", LM_KIND_OLLAMA, "http://127.0.0.1:11434"},
             {"mlx", LM_KIND_MLX, "http://127.0.0.1:11435"}};

/* What a section left out: known for the two names that everybody has, a mistake for others. */
static lm_status fill_backend(const char *name, lm_router_backend *b, uint32_t seen, lm_err *err) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, b->name) != 0) continue;
        if (!(seen & 1u)) b->kind = known[i].kind;
        if (!(seen & 2u)) snprintf(b->url, sizeof b->url, "%s", known[i].url);
        seen |= 3u;
    }
    if (!(seen & 1u))
        return lm_fail(err, LM_INVALID, "%s: [%s] needs a kind: add kind = ollama or kind = mlx", name,
                       b->name);
    if (!(seen & 2u))
        return lm_fail(err, LM_INVALID, "%s: [%s] needs a url: add url = http://HOST:PORT", name, b->name);
    return LM_OK;
}

static bool is_this_machine(lm_str host) {
    return lm_str_eq_nocase(host, LM_STR("localhost")) || lm_str_starts(host, LM_STR("127.")) ||
           lm_str_eq(host, LM_STR("::1")) || lm_str_eq(host, LM_STR("0.0.0.0")) ||
           lm_str_eq(host, LM_STR("::"));
}

/* A router that is its own backend asks itself without end; two sections for one server would count its health twice. */
static lm_status check_addresses(const char *name, const lm_router_config *c, lm_err *err) {
    lm_str host, other;
    uint16_t port = 0, other_port = 0;
    for (uint32_t i = 0; i < c->n_backends; i++) {
        const char *url = c->backends[i].url;
        if (!split_url(lm_str_of(url), &host, &port)) continue;
        bool same = lm_str_eq_nocase(host, lm_str_of(c->host)) ||
                    (is_this_machine(host) && is_this_machine(lm_str_of(c->host)));
        if (same && port == c->port)
            return lm_fail(err, LM_INVALID,
                           "%s: [%s] has the router's own address %s: give the router another port", name,
                           c->backends[i].name, url);
        for (uint32_t k = 0; k < i; k++) {
            if (!split_url(lm_str_of(c->backends[k].url), &other, &other_port) || port != other_port)
                continue;
            if ((lm_str_eq_nocase(host, other) || (is_this_machine(host) && is_this_machine(other))) &&
                lm_str_eq(lm_str_of(strchr(url + 8, '/')), lm_str_of(strchr(c->backends[k].url + 8, '/'))))
                return lm_fail(err, LM_INVALID, "%s: [%s] and [%s] have the same address %s: take one away",
                               name, c->backends[k].name, c->backends[i].name, url);
        }
    }
    return LM_OK;
}

lm_status router_config_parse(const char *name, lm_str text, lm_router_config *out, lm_err *err) {
    reader r = {.c = out, .now = -2};
    set_defaults(out);
    lm_status st = lm_ini_parse(name, text, read_line, &r, err);
    for (uint32_t i = 0; st == LM_OK && i < out->n_backends; i++)
        st = fill_backend(name, &out->backends[i], r.seen_of[i], err);
    if (st == LM_OK && !out->n_backends) {
        out->n_backends = sizeof known / sizeof *known;
        for (uint32_t i = 0; st == LM_OK && i < out->n_backends; i++) {
            snprintf(out->backends[i].name, sizeof out->backends[i].name, "%s", known[i].name);
            st = fill_backend(name, &out->backends[i], 0, err);
        }
    }
    return st == LM_OK ? check_addresses(name, out, err) : st;
}

lm_status router_config_environment(lm_router_config *c, lm_err *err) {
    lm_str host = lm_str_trim(lm_str_of(getenv("MLX_ROUTER_HOST")));
    lm_str port = lm_str_trim(lm_str_of(getenv("MLX_ROUTER_PORT")));
    lm_status st = LM_OK;
    uint64_t n = 0;
    if (host.len) {
        char address[256], *text = lm_str_dup(host);
        lm_address_parse(text, c->port, address, &c->port);
        free(text);
        st = read_host("MLX_ROUTER_HOST", lm_str_of(address), c->host, err);
    }
    if (st == LM_OK && port.len) {
        st = read_count("MLX_ROUTER_PORT", port, 1, 65535, &n, err);
        if (st == LM_OK) c->port = (uint16_t)n;
    }
    return st == LM_OK && (host.len || port.len) ? check_addresses("MLX_ROUTER_HOST, MLX_ROUTER_PORT", c, err)
                                                 : st;
}

lm_status lm_router_config_read(const char *path, lm_router_config *out, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, ROUTER_CONFIG_MAX + 1);
    char *users = path ? NULL : lm_path_config("router.ini");
    if (!path && lm_path_is_file(users)) path = users;
    *out = (lm_router_config){0};
    lm_status st = path ? lm_file_read(path, ROUTER_CONFIG_MAX, &text, err) : LM_OK;
    if (st == LM_OK) st = router_config_parse(path ? path : "the defaults", lm_buf_view(&text), out, err);
    if (st == LM_OK) st = router_config_environment(out, err);
    lm_buf_release(&text);
    free(users);
    return st;
}

void lm_router_config_release(lm_router_config *c) {
    for (uint32_t i = 0; i < c->n_backends; i++) free(c->backends[i].api_key);
    free(c->origins);
    *c = (lm_router_config){0};
}

/* ---- what holds now */

static uint64_t number_of(const lm_router_config *c, const setting *s) {
    const void *at = place_of(c, s);
    return s->kind == K_PORT   ? *(const uint16_t *)at
           : s->kind == K_SIZE ? *(const uint64_t *)at
                               : *(const uint32_t *)at;
}

json_t *lm_router_config_json(const lm_router_config *c) {
    json_t *root = json_object(), *router = json_object(), *list = json_array();
    char time[32];
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const setting *s = &settings[i];
        json_t *v = NULL;
        switch (s->kind) {
        case K_HOST: v = json_string(c->host); break;
        case K_ORIGINS: v = c->origins ? json_string(c->origins) : json_null(); break;
        case K_SWITCH: v = json_boolean(*(const bool *)place_of(c, s)); break;
        case K_TIME:
            write_time(number_of(c, s), time);
            v = json_string(time);
            break;
        case K_PORT:
        case K_COUNT:
        case K_SIZE: v = json_integer((json_int_t)number_of(c, s)); break;
        }
        json_object_set_new(router, s->key, v);
    }
    for (uint32_t i = 0; i < c->n_backends; i++) {
        const lm_router_backend *b = &c->backends[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b, s:I, s:I}", "name", b->name, "kind",
                                              kind_name(b->kind), "url", b->url, "api_key",
                                              b->api_key != NULL, "max_requests", (json_int_t)b->max_requests,
                                              "num_ctx", (json_int_t)b->num_ctx));
    }
    json_object_set_new(root, "router", router);
    json_object_set_new(root, "backends", list);
    return root;
}

static void write_setting(const lm_router_config *c, const setting *s, lm_buf *out) {
    char time[32];
    switch (s->kind) {
    case K_HOST: lm_buf_printf(out, "%s = %s\n", s->key, c->host); break;
    case K_ORIGINS: lm_buf_printf(out, "%s = %s\n", s->key, c->origins ? c->origins : ""); break;
    case K_SWITCH:
        lm_buf_printf(out, "%s = %s\n", s->key, *(const bool *)place_of(c, s) ? "on" : "off");
        break;
    case K_TIME:
        write_time(number_of(c, s), time);
        lm_buf_printf(out, "%s = %s\n", s->key, time);
        break;
    case K_PORT:
    case K_COUNT:
    case K_SIZE: lm_buf_printf(out, "%s = %llu\n", s->key, (unsigned long long)number_of(c, s)); break;
    }
}

void lm_router_config_text(const lm_router_config *c, lm_buf *out) {
    lm_buf_text(out, "[router]\n");
    for (size_t i = 0; i < N_SETTINGS; i++) write_setting(c, &settings[i], out);
    for (uint32_t i = 0; i < c->n_backends; i++) {
        const lm_router_backend *b = &c->backends[i];
        lm_buf_printf(out, "\n[%s]\nkind = %s\nurl = %s\n%smax_requests = %u\nnum_ctx = %u\n", b->name,
                      kind_name(b->kind), b->url, b->api_key ? "# api_key is set, and not shown\n" : "",
                      b->max_requests, b->num_ctx);
    }
}
