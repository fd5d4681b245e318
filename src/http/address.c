#include "http/client.h"

#include <stdio.h>
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
