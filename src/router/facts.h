/* facts.h - what a request asks for, as far as the choice of a backend depends on it. Private to the room.
 *
 * A body is parsed once, here. What is not JSON, or has no model, is passed on as it is: the backend words the error.
 *
 * Sources: Ollama's route table (server/routes.go) and wire types (api/types.go, openai/, anthropic/); names of members match
 * without regard to case, as in Go. */
#ifndef LM_ROUTER_FACTS_H
#define LM_ROUTER_FACTS_H

#include <jansson.h>

#include "http/http.h"

/* How an answer streams, ends and says an error. */
typedef enum router_wire { WIRE_OLLAMA, WIRE_OPENAI, WIRE_RESPONSES, WIRE_ANTHROPIC } router_wire;

typedef enum router_route {
    ROUTE_INFER, /* generate, chat, embed, embeddings, and /v1's: one backend that has the model, with fall back */
    ROUTE_MODEL,  /* show, /v1/models/NAME: a question about one model */
    ROUTE_MERGE,  /* tags, ps, /v1/models: of all backends */
    ROUTE_WRITE,  /* pull, push, create, copy, delete, blobs: the owner's */
    ROUTE_PASS,   /* accounts and what else a real Ollama knows: to one of them, as it is */
    ROUTE_OWN,    /* /, version, status, health, metrics, explain, what the router answers itself */
    ROUTE_UNKNOWN /* 404, or 405 */
} router_route;

enum { /* what the backend and the model must be able to do */
       NEED_COMPLETION = 1u << 0,
       NEED_EMBEDDING = 1u << 1,
       NEED_TOOLS = 1u << 2,
       NEED_VISION = 1u << 3,
       NEED_THINKING = 1u << 4, /* asked for by name; the default asks for nothing */
       NEED_INSERT = 1u << 5,   /* a suffix */
       NEED_FORMAT = 1u << 6,   /* json or a schema, enforced */
};

#define FACTS_PREFIXES 64

typedef struct router_facts {
    router_route route;
    router_wire wire;
    bool stream;      /* of the answer, the wire's default included */
    bool load_only;   /* no prompt: loads or unloads */
    uint32_t needs;   /* NEED_* */
    uint32_t num_ctx; /* 0: not said */
    char model[700];  /* as the client wrote it; "" when there is none */
    json_t *body;     /* NULL: none, or no JSON object. Owned */
    bool unpacked;    /* body was compressed: what the client sent is not what body says */
    /* Of the conversation: a hash over model, tools and the first i + 1 messages (generate: over growing pieces of context
     * and prompt); the last n_prefixes of them. The last one stands for all that was sent. */
    uint64_t prefixes[FACTS_PREFIXES];
    uint32_t n_prefixes;
    uint32_t n_prompt; /* bytes of all texts: a rough size of the prompt */
} router_facts;

/* Never fails for what a client sent. The caller releases. */
void facts_read(router_facts *out, const lm_http *x);
/* The same of method, path and body, for explain and tests. */
void facts_of(router_facts *out, lm_str method, lm_str path, lm_str body);
/* Prefixes and n_prompt anew, after body was changed. */
void facts_count(router_facts *f);
void facts_release(router_facts *f);

/* The key as the client wrote it; NULL when there is none of this name. Exact spelling wins. */
const char *facts_key(const json_t *object, const char *name);
/* Its value, NULL when absent or null. */
json_t *facts_member(const json_t *object, const char *name);

/* For what is ROUTE_UNKNOWN: the methods that this path has, "GET, HEAD"; "" when there is no such path. */
void facts_allowed(lm_str path, lm_buf *out);

#endif
