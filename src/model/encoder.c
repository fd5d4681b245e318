/* Encoders: BERT and what shares its graph.
 *
 * Tokens, positions and the (first) token type are looked up and added; then a layer is attention over the
 * whole text in both directions and an MLP without a gate, each added to the stream and normed afterwards
 * (mean taken away, with a bias). There is no head, and nothing is kept from one step to the next.
 *
 * Source: Hugging Face's BertModel, RobertaModel, XLMRobertaModel and DistilBertModel. */
#include "model/graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- config.json */

/* A member under the name that most have, or that DistilBERT has. */
static uint32_t size_of(lm_reader *r, const char *name, const char *other, uint32_t high) {
    bool there = json_object_get(r->o, name);
    return lm_read_u32(r, there ? name : json_object_get(r->o, other) ? other : name, 1, high, 0);
}

static void read_activation(lm_config *c, lm_reader *r) {
    static const struct {
        const char *name;
        lm_glu act;
    } known[] = {{"gelu", LM_GLU_GELU},
                 {"gelu_new", LM_GLU_GELU_TANH},
                 {"gelu_pytorch_tanh", LM_GLU_GELU_TANH},
                 {"gelu_fast", LM_GLU_GELU_TANH},
                 {"silu", LM_GLU_SILU},
                 {"swish", LM_GLU_SILU}};
    const char *name = json_string_value(json_object_get(r->o, "hidden_act"));
    if (!name) name = json_string_value(json_object_get(r->o, "activation"));
    if (!name) name = "gelu";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name)) continue;
        c->act = known[i].act;
        return;
    }
    r->st = lm_fail(r->err, LM_UNSUPPORTED,
                    "hidden_act \"%.40s\" is not known; known are gelu, its tanh form and silu", name);
}

/* What would need another graph. */
static void refuse_others(lm_reader *r) {
    const char *position = json_string_value(json_object_get(r->o, "position_embedding_type"));
    if (r->st != LM_OK) return;
    if (position && strcmp(position, "absolute"))
        r->st = lm_fail(r->err, LM_UNSUPPORTED,
                        "position_embedding_type \"%.40s\" is not known, only absolute", position);
    else if (json_is_true(json_object_get(r->o, "is_decoder")))
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "a decoder of an encoder's family (is_decoder)");
}

void lm_encoder_read(lm_config *c, lm_reader *r) {
    const lm_encoder_names *n = c->family->encoder;
    c->width = size_of(r, "hidden_size", "dim", LM_MAX_WIDTH);
    c->n_layers = size_of(r, "num_hidden_layers", "n_layers", LM_MAX_LAYERS);
    c->ffn = size_of(r, "intermediate_size", "hidden_dim", LM_MAX_FFN);
    c->n_heads = c->n_kv_heads = size_of(r, "num_attention_heads", "n_heads", LM_MAX_HEADS);
    c->n_vocab = lm_read_u32(r, "vocab_size", 1, LM_MAX_VOCAB, 0);
    c->n_ctx_train = lm_read_u32(r, "max_position_embeddings", 1, LM_MAX_CONTEXT, 512);
    c->norm_eps = (float)lm_read_number(r, "layer_norm_eps", 0, 1, 1e-12);
    if (n->types) c->n_types = lm_read_u32(r, "type_vocab_size", 1, 65536, 2);
    if (n->after_padding) c->first_position = lm_read_u32(r, "pad_token_id", 0, 65536, 1) + 1;
    read_activation(c, r);
    refuse_others(r);
    if (r->st != LM_OK) return;

    c->head_dim = c->width / c->n_heads;
    if (c->width % c->n_heads || c->head_dim < 2 || c->head_dim > LM_MAX_HEAD_DIM || c->head_dim % 2) {
        r->st =
            lm_fail(r->err, LM_CORRUPT,
                    "%u attention heads in a width of %u: a head must have 2 to %d elements, an even number",
                    c->n_heads, c->width, LM_MAX_HEAD_DIM);
        return;
    }
    if (c->n_ctx_train <= c->first_position) {
        r->st = lm_fail(r->err, LM_CORRUPT, "max_position_embeddings leaves no position after pad_token_id");
        return;
    }
    c->n_ctx_train -= c->first_position;
    c->attention_scale = 1 / sqrtf((float)c->head_dim);
    c->layers = lm_try_alloc(c->n_layers, sizeof *c->layers);
    if (!c->layers) r->st = lm_fail(r->err, LM_NO_MEMORY, "no memory for %u layers", c->n_layers);
}

/* ---- a step */

lm_status lm_encoder_place(lm_model *m, const lm_slice *slices, uint32_t n_slices, lm_err *err) {
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        if (m->backend->seq_len(slices[i].seq))
            return lm_fail(err, LM_INVALID, "an encoder reads a text in one step");
        if (slices[i].n_tokens > m->config.n_ctx_train)
            return lm_fail(err, LM_INVALID, "%u tokens; the model has %u positions", slices[i].n_tokens,
                           m->config.n_ctx_train);
        for (uint32_t t = 0; t < slices[i].n_tokens; t++)
            m->places[row++] = (int32_t)(m->config.first_position + t);
    }
    return LM_OK;
}

static lm_tensor *norm(const lm_model *m, lm_step *s, const lm_tensor *x, const lm_vector *weight,
                       const lm_vector *bias) {
    return m->backend->layer_norm(s, x, weight, bias, m->config.norm_eps);
}

/* x + y, normed. */
static lm_tensor *join(const lm_model *m, lm_step *s, lm_tensor *x, const lm_tensor *y,
                       const lm_vector *weight, const lm_vector *bias) {
    return norm(m, s, m->backend->add(s, x, y, 1), weight, bias);
}

lm_tensor *lm_encoder_run(const lm_model *m, lm_step *s, const int32_t *tokens, uint32_t n_tokens,
                          const uint32_t *out_rows, uint32_t n_out) {
    const lm_backend *b = m->backend;
    lm_tensor *x = b->embed(s, m->embed, tokens, n_tokens, 1);
    x = b->add(s, x, b->embed(s, m->positions, m->places, n_tokens, 1), 1);
    if (m->types) x = b->add(s, x, b->embed(s, m->types, m->places + m->max_batch, n_tokens, 1), 1);
    x = norm(m, s, x, m->embed_norm, m->embed_norm_bias);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        const lm_layer *l = &m->layers[i];
        lm_tensor *qkv[3] = {NULL, NULL, NULL}, *y = NULL;
        x = b->keep(s, x);
        b->linears(s, x, l->qkv, l->n_qkv, qkv);
        lm_tensor *a = b->attention(s, &l->attention, qkv[0], qkv[1], qkv[2]);
        if (i + 1 == m->config.n_layers) { /* of the last layer only what is wanted goes on */
            if (n_out == 0) return NULL;
            a = b->rows(s, a, out_rows, n_out);
            x = b->rows(s, x, out_rows, n_out);
        }
        b->linears(s, a, &l->o, 1, &y);
        x = join(m, s, x, y, l->after_attention, l->attention_bias);
        x = join(m, s, x, b->mlp(s, x, &l->mlp), l->after_mlp, l->mlp_bias);
    }
    return x;
}
