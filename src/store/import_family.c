/* Families: which Hugging Face model a GGUF architecture is, and what its tensors are called there. The names
 * are those that mlx-lm has after loading, so that nothing is left to rename when the model is opened. */
#include "store/import_private.h"

#include <stdio.h>
#include <string.h>

static const lm_rename dense[] = {{NULL, NULL}};

static const lm_rename mixtral[] = {
    {"ffn_gate_inp", "block_sparse_moe.gate"},
    {"ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"},
    {"ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"},
    {"ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"},
    {NULL, NULL},
};

static const lm_rename qwen3moe[] = {
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
    {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
    {"ffn_down_exps", "mlp.switch_mlp.down_proj"},
    {NULL, NULL},
};

static const lm_rename phi3[] = {
    {"attn_qkv", "self_attn.qkv_proj"}, {"ffn_up", "mlp.gate_up_proj"}, {NULL, NULL}};

static const lm_rename gemma[] = {
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {NULL, NULL},
};

static const lm_rename olmo2[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {NULL, NULL},
};

static const lm_rename gpt_oss[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_post_norm", "post_attention_layernorm"},
    {"attn_sinks", "self_attn.sinks"}, /* a bare parameter: see lm_family_target */
    {"ffn_gate_inp", "mlp.router"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
    {NULL, NULL},
};

static const lm_rename bert[] = {
    {"attn_q", "attention.self.query"},
    {"attn_k", "attention.self.key"},
    {"attn_v", "attention.self.value"},
    {"attn_output", "attention.output.dense"},
    {"attn_output_norm", "attention.output.LayerNorm"},
    {"ffn_up", "intermediate.dense"},
    {"ffn_down", "output.dense"},
    {"layer_output_norm", "output.LayerNorm"},
    {NULL, NULL},
};

static const lm_rename distilbert[] = {
    {"attn_q", "attention.q_lin"},
    {"attn_k", "attention.k_lin"},
    {"attn_v", "attention.v_lin"},
    {"attn_output", "attention.out_lin"},
    {"attn_output_norm", "sa_layer_norm"},
    {"ffn_up", "ffn.lin1"},
    {"ffn_down", "ffn.lin2"},
    {"layer_output_norm", "output_layer_norm"},
    {NULL, NULL},
};

static const lm_rename nomic_bert[] = {
    {"attn_qkv", "attn.Wqkv"},      {"attn_output", "attn.out_proj"},
    {"attn_output_norm", "norm1"},  {"ffn_up", "mlp.fc11"},
    {"ffn_gate", "mlp.fc12"},       {"ffn_down", "mlp.fc2"},
    {"layer_output_norm", "norm2"}, {NULL, NULL},
};

static const lm_rename decoder_top[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {NULL, NULL},
};

static const lm_rename bert_top[] = {
    {"token_embd", "embeddings.word_embeddings"},
    {"position_embd", "embeddings.position_embeddings"},
    {"token_types", "embeddings.token_type_embeddings"},
    {"token_embd_norm", "embeddings.LayerNorm"},
    {NULL, NULL},
};

static const lm_rename nomic_top[] = {
    {"token_embd", "embeddings.word_embeddings"},
    {"token_types", "embeddings.token_type_embeddings"},
    {"token_embd_norm", "emb_ln"},
    {NULL, NULL},
};

/* Decoders' blocks. */
static const lm_rename common[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},       {NULL, NULL},
};

#define DECODER .layer = "model.layers", .top = decoder_top
#define ENCODER .encoder = true

static const lm_family families[] = {
    {.arch = "llama",
     .model_type = "llama",
     .class_name = "LlamaForCausalLM",
     DECODER,
     .renames = dense,
     .permuted = true},
    {.arch = "llama",
     .model_type = "mixtral",
     .class_name = "MixtralForCausalLM",
     DECODER,
     .renames = mixtral,
     .permuted = true,
     .experts = true},
    {.arch = "qwen2", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM", DECODER, .renames = dense},
    {.arch = "qwen3", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM", DECODER, .renames = dense},
    {.arch = "qwen3moe",
     .model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     DECODER,
     .renames = qwen3moe,
     .experts = true},
    {.arch = "phi3", .model_type = "phi3", .class_name = "Phi3ForCausalLM", DECODER, .renames = phi3},
    {.arch = "gemma2",
     .model_type = "gemma2",
     .class_name = "Gemma2ForCausalLM",
     DECODER,
     .renames = gemma,
     .norms_plus_one = true},
    {.arch = "gemma3",
     .model_type = "gemma3_text",
     .class_name = "Gemma3ForCausalLM",
     DECODER,
     .renames = gemma,
     .norms_plus_one = true},
    {.arch = "smollm3",
     .model_type = "smollm3",
     .class_name = "SmolLM3ForCausalLM",
     DECODER,
     .renames = dense,
     .permuted = true},
    {.arch = "granite",
     .model_type = "granite",
     .class_name = "GraniteForCausalLM",
     DECODER,
     .renames = dense,
     .permuted = true},
    {.arch = "olmo2", .model_type = "olmo2", .class_name = "Olmo2ForCausalLM", DECODER, .renames = olmo2},
    {.arch = "gpt-oss",
     .model_type = "gpt_oss",
     .class_name = "GptOssForCausalLM",
     DECODER,
     .renames = gpt_oss,
     .experts = true},
    {.arch = "bert",
     .model_type = "distilbert",
     .class_name = "DistilBertModel",
     .without = "token_types.weight",
     .layer = "transformer.layer",
     .top = bert_top,
     .renames = distilbert,
     ENCODER},
    {.arch = "bert",
     .model_type = "bert",
     .class_name = "BertModel",
     .layer = "encoder.layer",
     .top = bert_top,
     .renames = bert,
     ENCODER},
    {.arch = "nomic-bert",
     .model_type = "nomic_bert",
     .class_name = "NomicBertModel",
     .layer = "encoder.layers",
     .top = nomic_top,
     .renames = nomic_bert,
     ENCODER},
};
#define N_FAMILIES (sizeof families / sizeof *families)

lm_status lm_family_of(const lm_gguf *g, const lm_family **out, lm_err *err) {
    lm_str arch = {NULL, 0};
    char key[128];
    uint32_t experts = 0;
    lm_status st = lm_gguf_str(g, "general.architecture", &arch, err);
    if (st != LM_OK) return st;
    if (arch.len == 0) return lm_fail(err, LM_CORRUPT, "the GGUF file names no general.architecture");
    snprintf(key, sizeof key, LM_STR_FMT ".expert_count", LM_STR_ARG(arch));
    st = lm_gguf_u32(g, key, &experts, err);
    if (st != LM_OK) return st;

    lm_buf known;
    lm_buf_init(&known, 400);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const lm_family *f = &families[i];
        if (lm_str_eq(arch, lm_str_of(f->arch)) && f->experts == (experts > 0) &&
            !(f->without && lm_gguf_find(g, f->without))) {
            lm_buf_release(&known);
            *out = f;
            return LM_OK;
        }
        if (i == 0 || strcmp(f->arch, families[i - 1].arch) != 0)
            lm_buf_printf(&known, i ? ", %s" : "%s", f->arch);
    }
    st = lm_fail(err, LM_UNSUPPORTED, "GGUF architecture " LM_STR_FMT "%s is not supported; known are %s",
                 arch.len > 60 ? 60 : (int)arch.len, arch.ptr, experts ? " with experts" : "", known.ptr);
    lm_buf_release(&known);
    return st;
}

lm_status lm_family_for(lm_str arch, const char *model_type, const lm_family **out, lm_err *err) {
    const lm_family *found = NULL;
    bool other = false, same = false;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const lm_family *f = &families[i];
        bool is = lm_str_eq(arch, lm_str_of(f->arch)), type = !strcmp(model_type, f->model_type);
        if (is && (!found || type)) found = f;
        same = same || (is && type);
        other = other || (!is && type);
    }
    if (!found || (other && !same))
        return lm_fail(err, LM_UNSUPPORTED, "GGUF architecture " LM_STR_FMT " is not that of a %s model",
                       arch.len > 60 ? 60 : (int)arch.len, arch.ptr, model_type);
    *out = found;
    return LM_OK;
}

uint64_t lm_family_row(uint32_t heads, uint64_t r, uint64_t rows) {
    if (!heads) return r;
    uint64_t size = rows / heads, half = size / 2;
    uint64_t in = r % size;
    return r - in + 2 * (in % half) + in / half;
}

static const char *renamed(const lm_rename *table, lm_str from) {
    for (; table->from; table++) {
        if (lm_str_eq(from, lm_str_of(table->from))) return table->to;
    }
    return NULL;
}

/* "blk.12.attn_q" -> 12 and "attn_q". */
static bool block_of(lm_str s, uint32_t *block, lm_str *rest) {
    if (!lm_str_starts(s, LM_STR("blk."))) return false;
    size_t i = 4;
    uint32_t n = 0;
    for (; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9' && i < 9; i++)
        n = n * 10 + (uint32_t)(s.ptr[i] - '0');
    if (i == 4 || i >= s.len || s.ptr[i] != '.') return false;
    *block = n;
    *rest = (lm_str){s.ptr + i + 1, s.len - i - 1};
    return true;
}

static lm_status no_place(lm_str tensor, lm_err *err) {
    return lm_fail(err, LM_UNSUPPORTED,
                   "tensor " LM_STR_FMT " has no place in this architecture as it is known here",
                   LM_STR_ARG(tensor));
}

lm_status lm_family_target(const lm_family *f, lm_str tensor, lm_target *out, lm_err *err) {
    lm_str stem = tensor, rest;
    uint32_t block = 0;
    memset(out, 0, sizeof *out);
    if (lm_str_ends(tensor, LM_STR(".weight"))) {
        out->suffix = ".weight";
        stem.len -= 7;
    } else if (lm_str_ends(tensor, LM_STR(".bias"))) {
        out->suffix = ".bias";
        stem.len -= 5;
    } else if (!lm_str_starts(tensor, LM_STR("v.")) && !lm_str_starts(tensor, LM_STR("mm."))) {
        return no_place(tensor, err);
    }
    if (lm_str_eq(stem, LM_STR("rope_freqs")) || lm_str_eq(stem, LM_STR("rope_factors_long")) ||
        lm_str_eq(stem, LM_STR("rope_factors_short"))) {
        out->skip = true; /* config.json says the same */
        return LM_OK;
    }
    if (lm_str_starts(stem, LM_STR("v.")) || lm_str_starts(stem, LM_STR("mm."))) {
        out->skip =
            true; /* the eyes of a model that Ollama packs into one file: its text part is what is imported */
        return LM_OK;
    }
    const char *to = renamed(f->top, stem);
    if (to) {
        snprintf(out->module, sizeof out->module, "%s", to);
        out->is_norm = lm_str_eq(stem, LM_STR("output_norm"));
        return LM_OK;
    }
    if (!block_of(stem, &block, &rest)) return no_place(tensor, err);
    if (lm_str_eq(rest, LM_STR("rope_freqs")) || lm_str_eq(rest, LM_STR("attn_rot_embd"))) {
        out->skip = true; /* per-block copies in old files */
        return LM_OK;
    }
    to = renamed(f->renames, rest);
    if (!to && !f->encoder) to = renamed(common, rest);
    if (!to) return no_place(tensor, err);
    snprintf(out->module, sizeof out->module, "%s.%u.%s", f->layer, block, to);
    out->is_q = lm_str_eq(rest, LM_STR("attn_q"));
    out->is_k = lm_str_eq(rest, LM_STR("attn_k"));
    out->is_norm = lm_str_ends(rest, LM_STR("norm"));
    if (strcmp(to, "self_attn.sinks") == 0) out->suffix = "";
    return LM_OK;
}
