/* The forward pass, once for all families.
 *
 * A layer is two halves, each added to the stream x: attention, and an MLP or a mixture of experts. Norms
 * stand before a half (Llama), after it (OLMo 2), or on both sides (Gemma). The backend sees few, large
 * operations: the products that share an input go together, norms and rotations of q and k are part of
 * attention.
 *
 * Only rows whose logits are wanted go through the second half of the last layer, the last norm and the head:
 * in a chunk of prefill that is one row or none. Keys and values of the last layer still need every row.
 */
#include "model/graph.h"

static lm_tensor *norm(const lm_model *m, lm_step *s, lm_tensor *x, const lm_vector *weight) {
    return weight ? m->backend->rms_norm(s, x, weight, m->config.norm_eps) : x;
}

/* out[i] += what the adapter adds to the product of x that it is, n of them side by side. */
static void adapt(const lm_model *m, lm_step *s, const lm_tensor *x, const lm_delta *deltas, uint32_t n,
                  lm_tensor **out) {
    const lm_backend *b = m->backend;
    const lm_linear *down[3];
    lm_tensor *small[3] = {NULL, NULL, NULL};
    uint32_t n_small = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        if (deltas[i].a) down[n_small++] = deltas[i].a;
    if (n_small) b->linears(s, x, down, n_small, small);
    for (uint32_t i = 0; i < n; i++) {
        lm_tensor *more = NULL;
        if (!deltas[i].a) continue;
        b->linears(s, small[at++], &deltas[i].b, 1, &more);
        out[i] = b->add(s, out[i], more, deltas[i].scale);
    }
}

/* b->mlp in its parts, where an adapter changes one of them. */
static lm_tensor *adapted_mlp(const lm_model *m, lm_step *s, const lm_layer *l, const lm_tensor *x) {
    const lm_backend *b = m->backend;
    const lm_linear *const into[2] = {l->mlp.fused ? l->mlp.fused : l->mlp.gate, l->mlp.up};
    lm_tensor *both[2] = {NULL, NULL}, *y = NULL;
    uint32_t n = l->mlp.fused ? 1 : 2;

    b->linears(s, x, into, n, both);
    adapt(m, s, x, l->deltas + LM_DELTA_GATE, n, both);
    if (n == 1) {
        lm_tensor *all = both[0];
        both[0] = b->columns(s, all, 0, m->config.ffn);
        both[1] = b->columns(s, all, m->config.ffn, m->config.ffn);
    }
    lm_tensor *hidden = b->gated(s, both[0], both[1], l->mlp.act);
    b->linears(s, hidden, &l->mlp.down, 1, &y);
    adapt(m, s, hidden, l->deltas + LM_DELTA_DOWN, 1, &y);
    return y;
}

static lm_tensor *second_half(const lm_model *m, lm_step *s, const lm_layer *l, const lm_tensor *x) {
    if (l->is_moe) return m->backend->moe(s, x, &l->moe);
    return l->mlp_adapted ? adapted_mlp(m, s, l, x) : m->backend->mlp(s, x, &l->mlp);
}

/* Everything of the first half but its output product: (n_tokens, n_heads * head_dim). */
static lm_tensor *attend(const lm_model *m, lm_step *s, const lm_layer *l, lm_tensor *x) {
    const lm_backend *b = m->backend;
    lm_tensor *qkv[3] = {NULL, NULL, NULL};

    x = norm(m, s, x, l->before_attention);
    b->linears(s, x, l->qkv, l->n_qkv, qkv);
    if (l->deltas) adapt(m, s, x, l->deltas + LM_DELTA_Q, l->n_qkv, qkv);
    if (l->n_qkv == 1) {
        uint32_t q = l->attention.n_heads * l->attention.head_dim;
        uint32_t kv = l->attention.n_kv_heads * l->attention.head_dim;
        lm_tensor *all = qkv[0];
        qkv[0] = b->columns(s, all, 0, q);
        qkv[1] = b->columns(s, all, q, kv);
        qkv[2] = b->columns(s, all, q + kv, kv);
    }
    qkv[0] = norm(m, s, qkv[0], l->wide_q_norm);
    qkv[1] = norm(m, s, qkv[1], l->wide_k_norm);
    return b->attention(s, &l->attention, qkv[0], qkv[1], qkv[2]);
}

/* What a half gave, from the parts of it that the ranks have. */
static lm_tensor *together(const lm_model *m, lm_step *s, lm_tensor *y) {
    return lm_share_tensor(&m->share) ? m->backend->all_sum(s, y) : y;
}

/* Both halves after attention: a is what it gave for the rows of x. */
static lm_tensor *finish(const lm_model *m, lm_step *s, const lm_layer *l, lm_tensor *x, const lm_tensor *a) {
    const lm_backend *b = m->backend;
    float scale = m->config.residual_scale;
    lm_tensor *y = NULL;

    b->linears(s, a, &l->o, 1, &y);
    if (l->deltas) adapt(m, s, a, l->deltas + LM_DELTA_O, 1, &y);
    y = together(m, s, y);
    x = b->add(s, x, norm(m, s, y, l->after_attention), scale);
    y = norm(m, s, x, l->before_mlp);
    y = together(m, s, second_half(m, s, l, y));
    return b->add(s, x, norm(m, s, y, l->after_mlp), scale);
}

static bool all_in_order(const uint32_t *rows, uint32_t n_rows, uint32_t n_tokens) {
    if (n_rows != n_tokens) return false;
    for (uint32_t i = 0; i < n_rows; i++)
        if (rows[i] != i) return false;
    return true;
}

lm_tensor *lm_graph_run(const lm_model *m, lm_step *s, const int32_t *tokens, uint32_t n_tokens,
                        const uint32_t *out_rows, uint32_t n_out, lm_wanted want) {
    if (m->config.family->encoder) return lm_encoder_run(m, s, tokens, n_tokens, out_rows, n_out);
    const lm_backend *b = m->backend;
    const lm_share *h = &m->share;
    uint32_t last = h->first_layer + h->n_layers - 1;
    bool ends = last + 1 == m->config.n_layers;
    lm_tensor *x = h->first_layer == 0 ? b->embed(s, m->embed, tokens, n_tokens, m->config.embed_scale)
                                       : b->receive(s, n_tokens, m->config.width, h->rank + 1);

    for (uint32_t i = h->first_layer; i < last + !ends; i++)
        x = b->keep(s, finish(m, s, &m->layers[i], x, attend(m, s, &m->layers[i], x)));
    if (!ends) return b->send(s, x, h->rank - 1);

    lm_tensor *a = attend(m, s, &m->layers[last], x);
    if (n_out == 0) return NULL;
    if (!all_in_order(out_rows, n_out, n_tokens)) {
        a = b->rows(s, a, out_rows, n_out);
        x = b->rows(s, x, out_rows, n_out);
    }
    x = finish(m, s, &m->layers[last], x, a);
    if (h->rank > 0) return x; /* rank 0 alone chooses tokens */
    x = norm(m, s, x, m->final_norm);
    if (want == LM_WANT_STATES) return x;

    lm_tensor *logits = NULL;
    b->linears(s, x, &m->head, 1, &logits);
    adapt(m, s, x, &m->head_delta, 1, &logits);
    if (m->config.logit_scale != 1 || m->config.logit_cap > 0)
        logits = b->scale(s, logits, m->config.logit_scale, m->config.logit_cap);
    return logits;
}
