/* Encoders: config.json, and how their states are pooled.
 *
 * llama.cpp's converter makes one architecture, "bert", of BERT, RoBERTa, XLM-RoBERTa and DistilBERT: the
 * rows of RoBERTa's positions that no text uses are cut off there, so that its positions start at 0 as
 * BERT's. What comes out is BERT, whatever went in, but for DistilBERT, which has no token types. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "store/import_private.h"

static bool is(const lm_meta *m, const char *model_type) {
    return strcmp(m->f->model_type, model_type) == 0;
}

/* Rows of a table, 0 when there is none. */
static uint32_t rows_of(const lm_meta *m, const char *tensor) {
    const lm_gguf_tensor *t = lm_gguf_find(m->g, tensor);
    return t && t->n_dims <= 2 && t->dims[1] <= UINT32_MAX ? (uint32_t)t->dims[1] : 0;
}

/* Names of the same four numbers in the three configurations. */
typedef struct shape_names {
    const char *layers, *width, *heads, *ffn;
} shape_names;

static void read_nomic(lm_meta *m, uint32_t context) {
    lm_meta_set(m, "activation_function", json_string("swiglu"));
    lm_meta_set(m, "rotary_emb_base", json_real(lm_meta_float(m, "rope.freq_base", 1000.0)));
    lm_meta_set(m, "rotary_emb_fraction", json_real(1.0));
    lm_meta_set_u32(m, "n_positions", context);
    lm_meta_set_u32(m, "max_trained_positions", context);
    static const char *const off[] = {"prenorm",     "use_rms_norm",  "rotary_emb_interleaved",
                                      "causal",      "qkv_proj_bias", "mlp_fc1_bias",
                                      "mlp_fc2_bias"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) lm_meta_set(m, off[i], json_false());
    if (lm_meta_u32(m, "moe_every_n_layers", 0) || lm_meta_u32(m, "expert_count", 0)) {
        m->st = lm_fail(m->err, LM_UNSUPPORTED, "an encoder with experts is not supported");
    }
}

static void read_positions(lm_meta *m, uint32_t context) {
    uint32_t rows = rows_of(m, "position_embd.weight");
    lm_meta_set_u32(m, "max_position_embeddings", rows);
    if (m->st == LM_OK && rows < context) {
        m->st = lm_fail(m->err, LM_CORRUPT, "position_embd.weight has %u rows, context_length says %u", rows,
                        context);
    }
}

void lm_encoder_config(lm_meta *m) {
    bool nomic = is(m, "nomic_bert"), distil = is(m, "distilbert");
    shape_names n = {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"};
    if (nomic) n = (shape_names){"n_layer", "n_embd", "n_head", "n_inner"};
    if (distil) n = (shape_names){"n_layers", "dim", "n_heads", "hidden_dim"};

    lm_meta_require(m, n.layers, "block_count", 4096);
    uint32_t width = lm_meta_require(m, n.width, "embedding_length", 1 << 20);
    uint32_t heads = lm_meta_require(m, n.heads, "attention.head_count", 65536);
    lm_meta_require(m, n.ffn, "feed_forward_length", 1 << 24);
    uint32_t context = lm_meta_u32(m, "context_length", nomic ? 2048 : 512);
    const lm_gguf_tensor *words = lm_gguf_find(m->g, "token_embd.weight");
    uint32_t head_dim = lm_meta_u32(m, "attention.key_length", heads ? width / heads : 0);
    if (m->st != LM_OK) return;
    if (words->dims[0] != width || head_dim != width / heads || width % heads) {
        m->st = lm_fail(m->err, LM_CORRUPT,
                        "metadata: %u heads of %u elements in a width of %u, and rows of %llu", heads,
                        head_dim, width, (unsigned long long)words->dims[0]);
        return;
    }
    if (lm_meta_bool(m, "attention.causal", false) && m->st == LM_OK) {
        m->st =
            lm_fail(m->err, LM_UNSUPPORTED, "an encoder that reads from left to right (attention.causal)");
    }
    lm_meta_set_u32(m, "vocab_size", (uint32_t)words->dims[1]);
    lm_meta_set(m, nomic ? "layer_norm_epsilon" : "layer_norm_eps",
                json_real(lm_meta_float(m, "attention.layer_norm_epsilon", 1e-12)));
    if (!distil) lm_meta_set_u32(m, "type_vocab_size", rows_of(m, "token_types.weight"));
    if (nomic) {
        read_nomic(m, context);
    } else {
        lm_meta_set(m, distil ? "activation" : "hidden_act", json_string("gelu"));
        if (!distil) lm_meta_set(m, "position_embedding_type", json_string("absolute"));
        read_positions(m, context);
    }
}

/* ---- pooling */

/* The numbers are the format's (pooling_type). */
enum { POOL_NONE, POOL_MEAN, POOL_CLS, POOL_LAST, POOL_RANK };

static json_t *module(int idx, const char *path, const char *class_name) {
    return json_pack("{s:i, s:s+, s:s, s:s+}", "idx", idx, "name", (const char[]){(char)('0' + idx), 0}, "",
                     "path", path, "type", "sentence_transformers.models.", class_name);
}

static void write_pooling(lm_meta *m, const char *dir, uint32_t width, uint32_t pooling) {
    char *folder = lm_path_join(dir, "1_Pooling");
    json_t *modules = json_array();
    json_t *config = json_pack(
        "{s:i, s:b, s:b, s:b, s:b, s:b}", "word_embedding_dimension", (int)width, "pooling_mode_cls_token",
        pooling == POOL_CLS, "pooling_mode_mean_tokens", pooling == POOL_MEAN, "pooling_mode_max_tokens", 0,
        "pooling_mode_mean_sqrt_len_tokens", 0, "pooling_mode_lasttoken", pooling == POOL_LAST);
    json_array_append_new(modules, module(0, "", "Transformer"));
    json_array_append_new(modules, module(1, "1_Pooling", "Pooling"));
    if (lm_meta_bool(m, "normalize_embeddings", true))
        json_array_append_new(modules, module(2, "2_Normalize", "Normalize"));
    if (m->st == LM_OK) m->st = lm_dir_make(folder, m->err);
    if (m->st == LM_OK) m->st = lm_import_json(config, folder, "config.json", m->err);
    if (m->st == LM_OK) m->st = lm_import_json(modules, dir, "modules.json", m->err);
    json_decref(modules);
    json_decref(config);
    free(folder);
}

void lm_encoder_pooling(lm_meta *m, const char *dir, uint32_t width) {
    uint32_t pooling = lm_meta_u32(m, "pooling_type", POOL_NONE);
    if (m->st != LM_OK || pooling == POOL_NONE) return;
    if (pooling == POOL_RANK) {
        m->st = lm_fail(m->err, LM_UNSUPPORTED, "a reranker (pooling_type 4) is not supported");
    } else if (pooling > POOL_RANK) {
        m->st = lm_fail(m->err, LM_UNSUPPORTED, "pooling_type %u is not known", pooling);
    } else {
        write_pooling(m, dir, width, pooling);
    }
}
