/* hygiene.h - the same prompt prefix for the same conversation, whatever a client puts into it. Private to the room.
 *
 * Backends keep what they computed of a prompt as long as its beginning stays the same. Some clients change it with every
 * request; this takes that out (in place, of a parsed body). Only what no model has a use for goes, and only from where a
 * client of that kind puts it: texts of the system (system, instructions, messages of the roles system and developer).
 * Texts of users, assistants and tools may quote such a thing, and stay.
 *
 *   billing    Claude Code begins its system texts with one that says who pays. cch and the last part of cc_version are
 *              hashes over the request, so they change with each one:
 *                  x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;
 *              Source: anthropics/claude-code issues 24168, 40652, 68900; what vllm, sglang and vllm-mlx (277) take out.
 *   countdown  Claude Code says after each result of a tool how many tokens are left, as a message of the system or at the
 *              end of its text; servers that move such messages to the front change the prompt's head with it:
 *                  <total_tokens>14999436 tokens left</total_tokens>
 *              Source: ollama pull request 17918, omlx 2881 and 2882.
 *   tools      come in the order of their names, the words of a schema (type, description ...) and the list of what it requires, too. The
 *              parameters of a tool stay as they were written: models fill them in that order.
 */
#ifndef LM_ROUTER_HYGIENE_H
#define LM_ROUTER_HYGIENE_H

#include "router/facts.h"

typedef struct hygiene_report {
    bool changed;          /* the body is another one now */
    uint32_t n_markers;    /* taken out */
    uint32_t bytes_behind; /* of the prompt behind the first one: what a backend would have computed again */
} hygiene_report;

void hygiene_clean(json_t *body, router_wire wire, hygiene_report *out);

#endif
