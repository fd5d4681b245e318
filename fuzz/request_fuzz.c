/* Bodies of /api/generate and /api/chat, and of OpenAI's three, and of those that ask for vectors: whatever
 * comes, the reader refuses it with a text or makes a request. */
#include <stdlib.h>
#include <string.h>

#include "api/embed.h"
#include "api/responses.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const lm_text_sampling makers = {.temperature = 0.5};

static void read_ollamas(lm_str body, ollama_form form) {
    ollama_request r = {0};
    lm_err err = {0};
    lm_status st = ollama_request_read(body, form, &r, &err);
    if (st == LM_OK) {
        if (!r.model || !r.request || err.text[0]) abort();
        if (ollama_request_options(&r, &makers, &err) != LM_OK && !err.text[0]) abort();
        if (r.request->top_logprobs > 20) abort();
        if (r.request->kind == LM_REQUEST_CHAT && !json_is_array(r.request->messages)) abort();
    } else if (!err.text[0] || r.request) {
        abort();
    }
    ollama_request_release(&r);
}

/* What the engine may rely on. */
static void check_choice(openai_request *r, uint32_t i) {
    lm_request *q = NULL;
    lm_err err = {0};
    if (openai_request_choice(r, i, &q, &err) != LM_OK) abort();
    if (q->kind == LM_REQUEST_CHAT && !json_array_size(q->messages)) abort();
    if (q->kind == LM_REQUEST_RAW && (!q->prompt || !q->n_context)) abort();
    if (q->kind == LM_REQUEST_INSERT && (!q->prompt || !q->suffix)) abort();
    if (r->forced && (!q->constrained || !q->schema || !json_array_size(q->tools))) abort();
    lm_request_free(q);
}

static void read_openais(lm_str body, openai_form form) {
    openai_request r = {0};
    lm_err err = {0};
    lm_status st = openai_request_read(body, form, &r, &err);
    if (st == LM_OK) {
        if (!r.ask.model || !r.n || !r.n_choices || r.n_choices > OPENAI_MAX_CHOICES || err.text[0]) abort();
        if (r.ask.request->top_logprobs > 20) abort();
        st = ollama_request_options(&r.ask, &makers, &err);
        if (st != LM_OK && !err.text[0]) abort();
        for (uint32_t i = 0; st == LM_OK && i < r.n_choices; i++) check_choice(&r, i);
    } else if (!err.text[0] || r.ask.request) {
        abort();
    }
    openai_request_release(&r);
}

static void read_responses(lm_str body) {
    responses_request r = {0};
    lm_err err = {0};
    lm_status st = responses_request_read(body, &r, &err);
    if (st == LM_OK) {
        const lm_request *q = r.ask.request;
        if (!r.ask.model || !json_is_object(r.echo) || !json_array_size(q->messages) || err.text[0]) abort();
        if (r.forced && (!q->constrained || !q->schema || !json_array_size(q->tools))) abort();
        if (ollama_request_options(&r.ask, &makers, &err) != LM_OK && !err.text[0]) abort();
    } else if (!err.text[0] || r.ask.request) {
        abort();
    }
    responses_request_release(&r);
}

static void read_embeds(lm_str body, embed_form form) {
    embed_request r = {0};
    lm_err err = {0};
    lm_status st = embed_request_read(body, form, &r, &err);
    if (st == LM_OK) {
        const lm_request *q = r.ask.request;
        if (!r.ask.model || err.text[0] || (q->kind == LM_REQUEST_EMBED) != (q->n_inputs > 0)) abort();
        for (uint32_t i = 0; i < q->n_inputs; i++)
            if (!q->inputs[i].text && (!q->inputs[i].ids || !q->inputs[i].n)) abort();
        if (ollama_request_options(&r.ask, &makers, &err) != LM_OK && !err.text[0]) abort();
    } else if (!err.text[0] || r.ask.request) {
        abort();
    }
    embed_request_release(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str body = {(const char *)data, size};
    read_ollamas(body, OLLAMA_GENERATE);
    read_ollamas(body, OLLAMA_CHAT);
    read_openais(body, OPENAI_CHAT);
    read_openais(body, OPENAI_COMPLETION);
    read_responses(body);
    for (embed_form form = EMBED_OLLAMA; form <= EMBED_OPENAI; form++) read_embeds(body, form);
    return 0;
}
