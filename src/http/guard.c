#include "http/guard.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METHODS "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
#define HEADERS                                                                                              \
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,x-stainless-arch,"            \
    "x-stainless-async,x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,"         \
    "x-stainless-os,x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,"            \
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"

/* ---- origins */

static const char *const usual_origins[] = {
    "http://localhost",
    "https://localhost",
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1",
    "https://127.0.0.1",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://0.0.0.0",
    "https://0.0.0.0",
    "http://0.0.0.0:*",
    "https://0.0.0.0:*",
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
    "chrome-extension://*",
    "moz-extension://*",
    "safari-web-extension://*",
};

struct lm_guard {
    bool loopback;
    char **origins; /* patterns with at most one '*' */
    uint32_t n_origins;
};

bool lm_host_is_loopback(const char *host) {
    struct in_addr v4;
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    return !strcmp(host, "::1") || lm_str_eq_nocase(lm_str_of(host), LM_STR("localhost"));
}

lm_status lm_guard_open(lm_guard **out, const char *host, const char *origins, lm_err *err) {
    uint32_t n_usual = sizeof usual_origins / sizeof *usual_origins, room = n_usual + 1;
    const char *list = origins ? origins : "";
    for (const char *p = list; *p; p++) room += *p == ',';
    lm_guard *g = lm_alloc(sizeof *g);
    g->loopback = lm_host_is_loopback(host);
    g->origins = lm_alloc(room * sizeof *g->origins);
    while (*list) {
        const char *end = list + strcspn(list, ",");
        lm_str one = lm_str_trim((lm_str){list, (size_t)(end - list)});
        const char *star = memchr(one.ptr, '*', one.len);
        if (star && memchr(star + 1, '*', one.len - (size_t)(star + 1 - one.ptr))) {
            lm_guard_close(g);
            return lm_fail(err, LM_INVALID,
                           "OLLAMA_ORIGINS: only one * is allowed in an origin, \"%.*s\" has more",
                           LM_STR_ARG(one));
        }
        if (one.len) g->origins[g->n_origins++] = lm_str_dup(one);
        list = *end ? end + 1 : end;
    }
    for (uint32_t i = 0; i < n_usual; i++) g->origins[g->n_origins++] = lm_strdup(usual_origins[i]);
    *out = g;
    return LM_OK;
}

void lm_guard_close(lm_guard *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n_origins; i++) free(g->origins[i]);
    free(g->origins);
    free(g);
}

static bool matches(const char *pattern, lm_str origin) {
    const char *star = strchr(pattern, '*');
    if (!star) return lm_str_eq_nocase(lm_str_of(pattern), origin);
    lm_str before = {pattern, (size_t)(star - pattern)}, after = lm_str_of(star + 1);
    return origin.len >= before.len + after.len && lm_str_starts(origin, before) &&
           lm_str_ends(origin, after);
}

static bool origin_allowed(const lm_guard *g, lm_str origin) {
    for (uint32_t i = 0; i < g->n_origins; i++)
        if (matches(g->origins[i], origin)) return true;
    return false;
}

static bool same_site(lm_str origin, lm_str host) {
    lm_str schemes[] = {LM_STR("http://"), LM_STR("https://")};
    for (int i = 0; i < 2; i++) {
        if (!lm_str_starts(origin, schemes[i])) continue;
        if (lm_str_eq((lm_str){origin.ptr + schemes[i].len, origin.len - schemes[i].len}, host)) return true;
    }
    return false;
}

/* ---- hosts */

/* "h:1" and "[::1]:1" without the port; a bare IPv6 address stays whole. */
static lm_str without_port(lm_str host) {
    if (host.len && host.ptr[0] == '[') {
        const char *end = memchr(host.ptr, ']', host.len);
        if (end) return (lm_str){host.ptr + 1, (size_t)(end - host.ptr) - 1};
        return host;
    }
    const char *colon = memchr(host.ptr ? host.ptr : "", ':', host.len);
    if (colon && !memchr(colon + 1, ':', host.len - (size_t)(colon + 1 - host.ptr)))
        return (lm_str){host.ptr, (size_t)(colon - host.ptr)};
    return host;
}

static bool near_v4(uint32_t a) {
    return a == 0 || a >> 24 == 127 || a >> 24 == 10 || a >> 20 == (172u << 4 | 1) ||
           a >> 16 == (192u << 8 | 168);
}

