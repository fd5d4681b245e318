/* What a hub and a registry answer: whatever comes is refused, or names files that lie where they may. */
#include <stdlib.h>
#include <string.h>

#include "hub/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const lm_listing *l) {
    if (l->n > LM_HUB_MAX_LAYERS + 1) abort();
    for (uint32_t i = 0; i < l->n; i++) {
        const lm_remote *f = &l->files[i];
        if (f->size > LM_HUB_MAX_BYTES || f->fd >= 0) abort();
        if (f->digest[0] && strspn(f->digest + 7, "0123456789abcdef") != 64) abort();
        if (f->oid[0] && strspn(f->oid, "0123456789abcdef") != 40) abort();
    }
}

/* What is said to who sends something: addresses that can be asked, headers of one line each. */
static void push(lm_str text) {
    lm_remote f = {.digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", .size = 10};
    lm_remote *files[] = {&f};
    lm_lfs l;
    lm_challenge c;
    lm_ssh_key key;
    lm_err err = {0};
    if (lm_lfs_parse(text, "https://hub/", files, 1, &l, &err) == LM_OK) {
        if (l.href && strncmp(l.href, "https://", 8)) abort();
        for (uint32_t i = 0; i < l.n_headers; i++)
            if (!strstr(l.headers[i], ": ") || strpbrk(l.headers[i], "\r\n")) abort();
        for (uint32_t i = 0; i < l.n_parts; i++)
            if (strncmp(l.parts[i], "https://", 8)) abort();
        lm_lfs_release(&l);
    }
    if (lm_challenge_parse(text, &c) && (!c.realm[0] || strpbrk(c.realm, "\r\n"))) abort();
    if (lm_ssh_key_parse(text, &key, &err) == LM_OK && text.len < 300) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str text = {(const char *)data, size};
    lm_listing l = {0};
    lm_err err = {0};
    bool gguf;
    if (lm_listing_parse(text, &l, &err) == LM_OK) {
        check(&l);
        for (uint32_t i = 0; i < l.n; i++) {
            const char *name = l.files[i].name;
            if (!name[0] || name[0] == '.' || name[0] == '/' || strstr(name, "/.") || strchr(name, '\\')) abort();
            if (!l.files[i].digest[0] == !l.files[i].oid[0]) abort();
        }
        if (lm_listing_choose(&l, "q8_0", &gguf, &err) == LM_OK && (!l.n || (gguf && l.n != 1))) abort();
        lm_listing_release(&l);
    } else if (!err.text[0] || l.files) {
        abort();
    }
    if (lm_oci_parse(text, &l, &err) == LM_OK) {
        check(&l);
        lm_listing_release(&l);
    }
    push(text);
    return 0;
}
