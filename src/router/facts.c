#include "router/facts.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"

#define MAX_UNPACKED (20u << 20) /* bytes of a zstd body, as Ollama limits it */

/* ---- members */

const char *facts_key(const json_t *object, const char *name) {
    if (json_object_get(object, name)) return name;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        if (!strcasecmp(key, name)) return key;
    }
    return NULL;
}

json_t *facts_member(const json_t *object, const char *name) {
    const char *key = facts_key(object, name);
    json_t *value = key ? json_object_get(object, key) : NULL;
    return json_is_null(value) ? NULL : value;
}

static lm_str text_of(const json_t *value) {
    return json_is_string(value) ? (lm_str){json_string_value(value), json_string_length(value)}
                                 : (lm_str){0};
}

static lm_str text_member(const json_t *object, const char *name) {
    return text_of(facts_member(object, name));
}

/* ---- routes */

typedef enum form {
    FORM_NONE,
    FORM_GENERATE,
    FORM_CHAT,
    FORM_EMBED,      /* input */
    FORM_EMBEDDINGS, /* prompt */
    FORM_OPENAI_CHAT,
    FORM_OPENAI_COMPLETION,
    FORM_OPENAI_EMBED,
    FORM_RESPONSES,
    FORM_MESSAGES,
    FORM_COUNT,  /* tokens of messages */
    FORM_NAME,   /* a model by name */
    FORM_WRITE,  /* the same; streams by default */
    FORM_SOURCE, /* copy */
    FORM_PATH    /* the name stands in the path */
} form;

typedef struct route {
    const char *method, *path; /* one that ends in '*' stands for all that go on there */
    router_route route;
    router_wire wire;
    form form;
} route;

