/* auth.c - signing in to a registry: what it asks for in WWW-Authenticate, and the token that its token
 * server gives for that.
 *
 *     401, WWW-Authenticate: Bearer realm="https://HOST/token",service="..",scope="repository:ns/model:pull,push"
 *     GET https://HOST/token?nonce=..&scope=..&service=..&ts=..
 *     {"token": ".."}
 *
 * Where the token server is the registry's own host the request is signed with the user's key as Ollama does
 * it: Authorization: PUBLIC:SIGNATURE, over "GET,URL,EMPTY" where EMPTY is base64 of the sha256 of nothing,
 * in hex. Without a key, and with a token server of another host (as container registries have it), the
 * request has no name, which is enough for what is for everybody.
 *
 * Sources: Ollama's auth/auth.go and server/auth.go; OpenSSH's PROTOCOL.key; the distribution project's
 * spec/auth/token.md.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/file.h"
#include "base/json.h"
#include "hub/private.h"

#define MAX_KEY    16384
#define MAX_TOKEN  16384
#define MAX_ANSWER (256u << 10)
#define NOTHING_HASH                                                                                         \
    "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="

/* Letters of base64 with white space among them; the bytes behind them. False: something else. */
static bool from_base64(lm_str text, unsigned char *out, size_t room, size_t *n) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, have = 0;
    *n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '\n' || c == '\r' || c == ' ' || c == '=') continue;
        const char *at = c ? strchr(letters, c) : NULL;
        if (!at) return false;
        bits = bits << 6 | (uint32_t)(at - letters);
        have += 6;
        if (have < 8) continue;
        have -= 8;
        if (*n == room) return false;
        out[(*n)++] = (unsigned char)(bits >> have);
    }
    return true;
}

/* ---- the key, as ssh-keygen writes it */

typedef struct bytes {
    const unsigned char *p;
    size_t n;
} bytes;

static bool take_u32(bytes *b, uint32_t *out) {
    if (b->n < 4) return false;
    *out = (uint32_t)b->p[0] << 24 | (uint32_t)b->p[1] << 16 | (uint32_t)b->p[2] << 8 | b->p[3];
    b->p += 4;
    b->n -= 4;
    return true;
}

static bool take_string(bytes *b, bytes *out) {
    uint32_t n;
    if (!take_u32(b, &n) || n > b->n) return false;
    *out = (bytes){b->p, n};
    b->p += n;
    b->n -= n;
    return true;
}

static bool is_text(bytes b, const char *text) {
    return b.n == strlen(text) && !memcmp(b.p, text, b.n);
}

/* "openssh-key-v1", cipher, kdf, its options, 1, public key, private part: two equal numbers, type, public
 * key, seed and public key, comment. */
static const char *read_openssh(bytes b, lm_ssh_key *out) {
    bytes cipher, kdf, options, blob, private, type, key, secret;
    uint32_t n = 0, a = 0, c = 1;
    if (b.n < 15 || memcmp(b.p, "openssh-key-v1", 15)) return "is no key of ssh-keygen's";
    b.p += 15;
    b.n -= 15;
    if (!take_string(&b, &cipher) || !take_string(&b, &kdf) || !take_string(&b, &options) ||
        !take_u32(&b, &n) || n != 1 || !take_string(&b, &blob) || !take_string(&b, &private))
        return "is damaged";
    if (!is_text(cipher, "none")) return "is locked with a passphrase, which cannot be asked for here";
    if (!take_u32(&private, &a) || !take_u32(&private, &c) || a != c || !take_string(&private, &type))
        return "is damaged";
    if (!is_text(type, "ssh-ed25519")) return "is not of the type ed25519";
    if (!take_string(&private, &key) || key.n != 32 || !take_string(&private, &secret) || secret.n != 64 ||
        memcmp(secret.p + 32, key.p, 32))
        return "is damaged";
    memcpy(out->seed, secret.p, 32);
    memcpy(out->public, key.p, 32);
    return NULL;
}

