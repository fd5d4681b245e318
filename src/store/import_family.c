/* Families: which Hugging Face model a GGUF architecture is, and what its tensors are called there. The names
 * are those that mlx-lm has after loading, so that nothing is left to rename when the model is opened. */
#include "store/import_private.h"

#include <stdio.h>
#include <string.h>

static const lm_rename dense[] = {{NULL, NULL, 0}};

static const lm_rename mixtral[] = {
    {"ffn_gate_inp", "block_sparse_moe.gate", 0},
    {"ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj", 0},
    {"ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj", 0},
    {"ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj", 0},
    {NULL, NULL, 0},
};

static const lm_rename qwen3moe[] = {
    {"ffn_gate_inp", "mlp.gate", 0},
    {"ffn_gate_exps", "mlp.switch_mlp.gate_proj", 0},
    {"ffn_up_exps", "mlp.switch_mlp.up_proj", 0},
    {"ffn_down_exps", "mlp.switch_mlp.down_proj", 0},
    {NULL, NULL, 0},
};

static const lm_rename phi3[] = {
    {"attn_qkv", "self_attn.qkv_proj", 0}, {"ffn_up", "mlp.gate_up_proj", 0}, {NULL, NULL, 0}};

static const lm_rename gemma[] = {
    {"ffn_norm", "pre_feedforward_layernorm", 0},
    {"post_attention_norm", "post_attention_layernorm", 0},
    {"post_ffw_norm", "post_feedforward_layernorm", 0},
    {NULL, NULL, 0},
};

static const lm_rename olmo2[] = {
    {"post_attention_norm", "post_attention_layernorm", 0},
    {"post_ffw_norm", "post_feedforward_layernorm", 0},
    {NULL, NULL, 0},
};

static const lm_rename gpt_oss[] = {
    {"post_attention_norm", "post_attention_layernorm", 0},
    {"attn_post_norm", "post_attention_layernorm", 0},
    {"attn_sinks", "self_attn.sinks", 0}, /* a bare parameter: see lm_family_targets */
    {"attn_out", "self_attn.o_proj", 0},  /* Ollama's own layout, as the next five */
    {"attn_qkv", "self_attn.q_proj", LM_PORTION_Q},
    {"attn_qkv", "self_attn.k_proj", LM_PORTION_K},
    {"attn_qkv", "self_attn.v_proj", LM_PORTION_V},
    {"ffn_gate_up_exps", "mlp.experts.gate_proj", LM_PORTION_EVEN},
    {"ffn_gate_up_exps", "mlp.experts.up_proj", LM_PORTION_ODD},
    {"ffn_gate_inp", "mlp.router", 0},
    {"ffn_gate_exps", "mlp.experts.gate_proj", 0},
    {"ffn_up_exps", "mlp.experts.up_proj", 0},
    {"ffn_down_exps", "mlp.experts.down_proj", 0},
    {NULL, NULL, 0},
};

static const lm_rename bert[] = {
    {"attn_q", "attention.self.query", 0},
    {"attn_k", "attention.self.key", 0},
    {"attn_v", "attention.self.value", 0},
    {"attn_output", "attention.output.dense", 0},
    {"attn_output_norm", "attention.output.LayerNorm", 0},
    {"ffn_up", "intermediate.dense", 0},
    {"ffn_down", "output.dense", 0},
    {"layer_output_norm", "output.LayerNorm", 0},
    {NULL, NULL, 0},
};

static const lm_rename distilbert[] = {
    {"attn_q", "attention.q_lin", 0},
    {"attn_k", "attention.k_lin", 0},
    {"attn_v", "attention.v_lin", 0},
    {"attn_output", "attention.out_lin", 0},
    {"attn_output_norm", "sa_layer_norm", 0},
    {"ffn_up", "ffn.lin1", 0},
    {"ffn_down", "ffn.lin2", 0},
    {"layer_output_norm", "output_layer_norm", 0},
    {NULL, NULL, 0},
};

static const lm_rename nomic_bert[] = {
    {"attn_qkv", "attn.Wqkv", 0},      {"attn_output", "attn.out_proj", 0},
    {"attn_output_norm", "norm1", 0},  {"ffn_up", "mlp.fc11", 0},
    {"ffn_gate", "mlp.fc12", 0},       {"ffn_down", "mlp.fc2", 0},
    {"layer_output_norm", "norm2", 0}, {NULL, NULL, 0},
};

static const lm_rename decoder_top[] = {
    {"token_embd", "model.embed_tokens", 0},
    {"output_norm", "model.norm", 0},
    {"output", "lm_head", 0},
    {NULL, NULL, 0},
};

static const lm_rename bert_top[] = {
    {"token_embd", "embeddings.word_embeddings", 0},
    {"position_embd", "embeddings.position_embeddings", 0},
    {"token_types", "embeddings.token_type_embeddings", 0},
    {"token_embd_norm", "embeddings.LayerNorm", 0},
    {NULL, NULL, 0},
};

static const lm_rename nomic_top[] = {
    {"token_embd", "embeddings.word_embeddings", 0},
    {"token_types", "embeddings.token_type_embeddings", 0},
    {"token_embd_norm", "emb_ln", 0},
    {NULL, NULL, 0},
};

