/* Encoders: BERT and what shares its graph.
 *
 * Tokens, positions and the (first) token type are looked up and added; then a layer is attention over the
 * whole text in both directions and an MLP without a gate, each added to the stream and normed afterwards
 * (mean taken away, with a bias). There is no head, and nothing is kept from one step to the next.
 *
 * Nomic's has no positions to look up but turns its heads, and its MLP has a gate.
 *
 * Source: Hugging Face's BertModel, RobertaModel, XLMRobertaModel and DistilBertModel, and the NomicBertModel
 * that comes with nomic-embed-text. */
#include "model/graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- config.json */

/* A member under the name that most have, or that DistilBERT or Nomic has. */
static uint32_t size_of(lm_reader *r, const char *name, const char *other, const char *third, uint32_t high) {
    const char *found = name;
    if (!json_object_get(r->o, name)) found = json_object_get(r->o, other) ? other : third;
    return lm_read_u32(r, json_object_get(r->o, found) ? found : name, 1, high, 0);
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
                 {"swiglu", LM_GLU_SILU},
                 {"swish", LM_GLU_SILU}};
    const char *name = json_string_value(json_object_get(r->o, "hidden_act"));
    if (!name) name = json_string_value(json_object_get(r->o, "activation"));
    if (!name) name = json_string_value(json_object_get(r->o, "activation_function"));
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

/* Turns by a base of Nomic's own; beyond the positions that it was trained with it would be another one for
 * each length. */
static void read_turns(lm_config *c, lm_reader *r) {
    lm_rope_spec *rope = &c->ropes[LM_ROPE_GLOBAL];
    static const char *const needed[] = {"prenorm", "use_rms_norm", "rotary_emb_interleaved"};
    const char *act = json_string_value(json_object_get(r->o, "activation_function"));
    if (r->st != LM_OK) return;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (json_is_true(json_object_get(r->o, needed[i])))
            r->st = lm_fail(r->err, LM_UNSUPPORTED, "%s is not known in an encoder", needed[i]);
    if (json_integer_value(json_object_get(r->o, "moe_every_n_layers")) > 0)
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "an encoder with experts (moe_every_n_layers)");
    if (!act || strcmp(act, "swiglu"))
        r->st = lm_fail(r->err, LM_UNSUPPORTED,
                        "activation_function \"%.40s\" is not known here, only swiglu", act ? act : "");
    if (lm_read_number(r, "rotary_emb_fraction", 0, 1, 1) < 1 && r->st == LM_OK)
        r->st = lm_fail(r->err, LM_UNSUPPORTED, "rotary_emb_fraction must be 1");
    rope->kind = LM_ROPE_PLAIN;
    lm_reader nested = {.o = lm_read_object(r, "rope_parameters"), .err = r->err, .st = r->st};
    double base = nested.o ? lm_read_number(&nested, "rope_theta", 1, 1e12, 10000) : 10000;
    r->st = nested.st;
    rope->base = lm_read_number(r, "rotary_emb_base", 1, 1e12, base);
    rope->n_dims = c->head_dim;
    rope->n_ctx = c->n_ctx_train;
}

void lm_encoder_read(lm_config *c, lm_reader *r) {
    const lm_encoder_names *n = c->family->encoder;
    c->width = size_of(r, "hidden_size", "dim", "n_embd", LM_MAX_WIDTH);
    c->n_layers = size_of(r, "num_hidden_layers", "n_layers", "n_layer", LM_MAX_LAYERS);
    c->ffn = size_of(r, "intermediate_size", "hidden_dim", "n_inner", LM_MAX_FFN);
    c->n_heads = c->n_kv_heads = size_of(r, "num_attention_heads", "n_heads", "n_head", LM_MAX_HEADS);
    c->n_vocab = lm_read_u32(r, "vocab_size", 1, LM_MAX_VOCAB, 0);
    c->n_ctx_train = lm_read_u32(r, n->turns ? "max_trained_positions" : "max_position_embeddings", 1,
                                 LM_MAX_CONTEXT, n->turns ? 2048 : 512);
    c->norm_eps = (float)lm_read_number(r, n->turns ? "layer_norm_epsilon" : "layer_norm_eps", 0, 1, 1e-12);
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
    if (n->turns) read_turns(c, r);
    c->attention_scale = 1 / sqrtf((float)c->head_dim);
    c->layers = lm_try_alloc(c->n_layers, sizeof *c->layers);
    if (!c->layers && r->st == LM_OK)
        r->st = lm_fail(r->err, LM_NO_MEMORY, "no memory for %u layers", c->n_layers);
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
    if (m->positions) x = b->add(s, x, b->embed(s, m->positions, m->places, n_tokens, 1), 1);
    if (m->types) x = b->add(s, x, b->embed(s, m->types, m->places + m->max_batch, n_tokens, 1), 1);
    x = norm(m, s, x, m->embed_norm, m->embed_norm_bias);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        const lm_layer *l = &m->layers[i];
        lm_tensor *qkv[3] = {NULL, NULL, NULL}, *y = NULL;
        x = b->keep(s, x);
        b->linears(s, x, l->qkv, l->n_qkv, qkv);
        if (l->n_qkv == 1) {
            lm_tensor *all = qkv[0];
            for (uint32_t k = 0; k < 3; k++)
                qkv[k] = b->columns(s, all, k * m->config.width, m->config.width);
        }
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
