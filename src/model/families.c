/* The table of families: one row per model_type, and the few lines of code that only one family needs.
 *
 * A new Llama-like family is a new row. The defaults are those of mlx-lm's ModelArgs for the same model_type,
 * which is what a directory converted by it relies on; windows follow Hugging Face's models where mlx-lm
 * leaves them out (Mistral, Gemma 2, Phi-3), because the checkpoints were trained with them. */
#include "model/config.h"

#include <math.h>
#include <string.h>

/* ---- what one family has alone */

static lm_status query_scale(lm_config *c, const json_t *o, double absent, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    double d = lm_read_number(&r, "query_pre_attn_scalar", 1e-3, 1e6, absent);
    if (r.st == LM_OK) c->attention_scale = (float)pow(d, -0.5);
    return r.st;
}

/* A cap that is null is none; one that is absent is the family's. */
static float read_cap(lm_reader *r, const char *key, double absent) {
    if (json_is_null(json_object_get(r->o, key))) return 0;
    return (float)lm_read_number(r, key, 1e-3, 1e6, absent);
}

static lm_status gemma2_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    c->attention_cap = read_cap(&r, "attn_logit_softcapping", 50);
    c->logit_cap = read_cap(&r, "final_logit_softcapping", 30);
    return r.st == LM_OK ? query_scale(c, o, 144, err) : r.st;
}

/* Layers with a window turn by a base of their own, unscaled. */
static lm_status gemma3_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    lm_rope_spec *local = &c->ropes[LM_ROPE_LOCAL];
    const json_t *both = lm_read_object(&r, "rope_parameters");
    const json_t *mine = both ? json_object_get(both, "sliding_attention") : NULL;

    *local = c->ropes[LM_ROPE_GLOBAL];
    local->kind = LM_ROPE_PLAIN;
    local->base = lm_read_number(&r, "rope_local_base_freq", 1, 1e12, 10000);
    if (json_is_object(mine)) {
        lm_reader own = {.o = mine, .err = err, .st = r.st};
        local->base = lm_read_number(&own, "rope_theta", 1, 1e12, local->base);
        r.st = own.st;
        if (r.st == LM_OK) r.st = lm_rope_read(local, mine, local->n_ctx, err);
    }
    if (r.st != LM_OK) return r.st;
    c->local_rope = true;
    if (c->tied == 0) c->tied = -1; /* mlx-lm ties whatever config.json says when there is no lm_head */
    return query_scale(c, o, 256, err);
}

/* A multimodal config may name its own vocabulary above text_config: it is then the embedding's. */
static lm_status gemma3_nested_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = c->root, .err = err};
    c->n_vocab = lm_read_u32(&r, "vocab_size", 1, LM_MAX_VOCAB, c->n_vocab);
    return r.st == LM_OK ? gemma3_extra(c, o, err) : r.st;
}

static lm_status granite_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    c->embed_scale = (float)lm_read_number(&r, "embedding_multiplier", 1e-6, 1e6, 1);
    c->attention_scale = (float)lm_read_number(&r, "attention_multiplier", 1e-6, 1e6, c->attention_scale);
    c->residual_scale = (float)lm_read_number(&r, "residual_multiplier", 1e-6, 1e6, 1);
    c->logit_scale = (float)(1 / lm_read_number(&r, "logits_scaling", 1e-6, 1e6, 1));
    return r.st;
}

/* no_rope_layers: 1 where a layer turns, 0 where it does not. */
static lm_status smollm3_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    uint32_t interval = lm_read_u32(&r, "no_rope_layer_interval", 1, LM_MAX_LAYERS, 4);
    if (r.st != LM_OK) return r.st;
    const json_t *list = json_object_get(o, "no_rope_layers");
    if (list && !json_is_null(list) && (!json_is_array(list) || json_array_size(list) != c->n_layers))
        return lm_fail(err, LM_CORRUPT, "no_rope_layers must be an array of %u numbers", c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const json_t *v = json_is_array(list) ? json_array_get(list, i) : NULL;
        if (v && !json_is_integer(v) && !json_is_boolean(v))
            return lm_fail(err, LM_CORRUPT, "no_rope_layers must hold 0 or 1 for each layer");
        bool turns = v ? json_is_true(v) || json_integer_value(v) != 0 : (i + 1) % interval != 0;
        if (!turns) c->layers[i].rope = LM_ROPE_NONE;
    }
    return LM_OK;
}

