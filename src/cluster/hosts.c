/* hosts.c - the hostfile of mlx.launch, read with everything checked. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cluster/cluster.h"

enum { MAX_FILE = 1 << 20, MAX_IPS = 8, MAX_NAME = 255, MAX_ENVS = 256 };

static bool printable(const char *s, size_t most) {
    size_t n = strlen(s);
    if (!n || n > most) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] <= ' ' || (unsigned char)s[i] == 0x7f) return false;
    return true;
}

/* A list of strings as our own copies. */
static lm_status take_list(const json_t *list, const char *what, uint32_t rank, uint32_t most, char ***out,
                           uint32_t *n, lm_err *err) {
    if (!list) return LM_OK;
    if (!json_is_array(list) || json_array_size(list) > most)
        return lm_fail(err, LM_INVALID, "rank %u: \"%s\" must be a list of at most %u texts", rank, what,
                       most);
    *out = lm_alloc((json_array_size(list) + 1) * sizeof **out);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text) return lm_fail(err, LM_INVALID, "rank %u: \"%s\" must be a list of texts", rank, what);
        (*out)[(*n)++] = lm_strdup(text);
    }
    return LM_OK;
}

static lm_status take_host(const json_t *o, uint32_t rank, lm_host *h, lm_err *err) {
    const char *ssh = json_string_value(json_object_get(o, "ssh"));
    if (!json_is_object(o) || !ssh)
        return lm_fail(err, LM_INVALID, "rank %u: each host is {\"ssh\": \"name\", \"ips\": [\"10.0.0.1\"]}",
                       rank);
    /* A name that begins with a dash would be an option of ssh. */
    if (!printable(ssh, MAX_NAME) || ssh[0] == '-')
        return lm_fail(err, LM_INVALID, "rank %u: \"ssh\" must be the name of a host", rank);
    h->ssh = lm_strdup(ssh);
    lm_status st = take_list(json_object_get(o, "ips"), "ips", rank, MAX_IPS, &h->ips, &h->n_ips, err);
    for (uint32_t i = 0; i < h->n_ips && st == LM_OK; i++) {
        struct in_addr v4;
        if (inet_pton(AF_INET, h->ips[i], &v4) != 1)
            st = lm_fail(err, LM_INVALID,
                         "rank %u: \"%.100s\" is not an IPv4 address, and MLX's ring knows no others", rank,
                         h->ips[i]);
    }
    return st;
}

/* As mlx.launch wants it for JACCL: for every rank the device towards each other one, null towards itself. */
static lm_status take_rdma(const json_t *list, uint32_t n, char **out, lm_err *err) {
    json_t *all = json_array();
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        json_t *of = json_object_get(json_array_get(list, i), "rdma");
        if (json_array_size(of) != n || !json_is_null(json_array_get(of, i)))
            st = lm_fail(
                err, LM_INVALID,
                "rank %u: \"rdma\" must name a device towards each of the %u ranks, null towards itself", i,
                n);
        else
            json_array_append(all, of);
    }
    if (st == LM_OK) *out = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return st;
}

static lm_status check_kind(lm_hosts *h, const char *kind, lm_err *err) {
    static const char *const known[] = {"ring", "jaccl", "jaccl-ring", "nccl", "mpi"};
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(kind, known[i])) i++;
    if (i == sizeof known / sizeof *known)
        return lm_fail(err, LM_INVALID, "backend \"%.40s\": there are ring, jaccl, jaccl-ring, nccl and mpi",
                       kind);
    strcpy(h->kind, known[i]);
    for (uint32_t r = 0; r < h->n; r++)
        if (!h->host[r].n_ips && (!strcmp(kind, "ring") || r == 0))
            return lm_fail(err, LM_INVALID, "rank %u has no \"ips\": the others must know where to reach it",
                           r);
        else if (!strcmp(kind, "ring") && h->host[r].n_ips != h->host[0].n_ips)
            return lm_fail(err, LM_INVALID,
                           "rank %u has %u \"ips\", rank 0 has %u: MLX's ring needs as many of each", r,
                           h->host[r].n_ips, h->host[0].n_ips);
    return LM_OK;
}