lm_status lm_ssh_key_parse(lm_str text, lm_ssh_key *out, lm_err *err) {
    static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----", end[] = "-----END";
    unsigned char raw[4096];
    size_t n = 0;
    const char *why = "is no key of ssh-keygen's";
    text = lm_str_trim(text);
    const char *last = text.len > sizeof begin ? memmem(text.ptr, text.len, end, sizeof end - 1) : NULL;
    if (last && lm_str_starts(text, lm_str_of(begin))) {
        const char *first = text.ptr + sizeof begin - 1;
        if (last >= first && from_base64((lm_str){first, (size_t)(last - first)}, raw, sizeof raw, &n))
            why = read_openssh((bytes){raw, n}, out);
    }
    OPENSSL_cleanse(raw, sizeof raw);
    return why ? lm_fail(err, LM_CORRUPT, "the key %s", why) : LM_OK;
}

/* PUBLIC:SIGNATURE. The public key as in authorized_keys: its type, and it. */
lm_status lm_ssh_sign(const lm_ssh_key *key, lm_str text, lm_buf *out, lm_err *err) {
    static const char head[] = "\0\0\0\x0bssh-ed25519\0\0\0 ";
    unsigned char signature[64];
    size_t n = sizeof signature;
    char blob[sizeof head - 1 + 32];
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->seed, 32);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = pkey && md && EVP_DigestSignInit(md, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestSign(md, signature, &n, (const unsigned char *)text.ptr, text.len) == 1;
    EVP_MD_CTX_free(md);
    EVP_PKEY_free(pkey);
    if (!ok) return lm_fail(err, LM_INTERNAL, "ed25519 is not available in this OpenSSL");
    memcpy(blob, head, sizeof head - 1);
    memcpy(blob + sizeof head - 1, key->public, 32);
    lm_buf_base64(out, (lm_str){blob, sizeof blob});
    lm_buf_char(out, ':');
    lm_buf_base64(out, (lm_str){(const char *)signature, n});
    return LM_OK;
}

/* *there false: the user has none. */
static lm_status load_key(lm_ssh_key *out, bool *there, lm_err *err) {
    char *path = lm_path_home(".ollama/id_ed25519");
    lm_buf text;
    lm_buf_init(&text, MAX_KEY);
    lm_status st = lm_file_read(path, MAX_KEY - 1, &text, err);
    *there = st != LM_NOT_FOUND;
    if (st == LM_OK) st = lm_ssh_key_parse(lm_buf_view(&text), out, err);
    if (st == LM_NOT_FOUND)
        st = LM_OK;
    else if (st != LM_OK)
        st = lm_fail_in(err, st, "%s", path);
    if (text.ptr) OPENSSL_cleanse(text.ptr, text.len);
    lm_buf_release(&text);
    free(path);
    return st;
}

/* ---- what is asked for */

/* key="value" or key=value, after "Bearer". The value without its backslashes into out. */
static bool parameter(lm_str header, const char *key, char *out, size_t room) {
    size_t k = strlen(key), n = 0;
    bool quoted = false;
    for (size_t i = 0; i + k < header.len; i++) {
        char c = header.ptr[i];
        if (quoted && c == '\\') i++;
        if (c == '"') quoted = !quoted;
        bool begins = i == 0 || strchr(", ", header.ptr[i - 1]);
        if (quoted || !begins || header.ptr[i + k] != '=' || strncasecmp(header.ptr + i, key, k)) continue;
        i += k + 1;
        quoted = i < header.len && header.ptr[i] == '"';
        for (i += quoted; i < header.len && n + 1 < room; i++) {
            c = header.ptr[i];
            if (quoted ? c == '"' : c == ',' || c == ' ') break;
            if (c == '\\' && quoted && i + 1 < header.len) c = header.ptr[++i];
            if ((unsigned char)c < 32 || (unsigned char)c > 126) return false;
            out[n++] = c;
        }
        out[n] = '\0';
        return i == header.len || n + 1 < room;
    }
    return false;
}