static bool near_v6(const struct in6_addr *a) {
    if (IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a) || (a->s6_addr[0] & 0xfe) == 0xfc) return true;
    if (!IN6_IS_ADDR_V4MAPPED(a)) return false;
    uint32_t v4;
    memcpy(&v4, a->s6_addr + 12, 4);
    return near_v4(ntohl(v4));
}

static bool on_an_interface(int family, const void *address, size_t len) {
    struct ifaddrs *list = NULL;
    bool found = false;
    if (getifaddrs(&list)) return false;
    for (const struct ifaddrs *i = list; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != family) continue;
        const void *own = family == AF_INET ? (const void *)&((struct sockaddr_in *)i->ifa_addr)->sin_addr
                                            : (const void *)&((struct sockaddr_in6 *)i->ifa_addr)->sin6_addr;
        found = !memcmp(own, address, len);
    }
    freeifaddrs(list);
    return found;
}

static bool host_allowed(lm_str header) {
    char name[256], own[256] = "";
    lm_str host = without_port(header);
    if (host.len == 0 || lm_str_eq_nocase(host, LM_STR("localhost"))) return true;
    if (host.len >= sizeof name) return false;
    memcpy(name, host.ptr, host.len);
    name[host.len] = '\0';
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, name, &v4) == 1)
        return near_v4(ntohl(v4.s_addr)) || on_an_interface(AF_INET, &v4, sizeof v4);
    if (inet_pton(AF_INET6, name, &v6) == 1) return near_v6(&v6) || on_an_interface(AF_INET6, &v6, sizeof v6);
    if (gethostname(own, sizeof own - 1) == 0 && own[0] && lm_str_eq_nocase(host, lm_str_of(own)))
        return true;
    lm_str tails[] = {LM_STR(".localhost"), LM_STR(".local"), LM_STR(".internal")};
    for (int i = 0; i < 3; i++) {
        if (host.len >= tails[i].len &&
            lm_str_eq_nocase((lm_str){host.ptr + host.len - tails[i].len, tails[i].len}, tails[i]))
            return true;
    }
    return false;
}

/* ---- both */

static void reply_empty(lm_http *x, int status) {
    lm_http_reply(x, status, NULL, (lm_str){0});
}

static void allow_origin(lm_http *x, lm_str origin, bool preflight) {
    char *value = lm_str_dup(origin);
    lm_http_set_header(x, "Access-Control-Allow-Origin", value);
    lm_http_set_header(x, "Vary", "Origin");
    free(value);
    if (!preflight) return;
    lm_http_set_header(x, "Access-Control-Allow-Methods", METHODS);
    lm_http_set_header(x, "Access-Control-Allow-Headers", HEADERS);
    lm_http_set_header(x, "Access-Control-Max-Age", "43200");
}

bool lm_guard_pass(const lm_guard *g, lm_http *x) {
    lm_str origin = lm_http_header(x, "Origin"), host = lm_http_header(x, "Host");
    bool options = lm_str_eq(lm_http_method(x), LM_STR("OPTIONS"));
    if (origin.len && !same_site(origin, host)) {
        if (!origin_allowed(g, origin)) {
            reply_empty(x, 403);
            return false;
        }
        allow_origin(x, origin, options);
        if (options) {
            reply_empty(x, 204);
            return false;
        }
    }
    if (g->loopback && !host_allowed(host)) {
        reply_empty(x, 403);
        return false;
    }
    if (options) {
        reply_empty(x, 204);
        return false;
    }
    return true;
}

void lm_http_no_route(lm_http *x, const char *allowed, bool without_slash) {
    lm_str path = lm_http_path(x);
    if (allowed && allowed[0]) {
        lm_http_set_header(x, "Allow", allowed);
        lm_http_reply(x, 405, "text/plain", LM_STR("405 method not allowed"));
    } else if (without_slash) {
        char *there = lm_str_dup((lm_str){path.ptr, path.len - 1});
        lm_http_set_header(x, "Location", there);
        free(there);
        reply_empty(x, lm_str_eq(lm_http_method(x), LM_STR("GET")) ? 301 : 307);
    } else {
        lm_http_reply(x, 404, "text/plain", LM_STR("404 page not found"));
    }
}