/* Decoders' blocks. */
static const lm_rename common[] = {
    {"attn_norm", "input_layernorm", 0},    {"attn_q", "self_attn.q_proj", 0},
    {"attn_k", "self_attn.k_proj", 0},      {"attn_v", "self_attn.v_proj", 0},
    {"attn_output", "self_attn.o_proj", 0}, {"attn_q_norm", "self_attn.q_norm", 0},
    {"attn_k_norm", "self_attn.k_norm", 0}, {"ffn_norm", "post_attention_layernorm", 0},
    {"ffn_gate", "mlp.gate_proj", 0},       {"ffn_up", "mlp.up_proj", 0},
    {"ffn_down", "mlp.down_proj", 0},       {NULL, NULL, 0},
};

#define DECODER .layer = "model.layers", .top = decoder_top
#define ENCODER .encoder = true

static const lm_family families[] = {
    {.arch = "llama",
     .model_type = "llama",
     .also = "mistral",
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
    {.arch = "gptoss",
     .model_type = "gpt_oss",
     .class_name = "GptOssForCausalLM",
     DECODER,
     .renames = gpt_oss,
     .experts = true},
    {.arch = "mistral3",
     .model_type = "mistral",
     .class_name = "MistralForCausalLM",
     DECODER,
     .renames = dense,
     .permuted = true},
    {.arch = "qwen2vl", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM", DECODER, .renames = dense},
    {.arch = "qwen25vl", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM", DECODER, .renames = dense},
    {.arch = "qwen3vl", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM", DECODER, .renames = dense},
    {.arch = "qwen3vlmoe",
     .model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     DECODER,
     .renames = qwen3moe,
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
        bool is = lm_str_eq(arch, lm_str_of(f->arch)),
             type = !strcmp(model_type, f->model_type) || (f->also && !strcmp(model_type, f->also));
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

/* "ffn_gate.3" -> "ffn_gate_exps" and 3: before 2024 each expert was a tensor of its own. */
static bool expert_of(lm_str *rest, char name[32], int32_t *expert) {
    static const char *const parts[] = {"ffn_gate.", "ffn_up.", "ffn_down."};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t at = strlen(parts[i]);
        int32_t n = 0;
        if (!lm_str_starts(*rest, lm_str_of(parts[i])) || rest->len == at || rest->len > at + 4) continue;
        if (rest->ptr[at] == '0' && rest->len > at + 1) return false; /* one spelling for each */
        for (size_t k = at; k < rest->len; k++) {
            if (rest->ptr[k] < '0' || rest->ptr[k] > '9') return false;
            n = 10 * n + (rest->ptr[k] - '0');
        }
        int len = snprintf(name, 32, "%.*s_exps", (int)at - 1, parts[i]);
        *rest = (lm_str){name, (size_t)len};
        *expert = n;
        return true;
    }
    return false;
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

/* The tables of a model's turning, which config.json words otherwise; and what eyes need in a file that
 * Ollama packed whole: its text part is what is imported. */
static bool left_out(lm_str stem) {
    static const char *const names[] = {"rope_freqs", "rope_factors_long", "rope_factors_short"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (lm_str_eq(stem, lm_str_of(names[i]))) return true;
    }
    return lm_str_starts(stem, LM_STR("v.")) || lm_str_starts(stem, LM_STR("mm."));
}

/* Every row of `table` for `from`, into out; layer NULL: of no block. */
static void collect(const lm_rename *table, lm_str from, const char *layer, uint32_t block,
                    lm_target out[LM_TARGETS], uint32_t *n) {
    for (; table->from; table++) {
        if (!lm_str_eq(from, lm_str_of(table->from))) continue;
        LM_ASSERT(*n < LM_TARGETS);
        lm_target *t = &out[(*n)++];
        if (layer)
            snprintf(t->module, sizeof t->module, "%s.%u.%s", layer, block, table->to);
        else
            snprintf(t->module, sizeof t->module, "%s", table->to);
        t->portion = table->portion;
    }
}

lm_status lm_family_targets(const lm_family *f, lm_str tensor, lm_target out[LM_TARGETS], uint32_t *n,
                            lm_err *err) {
    lm_str stem = tensor, rest;
    const char *suffix = "";
    uint32_t block = 0;
    int32_t expert = -1;
    char stacked[32];
    memset(out, 0, LM_TARGETS * sizeof *out);
    *n = 0;
    if (lm_str_ends(tensor, LM_STR(".weight")))
        suffix = ".weight";
    else if (lm_str_ends(tensor, LM_STR(".bias")))
        suffix = ".bias";
    stem.len -= strlen(suffix);
    if (left_out(stem)) return LM_OK;
    if (block_of(stem, &block, &rest)) {
        if (lm_str_eq(rest, LM_STR("rope_freqs")) || lm_str_eq(rest, LM_STR("attn_rot_embd")))
            return LM_OK; /* per-block copies in old files */
        if (f->experts) expert_of(&rest, stacked, &expert);
        collect(f->renames, rest, f->layer, block, out, n);
        if (!*n && !f->encoder) collect(common, rest, f->layer, block, out, n);
    } else {
        rest = stem;
        collect(f->top, rest, NULL, 0, out, n);
    }
    for (uint32_t i = 0; i < *n; i++) {
        bool bare = lm_str_ends(lm_str_of(out[i].module), LM_STR("self_attn.sinks"));
        if (!suffix[0] && !bare) *n = 0; /* and so the loop ends */
        out[i].suffix = bare ? "" : suffix;
        out[i].expert = expert;
        out[i].is_q = lm_str_eq(rest, LM_STR("attn_q"));
        out[i].is_k = lm_str_eq(rest, LM_STR("attn_k"));
        out[i].is_norm = lm_str_ends(rest, LM_STR("norm"));
    }
    return *n ? LM_OK : no_place(tensor, err);
}