/* Which layers are mixtures: those at each decoder_sparse_step, but for the ones in mlp_only_layers. */
static lm_status qwen3_moe_extra(lm_config *c, const json_t *o, lm_err *err) {
    lm_reader r = {.o = o, .err = err};
    uint32_t step = lm_read_u32(&r, "decoder_sparse_step", 1, LM_MAX_LAYERS, 1);
    c->renorm = lm_read_bool(&r, "norm_topk_prob", false);
    if (r.st != LM_OK) return r.st;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].moe = (i + 1) % step == 0;

    const json_t *dense = json_object_get(o, "mlp_only_layers");
    if (!dense || json_is_null(dense)) return LM_OK;
    if (!json_is_array(dense)) return lm_fail(err, LM_CORRUPT, "mlp_only_layers must be an array");
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *v = json_array_get(dense, i);
        json_int_t layer = json_is_integer(v) ? json_integer_value(v) : -1;
        if (layer < 0 || layer >= c->n_layers)
            return lm_fail(err, LM_CORRUPT, "mlp_only_layers names a layer that is not there");
        c->layers[layer].moe = false;
    }
    return LM_OK;
}

/* ---- the table */

static const lm_moe_names mixtral_moe = {.block = "block_sparse_moe",
                                         .router = "gate",
                                         .experts = "switch_mlp",
                                         .n_experts = "num_local_experts",
                                         .foreign = "experts.0.w1"};
static const lm_moe_names qwen3_moe = {.block = "mlp",
                                       .router = "gate",
                                       .experts = "switch_mlp",
                                       .n_experts = "num_experts",
                                       .ffn = "moe_intermediate_size",
                                       .foreign = "experts.0.gate_proj",
                                       .softmax_first = true};
static const lm_moe_names gpt_oss_moe = {.block = "mlp",
                                         .router = "router",
                                         .experts = "experts",
                                         .n_experts = "num_local_experts",
                                         .foreign = "experts.gate_up_proj_blocks"};

#define GEMMA        (LM_FAM_NORM_PLUS_1 | LM_FAM_SANDWICH)
#define LLAMA_ABSENT .absent = {.rope_base = 10000, .n_ctx = 4096}
#define GEMMA3_ABSENT                                                                                        \
    .width = 1152, .n_layers = 26, .ffn = 6912, .head_dim = 256, .n_ctx = 32768, .window = 512,              \
    .rope_base = 1e6, .norm_eps = 1e-6

static const lm_encoder_names bert = {.embed_norm = "embeddings.LayerNorm",
                                      .layer = "encoder.layer",
                                      .q = "attention.self.query",
                                      .k = "attention.self.key",
                                      .v = "attention.self.value",
                                      .o = "attention.output.dense",
                                      .attention_norm = "attention.output.LayerNorm",
                                      .up = "intermediate.dense",
                                      .down = "output.dense",
                                      .mlp_norm = "output.LayerNorm",
                                      .types = true};
static const lm_encoder_names roberta = {.embed_norm = "embeddings.LayerNorm",
                                         .layer = "encoder.layer",
                                         .q = "attention.self.query",
                                         .k = "attention.self.key",
                                         .v = "attention.self.value",
                                         .o = "attention.output.dense",
                                         .attention_norm = "attention.output.LayerNorm",
                                         .up = "intermediate.dense",
                                         .down = "output.dense",
                                         .mlp_norm = "output.LayerNorm",
                                         .types = true,
                                         .after_padding = true};
static const lm_encoder_names distilbert = {.embed_norm = "embeddings.LayerNorm",
                                            .layer = "transformer.layer",
                                            .q = "attention.q_lin",
                                            .k = "attention.k_lin",
                                            .v = "attention.v_lin",
                                            .o = "attention.out_lin",
                                            .attention_norm = "sa_layer_norm",
                                            .up = "ffn.lin1",
                                            .down = "ffn.lin2",
                                            .mlp_norm = "output_layer_norm"};

