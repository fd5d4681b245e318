#include "http/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lm_address_parse(const char *text, uint16_t default_port, char host[256], uint16_t *port) {
    lm_str s = lm_str_of(text);
    *port = default_port;
    const char *scheme = strstr(text, "://");
    if (scheme) {
        lm_str name = {text, (size_t)(scheme - text)};
        if (lm_str_eq(name, LM_STR("http")))
            *port = 80;
        else if (lm_str_eq(name, LM_STR("https")))
            *port = 443;
        s = lm_str_of(scheme + 3);
    }
    const char *slash = s.len ? memchr(s.ptr, '/', s.len) : NULL;
    if (slash) s.len = (size_t)(slash - s.ptr);

    lm_str name = s, digits = {0};
    if (s.len && s.ptr[0] == '[') {
        const char *close = memchr(s.ptr, ']', s.len);
        if (close) {
            name = (lm_str){s.ptr + 1, (size_t)(close - s.ptr) - 1};
            if (close + 1 < s.ptr + s.len && close[1] == ':')
                digits = (lm_str){close + 2, (size_t)(s.ptr + s.len - close) - 2};
        }
    } else {
        const char *colon = s.len ? memchr(s.ptr, ':', s.len) : NULL;
        /* two colons without brackets: an IPv6 address alone */
        if (colon && !memchr(colon + 1, ':', (size_t)(s.ptr + s.len - colon) - 1)) {
            name = (lm_str){s.ptr, (size_t)(colon - s.ptr)};
            digits = (lm_str){colon + 1, (size_t)(s.ptr + s.len - colon) - 1};
            if (!name.len) name = LM_STR("0.0.0.0"); /* ":8080" is every address, as in Go */
        }
    }
    if (!name.len) name = LM_STR("127.0.0.1");
    snprintf(host, 256, "%.*s", LM_STR_ARG(name));
    uint32_t n = 0;
    size_t i = 0;
    for (; i < digits.len && i < 5 && digits.ptr[i] >= '0' && digits.ptr[i] <= '9'; i++)
        n = n * 10 + (uint32_t)(digits.ptr[i] - '0');
    if (digits.len && i == digits.len && n <= 65535)
        *port = (uint16_t)n; /* Ollama keeps its default for a bad port */
}

lm_status lm_address_url(const char *text, uint16_t default_port, uint16_t port, char out[512], lm_err *err) {
    lm_str s = lm_str_trim(lm_str_of(text));
    while (s.len && (s.ptr[0] == '"' || s.ptr[0] == '\'')) s.ptr++, s.len--;
    while (s.len && (s.ptr[s.len - 1] == '"' || s.ptr[s.len - 1] == '\'')) s.len--;
    char *address = lm_str_dup(s.len ? s : LM_STR("127.0.0.1")), host[256], url[512];
    uint16_t said = 0;
    lm_address_parse(address, default_port, host, &said);
    if (!strcmp(host, "0.0.0.0")) strcpy(host, "127.0.0.1");
    if (!strcmp(host, "::")) strcpy(host, "::1");
    bool tls = !strncmp(address, "https://", 8), v6 = strchr(host, ':') != NULL;
    const char *scheme = strstr(address, "://"), *path = strchr(scheme ? scheme + 3 : address, '/');
    lm_status st = LM_OK;
    if (scheme && strncmp(address, "http://", 7) && !tls)
        st = lm_fail(err, LM_INVALID, "%.200s is no address of a server: it begins with http:// or https://",
                     address);
    int n = snprintf(url, sizeof url, "%s://%s%s%s:%u%s", tls ? "https" : "http", v6 ? "[" : "", host,
                     v6 ? "]" : "", port ? port : said, path ? path : "");
    if (st == LM_OK && (n >= (int)sizeof url || strpbrk(url, " \t\r\n")))
        st = lm_fail(err, LM_INVALID, "%.200s is no address of a server", address);
    free(address);
    if (st != LM_OK) return st;
    while (n && url[n - 1] == '/') url[--n] = '\0';
    strcpy(out, url);
    return LM_OK;
}