bool lm_challenge_parse(lm_str header, lm_challenge *out) {
    lm_challenge c = {0};
    if (header.len < 7 || strncasecmp(header.ptr, "Bearer ", 7)) return false;
    header = (lm_str){header.ptr + 7, header.len - 7};
    if (!parameter(header, "realm", c.realm, sizeof c.realm) || !c.realm[0]) return false;
    if (!parameter(header, "service", c.service, sizeof c.service)) c.service[0] = '\0';
    if (!parameter(header, "scope", c.scope, sizeof c.scope)) c.scope[0] = '\0';
    *out = c;
    return true;
}

/* As Go's url.Values do. */
static void add_query(lm_buf *b, const char *key, lm_str value) {
    lm_buf_printf(b, "%c%s=", memchr(b->ptr, '?', b->len) ? '&' : '?', key);
    for (size_t i = 0; i < value.len; i++) {
        char c = value.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c && strchr("-_.~", c));
        if (plain)
            lm_buf_char(b, c);
        else if (c == ' ')
            lm_buf_char(b, '+');
        else
            lm_buf_printf(b, "%%%02X", (unsigned char)c);
    }
}

/* Keys in the order in which Go writes them: the signature is over the address as it is sent. */
static lm_status token_url(const lm_challenge *c, lm_buf *out, lm_err *err) {
    unsigned char raw[16];
    char now[24];
    lm_buf nonce;
    if (RAND_bytes(raw, sizeof raw) != 1)
        return lm_fail(err, LM_INTERNAL, "this OpenSSL has no random numbers");
    lm_buf_init(&nonce, 64);
    lm_buf_base64(&nonce, (lm_str){(const char *)raw, sizeof raw});
    for (size_t i = 0; i < nonce.len; i++) {
        if (nonce.ptr[i] == '+') nonce.ptr[i] = '-';
        if (nonce.ptr[i] == '/') nonce.ptr[i] = '_';
        if (nonce.ptr[i] == '=') nonce.len = i;
    }
    lm_buf_text(out, c->realm);
    add_query(out, "nonce", lm_buf_view(&nonce));
    lm_buf_release(&nonce);
    for (const char *p = c->scope; *p;) {
        size_t n = strcspn(p, " ");
        if (n) add_query(out, "scope", (lm_str){p, n});
        p += n + (p[n] == ' ');
    }
    add_query(out, "service", lm_str_of(c->service));
    snprintf(now, sizeof now, "%lld", (long long)time(NULL));
    add_query(out, "ts", lm_str_of(now));
    return lm_buf_status(out, "the token server's address", err);
}

/* ---- the token */

struct lm_auth {
    pthread_mutex_t lock; /* guards the rest, and is held while a token is asked for */
    char *token;
    uint32_t turn; /* counts tokens */
};