static const lm_encoder_names nomic = {.embed_norm = "emb_ln",
                                       .layer = "encoder.layers",
                                       .qkv = "attn.Wqkv",
                                       .o = "attn.out_proj",
                                       .attention_norm = "norm1",
                                       .gate = "mlp.fc12",
                                       .up = "mlp.fc11",
                                       .down = "mlp.fc2",
                                       .mlp_norm = "norm2",
                                       .types = true,
                                       .turns = true};

static const lm_family families[] = {
    {.type = "llama", LLAMA_ABSENT},
    {.type = "mistral", .window = LM_WINDOW_ALL, LLAMA_ABSENT},
    {.type = "qwen2",
     .flags = LM_FAM_QKV_BIAS,
     .window = LM_WINDOW_UPPER,
     .absent = {.rope_base = 1e6, .n_ctx = 32768}},
    {.type = "qwen3",
     .flags = LM_FAM_HEAD_NORM,
     .window = LM_WINDOW_UPPER,
     .absent = {.rope_base = 1e6, .n_ctx = 40960}},
    {.type = "phi3",
     .flags = LM_FAM_FUSED_QKV | LM_FAM_FUSED_GATE_UP,
     .window = LM_WINDOW_ALL,
     .absent = {.rope_base = 10000, .n_ctx = 131072}},
    {.type = "gemma2",
     .flags = GEMMA | LM_FAM_TIED,
     .act = LM_GLU_GELU_TANH,
     .window = LM_WINDOW_EVEN,
     .embed = LM_EMBED_SQRT,
     .absent = {.rope_base = 10000, .n_ctx = 8192, .window = 4096},
     .extra = gemma2_extra},
    {.type = "gemma3_text",
     .flags = GEMMA | LM_FAM_HEAD_NORM,
     .act = LM_GLU_GELU_TANH,
     .window = LM_WINDOW_PATTERN,
     .embed = LM_EMBED_SQRT_BF16,
     .absent = {GEMMA3_ABSENT, .n_heads = 4, .n_kv_heads = 1, .n_vocab = 262144},
     .extra = gemma3_extra},
    {.type = "gemma3",
     .flags = GEMMA | LM_FAM_HEAD_NORM,
     .act = LM_GLU_GELU_TANH,
     .window = LM_WINDOW_PATTERN,
     .embed = LM_EMBED_SQRT_BF16,
     .absent = {GEMMA3_ABSENT, .n_heads = 8, .n_kv_heads = 4, .n_vocab = 262208},
     .extra = gemma3_nested_extra},
    {.type = "smollm3", LLAMA_ABSENT, .extra = smollm3_extra},
    {.type = "granite", LLAMA_ABSENT, .extra = granite_extra},
    {.type = "olmo2", .flags = LM_FAM_WIDE_NORM | LM_FAM_POST_NORM, LLAMA_ABSENT},
    {.type = "mixtral",
     .window = LM_WINDOW_ALL,
     .absent = {.rope_base = 1e6, .n_ctx = 32768, .norm_eps = 1e-5},
     .moe = &mixtral_moe},
    {.type = "qwen3_moe",
     .flags = LM_FAM_HEAD_NORM,
     .window = LM_WINDOW_UPPER,
     .absent = {.rope_base = 1e6, .n_ctx = 40960},
     .moe = &qwen3_moe,
     .extra = qwen3_moe_extra},
    {.type = "gpt_oss",
     .flags = LM_FAM_QKV_BIAS | LM_FAM_O_BIAS | LM_FAM_SINKS | LM_FAM_EXPERT_BIAS,
     .act = LM_GLU_OSS,
     .window = LM_WINDOW_EVEN,
     .absent = {.rope_base = 150000, .n_ctx = 131072, .window = 128, .head_dim = 64, .norm_eps = 1e-5},
     .moe = &gpt_oss_moe},
    {.type = "bert", .encoder = &bert},
    {.type = "roberta", .encoder = &roberta},
    {.type = "xlm-roberta", .encoder = &roberta},
    {.type = "distilbert", .encoder = &distilbert},
    {.type = "nomic_bert", .encoder = &nomic},
};

const lm_family *lm_family_find(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(families[i].type, model_type)) return &families[i];
    return NULL;
}

const char *lm_family_names(void) {
    return "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, gemma3, smollm3, granite, olmo2, "
           "mixtral, "
           "qwen3_moe, gpt_oss, bert, roberta, xlm-roberta, distilbert and nomic_bert";
}
