/* hub.h - models from elsewhere, and to there: repositories of the Hugging Face hub, and Ollama registries.
 *
 * Nothing here talks to a network unless lm_hub_pull or lm_hub_push is called, and it talks to the one place
 * that the name says:
 *
 *     a name of the alias table       its repositories on the hub, in their order
 *     org/repo, hf.co/org/repo[:rev]  that repository; rev is a branch, tag or commit, or the form of a GGUF
 * file host[:port]/ns/model:tag        that registry any other name                  registry.ollama.ai
 *
 * The environment: HF_ENDPOINT, HF_TOKEN (HF_TOKEN_PATH, HF_HOME/token, ~/.cache/huggingface/token),
 * HF_HUB_OFFLINE (of all pulls), OLLAMA_MAX_TRANSFER_STREAMS (files at a time, 4).
 *
 * Files are fetched into the store's partial files and go on from there after anything that stops them; each
 * is checked against its sha256, or git's sha1 of a small one, before the model appears, whole, under its
 * name.
 *
 * Sources: https://huggingface.co/docs/hub/api, https://github.com/opencontainers/distribution-spec (pull),
 * Ollama's docs/api.md.
 *
 * Threads: any; several pulls of one model, in any processes, wait for each other.
 */
#ifndef LM_HUB_H
#define LM_HUB_H

#include "base/base.h"
#include "store/store.h"

/* What is told while a pull or a push runs, all from the thread that called it. */
typedef struct lm_pull {
    const char *name;                            /* as a user types it */
    bool insecure;                               /* http to a registry that is not this machine is allowed */
    void (*status)(void *ctx, const char *text); /* "pulling manifest", "verifying sha256 digest" ... */
    /* About every 60 ms for each file that grew. digest: "sha256:..". */
    void (*bytes)(void *ctx, const char *digest, uint64_t total, uint64_t completed);
    bool (*go_on)(
        void *ctx); /* asked ten times a second; false: LM_CANCELLED, what came is kept for the next time */
    void *ctx;
} lm_pull;

/* The model is in the own store under its name then, in place of what had that name.
 *   LM_NOT_FOUND  "pull model manifest: file does not exist"
 *   LM_DENIED     the hub wants a token, or a licence accepted
 *   LM_NO_SPACE, LM_CORRUPT, LM_IO, LM_TIMEOUT, LM_BUSY, LM_UNSUPPORTED, LM_INVALID, LM_CANCELLED */
lm_status lm_hub_pull(lm_store *s, const lm_pull *pull, lm_err *err) LM_CHECKED;

/* The model of that name to the place that the name says: a repository (org/repo, hf.co/...), or a registry,
 * with registry.ollama.ai for a name without a namespace, or where it is written down. What is there already
 * is not sent. status: "retrieving manifest", "pushing manifest". LM_NOT_FOUND  no such model here LM_DENIED
 * no token, or one that may not the rest as for a pull */
lm_status lm_hub_push(lm_store *s, const lm_pull *push, lm_err *err) LM_CHECKED;

#endif