lm_auth *lm_auth_open(void) {
    lm_auth *a = lm_alloc(sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void lm_auth_close(lm_auth *a) {
    if (!a) return;
    pthread_mutex_destroy(&a->lock);
    free(a->token);
    free(a);
}

char *lm_auth_token(lm_auth *a, uint32_t *turn) {
    pthread_mutex_lock(&a->lock);
    char *token = a->token ? lm_strdup(a->token) : NULL;
    *turn = a->turn;
    pthread_mutex_unlock(&a->lock);
    return token;
}

/* {"token": ".."}, or "access_token" */
static char *read_token(lm_str text) {
    json_t *root = NULL;
    char *token = NULL;
    if (lm_json_parse(text, &root, NULL) != LM_OK) return NULL;
    const char *v = json_string_value(json_object_get(root, "token"));
    if (!v || !v[0]) v = json_string_value(json_object_get(root, "access_token"));
    bool ok = v && v[0] && strlen(v) < MAX_TOKEN;
    for (const char *p = v; ok && *p; p++) ok = *p > 32 && *p < 127;
    if (ok) token = lm_strdup(v);
    json_decref(root);
    return token;
}

#define SIGN_IN                                                                                              \
    "sign in: ~/.ollama/id_ed25519 is the key (ssh-keygen -t ed25519 -N \"\" -f ~/.ollama/id_ed25519), and " \
    "its public half must be known to the account"

static lm_status ask_for_token(lm_client *c, const lm_origin *o, const lm_challenge *ch, char **out,
                               lm_err *err) {
    lm_ssh_key key = {0};
    bool own = lm_url_same_origin(ch->realm, o->base), there = false;
    lm_answer a = {0};
    lm_buf url, line, said;
    lm_buf_init(&url, 16384);
    lm_buf_init(&line, 32768);
    lm_buf_init(&said, 1024);
    lm_status st = own ? load_key(&key, &there, err) : LM_OK;
    if (st == LM_OK) st = token_url(ch, &url, err);
    if (st == LM_OK && there) {
        lm_buf signed_text;
        lm_buf_init(&signed_text, 32768);
        lm_buf_printf(&signed_text, "GET,%s,%s", url.ptr, NOTHING_HASH);
        lm_buf_text(&line, "Authorization: ");
        st = lm_ssh_sign(&key, lm_buf_view(&signed_text), &line, err);
        lm_buf_release(&signed_text);
    }
    OPENSSL_cleanse(&key, sizeof key);
    const char *headers[] = {LM_HUB_AGENT, there ? line.ptr : NULL, NULL};
    lm_ask ask = {.method = "GET", .url = url.ptr, .headers = headers, .max_body = MAX_ANSWER};
    if (st == LM_OK) {
        st = lm_hub_ask(c, o, &ask, &a, err);
        if (st == LM_NOT_FOUND) st = lm_fail_in(err, LM_IO, "are you online?");
    }
    char *token = st == LM_OK && a.status == 200 ? read_token(lm_buf_view(&a.body)) : NULL;
    if (st == LM_OK && !token) {
        lm_hub_said(&a, &said);
        st = lm_fail(err, LM_DENIED, "%s gives no token (%d%s%s): %s", ch->realm, a.status,
                     said.len ? ": " : "", said.len ? said.ptr : "",
                     own ? SIGN_IN : "it is not for everybody");
    }
    if (st == LM_OK) *out = token;
    lm_answer_release(&a);
    lm_buf_release(&url);
    lm_buf_release(&line);
    lm_buf_release(&said);
    return st;
}

lm_status lm_auth_renew(lm_client *c, const lm_origin *o, const lm_answer *refusal, uint32_t turn,
                        lm_err *err) {
    lm_challenge ch;
    char *token = NULL;
    if (!lm_challenge_parse(lm_answer_header(refusal, "WWW-Authenticate"), &ch))
        return lm_fail(
            err, LM_DENIED,
            "%s wants to know who you are (401) in a way that is not known here: registries that ask for "
            "a token can be used",
            o->base);
    bool safe = !strncasecmp(ch.realm, "https://", 8) ||
                (!strncasecmp(o->base, "http://", 7) && !strncasecmp(ch.realm, "http://", 7));
    if (!safe)
        return lm_fail(err, LM_DENIED, "%s sends to %.200s to sign in, which is not safe", o->base, ch.realm);
    pthread_mutex_lock(&o->auth->lock);
    lm_status st = LM_OK;
    if (o->auth->turn == turn) { /* nobody else has asked meanwhile */
        st = ask_for_token(c, o, &ch, &token, err);
        if (st == LM_OK) {
            free(o->auth->token);
            o->auth->token = token;
            o->auth->turn++;
        }
    }
    pthread_mutex_unlock(&o->auth->lock);
    return st;
}