static lm_status take_envs(const json_t *list, lm_hosts *h, lm_err *err) {
    lm_status st = take_list(list, "envs", 0, MAX_ENVS, &h->envs, &h->n_envs, err);
    for (uint32_t i = 0; i < h->n_envs && st == LM_OK; i++) {
        const char *e = h->envs[i], *equals = strchr(e, '=');
        size_t n = equals ? (size_t)(equals - e) : 0;
        bool name = n && strspn(e, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == n;
        if (!name || strpbrk(e, "\n\r"))
            st = lm_fail(err, LM_INVALID, "\"envs\": \"%.100s\" is not NAME=value", e);
    }
    return st;
}

static lm_status take_all(const json_t *root, lm_hosts *h, lm_err *err) {
    const json_t *list = json_is_object(root) ? json_object_get(root, "hosts") : root;
    const char *kind = json_string_value(json_object_get(root, "backend"));
    size_t n = json_array_size(list);
    if (!json_is_array(list))
        return lm_fail(err, LM_INVALID,
                       "it must be a list of hosts, [{\"ssh\": \"mac1\", \"ips\": [\"10.0.0.1\"]}, ...], as "
                       "mlx.launch takes it");
    if (n < 2)
        return lm_fail(err, LM_INVALID, "it names %zu host%s: one alone needs no --distributed", n,
                       n == 1 ? "" : "s");
    if (n > LM_MAX_RANKS)
        return lm_fail(err, LM_INVALID, "it names %zu hosts, %d are possible", n, LM_MAX_RANKS);
    lm_status st = LM_OK;
    for (size_t i = 0; i < n && st == LM_OK; i++) {
        h->n++;
        const json_t *rank = json_object_get(json_array_get(list, i), "rank");
        if (rank && json_integer_value(rank) != (json_int_t)i)
            st = lm_fail(
                err, LM_INVALID,
                "host %zu says that it is rank %lld: hosts stand in the order of their ranks, each once", i,
                (long long)json_integer_value(rank));
        if (st == LM_OK) st = take_host(json_array_get(list, i), (uint32_t)i, &h->host[i], err);
    }
    if (st == LM_OK) st = take_envs(json_object_get(root, "envs"), h, err);
    if (st == LM_OK) st = check_kind(h, kind && *kind ? kind : "ring", err);
    if (st == LM_OK && !strncmp(h->kind, "jaccl", 5)) st = take_rdma(list, h->n, &h->rdma, err);
    return st;
}

static lm_status take_root(json_t *root, lm_hosts *out, lm_err *err) {
    lm_hosts h = {0};
    lm_status st = take_all(root, &h, err);
    if (st == LM_OK)
        *out = h;
    else
        lm_hosts_release(&h);
    json_decref(root);
    return st;
}

lm_status lm_hosts_parse(lm_str text, lm_hosts *out, lm_err *err) {
    json_t *root = NULL;
    lm_status st = lm_json_parse(text, &root, err);
    return st == LM_OK ? take_root(root, out, err) : st;
}

lm_status lm_hosts_load(const char *path, lm_hosts *out, lm_err *err) {
    json_t *root = NULL;
    lm_status st = lm_json_load(path, MAX_FILE, &root, err);
    if (st == LM_OK && (st = take_root(root, out, err)) != LM_OK) lm_fail_in(err, st, "%s", path);
    return st;
}

void lm_hosts_release(lm_hosts *h) {
    for (uint32_t i = 0; i < h->n; i++) {
        for (uint32_t k = 0; k < h->host[i].n_ips; k++) free(h->host[i].ips[k]);
        free(h->host[i].ips);
        free(h->host[i].ssh);
    }
    for (uint32_t i = 0; i < h->n_envs; i++) free(h->envs[i]);
    free(h->envs);
    free(h->rdma);
    *h = (lm_hosts){0};
}

/* ---- what follows from it */

static bool is_own_address(const char *ip) {
    struct in_addr want;
    struct ifaddrs *all = NULL;
    bool found = false;
    if (inet_pton(AF_INET, ip, &want) != 1) return false;
    if (ntohl(want.s_addr) >> 24 == 127) return true;
    if (getifaddrs(&all)) return false;
    for (struct ifaddrs *a = all; a && !found; a = a->ifa_next)
        found = a->ifa_addr && a->ifa_addr->sa_family == AF_INET &&
                ((struct sockaddr_in *)a->ifa_addr)->sin_addr.s_addr == want.s_addr;
    freeifaddrs(all);
    return found;
}

bool lm_host_is_here(const lm_host *h) {
    char name[MAX_NAME + 1] = "";
    if (!strcmp(h->ssh, "localhost") || is_own_address(h->ssh)) return true;
    if (gethostname(name, sizeof name - 1) == 0 && !strcmp(name, h->ssh)) return true;
    return h->n_ips && is_own_address(h->ips[0]);
}

void lm_hosts_ring(const lm_hosts *h, uint32_t first_port, lm_buf *out) {
    lm_buf_char(out, '[');
    for (uint32_t i = 0; i < h->n; i++) {
        lm_buf_text(out, i ? ",[" : "[");
        for (uint32_t k = 0; k < h->host[i].n_ips; k++)
            lm_buf_printf(out, "%s\"%s:%u\"", k ? "," : "", h->host[i].ips[k], first_port++);
        lm_buf_char(out, ']');
    }
    lm_buf_char(out, ']');
}