static const route routes[] = {
    {"POST", "/api/generate", ROUTE_INFER, WIRE_OLLAMA, FORM_GENERATE},
    {"POST", "/api/chat", ROUTE_INFER, WIRE_OLLAMA, FORM_CHAT},
    {"POST", "/api/embed", ROUTE_INFER, WIRE_OLLAMA, FORM_EMBED},
    {"POST", "/api/embeddings", ROUTE_INFER, WIRE_OLLAMA, FORM_EMBEDDINGS},
    {"POST", "/v1/chat/completions", ROUTE_INFER, WIRE_OPENAI, FORM_OPENAI_CHAT},
    {"POST", "/v1/completions", ROUTE_INFER, WIRE_OPENAI, FORM_OPENAI_COMPLETION},
    {"POST", "/v1/embeddings", ROUTE_INFER, WIRE_OPENAI, FORM_OPENAI_EMBED},
    {"POST", "/v1/responses", ROUTE_INFER, WIRE_RESPONSES, FORM_RESPONSES},
    {"POST", "/v1/messages", ROUTE_INFER, WIRE_ANTHROPIC, FORM_MESSAGES},
    {"POST", "/v1/messages/count_tokens", ROUTE_INFER, WIRE_ANTHROPIC, FORM_COUNT},

    {"POST", "/api/show", ROUTE_MODEL, WIRE_OLLAMA, FORM_NAME},
    {"GET", "/v1/models/*", ROUTE_MODEL, WIRE_OPENAI, FORM_PATH},

    {"GET", "/api/tags", ROUTE_MERGE, WIRE_OLLAMA, FORM_NONE},
    {"HEAD", "/api/tags", ROUTE_MERGE, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/api/ps", ROUTE_MERGE, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/v1/models", ROUTE_MERGE, WIRE_OPENAI, FORM_NONE},

    {"POST", "/api/pull", ROUTE_WRITE, WIRE_OLLAMA, FORM_WRITE},
    {"POST", "/api/push", ROUTE_WRITE, WIRE_OLLAMA, FORM_WRITE},
    {"POST", "/api/create", ROUTE_WRITE, WIRE_OLLAMA, FORM_WRITE},
    {"POST", "/api/copy", ROUTE_WRITE, WIRE_OLLAMA, FORM_SOURCE},
    {"DELETE", "/api/delete", ROUTE_WRITE, WIRE_OLLAMA, FORM_NAME},
    {"HEAD", "/api/blobs/*", ROUTE_WRITE, WIRE_OLLAMA, FORM_NONE},
    {"POST", "/api/blobs/*", ROUTE_WRITE, WIRE_OLLAMA, FORM_NONE},

    {"POST", "/api/me", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"POST", "/api/signout", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"DELETE", "/api/user/keys/*", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"POST", "/api/experimental/*", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/api/experimental/*", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"POST", "/v1/audio/transcriptions", ROUTE_PASS, WIRE_OPENAI, FORM_NONE},

    {"GET", "/", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"HEAD", "/", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/api/version", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"HEAD", "/api/version", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/api/status", ROUTE_PASS, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/health", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"HEAD", "/health", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/metrics", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/router/status", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"GET", "/router/explain", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
    {"POST", "/router/explain", ROUTE_OWN, WIRE_OLLAMA, FORM_NONE},
};
#define N_ROUTES (sizeof routes / sizeof *routes)

static bool fits(const route *r, lm_str path) {
    size_t n = strlen(r->path);
    if (r->path[n - 1] == '*') return path.len >= n && !memcmp(path.ptr, r->path, n - 1);
    return lm_str_eq(lm_str_of(r->path), path);
}

void facts_allowed(lm_str path, lm_buf *out) {
    for (size_t i = 0; i < N_ROUTES; i++)
        if (fits(&routes[i], path)) lm_buf_printf(out, "%s%s", out->len ? ", " : "", routes[i].method);
}

/* ---- the conversation's hashes
 *
 * Not for keeps, and no secret: two texts that hash the same cost a warm cache, nothing else. */

typedef struct hasher {
    uint64_t h;
    uint64_t n_text;
} hasher;

static void mix(hasher *s, uint64_t word) {
    s->h = (s->h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    s->h ^= s->h >> 29;
}

static void add_bytes(hasher *s, lm_str t) {
    mix(s, t.len);
    while (t.len) {
        uint64_t word = 0;
        size_t n = t.len < 8 ? t.len : 8;
        memcpy(&word, t.ptr, n);
        mix(s, word);
        t.ptr += n;
        t.len -= n;
    }
}

/* Anything, members in the order in which they were written. Marks for caches come and go between turns. */
static void add_value(hasher *s, const json_t *value) {
    size_t i;
    json_t *item;
    const char *key;
    mix(s, value ? (uint64_t)json_typeof(value) + 1 : 0);
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING:
        add_bytes(s, text_of(value));
        s->n_text += json_string_length(value);
        break;
    case JSON_INTEGER: mix(s, (uint64_t)json_integer_value(value)); break;
    case JSON_REAL: {
        double d = json_real_value(value);
        uint64_t bits;
        memcpy(&bits, &d, sizeof bits);
        mix(s, bits);
        break;
    }
    case JSON_ARRAY: json_array_foreach(value, i, item) add_value(s, item); break;
    case JSON_OBJECT:
        json_object_foreach((json_t *)(uintptr_t)value, key, item) {
            if (!strcmp(key, "cache_control")) continue;
            add_bytes(s, lm_str_of(key));
            add_value(s, item);
        }
        break;
    default: break;
    }
}

/* A text is the same whether it is written as a string or as a list of one part. */
static void add_content(hasher *s, const json_t *content) {
    size_t i;
    json_t *part;
    if (!json_is_array(content)) {
        add_value(s, content);
        return;
    }
    json_array_foreach(content, i, part) {
        json_t *text = json_is_object(part) ? json_object_get(part, "text") : NULL;
        if (json_is_string(text))
            add_value(s, text);
        else
            add_value(s, part);
    }
}

static void add_message(hasher *s, const json_t *message) {
    if (!json_is_object(message)) {
        add_value(s, message);
        return;
    }
    add_bytes(s, text_member(message, "role"));
    add_content(s, facts_member(message, "content"));
    static const char *const more[] = {"images",    "tool_calls", "tool_call_id", "call_id",
                                       "arguments", "output",     "name"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        json_t *value = facts_member(message, more[i]);
        if (value) add_value(s, value);
    }
}

/* Keeps the last FACTS_PREFIXES. */
static void note_prefix(router_facts *f, uint64_t h) {
    if (f->n_prefixes == FACTS_PREFIXES) {
        memmove(f->prefixes, f->prefixes + 1, sizeof f->prefixes - sizeof *f->prefixes);
        f->n_prefixes--;
    }
    f->prefixes[f->n_prefixes++] = h;
}

static void count_messages(router_facts *f, hasher *s, const json_t *messages) {
    size_t i;
    json_t *message;
    if (json_is_string(messages)) {
        add_value(s, messages);
        note_prefix(f, s->h);
    }
    json_array_foreach(messages, i, message) {
        add_message(s, message);
        note_prefix(f, s->h);
    }
}

/* generate: the tokens of `context` by growing pieces, then the prompt by growing pieces. */
static void count_prompt(router_facts *f, hasher *s, const json_t *body) {
    const json_t *context = facts_member(body, "context");
    size_t i, mark = 32;
    json_t *token;
    json_array_foreach(context, i, token) {
        mix(s, (uint64_t)json_integer_value(token));
        if (i + 1 != mark) continue;
        note_prefix(f, s->h);
        mark *= 2;
    }
    lm_str prompt = text_member(body, "prompt");
    s->n_text += prompt.len;
    size_t done = 0;
    for (size_t piece = 256; prompt.len - done > piece; piece *= 2) {
        add_bytes(s, (lm_str){prompt.ptr + done, piece});
        done += piece;
        note_prefix(f, s->h);
    }
    add_bytes(s, (lm_str){prompt.ptr ? prompt.ptr + done : NULL, prompt.len - done});
    note_prefix(f, s->h);
}

void facts_count(router_facts *f) {
    f->n_prefixes = 0;
    f->n_prompt = 0;
    if (f->route != ROUTE_INFER || !f->body) return;
    hasher s = {.h = UINT64_C(0x6d6c785f726f7574)};
    add_bytes(&s, lm_str_of(f->model));
    uint64_t before = s.n_text;
    add_value(&s, facts_member(f->body, "tools"));
    s.n_text = before; /* their schemas are no text of the prompt's size */
    add_content(&s, facts_member(f->body, "system"));
    add_value(&s, facts_member(f->body, "instructions"));
    json_t *messages = facts_member(f->body, "messages"), *input = facts_member(f->body, "input");
    if (f->needs & NEED_EMBEDDING) {
        add_value(&s, input ? input : facts_member(f->body, "prompt"));
    } else if (messages) {
        count_messages(f, &s, messages);
    } else if (input) {
        count_messages(f, &s, input);
    } else {
        count_prompt(f, &s, f->body);
    }
    f->n_prompt = s.n_text > UINT32_MAX ? UINT32_MAX : (uint32_t)s.n_text;
}

/* ---- needs */

static bool is_filled(const json_t *value) {
    return json_is_string(value) ? json_string_length(value) > 0
                                 : json_array_size(value) > 0 || json_object_size(value) > 0;
}

/* Pictures lie in images (Ollama), or in parts of some type, also within the results of tools. */
static bool has_picture(const json_t *messages, unsigned depth) {
    size_t i;
    json_t *m;
    if (depth > 4) return false;
    json_array_foreach(messages, i, m) {
        if (!json_is_object(m)) continue;
        if (is_filled(facts_member(m, "images"))) return true;
        lm_str type = text_member(m, "type");
        if (lm_str_eq(type, LM_STR("image_url")) || lm_str_eq(type, LM_STR("image")) ||
            lm_str_eq(type, LM_STR("input_image")))
            return true;
        if (has_picture(facts_member(m, "content"), depth + 1) ||
            has_picture(facts_member(m, "output"), depth + 1))
            return true;
    }
    return false;
}

static bool wants_thinking(const json_t *think) {
    return json_is_true(think) || (json_is_string(think) && json_string_length(think) > 0);
}

static bool wants_effort(const json_t *body) {
    lm_str effort = text_member(body, "reasoning_effort");
    if (!effort.len) effort = text_member(facts_member(body, "reasoning"), "effort");
    return effort.len && !lm_str_eq(effort, LM_STR("none"));
}

static bool is_format(const json_t *format) {
    lm_str type = text_member(format, "type");
    return lm_str_starts(type, LM_STR("json"));
}

static uint32_t needs_of(form kind, const json_t *b) {
    const json_t *messages = facts_member(b, kind == FORM_RESPONSES ? "input" : "messages");
    uint32_t needs = NEED_COMPLETION;
    switch (kind) {
    case FORM_EMBED:
    case FORM_EMBEDDINGS:
    case FORM_OPENAI_EMBED: return NEED_EMBEDDING;
    case FORM_GENERATE:
    case FORM_CHAT:
        if (is_filled(facts_member(b, "images"))) needs |= NEED_VISION;
        if (is_filled(facts_member(b, "format"))) needs |= NEED_FORMAT;
        if (wants_thinking(facts_member(b, "think"))) needs |= NEED_THINKING;
        break;
    case FORM_OPENAI_CHAT:
    case FORM_OPENAI_COMPLETION:
        if (is_format(facts_member(b, "response_format"))) needs |= NEED_FORMAT;
        if (wants_effort(b)) needs |= NEED_THINKING;
        break;
    case FORM_RESPONSES:
        if (is_format(facts_member(facts_member(b, "text"), "format"))) needs |= NEED_FORMAT;
        if (wants_effort(b)) needs |= NEED_THINKING;
        break;
    case FORM_MESSAGES:
    case FORM_COUNT: break; /* thinking is relaxed where a model cannot do it */
    default: return 0;
    }
    if (kind == FORM_GENERATE || kind == FORM_OPENAI_COMPLETION) {
        if (is_filled(facts_member(b, "suffix"))) needs |= NEED_INSERT;
        return needs;
    }
    if (is_filled(facts_member(b, "tools"))) needs |= NEED_TOOLS;
    if (has_picture(messages, 0)) needs |= NEED_VISION;
    return needs;
}

static bool streams(form kind, const json_t *b) {
    const json_t *asked = facts_member(b, "stream");
    switch (kind) {
    case FORM_GENERATE:
    case FORM_CHAT:
    case FORM_WRITE: return !json_is_false(asked);
    case FORM_OPENAI_CHAT:
    case FORM_OPENAI_COMPLETION:
    case FORM_RESPONSES:
    case FORM_MESSAGES: return json_is_true(asked);
    default: return false;
    }
}

static bool loads_only(form kind, const json_t *b) {
    switch (kind) {
    case FORM_GENERATE: return !text_member(b, "prompt").len;
    case FORM_CHAT: return !json_array_size(facts_member(b, "messages"));
    case FORM_EMBED: return !is_filled(facts_member(b, "input"));
    case FORM_EMBEDDINGS: return !text_member(b, "prompt").len;
    default: return false;
    }
}

static void read_model(router_facts *f, form kind, lm_str path) {
    lm_str model = {0};
    if (kind == FORM_PATH) {
        size_t head = strlen("/v1/models/");
        model = (lm_str){path.ptr + head, path.len - head};
    } else if (kind == FORM_SOURCE) {
        model = text_member(f->body, "source");
    } else {
        model = text_member(f->body, "model");
        if (!model.len && (kind == FORM_NAME || kind == FORM_WRITE)) model = text_member(f->body, "name");
    }
    /* One with a NUL, or longer than any name may be, is nobody's. */
    if (model.len >= sizeof f->model || (model.len && memchr(model.ptr, '\0', model.len))) return;
    snprintf(f->model, sizeof f->model, "%.*s", LM_STR_ARG(model));
}

static void read_body(router_facts *f, form kind, lm_str body) {
    if (kind != FORM_NONE && kind != FORM_PATH && body.len && lm_json_parse(body, &f->body, NULL) == LM_OK &&
        !json_is_object(f->body)) {
        json_decref(f->body);
        f->body = NULL;
    }
}

void facts_of(router_facts *out, lm_str method, lm_str path, lm_str body) {
    *out = (router_facts){.route = ROUTE_UNKNOWN};
    for (size_t i = 0; i < N_ROUTES; i++) {
        const route *r = &routes[i];
        if (!lm_str_eq(lm_str_of(r->method), method) || !fits(r, path)) continue;
        out->route = r->route;
        out->wire = r->wire;
        read_body(out, r->form, body);
        out->needs = needs_of(r->form, out->body);
        out->load_only = out->body && loads_only(r->form, out->body);
        out->stream = out->body && streams(r->form, out->body) && !out->load_only;
        read_model(out, r->form, path);
        const json_t *num_ctx = facts_member(facts_member(out->body, "options"), "num_ctx");
        json_int_t n = json_integer_value(num_ctx);
        if (n > 0 && n <= UINT32_MAX) out->num_ctx = (uint32_t)n;
        facts_count(out);
        return;
    }
}

void facts_read(router_facts *out, const lm_http *x) {
    lm_buf plain;
    lm_str body = lm_http_body(x);
    lm_buf_init(&plain, MAX_UNPACKED);
    bool packed = lm_http_header(x, "Content-Encoding").len > 0;
    if (packed && lm_http_unpack(x, &plain, &body, NULL) != LM_OK) body = (lm_str){0};
    facts_of(out, lm_http_method(x), lm_http_path(x), body);
    out->unpacked = packed && plain.len;
    lm_buf_release(&plain);
}

void facts_release(router_facts *f) {
    json_decref(f->body);
    *f = (router_facts){0};
}
